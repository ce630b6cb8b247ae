"""Discrete time and competing risks as tasks: definitions, truth that is found again, bad input."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tasks import cohort, tensors

from fm_med.cohort import check_cohort, open_cohort
from fm_med.cohort.causes import cause_names, in_order
from fm_med.errors import InputError
from fm_med.objectives import cause_specific_loss, cox_loss, discrete_time_loss
from fm_med.sources.table import TableColumns, make_table
from fm_med.sources.table_outcomes import OutcomeColumns
from fm_med.survival import cumulative_incidence, kaplan_meier
from fm_med.survival.cause_hazards import CauseHazards
from fm_med.survival.concordance import concordance_index
from fm_med.survival.discrete import DiscreteHazard
from fm_med.tasks import make_task, task_from_dict


def follow_up(rows=40, causes=2, seed=0):
    """Random times with ties, and causes 0 to `causes`."""
    random = np.random.default_rng(seed)
    time = np.ceil(random.exponential(10, rows))
    return time, random.integers(0, causes + 1, rows)


# ------------------------------------------------------------------------------- Competing: loss


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 15), causes=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_joint_loss_is_the_sum_of_the_causes_own_likelihoods_over_all_events(
    seed, rows, causes
):
    time, cause = follow_up(rows, causes, seed)
    log_hazard = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(rows, causes)))
    total = 0.0
    for k in range(causes):
        for row in np.flatnonzero(cause == k + 1):
            at_risk = np.exp(log_hazard[time >= time[row], k].numpy())
            total -= log_hazard[row, k].item() - np.log(at_risk.sum())
    expected = total / max(1, (cause > 0).sum())
    found = cause_specific_loss(
        log_hazard, time=torch.tensor(time), cause=torch.tensor(cause), ties="breslow"
    )
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_one_cause_is_cox_and_no_event_is_a_zero_with_a_graph():
    time, cause = follow_up(causes=1)
    log_hazard = torch.randn(40, 1, requires_grad=True)
    expected = cox_loss(log_hazard[:, 0], time=torch.tensor(time), event=torch.tensor(cause > 0))
    found = cause_specific_loss(log_hazard, time=torch.tensor(time), cause=torch.tensor(cause))
    torch.testing.assert_close(found, expected)
    nothing = torch.zeros(40, dtype=torch.int64)
    loss = cause_specific_loss(log_hazard, time=torch.tensor(time), cause=nothing)
    loss.backward()
    assert loss.item() == 0 and not log_hazard.grad.any()


def test_a_cause_that_is_no_column_is_refused():
    for cause, shape in ((3, (2, 2)), (-1, (2, 2)), (1, (2,)), (1, (3, 2))):
        with pytest.raises(InputError):
            cause_specific_loss(
                torch.zeros(shape), time=torch.ones(2), cause=torch.tensor([cause, 0])
            )


# -------------------------------------------------------------------------------- Discrete: risk


def naive_survival(logits, edges, t):
    survival, start = 1.0, 0.0
    for logit, edge in zip(logits, edges):
        free = 1 - 1 / (1 + np.exp(-logit))
        survival *= free ** (np.clip(t - start, 0, edge - start) / (edge - start))
        start = edge
    return survival


@given(
    edges=st.lists(st.integers(1, 20), min_size=1, max_size=6, unique=True),
    times=st.lists(st.floats(0, 25), min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=80, deadline=None)
def test_discrete_survival_is_its_definition(edges, times, seed):
    edges = np.sort(np.array(edges, float))
    logits = np.random.default_rng(seed).normal(0, 3, size=(3, len(edges)))
    hazard = DiscreteHazard(edges, 25.0)
    expected = [[naive_survival(row, edges, t) for t in times] for row in logits]
    np.testing.assert_allclose(hazard.survival(logits, times), expected, rtol=1e-9)
    risk = hazard.risk(logits, times[0])
    assert risk.shape == (3,) and ((risk >= 0) & (risk <= 1)).all()
    stored = DiscreteHazard.from_dict(json.loads(json.dumps(hazard.to_dict())))
    assert np.array_equal(stored.risk(logits, times), hazard.risk(logits, times))


def test_discrete_risks_stop_at_the_follow_up():
    hazard = DiscreteHazard(np.array([1.0, 2.0]), 3.0)
    for times, logits in ((3.1, np.zeros((1, 2))), (-1.0, np.zeros((1, 2))), (1, np.zeros((1, 3)))):
        with pytest.raises(InputError):
            hazard.risk(logits, times)
    with pytest.raises(InputError, match="no follow_up"):
        DiscreteHazard.from_dict({"edges": [1.0]})


def test_without_predictors_discrete_risk_is_kaplan_meier_at_the_edges():
    time, cause = follow_up(400, causes=1)
    where = cohort({"time": time, "event": cause.astype(bool)})
    task = make_task("discrete_time", where)
    targets = task.targets(where, "train")
    task = task.fitted(targets)
    assert len(task.edges) <= 10 and task.edges[-1] == time[cause > 0].max()
    # No one is censored within an interval here, so that the life table is exact.
    event, edges = targets["event"], np.array(task.edges)
    targets["time"] = np.where(
        event, time, np.concatenate([[0], edges])[np.searchsorted(edges, time)]
    )
    bias = torch.zeros(task.outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = task.loss({"logits": bias.expand(400, -1)}, tensors(targets))
        loss.backward()
        return loss

    optimizer.step(closure)
    # Kaplan-Meier of whole intervals: who is censored at an edge was at risk until then.
    grouped = np.where(
        event, edges[np.searchsorted(edges, time).clip(max=len(edges) - 1)], targets["time"]
    )
    curve = kaplan_meier(grouped, event)
    hazard = task.fit_hazard(np.zeros(1), targets)
    found = hazard.survival(bias.detach().numpy()[None], edges)[0]
    np.testing.assert_allclose(found, curve.at(edges), atol=1e-4)


# ------------------------------------------------------------------------------------- The tasks


def test_edges_come_from_the_rows_of_the_fit_alone():
    time = np.arange(1.0, 101)
    where = cohort({"time": time, "event": np.arange(100) % 2 == 0})
    task = make_task("discrete_time", where)
    assert task.edges == ()
    targets = task.targets(where, "train")
    half = {name: values[:50] for name, values in targets.items()}
    assert task.fitted(targets).edges[-1] == 99 and len(task.fitted(targets).edges) == 10
    assert task.fitted(half).edges == (11.0, 21.0, 31.0, 41.0, 49.0)  # 25 events: five each
    exact = {"time": np.array([1.2341, 98.76, 1234.5]), "event": np.ones(3, bool)}
    assert [task.fitted({k: v[[i]] for k, v in exact.items()}).edges for i in range(3)] == [
        (1.24,),
        (98.8,),
        (1240.0,),
    ]
    few = {name: values[:3] for name, values in targets.items()}
    assert len(task.fitted(few).edges) == 1 and not task.fitted(few).squeeze
    fitted = task.fitted(targets)
    assert task_from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    logits = torch.randn(100, 10)
    expected = discrete_time_loss(logits, **tensors(targets), edges=fitted.edges)
    assert torch.equal(fitted.loss({"logits": logits}, tensors(targets)), expected)
    with pytest.raises(InputError, match="intervals need events"):
        task.fitted({"time": time, "event": np.zeros(100, bool)})


def test_discrete_time_ranks_by_the_risk_at_the_last_edge():
    time, cause = follow_up(60, causes=1)
    where = cohort({"time": time, "event": cause.astype(bool)})
    task = make_task("discrete_time", where)
    targets = task.targets(where, "train")
    task = task.fitted(targets)
    outputs = np.random.default_rng(0).normal(-2, 1, (60, task.outputs)).astype(np.float32)
    risk = task.fit_hazard(outputs, targets).risk(outputs, task.edges[-1])
    assert task.scores(outputs, targets)["c_index"] == concordance_index(time, cause > 0, risk)
    score = task.columns_of(outputs)["log_cumulative_hazard"]
    np.testing.assert_allclose(1 - np.exp(-np.exp(score)), risk, rtol=1e-9)


def test_causes_are_read_in_every_way_they_are_written():
    expected = ["2", None, "1", None, None, "10"]
    assert cause_names(np.array([2, 0, 1, 0, 0, 10])) == expected
    assert cause_names(np.array([2, 0, 1, np.nan, 0, 10.0])) == expected
    assert cause_names(["2", "0", "1", None, "Censored", "10"]) == expected
    assert cause_names(["2.0", "0.0", " 1 ", None, "", "10.0"]) == expected
    assert in_order(["death", "10", None, "2", "death"]) == ("2", "10", "death")


def test_competing_risks_read_time_and_cause():
    columns = {"time": [1.0, 2, 0, 4, 5], "cause": ["b", "a", None, "censored", "b"]}
    where = cohort(columns, follow_up_unit="days", event=None)
    task = make_task("competing_risks", where)
    assert task.classes == ("a", "b") and task.columns == ("time", "cause")
    assert task == make_task("competing_risks", where, columns=["time", "cause"])
    targets = task.targets(where, "train")
    assert targets["cause"].tolist() == [2, 1, 0, 0, 2]
    assert targets["event"].tolist() == [True, True, False, False, True]
    assert task.usable(targets).tolist() == [True, True, False, True, True]
    assert task.strata(targets).tolist() == [2, 1, 0, 0, 2] and task.scarce(targets) == 2
    without = cohort({**columns, "time": [1.0, 2, None, 4, 5]})
    assert task.targets(without, "train")["time"][2] == 0  # null in both: no follow-up


BAD_CAUSES = {
    "one cause": ({"cause": ["a", None, "a", None]}, r"has 1 cause\(s\).*\(a\), expected two"),
    "no cause": ({"cause": [0, 0, 0, 0]}, r"has 0 cause\(s\)"),
    "negative": ({"time": [1.0, -2, 3, 4]}, "'time' is negative in 1 row.*train1"),
    "missing": ({"time": [1.0, None, 3, 4]}, "'time' is missing or not finite in 1 row"),
    "all events": ({"cause": ["a", "b", "a", "b"]}, "nothing but events: 'cause' names a cause"),
    "never at risk": ({"time": [0.0, 2, 0, 4], "cause": ["a", "b", None, None]}, "cause.*: a|a;"),
}


@pytest.mark.parametrize("case", BAD_CAUSES)
def test_bad_causes_are_refused(case):
    columns, message = BAD_CAUSES[case]
    where = cohort({"time": [1.0, 2, 3, 4], "cause": ["a", "b", None, None], **columns})
    with pytest.raises(InputError, match=message):
        task = make_task("competing_risks", where)
        targets = task.targets(where, "train")
        keep = task.usable(targets)
        task.check({name: values[keep] for name, values in targets.items()}, "the training split")


def test_other_bad_input_of_competing_risks():
    good = {"time": [1.0, 2, 3], "cause": ["a", "b", None]}
    foreign = cohort(good, {"time": [1.0, 2], "cause": ["a", "c"]})
    task = make_task("competing_risks", foreign)
    with pytest.raises(InputError, match="'test'.*the training split lacks: c"):
        task.targets(foreign, "test")
    with pytest.raises(InputError, match="two target columns, time and cause, not 1"):
        make_task("competing_risks", foreign, columns=["time"])
    with pytest.raises(InputError, match="no column 'cause'"):
        make_task("competing_risks", cohort({"time": [1.0]}))
    with pytest.raises(InputError, match="has no follow-up"):
        make_task("competing_risks", cohort(good, follow_up_unit=None, time=None, event=None))
    with pytest.raises(InputError, match="in months by its card"):
        make_task("competing_risks", foreign, time_unit="days")
    only_a = {name: values[:1] for name, values in task.targets(foreign, "train").items()}
    with pytest.raises(InputError, match=r"no event of the cause\(s\) b.*fewer folds"):
        task.fitted(only_a)
    with pytest.raises(InputError, match="needs no balance"):
        task.balanced(only_a)


def test_c_index_is_the_mean_over_causes_and_each_has_its_own():
    time, cause = follow_up(80)
    where = cohort({"time": time, "cause": cause})
    task = make_task("competing_risks", where)
    targets = task.targets(where, "train")
    outputs = np.random.default_rng(1).normal(size=(80, 2)).astype(np.float32)
    scores = task.scores(outputs, targets)
    each = [concordance_index(time, cause == k + 1, outputs[:, k]) for k in range(2)]
    assert [scores["c_index_1"], scores["c_index_2"]] == each
    assert scores["c_index"] == pytest.approx(np.mean(each))
    one = {**targets, "cause": np.where(cause == 1, 1, 0)}
    assert task.scores(outputs, one)["c_index"] == each[0]
    nobody = {**targets, "cause": cause * 0, "event": cause < 0}
    assert np.isnan(task.scores(outputs, nobody)["validation_loss"])


# ------------------------------------------------------------------------ Competing: absolute risk


def test_incidences_without_predictors_are_aalen_johansens_and_survive_json():
    random = np.random.default_rng(3)
    time, cause = random.exponential(10, 500), random.integers(0, 3, 500)
    hazards = CauseHazards.fit(np.zeros((500, 2)), time=time, cause=cause, causes=("a", "b"))
    observed = cumulative_incidence(time, cause)
    for horizon in (2.0, 10.0, 20.0):
        found = hazards.incidence(np.zeros((3, 2)), horizon)
        expected = [observed.at(horizon, k) for k in (1, 2)]
        # exp(-dH) against 1 - dH: apart by the square of a step.
        np.testing.assert_allclose(found[0], expected, atol=3e-3)
    again = CauseHazards.from_dict(json.loads(json.dumps(hazards.to_dict())))
    f = random.normal(size=(7, 2))
    assert again.causes == ("a", "b") and again.follow_up == time.max()
    assert np.array_equal(again.incidence(f, 9.0), hazards.incidence(f, 9.0))
    with pytest.raises(InputError, match="one column per cause"):
        hazards.incidence(np.zeros((3, 1)), 2.0)
    with pytest.raises(InputError, match="have no causes"):
        CauseHazards.from_dict({})


@given(seed=st.integers(0, 10**6), spread=st.floats(0, 20), horizon=st.floats(0.1, 1))
@settings(max_examples=40, deadline=None)
def test_incidences_are_probabilities_that_sum_to_one_at_most(seed, spread, horizon):
    time, cause = follow_up(60, seed=seed)
    cause[:2] = 1, 2
    random = np.random.default_rng(seed)
    fitted = random.normal(size=(60, 2))
    hazards = CauseHazards.fit(fitted, time=time, cause=cause, causes=("a", "b"))
    found = hazards.incidence(random.normal(0, spread, size=(20, 2)), horizon * time.max())
    assert (found >= 0).all() and (found.sum(1) <= 1 + 1e-12).all()


def test_hazards_of_other_causes_are_refused():
    time, cause = follow_up(60)
    where = cohort({"time": time, "cause": cause})
    task = make_task("competing_risks", where)
    targets = task.targets(where, "train")
    hazard = task.fit_hazard(np.zeros((60, 2)), targets)
    assert task.hazard_from(hazard.to_dict()).causes == ("1", "2")
    columns = task.risk_columns(hazard, np.zeros((4, 2)), (3.0, 6.0))
    assert list(columns) == [f"risk_{k}_{h}_months" for h in (3, 6) for k in (1, 2)]
    with pytest.raises(InputError, match="the task's causes are a, b"):
        dataclasses.replace(task, classes=("a", "b")).hazard_from(hazard.to_dict())


# ------------------------------------------------------------------------- Cohorts with causes


def table(folder, rows):
    path = folder / "rows.csv"
    path.write_text("\n".join(["id,x,months,died,why", *(",".join(row) for row in rows)]) + "\n")
    return path


ROWS = [
    ("a", "1", "3", "1", "heart"),
    ("b", "2", "4", "1", "other"),
    ("c", "3", "5", "0", ""),
    ("d", "4", "6", "0", "0"),
    ("e", "5", "", "", ""),
]


def made(folder, rows=ROWS, **outcomes):
    columns = TableColumns(
        subject="id",
        inputs=("x",),
        outcomes=OutcomeColumns(time="months", follow_up_unit="months", **outcomes),
    )
    folder.mkdir(exist_ok=True)
    source = table(folder, rows)
    return open_cohort(
        make_table(source, folder / "cohort", columns=columns, fractions=(1.0, 0.0, 0.0))
    )


@pytest.mark.parametrize("event", [None, "died"])
def test_a_table_keeps_causes(tmp_path, event):
    found = made(tmp_path, event=event, cause="why")
    assert found.column("train", "cause") == ["heart", "other", None, None]
    assert found.column("train", "event").tolist() == [True, True, False, False]
    assert check_cohort(found.path) == []
    task = make_task("competing_risks", found)
    assert task.targets(found, "train")["cause"].tolist() == [1, 2, 0, 0]
    assert (tmp_path / "cohort" / "skipped.csv").read_text().count("without follow-up") == 1


def test_causes_and_events_that_contradict_each_other_are_refused(tmp_path):
    without = [("a", "1", "3", "1", ""), *ROWS[1:]]
    with pytest.raises(InputError, match="'died' is true, but no 'why' in row 1"):
        made(tmp_path / "a", without, event="died", cause="why")
    with pytest.raises(InputError, match="'died' is not true, but 'why' in row 1"):
        made(tmp_path / "b", [("a", "1", "3", "0", "heart"), *ROWS[1:]], event="died", cause="why")
    with pytest.raises(InputError, match="a time column and an event column, or causes"):
        made(tmp_path / "c")
