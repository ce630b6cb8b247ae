"""compare-cohort: what differs is named, what does not is not, and nobody is given away."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fitted_models import SIZES, fitted, saved, small_cohort
from joined_cohorts import joined

import fm_med
from fm_med.cli import main
from fm_med.cohort import open_cohort
from fm_med.comparison import compare, summed_up
from fm_med.differences import RowFacts
from fm_med.ecg.processor import EcgProcessor
from fm_med.examples import read_examples
from fm_med.fusion.late_fusion import LateFusionConfig, LateFusionModel
from fm_med.fusion.processor import FusionProcessor
from fm_med.hub import LoadedModel
from fm_med.reference import (
    Reference,
    encoded,
    kept_reference,
    one_per_person,
    quantiles,
    room_facts,
    sample_of,
    shares,
)
from fm_med.sources.join_sides import JoinRules
from fm_med.sources.simulated import make_simulated
from fm_med.tabular.processor import TableProcessor

ORACLE = ("log_hazard_all", "log_hazard_ecg", "log_hazard_findings", "log_hazard_age")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def cohort(place):
    return small_cohort(place / "cohort", subjects=200)


@pytest.fixture(scope="module")
def folder(place, cohort):
    """A saved model whose task.json keeps what the recipe keeps."""
    model = fitted(cohort)
    path = saved(place / "model", model, cohort)
    train = read_examples(cohort, model.task, model.coding, splits=["train"])
    details = json.loads((path / "task.json").read_text())
    details["training"]["persons"] = len(set(train.subject_id))
    details["reference"] = kept_reference(train, model.encoder, model.processor)
    (path / "task.json").write_text(json.dumps(details))
    return path


@pytest.fixture(scope="module")
def model(folder):
    return fm_med.load(folder)


def other(place, name, **settings):
    if (place / name).is_dir():
        return open_cohort(place / name)
    return open_cohort(
        make_simulated(place / name, **{"subjects": 90, "seed": 9, "workers": 1} | settings)
    )


def rows_of(both):
    """Training rows that have a table."""
    table = both.splits["train"]
    return table.filter(table.column("has_tabular"))


def notable(found):
    return {line.topic for line in found if line.state == "attention"}


def test_another_draw_of_the_same_patients_needs_no_attention(model, place):
    found = compare(model, other(place, "same", event_share=0.4))
    assert notable(found) == set()
    topics = {line.topic for line in found}
    assert {"persons", "leads", "units", "age (years)", "sex: female", "embedding"} <= topics
    assert not [line for line in found if line.state == "unknown"]


def test_another_hospital_is_told_apart(model, place):
    found = compare(model, other(place, "hospital", hospital="b", event_share=0.05))
    topics = notable(found)
    assert "event: observed" in topics  # two of five persons have the event in training
    assert "baseline wander (% of power)" in topics
    assert all(line.advice for line in found if line.state == "attention")


def test_another_rate_is_told(model, place):
    found = {line.topic: line for line in compare(model, other(place, "fast", sampling_rate=250))}
    assert found["sampling rate (Hz)"].state == "attention"
    assert found["rate the model reads"].cohort == "250 Hz"
    assert found["rate the model reads"].state == "ok"  # it is resampled


def test_another_share_of_a_label_is_told(model, place):
    kept = model.details["reference"]["shares"]
    before = kept["label: LBBB"]
    kept["label: LBBB"] = (before[0] + 0.3, before[1])
    try:
        found = compare(model, other(place, "same", event_share=0.4))
    finally:
        kept["label: LBBB"] = before
    (line,) = [line for line in found if line.state == "attention"]
    assert line.topic == "label: LBBB" and "recalibrate" in line.advice


def test_a_hidden_share_is_no_difference_to_what_it_may_hide(model, place):
    """Kept as none are 0 to 9 of these persons; what is above is a difference."""
    cohort, kept = other(place, "same", event_share=0.4), model.details["reference"]["shares"]
    before = kept["sex: female"]
    try:
        for known, state in ((20, "ok"), (2000, "attention")):
            kept["sex: female"] = (0.0, known)
            (line,) = [line for line in compare(model, cohort) if line.topic == "sex: female"]
            assert (line.state, line.model) == (state, f"under {10 / known:.1%}")
    finally:
        kept["sex: female"] = before


def test_an_embedding_elsewhere_is_told(model, place):
    cohort = other(place, "same", event_share=0.4)
    kept = model.details["reference"]["embedding"]
    before = list(kept["mean"])
    kept["mean"] = [m + 0.6 * v**0.5 for m, v in zip(before, kept["variance"])]
    try:
        line = compare(model, cohort)[-1]
    finally:
        kept["mean"] = before
    assert line.state == "attention" and "fine-tune it on this cohort" in line.advice


def test_without_aggregates_only_the_form_is_compared(model, place):
    bare = fm_med.load(model.folder)
    bare.details.pop("reference")
    found = compare(bare, other(place, "same", event_share=0.4))
    assert [line.topic for line in found if line.state == "unknown"] == ["persons", "embedding"]
    assert "age (years)" not in {line.topic for line in found}


def test_of_two_modalities_both_are_compared(place, cohort):
    """A row without an ECG, or without a table, tells nothing of it."""
    both = joined(place / "both", cohort.path, JoinRules(drop_first=ORACLE))
    tables = TableProcessor.for_cohort(SimpleNamespace(modality="tabular", name="t"), rows_of(both))
    processor = FusionProcessor(names=["ecg", "tabular"], first=EcgProcessor(), second=tables)
    config = LateFusionConfig(
        first={"model_type": "fm_med_dual_attention", **SIZES},
        second={"model_type": "fm_med_tabm", "hidden_size": 8, **tables.encoder_settings()},
    )
    torch.manual_seed(0)
    fused = LoadedModel(LateFusionModel(config).eval(), processor, None, place)
    fused.details["reference"] = summed_up(fused, both)
    found = {line.topic: line for line in compare(fused, both)}
    assert {line.state for line in found.values()} == {"ok"}
    assert {"leads", "columns", "amplitude (mV)", "embedding"} <= set(found)
    shares = fused.details["reference"]["shares"]
    assert shares["present: ecg"][0] == 1.0 and 0.5 < shares["present: tabular"][0] < 1.0
    column = next(name for name in shares if name.startswith("missing cell: "))
    assert shares[column][1] < shares["absent lead: I"][1]
    rows = read_examples(both, None, splits=["train"])
    absent = ~rows.table(["has_tabular"]).column("has_tabular").to_numpy()
    assert np.isnan(room_facts(rows).yes[column]).tolist() == absent.tolist()


# --------------------------------------------------------------------------------- What is kept


def test_what_is_kept_are_aggregates_of_persons(model, cohort):
    kept = model.details["reference"]
    people = one_per_person(read_examples(cohort, None, splits=["train"]))
    assert kept["persons"] == len(people) == len(set(people.subject_id))
    ages = people.table(["age"]).column("age").to_numpy()
    values, known = kept["quantiles"]["age (years)"]
    assert known == np.isfinite(ages).sum()
    assert values == np.round(np.nanquantile(ages, (0.1, 0.25, 0.5, 0.75, 0.9))).tolist()
    features = encoded(people, model.encoder, model.processor)
    np.testing.assert_allclose(kept["embedding"]["mean"], features.mean(0), rtol=1e-3, atol=1e-4)
    assert Reference.from_dict(kept).embedding["persons"] == len(people)


def test_small_counts_are_kept_as_none():
    rare, common = np.zeros(100), np.ones(100)
    rare[:9], common[:9] = 1, 0
    facts = RowFacts({"rare": rare, "common": common, "ten": (np.arange(100) < 10) * 1.0})
    assert shares(facts, hide=True) == {"rare": (0, 100), "common": (1, 100), "ten": (0.1, 100)}
    assert shares(facts, hide=False)["rare"] == (0.09, 100)


def test_of_few_persons_nothing_is_kept(model, place):
    few = RowFacts({"a": np.r_[np.ones(49), np.full(80, np.nan)]}, {"b": np.arange(49.0)})
    assert shares(few, hide=True) == {} and quantiles(few, hide=True) == {}
    cohort = other(place, "few", subjects=40, event_share=0.4)
    rows = read_examples(cohort, None, splits=["train"])
    assert kept_reference(rows, model.encoder, model.processor) == {}


def test_of_large_rows_fewer_are_read(cohort, monkeypatch):
    people = one_per_person(read_examples(cohort, None, splits=["train"]))
    assert len(sample_of(people)) == len(people) > 60
    size = people.table(rows=np.arange(1)).nbytes
    monkeypatch.setattr("fm_med.reference.MEMORY", 60 * size)
    few = sample_of(people)
    assert len(few) == 60 and {few.row[0], few.row[-1]} == {people.row[0], people.row[-1]}


def test_numbers_are_kept_with_two_digits():
    values = np.linspace(0.12345, 0.98765, 60)
    (kept, known) = quantiles(RowFacts(numbers={"x": values}), hide=True)["x"]
    assert known == 60 and kept == [0.21, 0.34, 0.56, 0.77, 0.9]
    children = RowFacts(numbers={"age (years)": np.linspace(0.3, 9.4, 60)})
    assert quantiles(children, hide=True)["age (years)"][0] == [1, 3, 5, 7, 8]


# ---------------------------------------------------------------------------------- The command


def test_the_command_prints_a_table_and_succeeds(folder, place, capsys):
    cohort = other(place, "hospital", hospital="b", event_share=0.05)
    assert main(["compare-cohort", str(folder), str(cohort.path)]) == 0
    printed = capsys.readouterr().out
    assert "!!  event: observed" in printed and "    -> " in printed
    assert "deserve attention" in printed.splitlines()[-1]
    assert main(["compare-cohort", str(folder), str(cohort.path), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert {"topic", "model", "cohort", "state", "advice"} == set(lines[0])
    assert sum(line["state"] == "attention" for line in lines) == printed.count("!!  ")


def test_a_model_without_aggregates_is_compared_by_its_training_cohort(model, cohort, place):
    """Of the training split, as the recipe keeps them."""
    assert json.loads(json.dumps(summed_up(model, cohort))) == model.details["reference"]


def test_the_training_cohort_can_be_named(folder, cohort, place, capsys, tmp_path):
    bare = tmp_path / "model"
    shutil.copytree(folder, bare)
    details = json.loads((bare / "task.json").read_text())
    details.pop("reference")
    (bare / "task.json").write_text(json.dumps(details))
    new = str(other(place, "same", event_share=0.4).path)
    assert main(["compare-cohort", str(bare), new]) == 0
    assert "??  embedding" in capsys.readouterr().out
    assert main(["compare-cohort", str(bare), new, "--training", str(cohort.path)]) == 0
    assert "ok  embedding" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["cohort", "model"])
def test_bad_input_is_one_line(folder, cohort, capsys, what):
    given = {"cohort": str(cohort.path), "model": str(folder)} | {what: "/nowhere"}
    assert main(["compare-cohort", given["model"], given["cohort"]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
