"""ECGs on clinical paper, 25 mm/s and 10 mm/mV, with what the encoder attended to.

Drawn as SVG in units of 0.01 mm: a 10 s twelve-lead recording at 100 Hz takes about 70 kB.
"""

from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np

from fm_med.ecg.leads import LEADS
from fm_med.report.page import Panel

MM = 100  # drawing units
PER_SECOND, PER_MILLIVOLT = 25 * MM, 10 * MM
MARGIN = 10 * MM
ROW, TALL_ROW = 18 * MM, 25 * MM  # between the baselines of 12 rows, and of the 3 x 4 layout
LEFT = MARGIN + 8 * MM  # the traces start here, after the calibration pulse
THREE_BY_FOUR = ((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11))
RHYTHM_LEAD = 1
ATTENTION = "#0072b2"
TYPE = 4 * MM  # letters of the lead map


@dataclass(frozen=True)
class ExampleECG:
    """A recording to be shown.

    Attributes:
        signal: (12, samples) millivolt in the order of `LEADS`; NaN where missing.
        sampling_rate: Hz.
        title: Names it on the page, without personal data.
        report: Its report, or empty.
        lead_mask: (12,) bool; None takes leads with any finite, non-zero sample as present.
        time_attention: (12, tokens) weight of each stretch of time, per lead; or None.
        lead_attention: (12, 12) weight that each lead (row) gives to each lead (column); or None.
    """

    signal: np.ndarray
    sampling_rate: float
    title: str
    report: str = ""
    lead_mask: np.ndarray | None = None
    time_attention: np.ndarray | None = None
    lead_attention: np.ndarray | None = None

    @property
    def present(self) -> np.ndarray:
        """(12,) True where the lead has signal."""
        if self.lead_mask is not None:
            return np.asarray(self.lead_mask, dtype=bool)
        return (np.nan_to_num(self.signal) != 0).any(1)


def ecg_panel(example: ExampleECG, *, rows: bool | None = None) -> Panel:
    """Draw a recording on paper: 3 x 4 with a rhythm strip, or one row per lead.

    Args:
        example: The recording.
        rows: One row of full length per lead; None does so where there is time attention, which
            would be cut to a quarter by the 3 x 4 layout.

    Returns:
        The drawing and its text alternative.
    """
    rows = example.time_attention is not None if rows is None else rows
    seconds = example.signal.shape[1] / example.sampling_rate
    strips = _twelve_rows(seconds) if rows else _three_by_four(seconds)
    baselines = {strip.baseline for strip in strips}
    parts = [_pulse(baseline) for baseline in sorted(baselines)]
    parts += [_draw(example, strip) for strip in strips]
    width = 5 * MM * round((LEFT + seconds * PER_SECOND + MARGIN / 2) / (5 * MM))
    height = 5 * MM * round((max(baselines) + strips[0].height / 2 + MARGIN) / (5 * MM))
    note = "25 mm/s    10 mm/mV"
    if example.time_attention is not None:
        note += "    blue: attention above its mean, darkest at 4 times the mean"
    parts.append(_text(MARGIN, height - 3 * MM, note, size=3.8, weight="normal"))
    svg = _svg(width, height, _grid(width, height) + "".join(parts))
    return Panel(svg, _describe(example, seconds), share=2.2)


def lead_map_panel(example: ExampleECG) -> Panel:
    """Draw the 12 x 12 attention between leads: row = the lead that reads, column = that is read.

    Raises:
        ValueError: The example has no lead attention.
    """
    if example.lead_attention is None:
        raise ValueError("the example has no lead attention")
    weight = np.nan_to_num(np.asarray(example.lead_attention, dtype=np.float64))
    top = max(float(weight.max()), 1e-12)
    cell, left, above = 7 * MM, 12 * MM, 12 * MM
    side = 12 * cell
    ink = 'fill="currentColor" font-family="sans-serif"'
    parts = [f'<rect x="{left}" y="{above}" width="{side}" height="{side}" fill="#fff"/>']
    for row, column in np.ndindex(12, 12):
        parts.append(
            f'<rect x="{left + column * cell}" y="{above + row * cell}" width="{cell}" '
            f'height="{cell}" fill="{ATTENTION}" fill-opacity="{weight[row, column] / top:.2f}">'
            f"<title>{LEADS[row]} reads {LEADS[column]}: {weight[row, column]:.3f}</title></rect>"
        )
    for index, lead in enumerate(LEADS):
        middle = index * cell + cell / 2
        shade = "" if example.present[index] else ' fill-opacity=".4"'
        parts.append(
            f'<text x="{left - MM}" y="{above + middle + 1.4 * MM:.0f}" text-anchor="end" '
            f'font-size="{TYPE}" {ink}{shade}>{lead}</text>'
            f'<text transform="translate({left + middle + 1.4 * MM:.0f} {above - MM}) rotate(-90)" '
            f'font-size="{TYPE}" {ink}{shade}>{lead}</text>'
        )
    parts.append(
        f'<rect x="{left}" y="{above}" width="{side}" height="{side}" fill="none" '
        f'stroke="currentColor" stroke-width="20" stroke-opacity=".6"/>'
    )
    parts.append(_scale(left, above + side + 3 * MM, side, top * 12))
    strongest = np.unravel_index(int(weight.argmax()), weight.shape)
    alt = (
        f"Attention between the twelve leads, highest where {LEADS[strongest[0]]} reads "
        f"{LEADS[strongest[1]]} ({weight.max():.2f}; even attention is 0.08)."
    )
    return Panel(_svg(left + side + 2 * MM, above + side + 15 * MM, "".join(parts)), alt, 1.0)


class _Strip(NamedTuple):
    """Where a stretch of one lead is drawn."""

    lead: int
    x: float
    baseline: float
    height: float
    start: float  # seconds
    seconds: float


def _twelve_rows(seconds: float) -> list[_Strip]:
    """Return one strip of full length per lead."""
    return [
        _Strip(lead, LEFT, MARGIN + (lead + 0.5) * ROW, ROW, 0.0, seconds) for lead in range(12)
    ]


def _three_by_four(seconds: float) -> list[_Strip]:
    """Return a quarter of the time per column of three leads, and a rhythm strip below."""
    quarter = seconds / 4
    strips = [
        _Strip(
            lead,
            LEFT + column * quarter * PER_SECOND,
            MARGIN + (row + 0.5) * TALL_ROW,
            TALL_ROW,
            column * quarter,
            quarter,
        )
        for row, leads in enumerate(THREE_BY_FOUR)
        for column, lead in enumerate(leads)
    ]
    return [
        *strips,
        _Strip(RHYTHM_LEAD, LEFT, MARGIN + 3.5 * TALL_ROW, TALL_ROW, 0.0, seconds),
    ]


def _draw(example: ExampleECG, strip: _Strip) -> str:
    """Return one lead's trace over a stretch of time, on its shading by attention."""
    lead, x, baseline, height, start, seconds = strip
    present = bool(example.present[lead])
    name = LEADS[lead] if present else f"{LEADS[lead]} absent"
    if height == ROW and present:  # low rows: in the margin, where no beat can hide it
        label = _text(MM / 2, baseline + 1.5 * MM, name, size=4.2)
    else:
        label = _text(x + MM, baseline - height / 2 + 4 * MM, name, size=4.2)
    if not present:
        return (
            f'{label}<path d="M{x:.0f} {baseline:.0f}h{seconds * PER_SECOND:.0f}" stroke="#666" '
            'stroke-width="25" stroke-dasharray="150 120"/>'
        )
    shading = "" if example.time_attention is None else _shading(example, strip)
    rate, signal = example.sampling_rate, example.signal[lead]
    first, last = round(start * rate), round((start + seconds) * rate)
    millivolt = signal[first : last + 1] - np.nanmedian(signal)
    time = np.arange(len(millivolt)) / rate
    trace = _trace(x + time * PER_SECOND, baseline - millivolt * PER_MILLIVOLT)
    return (
        f'{shading}<path d="{trace}" fill="none" stroke="#14181c" stroke-width="32" '
        f'stroke-linejoin="round"/>{label}'
    )


def _shading(example: ExampleECG, strip: _Strip) -> str:
    """Return blue rectangles behind a trace, opaque by attention above the lead's mean."""
    weight = np.asarray(example.time_attention, dtype=np.float64)[strip.lead]
    relative = weight / max(float(weight.mean()), 1e-12)
    opacity = 0.55 * np.clip((relative - 1) / 3, 0, 1)
    token_seconds = example.signal.shape[1] / example.sampling_rate / len(weight)
    parts = []
    for token in np.flatnonzero(opacity > 0.02):
        start = max(token * token_seconds - strip.start, 0.0)
        stop = min((token + 1) * token_seconds - strip.start, strip.seconds)
        if stop > start:
            parts.append(
                f'<rect x="{strip.x + start * PER_SECOND:.0f}" '
                f'y="{strip.baseline - strip.height / 2:.0f}" '
                f'width="{(stop - start) * PER_SECOND:.0f}" height="{strip.height}" '
                f'fill="{ATTENTION}" fill-opacity="{opacity[token]:.2f}"/>'
            )
    return "".join(parts)


def _trace(x: np.ndarray, y: np.ndarray) -> str:
    """Return an SVG path with relative whole steps; missing samples leave gaps."""
    finite = np.isfinite(y)
    edges = np.flatnonzero(np.diff(finite, prepend=False, append=False))
    pieces = []
    for start, stop in edges.reshape(-1, 2):
        points = np.rint(np.stack([x[start:stop], y[start:stop]], axis=1)).astype(int)
        steps = " ".join(f"{dx} {dy}" for dx, dy in np.diff(points, axis=0))
        pieces.append(f"M{points[0, 0]} {points[0, 1]}" + (f"l{steps}" if steps else "h1"))
    return "".join(pieces).replace(" -", "-")


def _grid(width: float, height: float) -> str:
    """Return the paper: a line each millimetre, a stronger one each 5 mm."""
    lines = []
    for step, colour, stroke in ((MM, "#f7d5d1", 8), (5 * MM, "#e8a29b", 16)):
        across = "".join(f"M0 {y}H{width:.0f}" for y in range(0, int(height) + 1, step))
        down = "".join(f"M{x} 0V{height:.0f}" for x in range(0, int(width) + 1, step))
        lines.append(f'<path d="{across}{down}" stroke="{colour}" stroke-width="{stroke}"/>')
    return '<rect width="100%" height="100%" fill="#fffaf8"/>' + "".join(lines)


def _pulse(baseline: float) -> str:
    """Return the calibration pulse of a row: 1 mV for 0.2 s."""
    return (
        f'<path d="M{MARGIN} {baseline:.0f}h100v{-PER_MILLIVOLT}h500v{PER_MILLIVOLT}h100" '
        'fill="none" stroke="#14181c" stroke-width="32"/>'
    )


def _scale(left: float, top: float, width: float, highest: float) -> str:
    """Return the key of the lead map, in multiples of even attention."""
    steps = 24
    boxes = "".join(
        f'<rect x="{left + step * width / steps:.0f}" y="{top:.0f}" width="{width / steps + 2:.0f}"'
        f' height="{2 * MM}" fill="{ATTENTION}" fill-opacity="{step / (steps - 1):.2f}"/>'
        for step in range(steps)
    )
    text = f'fill="currentColor" font-family="sans-serif" font-size="{TYPE}"'
    y = top + 7 * MM
    return (
        f'<rect x="{left}" y="{top:.0f}" width="{width}" height="{2 * MM}" fill="#fff"/>{boxes}'
        f'<text x="{left}" y="{y:.0f}" {text}>0</text>'
        f'<text x="{left + width}" y="{y:.0f}" text-anchor="end" {text}>'
        f"{highest:.1f} × even attention</text>"
    )


def _text(x: float, y: float, text: str, *, size: float, weight: str = "bold") -> str:
    """Return black text on paper, size in mm, with a pale outline against the grid."""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size * MM:.0f}" font-weight="{weight}" '
        'font-family="sans-serif" fill="#14181c" stroke="#fffaf8" stroke-width="70" '
        f'paint-order="stroke" xml:space="preserve">{escape(text)}</text>'
    )


def _svg(width: float, height: float, content: str) -> str:
    """Return the SVG element."""
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}">{content}</svg>'


def _describe(example: ExampleECG, seconds: float) -> str:
    """Return the text alternative of a recording."""
    absent = [lead for lead, here in zip(LEADS, example.present, strict=True) if not here]
    missing = f" Absent leads: {', '.join(absent)}." if absent else ""
    report = f" Report: {example.report}" if example.report else ""
    return f"Twelve-lead ECG of {seconds:g} s, {example.title}.{missing}{report}"
