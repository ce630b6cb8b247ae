"""Evaluation of discrete time on ECGs and of competing risks: what is computed and what refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fitted_models import fitted, small_cohort

from fm_med.cohort import open_cohort
from fm_med.errors import InputError
from fm_med.evaluation import FittedModel, evaluate_competing, evaluate_survival
from fm_med.evaluation import competing as competing_module
from fm_med.evaluation.fine_gray import FineGray
from fm_med.evaluation.model import predict
from fm_med.evaluation.participants import first_of_each
from fm_med.examples import read_examples
from fm_med.finetuning.linear import fit_head
from fm_med.heads import PredictionHead, PredictionHeadConfig
from fm_med.sources.table import TableColumns, make_table
from fm_med.sources.table_outcomes import OutcomeColumns
from fm_med.survival import breslow_baseline, cumulative_incidence, fit_cox
from fm_med.tabular.encoders import ENCODERS
from fm_med.tabular.processor import TableProcessor
from fm_med.tasks import make_task

# ---------------------------------------------------------------------------------- Fine and Gray


def drawn(rows=800, seed=0):
    random = np.random.default_rng(seed)
    z = random.normal(size=(rows, 2)) * (1, 10) + (0, 60)
    rate = np.exp(np.stack([0.6 * z[:, 0] - 0.5, 0.03 * (z[:, 1] - 60) - 1], 1))
    times = random.exponential(1 / rate)
    censored = random.uniform(0.2, 3, rows)
    cause = np.where(censored < times.min(1), 0, times.argmin(1) + 1)
    return z, np.minimum(times.min(1), censored), cause


def test_without_another_cause_fine_gray_is_cox():
    z, time, cause = drawn()
    own = np.where(cause == 1, 1, 0)
    found = FineGray.fit(z, time=time, cause=own, of=1)
    expected = fit_cox(None, clinical=z, time=time, event=own == 1, ties="breslow")
    np.testing.assert_allclose(
        found.coefficients / found.scale, expected.clinical_coefficients, rtol=1e-4
    )
    log_hazard = expected.log_hazard(clinical=z)
    risk = breslow_baseline(log_hazard, time=time, event=own == 1).risk(log_hazard, 1.0)
    np.testing.assert_allclose(found.incidence(z, 1.0), risk, rtol=1e-4)
    assert not found.incidence(z, 1e-9).any()


def test_without_an_effect_fine_grays_incidence_is_aalen_johansens():
    _, time, cause = drawn()
    observed = cumulative_incidence(time, cause)
    noise = np.random.default_rng(1).normal(size=(800, 1))
    for of in (1, 2):
        fit = FineGray.fit(noise, time=time, cause=cause, of=of)
        for horizon in (0.3, 1.0, 2.0):
            mean = fit.incidence(np.full((1, 1), fit.mean), horizon)[0]
            assert mean == pytest.approx(float(observed.at(horizon, of)), abs=0.01)


# ---------------------------------------------------------------------------- Discrete time on ECGs


@pytest.fixture(scope="module")
def ecg(tmp_path_factory):
    return small_cohort(tmp_path_factory.mktemp("pages") / "ecg", subjects=140)


def test_discrete_time_has_the_page_of_survival_with_single_patients(ecg):
    model = fitted(ecg, "discrete_time")
    found = evaluate_survival(model, ecg, split="test", years=[3], event="death")
    assert {"ibs", "brier_at_3", "calibration_slope"} <= set(found.metrics["model"])
    assert "oracle_gap_closed" in found.metrics["model"]
    titles = [section.title for section in found.sections]
    assert "Single patients" in titles and "Can the risks be believed?" in titles
    columns = found.predictions
    assert "log_cumulative_hazard" in columns and "risk_3_low" not in columns
    test = read_examples(ecg, model.task, model.coding, splits=["test"])
    test = test.take(first_of_each(test.subject_id))
    outputs = predict(model, test)
    np.testing.assert_array_equal(columns["risk_3"], model.baseline.risk(outputs, 36.0))
    score = model.task.ranking(torch.from_numpy(outputs)).numpy()
    np.testing.assert_array_equal(columns["log_cumulative_hazard"], score)


# -------------------------------------------------------------------------------- Competing risks


@pytest.fixture(scope="module")
def competing(tmp_path_factory):
    """A cohort of a table and a model of it: an encoder of random weights, a fitted head."""
    place = tmp_path_factory.mktemp("competing")
    z, time, cause = drawn(500)
    names = np.array(["", "stroke", "death"])[cause]
    sex = np.where(np.arange(500) % 3 == 0, "male", "female")
    lines = ["id,x,age,sex,years,why"]
    lines += [
        f"p{k},{z[k, 0]:.4f},{z[k, 1]:.1f},{sex[k]},{time[k]:.5f},{names[k]}" for k in range(500)
    ]
    (place / "rows.csv").write_text("\n".join(lines) + "\n")
    outcomes = OutcomeColumns(time="years", cause="why", follow_up_unit="years")
    columns = TableColumns(subject="id", outcomes=outcomes)
    path = make_table(
        place / "rows.csv", place / "cohort", columns=columns, fractions=(0.6, 0.0, 0.4)
    )
    cohort = open_cohort(path)
    task = make_task("competing_risks", cohort)
    train = read_examples(cohort, task, splits=["train"])
    processor = TableProcessor.for_cohort(cohort.card, train.table())
    torch.manual_seed(0)
    kind = ENCODERS["tabm"]
    config = kind.config_class(
        num_members=2, hidden_size=8, embedding_size=4, **processor.encoder_settings()
    )
    encoder = kind(config).eval()
    head = PredictionHead(
        PredictionHeadConfig(inputs=config.pooled_size, outputs=2, squeeze=False)
    ).eval()
    model = FittedModel(encoder, head, processor, task)
    with torch.inference_mode():
        inputs = train.inputs(np.arange(len(train)), processor, "cpu")
        features = encoder(**inputs).pooler_output.numpy()
    fit_head(head, task, train, features)
    hazard = task.fit_hazard(predict(model, train), train.targets)
    training = {"events_by_cause": task.events_by_cause(train.targets)}
    return SimpleNamespace(
        cohort=cohort, model=replace(model, baseline=hazard, training=training), place=place
    )


@pytest.fixture(scope="module")
def found(competing):
    return evaluate_competing(
        competing.model, competing.cohort, split="test", years=[0.5, 1, 50], event="the event"
    )


def test_numbers_of_each_cause_are_those_of_its_predictions(competing, found):
    columns = found.predictions
    assert set(found.metrics["model"]) == {"death", "stroke"}
    time, cause = columns["time"], columns["cause"]
    for name in ("death", "stroke"):
        own = found.metrics["model"][name]
        outcome = competing_module.CauseOutcome(
            time, np.where(cause == name, 1, np.where(cause == "", 0, 2)), columns["subject_id"]
        )
        score = competing_module.CauseScore(
            "x",
            columns[f"log_hazard_{name}"][:, None],
            lambda at, name=name: columns[f"risk_{name}_{at:g}"][:, None],
        )
        horizons = competing_module.Horizons({"0.5": 0.5, "1": 1.0}, {}, ())
        # By hand: the cause is number 1, all others are 2.
        assert competing_module.cause_scores(score, outcome, 0, horizons) == own
        assert own["c_index"].value > 0.55
        assert 0.6 < own["observed_expected_at_1"].value < 1.5
    gain = found.metrics["difference"]["age_sex"]["stroke"]["brier_at_1"]
    brier = [found.metrics["model"]["stroke"], found.metrics["baselines"]["age_sex"]["stroke"]]
    assert gain.value == pytest.approx(brier[0]["brier_at_1"].value - brier[1]["brier_at_1"].value)


def test_the_page_tells_each_cause_and_what_was_left_out(found):
    titles = [section.title for section in found.sections]
    for cause in ("Death", "Stroke"):
        for question in ("does it rank patients rightly?", "can the risks be believed?"):
            assert f"{cause}: {question}" in titles
    assert titles[0] == "In short" and titles[-1] == "TRIPOD+AI checklist"
    summary = found.sections[0]
    assert "The first event was death in" in summary.text
    assert any("rarest event" in getattr(part, "text", "") for part in summary.content)
    assert "stroke: The horizon of 50 years was left out" in summary.alert
    assert found.title == "Risk of death or stroke"
    checklist = dict(found.sections[-1].content[0].rows)
    assert "rank patients rightly" in checklist["23 Model performance"]


def test_a_model_without_hazards_ranks_only(competing):
    bare = replace(competing.model, baseline=None)
    found = evaluate_competing(bare, competing.cohort, split="test", years=[1], event="x")
    assert set(found.metrics["model"]["death"]) == {"c_index"}
    assert not any(name.startswith("risk_") for name in found.predictions)
    titles = [section.title for section in found.sections]
    assert "Death: can the risks be believed?" not in titles
    assert "Death: what happened to patients of low and high risk" in titles


def test_follow_up_in_another_unit_is_converted(competing, found):
    source = (competing.place / "rows.csv").read_text().splitlines()
    lines = [source[0]]
    for line in source[1:]:
        cells = line.split(",")
        lines.append(",".join([*cells[:4], f"{365.25 * float(cells[4]):.8f}", cells[5]]))
    (competing.place / "days.csv").write_text("\n".join(lines) + "\n")
    outcomes = OutcomeColumns(time="years", cause="why", follow_up_unit="days")
    path = make_table(
        competing.place / "days.csv",
        competing.place / "days",
        columns=TableColumns(subject="id", outcomes=outcomes),
        fractions=(0.6, 0.0, 0.4),
    )
    again = evaluate_competing(
        competing.model, open_cohort(path), split="test", years=[1], event="x"
    )
    np.testing.assert_allclose(again.predictions["time"], found.predictions["time"], rtol=1e-5)
    one, two = (e.metrics["model"]["stroke"]["brier_at_1"].value for e in (found, again))
    assert one == pytest.approx(two, rel=1e-3)


def test_a_split_without_a_cause_is_refused(competing):
    text = (competing.place / "rows.csv").read_text().replace("stroke", "")
    (competing.place / "none.csv").write_text(text)
    outcomes = OutcomeColumns(time="years", cause="why", follow_up_unit="years")
    path = make_table(
        competing.place / "none.csv",
        competing.place / "none",
        columns=TableColumns(subject="id", outcomes=outcomes),
        fractions=(0.6, 0.0, 0.4),
    )
    with pytest.raises(InputError, match="nobody in the split 'test' has 'stroke'"):
        evaluate_competing(competing.model, open_cohort(path), split="test", years=[1], event="x")
