"""Intervals, slopes and null cohorts against a known truth, on 200 simulated cohorts. About 1 min.

    python scripts/evidence_simulated_truth.py

Simulates people and their follow-up (no recordings), so that the population's own concordance of
each oracle is known from 400,000 people, and asks of 200 cohorts how often the 95 % interval holds
it, whether the Cox slope of the true log-hazard is 1, and what a cohort without effect shows.
"""

import argparse

import numpy as np

from fm_med.ecg.simulate.randomness import Tape
from fm_med.ecg.simulate.subjects import HOSPITALS, NORMALS, UNIFORMS, draw_subjects
from fm_med.ecg.simulate.survival_times import baseline_for, draw_survival, log_hazard
from fm_med.survival import concordance_index, concordance_interval, fit_cox

ORACLES = ("everything", "ecg", "findings", "age")


def main() -> None:
    """Print one table per question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--people", type=int, default=2000, help="of each cohort")
    parser.add_argument("--event_share", type=float, default=0.05)
    parser.add_argument("--population", type=int, default=400_000)
    arguments = parser.parse_args()
    truth = population(arguments.population, arguments.event_share)
    found = {name: [] for name in ORACLES}
    slopes, null = [], []
    for seed in range(arguments.cohorts):
        time, event, risk = people(arguments.people, arguments.event_share, seed=seed)
        for name in ORACLES:
            found[name].append(concordance_interval(time, event, getattr(risk, name)))
        fitted = fit_cox(None, time=time, event=event, clinical=risk.everything[:, None])
        slopes.append(fitted.clinical_coefficients[0])
        time, event, risk = people(arguments.people, arguments.event_share, seed=seed, effect=0.0)
        null.append(concordance_index(time, event, risk.ecg))
    print("| oracle | C of the population | mean C | SD | interval holds it | mean width |")
    print("|---|---|---|---|---|---|")
    for name, intervals in found.items():
        held = np.mean([i.low <= truth[name] <= i.high for i in intervals])
        values = np.array([i.value for i in intervals])
        width = np.mean([i.high - i.low for i in intervals])
        print(
            f"| {name} | {truth[name]:.4f} | {values.mean():.4f} | {values.std(ddof=1):.4f} | "
            f"{held:.1%} | {width:.3f} |"
        )
    print(f"slope of the true log-hazard: {summary(slopes)}; it should be 1")
    print(f"C of the ECG oracle without effect: {summary(null)}; it should be .5")


def people(number: int, share: float, *, seed: int, effect: float = 1.0):
    """Return time, event and the oracles' log-hazards of new people."""
    generator = np.random.default_rng((seed, number))
    tape = Tape(generator.random((number, UNIFORMS)), generator.standard_normal((number, NORMALS)))
    hospital = HOSPITALS["a"]
    risk = log_hazard(draw_subjects(tape, hospital))
    time, event = draw_survival(
        tape, effect * risk.everything, baseline_for(hospital, effect, share)
    )
    return time, event, risk


def population(number: int, share: float) -> dict[str, float]:
    """Return each oracle's concordance among many people."""
    time, event, risk = people(number, share, seed=10**6)
    return {name: float(concordance_index(time, event, getattr(risk, name))) for name in ORACLES}


def summary(values: list[float]) -> str:
    """Write mean, standard deviation and range."""
    array = np.array(values)
    return (
        f"mean {array.mean():.3f}, SD {array.std(ddof=1):.3f}, "
        f"{array.min():.3f} to {array.max():.3f}"
    )


if __name__ == "__main__":
    main()
