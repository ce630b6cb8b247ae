"""Image models by the recipe on public sets, beside plain baselines on the same folds.

    python scripts/evidence_images.py [--jobs chula,bccd,digits,faces,transfer] [--work FOLDER]
        [--folds 3]

Every number is cross-validated: folds between smears where they are known (chula), else between
images (bccd has no patients; digits and faces have none). Nothing is chosen on a fold's own rows:
epochs by a part of its training rows, costs and ridges by inner folds, weights of an ensemble by
the predictions of the other folds. Size, augmentation and learning rate of `apl` were chosen on
rows of chula's training and validation splits, among a handful of choices; nothing was chosen on
the other sets. Faces need scikit-image (pip install scikit-image). A run that ended is read, not
run again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from PIL import Image

from fm_med import hub
from fm_med.cohort import open_cohort
from fm_med.ensemble import (
    combine,
    fit_weights,
    load_ensemble,
    make_ensemble,
    out_of_fold,
)
from fm_med.folds import read_table
from fm_med.image.processor import ImageProcessor
from fm_med.image.storage import decode
from fm_med.metrics import accuracy, balanced_accuracy
from fm_med.probe_head import fit_probe_head
from fm_med.sources.images import ImageColumns, make_images

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("FM_MED_DATA", ROOT.parent / "shared" / "data"))
ALL = ["train", "validation", "test"]
SMALL = {
    "task": "classification",
    "target": ["class"],
    "encoder": "spatial_attention",
    "encoder_settings": {"widths": [16, 32, 64], "depths": [1, 1, 1], "pooling": "skip"},
    "processor_settings": {"height": 16, "width": 16},
    "peft": "full",
    "augment": "none",
    "num_epochs": 20,
    "learning_rate": 0.003,
    "per_device_batch_size": 64,
}
WHITE = {
    "processor_settings": {"height": 60, "width": 60},
    "imbalance": "weight",
    "num_epochs": 60,
    "patience": 20,
}


def main() -> None:
    """Run the jobs and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default="chula,bccd,digits,faces,transfer")
    parser.add_argument("--work", default="runs/images", type=Path)
    parser.add_argument("--folds", default=3, type=int)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.jobs.split(","):
        for line in JOBS[name](arguments.work, arguments.folds):
            print(line, flush=True)


def run(folder: Path, cohort: Path, settings: dict[str, Any], *, preset: str | None = None) -> Path:
    """Run the recipe, unless the folder holds a finished run."""
    if not (folder / "report" / "metrics.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        given = folder.with_suffix(".json")
        given.write_text(json.dumps({"mixed_precision": "no", **settings}))
        configs = [ROOT / "recipes" / "presets" / f"{preset}.yaml"] if preset else []
        flags = [part for path in (*configs, given) for part in ("--config", str(path))]
        command = [sys.executable, str(ROOT / "recipes" / "finetune.py"), *flags]
        command += ["--cohort", str(cohort), "--output", str(folder)]
        with folder.with_suffix(".log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    return folder


def crossed(folds: int) -> dict[str, Any]:
    """Return the settings of cross-validation over all rows of a cohort."""
    return {"folds": folds, "fold_splits": ALL, "validation_share": 0.1}


def by_fold(folder: Path, statistic: Any = accuracy) -> np.ndarray:
    """Return a score of each fold."""
    probability, label, fold = out_of_fold([folder])
    return np.array(
        [float(statistic(label[fold == k], probability[0][fold == k].argmax(1))) for k in set(fold)]
    )


def shown(name: str, scores: np.ndarray, bar: float | None = None) -> str:
    """Return a line: mean over folds, their t interval of 95 %, and the bar."""
    from scipy.stats import t

    reach = t.ppf(0.975, len(scores) - 1) * scores.std(ddof=1) / np.sqrt(len(scores))
    line = f"{name:<58}{scores.mean():.3f} ± {reach:.3f} ({len(scores)} folds)"
    return (
        line
        if bar is None
        else f"{line}  bar {bar:.3f} {'met' if scores.mean() >= bar else 'MISSED'}"
    )


def pixel_baseline(cohort: Path, run_folder: Path, side: int, statistic: Any) -> np.ndarray:
    """Score logistic regression on pixels, on the same folds as a run."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    opened = open_cohort(cohort)
    rows = pa.concat_tables(list(opened.splits.values()))
    x = ImageProcessor(height=side, width=side)(decode(rows))["pixel_values"].flatten(1).numpy()
    table = read_table(run_folder / "out_of_fold.csv")
    fold = dict(zip(table["record_id"].tolist(), table["fold"].tolist()))
    number = np.array([fold[key] for key in rows["record_id"].to_pylist()])
    label = np.unique(rows["class"].to_pylist(), return_inverse=True)[1]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    scores = []
    for k in np.unique(number):
        model.fit(x[number != k], label[number != k])
        scores.append(float(statistic(label[number == k], model.predict(x[number == k]))))
    return np.array(scores)


def chula(work: Path, folds: int) -> list[str]:
    """Red cells of 13 classes, split by smear."""
    source, cohort = DATA / "img_chula_rbc12_crops", work / "cohort-chula"
    if not cohort.is_dir():
        columns = ImageColumns("file", "smear", "class")
        make_images(source, cohort, table=source / "manifest.csv", columns=columns)
    folder = run(work / "chula", cohort, crossed(folds) | {"ema_decay": 0.98}, preset="apl")
    plain = pixel_baseline(cohort, folder, 20, accuracy)
    return [
        shown("chula, by smear: logistic regression on 20 px, accuracy", plain),
        shown("chula, by smear: apl, accuracy", by_fold(folder), 0.65),
    ]


def bccd(work: Path, folds: int) -> list[str]:
    """White cells of four classes; three basophils are too few, and there are no patient ids."""
    source, cohort = DATA / "img_bccd_wbc_crops" / "BCCD_cropped", work / "cohort-bccd"
    if not cohort.is_dir():
        names = ("Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")
        paths = [str(p.relative_to(source)) for n in names for p in sorted((source / n).iterdir())]
        manifest = pa.table({"file": paths, "class": [path.split("/")[0] for path in paths]})
        pa.csv.write_csv(manifest, work / "bccd.csv")
        columns = ImageColumns("file", None, "class")
        make_images(source, cohort, table=work / "bccd.csv", columns=columns, without_groups=True)
    folder = run(work / "bccd", cohort, crossed(folds) | WHITE, preset="apl")
    plain = pixel_baseline(cohort, folder, 24, balanced_accuracy)
    return [
        shown("bccd, by image: logistic on 24 px, balanced accuracy", plain),
        shown("bccd, by image: apl, balanced accuracy", by_fold(folder, balanced_accuracy), 0.70),
    ]


def written(folder: Path, images: np.ndarray, names: np.ndarray) -> Path:
    """Write grey images (n, h, w) in 0 to 1 as class folders."""
    for number, (image, name) in enumerate(zip(images, names)):
        place = folder / str(name)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(255 * image).astype(np.uint8)).save(place / f"{number:05d}.png")
    return folder


def digit_cohort(work: Path, name: str, kept: np.ndarray) -> Path:
    """Return a cohort of some of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    cohort = work / f"cohort-{name}"
    if not cohort.is_dir():
        data = load_digits()
        folder = written(work / name, data.images[kept] / 16.0, data.target[kept])
        make_images(folder, cohort, without_groups=True)
    return cohort


def digits(work: Path, folds: int) -> list[str]:
    """Digits with and without attention."""
    cohort = digit_cohort(work, "digits", np.arange(1797))
    lines = []
    for attention in (True, False):
        encoder = {**SMALL["encoder_settings"], "attention": attention}
        settings = SMALL | crossed(folds) | {"encoder_settings": encoder}
        folder = run(work / f"digits-{'with' if attention else 'without'}", cohort, settings)
        name = f"digits: {'with' if attention else 'without'} spatial attention, accuracy"
        lines.append(shown(name, by_fold(folder), 0.99))
    return lines


def pretrained(work: Path) -> Path:
    """Return a model trained on the digits 0 to 4, at 16 pixels."""
    from sklearn.datasets import load_digits

    cohort = digit_cohort(work, "digits-low", np.flatnonzero(load_digits().target < 5))
    return run(work / "pretrained", cohort, SMALL) / "model"


def pair(work: Path, name: str, cohort: Path, shared: dict[str, Any]) -> dict[str, Path]:
    """Run the two members of an ensemble: frozen features with an SVM, a fine-tuned network."""
    common = {"task": "classification", "target": ["class"], "encoder": str(pretrained(work))}
    common |= {"augment": "none"} | shared
    tuned = {"peft": "full", "num_epochs": 30, "per_device_batch_size": 16, "patience": 10}
    return {
        "frozen skip + SVM": run(
            work / f"{name}-svm", cohort, common | {"peft": "none", "head": "svm"}
        ),
        "fine-tuned": run(work / f"{name}-tuned", cohort, common | tuned),
    }


def faces(work: Path, folds: int) -> list[str]:
    """Faces or not, 200 images of 25 pixels, with a network from the digits 0 to 4."""
    from skimage.data import lfw_subset

    cohort = work / "cohort-faces"
    if not cohort.is_dir():
        names = np.repeat(["face", "other"], 100)
        make_images(written(work / "faces-png", lfw_subset(), names), cohort, without_groups=True)
    runs = pair(work, "faces", cohort, crossed(max(folds, 5)))
    probability, label, fold = out_of_fold(list(runs.values()))
    each: dict[str, list[float]] = {key: [] for key in (*runs, "average", "stacked")}
    for k in np.unique(fold):
        held, others = fold == k, fold != k
        guesses = dict(zip(runs, probability[:, held]))
        for method in ("average", "stacked"):
            fitted = fit_weights(probability[:, others], label[others], method)
            guesses[method] = combine(probability[:, held], *fitted)
        for key, guess in guesses.items():
            each[key].append(float(accuracy(label[held], guess.argmax(1))))
    best = max(np.mean(each[key]) for key in runs)
    bars = {"frozen skip + SVM": 0.97, "stacked": best - 0.005}
    return [shown(f"faces: {k}, accuracy", np.array(v), bars.get(k)) for k, v in each.items()]


def transfer(work: Path, folds: int) -> list[str]:
    """Digits 5 to 9 from few examples, with a frozen network from the digits 0 to 4."""
    from sklearn.datasets import load_digits

    data = load_digits()
    high = np.flatnonzero(data.target >= 5)
    cohort = open_cohort(digit_cohort(work, "digits-high", high))
    rows = pa.concat_tables(list(cohort.splits.values()))
    skip = hub.load(pretrained(work)).embed(rows)
    last = skip[:, -2 * SMALL["encoder_settings"]["widths"][-1] :]
    label = np.unique(rows["class"].to_pylist(), return_inverse=True)[1]
    lines = []
    for n in (5, 10, 20):
        scores = np.array([drawn(features, label, n) for features in (last, skip)])
        gain = scores[1] - scores[0]
        lines.append(shown(f"transfer, n = {n} per class: last + SVM, 8 draws", scores[0]))
        lines.append(shown(f"transfer, n = {n} per class: skip + SVM, 8 draws", scores[1]))
        lines.append(shown(f"transfer, n = {n} per class: skip - last", gain, 0.05))
        lines += together(work, few(work, high, data.target[high], n), n, folds)
    return lines


def drawn(features: np.ndarray, label: np.ndarray, n: int) -> list[float]:
    """Return the accuracy on all other rows of an SVM on n rows per class, for eight draws."""
    scores = []
    for draw in range(8):
        generator = np.random.default_rng(draw)
        picked = [
            generator.choice(np.flatnonzero(label == k), n, replace=False) for k in np.unique(label)
        ]
        train = np.concatenate(picked)
        head, _ = fit_probe_head("svm", features[train], label[train], classes=5, subject_id=train)
        rest = np.setdiff1d(np.arange(len(label)), train)
        called = head(hub_tensor(features[rest]))["logits"].argmax(1).numpy()
        scores.append(float(accuracy(label[rest], called)))
    return scores


def hub_tensor(values: np.ndarray) -> Any:
    """Return a tensor of features."""
    import torch

    return torch.from_numpy(values)


def few(work: Path, rows: np.ndarray, target: np.ndarray, n: int) -> Path:
    """Return a cohort of n examples per class to learn from; all others are its test split."""
    from sklearn.datasets import load_digits

    cohort = work / f"cohort-digits-{n}"
    if not cohort.is_dir():
        written(work / "digits-few", load_digits().images[rows] / 16.0, target)
        paths = np.array([f"{name}/{number:05d}.png" for number, name in enumerate(target)])
        generator = np.random.default_rng(0)
        split = np.full(len(rows), "test", object)
        for k in np.unique(target):
            split[generator.choice(np.flatnonzero(target == k), n, replace=False)] = "train"
        manifest = {"file": paths, "class": target.astype(str), "split": split.astype(str)}
        pa.csv.write_csv(pa.table(manifest), work / f"digits-{n}.csv")
        columns = ImageColumns("file", None, "class", (), "split")
        make_images(
            work / "digits-few",
            cohort,
            table=work / f"digits-{n}.csv",
            columns=columns,
            without_groups=True,
        )
    return cohort


def together(work: Path, cohort: Path, n: int, folds: int) -> list[str]:
    """Compare members and ensembles on the test split; weights come from folds of the few rows."""
    shared = {"folds": folds, "fold_splits": ["train"]}
    runs = pair(work, f"transfer-{n}", cohort, shared)
    rows = open_cohort(cohort).splits["test"]
    label = np.array(rows["class"].to_pylist())
    models: dict[str, Any] = {name: hub.load(folder / "model") for name, folder in runs.items()}
    for method in ("average", "stacked"):
        folder = work / f"ensemble-{n}-{method}"
        made = folder.is_dir()
        models[method] = (
            load_ensemble(folder)
            if made
            else make_ensemble(folder, list(runs.values()), method=method)
        )
    lines = []
    for name, model in models.items():
        columns = model.predict(rows)
        classes = np.array([column.removeprefix("probability_") for column in columns])
        called = classes[np.stack(list(columns.values()), 1).argmax(1)]
        score = accuracy(label, called)
        lines.append(f"{f'transfer, n = {n} per class, one draw: {name}':<58}{score:.3f}")
    return lines


JOBS = {"chula": chula, "bccd": bccd, "digits": digits, "faces": faces, "transfer": transfer}

if __name__ == "__main__":
    main()
