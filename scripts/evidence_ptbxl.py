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
import subprocess
import sys
from pathlib import Path

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
    parser.add_argument("--num_epochs", type=int, default=20)
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
    models = {"random encoder": ["dual_attention"] * FOLDS}
    models["simulated pairs only"] = [arguments.simulated] * FOLDS
    for source in ("report", "statements"):
        for start, encoder in (("scratch", "dual_attention"), ("simulated", arguments.simulated)):
            runs = [
                pretrained(
                    cohort,
                    table,
                    fold,
                    k,
                    source=source,
                    encoder=encoder,
                    start=start,
                    arguments=arguments,
                )
                for k in range(FOLDS)
            ]
            models[f"PTB-XL {source}s, from {start}".replace("statementss", "statements")] = runs
    for name, encoders in models.items():
        rows[name] = scores(data, fold, [encode(encoder, table) for encoder in encoders])
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


def pretrained(
    cohort: Cohort,
    table: pa.Table,
    fold: np.ndarray,
    k: int,
    *,
    source: str,
    encoder: str,
    start: str,
    arguments: argparse.Namespace,
) -> str:
    """Return the model pretrained without the patients of fold k; trained if not there yet."""
    run = arguments.output / f"{source}-{start}-fold-{k}"
    if not (run / "model").exists():
        command = [
            sys.executable,
            str(RECIPE),
            f"--cohort={fold_cohort(cohort, table, fold, k, arguments.output)}",
            f"--text_encoder={arguments.text_encoder}",
            f"--text_source={source}",
            f"--encoder={encoder}",
            f"--num_epochs={arguments.num_epochs}",
            "--per_device_batch_size=64",
            f"--output={run}",
        ]
        subprocess.run(command, check=True)
    return str(run / "model")


def fold_cohort(cohort: Cohort, table: pa.Table, fold: np.ndarray, k: int, output: Path) -> Path:
    """Write the cohort whose test split is fold k and whose validation split is a tenth more."""
    folder = output / f"cohort-fold-{k}"
    if folder.exists():
        return folder
    labels = np.zeros((len(fold), 0), bool)
    subjects = np.array(table["subject_id"].to_pylist())
    tenth = patient_folds(labels, subjects, folds=10, seed=k) == 0
    split = np.where(fold == k, "test", np.where(tenth, "validation", "train"))
    with CohortWriter(folder, cohort.card, table.schema) as writer:
        for name in SPLITS:
            writer.write(name, table.filter(pa.array(split == name)))
    return folder


def encode(encoder: str, table: pa.Table) -> np.ndarray:
    """Return pooled features (rows, pooled_size) of an encoder's name or a model folder."""
    import torch

    from fm_med.hub import start_encoder

    torch.manual_seed(0)
    model, processor = start_encoder(encoder, sampling_rate=100.0, seconds=10.0)
    model.eval()
    parts = []
    for first in range(0, len(table), 128):
        inputs = processor.from_stored(decode(table.slice(first, 128)))
        with torch.inference_mode():
            parts.append(model(**inputs).pooler_output.numpy())
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
