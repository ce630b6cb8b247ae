"""One optimiser step of a loss that couples all rows of a batch, however the batch is cut up.

Contrastive and Cox losses compare each row with every other one. Accumulating gradients over
micro-batches, or letting each process compare its own rows only, optimises another loss (gradient
errors of 17 to 47 per cent). Here the gradient depends on the batch alone: rows are encoded in
micro-batches without a graph, the loss and its gradient are taken on the outputs of all rows of all
processes, and the rows are encoded once more, with the same random numbers, to carry that gradient
into the parameters (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup", extended to any coupled loss and to processes).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fm_med.distributed import gather_batch, gather_sizes, needs_equal_pieces
from fm_med.errors import InputError

Tensors = dict[str, Tensor]
Loss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
RowLoss = Callable[[Tensors, Tensors], Tensor]


def coupled_backward(
    accelerator: Accelerator,
    model: nn.Module,
    inputs: Tensors,
    targets: Tensors,
    *,
    loss: Loss,
    row_loss: RowLoss | None = None,
    micro_batch_size: int | None = None,
) -> Tensor:
    """Back-propagate the loss of one global batch into the model's parameters.

    `optimizer.zero_grad()` comes before, clipping and `optimizer.step()` after it, by the caller.

    Args:
        accelerator: Knows the processes, the precision and the gradient scaler.
        model: Prepared by `accelerator`; called with `inputs` as keywords, returns a dict of
            tensors with one row per input row. Every trainable parameter must take part in the
            loss, as everywhere under DDP (without `find_unused_parameters`).
        inputs: This process's rows; processes may hold different numbers of them, but at least one.
        targets: This process's rows of what else the losses need (ids, time, event).
        loss: Maps outputs and targets of the WHOLE batch, in float32 or wider, to a scalar. It may
            use parameters of the model directly (a temperature): their gradient is exact, too. What
            it does not look up is not sent between processes, so all processes must look up the
            same names in the same order.
        row_loss: Maps outputs and targets of some rows to (rows,) losses, whose mean over the
            whole batch is added; for losses that do not couple rows (reconstruction).
        micro_batch_size: Rows of a process held in memory with their graph; all when None.

    Returns:
        The loss of the global batch, a detached scalar, equal on all processes: a check for
        non-finite values decides the same on each of them.

    Raises:
        InputError: A process has no rows, or the model has a BatchNorm in training mode although
            the batch is cut up.
    """
    sizes = gather_sizes(len(next(iter(inputs.values()))), accelerator.device)
    if min(sizes) == 0:
        raise InputError(
            f"the processes hold {sizes} rows of a batch, but each needs at least one; "
            "use fewer processes or leave out the last batch"
        )
    pieces = cut(sizes[accelerator.process_index], micro_batch_size)
    if needs_equal_pieces(accelerator):
        pieces = cut_alike(sizes, micro_batch_size)[accelerator.process_index]
    step = _Step(accelerator, model, inputs, targets, loss, row_loss, sum(sizes))
    # All processes take the same way, or their collective calls would not meet.
    if micro_batch_size is None or micro_batch_size >= max(sizes):
        if len(sizes) > 1:
            refuse_batch_norm(model)
        return step.in_one_pass()
    refuse_batch_norm(model)
    return step.in_two_passes(pieces)


@dataclass(frozen=True)
class _Step:
    """One batch: this process's rows and the losses over all rows."""

    accelerator: Accelerator
    model: nn.Module
    inputs: Tensors
    targets: Tensors
    loss: Loss
    row_loss: RowLoss | None
    total_rows: int

    def in_one_pass(self) -> Tensor:
        """Encode all rows with their graph."""
        piece = slice(None)
        outputs = self.encode(piece)
        value = self.loss(Gathered(outputs), Gathered(self.targets))
        extra = self.extra(outputs, piece)
        self.accelerator.backward(value if extra is None else value + extra)
        return self.total(value, extra)

    def in_two_passes(self, pieces: list[slice]) -> Tensor:
        """Encode without graph, take the loss, encode again with graph piece by piece."""
        states, outputs = self.encode_without_graph(pieces)
        value, slopes, direct = self.gradients(outputs)
        extra = None
        for number, (piece, state) in enumerate(zip(pieces, states)):
            last = number == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                _set_random_state(state, self.accelerator.device)
                outputs = self.encode(piece)
                # Its gradient is the loss's: slopes are constants here.
                parts = [(outputs[name] * slope[piece]).sum() for name, slope in slopes.items()]
                if last:
                    parts += [(parameter * slope).sum() for parameter, slope in direct]
                own = self.extra(outputs, piece)
                if own is not None:
                    parts.append(own)
                    extra = own.detach() if extra is None else extra + own.detach()
                self.accelerator.backward(torch.stack(parts).sum())
        return self.total(value, extra)

    def encode(self, piece: slice) -> Tensors:
        """Return the outputs of some rows, half precision widened to float32 for the loss."""
        with self.accelerator.autocast():  # Accelerate does not wrap a sharded model in it
            outputs = self.model(**{name: value[piece] for name, value in self.inputs.items()})
        return {
            name: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
            for name, value in outputs.items()
        }

    @torch.no_grad()
    def encode_without_graph(self, pieces: list[slice]) -> tuple[list[list[Tensor]], Tensors]:
        """Return the random state before each piece and the outputs of all rows."""
        states, parts = [], []
        for piece in pieces:
            states.append(_random_state(self.accelerator.device))
            parts.append(self.encode(piece))
        # An autocast around the whole step would hand the casts made here, which have no graph, to
        # the second pass.
        torch.clear_autocast_cache()
        return states, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def gradients(self, outputs: Tensors) -> tuple[Tensor, Tensors, list[tuple[Tensor, Tensor]]]:
        """Return the coupled loss, its gradient by output, and by parameter it uses directly."""
        leaves = {k: v.requires_grad_() for k, v in outputs.items() if v.is_floating_point()}
        parameters = [value for value in self.model.parameters() if value.requires_grad]
        value = self.loss(Gathered(outputs), Gathered(self.targets))
        slopes = torch.autograd.grad(value, [*leaves.values(), *parameters], allow_unused=True)
        by_output = {name: g for name, g in zip(leaves, slopes) if g is not None}
        by_parameter = zip(parameters, slopes[len(leaves) :])
        return value, by_output, [(p, g) for p, g in by_parameter if g is not None]

    def extra(self, outputs: Tensors, piece: slice) -> Tensor | None:
        """Return these rows' part of the mean row loss, scaled for DDP's mean over processes."""
        if self.row_loss is None:
            return None
        losses = self.row_loss(outputs, {name: v[piece] for name, v in self.targets.items()})
        return losses.sum() * (self.accelerator.num_processes / self.total_rows)

    def total(self, value: Tensor, extra: Tensor | None) -> Tensor:
        """Return coupled loss plus mean row loss over all processes."""
        if extra is None:
            return value.detach()
        mean = self.accelerator.reduce(extra.detach().clone(), reduction="mean")
        return value.detach() + mean


class Gathered(Mapping[str, Tensor]):
    """Tensors of all processes, each sent when it is looked up for the first time."""

    def __init__(self, own: Tensors) -> None:
        self._own = own
        self._all: Tensors = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._all:
            self._all[name] = gather_batch(self._own[name])
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def cut(rows: int, micro_batch_size: int | None) -> list[slice]:
    """Cut a process's rows into consecutive micro-batches.

    Raises:
        InputError: `micro_batch_size` is below 1.
    """
    if micro_batch_size is not None and micro_batch_size < 1:
        raise InputError(f"micro_batch_size must be at least 1, not {micro_batch_size}")
    size = rows if micro_batch_size is None else min(rows, micro_batch_size)
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


def cut_alike(sizes: list[int], micro_batch_size: int | None) -> list[list[slice]]:
    """Cut the rows of all processes into equally many micro-batches.

    A sharded model is put together, or its gradient is, for each of them by all at once.

    Raises:
        InputError: A process has fewer rows than another one has micro-batches.
    """
    count = max(len(cut(rows, micro_batch_size)) for rows in sizes)
    if min(sizes) < count:
        raise InputError(
            f"the processes hold {sizes} rows of a batch, which cannot be cut into {count} "
            "micro-batches on each of them, as a sharded model needs; raise micro_batch_size"
        )
    bounds = [[rows * piece // count for piece in range(count + 1)] for rows in sizes]
    return [[slice(*pair) for pair in pairwise(own)] for own in bounds]


def refuse_batch_norm(model: nn.Module) -> None:
    """Refuse a model whose rows depend on the rows they are encoded with.

    Raises:
        InputError: A BatchNorm is in training mode.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if module.training or not module.track_running_stats:
            raise InputError(
                f"the batch is cut into micro-batches or over processes, but {name!r} is a "
                "BatchNorm in training mode: its statistics, and so the gradient, would depend on "
                "the cut; put it in eval mode, or use GroupNorm"
            )


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])
