"""Time of survival curves and scores beside lifelines, scikit-survival and torchsurv.

    python scripts/bench_survival_curves.py [--rows 1000 10000 100000]

Follow-up in whole days with 4 % events, CPU time on one thread. Values are asserted to be equal at
1,000 rows first: the curve of Kaplan and Meier, the log-rank statistic, and the integrated Brier
score within 0.001, because peers take the chance of not being censored up to and including a day,
we (as R does) before it; so the censoring weights themselves are not compared.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from side_by_side import Row, parser, present, turns
from sksurv.compare import compare_survival
from sksurv.metrics import integrated_brier_score
from sksurv.nonparametric import CensoringDistributionEstimator, kaplan_meier_estimator
from sksurv.util import Surv
from torchsurv.metrics.brier_score import BrierScore
from torchsurv.stats.ipcw import get_ipcw
from torchsurv.stats.kaplan_meier import KaplanMeierEstimator

from fm_med.survival import CensoringDistribution, integrated_brier, kaplan_meier, log_rank

SKSURV = "scikit-survival"
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
            SKSURV: lambda: kaplan_meier_estimator(event, follow_up, conf_type="log-log"),
            "torchsurv (no interval)": lambda: KaplanMeierEstimator()(event_tensor, time_tensor),
        },
        "log-rank, 3 groups": {
            "ours": lambda: log_rank(follow_up, event, group),
            "lifelines": lambda: multivariate_logrank_test(follow_up, group, event),
            SKSURV: lambda: compare_survival(outcome, group),
        },
        "censoring weights": {
            "ours": ours_ipcw,
            SKSURV: sksurv_ipcw,
            "torchsurv": lambda: get_ipcw(event_tensor, time_tensor),
        },
        "integrated Brier, 100 times": {
            "ours": lambda: integrated_brier(follow_up, event, survival, times),
            SKSURV: lambda: integrated_brier_score(outcome, outcome, survival, times),
            "torchsurv": torchsurv_ibs,
        },
    }


def compare() -> None:
    """Assert that the ways agree."""
    (curves, tests, _, scores) = (
        {who: work() for who, work in ways.items()} for ways in contests(1000).values()
    )
    curve = curves["ours"]
    at = curves["lifelines"].survival_function_at_times(curve.time)
    for other in (at, curves[SKSURV][1]):
        np.testing.assert_allclose(curve.survival, other, rtol=1e-9)
    for other in (tests["lifelines"].test_statistic, tests[SKSURV][0]):
        np.testing.assert_allclose(tests["ours"][0], other, rtol=1e-9)
    for other in (scores[SKSURV], scores["torchsurv"]):
        np.testing.assert_allclose(scores["ours"], other, atol=0.001)


def rows_of(rows: int, rounds: int) -> list[Row]:
    """Measure every task at one size."""
    found = []
    for task, ways in contests(rows).items():
        seconds = turns(ways, rounds)
        took = 1000 * seconds.pop("ours")
        found += [
            Row(f"{task}, n = {rows:,}", took, "ms", 1000 * other, peer)
            for peer, other in seconds.items()
        ]
    return found


def main() -> None:
    """Print a row per size, task and peer."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    compare()
    present([row for rows in options.rows for row in rows_of(rows, options.rounds)], options.json)


if __name__ == "__main__":
    main()
