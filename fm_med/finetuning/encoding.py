"""Run all rows through an encoder or a predictor once, over all processes."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from fm_med.examples import Examples
from fm_med.predictor import Predictor
from fm_med.sampling import in_order


def encode_rows(
    encoder: nn.Module,
    processor: Any,
    examples: Examples,
    accelerator: Accelerator,
    *,
    batch_size: int = 256,
) -> np.ndarray:
    """Return (rows, pooled_size) float32 pooled features, in full precision, on every process."""
    encoder.eval()

    def pooled(inputs: dict[str, Tensor], _rows: np.ndarray) -> Tensor:
        return encoder(**inputs).pooler_output

    return _all_rows(pooled, processor, examples, accelerator, batch_size)


def predict_rows(
    predictor: Predictor,
    processor: Any,
    examples: Examples,
    accelerator: Accelerator,
    *,
    batch_size: int = 256,
    mixed_precision: bool = False,
) -> np.ndarray:
    """Return the head's output for all rows, on every process.

    Args:
        predictor: Not wrapped.
        processor: Prepares the rows.
        examples: The rows.
        accelerator: Knows the processes.
        batch_size: Rows at a time.
        mixed_precision: In the precision of training (faster), not in that of a loaded model.

    Returns:
        (rows,) or (rows, outputs) float32.
    """
    predictor.eval()
    name = predictor.head.config.output_name

    def predicted(inputs: dict[str, Tensor], rows: np.ndarray) -> Tensor:
        with accelerator.autocast() if mixed_precision else nullcontext():
            output = predictor.encoder(**inputs).pooler_output
            clinical = examples.covariates(rows, accelerator.device).get("clinical")
            return predictor.head(output, clinical)[name]

    return _all_rows(predicted, processor, examples, accelerator, batch_size)


@torch.inference_mode()
def _all_rows(
    run: Callable[[dict[str, Tensor], np.ndarray], Tensor],
    processor: Any,
    examples: Examples,
    accelerator: Accelerator,
    batch_size: int,
) -> np.ndarray:
    """Call `run` on every row exactly once and join what the processes found."""
    rank, world_size = accelerator.process_index, accelerator.num_processes
    parts = []
    for rows in in_order(len(examples), batch_size, rank=rank, world_size=world_size):
        inputs = examples.inputs(rows, processor, accelerator.device)
        parts.append(run(inputs, rows).float().cpu().numpy())
    joined = gather_object([np.concatenate(parts)] if parts else [])
    values = np.concatenate(joined)
    if len(values) != len(examples):
        raise RuntimeError(f"{len(values)} rows came back, {len(examples)} expected")
    return values
