"""Heads of discrete time and competing risks on cached features find a known truth again."""

import numpy as np
import pytest
import torch
from test_finetuning import WIDTH, head, made

from fm_med import finetuning
from fm_med.finetuning.finishing import baseline_of, head_outputs
from fm_med.finetuning.results import Prediction, prediction_columns, split_metrics
from fm_med.survival import fit_cause_specific
from fm_med.tasks import CompetingRisksTask, DiscreteTimeTask

CAUSES = ("heart", "death")


def two_causes(rows, seed=0):
    """Exponential hazards of two causes, linear in two features and in age; three more are noise.

    Returns:
        Features, examples, log-hazards (rows, 2) and the true incidences at time 1.
    """
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, WIDTH)).astype(np.float32)
    age = random.normal(60, 10, rows)
    truth = np.stack(
        [
            0.9 * features[:, 0] + 0.03 * (age - 60) - 0.3,
            0.7 * features[:, 1] - 0.5 * features[:, 0] - 0.6,
        ],
        axis=1,
    )
    times = random.exponential(np.exp(-truth))
    censored = random.uniform(0.3, 4, rows)
    time = np.minimum(times.min(1), censored)
    cause = np.where(censored < times.min(1), 0, times.argmin(1) + 1)
    targets = {"time": time, "cause": cause, "event": cause > 0}
    total = np.exp(truth).sum(1)
    incidence = np.exp(truth) / total[:, None] * -np.expm1(-total)[:, None]
    return features, made(targets, rows, age[:, None], seed), truth, incidence


@pytest.fixture(scope="module")
def competing():
    features, train, _, _ = two_causes(1500)
    task = CompetingRisksTask(("time", "cause"), CAUSES, "efron", "years").fitted(train.targets)
    fitted = head(2, squeeze=False, clinical=["age"])
    notes = finetuning.fit_head(fitted, task, train, features)
    return task, fitted, notes, train, features


def test_hazards_and_incidences_of_two_causes_are_found_again(competing):
    task, fitted, notes, train, features = competing
    new, test, truth, incidence = two_causes(3000, seed=1)
    found = head_outputs(fitted, new, test)
    for k in range(2):
        assert np.corrcoef(found[:, k], truth[:, k])[0, 1] > 0.97
        assert np.polyfit(truth[:, k], found[:, k], 1)[0] == pytest.approx(1, abs=0.12)
    training = Prediction(train, head_outputs(fitted, features, train))
    hazard, horizons, line = baseline_of(task, training, [1.0, 99.0])
    assert horizons == (1.0,) and "no risk at 99 years" in line
    risk = hazard.incidence(found, 1.0)
    assert np.abs(risk - incidence).mean() < 0.03
    assert (risk >= 0).all() and (risk.sum(1) <= 1).all()
    assert set(notes["penalty"]) == set(CAUSES)


def test_the_head_is_a_cox_fit_of_each_cause(competing):
    _, fitted, notes, train, features = competing
    x = (features - features.mean(0)) / features.std(0)
    z = (train.clinical - train.clinical.mean(0)) / train.clinical.std(0)
    fits = fit_cause_specific(
        x.astype(float),
        time=train.targets["time"],
        cause=train.targets["cause"],
        clinical=z.astype(float),
        subject_id=train.subject_id,
    )
    for k, name in enumerate(CAUSES):
        weight = fitted.output.weight[k].detach().numpy()
        np.testing.assert_allclose(weight, fits[k + 1].coefficients, atol=1e-4)
        clinical = fitted.clinical.weight[k].detach().numpy()
        np.testing.assert_allclose(clinical, fits[k + 1].clinical_coefficients, atol=1e-4)
        assert notes["penalty"][name] == pytest.approx(fits[k + 1].penalty)


def test_metrics_and_columns_of_competing_risks_are_by_cause(competing):
    task, fitted, _, train, features = competing
    outputs = head_outputs(fitted, features, train)
    prediction = Prediction(train, outputs, np.zeros_like(outputs))
    metrics = split_metrics(task, prediction)
    model = metrics["model"]
    assert list(model) == ["c_index", *CAUSES]
    mean = np.mean([model[name]["c_index"].value for name in CAUSES])
    assert model["c_index"].value == pytest.approx(mean)
    assert model["c_index"].low < mean < model["c_index"].high
    for name in CAUSES:
        gain = metrics["difference"]["clinical"][name]["c_index"]
        assert gain.value == pytest.approx(model[name]["c_index"].value - 0.5)
    columns = prediction_columns(task, prediction)
    assert {"time", "event", "cause", "log_hazard_heart", "clinical_log_hazard_death"} <= set(
        columns
    )
    assert set(columns["cause"]) == {"", *CAUSES}


def one_event(rows, seed=0, late=0.8):
    """An event whose log-hazard is .8 of a feature until time 1, and `late` of it afterwards.

    Returns:
        Features, examples and the true risks at times .5 and 2.
    """
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, WIDTH)).astype(np.float32)
    age = random.normal(size=rows)
    early_rate = 0.4 * np.exp(0.8 * features[:, 0] + 0.4 * age)
    late_rate = 0.4 * np.exp(late * features[:, 0] + 0.4 * age)
    drawn = random.exponential(size=rows)  # of the cumulative hazard
    event_time = np.where(
        drawn < early_rate, drawn / early_rate, 1 + (drawn - early_rate) / late_rate
    )
    censored = random.uniform(0.5, 5, rows)
    targets = {"time": np.minimum(event_time, censored), "event": event_time <= censored}
    risks = [-np.expm1(-0.5 * early_rate), -np.expm1(-early_rate - late_rate)]
    return features, made(targets, rows, age[:, None], seed), risks


@pytest.mark.parametrize("late", [0.8, -0.8])
def test_hazards_per_interval_are_found_again(late):
    """Whether they are proportional or an effect reverses."""
    features, train, _ = one_event(1500, late=late)
    task = DiscreteTimeTask(("time", "event"), (), "discrete_time", "years").fitted(train.targets)
    fitted = head(task.outputs, "logits", squeeze=False, clinical=["age"])
    finetuning.fit_head(fitted, task, train, features)
    new, test, risks = one_event(3000, seed=1, late=late)
    outputs = head_outputs(fitted, new, test)
    hazard = task.fit_hazard(outputs, train.targets)
    for time, truth in zip((0.5, 2.0), risks):
        risk = hazard.risk(outputs, time)
        assert np.abs(risk - truth).mean() < 0.04
        assert np.corrcoef(risk, truth)[0, 1] > 0.95
    weight = fitted.output.weight[:, 0].detach().numpy()
    if late > 0:
        assert weight.min() > 0.4
    else:
        assert weight[0] > 0.4 and weight[-1] < -0.2


def test_without_covariates_a_discrete_head_starts_at_the_life_table():
    _, train, _ = one_event(600)
    task = DiscreteTimeTask(("time", "event"), (), "discrete_time", "years").fitted(train.targets)
    fitted = head(task.outputs, "logits", squeeze=False, clinical=["age"])
    finetuning.set_statistics(fitted, train, None)
    finetuning.fit_clinical(fitted, task, train)
    weight = fitted.clinical.weight.detach().numpy()
    assert weight.shape == (task.outputs, 1) and np.ptp(weight) < 0.1 and weight.min() > 0.2
    assert not fitted.output.weight.any() and torch.isfinite(fitted.output.bias).all()
