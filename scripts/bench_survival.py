"""Time and memory of concordance, its bootstrap, AUROC at horizons and Brier, beside peers'.

    python scripts/bench_survival.py [--rows 1000 10000 100000 1000000]

Follow-up in whole days with 6 % events, CPU time on one thread. Peers run up to the rows that they
take seconds for. Values are asserted at 1,000 rows first: Harrell's C is equal; the others differ
by less than 0.01, because scikit-survival weights an event by the chance of not being censored up
to and including its day, we (as R does) before it. torchsurv's AUROC is unweighted.
Memory is measured in a fresh process at 1,000,000 rows: the peak beyond what was resident before
the call, when the inputs (time, event, risk; for Brier also a survival probability) were there. The
bootstrap's is that of 20 resamples: more are worked on one block after the other.
"""

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from side_by_side import Row, alone, growth_mb, parser, present, turns

from fm_med.metrics import bootstrap
from fm_med.survival import (
    auroc_at,
    brier_at,
    concordance_index,
    concordance_index_uno,
    concordance_interval,
)

HORIZONS = (365.0, 1095.0, 1826.0)
HARRELL, UNO, AUROC, BRIER = "Harrell's C", "Uno's C", "AUROC at 3 horizons", "Brier at a horizon"
BOOTSTRAP = "Harrell's C with 999 resamples"
WITH_INTERVAL = "Harrell's C with interval"
LIFELINES, SKSURV, TORCHSURV = "lifelines", "scikit-survival", "torchsurv"
MOST_ROWS = {
    (HARRELL, LIFELINES): 100_000,
    (HARRELL, SKSURV): 100_000,
    (HARRELL, TORCHSURV): 1000,
    (UNO, SKSURV): 10_000,
    (AUROC, SKSURV): 100_000,
    (AUROC, TORCHSURV): 1000,
    (BRIER, SKSURV): 100_000,
    (BOOTSTRAP, "ours"): 10_000,
}
RATIO_AIMS = {(HARRELL, LIFELINES, 100_000): 15.0, (HARRELL, SKSURV, 100_000): 100.0}
SECONDS_AIMS = {(BOOTSTRAP, 10_000): 2.0}
MEGABYTES, LARGEST = 200.0, 1_000_000
Work = Callable[[], object]


def cohort(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return days of follow-up, events and a risk that tells something."""
    generator = np.random.default_rng(0)
    days = generator.integers(1, 2557, rows).astype(np.float64)
    event = generator.random(rows) < 0.06
    return days, event, generator.normal(size=rows) + event


def our_ways(days: np.ndarray, event: np.ndarray, risk: np.ndarray) -> dict[str, Work]:
    """Return what is measured, by its name."""
    survival = 1 / (1 + np.exp(risk))
    people = np.arange(len(days))
    return {
        HARRELL: lambda: concordance_index(days, event, risk),
        WITH_INTERVAL: lambda: concordance_interval(days, event, risk),
        UNO: lambda: concordance_index_uno(days, event, risk, horizon=HORIZONS[-1]),
        AUROC: lambda: [auroc_at(days, event, risk, horizon=at) for at in HORIZONS],
        BRIER: lambda: brier_at(days, event, survival, horizon=HORIZONS[1]),
        BOOTSTRAP: lambda: bootstrap(concordance_index, people, days, event, risk, resamples=999),
    }


def peer_ways(days: np.ndarray, event: np.ndarray, risk: np.ndarray) -> dict[tuple[str, str], Work]:
    """Return what peers do, by quantity and peer."""
    # Imported here, so that the processes in which memory is measured start fast.
    from lifelines.utils import concordance_index as lifelines_index
    from sksurv.metrics import (
        brier_score,
        concordance_index_censored,
        concordance_index_ipcw,
        cumulative_dynamic_auc,
    )
    from sksurv.util import Surv
    from torchsurv.metrics.auc import Auc
    from torchsurv.metrics.cindex import ConcordanceIndex

    outcome = Surv.from_arrays(event, days)
    tensors = (torch.tensor(risk).float(), torch.tensor(event), torch.tensor(days).float())
    survival = 1 / (1 + np.exp(risk))
    return {
        (HARRELL, LIFELINES): lambda: lifelines_index(days, -risk, event),
        (HARRELL, SKSURV): lambda: concordance_index_censored(event, days, risk)[0],
        (HARRELL, TORCHSURV): lambda: ConcordanceIndex()(*tensors),
        (UNO, SKSURV): lambda: concordance_index_ipcw(outcome, outcome, risk, tau=HORIZONS[-1])[0],
        (AUROC, SKSURV): lambda: cumulative_dynamic_auc(
            outcome, outcome[days < days.max()], risk[days < days.max()], HORIZONS
        )[0],
        (AUROC, TORCHSURV): lambda: Auc()(*tensors, new_time=torch.tensor(HORIZONS)),
        (BRIER, SKSURV): lambda: brier_score(outcome, outcome, survival, HORIZONS[1])[1][0],
    }


def compare() -> None:
    """Assert that the ways agree."""
    data = cohort(1000)
    ours = our_ways(*data)
    for (quantity, peer), work in peer_ways(*data).items():
        if (quantity, peer) != (AUROC, TORCHSURV):
            bound = 1e-6 if quantity == HARRELL else 0.01
            np.testing.assert_allclose(ours[quantity](), work(), rtol=0, atol=bound)


def rows_of(rows: int, rounds: int) -> list[Row]:
    """Measure every quantity at one size."""
    data = cohort(rows)
    peers = peer_ways(*data) if rows <= max(MOST_ROWS.values()) else {}
    found = []
    for quantity, work in our_ways(*data).items():
        if rows > MOST_ROWS.get((quantity, "ours"), LARGEST):
            continue
        ways = {
            peer: other
            for (what, peer), other in peers.items()
            if what == quantity and rows <= MOST_ROWS[quantity, peer]
        }
        slow = rows >= 100_000 or quantity == BOOTSTRAP
        seconds = turns({"ours": work, **ways}, min(rounds, 2) if slow else rounds)
        took = seconds.pop("ours")
        aim = SECONDS_AIMS.get((quantity, rows))
        name = f"{quantity}, n = {rows:,}"
        found += [
            Row(
                name,
                took,
                "s",
                other,
                peer,
                ours_aim=aim,
                ratio_aim=RATIO_AIMS.get((quantity, peer, rows)),
            )
            for peer, other in (seconds or {"": None}).items()
        ]
    return found


def memory(quantity: str, rows: int) -> float:
    """Return the megabytes that a call takes beyond its inputs."""
    data = cohort(rows)
    if quantity == BOOTSTRAP:
        work = partial(bootstrap, concordance_index, np.arange(rows), *data, resamples=20)
    else:
        our_ways(*cohort(1000))[quantity]()
        work = our_ways(*data)[quantity]
    return growth_mb(work)


def main() -> None:
    """Print a row per size, quantity and peer, then the memory."""
    arguments = parser(__doc__)
    sizes = [1000, 10_000, 100_000, LARGEST]
    arguments.add_argument("--rows", type=int, nargs="+", default=sizes)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    compare()
    rows = [row for size in options.rows for row in rows_of(size, options.rounds)]
    if LARGEST in options.rows:
        rows += [
            Row(
                f"{quantity.replace('999', '20')}, n = {LARGEST:,}, memory beyond inputs",
                alone(memory, quantity, LARGEST),
                "MB",
                ours_aim=MEGABYTES,
            )
            for quantity in (HARRELL, WITH_INTERVAL, UNO, AUROC, BRIER, BOOTSTRAP)
        ]
    present(rows, options.json)


if __name__ == "__main__":
    main()
