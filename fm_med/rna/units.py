"""Units of gene expression: what each must look like, and how one becomes another."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fm_med.errors import InputError

MILLION, TEN_THOUSAND = 1e6, 1e4
# Sums of a sample may exceed a million by rounding and by genes that were counted twice.
TOLERANCE = 1.05
# No linear unit of a whole sample has so small a largest value; no logarithm has a larger one.
SMALLEST_LINEAR_MAXIMUM, LARGEST_LOGARITHM = 40.0, 40.0


@dataclass(frozen=True)
class Unit:
    """What values of a unit are.

    Attributes:
        meaning: For cards and messages.
        linear: Turns values into the linear scale on which the sum of a sample is known; None when
            there is none.
        sum: That sum over all genes of a sample; None when unknown.
        whole: Values are whole numbers.
        signed: Values may be negative.
    """

    meaning: str
    linear: Callable[[np.ndarray], np.ndarray] | None = None
    sum: float | None = None
    whole: bool = False
    signed: bool = False


UNITS: dict[str, Unit] = {
    "counts": Unit("reads or molecules per gene", whole=True),
    "tpm": Unit("transcripts per million", linear=lambda x: x, sum=MILLION),
    "fpkm": Unit("fragments per kilobase and million"),
    "log1p_tpm": Unit("natural logarithm of 1 + TPM", linear=np.expm1, sum=MILLION),
    "log2_tpm1": Unit("logarithm to base 2 of 1 + TPM", linear=lambda x: 2**x - 1, sum=MILLION),
    "log1p_cp10k": Unit(
        "natural logarithm of 1 + counts per ten thousand", linear=np.expm1, sum=TEN_THOUSAND
    ),
    "log2_normalised": Unit("another normalised value on the scale of log2", signed=True),
}
LOGARITHMS = ("log1p_tpm", "log2_tpm1", "log1p_cp10k", "log2_normalised")


def check_units(values: np.ndarray, unit: str, name: str) -> None:
    """Refuse values that cannot be of the unit that they are declared to be.

    Args:
        values: (samples, genes) as read.
        unit: One of `UNITS`.
        name: Of the file, for the message.

    Raises:
        InputError: An unknown unit, or values that contradict it; the message tells what was seen.
    """
    if unit not in UNITS:
        raise InputError(f"the unit {unit!r} is unknown; expected one of {', '.join(UNITS)}")
    problem = _problem(values, unit)
    if problem:
        raise InputError(
            f"{name} is declared as {unit} ({UNITS[unit].meaning}), but {problem}; {seen(values)}"
        )


def seen(values: np.ndarray) -> str:
    """Describe values in one clause: range, sums of samples, whether whole."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "no finite value was seen"
    whole = "all values are whole numbers" if _are_whole(finite) else "values are not all whole"
    sums = np.nansum(values, axis=1)
    return (
        f"seen: {finite.min():g} to {finite.max():g}, sums of samples {sums.min():.4g} to "
        f"{sums.max():.4g}, {whole}"
    )


def _problem(values: np.ndarray, unit: str) -> str | None:
    """Return what contradicts the unit, or None."""
    kind = UNITS[unit]
    if not np.isfinite(values).all():
        return f"{int((~np.isfinite(values)).sum())} values are missing or infinite"
    if not kind.signed and values.min() < 0:
        return "there are negative values"
    whole = _are_whole(values)
    if kind.whole and not whole:
        return "there are fractions"
    if not kind.whole and whole and values.max() > 1:
        return "all values are whole numbers, as counts are"
    largest = float(values.max())
    if unit in LOGARITHMS and largest > LARGEST_LOGARITHM:
        return f"no logarithm is as large as {largest:g}"
    if unit in ("tpm", "fpkm") and largest < SMALLEST_LINEAR_MAXIMUM:
        return f"the largest value is only {largest:g}, as after a logarithm"
    if kind.linear is not None and kind.sum is not None:
        sums = kind.linear(values.astype(np.float64)).sum(axis=1)
        if sums.max() > TOLERANCE * kind.sum:
            return f"a sample sums to {sums.max():.4g} instead of at most {kind.sum:g}"
    return None


def _are_whole(values: np.ndarray) -> bool:
    return bool((values == np.round(values)).all())


def to_logarithm(
    values: np.ndarray, unit: str, *, lengths: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Bring values to the logarithmic unit in which they are stored and learnt from.

    Counts become log1p(TPM) when gene lengths are known and log1p(counts per 10,000) otherwise; TPM
    and FPKM become log1p(TPM); log2(1 + TPM) changes its base; other logarithms stay as they are.
    All genes of a sample must be there, because its sum is what it is divided by.

    Args:
        values: (samples, genes).
        unit: Of the values, as checked by `check_units`.
        lengths: (genes,) in bases, for counts.

    Returns:
        (samples, genes) float32, and their unit.

    Raises:
        InputError: A sample has no expression at all.
    """
    if unit in ("log1p_tpm", "log1p_cp10k", "log2_normalised"):
        return values.astype(np.float32), unit
    wide = values.astype(np.float64)
    if unit == "log2_tpm1":
        return (wide * np.log(2.0)).astype(np.float32), "log1p_tpm"
    if unit == "tpm":
        return np.log1p(wide).astype(np.float32), "log1p_tpm"
    if unit == "counts" and lengths is None:
        return _log_share(wide, TEN_THOUSAND), "log1p_cp10k"
    per_base = wide if lengths is None else wide / lengths
    return _log_share(per_base, MILLION), "log1p_tpm"


def _log_share(values: np.ndarray, total: float) -> np.ndarray:
    """Return log(1 + values scaled to a sum of `total` per sample) as float32."""
    sums = values.sum(axis=1, keepdims=True)
    empty = np.flatnonzero(sums[:, 0] <= 0)
    if len(empty):
        raise InputError(f"sample {empty[0] + 1} of the matrix has no expression at all")
    return np.log1p(values * (total / sums)).astype(np.float32)
