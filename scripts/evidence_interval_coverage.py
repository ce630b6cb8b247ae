"""How often intervals of Harrell's C contain the true C, and how often equal models "differ".

    python scripts/evidence_interval_coverage.py

Cohorts are simulated with a known log-hazard; the true C is that of 400,000 patients. For each
setting: the share of nominal 95 % intervals that contain the truth (infinitesimal jackknife on the
logit scale, and patient bootstrap), their mean width, the spread of C in units of
1 / sqrt(events), and the share of cohorts in which two equally good models are told apart at 5 %.
"""

import argparse
import math

import numpy as np

from fm_med.metrics import Interval, bootstrap
from fm_med.survival import concordance_difference, concordance_index, concordance_interval

SETTINGS = [(300, 0.62), (800, 0.04), (1000, 0.62), (1000, 0.063), (3000, 0.063)]
TRUTH_ROWS = 400_000
NOISE = 0.5


def cohort(
    rows: int, follow_up: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return time (days), event and the risks of two equally good models."""
    log_hazard = 0.8 * generator.normal(size=rows)
    event_time = generator.exponential(1000 * np.exp(-log_hazard))
    censored = np.minimum(follow_up, generator.uniform(0, 4 * follow_up, rows))
    time, event = np.ceil(np.minimum(event_time, censored)), event_time <= censored
    a, b = (log_hazard + NOISE * generator.normal(size=rows) for _ in range(2))
    return time, event, a, b


def follow_up_for(event_rate: float) -> float:
    """Return the follow-up in days that gives this share of events, by bisection."""
    low, high = 1.0, 1e6
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        rate = cohort(50_000, middle, np.random.default_rng(0))[1].mean()
        low, high = (middle, high) if rate < event_rate else (low, middle)
    return low


def covers(interval: Interval, truth: float) -> bool:
    """Return whether the truth is inside."""
    return interval.low <= truth <= interval.high


def main() -> None:
    """Print a line per setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    print("   n  events  true C  SD      analytic cover/width  bootstrap cover/width"
          "  SD*sqrt(events)  equal models differ")  # fmt: skip
    for rows, event_rate in SETTINGS:
        follow_up = follow_up_for(event_rate)
        truth = concordance_index(*cohort(TRUTH_ROWS, follow_up, np.random.default_rng(1))[:3])
        values, hits, widths, events, rejected = [], [], [], [], []
        for repeat in range(options.repeats):
            generator = np.random.default_rng([rows, repeat])
            time, event, a, b = cohort(rows, follow_up, generator)
            analytic = concordance_interval(time, event, a)
            drawn = bootstrap(
                concordance_index, np.arange(rows), time, event, a,
                resamples=options.resamples, seed=repeat,
            )  # fmt: skip
            values.append(analytic.value)
            hits.append([covers(analytic, truth), covers(drawn, truth)])
            widths.append([analytic.high - analytic.low, drawn.high - drawn.low])
            events.append(event.sum())
            rejected.append(concordance_difference(time, event, a, b)[1] < 0.05)
        spread = np.std(values)
        cover, width = np.mean(hits, axis=0), np.mean(widths, axis=0)
        print(
            f"{rows:5} {np.mean(events):7.0f} {truth:7.4f} {spread:.4f}"
            f"  {cover[0]:.3f} / {width[0]:.3f}         {cover[1]:.3f} / {width[1]:.3f}"
            f"          {spread * math.sqrt(np.mean(events)):.3f}"
            f"            {np.mean(rejected):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
