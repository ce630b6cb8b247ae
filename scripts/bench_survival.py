"""Time of concordance, its interval and its bootstrap, and of AUROC at horizons, beside peers'.

    python scripts/bench_survival.py

Follow-up in whole days with 6 % events, one thread; the median of alternating rounds, so that a
busy moment hits all. Who takes longer than a tenth of `--limit` seconds runs once per size, and
who takes longer than the limit is left out of the larger sizes.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from lifelines.utils import concordance_index as lifelines_index
from sksurv.metrics import (
    concordance_index_censored,
    concordance_index_ipcw,
    cumulative_dynamic_auc,
)
from sksurv.util import Surv
from torchsurv.metrics.auc import Auc
from torchsurv.metrics.cindex import ConcordanceIndex

from fm_med.metrics import bootstrap
from fm_med.survival import (
    auroc_at,
    concordance_index,
    concordance_index_uno,
    concordance_interval,
)

HORIZONS = (365.0, 1095.0, 1826.0)
Contest = dict[str, dict[str, Callable[[], object]]]


def contests(rows: int) -> Contest:
    """Return, for every quantity, who computes it how on one simulated cohort."""
    generator = np.random.default_rng(0)
    days = generator.integers(1, 2557, rows).astype(np.float64)
    event = generator.random(rows) < 0.06
    risk = generator.normal(size=rows)
    outcome = Surv.from_arrays(event, days)
    inside = days < days.max()
    tensors = (torch.tensor(risk).float(), torch.tensor(event), torch.tensor(days).float())
    index = ConcordanceIndex()
    new_time = torch.tensor(HORIZONS)
    return {
        "Harrell's C": {
            "ours": lambda: concordance_index(days, event, risk),
            "lifelines": lambda: lifelines_index(days, -risk, event),
            "scikit-survival": lambda: concordance_index_censored(event, days, risk),
            "torchsurv": lambda: index(*tensors),
        },
        "C with interval": {"ours": lambda: concordance_interval(days, event, risk)},
        "Uno's C": {
            "ours": lambda: concordance_index_uno(days, event, risk, horizon=HORIZONS[-1]),
            "scikit-survival": lambda: concordance_index_ipcw(
                outcome, outcome, risk, tau=HORIZONS[-1]
            ),
        },
        "AUROC at 3 horizons": {
            "ours": lambda: [auroc_at(days, event, risk, horizon=at) for at in HORIZONS],
            "scikit-survival": lambda: cumulative_dynamic_auc(
                outcome, outcome[inside], risk[inside], HORIZONS
            ),
            "torchsurv": lambda: Auc()(*tensors, new_time=new_time),
        },
        "C, 999 resamples": {
            "ours": lambda: bootstrap(
                concordance_index, np.arange(rows), days, event, risk, resamples=999
            )
        },
    }


def timed(work: Callable[[], object]) -> float:
    """Return seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(
    contestants: dict[str, Callable[[], object]], rounds: int, limit: float
) -> dict[str, float]:
    """Return the median seconds of each; the slow ones run once."""
    seconds = {name: [timed(work)] for name, work in contestants.items()}
    for _ in range(rounds):
        for name, work in contestants.items():
            if seconds[name][0] <= limit / 10:
                seconds[name].append(timed(work))
    # the first round also pays for what is set up once
    return {name: statistics.median(times[1:] or times) for name, times in seconds.items()}


def main() -> None:
    """Print a line per quantity and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, default=10.0, help="seconds of one round")
    parser.add_argument("--bootstrap-rows", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    too_slow: set[tuple[str, str]] = set()
    for rows in options.rows:
        for quantity, contestants in contests(rows).items():
            if quantity == "C, 999 resamples" and rows > options.bootstrap_rows:
                continue
            kept = {
                name: work for name, work in contestants.items() if (quantity, name) not in too_slow
            }
            seconds = alternate(kept, options.rounds, options.limit)
            too_slow |= {(quantity, name) for name, took in seconds.items() if took > options.limit}
            figures = "  ".join(f"{name} {took:.5f}" for name, took in seconds.items())
            print(f"{rows:8}  {quantity:20} {figures}", flush=True)


if __name__ == "__main__":
    main()
