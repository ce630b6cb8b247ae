"""The end of a pretraining run: test-split scores beside a random encoder, and the report page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from fm_med.alignment import AlignmentHeads, TwoTowers
from fm_med.ecg.dual_attention import DualAttentionModel
from fm_med.ecg.processor import EcgProcessor
from fm_med.errors import InputError
from fm_med.explain import lead_and_time_attention
from fm_med.metrics import embedding_scores, retrieval_scores
from fm_med.pairs import Pairs
from fm_med.pretraining import Pretraining, encode_split, project
from fm_med.probe import LabelledFeatures, difference, probe, zero_shot
from fm_med.report import ExampleECG, pretraining_sections, write_metrics, write_report
from fm_med.streamed_pairs import TrainingPairs
from fm_med.text.prompts import Prompts, available_prompts, load_prompts, zero_shot_directions
from fm_med.text.store import ReportStore

EXAMPLES = 3


@dataclass(frozen=True)
class EncodedSplit:
    """A split with its pooled features, from the trained and from a random encoder.

    Attributes:
        pairs: The split.
        features: (pairs, pooled_size) float32 of the trained encoder.
        random_features: (pairs, pooled_size) float32 of the same encoder, randomly initialised.
    """

    pairs: Pairs
    features: np.ndarray
    random_features: np.ndarray

    def labelled(self, names: Sequence[str], features: np.ndarray) -> LabelledFeatures:
        """Pair features with labels, leaving out rows for which a label is not known."""
        labels = self.pairs.labels(names)
        known = ~np.isnan(labels).any(axis=1)
        return LabelledFeatures(
            features[known], labels[known] > 0.5, self.pairs.subject_id[known], tuple(names)
        )


def encode_both(
    pairs: TrainingPairs, task: Pretraining, untrained: torch.nn.Module, accelerator: Accelerator
) -> EncodedSplit:
    """Encode a split with the trained encoder and with one as it was before training.

    Of a streamed split only what is at hand.
    """
    pairs = pairs.at_hand
    trained, random = (
        encode_split(pairs, task.processor, encoder, accelerator)
        for encoder in (task.towers.encoder, untrained.to(accelerator.device))
    )
    return EncodedSplit(pairs, trained, random)


@dataclass(frozen=True)
class Labels:
    """What probes and zero-shot classification are about.

    Attributes:
        names: Label columns; none when the cohort has no label set.
        prompts: Texts of presence and absence per label; None when there are none for this set.
        budget: Labelled persons of the probes.
    """

    names: tuple[str, ...]
    prompts: Prompts | None
    budget: int


def choose_labels(
    label_sets: Mapping[str, list[str]],
    *,
    label_set: str | None,
    prompts: str | None,
    source: str,
    budget: int,
) -> Labels:
    """Find the labels of the final evaluation and their prompts, before any training.

    Args:
        label_sets: Of the cohort's card.
        label_set: Which of them; None takes the first.
        prompts: A prompt file; None takes the package's for the label set, if it has one.
        source: "report" or "statements", the form of the text that the prompts should have.
        budget: Labelled persons of the probes.

    Raises:
        InputError: No such label set, no such prompt file, or a label without prompts.
    """
    if label_set is not None and label_set not in label_sets:
        raise InputError(
            f"the cohort has no label set {label_set!r}; it has {', '.join(label_sets) or 'none'}"
        )
    chosen = label_set or next(iter(label_sets), "")
    names = tuple(label_sets.get(chosen, ()))
    ours = f"{chosen}_statements" if source == "statements" else chosen
    if prompts is None and ours not in available_prompts():
        return Labels(names, None, budget)
    loaded = load_prompts(prompts or ours)
    missing = [name for name in names if name not in loaded]
    if missing:
        raise InputError(f"the prompts {prompts or ours} lack the labels {', '.join(missing)}")
    return Labels(names, {name: loaded[name] for name in names}, budget)


def final_metrics(
    heads: AlignmentHeads,
    store: ReportStore,
    train: EncodedSplit,
    test: EncodedSplit,
    labels: Labels,
) -> dict[str, Any]:
    """Evaluate a finished run on its test split, next to a randomly initialised encoder.

    Returns:
        The nested content of `metrics.json`; every leaf is an `Interval` over persons.
    """
    signal, text = project(heads, test.features, test.pairs.report_embedding)
    metrics: dict[str, Any] = {
        "retrieval": retrieval_scores(signal, text, test.pairs.report_id, test.pairs.subject_id),
        "embedding": embedding_scores(signal, test.pairs.subject_id),
    }
    if not labels.names:
        return metrics
    scores = _probes(train, test, labels)
    if labels.prompts is not None:
        present, absent = prompt_directions(heads, store, labels.prompts)
        scores["zero_shot"] = zero_shot(test.labelled(labels.names, signal), present, absent)
    for name, score in scores.items():
        metrics[name] = {"macro_auroc": score.macro_auroc(), "per_label": score.per_label()}
    gain = difference(scores["linear_probe"], scores["linear_probe_random"])
    metrics["difference"] = {"linear_probe_random": {"macro_auroc": gain}}
    return metrics


def prompt_directions(
    heads: AlignmentHeads, store: ReportStore, prompts: Prompts
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean projected embedding of each label's prompts, present and absent.

    Returns:
        Two (labels, embedding_dim) arrays in the order of `prompts`.
    """

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> np.ndarray:
        raw = torch.from_numpy(store.embed(texts)).to(heads.text_mean.device)
        return heads.project_text(raw).cpu().numpy()

    return zero_shot_directions(embed, prompts)


def write(
    folder: Path,
    history: list[dict[str, Any]],
    metrics: dict[str, Any],
    *,
    test: EncodedSplit,
    task: Pretraining,
    labels: Labels,
) -> None:
    """Write `metrics.json` and `report.html` of a finished run."""
    write_metrics(folder / "metrics.json", metrics)
    signal, _ = project(task.towers.heads, test.features, test.pairs.report_embedding)
    shown = test.labelled(labels.names, signal) if labels.names else None
    card = test.pairs.cohort.card
    write_report(
        folder / "report.html",
        title="ECG-report pretraining",
        subtitle=f"{card.name}; test split of {len(test.pairs)} recordings",
        sections=pretraining_sections(
            history,
            metrics,
            examples=_examples(test.pairs, task.towers, task.processor),
            embedding=None if shown is None else shown.features,
            labels=None if shown is None else shown.labels,
            label_names=labels.names,
            budget=labels.budget,
        ),
    )


def summary(metrics: dict[str, Any]) -> str:
    """Return the main results as a small table for the terminal."""
    rows = {
        "zero-shot macro AUROC": ("zero_shot", "macro_auroc"),
        "linear probe macro AUROC": ("linear_probe", "macro_auroc"),
        "  same, random encoder": ("linear_probe_random", "macro_auroc"),
        "report found first": ("retrieval", "recall_at_1"),
        "report in first ten": ("retrieval", "recall_at_10"),
        "mean pairwise cosine": ("embedding", "mean_pairwise_cosine"),
        "effective rank": ("embedding", "effective_rank"),
    }
    lines = [
        f"  {title:<26}{metrics[group][name]}"
        for title, (group, name) in rows.items()
        if group in metrics
    ]
    return "\n".join(["test split (95 % interval, persons resampled):", *lines])


def _probes(train: EncodedSplit, test: EncodedSplit, labels: Labels) -> dict[str, Any]:
    """Return the scores of the same probe on the trained and on the random encoder."""
    budget = min(labels.budget, len(set(train.labelled(labels.names, train.features).subject_id)))
    features = {
        "linear_probe": (train.features, test.features),
        "linear_probe_random": (train.random_features, test.random_features),
    }
    return {
        name: probe(
            train.labelled(labels.names, for_training),
            test.labelled(labels.names, for_test),
            budget=budget,
        )
        for name, (for_training, for_test) in features.items()
    }


def _examples(pairs: Pairs, towers: TwoTowers, processor: EcgProcessor) -> list[ExampleECG]:
    """Return the first recordings of the split with different reports, and their attention."""
    _, first = np.unique(pairs.report_id, return_index=True)
    chosen = np.sort(first)[:EXAMPLES]
    inputs = pairs.inputs(chosen, processor, towers.heads.text_mean.device)
    maps: dict[str, Any] = {}
    if isinstance(towers.encoder, DualAttentionModel):
        rate = processor.sampling_rate
        maps = lead_and_time_attention(towers.encoder, inputs, sampling_rate=rate)
    return [
        ExampleECG(
            signal=inputs["signal"][row].cpu().numpy(),
            sampling_rate=processor.sampling_rate,
            title=f"Recording {row + 1} of the test split",
            report=pairs.report[pair],
            lead_mask=inputs["lead_mask"][row].cpu().numpy(),
            time_attention=maps["time"][row].cpu().numpy() if maps else None,
            lead_attention=maps["lead"][row].cpu().numpy() if maps else None,
        )
        for row, pair in enumerate(chosen)
    ]
