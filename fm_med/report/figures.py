"""The report's charts: curves of a run, intervals of its results, a map of its embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fm_med.metrics import Interval
from fm_med.report.page import Figure, Panel
from fm_med.report.svg import BLUE, GREEN, GREY, INK, MUTED, ORANGE, VERMILLION, drawing, to_svg

# Colour, marker and line differ together: the series are told apart in grey as well.
SERIES = (
    (BLUE, "o", "-"),
    (VERMILLION, "D", "--"),
    (GREY, "s", ":"),
    (GREEN, "^", "-."),
    (ORANGE, "v", "-"),
)
HALF, FULL = 3.6, 7.4  # inches; shown at about half and full width of the page
MAP_ROWS, MAP_PANELS = 800, 8
MAP_CAPTION = (
    "Near points have similar embeddings; distances between far points mean nothing (t-SNE). Each "
    "panel marks the recordings with one label."
)


def curve(history: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of one quantity from the rows of ``metrics.jsonl``.

    Args:
        history: Rows with a ``step``.
        name: Key, with or without a prefix such as ``retrieval.``.
    """
    points = [
        (row["step"], value)
        for row in history
        for key, value in row.items()
        if key.rpartition(".")[2] == name and isinstance(value, int | float)
    ]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def curves_figure(
    history: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    caption: str,
    axis: str,
    **limits: Any,
) -> Figure | None:
    """Draw quantities of a run against its steps; None where the history holds none of them.

    Args:
        history: Rows of ``metrics.jsonl``.
        names: Legend by key.
        caption: Of the figure.
        axis: Label of the vertical axis.
        limits: Passed on to ``Axes.set`` (``ylim``, ``yscale``).
    """
    lines = {legend: curve(history, name) for name, legend in names.items()}
    lines = {legend: line for legend, line in lines.items() if len(line[0])}
    if not lines:
        return None
    with drawing(HALF, 2.4) as (figure, axes):
        for (legend, (steps, values)), (colour, marker, dash) in zip(lines.items(), SERIES):
            if len(steps) > 60:  # every step of training: the raw values faint, their mean strong
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
                values, marker = _smooth(values), ""
            axes.plot(
                steps, values, dash, color=colour, marker=marker, markersize=3.5, label=legend
            )
        axes.set(xlabel="Optimiser step", ylabel=axis, **limits)
        axes.margins(x=0.02)
        if len(lines) > 1:
            figure.legend(loc="outside upper left", ncols=2, handlelength=2.4)
        ends = [f"{name} from {v[0]:.3g} to {v[-1]:.3g}" for name, (_, v) in lines.items()]
        alt = f"{axis} over {int(max(s[-1] for s, _ in lines.values()))} steps: {'; '.join(ends)}."
        return Figure([Panel(to_svg(figure), alt)], caption)


def intervals_figure(
    rows: Mapping[str, Mapping[str, Interval]],
    series: Sequence[str],
    *,
    caption: str,
    axis: str,
    reference: float = 0.5,
) -> Figure:
    """Draw values with their intervals, one line per row and series (a forest plot).

    Args:
        rows: For each row (top to bottom) the intervals of its series by name.
        series: All series; a series keeps its colour when another one has no data.
        caption: Of the figure.
        axis: Label of the horizontal axis.
        reference: Where a score without information lies; drawn as a line.
    """
    names = [name for name in series if any(name in found for found in rows.values())]
    height = 0.75 + len(rows) * (0.1 + 0.105 * len(names))
    with drawing(FULL, height) as (figure, axes):
        for index, name in enumerate(names):
            colour, marker, _ = SERIES[series.index(name) % len(SERIES)]
            shift = (index - (len(names) - 1) / 2) * 0.72 / max(len(names), 1)
            found = [
                (place, series[name])
                for place, series in enumerate(rows.values())
                if name in series
            ]
            places = np.array([place + shift for place, _ in found])
            value, low, high = np.array([(x.value, x.low, x.high) for _, x in found]).T
            axes.hlines(places, low, high, color=colour, linewidth=1.4)
            axes.plot(value, places, marker, color=colour, markersize=4.2, label=name, linestyle="")
        axes.axvline(reference, color=MUTED, linewidth=0.9)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        for place in range(1, len(rows)):
            axes.axhline(place - 0.5, color=MUTED, linewidth=0.3, alpha=0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(axis)
        figure.legend(loc="outside upper left", ncols=len(names), handletextpad=0.3)
        lines = [
            f"{row}: " + ", ".join(f"{name} {value}" for name, value in found.items())
            for row, found in rows.items()
        ]
        return Figure([Panel(to_svg(figure), f"{axis}. {'; '.join(lines)}.")], caption, wide=True)


def map_figure(
    embedding: np.ndarray, labels: np.ndarray, names: Sequence[str], *, seed: int = 0
) -> Figure:
    """Draw the embedding space in two dimensions, once for each of the most frequent labels.

    t-SNE rather than principal components: findings lie in many directions at once, of which two
    components show little. One panel per label rather than one colour per label: a recording may
    have several, and fifteen colours cannot be told apart.

    Args:
        embedding: (rows, dim); at most `MAP_ROWS` rows are drawn, chosen at random.
        labels: (rows, labels) bool.
        names: The labels' names.
        seed: Of the choice of rows and of t-SNE.
    """
    embedding, labels = np.asarray(embedding, dtype=np.float64), np.asarray(labels, dtype=bool)
    if len(embedding) > MAP_ROWS:
        chosen = np.random.default_rng(seed).choice(len(embedding), MAP_ROWS, replace=False)
        embedding, labels = embedding[chosen], labels[chosen]
    place = _in_two_dimensions(embedding, seed)
    shown = np.argsort(-labels.sum(0), kind="stable")[:MAP_PANELS]
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    with drawing(
        FULL, 2.05 * lines, nrows=lines, ncols=columns, squeeze=False, sharex=True, sharey=True
    ) as (figure, grid):
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, label in zip(grid.flat, shown):
            has = labels[:, label]
            axes.scatter(*place[~has].T, s=3, color=GREY, alpha=0.4, linewidths=0, rasterized=True)
            axes.scatter(*place[has].T, s=7, color=VERMILLION, linewidths=0, rasterized=True)
            axes.set_title(names[label], color=INK)
            axes.text(
                0.0,
                -0.02,
                f"{int(has.sum())} of {len(has)}",
                color=MUTED,
                transform=axes.transAxes,
                fontsize=7.5,
                va="top",
            )
            axes.set_aspect("equal")
        alt = (
            f"Map of {len(place)} recordings, drawn {len(shown)} times with the recordings of one "
            f"label marked: {', '.join(names[label] for label in shown)}."
        )
        caption = f"Map of the {len(place)} recordings in the shared space. {MAP_CAPTION}"
        return Figure([Panel(to_svg(figure), alt)], caption, wide=True)


def _in_two_dimensions(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Return (rows, 2) by t-SNE from a start at the principal components."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    perplexity = max(1.0, min(30.0, (len(embedding) - 1) / 3))
    model = TSNE(init="pca", perplexity=perplexity, max_iter=500, random_state=seed)
    # So few rows gain little from threads, and on busy cores spinning ones cost 3 to 8 times more.
    with threadpool_limits(limits=1):
        return model.fit_transform(embedding)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return a centred running mean over about a thirtieth of the points."""
    width = max(3, len(values) // 30) | 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")
