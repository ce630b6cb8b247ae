"""What pretraining on real ECG-report pairs gives on patients that it has not seen: PTB-XL.

    fm-med cohort ptbxl PTBXL cohorts/ptbxl
    fm-med text-model --reports REPORTS.csv --output text-models/ptbxl
    python scripts/evidence_ptbxl.py --cohort cohorts/ptbxl --text_encoder text-models/ptbxl \
        --simulated runs/demo/model --output runs/evidence_ptbxl

Five folds grouped by patient: in each, the recipe pretrains on the other patients' recordings and
texts, a linear probe is fitted on their features, and the left-out patients are scored. The table
holds AUROC of the pooled out-of-fold scores with intervals over patients, beside a random encoder,
an encoder pretrained on simulated pairs only, and logistic regression on signal statistics.
"""

import argparse
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fm_med.cohort import Cohort, CohortWriter, open_cohort
from fm_med.ecg.storage import decode
from fm_med.probe import LabelledFeatures, LabelScores, linear_scores, patient_folds

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "ecg_pretrain.py"
FOLDS = 5
SPLITS = ("train", "validation", "test")


def main() -> None:
    """Pretrain what has not been pretrained yet, probe, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--text_encoder", required=True)
    parser.add_argument("--simulated", required=True, help="model pretrained on simulated pairs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num_epochs", type=int, default=30)
    arguments = parser.parse_args()
    cohort = open_cohort(arguments.cohort)
    table = pa.concat_tables([cohort.splits[split] for split in SPLITS]).combine_chunks()
    names = cohort.card.label_sets["superclass"]
    labels = np.stack([table[name].to_numpy(zero_copy_only=False) for name in names], 1)
    known = np.array([row[0] is not None for row in labels.tolist()])
    # One of two equal recordings goes: PTB-XL files a few under two patients.
    _, first = np.unique(table["middle_hash"].to_pylist(), return_index=True)
    known &= np.isin(np.arange(len(known)), first)
    table, labels = table.filter(pa.array(known)), labels[known].astype(bool)
    subjects = np.array(table["subject_id"].to_pylist())
    fold = patient_folds(labels, subjects, folds=FOLDS)
    data = LabelledFeatures(np.zeros((len(labels), 1)), labels, subjects, tuple(names))
    rows = {"signal statistics": scores(data, fold, [signal_statistics(table)] * FOLDS)}
    for name, encoder in (
        ("random encoder", "dual_attention"),
        ("simulated pairs only", arguments.simulated),
    ):
        rows[name] = scores(data, fold, [encode(*start(encoder), table)] * FOLDS)
    for source in ("report", "statements"):
        for origin, encoder in (("scratch", "dual_attention"), ("simulated", arguments.simulated)):
            job = Job(source, encoder, arguments.text_encoder, arguments.num_epochs)
            features = []
            for k in range(FOLDS):
                folder = arguments.output / f"cohort-fold-{k}"
                if not folder.exists():
                    write_fold(cohort, table, fold, k, folder)
                run = arguments.output / f"{source}-{origin}-fold-{k}"
                features.append(pretrained_features(job, folder, run, table))
            rows[f"PTB-XL pairs ({source}), from {origin}"] = scores(data, fold, features)
    print(f"{len(labels)} recordings of {len(set(subjects))} patients, {FOLDS} folds")
    print("| encoder | NORM AUROC | superclass macro AUROC |\n|---|---|---|")
    for name, score in rows.items():
        print(f"| {name} | {score.per_label()['NORM']} | {score.macro_auroc()} |")


def scores(data: LabelledFeatures, fold: np.ndarray, features: list[np.ndarray]) -> LabelScores:
    """Return out-of-fold probe scores; fold k uses its own features (rows, dim)."""
    score = np.zeros((1, *data.labels.shape))
    for k in range(FOLDS):
        own = LabelledFeatures(features[k], data.labels, data.subject_id, data.names)
        score[0, fold == k] = linear_scores(own.take(fold != k), features[k][fold == k])
    return LabelScores(score, data.labels, data.subject_id, data.names)


@dataclass(frozen=True)
class Job:
    """What one pretraining run of the table is made of."""

    source: str
    encoder: str
    text_encoder: str
    num_epochs: int


def pretrained_features(job: Job, cohort: Path, folder: Path, table: pa.Table) -> np.ndarray:
    """Pretrain with the recipe's own functions; return features of every recording."""
    import torch

    from fm_med import best_weights, distributed, pairs
    from fm_med.run import Run

    if (folder / "features.npy").exists():
        return np.load(folder / "features.npy")
    recipe = runpy.run_path(str(RECIPE))
    config = recipe["Config"](
        cohort=str(cohort),
        text_encoder=job.text_encoder,
        text_source=job.source,
        encoder=job.encoder,
        num_epochs=job.num_epochs,
        per_device_batch_size=32,
        output=str(folder),
    )
    opened = open_cohort(cohort)
    store = pairs.report_store(opened, job.text_encoder, job.source)
    train, validation = (
        pairs.read_pairs(opened, split, store, job.source) for split in ("train", "validation")
    )
    run = Run(folder, config, distributed.accelerator())
    torch.manual_seed(config.seed)
    task = recipe["build"](config, train, store.encoder.card)
    best = recipe["fit"](config, run, task, train, validation)
    best_weights.load_best(run.checkpoints, step=best, module=task.towers)
    features = encode(task.towers.encoder, task.processor, table)
    np.save(folder / "features.npy", features)
    return features


def write_fold(cohort: Cohort, table: pa.Table, fold: np.ndarray, k: int, folder: Path) -> None:
    """Write the cohort whose test split is fold k; a tenth of the other patients validates."""
    labels = np.zeros((len(fold), 0), bool)
    subjects = np.array(table["subject_id"].to_pylist())
    tenth = patient_folds(labels, subjects, folds=10, seed=k) == 0
    split = np.where(fold == k, "test", np.where(tenth, "validation", "train"))
    with CohortWriter(folder, cohort.card, table.schema) as writer:
        for name in SPLITS:
            writer.write(name, table.filter(pa.array(split == name)))


def start(encoder: str) -> tuple[Any, Any]:
    """Return an encoder by its name, randomly initialised, or from a model folder."""
    import torch

    from fm_med.hub import start_encoder

    torch.manual_seed(0)
    return start_encoder(encoder, sampling_rate=100.0, seconds=10.0)


def encode(encoder: Any, processor: Any, table: pa.Table) -> np.ndarray:
    """Return pooled features (rows, pooled_size)."""
    import torch

    encoder.eval()
    parts = []
    for first in range(0, len(table), 128):
        inputs = processor.from_stored(decode(table.slice(first, 128)))
        with torch.inference_mode():
            parts.append(encoder(**inputs).pooler_output.numpy())
    return np.concatenate(parts)


def signal_statistics(table: pa.Table) -> np.ndarray:
    """Return (rows, 60) mean, SD, minimum, maximum and SD of the slope of each lead in mV."""
    stored = decode(table)
    signal = stored.signal * stored.gain[..., None]
    slope = np.diff(signal, axis=2)
    parts = [signal.mean(2), signal.std(2), signal.min(2), signal.max(2), slope.std(2)]
    return np.concatenate(parts, axis=1)


if __name__ == "__main__":
    main()
