"""ECG-report pretraining: batches, loss, and what is measured after each epoch."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from fm_med.alignment import AlignmentHeads, TwoTowers
from fm_med.best_weights import save_best
from fm_med.ecg.augment import EcgAugmentation, augment
from fm_med.ecg.processor import EcgProcessor
from fm_med.examples import read_examples
from fm_med.feeding import to_device
from fm_med.metrics import (
    collapse_warning,
    effective_rank,
    mean_pairwise_cosine,
    retrieval_rank,
)
from fm_med.objectives import contrastive_loss, cosine_loss, siglip_loss
from fm_med.optim import ParameterGroup, parameter_groups
from fm_med.pairs import Batch, Pairs
from fm_med.reference import kept_reference
from fm_med.run import Run
from fm_med.sampling import in_order

# Embeddings of an untrained encoder all lie close together: collapse is judged after these epochs.
SETTLED_AFTER = 3


class PairBatches(Protocol):
    """Global batches of pairs, each process's share by its step."""

    def at(self, step: int) -> Batch:
        """Return this process's share of the batch of a step."""
        ...


Objective = Literal["infonce", "siglip", "cosine"]
Tensors = dict[str, Tensor]


@dataclass
class Pretraining:
    """The parts of a pretraining run that the loop puts together.

    Attributes:
        towers: Encoder, projections, temperature and perhaps a decoder.
        processor: Prepares stored recordings.
        objective: The alignment loss.
        augmentation: Strengths, or None.
        reconstruction_weight: Weight of rebuilding the recording before its augmentation.
        seed: Of the augmentation.
    """

    towers: TwoTowers
    processor: EcgProcessor
    objective: Objective
    augmentation: EcgAugmentation | None
    reconstruction_weight: float
    seed: int

    def batch(self, batch: Batch, device: torch.device) -> tuple[Tensors, Tensors]:
        """Read, process and augment this process's share of a batch.

        Returns:
            What the towers see, and what only the loss sees: ids, and with a decoder the recording
            before augmentation, `clean` (batch, leads, samples) and its `clean_mask`.
        """
        inputs = batch.pairs.inputs(batch.rows, self.processor, device)
        texts = batch.pairs.texts(batch.rows, device)
        targets = {name: texts[name] for name in ("report_id", "subject_id")}
        if self.towers.decoder is not None:
            targets |= {"clean": inputs["signal"], "clean_mask": inputs["lead_mask"]}
        if self.augmentation is not None:
            drawn = {"seed": self.seed, "epoch": batch.epoch}
            rows = to_device(batch.row_id, device)
            inputs = augment(inputs, settings=self.augmentation, rows=rows, **drawn)
        return {**inputs, "report_embedding": texts["report_embedding"]}, targets

    def read(
        self, batches: PairBatches, device: torch.device, step: int
    ) -> tuple[Batch, Tensors, Tensors]:
        """Return this process's share of the batch of a step, and what `batch` makes of it."""
        share = batches.at(step)
        return share, *self.batch(share, device)

    def parameter_groups(
        self, learning_rate: float, heads_learning_rate: float | None, weight_decay: float
    ) -> list[ParameterGroup]:
        """Return the optimiser's groups: encoder, and heads (with decoder) at their own rate.

        Args:
            learning_rate: Peak of the encoder.
            heads_learning_rate: Peak of the heads; None for the encoder's.
            weight_decay: Of weight matrices.
        """
        heads = [part for part in (self.towers.heads, self.towers.decoder) if part is not None]
        heads_rate = learning_rate if heads_learning_rate is None else heads_learning_rate
        return parameter_groups(
            {"encoder": self.towers.encoder, "heads": torch.nn.ModuleList(heads)},
            learning_rates={"encoder": learning_rate, "heads": heads_rate},
            weight_decay=weight_decay,
        )

    def sample(self, pairs: Pairs, device: torch.device, *, rows: int = 4) -> Tensors:
        """Return the encoder's inputs for the first rows of a split."""
        return pairs.inputs(np.arange(min(rows, len(pairs))), self.processor, device)

    def saved(self, pairs: Pairs) -> dict[str, Any]:
        """Return what is saved after the training.

        Args:
            pairs: Of training, whose persons are kept in aggregates; of a stream what is at hand.
        """
        rows = read_examples(pairs.cohort, None, splits=[pairs.split]).take(pairs.rows)
        return {
            "encoder": self.towers.encoder,
            "processor": self.processor,
            "alignment": self.towers.heads,
            "reference": kept_reference(rows, self.towers.encoder, self.processor),
        }

    def loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return the alignment loss of the whole batch."""
        signal, text = outputs["signal_embedding"], outputs["text_embedding"]
        report_id, subject_id = targets["report_id"], targets["subject_id"]
        # The temperature came with each row; one of the equal values is enough.
        scale = outputs["logit_scale"][0]
        if self.objective == "cosine":
            return cosine_loss(signal, text) + 0.0 * scale  # DDP wants every parameter to take part
        if self.objective == "infonce":
            return contrastive_loss(
                signal, text, logit_scale=scale, report_id=report_id, subject_id=subject_id
            )
        return siglip_loss(
            signal,
            text,
            logit_scale=scale,
            logit_bias=outputs["logit_bias"][0],
            report_id=report_id,
            subject_id=subject_id,
        )

    def row_loss(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Return (rows,) weighted mean squared errors of the rebuilt leads, in mV squared."""
        if self.towers.decoder is None:
            return 0.0 * outputs["logit_scale"]
        error = (outputs["reconstruction"].float() - targets["clean"]).square().mean(-1)
        mask = targets["clean_mask"]
        return self.reconstruction_weight * (error * mask).sum(1) / mask.sum(1)

    def evaluate(
        self, run: Run, pairs: Pairs, *, step: int, epoch: int, best: dict[str, Any]
    ) -> dict[str, Any]:
        """Score the validation split, log the scores and keep the weights if they are the best.

        Returns:
            `best`, updated when the validation loss is lower than ever before.
        """
        features = encode_split(pairs, self.processor, self.towers.encoder, run.accelerator)
        scores, warning = epoch_scores(self.towers.heads, features, pairs)
        self.towers.train()
        run.log(step, epoch=epoch, **scores)
        run.say(
            f"epoch {epoch + 1}: "
            + ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        )
        if warning and epoch >= SETTLED_AFTER:
            run.say(f"warning: {warning}")
        if not scores["validation_loss"] < best["validation_loss"]:  # also when it is NaN
            return best
        save_best(run.checkpoints, step=step, module=self.towers, accelerator=run.accelerator)
        return {"step": step, "validation_loss": scores["validation_loss"]}


@torch.inference_mode()
def encode_split(
    pairs: Pairs,
    processor: EcgProcessor,
    encoder: torch.nn.Module,
    accelerator: Accelerator,
    *,
    batch_size: int = 256,
) -> np.ndarray:
    """Return the pooled features of every pair exactly once, over all processes.

    Returns:
        (pairs, pooled_size) float32, in the order of the pairs, on every process.
    """
    encoder.eval()
    rank, world_size = accelerator.process_index, accelerator.num_processes
    parts = []
    for batch in in_order(len(pairs), batch_size, rank=rank, world_size=world_size):
        inputs = pairs.inputs(batch, processor, accelerator.device)
        with accelerator.autocast():
            parts.append(encoder(**inputs).pooler_output.float().cpu().numpy())
    joined = gather_object([np.concatenate(parts)] if parts else [])
    features = np.concatenate(joined)
    if len(features) != len(pairs):
        raise RuntimeError(f"{len(features)} rows were encoded, {len(pairs)} expected")
    return features


@torch.inference_mode()
def project(
    heads: AlignmentHeads, features: np.ndarray, report_embedding: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Map features and report embeddings into the shared space.

    Returns:
        Two (pairs, embedding_dim) float32 arrays of unit length.
    """
    device = heads.text_mean.device
    heads.eval()
    signal = heads.project_signal(torch.from_numpy(features).to(device))
    text = heads.project_text(torch.from_numpy(report_embedding).to(device))
    return signal.cpu().numpy(), text.cpu().numpy()


def epoch_scores(
    heads: AlignmentHeads, features: np.ndarray, pairs: Pairs
) -> tuple[dict[str, float], str | None]:
    """Score a split as a whole: loss over all its pairs, retrieval, and whether it collapsed.

    Args:
        heads: Projections of the two towers.
        features: (pairs, pooled_size) from `encode_split`.
        pairs: The split.

    Returns:
        Numbers for the log, and a warning when the embeddings have collapsed.
    """
    signal, text = project(heads, features, pairs.report_embedding)
    with torch.inference_mode():
        scale = heads.temperature()["logit_scale"].cpu()
        loss = contrastive_loss(
            torch.from_numpy(signal),
            torch.from_numpy(text),
            logit_scale=scale,
            report_id=torch.from_numpy(pairs.report_id),
            subject_id=torch.from_numpy(pairs.person),
        )
    distinct, first = np.unique(pairs.report_id, return_index=True)
    forward = retrieval_rank(signal, text[first], pairs.report_id, distinct)
    reverse = retrieval_rank(text[first], signal, distinct, pairs.report_id)
    cosine, rank = float(mean_pairwise_cosine(signal)), float(effective_rank(signal))
    scores = {
        "validation_loss": float(loss),
        "recall_at_1": float((forward < 1).mean()),
        "recall_at_10": float((forward < 10).mean()),
        "signal_from_report_recall_at_1": float((reverse < 1).mean()),
        "signal_from_report_recall_at_10": float((reverse < 10).mean()),
        "mean_pairwise_cosine": cosine,
        "effective_rank": rank,
    }
    return scores, collapse_warning(cosine, rank)
