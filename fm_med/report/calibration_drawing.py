"""One small drawing of how well predictions are calibrated, for a model's card: aggregates only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fm_med.disclosure import MINIMUM
from fm_med.report.figures import SERIES
from fm_med.report.svg import MUTED, drawing, standalone, to_svg

CALIBRATION_FILE = "calibration.svg"


@dataclass(frozen=True)
class CalibrationPoints:
    """Groups of rows with similar predictions.

    Attributes:
        name: What is predicted: "3 years", or a label.
        predicted: (groups,) mean prediction.
        observed: (groups,) observed risk, or share that has the label; NaN where not known.
        rows: (groups,) number of rows.
    """

    name: str
    predicted: np.ndarray
    observed: np.ndarray
    rows: np.ndarray

    def of(self, event: str) -> "CalibrationPoints":
        """Return the same, said to be of one of several events."""
        return replace(self, name=f"{event}, {self.name}")


def calibration_drawing(
    points: Sequence[CalibrationPoints], subject_id: Sequence[str] | np.ndarray
) -> str:
    """Draw observed against predicted risk as an SVG file; "" where nothing may be shown.

    A group that could be of fewer than `MINIMUM` persons is left out: its rows must be ten times
    the most that one person has.

    Args:
        points: At most as many are drawn as can be told apart.
        subject_id: (rows,) whose the rows are.
    """
    fewest = MINIMUM * int(np.unique(subject_id, return_counts=True)[1].max(initial=1))
    shown = []
    for one in points:
        kept = (one.rows >= fewest) & np.isfinite(one.observed)
        if kept.sum() > 1:
            shown.append((one.name, one.predicted[kept], one.observed[kept]))
    if not shown:
        return ""
    shown = shown[: len(SERIES)]
    top = min(1.0, 1.08 * max(float(max(x.max(), y.max())) for _, x, y in shown))
    with drawing(3.6, 3.4) as (figure, axes):
        axes.plot([0, top], [0, top], "--", color=MUTED, linewidth=0.9)
        for (name, x, y), (colour, marker, dash) in zip(shown, SERIES):
            axes.plot(x, y, dash, color=colour, marker=marker, markersize=4, label=name)
        axes.set(xlim=(0, top), ylim=(0, top), xlabel="Predicted risk", ylabel="Observed risk")
        axes.set_aspect("equal")
        figure.legend(loc="outside upper left", ncols=2, handlelength=2.4)
        return standalone(to_svg(figure))
