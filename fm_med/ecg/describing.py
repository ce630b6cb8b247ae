"""What can be told of ECGs in aggregates: leads, rates, and the quality of the signals."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from fm_med.differences import Difference, RowFacts, judged, listed
from fm_med.ecg.leads import LEADS
from fm_med.ecg.processor_checks import MINIMUM_SHARE
from fm_med.ecg.storage import MISSING, decode

_ROWS_AT_ONCE = 64
_FLAT_SECONDS = 1.0
_CLIPPED_SECONDS = 0.02
_NOISE, _WANDER, _BAND = (30.0, 50.0), (0.05, 0.5), (0.05, 50.0)  # Hz
_SHORT_SHARE = 0.05  # of the rows


def row_facts(table: pa.Table) -> RowFacts:
    """Return leads, rate, length and signal quality of each row.

    A signal is flat where a present lead does not move for a second, and clipped where one stays at
    its extreme for 20 ms and at least 3 samples. Noise and wander are shares of a lead's power from
    0.05 to 50 Hz, the median over the leads; unknown below 100 Hz.
    """
    found = [fact for part in _parts(table) for fact in part]
    mask = np.array([fact[0] for fact in found], np.float64).reshape(-1, len(LEADS))
    values = np.array([fact[1] for fact in found], np.float64).reshape(-1, 8)
    rate, length, missing, flat, clipped, amplitude, noise, wander = values.T
    return RowFacts(
        yes={
            **{f"absent lead: {lead}": 1 - mask[:, k] for k, lead in enumerate(LEADS)},
            "signal: flat for 1 s": flat,
            "signal: clipped": clipped,
        },
        numbers={
            "sampling rate (Hz)": rate,
            "length (s)": length,
            "missing samples (%)": 100 * missing,
            "amplitude (mV)": amplitude,
            "noise, 30 to 50 Hz (% of power)": 100 * noise,
            "baseline wander (% of power)": 100 * wander,
        },
    )


def _parts(table: pa.Table) -> Iterator[Iterator[tuple[np.ndarray, list[float]]]]:
    for start in range(0, table.num_rows, _ROWS_AT_ONCE):
        stored = decode(table.slice(start, _ROWS_AT_ONCE))
        yield (
            (
                stored.lead_mask[row],
                _quality(
                    stored.signal[row, stored.lead_mask[row], : stored.samples[row]],
                    stored.gain[row, stored.lead_mask[row]],
                    float(stored.sampling_rate[row]),
                ),
            )
            for row in range(len(stored.signal))
        )


def _quality(codes: np.ndarray, gain: np.ndarray, rate: float) -> list[float]:
    """Measure one recording.

    Args:
        codes: (present leads, samples) int16.
        gain: (present leads,) mV per unit.
        rate: Hz.
    """
    samples = codes.shape[1]
    if not codes.size:
        return [rate, samples / rate, 1.0, *(np.nan,) * 5]
    missing = codes == MISSING
    longest_flat, longest_clip = np.array([_runs(lead) for lead in codes]).max(0)
    volt = np.where(missing, np.nan, codes.astype(np.float32)) * gain[:, None]
    seen = volt[(~missing).any(1)]
    if not len(seen):
        return [rate, samples / rate, 1.0, *(np.nan,) * 5]
    low, high = np.nanpercentile(seen, (1, 99), axis=1)
    return [
        rate,
        samples / rate,
        float(missing.mean()),
        float(longest_flat >= _FLAT_SECONDS * rate),
        float(longest_clip >= max(3.0, _CLIPPED_SECONDS * rate)),
        float(np.median(high - low)),
        *_power_shares(seen, rate),
    ]


def _runs(codes: np.ndarray) -> tuple[int, int]:
    """Return the longest run of equal samples, and the longest at an extreme of a lead that moves.

    Missing samples end a run.
    """
    starts = np.flatnonzero(np.diff(codes, prepend=np.int16(0)) != 0)
    starts = np.union1d(starts, [0])
    lengths = np.diff(starts, append=len(codes))
    levels = codes[starts]
    known = levels != MISSING
    if not known.any():
        return 0, 0
    lengths, levels = lengths[known], levels[known]
    extreme = (levels == levels.max()) | (levels == levels.min())
    return int(lengths.max()), int(lengths[extreme].max()) if len(lengths) > 2 else 0


def _power_shares(volt: np.ndarray, rate: float) -> tuple[float, float]:
    """Return the shares of noise and wander in the power; the median over the leads."""
    if rate < 2 * _BAND[1]:
        return np.nan, np.nan
    centred = np.nan_to_num(volt - np.nanmean(volt, axis=1, keepdims=True))
    power = np.abs(np.fft.rfft(centred)) ** 2
    frequency = np.fft.rfftfreq(volt.shape[1], 1 / rate)
    whole = power[:, (frequency >= _BAND[0]) & (frequency < _BAND[1])].sum(1)
    shares = []
    for low, high in (_NOISE, _WANDER):
        part = power[:, (frequency >= low) & (frequency < high)].sum(1)
        shares.append(float(np.median(part[whole > 0] / whole[whole > 0])) if whole.any() else 0.0)
    return shares[0], shares[1]


def fits(processor: Any, card: Any, table: pa.Table) -> list[Difference]:
    """Compare leads, units, rate and length with what the processor gives the encoder."""
    rates = table.column("sampling_rate").to_numpy().astype(np.float64)
    seconds = table.column("samples").to_numpy() / rates
    return [
        _leads(processor, card),
        judged(
            "units",
            processor.units,
            card.units,
            "" if card.units == processor.units else "convert the cohort again from its source",
        ),
        _rate(processor, rates),
        _length(processor, seconds),
    ]


def _leads(processor: Any, card: Any) -> Difference:
    absent = [lead for lead in processor.leads if lead not in card.leads]
    kept = len(processor.leads) - len(absent)
    cohort = f"{kept} of them" + (f", without {listed(absent, 12)}" if absent else "")
    advice = "the model takes them as absent; convert again with them if they were recorded"
    return judged("leads", f"{len(processor.leads)} leads", cohort, advice if absent else "")


def _rate(processor: Any, rates: np.ndarray) -> Difference:
    needed = 2 * processor.low_pass if processor.low_pass else processor.sampling_rate
    slow = float(np.mean(rates <= needed if processor.low_pass else rates < needed))
    every = np.unique(rates)
    seen = " and ".join(f"{rate:g}" for rate in every[:3]) + (" ..." if len(every) > 3 else "")
    advice = f"{slow:.0%} are too slow for the model and are refused; export them faster"
    model = f"{processor.sampling_rate:g} Hz"
    return judged("rate the model reads", model, f"{seen} Hz", advice if slow else "")


def _length(processor: Any, seconds: np.ndarray) -> Difference:
    refused = float((seconds < MINIMUM_SHARE * processor.seconds).mean())
    short = float((seconds < 0.95 * processor.seconds).mean())
    advice = ""
    if refused:
        advice = f"{refused:.0%} are too short to be read; leave them out of the cohort"
    elif short > _SHORT_SHARE:
        advice = f"{short:.0%} are shorter and are filled with zeros; longer ones are better"
    ends = dict.fromkeys(f"{end:.3g}" for end in (seconds.min(), seconds.max()))
    shown = f"{' to '.join(ends)} s"
    return judged("length the model reads", f"{processor.seconds:g} s", shown, advice)


def steps(processor: Any) -> list[str]:
    """Return what `EcgProcessor` does."""
    low = "no lower edge" if processor.high_pass is None else f"{processor.high_pass:g} Hz"
    high = "no upper edge" if processor.low_pass is None else f"{processor.low_pass:g} Hz"
    scaling = (
        "Keep millivolt."
        if processor.scaling == "millivolt"
        else "Give each lead mean 0 and standard deviation 1 (variance plus 1e-8)."
    )
    return [
        f"Put the leads in the order {', '.join(LEADS)}; only {', '.join(processor.leads)} are "
        "read, the others are absent.",
        "Interpolate missing samples linearly within their lead; a lead that misses more than "
        "half of its samples is absent.",
        f"Take the centre {processor.seconds:g} s of a longer recording.",
        f"Resample to {processor.sampling_rate:g} Hz and apply a zero-phase band-pass: amplitude "
        f"halved at {low} and at {high} (fm_med.ecg.filtering.resample_and_filter).",
        scaling,
        f"Fill a shorter recording with zeros at its end, to {processor.samples} samples; set "
        "absent leads to zero.",
        f"signal: float32 (batch, {len(LEADS)}, {processor.samples}) in mV; lead_mask: bool "
        f"(batch, {len(LEADS)}), true where the lead is present.",
    ]


def example(processor: Any, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return noise of an ECG's size, with absent leads."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((rows, len(LEADS))) < 0.8) & np.isin(LEADS, processor.leads)
    mask[:, LEADS.index(processor.leads[0])] = True
    signal = 0.3 * rng.normal(size=(rows, len(LEADS), processor.samples)) * mask[..., None]
    return {"signal": signal.astype(np.float32), "lead_mask": mask}
