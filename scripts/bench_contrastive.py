"""Time and memory of the contrastive losses in blocks and with the whole N x N matrix.

    python scripts/bench_contrastive.py [--rows 1024 4096 8192 16384 32768]

Loss and gradient at dimension 512 on one thread. Every figure comes from a fresh process: seconds
of CPU time, and peak memory beyond what was resident before, with the inputs among that. The whole
matrix, with a product for either direction as usually written, runs up to 16,384 rows (4 GB); above
8,192 rows only the blocks in float32 run. Where all run, values and gradients are asserted to be
equal first. bfloat16 pays only where the processor multiplies it faster than float32 (see the
limits that `scripts/bench` prints): the aim of half the time is that of the precision that is
chosen here.
"""

import statistics
import time

import torch
from side_by_side import Row, alone, growth_mb, parser, present
from torch import Tensor
from torch.nn import functional

from fm_med.distributed import native_bf16
from fm_med.objectives import contrastive_loss, siglip_loss

WHOLE = "N x N matrix, one product per direction"
FORMS = ("blocks", "blocks, bf16", "SigLIP, blocks")
LARGEST_WHOLE, LARGEST_OF_ALL = 16_384, 8192
CHOSEN = "blocks, bf16" if native_bf16("cpu") else "blocks"
TIME_AIMS = {(CHOSEN, 8192): 2.0}
MEMORY_AIMS = {("blocks", 8192): 4.0, ("blocks, bf16", 8192): 4.0}
GIGABYTE = 1000.0


def whole_matrix(signal: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE as usually written, without several positives."""
    own = torch.arange(len(signal))
    per_signal, per_text = scale * signal @ text.T, scale * text @ signal.T
    losses = functional.cross_entropy(per_signal, own), functional.cross_entropy(per_text, own)
    return sum(losses) / 2


def inputs(rows: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
    """Return signal embedding, text embedding and scale, with gradients."""
    torch.manual_seed(0)
    made = functional.normalize(torch.randn(2, rows, dim), dim=-1).to(dtype)
    return [*(x.clone().requires_grad_() for x in made), torch.tensor(14.0, requires_grad=True)]


def backward(form: str, signal: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Return the loss after its gradients were added; every report is another one."""
    ids = torch.arange(len(signal))
    if form == WHOLE:
        loss = whole_matrix(signal, text, scale)
    elif form.startswith("SigLIP"):
        bias = torch.tensor(-10.0, requires_grad=True)
        loss = siglip_loss(signal, text, logit_scale=scale, logit_bias=bias, report_id=ids)
    else:
        loss = contrastive_loss(signal, text, logit_scale=scale, report_id=ids)
    loss.backward()
    return loss.detach()


def compare(rows: int, dim: int) -> None:
    """Assert that blocks and the whole matrix give the same value and gradients."""
    results = []
    for form in ("blocks", WHOLE):
        leaves = inputs(rows, dim, torch.float32)
        value = backward(form, *leaves)
        results.append([value, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-7)


def measure(form: str, rows: int, dim: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds and the megabytes of a forward and backward pass."""
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if "bf16" in form else torch.float32
    backward(form, *inputs(64, dim, dtype))
    leaves = inputs(rows, dim, dtype)
    seconds = []

    def timed() -> None:
        start = time.process_time()
        backward(form, *leaves)
        seconds.append(time.process_time() - start)

    megabytes = growth_mb(timed)
    for _ in range(rounds - 1):
        timed()
    return statistics.median(seconds), megabytes


def rows_of(rows: int, dim: int, rounds: int) -> list[Row]:
    """Measure all forms at one size."""
    rounds = rounds if rows <= 4096 else 3 if rows <= LARGEST_OF_ALL else 1  # seconds each
    forms = FORMS if rows <= LARGEST_OF_ALL else FORMS[:1]
    other: tuple[float | None, float | None] = (None, None)
    if rows <= LARGEST_WHOLE:
        alone(compare, min(rows, 4096), dim)
        other = alone(measure, WHOLE, rows, dim, rounds)
    found = []
    for form in forms:
        seconds, megabytes = alone(measure, form, rows, dim, rounds)
        same = "SigLIP" not in form and rows <= LARGEST_WHOLE
        what, way = f"loss + gradient, N = {rows:,}, {form}", WHOLE if same else ""
        slower, larger = other if same else (None, None)
        in_time, in_memory = (aims.get((form, rows)) for aims in (TIME_AIMS, MEMORY_AIMS))
        below = GIGABYTE if rows == 32_768 else None
        found += [
            Row(what, seconds, "s", slower, way, ratio_aim=in_time),
            Row(what, megabytes, "MB", larger, way, ours_aim=below, ratio_aim=in_memory),
        ]
    return found


def main() -> None:
    """Print two rows per size and form."""
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[1024, 8192, 32_768])
    arguments.add_argument("--dim", type=int, default=512)
    options = arguments.parse_args()
    rows = [row for size in options.rows for row in rows_of(size, options.dim, options.rounds)]
    present(rows, options.json)


if __name__ == "__main__":
    main()
