"""A map of leads against time: which stretches of which lead raise or lower a patient's risk."""

import numpy as np

from fm_med.ecg.leads import LEADS
from fm_med.report.page import Panel

CELL_HEIGHT, WIDTH = 70, 1500  # drawing units
LEFT, ABOVE, BELOW = 95, 60, 150
TYPE = 42
RAISES, LOWERS = "#d55e00", "#0072b2"  # Okabe & Ito: told apart by any reader, and in grey by place
_FAINTEST = 0.02  # opacity below which a cell is not drawn
_TEXT = 'fill="currentColor" font-family="sans-serif"'


def attribution_panel(
    value: np.ndarray, *, seconds: float, title: str, present: np.ndarray | None = None
) -> Panel:
    """Draw signed values of stretches of time per lead.

    Args:
        value: (12, windows), positive where the stretch raises the risk.
        seconds: Length of the recording.
        title: Of the map.
        present: (12,) bool; absent leads are marked. None: all are there.
    """
    value = np.nan_to_num(np.asarray(value, dtype=np.float64))
    here = np.ones(len(LEADS), dtype=bool) if present is None else np.asarray(present, dtype=bool)
    top = max(float(np.abs(value).max()), 1e-12)
    step = WIDTH / value.shape[1]
    height = len(LEADS) * CELL_HEIGHT
    parts = [
        f'<text x="{LEFT}" y="{ABOVE - 18}" font-size="{TYPE}" font-weight="bold" {_TEXT}>'
        f"{title}</text>",
        f'<rect x="{LEFT}" y="{ABOVE}" width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for lead, window in np.ndindex(*value.shape):
        share = abs(value[lead, window]) / top
        if share > _FAINTEST:
            parts.append(
                f'<rect x="{LEFT + window * step:.1f}" y="{ABOVE + lead * CELL_HEIGHT}" '
                f'width="{step:.1f}" height="{CELL_HEIGHT}" fill-opacity="{share:.2f}" '
                f'fill="{RAISES if value[lead, window] > 0 else LOWERS}"/>'
            )
    for lead, name in enumerate(LEADS):
        y = ABOVE + (lead + 0.68) * CELL_HEIGHT
        shade = "" if here[lead] else ' fill-opacity=".4"'
        parts.append(
            f'<text x="{LEFT - 12}" y="{y:.0f}" text-anchor="end" font-size="{TYPE}" '
            f"{_TEXT}{shade}>{name}</text>"
        )
    parts += [_axis(seconds, height), _key(top, height)]
    svg = f'<svg viewBox="0 0 {LEFT + WIDTH + 40} {ABOVE + height + BELOW}">{"".join(parts)}</svg>'
    return Panel(svg, _describe(value, seconds, title))


def _axis(seconds: float, height: float) -> str:
    """Return the frame and the time axis."""
    base = ABOVE + height
    ticks = "".join(
        f'<path d="M{LEFT + WIDTH * s / seconds:.0f} {base}v14" stroke="currentColor" '
        f'stroke-width="3"/><text x="{LEFT + WIDTH * s / seconds:.0f}" y="{base + 55}" '
        f'text-anchor="middle" font-size="{TYPE}" {_TEXT}>{s:g}{" s" if s == 0 else ""}</text>'
        for s in np.arange(0, seconds + 1e-9, 2 if seconds > 4 else 0.5).tolist()
    )
    rows = "".join(f"M{LEFT} {ABOVE + lead * CELL_HEIGHT}h{WIDTH}" for lead in range(1, len(LEADS)))
    return (
        f'<path d="{rows}" stroke="#8a939c" stroke-width="1.5" stroke-opacity=".5"/>'
        f'<rect x="{LEFT}" y="{ABOVE}" width="{WIDTH}" height="{height}" fill="none" '
        f'stroke="currentColor" stroke-width="3" stroke-opacity=".6"/>{ticks}'
    )


def _key(top: float, height: float) -> str:
    """Return what the colours mean; the darkest stands for the largest value of this map."""
    y = ABOVE + height + 88
    parts = []
    for x, colour, text in ((0.0, RAISES, "raises the risk"), (0.42, LOWERS, "lowers it")):
        left = LEFT + x * WIDTH
        parts.append(
            f'<rect x="{left:.0f}" y="{y}" width="46" height="46" fill="{colour}"/>'
            f'<text x="{left + 62:.0f}" y="{y + 38}" font-size="{TYPE}" {_TEXT}>{text}</text>'
        )
    parts.append(
        f'<text x="{LEFT + WIDTH}" y="{y + 38}" text-anchor="end" font-size="{TYPE}" {_TEXT}>'
        f"darkest: {top:.2g}</text>"
    )
    return "".join(parts)


def _describe(value: np.ndarray, seconds: float, title: str) -> str:
    """Return the text alternative: the leads that matter most, and where the peak lies."""
    by_lead = np.abs(value).sum(1)
    order = np.argsort(-by_lead)[:3]
    share = by_lead / max(float(by_lead.sum()), 1e-12)
    leads = ", ".join(f"{LEADS[lead]} ({share[lead]:.0%})" for lead in order)
    lead, window = np.unravel_index(int(np.abs(value).argmax()), value.shape)
    at = (window + 0.5) * seconds / value.shape[1]
    verb = "raises" if value[lead, window] > 0 else "lowers"
    return (
        f"{title}, leads against time. Most in {leads}; the strongest stretch {verb} the risk, "
        f"in {LEADS[lead]} at {at:.1f} s."
    )
