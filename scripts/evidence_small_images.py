"""Small sets: frozen features of every stage or the last, an SVM, fine-tuning, and ensembles.

    python scripts/evidence_small_images.py [--jobs transfer,faces] [--work FOLDER] [--folds 3]

A network that saw the digits 0 to 4 meets the digits 5 to 9, a few of each, and faces (scikit-
image's lfw_subset: pip install scikit-image). Weights of an ensemble come from predictions out of
fold: those of the few digits for the others, those of the other folds for a fold of faces.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from evidence_images import SMALL, crossed, digit_cohort, main, run, shown, written

from fm_med import hub
from fm_med.cohort import open_cohort
from fm_med.ensemble import load_ensemble, make_ensemble, out_of_fold
from fm_med.metrics import accuracy
from fm_med.mixing import combine, fit_weights
from fm_med.probe_head import fit_probe_head
from fm_med.sources.images import ImageColumns, make_images


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


def transfer(work: Path, folds: int) -> list[str]:
    """Digits 5 to 9 from few examples, with a frozen network from the digits 0 to 4."""
    from sklearn.datasets import load_digits

    data = load_digits()
    high = np.flatnonzero(data.target >= 5)
    digit_cohort(work, "digits-low", np.flatnonzero(data.target < 5))
    cohort = open_cohort(digit_cohort(work, "digits-high", high))
    rows = pa.concat_tables(list(cohort.splits.values()))
    label = np.unique(rows["class"].to_pylist(), return_inverse=True)[1]
    lines = gains("four stages", ordinary(work), rows, label, 0.05)
    lines += gains("three stages, trained on all", pretrained(work), rows, label, None)
    for n in (5, 10, 20):
        lines += together(work, few(work, high, data.target[high], n), n, folds)
    return lines


def ordinary(work: Path) -> Path:
    """Return an ordinary network of four stages, trained on the last one's features."""
    encoder = {"widths": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "pooling": "last"}
    settings = SMALL | {"encoder_settings": encoder}
    return run(work / "pretrained-deep", work / "cohort-digits-low", settings) / "model"


def gains(
    name: str, model: Path, rows: pa.Table, label: np.ndarray, bar: float | None
) -> list[str]:
    """Compare an SVM on the features of every stage with one on the last stage's."""
    encoder = (loaded := hub.load(model)).encoder
    encoder.config.pooling = "skip"
    skip = loaded.embed(rows)
    last = skip[:, -2 * encoder.config.hidden_size :]
    lines = []
    for n in (5, 10, 20):
        scores = np.array([drawn(features, label, n) for features in (last, skip)])
        title = f"{name}, n = {n}:"
        lines.append(shown(f"{title} last + SVM", scores[0], unit="draws"))
        lines.append(shown(f"{title} skip + SVM", scores[1], unit="draws"))
        lines.append(shown(f"{title} skip - last", scores[1] - scores[0], bar, unit="draws"))
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
        start, predicted = "probability_", model.predict(rows)
        columns = [column for column in predicted if column.startswith(start)]
        classes = np.array([column.removeprefix(start) for column in columns])
        called = classes[np.stack([predicted[column] for column in columns], 1).argmax(1)]
        score = accuracy(label, called)
        lines.append(f"{f'transfer, n = {n} per class, one draw: {name}':<58}{score:.3f}")
    return lines


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


JOBS = {"transfer": transfer, "faces": faces}

if __name__ == "__main__":
    main(JOBS, __doc__)
