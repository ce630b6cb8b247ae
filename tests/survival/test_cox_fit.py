"""Cox fits against R, lifelines, first-order conditions and what must not change them."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.survival.cox_fit import ConvergenceWarning, fit_cox
from fm_med.survival.follow_up import FollowUp
from fm_med.survival.newton import maximise
from fm_med.survival.partial_likelihood import PartialLikelihood
from fm_med.survival.penalty_choice import default_penalties, folds_of

REFERENCE = json.loads((Path(__file__).parent / "reference_cox.json").read_text())


def reference_data():
    column = {k: np.array(REFERENCE[k], float) for k in ("x0", "x1", "x2", "time", "cause")}
    clinical = np.stack([column[k] for k in ("x0", "x1", "x2")], axis=1)
    return clinical, {"time": column["time"], "event": column["cause"] == 1}


def cohort(rows=300, columns=4, seed=0, ticks=10.0, effect=0.5):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, columns)) * np.linspace(0.1, 4, columns) + 3
    slopes = effect * generator.normal(size=columns) / np.linspace(0.1, 4, columns)
    log_hazard = (x - 3) @ slopes
    died = generator.exponential(np.exp(-log_hazard)) * ticks
    left = generator.uniform(0.2, 2, rows) * ticks
    time = np.ceil(np.minimum(died, left))
    return x, {"time": time, "event": died <= left}


def penalised_gradient(fit, x, z, follow_up, **options):
    """First-order conditions on the scale on which the ridge acts, by the naive double loop."""
    standard = (x - fit.mean) / fit.scale
    f = standard @ fit.coefficients + z @ fit.clinical_coefficients
    design = np.concatenate([standard, z], axis=1)
    gradient = np.zeros(design.shape[1])
    time, event = follow_up["time"], follow_up["event"]
    for t in np.unique(time[event]):
        at_risk, dead = time >= t, (time == t) & event
        gradient += design[dead].sum(axis=0)
        for gone in range(dead.sum()):
            share = np.where(dead, 1 - gone / dead.sum(), at_risk * 1.0) * np.exp(f)
            gradient -= share @ design / share.sum()
    gradient[: x.shape[1]] -= fit.penalty * fit.coefficients
    return gradient


@pytest.mark.parametrize("case", REFERENCE["cases"])
def test_equals_r(case):
    clinical, outcome = reference_data()
    names = ("weight", "strata", "entry", "offset")
    given_to = {k: np.array(REFERENCE[k]) for k in names if case[k]}
    fit = fit_cox(None, clinical=clinical, ties=case["ties"], **outcome, **given_to)
    assert fit.clinical_coefficients == pytest.approx(case["coefficients"], rel=1e-9, abs=1e-10)
    assert fit.covariance.ravel() == pytest.approx(case["covariance"], rel=1e-8, abs=1e-12)
    assert fit.log_likelihood == pytest.approx(case["loglik"][1], abs=1e-9)
    assert fit.null_log_likelihood == pytest.approx(case["loglik"][0], abs=1e-9)
    assert fit.converged and not fit.notes
    first = fit.clinical_effects()[0]
    error = math.sqrt(case["covariance"][0])
    assert (first.high - first.low) / 2 == pytest.approx(1.959963985 * error, rel=1e-8)


@pytest.mark.parametrize("case", REFERENCE["ridge"])
def test_a_ridge_with_a_free_covariate_equals_r(case):
    clinical, outcome = reference_data()
    theta = case["theta"][0]
    fit = fit_cox(clinical[:, :2], clinical=clinical[:, 2:], penalty=theta, **outcome)
    found = [*fit.coefficients, *fit.clinical_coefficients]
    assert found == pytest.approx(case["coefficients"], rel=1e-7)


def test_unpenalised_features_are_the_same_fit_as_clinical_covariates():
    x, outcome = cohort()
    free, features = fit_cox(None, clinical=x, **outcome), fit_cox(x, penalty=0, **outcome)
    assert features.coefficients / features.scale == pytest.approx(free.clinical_coefficients)
    assert features.covariance is not None
    scale = np.outer(features.scale, features.scale)
    assert features.covariance / scale == pytest.approx(free.covariance)
    shift = features.log_hazard(x) - free.log_hazard(clinical=x)
    assert shift == pytest.approx(np.full(len(x), shift[0]))


def test_equals_lifelines_with_a_ridge():
    from lifelines import CoxPHFitter

    x, outcome = cohort(rows=200)
    frame = pd.DataFrame((x - x.mean(axis=0)) / x.std(axis=0)).assign(**outcome)
    # Their objective is the mean over rows; they divide by the deviation with n - 1.
    theirs = CoxPHFitter(penalizer=0.05).fit(
        frame, "time", "event", fit_options={"precision": 1e-12}
    )
    fit = fit_cox(x, penalty=0.05 * 200 * 200 / 199, **outcome)
    assert fit.coefficients == pytest.approx(theirs.params_.to_numpy(), abs=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(120, 6), (60, 300)])
@pytest.mark.parametrize("penalty", [0.5, 30.0])
def test_first_order_conditions(rows, columns, penalty):
    x, outcome = cohort(rows, columns, seed=4, effect=0.1)
    z = np.random.default_rng(1).normal(60, 10, (rows, 2))
    fit = fit_cox(x, clinical=z, penalty=penalty, **outcome)
    gradient = penalised_gradient(fit, x, z, outcome)
    gradient[columns:] /= z.std(axis=0)
    assert np.abs(gradient[:columns]).max() < 1e-9
    assert np.abs(gradient[columns:]).max() < 1e-7


@given(
    seed=st.integers(0, 10**6),
    ties=st.sampled_from(["efron", "breslow"]),
    variant=st.sets(st.sampled_from(["weight", "strata", "entry"])),
)
@settings(max_examples=60, deadline=None)
def test_derivatives_equal_differences(seed, ties, variant):
    generator = np.random.default_rng(seed)
    rows = int(generator.integers(3, 40))
    time = generator.integers(1, 9, rows).astype(float)
    event = generator.random(rows) < 0.6
    event[0] = True
    options = {
        "weight": generator.random(rows) + 0.1,
        "strata": generator.integers(0, 3, rows),
        "entry": time - generator.integers(1, 6, rows),
    }
    follow_up = FollowUp.checked(time, event, **{k: options[k] for k in variant})
    design, beta = generator.normal(size=(rows, 3)), generator.normal(size=3)
    at = PartialLikelihood.build(design, follow_up, ties=ties, offset=np.zeros(rows))
    gradient, information = at.value_and_gradient(beta)[1], at.information(beta)
    for column, unit in enumerate(np.eye(3) * 1e-5):
        up, down = at.value_and_gradient(beta + unit), at.value_and_gradient(beta - unit)
        assert (up[0] - down[0]) / 2e-5 == pytest.approx(gradient[column], abs=1e-5)
        assert (down[1] - up[1]) / 2e-5 == pytest.approx(information[column], abs=1e-5)


def test_a_weight_of_two_is_a_row_twice():
    x, outcome = cohort(rows=80)
    weight = np.random.default_rng(0).integers(0, 3, 80)
    weighted = fit_cox(x, penalty=3.0, weight=weight, ties="breslow", **outcome)
    twice = np.repeat(np.arange(80), weight)
    repeated = fit_cox(
        x[twice], penalty=3.0, ties="breslow", **{k: v[twice] for k, v in outcome.items()}
    )
    assert weighted.coefficients == pytest.approx(repeated.coefficients, rel=1e-9)
    assert weighted.mean == pytest.approx(repeated.mean)


@given(seed=st.integers(0, 10**6), shift=st.floats(-1e3, 1e3), factor=st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_units_of_a_column_change_nothing(seed, shift, factor):
    x, outcome = cohort(rows=60, columns=3, seed=seed)
    moved = x * [1, factor, 1] + [0, 0, shift]
    fits = [fit_cox(v, clinical=v[:, :1], penalty=2.0, **outcome) for v in (x, moved)]
    hazards = [f.log_hazard(v, v[:, :1]) for f, v in zip(fits, (x, moved))]
    assert hazards[0] - hazards[0].mean() == pytest.approx(hazards[1] - hazards[1].mean(), abs=1e-6)


def test_many_columns_are_fitted_exactly():
    """p > n goes through a rotation; the same columns among fewer rows do not."""
    x, outcome = cohort(rows=40, columns=39, seed=2, effect=0.1)
    wide = np.concatenate([x, np.zeros((40, 30))], axis=1)
    narrow_fit, wide_fit = (fit_cox(v, penalty=5.0, **outcome) for v in (x, wide))
    assert wide_fit.coefficients[:39] == pytest.approx(narrow_fit.coefficients, abs=1e-10)
    assert not wide_fit.coefficients[39:].any()


def test_a_useless_block_is_left_out_and_a_useful_one_kept():
    generator = np.random.default_rng(5)
    age = generator.normal(60, 10, 400)
    x = generator.normal(size=(400, 60))
    for slope, kept in ((0.0, False), (1.0, True)):
        died = generator.exponential(np.exp(-0.05 * (age - 60) - slope * x[:, 0])) * 20
        fit = fit_cox(x, clinical=age[:, None], time=np.minimum(died, 9), event=died < 9)
        reach = np.abs(fit.coefficients).max(initial=0)
        assert (reach > 0.1) == kept
        assert fit.clinical_coefficients[0] == pytest.approx(0.05, abs=0.03)
        assert fit.penalty in fit.scores and math.inf in fit.scores


def test_weak_penalties_are_tried_only_where_events_outnumber_columns():
    assert default_penalties(0, 9) == (math.inf,)
    few, many = default_penalties(100, 30), default_penalties(100, 300)
    assert min(few) == 100 and min(many) == 1 and math.inf in few and math.inf in many
    assert set(few) < set(many)


def test_subjects_stay_together_and_events_are_spread():
    generator = np.random.default_rng(0)
    subject = generator.integers(0, 90, 300)
    event = np.isin(subject, np.arange(0, 90, 9)) & (generator.random(300) < 0.8)
    fold = folds_of(subject.astype(str), event, 5)
    assert all(len(set(fold[subject == s])) == 1 for s in set(subject))
    with_event = [len(set(subject[event & (fold == k)])) for k in range(5)]
    assert max(with_event) - min(with_event) <= 1
    sizes = [len(set(subject[fold == k])) for k in range(5)]
    assert max(sizes) - min(sizes) <= 1


def test_scores_are_what_held_out_rows_add():
    """By fits of the remaining rows alone, and the likelihood with and without the others."""
    x, outcome = cohort(rows=90, columns=3)
    subject = np.arange(90) // 2
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    fit = fit_cox(standard, penalty=[4.0, 50.0], subject_id=subject, **outcome)
    fold = folds_of(subject, outcome["event"], 10)
    follow_up = FollowUp.checked(**outcome)

    def likelihood(rows):
        offset = np.zeros(rows.sum())
        part = follow_up.rows(rows)
        return PartialLikelihood.build(standard[rows], part, ties="efron", offset=offset)

    for penalty, score in fit.scores.items():
        total = 0.0
        for number in range(10):
            rest = fold != number
            at = likelihood(rest)
            best = maximise(at, np.full(3, penalty)).coefficients
            total += likelihood(rest | True).log_likelihood(best) - at.log_likelihood(best)
        assert score == pytest.approx(total, abs=1e-4)
    assert fit.penalty == max(fit.scores, key=fit.scores.get)


def test_separation_is_told_and_finite():
    x, outcome = cohort(rows=120, columns=1)
    never = np.where(outcome["event"], 0.0, np.arange(120) % 2)
    clinical = np.stack([x[:, 0], never], axis=1)
    with pytest.warns(ConvergenceWarning, match="clinical column 1 separates the events"):
        fit = fit_cox(None, clinical=clinical, **outcome)
    assert fit.covariance is None and fit.converged
    assert -20 < fit.clinical_coefficients[1] < -2
    assert math.isnan(fit.clinical_effects()[0].low)


def test_dependent_columns_are_told_and_left_out():
    x, outcome = cohort(columns=2)
    clinical = np.column_stack([x[:, 0], np.ones(len(x)), 2 * x[:, 0] + 1, x[:, 1]])
    with pytest.warns(ConvergenceWarning, match="depends on earlier columns"):
        fit = fit_cox(None, clinical=clinical, **outcome)
    alone = fit_cox(None, clinical=x, **outcome)
    assert fit.clinical_coefficients[[0, 3]] == pytest.approx(alone.clinical_coefficients)
    assert not fit.clinical_coefficients[[1, 2]].any()
    assert len(fit.notes) == 2 and np.isnan(fit.covariance[1, 1])


def test_a_constant_feature_gets_no_weight():
    x, outcome = cohort(columns=2)
    fit = fit_cox(np.column_stack([x, np.full(len(x), 7.0)]), penalty=1.0, **outcome)
    assert fit.coefficients[2] == 0 and np.isfinite(fit.log_hazard(np.zeros((1, 3)))).all()


def test_an_offset_is_a_known_part():
    x, outcome = cohort(columns=2)
    both = fit_cox(None, clinical=x, **outcome)
    known = x[:, 1] * both.clinical_coefficients[1]
    rest = fit_cox(None, clinical=x[:, :1], offset=known, **outcome)
    assert rest.clinical_coefficients[0] == pytest.approx(both.clinical_coefficients[0], rel=1e-9)


def test_strong_effects_and_few_events_converge_without_a_word():
    x, outcome = cohort(rows=100, columns=3, effect=4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_cox(x, penalty=1e-3, **outcome).converged
        two = np.zeros(100, dtype=bool)
        two[[3, 50]] = True
        assert fit_cox(x, time=outcome["time"], event=two).converged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": np.zeros(30, bool)}, "none of 30 rows has one"),
        ({"time": np.full(30, np.nan)}, "time must be finite"),
        ({"event": np.full(30, 2)}, "event must be 0 or 1"),
        ({"features": np.full((30, 2), np.nan)}, "column 0 has 30 values"),
        ({"features": np.zeros((29, 2))}, r"features must be \(30, columns\)"),
        ({"clinical": np.zeros(30)}, r"clinical must be \(30, columns\)"),
        ({"weight": np.full(30, -1.0)}, "weight must be >= 0"),
        ({"entry": np.full(30, 1e3)}, "entry must be before time"),
        ({"penalty": -1.0}, "penalty must be >= 0"),
        ({"penalty": []}, "penalty must be >= 0"),
        ({"ties": "exact"}, "ties must be"),
        ({"subject_id": np.zeros(3)}, "subject_id must be"),
        ({"subject_id": np.zeros(30)}, "needs events in 2 subjects"),
    ],
)
def test_bad_input(change, message):
    x, outcome = cohort(rows=30, columns=2)
    with pytest.raises(InputError, match=message):
        fit_cox(**({"features": x} | outcome | change))


def test_another_number_of_columns_is_refused():
    x, outcome = cohort(columns=2)
    fit = fit_cox(x, clinical=x[:, :1], penalty=1.0, **outcome)
    with pytest.raises(InputError, match="clinical must have 1 columns"):
        fit.log_hazard(x)
    with pytest.raises(InputError, match="features must have 2 columns"):
        fit.log_hazard(x[:, :1], x[:, :1])


def test_many_free_columns_that_separate_are_told_without_numerical_warnings():
    x, outcome = cohort(rows=60, columns=55, effect=0.1)
    with pytest.warns(ConvergenceWarning, match="separates|standard errors before"):
        fit = fit_cox(x, penalty=0.0, **outcome)
    assert np.isfinite(fit.coefficients).all()
