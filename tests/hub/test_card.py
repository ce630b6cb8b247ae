"""The card says what a reader needs, in aggregates, and names no person and no place."""

import json

import pytest
import yaml
from hub_models import adapted, pretrained
from huggingface_hub import ModelCard

from fm_med import cli
from fm_med.cohort import open_cohort
from fm_med.errors import InputError
from fm_med.hub.card import model_card, write_card
from fm_med.hub.card_facts import Leaf, figure_of
from fm_med.hub.card_names import place_of
from fm_med.hub.cohort_facts import cohort_facts, quartiles, share, shown
from fm_med.hub.traces import Traces, find_traces
from fm_med.report.calibration_drawing import CALIBRATION_FILE
from fm_med.sources.simulated import make_simulated


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("card")
    cohort = open_cohort(make_simulated(home / "cohort", subjects=150, seed=4, workers=1))
    encoder = pretrained(home / "pretrain")
    return encoder, adapted(home / "risk", encoder, cohort), cohort


@pytest.fixture(scope="module")
def risk_card(made):
    return model_card(made[1], name="clinic/risk", cohort=made[2], license="apache-2.0")


def test_the_header_is_what_the_hub_reads(risk_card):
    data = ModelCard(risk_card).data
    assert data.license == "apache-2.0" and data.library_name == "fm_med"
    assert {"fm_med", "ecg", "survival"} <= set(data.tags) and data.language == ["en", "de"]
    assert data.base_model is None  # a folder at home is nobody's base
    result, folds = data.eval_results  # no baselines, no result on nine persons
    assert folds.metric_value == 0.69
    assert (result.metric_type, result.metric_value) == ("c_index", 0.71)
    assert result.metric_name == "C-index (N=500, 95% interval 0.650 to 0.770)"
    assert result.dataset_name == "simulated hospital a"


def test_the_page_says_what_matters(risk_card):
    for text in (
        "# risk\n",
        "Not a medical device",
        "risk of event (log-hazard, and the risk at 12 months, 36 months)",
        "sampling_rate: 100.0 Hz",
        "leads: I, II, III, aVR",
        "subjects under 40: ",  # and not "under 40 17"
        "it takes age, sex",
        "|  | this model | age and sex | N |",
        "| C-index | 0.710 (0.650 to 0.770) | 0.660 (0.600 to 0.720) | 500 |",
        "| cross validation C-index | 0.690 (0.630 to 0.750) | 0.640 (0.600 to 0.700) | 500 |",
        "| C-index | 0.050 (0.010 to 0.090) | 500 |",
        'predict([read_recording("patient7.hea")], clinical={"age": [63], "sex": ["female"]})',
        "Began with: an encoder kept locally, not stated",
        "Hardware: 1 process on cpu",
        "Precision: float32",
        "Weights trained: lora",
        "Seed: 7",
        "Python 3.11.7, torch 2.13.0",
        'fm_med.load("clinic/risk")',
        "--encoder clinic/risk",
        "Licence of the data: apache-2.0",
    ):
        assert text in risk_card, text


def test_the_page_names_no_person_and_no_place(made, risk_card):
    _, risk, cohort = made
    assert not list(find_traces(risk_card, None, Traces.of(cohort)))
    assert str(risk.parent.parent) not in risk_card and "/tmp" not in risk_card
    assert "0.912" not in risk_card  # a result on nine persons


def test_without_the_cohort_the_model_tells_what_it_knows(made):
    card = model_card(made[1], name="risk")
    assert "- Rows: 300" in card and "- Events: < 10" in card
    assert "Not stated: the training cohort" in model_card(made[0], name="encoder")


def test_an_adapter_says_how_to_put_it_on_its_encoder(made):
    card = model_card(made[1] / "adapter", name="clinic/adapter", base="clinic/encoder@v1")
    data = ModelCard(card).data
    assert (data.base_model, data.base_model_relation) == ("clinic/encoder", "adapter")
    assert 'PeftModel.from_pretrained(encoder, "clinic/adapter")' in card
    assert "--encoder clinic/encoder" in card


def test_an_adapter_without_its_head_has_none_of_its_results(made):
    _, risk, cohort = made
    card = model_card(risk.parent / "adapter", name="x", base="clinic/encoder", cohort=cohort)
    assert "A low-rank adapter for ecg data that turns" in card and "C-index" not in card
    assert "model-index" not in card and "model.embed(" in card
    drawing = risk.parent / "report" / CALIBRATION_FILE
    drawing.touch()
    assert figure_of(risk / "adapter", None) == drawing
    assert figure_of(risk.parent / "adapter", None) is None
    drawing.unlink()


def test_text_model_and_its_licence(made, tmp_path, monkeypatch):
    encoder = pretrained(tmp_path / "run")
    assert "trained on the reports of the training split" in model_card(encoder, name="x")
    settings = {"text_encoder": "org/bert", "text_revision": "abc", "seed": 1}
    (encoder.parent / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Bert\n")
    monkeypatch.setattr(
        "fm_med.hub.card_text.try_to_load_from_cache",
        lambda name, file, revision: str(tmp_path / file),
    )
    card = model_card(encoder, name="x")
    assert "`org/bert`, revision abc" in card and "Licence of the text model: mit" in card
    (encoder.parent / "config.yaml").write_text(yaml.safe_dump({"text_encoder": "/home/a/bert"}))
    assert "kept locally" in (card := model_card(encoder, name="x")) and "/home/a" not in card


def test_a_run_that_is_not_at_hand_leaves_gaps(made, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (folder / name).write_bytes((made[0] / name).read_bytes())
    card = model_card(folder, name="x")
    assert "the run's results were not at hand" in card and "model-index" not in card


def test_the_command_writes_a_card_once(made, capsys):
    encoder = made[0]
    assert cli.main(["card", str(encoder), "--license", "mit"]) == 0
    text = (encoder / "README.md").read_text()
    assert text == model_card(encoder, name="pretrain", license="mit")
    assert cli.main(["card", str(encoder)]) == 2
    assert "exists; say --replace" in capsys.readouterr().err
    assert cli.main(["card", str(encoder), "--replace"]) == 0
    assert "license: unknown" in (encoder / "README.md").read_text()
    with pytest.raises(InputError, match="there is no folder"):
        write_card(encoder / "absent")


# ---------------------------------------------------------------------------------- Small cells


def test_small_cells_are_hidden_and_cannot_be_computed():
    assert shown({"a": 50, "b": 30}) == {"a": "50", "b": "30"}
    # 3 alone would follow from the total, so the smallest other goes, too.
    assert shown({"a": 50, "b": 30, "c": 3}) == {"a": "50", "b": "not shown", "c": "< 10"}
    assert shown({"a": 50, "b": 3}) == {"a": "not shown", "b": "< 10"}
    # Two hidden ones of 1 and 2 are known to be three persons together.
    assert shown({"a": 50, "b": 20, "c": 1, "d": 2})["b"] == "not shown"
    assert shown({"a": 50, "b": 20, "c": 6, "d": 7})["b"] == "20"
    assert share(9, 100) == share(95, 100) == "< 10" and share(20, 80) == "20 (25.0%)"


def test_extremes_are_not_told():
    import numpy as np

    ages = np.concatenate([[17.0, 101.0, np.nan], np.full(40, 60.0)])
    assert quartiles(ages, "years") == "median 60 years (quartiles 60 to 60)"
    assert "not shown" in quartiles(ages[:30], "years")


def test_a_small_cohort_shows_no_small_number(tmp_path):
    import re

    cohort = open_cohort(make_simulated(tmp_path / "cohort", subjects=30, seed=4, workers=1))
    text = "\n".join(cohort_facts(cohort))
    text = re.sub(r"subjects under.*|median.*?\)", "", text)
    numbers = re.findall(r"(?<![\w.<] )(?<![\d.])\b\d+\b(?![.\d%])", text)
    assert "< 10" in text and all(int(number) >= 10 for number in numbers if number != "10")


def test_metrics_of_single_labels_stay_in_the_report(made, tmp_path):
    encoder = pretrained(tmp_path / "run")
    leaf = {"value": 0.9, "low": None, "high": None, "n": 50}
    metrics = {"linear_probe": {"macro_auroc": leaf, "per_label": {"AFIB": leaf}}}
    metrics["linear_probe_random"] = {"macro_auroc": leaf | {"value": 0.7}}
    metrics["empty"] = {"macro_auroc": leaf | {"value": None}}
    (encoder.parent / "report" / "metrics.json").write_text(json.dumps(metrics))
    card = model_card(encoder, name="x")
    [result] = ModelCard(card).data.eval_results
    assert result.metric_value == 0.9 and "AFIB" not in card and "empty" not in card
    assert "| linear probe macro AUROC | 0.900 | 0.700 | 50 |" in card
    assert "Began with: a new `vit1d`" in card


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("model.auroc_at_1", ("value", "this model", "AUROC at 1 year")),
        ("baselines.clinical.brier_at_2.5", ("value", "clinical covariates", "Brier score at 2.5")),
        ("difference.oracle.ibs", ("difference", "known truth (simulation)", "integrated Brier")),
        ("retrieval.recall_at_10", ("value", "this model", "retrieval recall at 10")),
        ("linear_probe.macro_auroc", ("value", "this model", "linear probe macro AUROC")),
        ("linear_probe_random.macro_auroc", ("value", "untrained encoder", "linear probe macro")),
        (
            "difference.linear_probe_random.macro_auroc",
            ("difference", "untrained encoder", "linear probe macro AUROC"),
        ),
        (
            "cross_validation.baselines.age_sex.c_index",
            ("value", "age and sex", "cross validation C-index"),
        ),
        ("causes.stroke.model.auroc_at_3", ("value", "this model", "causes stroke AUROC at 3")),
    ],
)
def test_every_number_has_a_name_that_is_read(path, place):
    path = path.replace("2.5", "2,5").split(".")
    leaf = Leaf(tuple(part.replace(",", ".") for part in path), 0.5, None, None, 50)
    found = place_of(leaf)
    assert (found.table, found.column) == place[:2] and found.row.startswith(place[2])


def test_calibration_and_time_are_on_the_card(made, tmp_path):
    encoder = pretrained(tmp_path / "run")
    environment = encoder.parent / "env.json"
    environment.write_text(json.dumps(json.loads(environment.read_text()) | {"minutes": 72.4}))
    (tmp_path / "evaluated").mkdir()
    leaf = {"value": 1.08, "low": 0.9, "high": 1.3, "n": 50}
    metrics = json.dumps({"model": {"observed_expected_at_1_year": leaf}})
    (tmp_path / "evaluated" / "metrics.json").write_text(metrics)
    words = ["card", str(encoder), "--evaluation", str(tmp_path / "evaluated")]
    assert cli.main(words) == 0
    card = (encoder / "README.md").read_text()
    assert "## Calibration" in card and "| 1 year | 1.080 (0.900 to 1.300) |" in card
    assert "- Time: 72 minutes since its last start" in card and "- Energy: not measured" in card
    with pytest.raises(InputError, match="is no evaluation: it has no metrics.json"):
        write_card(encoder, evaluation=tmp_path, replace=True)
    assert "## Calibration" not in model_card(made[1], name="x")
