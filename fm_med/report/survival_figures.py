"""Charts of a risk model: calibration, survival by risk group, lines over time or threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fm_med.report.calibration_drawing import CalibrationPoints
from fm_med.report.figures import FULL, HALF, SERIES
from fm_med.report.page import Figure, Panel
from fm_med.report.svg import BLUE, GREEN, GREY, INK, MUTED, ORANGE, VERMILLION, drawing, to_svg

AT_RISK_COLUMNS = 8
# Dash and colour differ together; the highest risk has the warning colour.
RISK_STYLES = ((BLUE, ":"), (GREY, "--"), (VERMILLION, "-"), (ORANGE, "-."), (GREEN, "-"))
ROUND_STEPS = {
    "months": (1, 2, 3, 6, 12, 24, 60, 120, 240),
    "days": (1, 2, 7, 14, 30, 90, 180, 365, 730, 1825, 3650),
}
FEWEST = 10  # smaller numbers at risk are not told
_LINE = 0.17  # inches of one row of numbers at risk


@dataclass(frozen=True)
class CalibrationPlot:
    """Predicted and observed risk at one horizon.

    Attributes:
        name: "3 years".
        predicted: (bins,) mean predicted risk.
        observed: (bins,) observed risk.
        low: (bins,) lower end of the observed risk's interval.
        high: (bins,) upper end.
        risk: (rows,) every predicted risk, for the distribution below.
        curve: (points, 2) predicted and smoothed observed risk, or None.
        rows: (bins,) number of rows; None where not counted.
    """

    name: str
    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    risk: np.ndarray
    curve: np.ndarray | None = None
    rows: np.ndarray | None = None

    @property
    def points(self) -> CalibrationPoints:
        """What a card may show of it."""
        rows = np.zeros(len(self.predicted), int) if self.rows is None else self.rows
        return CalibrationPoints(self.name, self.predicted, self.observed, rows)


@dataclass(frozen=True)
class RiskGroup:
    """A curve of a group's survival, or of one minus its cumulative incidence.

    Attributes:
        name: "highest third".
        time: (steps,) rising, in the cohort's unit.
        survival: (steps,) share without the event from `time` on.
        low: (steps,) lower end of its interval.
        high: (steps,) upper end.
        follow_up: (persons,) each person's time, for the numbers at risk.
        events: Number of events.
    """

    name: str
    time: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    follow_up: np.ndarray
    events: int


def calibration_figure(plots: Sequence[CalibrationPlot], estimator: str = "Kaplan-Meier") -> Figure:
    """Draw observed against predicted risk, a panel per horizon, with all predictions below."""
    columns = len(plots)
    with drawing(
        FULL if columns > 1 else HALF,
        3.1 if columns > 1 else 3.9,
        nrows=2,
        ncols=columns,
        squeeze=False,
        sharex="col",
        height_ratios=(5, 1),
    ) as (figure, grid):
        for (upper, lower), plot in zip(grid.T, plots):
            _calibration(upper, plot)
            lower.hist(plot.risk, bins=40, range=upper.get_xlim(), color=GREY)
            lower.set_yticks([])
            lower.grid(visible=False)
            lower.spines["left"].set_visible(False)
            lower.set_xlabel("Predicted risk")
            _percent(lower.xaxis)
        grid[0, 0].set_ylabel("Observed risk")
        grid[1, 0].set_ylabel("Persons")
        text = [
            f"{p.name}: "
            + ", ".join(f"{x:.1%} predicted, {y:.1%} seen" for x, y in zip(p.predicted, p.observed))
            for p in plots
        ]
        alt = f"Observed against predicted risk. {'; '.join(text)}."
        return Figure(
            [Panel(to_svg(figure), alt)],
            "Calibration. Persons are grouped by predicted risk; each point is a group's observed "
            f"risk ({estimator}, 95 % interval). On the diagonal the predictions are right; below "
            "it they are too high. The bars below show how the predictions are spread.",
            wide=columns > 1,
        )


def _calibration(axes: Any, plot: CalibrationPlot) -> None:
    """Draw one horizon."""
    ends = np.concatenate([plot.predicted, plot.high[np.isfinite(plot.high)]])
    top = max(min(1.0, 1.08 * float(np.nanmax(ends, initial=0.01))), 0.02)
    axes.plot([0, top], [0, top], "--", color=MUTED, linewidth=0.9)
    if plot.curve is not None:
        axes.plot(*plot.curve.T, color=VERMILLION, linewidth=1.2)
    axes.vlines(plot.predicted, plot.low, plot.high, color=BLUE, linewidth=1.3)
    axes.plot(plot.predicted, plot.observed, "o", color=BLUE, markersize=4.5)
    axes.set(xlim=(0, top), ylim=(0, top), title=plot.name)
    _percent(axes.yaxis)


def kaplan_meier_figure(
    groups: Sequence[RiskGroup],
    *,
    unit: str,
    event: str,
    test: str,
    estimator: str = "Kaplan-Meier",
) -> Figure:
    """Draw the share with the event over time by risk group, with the numbers at risk.

    Args:
        groups: From the lowest risk to the highest.
        unit: Of the times.
        event: What happens, for the axis.
        test: The log-rank test in words.
        estimator: Of the curves.
    """
    rows = len(groups)
    last = max(float(group.follow_up.max()) for group in groups)
    ticks = _round_ticks(last, unit)
    height = 2.9 + _LINE * (rows + 1)
    with drawing(FULL, height, nrows=2, sharex=True, height_ratios=(2.6, _LINE * (rows + 1))) as (
        figure,
        (upper, lower),
    ):
        for group, (colour, dash) in zip(groups, RISK_STYLES):
            x = np.concatenate([[0], group.time])
            y, low, high = (
                np.concatenate([[0], 1 - ends]) for ends in (group.survival, group.high, group.low)
            )
            upper.step(x, y, dash, where="post", color=colour, label=group.name)
            upper.fill_between(x, low, high, step="post", color=colour, alpha=0.13, linewidth=0)
        upper.set(ylabel=f"Persons with {event}", xlim=(0, last), xticks=ticks)
        upper.set_ylim(bottom=0)
        upper.tick_params(labelbottom=True)
        upper.set_xlabel(f"Follow-up ({unit})")
        _percent(upper.yaxis)
        upper.legend(loc="upper left")
        _numbers_at_risk(lower, groups, ticks)
        counts = [f"{g.name}: {len(g.follow_up):,} persons, {g.events:,} events" for g in groups]
        alt = f"Share of persons with {event} over time. {'; '.join(counts)}. {test}"
        return Figure(
            [Panel(to_svg(figure), alt)],
            f"Persons with {event} by group of predicted risk ({estimator}, 95 % interval). "
            f"The limits between the groups were set on the training patients. {test}",
            wide=True,
        )


def _numbers_at_risk(axes: Any, groups: Sequence[RiskGroup], ticks: np.ndarray) -> None:
    """Write how many persons of each group are still followed at each tick."""
    axes.set_axis_off()
    axes.set_ylim(len(groups) + 0.5, -0.5)
    left = axes.get_yaxis_transform()
    axes.text(
        0, 0, "Still followed", transform=left, fontsize=8, color=INK, va="center", weight="bold"
    )
    for row, group in enumerate(groups, start=1):
        axes.text(
            -0.012, row, group.name, transform=left, ha="right", va="center", fontsize=8, color=INK
        )
        for tick in ticks:
            count = int((group.follow_up >= tick).sum())
            place = "left" if tick == 0 else "center"
            text = f"{count:,}" if count >= FEWEST else f"<{FEWEST}"
            axes.text(tick, row, text, ha=place, va="center", fontsize=8, color=INK)


def lines_figure(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    caption: str,
    alt: str,
    **axes_settings: Any,
) -> Figure:
    """Draw curves over a common axis in colours, dashes and a legend.

    Args:
        lines: (x, y) by name, at most five.
        caption: Of the figure.
        alt: What the curves show, in words.
        axes_settings: Passed on to ``Axes.set``; ``reference`` draws a horizontal line there,
            ``percent`` names axes ("x", "xy") to be labelled in percent, ``wide`` takes the full
            width of the page.
    """
    reference = axes_settings.pop("reference", None)
    percent = axes_settings.pop("percent", "")
    wide = axes_settings.pop("wide", False)
    with drawing(FULL if wide else HALF, 2.7) as (figure, axes):
        if reference is not None:
            axes.axhline(reference, color=MUTED, linewidth=0.9)
        for (name, (x, y)), (colour, _, dash) in zip(lines.items(), SERIES):
            axes.plot(x, y, dash, color=colour, label=name)
        axes.set(**axes_settings)
        axes.margins(x=0.02)
        for axis in percent:
            _percent(getattr(axes, f"{axis}axis"))
        figure.legend(loc="outside upper left", ncols=3 if wide else 2, handlelength=2.4)
        return Figure([Panel(to_svg(figure), alt)], caption, wide=wide)


def _round_ticks(last: float, unit: str) -> np.ndarray:
    """Return up to `AT_RISK_COLUMNS` times after 0, in steps that are round in their unit."""
    decimal = [s * 10.0**p for p in range(-3, 7) for s in (1, 2, 5)]
    steps = [*ROUND_STEPS.get(unit, ()), *decimal[-6:]] if unit in ROUND_STEPS else decimal
    step = next(s for s in steps if last / s <= AT_RISK_COLUMNS)
    return np.arange(0, last + 1e-9, step)


def _percent(axis: Any) -> None:
    """Label an axis in percent, with a decimal only where a tick needs it."""
    from matplotlib.ticker import PercentFormatter

    ticks = 100 * np.asarray(axis.get_majorticklocs())
    whole = np.allclose(ticks, np.round(ticks), atol=1e-6)
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0 if whole else 1))
