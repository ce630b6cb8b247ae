"""Time of survival curves and scores beside lifelines, scikit-survival and torchsurv.

    python scripts/bench_survival_curves.py --rows 1000 10000 100000

Follow-up in whole days with 4 % events, one thread; median CPU times of runs that alternate between
the libraries.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from sksurv.compare import compare_survival
from sksurv.metrics import integrated_brier_score
from sksurv.nonparametric import CensoringDistributionEstimator, kaplan_meier_estimator
from sksurv.util import Surv
from torchsurv.metrics.brier_score import BrierScore
from torchsurv.stats.ipcw import get_ipcw
from torchsurv.stats.kaplan_meier import KaplanMeierEstimator

from fm_med.survival import CensoringDistribution, integrated_brier, kaplan_meier, log_rank

Contest = dict[str, Callable[[], object]]


def contests(rows: int) -> dict[str, Contest]:
    """Return what to time by task and library."""
    generator = np.random.default_rng(0)
    log_hazard = generator.normal(size=rows) - 11
    had = np.ceil(generator.exponential(np.exp(-log_hazard)))
    left = np.ceil(generator.uniform(400, 2557, rows))
    follow_up, event = np.minimum(had, left), had <= left
    # torchsurv and scikit-survival refuse the last follow-up to be a censored one.
    follow_up[0], event[0] = 2558, True
    group = generator.integers(3, size=rows)
    times = np.linspace(follow_up.min(), 1825, 100)  # earlier ones are refused by scikit-survival
    survival = np.exp(-np.outer(np.exp(log_hazard), times))
    outcome = Surv.from_arrays(event, follow_up)
    time_tensor, event_tensor = torch.from_numpy(follow_up), torch.from_numpy(event)
    survival_tensor, times_tensor = torch.from_numpy(survival), torch.from_numpy(times)

    def ours_ipcw() -> np.ndarray:
        return 1 / CensoringDistribution.fit(follow_up, event).at(follow_up)

    def sksurv_ipcw() -> np.ndarray:
        return CensoringDistributionEstimator().fit(outcome).predict_ipcw(outcome)

    def torchsurv_ibs() -> torch.Tensor:
        weight = get_ipcw(event_tensor, time_tensor)
        at_times = get_ipcw(event_tensor, time_tensor, times_tensor)
        score = BrierScore()
        score(survival_tensor, event_tensor, time_tensor, times_tensor, weight, at_times)
        return score.integral()

    return {
        "Kaplan-Meier with interval": {
            "ours": lambda: kaplan_meier(follow_up, event),
            "lifelines": lambda: KaplanMeierFitter().fit(follow_up, event),
            "sksurv": lambda: kaplan_meier_estimator(event, follow_up, conf_type="log-log"),
            "torchsurv (no interval)": lambda: KaplanMeierEstimator()(event_tensor, time_tensor),
        },
        "log-rank, 3 groups": {
            "ours": lambda: log_rank(follow_up, event, group),
            "lifelines": lambda: multivariate_logrank_test(follow_up, group, event),
            "sksurv": lambda: compare_survival(outcome, group),
        },
        "censoring weights": {
            "ours": ours_ipcw,
            "sksurv": sksurv_ipcw,
            "torchsurv": lambda: get_ipcw(event_tensor, time_tensor),
        },
        "integrated Brier, 100 times": {
            "ours": lambda: integrated_brier(follow_up, event, survival, times),
            "sksurv": lambda: integrated_brier_score(outcome, outcome, survival, times),
            "torchsurv": torchsurv_ibs,
        },
    }


def alternate(contest: Contest, rounds: int) -> dict[str, float]:
    """Return the median CPU milliseconds of each library."""
    seconds: dict[str, list[float]] = {name: [] for name in contest}
    for _ in range(rounds + 1):
        for name, run in contest.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    # The first round pays for imports and compilation.
    return {name: 1000 * statistics.median(taken[1:]) for name, taken in seconds.items()}


def main() -> None:
    """Print a line per task and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for rows in options.rows:
        for task, contest in contests(rows).items():
            figures = alternate(contest, options.rounds)
            line = "   ".join(f"{name} {figure:.2f}" for name, figure in figures.items())
            print(f"{rows:8}  {task:28} {line}   (ms)", flush=True)


if __name__ == "__main__":
    main()
