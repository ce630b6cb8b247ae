"""What every evaluation of follow-up refuses, in one sentence each."""

from typing import Any

import numpy as np

from fm_med.errors import InputError


def outcome(time: Any, event: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return time as (rows,) float64 and event as (rows,) bool.

    Raises:
        InputError: There is no row, shapes differ, a time is NaN, infinite or negative, or an
            event is neither 0 nor 1.
    """
    time, event = np.asarray(time, dtype=np.float64), np.asarray(event)
    if time.ndim != 1 or time.shape != event.shape:
        raise InputError(f"time and event must be (rows,) each, not {time.shape} and {event.shape}")
    if not len(time):
        raise InputError("there is no follow-up to evaluate: time has 0 rows")
    refuse(~(np.isfinite(time) & (time >= 0)), "time", "a number >= 0", time)
    if event.dtype != np.bool_:
        refuse(~np.isin(event, (0, 1)), "event", "0 or 1", event)
    return time, event.astype(bool)


def probability(values: Any, rows: int, name: str) -> np.ndarray:
    """Return `values` as float64 with `rows` as first dimension.

    Raises:
        InputError: Another number of rows, or a value that is not between 0 and 1.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or len(values) != rows:
        raise InputError(f"{name} must have {rows} rows like time, but has shape {values.shape}")
    refuse(~((values >= 0) & (values <= 1)), name, "a probability between 0 and 1", values)
    return values


def within_follow_up(horizon: float, time: np.ndarray) -> float:
    """Return the horizon as a float.

    Raises:
        InputError: It is not a positive number, or is beyond the longest follow-up of the rows.
    """
    horizon, longest = float(horizon), float(time.max())
    if not 0 < horizon < np.inf:
        raise InputError(f"a horizon must be a positive time, not {horizon:g}")
    if horizon > longest:
        raise InputError(f"horizon {horizon:g} is beyond the longest follow-up {longest:g}")
    return horizon


def refuse(bad: np.ndarray, name: str, expected: str, values: np.ndarray) -> None:
    """Raise InputError that names the first bad value, if there is one."""
    if bad.any():
        first = int(bad.reshape(len(bad), -1).any(1).argmax())
        seen = values[bad].flat[0]
        raise InputError(
            f"{name} must be {expected}, but row {first} has {seen} ({int(bad.sum())} such values)"
        )
