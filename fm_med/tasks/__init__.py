"""What a model is trained to predict: target columns, objective, and what is watched meanwhile.

A task reads its targets from a cohort, refuses those that cannot be learnt, gives the loss of a
WHOLE batch and the scores of a whole split. It knows nothing of encoders and modalities.
"""

from collections.abc import Sequence
from typing import Any, get_args

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.tasks.competing_risks import CompetingRisksTask
from fm_med.tasks.discrete_time import DiscreteTimeTask
from fm_med.tasks.follow_up import FollowUpTask, Hazard, Unit
from fm_med.tasks.labels import ClassificationTask, MultilabelTask
from fm_med.tasks.regression import RegressionTask
from fm_med.tasks.survival import SurvivalTask
from fm_med.tasks.task import ROW_WEIGHT, Targets, Task, Tensors

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        SurvivalTask,
        DiscreteTimeTask,
        CompetingRisksTask,
        MultilabelTask,
        ClassificationTask,
        RegressionTask,
    )
}


def make_task(
    name: str,
    cohort: Cohort,
    *,
    columns: Sequence[str] | None = None,
    loss: str | None = None,
    time_unit: str | None = None,
) -> Task:
    """Make a task for a cohort.

    Args:
        name: One of `TASKS`.
        cohort: Its card names the follow-up columns and label sets; its training split the classes.
        columns: Target columns, or the name of a label set. Default: the card's follow-up, its
            first label set, its only column of classes, or the column "label" or "target".
        loss: One of the task's `losses`; default: the first.
        time_unit: The unit that the caller expects of the follow-up.

    Raises:
        InputError: No such task, column, loss or follow-up, or another time unit.
    """
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    kind = TASKS[name]
    if loss is not None and loss not in kind.losses:
        raise InputError(f"the task {name} has no loss {loss!r}; it has {', '.join(kind.losses)}")
    if time_unit is not None and time_unit not in get_args(Unit):
        raise InputError(f"time_unit is {time_unit!r}, expected {', '.join(get_args(Unit))}")
    task = kind.of_cohort(cohort, columns, loss or kind.losses[0])
    if time_unit is not None and time_unit != getattr(task, "unit", time_unit):
        raise InputError(
            f"the follow-up of {cohort.path} is in {getattr(task, 'unit', None)} by its card, "
            f"but --time_unit says {time_unit}"
        )
    return task


def task_from_dict(values: dict[str, Any]) -> Task:
    """Rebuild a task from `Task.to_dict`.

    Raises:
        InputError: No such task.
    """
    name = values.get("name")
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if key != "name"
    }
    return TASKS[name](**fields)


__all__ = [
    "ROW_WEIGHT",
    "TASKS",
    "ClassificationTask",
    "CompetingRisksTask",
    "DiscreteTimeTask",
    "FollowUpTask",
    "Hazard",
    "MultilabelTask",
    "RegressionTask",
    "SurvivalTask",
    "Targets",
    "Task",
    "Tensors",
    "make_task",
    "task_from_dict",
]
