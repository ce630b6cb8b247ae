"""Charts of a model that assigns labels or classes, or predicts a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.report.calibration_drawing import CalibrationPoints
from fm_med.report.figures import FULL, HALF, SERIES
from fm_med.report.page import Figure, Panel
from fm_med.report.svg import BLUE, INK, MUTED, drawing, to_svg

SHOWN = len(SERIES)  # labels that one chart can tell apart
_POINTS = 200  # of a curve


@dataclass(frozen=True)
class LabelCurves:
    """Receiver operating characteristic, precision and recall, and reliability of one label.

    Attributes:
        name: The label.
        false_positive: (points,) rising, share of rows without the label that are called.
        recall: (points,) share of rows with the label that are called.
        precision: (points,) share of called rows that have the label, at the same thresholds.
        stated: (bins,) mean stated probability.
        found: (bins,) share that have the label.
        rows: (bins,) number of rows.
    """

    name: str
    false_positive: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    stated: np.ndarray
    found: np.ndarray
    rows: np.ndarray

    @property
    def points(self) -> CalibrationPoints:
        """What a card may show of it."""
        return CalibrationPoints(self.name, self.stated, self.found, self.rows)


def label_curves(name: str, label: np.ndarray, probability: np.ndarray) -> LabelCurves:
    """Compute the curves of one label.

    Args:
        name: The label.
        label: (rows,) 0 or 1, both present.
        probability: (rows,).
    """
    order = np.argsort(-probability, kind="stable")
    called, right = np.arange(1, len(order) + 1), np.cumsum(label[order])
    last = np.append(np.diff(probability[order]) != 0, True)  # ties are called together
    called, right = called[last], right[last]
    positives = max(int(right[-1]), 1)
    negatives = max(int(called[-1] - right[-1]), 1)
    thin = np.unique(np.linspace(0, len(called) - 1, _POINTS).round().astype(int))
    bins = np.array_split(np.argsort(probability, kind="stable"), min(10, max(1, len(order) // 20)))
    return LabelCurves(
        name=name,
        false_positive=np.append(0.0, ((called - right) / negatives)[thin]),
        recall=np.append(0.0, (right / positives)[thin]),
        precision=np.append(1.0, (right / called)[thin]),
        stated=np.array([probability[rows].mean() for rows in bins]),
        found=np.array([label[rows].mean() for rows in bins]),
        rows=np.array([len(rows) for rows in bins]),
    )


def curves_panels(curves: Sequence[LabelCurves]) -> list[Figure]:
    """Draw ROC, precision against recall, and reliability, of at most `SHOWN` labels."""
    shown = list(curves)[:SHOWN]
    kinds = (
        ("false_positive", "recall", "Called without the label", "Called with the label", "ROC"),
        ("recall", "precision", "Recall", "Precision", "Precision and recall"),
        ("stated", "found", "Stated probability", "Share that has it", "Reliability"),
    )
    columns = len(kinds)
    with drawing(FULL, 2.9, ncols=columns) as (figure, grid):
        for axes, (x, y, across, up, title) in zip(grid, kinds):
            if title != "Precision and recall":
                axes.plot([0, 1], [0, 1], "--", color=MUTED, linewidth=0.9)
            marker = "." if title == "Reliability" else ""
            for one, (colour, _, dash) in zip(shown, SERIES):
                axes.plot(getattr(one, x), getattr(one, y), dash, color=colour, marker=marker)
            axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=across, ylabel=up, title=title)
            axes.set_aspect("equal")
        for one, (colour, _, dash) in zip(shown, SERIES):
            grid[0].plot([], [], dash, color=colour, label=one.name)
        figure.legend(loc="outside upper left", ncols=SHOWN, handlelength=2.4)
        names = ", ".join(one.name for one in shown)
        alt = f"ROC, precision-recall and reliability curves of {names}; areas are in the table."
        more = "" if len(shown) == len(curves) else " The most frequent labels are drawn."
        caption = (
            "Left: share called among those with and without the label, as the threshold falls. "
            "Middle: share of calls that are right against the share found. Right: stated "
            f"probability against the share that has the label; on the diagonal they agree.{more}"
        )
        return [Figure([Panel(to_svg(figure), alt)], caption, wide=True)]


def confusion_figure(count: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw how often each class (row) was called which class (column), in shares of the row.

    Args:
        count: (classes, classes) rows of the true class first.
        classes: Names.
    """
    share = count / np.maximum(count.sum(1, keepdims=True), 1)
    side = max(2.6, 0.42 * len(classes) + 1.2)
    with drawing(min(side + 0.6, FULL), min(side, FULL)) as (figure, axes):
        axes.grid(visible=False)
        for row, column in np.ndindex(count.shape):
            value = float(share[row, column])
            axes.add_patch(_cell(column, row, value))
            axes.text(
                column,
                row,
                f"{count[row, column]:,}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="#ffffff" if value > 0.55 else INK,
            )
        axes.set(
            xlim=(-0.5, len(classes) - 0.5),
            ylim=(len(classes) - 0.5, -0.5),
            xlabel="Called",
            ylabel="True",
        )
        axes.set_xticks(range(len(classes)), classes, rotation=45 if len(classes) > 4 else 0)
        axes.set_yticks(range(len(classes)), classes)
        axes.set_aspect("equal")
        diagonal = ", ".join(f"{name} {s:.0%}" for name, s in zip(classes, np.diag(share)))
        alt = f"Confusion matrix; share of each class that is called rightly: {diagonal}."
        caption = "Rows: true class; columns: called class. Number of rows; shade by share of row."
        return Figure([Panel(to_svg(figure), alt)], caption)


def _cell(column: int, row: int, share: float) -> Any:
    """Return one square of the matrix."""
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.5, row - 0.5), 1, 1, facecolor=BLUE, alpha=share, linewidth=0.4, edgecolor=MUTED
    )


def classes_map_figure(
    maps: Mapping[str, np.ndarray], label: np.ndarray, classes: Sequence[str]
) -> Figure:
    """Draw maps of the same rows side by side, one colour and sign per class.

    Args:
        maps: (rows, 2) by what each is a map of.
        label: (rows,) class numbers.
        classes: Names.
    """
    from matplotlib import colormaps

    colours, signs = colormaps["tab10"](range(10)), "osD^v<>P*X"
    present = np.unique(label).tolist()
    with drawing(FULL, 3.6, ncols=len(maps), squeeze=False) as (figure, grid):
        for axes, (name, places) in zip(grid[0], maps.items()):
            axes.set_title(name, color=INK)
            axes.set_xticks([])
            axes.set_yticks([])
            for number in present:
                rows = label == number
                axes.scatter(
                    *places[rows].T,
                    s=12,
                    color=[colours[number % 10]],
                    marker=signs[(number + number // 10) % 10],
                    linewidths=0,
                    rasterized=len(label) > 400,
                    label=classes[number] if axes is grid[0][0] else None,
                )
        figure.legend(loc="outside lower center", ncols=4, handlelength=1.0)
        names = ", ".join(classes[number] for number in present)
        alt = f"Maps of {len(label)} rows by {' and by '.join(maps)}; classes: {names}."
        caption = (
            "Rows that are near each other have similar neighbours (UMAP); distances between far "
            "points mean nothing."
        )
        return Figure([Panel(to_svg(figure), alt)], caption, wide=True)


def scatter_figure(observed: np.ndarray, predicted: np.ndarray, *, name: str) -> Figure:
    """Draw predicted against observed numbers."""
    ends = [
        float(min(observed.min(), predicted.min())),
        float(max(observed.max(), predicted.max())),
    ]
    with drawing(HALF, 3.3) as (figure, axes):
        axes.plot(ends, ends, "--", color=MUTED, linewidth=0.9)
        axes.scatter(
            predicted,
            observed,
            s=9,
            color=BLUE,
            alpha=0.5,
            linewidths=0,
            rasterized=len(observed) > 400,
        )
        axes.set(xlabel=f"Predicted {name}", ylabel=f"Observed {name}")
        alt = f"Observed against predicted {name}, {len(observed)} rows."
        if np.ptp(observed) > 0 and np.ptp(predicted) > 0:
            alt += f" Correlation {np.corrcoef(observed, predicted)[0, 1]:.2f}."
        return Figure(
            [Panel(to_svg(figure), alt)], "Observed against predicted; the line is equality."
        )
