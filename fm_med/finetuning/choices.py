"""How much of an encoder is worth training, by how much there is to learn from."""

from typing import Literal

import numpy as np

from fm_med.errors import InputError
from fm_med.examples import Examples
from fm_med.survival.planning import SE_TIMES_ROOT_EVENTS
from fm_med.tasks import FollowUpTask, Task

PeftMethod = Literal["auto", "lora", "dora", "none", "full"]

# Below these, adapters of a pretrained encoder learn the noise: at 32 events end-to-end training
# gave C .55 to .63 where frozen features with a ridge gave .67 to .69.
ENOUGH_EVENTS = 100
ENOUGH_ROWS = 1000
FEW_EVENTS = 10


def choose_method(
    asked: PeftMethod, task: Task, train: Examples, *, is_fresh: bool, has_weights: bool = True
) -> tuple[PeftMethod, str]:
    """Resolve `--peft auto`.

    Args:
        asked: What the user set.
        task: Of the run.
        train: The training rows.
        is_fresh: The encoder is new: if it has weights, they are random.
        has_weights: Whether the encoder has any.

    Returns:
        The method and a line that says why.

    Raises:
        InputError: An encoder without weights is to be trained.
    """
    if not has_weights:
        if asked in ("lora", "dora", "full"):
            raise InputError(f"--peft {asked}: the encoder has no weights, use --peft none")
        return "none", "peft none: the encoder has no weights; a ridge head is fitted on its output"
    if asked != "auto":
        return asked, f"peft {asked}, as asked"
    if is_fresh:
        return "full", "peft full: the encoder is new, so all of it is trained"
    if isinstance(task, FollowUpTask):
        events = int(train.targets["event"].sum())
        if events < ENOUGH_EVENTS:
            return "none", (
                f"peft none: {events} training events; below {ENOUGH_EVENTS} the encoder stays "
                "frozen and a ridge model on its features is fitted (--peft lora trains it)"
            )
        return "lora", f"peft lora: {events} training events, {ENOUGH_EVENTS} are enough"
    if len(train) < ENOUGH_ROWS:
        return "none", (
            f"peft none: {len(train)} training rows; below {ENOUGH_ROWS} the encoder stays frozen "
            "and a ridge model on its features is fitted (--peft lora trains it)"
        )
    return "lora", f"peft lora: {len(train)} training rows, {ENOUGH_ROWS} are enough"


def warn_few_events(task: Task, examples: Examples, folds: int) -> str | None:
    """Return a warning when a fold would be judged on very few events, or None."""
    if not isinstance(task, FollowUpTask) or folds < 2:
        return None
    per_fold = int(examples.targets["event"].sum()) / folds
    if per_fold >= FEW_EVENTS:
        return None
    error = SE_TIMES_ROOT_EVENTS / np.sqrt(max(per_fold, 1))
    return (
        f"warning: about {per_fold:.0f} events per fold, fewer than {FEW_EVENTS}; the C-index of "
        f"one fold then has a standard error near {error:.2f}: read the "
        "interval over all folds, not single folds"
    )
