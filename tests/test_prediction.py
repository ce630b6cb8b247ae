"""Predictions for new patients: right numbers, and a word on whatever is unusual."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from fitted_models import fitted, saved, small_cohort

import fm_med
from fm_med.cli import main
from fm_med.ecg.leads import LEADS
from fm_med.ecg.simulate import simulate
from fm_med.errors import InputError
from fm_med.prediction import predict_cohort, predict_records, predict_table

BATCH = simulate(4, seed=11)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("prediction")


@pytest.fixture(scope="module")
def cohort(place):
    return small_cohort(place / "cohort", subjects=120)


@pytest.fixture(scope="module")
def folder(place, cohort):
    return saved(place / "model", fitted(cohort), cohort)


@pytest.fixture(scope="module")
def model(folder):
    return fm_med.load(folder)


@pytest.fixture(scope="module")
def files(place):
    """Four recordings: whole, without V1-V3, half a second, only noise; and one broken file."""
    signals = [BATCH.signal[0], BATCH.signal[1].copy(), BATCH.signal[2][:, :50]]
    signals[1][6:9] = np.nan
    signals.append(0.02 * np.random.default_rng(0).normal(size=(12, 1000)))
    paths = []
    for number, signal in enumerate(signals):
        path = place / f"ecg{number}.npy"
        np.save(path, signal.astype(np.float32))
        header = {"sampling_rate": 100, "units": "mV", "leads": list(LEADS)}
        path.with_suffix(".json").write_text(json.dumps(header))
        paths.append(path)
    broken = place / "broken.npy"
    broken.write_bytes(b"no array")
    broken.with_suffix(".json").write_text(json.dumps(header))
    return [*paths, broken]


def test_risks_are_those_of_the_loaded_model(model, files):
    found = predict_records(model, files[:2], {"age": [60, 70], "sex": ["female", "male"]})
    recordings = [BATCH.recording(0)]
    alone = model.predict(recordings, clinical={"age": [60], "sex": ["female"]})
    assert found["log_hazard"][0] == pytest.approx(float(alone["log_hazard"][0]), abs=1e-5)
    for name in ("risk_12_months", "risk_36_months"):
        assert found[name][0] == pytest.approx(float(alone[name][0]), abs=1e-5)
        assert (found[f"{name}_low"] < found[name]).all()
        assert (found[name] < found[f"{name}_high"]).all()
    assert (found["risk_12_months"] < found["risk_36_months"]).all()
    assert found["warnings"][0] == ""
    assert found["warnings"][1].startswith("absent leads: V1, V2, V3")


def test_one_bad_file_does_not_cost_the_others(model, files):
    clinical = {"age": [60] * 5, "sex": ["male"] * 5}
    found = predict_records(model, files, clinical)
    assert np.isfinite(found["log_hazard"]).tolist() == [True, True, False, True, False]
    assert "expected at least 2.5 s" in found["problem"][2]
    assert "not an array file" in found["problem"][4]
    assert "no heartbeats were found" in found["warnings"][3]


def test_what_the_training_rows_did_not_have_is_told(model, files):
    unusual = {"age": [60, 250], "sex": [None, "male"]}
    found = predict_records(model, files[:2], unusual)
    assert "sex is missing; the training median" in found["warnings"][0]
    assert "age of 250 is outside the training rows" in found["warnings"][1]
    model.head.features.mean += 1000.0
    try:
        far = predict_records(model, files[:1], {"age": [60], "sex": ["male"]})
    finally:
        model.head.features.mean -= 1000.0
    assert "unlike the training rows" in far["warnings"][0]


def test_nothing_is_guessed(model, files):
    with pytest.raises(InputError, match="needs the clinical column\\(s\\) age, sex"):
        predict_records(model, files)
    with pytest.raises(InputError, match="nothing could be predicted: .*not an array file"):
        predict_records(model, files[4:], {"age": [60], "sex": ["male"]})


def test_a_cohort_gives_what_its_files_would(model, cohort):
    found = predict_cohort(model, cohort.path, "test")
    table = cohort.rows("test", np.arange(5))
    expected = model.predict(table)["log_hazard"]
    np.testing.assert_allclose(found["log_hazard"][:5], expected, atol=1e-5)
    assert len(found["name"]) == cohort.splits["test"].num_rows


def test_a_model_of_something_else_asks_for_a_cohort(tmp_path):
    model = SimpleNamespace(processor=object(), folder="runs/table/model", coding=[])
    (tmp_path / "new.csv").write_text("age\n60\n")
    for ask in (
        lambda: predict_table(model, tmp_path / "new.csv", tmp_path),
        lambda: predict_records(model, [tmp_path / "new.csv"]),
    ):
        with pytest.raises(InputError, match="does not read ECGs: make a cohort of the new rows"):
            ask()


def test_the_command(folder, files, place, capsys):
    table = place / "patients.csv"
    rows = [f"{path.name},{age},female" for path, age in zip(files, (60, 70, 50, 40, 30))]
    table.write_text("\n".join(["file,age,sex", *rows]) + "\n")
    out = place / "out" / "risks.csv"
    words = ["predict", str(folder), "--table", str(table), "--path", "file", "--output", str(out)]
    assert main(words) == 0
    assert "3 of 5 predicted, 2 with a warning" in capsys.readouterr().out
    with out.open() as file:
        read = list(csv.DictReader(file))
    assert [row["name"] for row in read] == [path.name for path in files]
    assert read[4]["log_hazard"] == "nan"
    assert main(words) == 2  # a result is never overwritten
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give the patients by"),
        (("--records", "a.hea", "--cohort", "x"), "give the patients by"),
        (("--cohort", "nowhere"), "no cohort at nowhere"),
        (("--table", "nowhere.csv"), "no table at nowhere.csv"),
        (("--table", "t.csv", "--records", "a", "b"), "--records is one folder, not 2"),
    ],
)
def test_wrong_words_are_one_line(folder, tmp_path, capsys, words, message):
    assert main(["predict", str(folder), "--output", str(tmp_path / "o.csv"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_rows_of_little_confidence_are_called_no_class(place, cohort, files):
    folder = saved(
        place / "classes", fitted(cohort, "classification", clinical=(), columns=["sex"]), cohort
    )
    every = predict_records(fm_med.load(folder), files)
    assert "confident" not in every
    assert set(every["predicted"][[0, 1, 3]]) <= {"female", "male"}
    assert every["predicted"][[2, 4]].tolist() == ["", ""]
    confidence = np.maximum(every["probability_female"], every["probability_male"])[[0, 1, 3]]
    details = json.loads((folder / "task.json").read_text())
    details["rejection"] = {"threshold": float(np.sort(confidence)[1])}
    (folder / "task.json").write_text(json.dumps(details))
    found = predict_records(fm_med.load(folder), files)
    accepted = confidence >= details["rejection"]["threshold"]
    assert accepted.sum() == 2
    assert found["confident"].tolist() == [accepted[0], accepted[1], "", accepted[2], ""]
    called = found["predicted"][[0, 1, 3]]
    assert called[~accepted].tolist() == ["no confident sex"]
    assert (called[accepted] == every["predicted"][[0, 1, 3]][accepted]).all()
    assert (
        main(["predict", str(folder), "--output", f"{place}/c.csv", "--records", *map(str, files)])
        == 0
    )
    with (place / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["confident"] for row in rows} == {"0", "1", ""}
