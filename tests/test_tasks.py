"""Tasks: targets as they are, each bad one refused by name, losses that learn."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from fm_med.cohort import CohortCard
from fm_med.errors import InputError
from fm_med.objectives import bce_loss, cox_loss, focal_loss
from fm_med.tasks import TASKS, make_task, task_from_dict

FOLLOW_UP = {
    "time": [1.0, 2.0, 0.0, 4.0, 5.0, 6.0],
    "event": [True, False, False, True, False, True],
}


def cohort(train, test=None, **card):
    """A cohort in memory: columns by name."""
    stated = {"follow_up_unit": "months", "time": "time", "event": "event"} | card
    splits = {}
    for name, columns in (("train", train), ("test", test or train)):
        rows = len(next(iter(columns.values())))
        ids = {"record_id": [f"{name}{row}" for row in range(rows)]}
        splits[name] = pa.table({**ids, **columns})

    def column(split, name):
        if name not in splits[split].column_names:
            raise InputError(f"no column {name!r}")
        values = splits[split].column(name)
        if pa.types.is_string(values.type):
            return values.to_pylist()
        if pa.types.is_boolean(values.type) and values.null_count:
            values = values.cast(pa.uint8()).cast(pa.float32())
        return values.to_numpy()

    return SimpleNamespace(
        path="folder",
        card=CohortCard(name="c", modality="ecg", units="mV", **stated),
        splits=splits,
        column=column,
    )


def tensors(values):
    return {name: torch.as_tensor(np.asarray(value)) for name, value in values.items()}


CAUSES = {
    "time": [1.0, 2.0, 0.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    "cause": ["heart", "death", None, "heart", None, "death", "heart", None],
}
EXAMPLES = {
    "survival": (cohort(FOLLOW_UP), {}),
    "discrete_time": (cohort(FOLLOW_UP), {}),
    "competing_risks": (cohort(CAUSES), {}),
    "multilabel": (
        cohort({"A": [True, False, None, True], "B": [False, False, True, False]}),
        {"columns": ["A", "B"]},
    ),
    "classification": (cohort({"label": ["b", "a", None, "b"]}), {}),
    "regression": (cohort({"target": [1.0, 2.0, None, 6.0]}), {}),
}
every_task = pytest.mark.parametrize("name", TASKS)


def test_every_task_has_an_example():
    assert set(EXAMPLES) == set(TASKS)


@every_task
def test_a_task_comes_back_from_its_json(name):
    where, settings = EXAMPLES[name]
    task = make_task(name, where, **settings)
    assert task_from_dict(task.to_dict()) == task
    for loss in task.losses:
        other = make_task(name, where, loss=loss, **settings)
        assert other.loss_name == loss and (other == task) == (loss == task.losses[0])


@every_task
def test_a_few_steps_make_loss_and_scores_better(name):
    where, settings = EXAMPLES[name]
    for loss in TASKS[name].losses:
        task = make_task(name, where, loss=loss, **settings)
        targets = task.targets(where, "train")
        keep = task.usable(targets)
        targets = {key: value[keep] for key, value in targets.items()}
        task = task.fitted(targets)
        shape = (int(keep.sum()),) if task.squeeze else (int(keep.sum()), task.outputs)
        output = torch.zeros(shape, requires_grad=True)
        before = task.scores(output.detach().numpy(), targets)
        assert set(before) >= set(task.score_names)
        optimizer = torch.optim.Adam([output], lr=0.3)
        for _ in range(60):
            optimizer.zero_grad()
            task.loss({task.output_name: output}, tensors(targets)).backward()
            optimizer.step()
        after = task.scores(output.detach().numpy(), targets)
        assert after["validation_loss"] < before["validation_loss"]
        for score in task.higher_is_better & set(after):
            assert after[score] > before[score] or after[score] == pytest.approx(1)
        assert len(task.strata(targets)) == keep.sum()


def test_survival_reads_the_cards_columns_and_leaves_out_follow_ups_of_length_zero():
    where = EXAMPLES["survival"][0]
    task = make_task("survival", where, time_unit="months")
    assert (task.columns, task.unit, task.horizons) == (("time", "event"), "months", (12, 36, 60))
    targets = task.targets(where, "train")
    assert targets["time"].dtype == np.float64 and targets["event"].dtype == bool
    assert task.usable(targets).tolist() == [True, True, False, True, True, True]
    log_hazard = torch.linspace(-1, 1, 6)
    expected = cox_loss(log_hazard, **tensors(targets), ties="breslow")
    breslow = dataclasses.replace(task, loss_name="breslow")
    assert torch.equal(breslow.loss({"log_hazard": log_hazard}, tensors(targets)), expected)


def changed(**columns):
    return cohort({**FOLLOW_UP, **columns})


BAD_FOLLOW_UP = {
    "negative": (changed(time=[1.0, -2.0, 1, 1, 1, 1]), "'time' is negative in 1 row.*train1"),
    "missing": (changed(time=[1.0, None, 1, 1, 1, 1]), "'time' is missing or not finite"),
    "infinite": (changed(time=[float("inf"), 1, 1, 1, 1, 1]), "'time' is missing or not finite"),
    "half an event": (changed(event=[0.0, 0.5, 1, 1, 0, 0]), "neither true nor false"),
    "unknown event": (changed(event=[True, None, True, False, True, True]), "neither true"),
    "words": (changed(event=["yes", "no", "no", "no", "no", "no"]), "holds no numbers"),
}


@pytest.mark.parametrize("case", BAD_FOLLOW_UP)
def test_a_bad_follow_up_is_refused(case):
    where, message = BAD_FOLLOW_UP[case]
    with pytest.raises(InputError, match=message):
        make_task("survival", where).targets(where, "train")


def test_rows_with_null_in_time_and_event_have_no_follow_up():
    follow_up = {"time": [1.0, None, 3.0], "event": [False, None, True]}
    where = cohort(follow_up)
    task = make_task("survival", where)
    targets = task.targets(where, "train")
    assert task.usable(targets).tolist() == [True, False, True]
    assert targets["event"].tolist() == [False, False, True]
    for column in follow_up:  # null in one of them only is a fault
        half = cohort({**follow_up, column: [1.0, 0.0, 3.0] if column == "time" else [True] * 3})
        with pytest.raises(InputError, match=r"in 1 row\(s\), first in train1"):
            task.targets(half, "train")


@pytest.mark.parametrize(
    ("event", "message"),
    [([False] * 6, "has no events: 'event' is false in all 6"), ([True] * 6, "nothing but events")],
)
def test_nobody_or_everybody_with_an_event_is_refused(event, message):
    where = changed(event=event)
    task = make_task("survival", where)
    with pytest.raises(InputError, match=message):
        task.check(task.targets(where, "train"), "the training split")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("survial", {}, "there is no task"),
        ("survival", {"loss": "bce"}, "has no loss 'bce'"),
        ("survival", {"time_unit": "days"}, "in months by its card, but --time_unit says days"),
        ("survival", {"time_unit": "moons"}, "time_unit is 'moons'"),
        ("survival", {"columns": ["time"]}, "two target columns"),
        ("multilabel", {}, "no label set"),
        ("classification", {"columns": ["a", "b"]}, "one target column"),
    ],
)
def test_what_cannot_be_a_task_is_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        make_task(name, EXAMPLES["survival"][0], **settings)


def test_a_cohort_without_follow_up_has_no_survival_task():
    where = cohort({"x": [1.0]}, follow_up_unit=None, time=None, event=None)
    with pytest.raises(InputError, match="has no follow-up"):
        make_task("survival", where)


def test_labels_of_a_set_and_their_balance():
    columns = {"A": [True] + [False] * 9, "B": [True, False] * 5}
    where = cohort(columns, label_sets={"set": ["A", "B"]})
    task = make_task("multilabel", where)
    assert task == make_task("multilabel", where, columns=["set"])
    targets = task.targets(where, "train")
    assert task.balanced(targets).pos_weight == (9.0, 1.0)
    assert task.strata(targets).tolist() == [1, 0, 2, 0, 2, 0, 2, 0, 2, 0]
    logits = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    label = tensors(targets)["label"]
    weighted = task.balanced(targets).loss({"logits": logits}, {"label": label})
    expected = bce_loss(logits, label=label, pos_weight=torch.tensor([9.0, 1.0]))
    assert torch.equal(weighted, expected)
    focal = make_task("multilabel", where, loss="focal").loss({"logits": logits}, {"label": label})
    assert torch.equal(focal, focal_loss(logits, label=label))
    with pytest.raises(InputError, match="weighs absent labels by itself"):
        make_task("multilabel", where, loss="asymmetric").balanced(targets)


@pytest.mark.parametrize("present", [False, True])
def test_a_label_that_never_changes_is_refused(present):
    where = cohort({"A": [True, False], "B": [present, present]})
    task = make_task("multilabel", where, columns=["A", "B"])
    with pytest.raises(InputError, match=f"{'always' if present else 'never'} present.*: B"):
        task.check(task.targets(where, "train"), "the training split")


def test_classes_are_those_of_the_training_split_numbers_by_size():
    where = cohort({"label": [10, 9, 10, 2]})
    task = make_task("classification", where)
    assert task.classes == ("2", "9", "10")
    assert task.targets(where, "train")["label"].tolist() == [2, 1, 2, 0]
    assert task.balanced(task.targets(where, "train")).class_weight == pytest.approx(
        (4 / 3, 4 / 3, 2 / 3)
    )
    foreign = cohort({"label": ["a", "b"]}, {"label": ["a", "c"]})
    with pytest.raises(InputError, match="that the training split lacks: c"):
        make_task("classification", foreign).targets(foreign, "test")
    with pytest.raises(InputError, match="has 1 class"):
        make_task("classification", cohort({"label": ["a", "a"]}))


def test_the_cards_only_column_of_classes_is_the_default_target():
    columns = {"subtype": ["a", "b", "b"], "sex": ["f", "m", "f"]}
    one = make_task("classification", cohort(columns, classes={"subtype": ["a", "b"]}))
    assert one.columns == ("subtype",)
    two = {"subtype": ["a", "b"], "sex": ["f", "m"]}
    with pytest.raises(InputError, match="choose one of subtype, sex with --target"):
        make_task("classification", cohort(columns, classes=two))
    named = make_task("classification", cohort(columns, classes=two), columns=["sex"])
    assert named.columns == ("sex",)


def test_a_row_below_the_threshold_is_called_no_class():
    task = make_task("classification", cohort({"subtype": ["a", "b"]}), columns=["subtype"])
    logits = np.log([[0.6, 0.4], [0.1, 0.9], [0.75, 0.25]])
    assert task.confidence(logits) == pytest.approx([0.6, 0.9, 0.75])
    found = task.decisions(logits, 0.75 - 1e-9)
    assert found["predicted"].tolist() == ["no confident subtype", "b", "a"]
    assert found["confident"].tolist() == [False, True, True]
    assert task.decisions(logits, None)["predicted"].tolist() == ["a", "b", "a"]


def test_probabilities_are_named_by_class():
    task = make_task("classification", cohort({"label": ["a", "b"]}))
    columns = task.columns_of(np.array([[0.0, np.log(3.0)], [1000.0, 0.0]]))
    assert columns["probability_a"] == pytest.approx([0.25, 1])
    assert columns["probability_b"] == pytest.approx([0.75, 0])
    labels = make_task("multilabel", EXAMPLES["multilabel"][0], columns=["A", "B"])
    assert labels.columns_of(np.array([[0.0, 2.0]]))["probability_A"] == pytest.approx([0.5])


def test_a_number_is_learnt_in_its_own_unit():
    where = cohort({"target": [100.0, 200.0, 300.0]})
    task = make_task("regression", where)
    assert (task.mean, task.scale) == pytest.approx((200, np.std([100, 200, 300])))
    outputs = {"value": torch.tensor([100.0, 200.0, 300.0 + task.scale])}
    loss = task.loss(outputs, tensors(task.targets(where, "train")))
    assert loss.item() == pytest.approx(0.5 / 3)
    with pytest.raises(InputError, match="all the same"):
        make_task("regression", cohort({"target": [1.0, 1.0]}))
    with pytest.raises(InputError, match="no numbers"):
        make_task("regression", cohort({"target": ["a", "b"]}))
    with pytest.raises(InputError, match="for labels and classes"):
        task.balanced(task.targets(where, "train"))
