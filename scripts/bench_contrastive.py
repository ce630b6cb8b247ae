"""Time and memory of the contrastive losses in blocks and with the whole matrix.

    python scripts/bench_contrastive.py --rows 1024 4096 16384

Every figure comes from a process of its own: seconds of one core, and memory beyond the inputs.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional

from fm_med.objectives import contrastive_loss, siglip_loss

FORMS = ("blocks", "blocks bfloat16", "siglip blocks", "whole matrix")


def whole_matrix(signal: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE as usually written, without several positives."""
    logits = scale * signal @ text.T
    own = torch.arange(len(signal))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def measure(form: str, rows: int, dim: int) -> None:
    """Print seconds and megabytes of one forward and backward pass."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if "bfloat16" in form else torch.float32
    made = functional.normalize(torch.randn(2, rows, dim), dim=-1).to(dtype)
    signal, text = (x.clone().requires_grad_() for x in made)
    scale, ids = torch.tensor(14.0, requires_grad=True), torch.arange(rows) // 2

    def loss(first: Tensor, second: Tensor, ids: Tensor) -> Tensor:
        if form == "whole matrix":
            return whole_matrix(first, second, scale)
        if form.startswith("siglip"):
            bias = torch.tensor(-10.0, requires_grad=True)
            return siglip_loss(first, second, logit_scale=scale, logit_bias=bias, report_id=ids)
        return contrastive_loss(first, second, logit_scale=scale, report_id=ids)

    loss(signal[:64], text[:64], ids[:64]).backward()
    signal.grad = text.grad = None
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    loss(signal, text, ids).backward()
    seconds = time.process_time() - start
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{form:16} {rows:6} rows {seconds:8.3f} s {extra:8.0f} MB", flush=True)


def main() -> None:
    """Start a process for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 1024, 4096, 8192])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--here", action="store_true", help="measure in this process")
    options = parser.parse_args()
    for rows in options.rows:
        for form in options.forms:
            if options.here:
                measure(form, rows, options.dim)
                continue
            command = [sys.executable, __file__, "--here", "--rows", str(rows), "--forms", form]
            subprocess.run([*command, "--dim", str(options.dim)], check=True)


if __name__ == "__main__":
    main()
