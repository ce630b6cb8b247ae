"""Time of Cox's loss, forward and backward, beside torchsurv's.

    python scripts/bench_cox.py [--rows 256 4096 65536 1000000]

Follow-up in whole days (so: ties), 5 % events, one thread. "sort reused": the plan of risk sets is
built once per cohort, for training on the whole of it. torchsurv runs up to 65,536 rows.
"""

import argparse
import warnings
from collections.abc import Callable

import torch
from side_by_side import Row, parser, present, turns
from torch import Tensor
from torchsurv.loss.cox import neg_partial_log_likelihood

from fm_med.objectives import RiskSetPlan, cox_loss

PEER = "torchsurv, neg_partial_log_likelihood"
PEER_LIMIT = 65_536
AIMS = {4096: 3.0, 65_536: 10.0}


def contestants(rows: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the losses of one simulated cohort."""
    follow_up_days = torch.randint(1, 2557, (rows,)).float()
    event = torch.rand(rows) < 0.05
    plan = RiskSetPlan.build(time=follow_up_days, event=event)
    entry = follow_up_days - torch.randint(1, 1000, (rows,))
    late = RiskSetPlan.build(time=follow_up_days, event=event, entry=entry)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "one-shot": lambda x: cox_loss(x, time=follow_up_days, event=event),
        "sort reused": lambda x: cox_loss(x, plan=plan),
        "sort reused, late entry": lambda x: cox_loss(x, plan=late),
    }
    if rows <= PEER_LIMIT:
        ways[PEER] = lambda x: neg_partial_log_likelihood(x, event, follow_up_days)
    return ways


def step(loss: Callable[[Tensor], Tensor], log_hazard: Tensor) -> Callable[[], None]:
    """Return a call of loss and gradient."""

    def once() -> None:
        leaf = log_hazard.clone().requires_grad_()
        loss(leaf).backward()

    return once


def rows_of(rows: int, rounds: int) -> list[Row]:
    """Measure all ways at one size."""
    torch.manual_seed(0)
    losses = contestants(rows)
    log_hazard = torch.randn(rows)
    seconds = turns({name: step(loss, log_hazard) for name, loss in losses.items()}, rounds)
    peer = seconds.pop(PEER, None)
    return [
        Row(
            f"Cox loss + gradient, n = {rows:,}, {name}",
            1000 * took,
            "ms",
            None if peer is None else 1000 * peer,
            "" if peer is None else PEER,
            ratio_aim=AIMS.get(rows) if name == "sort reused" else None,
        )
        for name, took in seconds.items()
    ]


def main() -> None:
    """Print a row per size and way."""
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[256, 4096, 65_536, 1_000_000])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Ties in `time` detected")
    present([row for rows in options.rows for row in rows_of(rows, options.rounds)], options.json)


if __name__ == "__main__":
    main()
