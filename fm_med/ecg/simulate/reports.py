"""What a physician writes about a recording: terse, in two languages, and not always right."""

import numpy as np

from fm_med.ecg.simulate.phrases import HEDGES, NORMAL, TERMS
from fm_med.ecg.simulate.randomness import Tape
from fm_med.ecg.simulate.subjects import COLUMN, EXCLUSIVE, FINDINGS

UNIFORMS = 4 * len(FINDINGS) + 2
LANGUAGES = ("en", "de")
_OMITTED = 0.10
_FALSE = 0.01
_HEDGED_BELOW = 0.5


def write_reports(
    tape: Tape, severity: np.ndarray, german: float
) -> tuple[list[str], list[str], np.ndarray]:
    """Write one report per recording.

    One mention in ten is left out, one absent finding in a hundred is mentioned, findings of
    severity below 0.5 are hedged, the order is random. Reports without any mention say that the
    ECG is normal, in one of few ways: identical reports are common, as in real archives.

    Args:
        tape: `UNIFORMS` uniform columns, one row per recording.
        severity: (recordings, 15) severities.
        german: Share of German reports.

    Returns:
        Reports, languages ("en" or "de"), and (recordings, 15) bool: what the report mentions.
    """
    width = len(FINDINGS)
    slip, order, synonym, hedge = (tape.uniform(width) for _ in range(4))
    language = (tape.uniform(1)[:, 0] < german).astype(int)
    template = tape.uniform(1)[:, 0]
    present = severity > 0
    mentioned = np.where(present, slip >= _OMITTED, slip < _FALSE)
    mentioned &= present | ~_contradicts(present)
    hedged = mentioned & (severity < _HEDGED_BELOW)
    # An unmentioned finding gets the order 2, after all that are mentioned.
    sequence = np.argsort(np.where(mentioned, order, 2.0), axis=1)
    count = mentioned.sum(axis=1)
    reports = []
    for row, tongue in enumerate(language.tolist()):
        if not count[row]:
            reports.append(_pick(NORMAL[tongue], template[row]))
            continue
        columns = sequence[row, : count[row]].tolist()
        words = [
            _mention(tongue, column, synonym[row, column], hedge[row, column], hedged[row, column])
            for column in columns
        ]
        reports.append(" ".join(words))
    return reports, [LANGUAGES[tongue] for tongue in language], mentioned


def _contradicts(present: np.ndarray) -> np.ndarray:
    """Return (recordings, 15) bool: findings that nobody would mention beside those present."""
    barred = np.zeros_like(present)
    for group in EXCLUSIVE:
        columns = [COLUMN[name] for name in group]
        barred[:, columns] |= present[:, columns].any(axis=1, keepdims=True)
    return barred


def _mention(tongue: int, column: int, synonym: float, hedge: float, hedged: bool) -> str:
    """Return one sentence, such as "Possible left bundle branch block."."""
    words = _pick(TERMS[tongue][FINDINGS[column]], synonym)
    if hedged:
        words = f"{_pick(HEDGES[tongue], hedge)} {words}"
    return f"{words[0].upper()}{words[1:]}."


def _pick(choices: tuple[str, ...], chance: float) -> str:
    """Choose one; the square favours the first, as people favour their usual words."""
    return choices[int(chance**2 * len(choices))]
