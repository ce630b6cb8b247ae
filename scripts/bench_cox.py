"""Time of Cox's loss, forward and backward, beside torchsurv's.

    python scripts/bench_cox.py

Follow-up in whole days with 5 % events, Efron's ties, one thread, best of several rounds.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchsurv.loss.cox import neg_partial_log_likelihood

from fm_med.objectives import RiskSetPlan, cox_loss


def best(loss: Callable[[Tensor], Tensor], log_hazard: Tensor, rounds: int) -> float:
    """Return milliseconds of the fastest round."""
    times = []
    for _ in range(rounds):
        leaf = log_hazard.clone().requires_grad_()
        start = time.perf_counter()
        loss(leaf).backward()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def contestants(rows: int) -> list[Callable[[Tensor], Tensor]]:
    """Return torchsurv's loss, ours, ours with a plan, and ours with a plan and late entry."""
    follow_up_days = torch.randint(1, 2557, (rows,)).float()
    event = torch.rand(rows) < 0.05
    plan = RiskSetPlan.build(time=follow_up_days, event=event)
    entry = follow_up_days - torch.randint(1, 1000, (rows,))
    late = RiskSetPlan.build(time=follow_up_days, event=event, entry=entry)
    return [
        lambda x: neg_partial_log_likelihood(x, event, follow_up_days),
        lambda x: cox_loss(x, time=follow_up_days, event=event),
        lambda x: cox_loss(x, plan=plan),
        lambda x: cox_loss(x, plan=late),
    ]


def main() -> None:
    """Print a line per number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 4096, 65536])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Ties in `time` detected")
    print("    rows   torchsurv    one-shot   with plan   plan, late entry   (ms)")
    for rows in options.rows:
        torch.manual_seed(0)
        losses = contestants(rows)
        log_hazard = torch.randn(rows)
        figures = [best(loss, log_hazard, options.rounds) for loss in losses]
        print(f"{rows:8} " + " ".join(f"{figure:11.3f}" for figure in figures))


if __name__ == "__main__":
    main()
