"""When a classifier should rather say nothing: a threshold of its confidence, from validation."""

from typing import Any

import numpy as np

from fm_med.finetuning.results import Prediction
from fm_med.tasks import ClassificationTask, Task

Rejection = dict[str, Any]


def rejection(task: Task, prediction: Prediction | None, error: float | None) -> Rejection | None:
    r"""Choose the confidence below which a row is called no class.

    Taken is the threshold that accepts most validation rows with :math:`(k + 1) / (n + 1)` of at
    most `error`, where k of the n accepted rows are wrong. One error is added because few rows
    without an error prove little: an error of .05 needs 19 accepted rows. Where no threshold
    reaches it, everything up to the most confident wrong row is rejected, and `reached` is False.
    The validation rows also chose the epoch, so that the error of new rows may be a little larger.

    Args:
        task: Only of one class per row.
        prediction: Of the validation rows.
        error: Share of wrong rows among the accepted ones that is aimed at; None for no threshold.

    Returns:
        Threshold, aim, whether it was reached, rows, accepted rows and wrong ones among them.

    References:
        Geifman and El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017.
    """
    if error is None or prediction is None or not isinstance(task, ClassificationTask):
        return None
    outputs = prediction.outputs
    confidence = task.confidence(outputs)
    wrong = outputs.argmax(1) != prediction.examples.targets["label"]
    order = np.argsort(-confidence, kind="stable")
    found, errors = confidence[order], np.cumsum(wrong[order])
    accepted = np.arange(1, len(order) + 1)
    last = np.append(found[1:] < found[:-1], True)  # equal confidences are accepted together
    good = np.flatnonzero(last & ((errors + 1) / (accepted + 1) <= error))
    if len(good):
        place = int(good[-1])
    else:
        certain = np.flatnonzero(last & (errors == 0))
        place = int(certain[-1]) if len(certain) else -1
    # Between the last accepted confidence and the next one; above all of them if none is accepted.
    below = found[min(place + 1, len(found) - 1)]
    threshold = (found[place] + below) / 2 if place >= 0 else float(np.nextafter(found[0], 2.0))
    return {
        "threshold": float(threshold),
        "error": error,
        "reached": bool(len(good)),
        "rows": len(order),
        "accepted": place + 1,
        "wrong": int(errors[place]) if place >= 0 else 0,
    }


def describe(found: Rejection) -> str:
    """Return one line on a rejection."""
    seen = (
        f"{found['accepted']} of {found['rows']} validation rows accepted, {found['wrong']} of "
        "them wrong"
    )
    line = f"no class below a confidence of {found['threshold']:.3f}: {seen}"
    if found["reached"]:
        return line
    return (
        f"{line}; they are too few or too often wrong to promise an error of {found['error']:g}, "
        "so that all is rejected up to the most confident wrong one"
    )
