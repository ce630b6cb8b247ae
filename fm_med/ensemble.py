"""Several saved models as one: their calibrated probabilities, averaged or weighed.

Temperatures and weights come from out-of-fold predictions (`out_of_fold.csv` of a fine-tuning run):
on rows that a model was trained on, the most overfitted member would get all the weight. Of labels
that may occur together each has its own, as if it were the only one.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fm_med.atomic import atomic_folder
from fm_med.errors import InputError
from fm_med.folds import read_table
from fm_med.hub import LoadedModel, load
from fm_med.image.explain import predict_eight_ways
from fm_med.image.processor import ImageProcessor
from fm_med.mixing import Method, fit_label_weights, fit_weights, mix

SCHEMA_VERSION = 1
ENSEMBLE_FILE = "ensemble.json"
TASKS = ("classification", "multilabel")


@dataclass(frozen=True)
class Ensemble:
    """Models of the same classes or labels, and how much each counts.

    Attributes:
        members: The models.
        weights: (members,) shares, summing to 1; of labels (labels, members).
        temperatures: Of the same shape; the logarithms of the probabilities, of labels the
            logits, are divided by them.
        eight_ways: Images are predicted in all eight orientations and averaged.
    """

    members: tuple[LoadedModel, ...]
    weights: np.ndarray
    temperatures: np.ndarray
    eight_ways: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or labels, in the order of the probabilities."""
        task = self.members[0].task
        return task.classes if task is not None else ()

    def predict(self, rows: Any) -> dict[str, np.ndarray]:
        """Return one column of probabilities per class or label.

        Args:
            rows: A `pa.Table` with the columns of all members' processors.
        """
        each = np.stack([probabilities(m, rows, self.eight_ways) for m in self.members])
        mixed = mix(each, self.weights, self.temperatures)
        return {f"probability_{name}": mixed[:, k] for k, name in enumerate(self.classes)}


@torch.inference_mode()
def probabilities(model: LoadedModel, rows: Any, eight_ways: bool = False) -> np.ndarray:
    """Return the probabilities of the classes or labels, (rows, classes) float64.

    Args:
        model: Of classes or labels.
        rows: As for `LoadedModel.predict`.
        eight_ways: Average over the image mirrored and turned in all eight ways.

    Raises:
        InputError: Eight ways of what is no image.
    """
    if not eight_ways:
        columns = model.predict(rows)
        named = [values for name, values in columns.items() if name.startswith("probability_")]
        return np.stack(named, 1).astype(np.float64)
    if not isinstance(model.processor, ImageProcessor):
        raise InputError(f"{model.folder} reads no images, which alone have eight orientations")

    exclusive = model.task is None or model.task.name == "classification"

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        none = pixels.new_zeros(len(pixels), 0)
        logits = model.outputs({"pixel_values": pixels}, none).double()
        return logits.softmax(1) if exclusive else logits.sigmoid()

    return predict_eight_ways(predict, model.inputs(rows)["pixel_values"]).cpu().numpy()


def make_ensemble(
    folder: Path,
    runs: Sequence[Path],
    *,
    method: Method = "stacked",
    eight_ways: bool = False,
) -> Ensemble:
    """Put the models of several fine-tuning runs into one folder, weighed by their folds.

    Args:
        folder: The new folder; holds copies of all members.
        runs: Folders of `recipes/finetune.py --folds`, of the same classes or labels and rows.
        method: As in `fm_med.mixing.fit_weights`.
        eight_ways: Predict images in all eight orientations.

    Raises:
        InputError: Fewer than two runs, no folds, another task, or runs of different rows, truth
            or classes.
    """
    if len(runs) < 2:
        raise InputError(f"an ensemble needs two runs or more, not {len(runs)}")
    probability, label, _ = out_of_fold(runs)
    fit = fit_weights if label.ndim == 1 else fit_label_weights
    weights, temperatures = fit(probability, label, method)
    details = {
        "schema_version": SCHEMA_VERSION,
        "method": method,
        "eight_ways": eight_ways,
        "weights": weights.tolist(),
        "temperatures": temperatures.tolist(),
        "members": [f"member-{k}" for k in range(len(runs))],
    }
    with atomic_folder(folder) as temporary:
        for name, run in zip(details["members"], runs):
            shutil.copytree(run / "model", temporary / name)
        (temporary / ENSEMBLE_FILE).write_text(json.dumps(details, indent=1) + "\n")
    return load_ensemble(folder)


def out_of_fold(runs: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read what the folds of several runs predicted for the same rows.

    Returns:
        (members, rows, classes) probabilities, (rows,) class numbers or (rows, labels) of 0, 1 and
        NaN, and (rows,) fold numbers, of the first run.

    Raises:
        InputError: A run has no folds or another task, or the runs differ in rows, truth or
            classes.
    """
    tables = []
    for run in runs:
        path = run / "out_of_fold.csv"
        if not path.is_file():
            raise InputError(f"{run} has no out_of_fold.csv; run the recipe with --folds")
        tables.append(read_table(path))
    names = [name for name in tables[0] if name.startswith("probability_")]
    truths = _truths(names, tables[0])
    if not truths:
        raise InputError(
            f"{runs[0]} predicts neither classes nor labels, so it has no probabilities to mix"
        )
    keys = [_keys(table, truths) for table in tables]
    orders = [np.argsort(key, kind="stable") for key in keys]
    for run, table, key, order in zip(runs, tables, keys, orders):
        same = [name for name in table if name.startswith("probability_")] == names
        if not same or not np.array_equal(key[order], keys[0][orders[0]]):
            raise InputError(f"{run} was run on other rows, repeats or classes than {runs[0]}")
    stacked = [np.stack([t[name][order] for name in names], 1) for t, order in zip(tables, orders)]
    truth = np.stack([tables[0][name][orders[0]] for name in truths], 1)
    if truths == ["label"]:
        classes = np.array([name.removeprefix("probability_") for name in names])
        label = (truth.astype(str) == classes).argmax(1)
    else:
        label = truth.astype(np.float64)
    return np.stack(stacked).astype(np.float64), label, tables[0]["fold"][orders[0]]


def _truths(names: list[str], table: dict[str, np.ndarray]) -> list[str]:
    """Return the columns with what is true: one of classes or one per label; else none."""
    if names and "label" in table:
        return ["label"]
    labels = [name.replace("probability_", "label_", 1) for name in names]
    return labels if all(name in table for name in labels) else []


def _keys(table: dict[str, np.ndarray], truths: list[str]) -> np.ndarray:
    needed = ("repeat", "record_id", *truths)
    columns = (table[name].astype(str) for name in needed if name in table)
    return np.array(["\t".join(parts) for parts in zip(*columns)])


def load_ensemble(folder: Path, *, device: str = "cpu") -> Ensemble:
    """Load what `make_ensemble` wrote.

    Raises:
        InputError: Not an ensemble, or its members predict different classes.
    """
    path = folder / ENSEMBLE_FILE
    if not path.is_file():
        raise InputError(f"{folder} is no ensemble: it has no {ENSEMBLE_FILE}")
    details = json.loads(path.read_text())
    if details.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path} has schema_version {details.get('schema_version')!r}")
    members = tuple(load(folder / name, device=device) for name in details["members"])
    for name, member in zip(details["members"], members):
        if member.task is None or member.task.name not in TASKS:
            raise InputError(f"{folder / name} predicts neither classes nor labels")
    if len({(m.task.name, m.task.classes) for m in members if m.task is not None}) > 1:
        raise InputError(f"the members of {folder} predict different classes")
    weights, temperatures = (np.array(details[name]) for name in ("weights", "temperatures"))
    return Ensemble(members, weights, temperatures, details["eight_ways"])
