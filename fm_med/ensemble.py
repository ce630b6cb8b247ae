"""Several saved models as one: their calibrated probabilities, averaged or weighed.

Temperatures and weights come from out-of-fold predictions (`out_of_fold.csv` of a fine-tuning run):
on rows that a model was trained on, the most overfitted member would get all the weight.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar

from fm_med.atomic import atomic_folder
from fm_med.errors import InputError
from fm_med.folds import read_table
from fm_med.hub import LoadedModel, load
from fm_med.image.explain import predict_eight_ways
from fm_med.image.processor import ImageProcessor

Method = Literal["average", "stacked"]
SCHEMA_VERSION = 1
ENSEMBLE_FILE = "ensemble.json"
LEAST = 1e-12


@dataclass(frozen=True)
class Ensemble:
    """Models of one classification, and how much each counts.

    Attributes:
        members: The models.
        weights: (members,) shares, summing to 1.
        temperatures: (members,) by which the logarithms of the probabilities are divided.
        eight_ways: Images are predicted in all eight orientations and averaged.
    """

    members: tuple[LoadedModel, ...]
    weights: np.ndarray
    temperatures: np.ndarray
    eight_ways: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        task = self.members[0].task
        return task.classes if task is not None else ()

    def predict(self, rows: Any) -> dict[str, np.ndarray]:
        """Return one column of probabilities per class.

        Args:
            rows: A `pa.Table` with the columns of all members' processors.
        """
        each = np.stack([probabilities(m, rows, self.eight_ways) for m in self.members])
        mixed = combine(each, self.weights, self.temperatures)
        return {f"probability_{name}": mixed[:, k] for k, name in enumerate(self.classes)}


@torch.inference_mode()
def probabilities(model: LoadedModel, rows: Any, eight_ways: bool = False) -> np.ndarray:
    """Return the probabilities of the classes, (rows, classes) float64.

    Args:
        model: Of a classification.
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

    def predict(pixels: torch.Tensor) -> torch.Tensor:
        none = pixels.new_zeros(len(pixels), 0)
        return model.outputs({"pixel_values": pixels}, none).double().softmax(1)

    return predict_eight_ways(predict, model.inputs(rows)["pixel_values"]).cpu().numpy()


def combine(
    probability: np.ndarray, weights: np.ndarray, temperatures: np.ndarray | None = None
) -> np.ndarray:
    """Return the weighed mean of calibrated probabilities, (rows, classes).

    Args:
        probability: (members, rows, classes).
        weights: (members,) summing to 1.
        temperatures: (members,); None where they are calibrated.
    """
    if temperatures is not None:
        powered = np.log(np.maximum(probability, LEAST)) / temperatures[:, None, None]
        shifted = np.exp(powered - powered.max(-1, keepdims=True))
        probability = shifted / shifted.sum(-1, keepdims=True)
    return np.einsum("m,mrc->rc", weights, probability)


def fit_weights(
    probability: np.ndarray, label: np.ndarray, method: Method
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and temperatures that fit out-of-fold predictions.

    Args:
        probability: (members, rows, classes) out-of-fold.
        label: (rows,) class numbers.
        method: "average" weighs all alike; "stacked" takes the weights, none below 0, with the
            smallest cross-entropy of the mixture.
    """
    everyone, count = np.arange(len(label)), len(probability)
    one = np.ones(1)

    def cost(temperature: float, own: np.ndarray) -> float:
        mixed = combine(own[None], one, np.array([temperature]))
        return -np.log(np.maximum(mixed[everyone, label], LEAST)).mean()

    temperatures = np.array(
        [
            minimize_scalar(cost, (0.1, 10.0), (0.1, 10.0), (own,), "bounded").x
            for own in probability
        ]
    )
    weights = np.full(count, 1 / count)
    if method == "stacked" and count > 1:
        hit = np.stack([combine(p[None], one, t[None]) for p, t in zip(probability, temperatures)])
        right = hit[:, everyone, label]
        found = minimize(
            lambda w: -np.log(np.maximum(w @ right, LEAST)).mean(),
            weights,
            method="SLSQP",
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        )
        weights = np.clip(found.x, 0, 1) / np.clip(found.x, 0, 1).sum()
    return weights, temperatures


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
        runs: Folders of `recipes/finetune.py --folds`, of one classification on the same rows.
        method: As in `fit_weights`.
        eight_ways: Predict images in all eight orientations.

    Raises:
        InputError: Fewer than two runs, no folds, or runs of different rows or classes.
    """
    if len(runs) < 2:
        raise InputError(f"an ensemble needs two runs or more, not {len(runs)}")
    probability, label, _ = out_of_fold(runs)
    weights, temperatures = fit_weights(probability, label, method)
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
        (members, rows, classes) probabilities, (rows,) class numbers and (rows,) fold numbers, of
        the first run.

    Raises:
        InputError: A run has no folds, or the runs differ in rows, truth or classes.
    """
    tables = []
    for run in runs:
        path = run / "out_of_fold.csv"
        if not path.is_file():
            raise InputError(f"{run} has no out_of_fold.csv; run the recipe with --folds")
        tables.append(read_table(path))
    names = [name for name in tables[0] if name.startswith("probability_")]
    if "label" not in tables[0] or not names:
        raise InputError(f"{runs[0]} is no classification, so its probabilities cannot be mixed")
    keys = [_keys(table) for table in tables]
    orders = [np.argsort(key, kind="stable") for key in keys]
    for run, table, key, order in zip(runs, tables, keys, orders):
        same = [name for name in table if name.startswith("probability_")] == names
        if not same or not np.array_equal(key[order], keys[0][orders[0]]):
            raise InputError(f"{run} was run on other rows, repeats or classes than {runs[0]}")
    stacked = [np.stack([t[name][order] for name in names], 1) for t, order in zip(tables, orders)]
    classes = np.array([name.removeprefix("probability_") for name in names])
    truth = tables[0]["label"][orders[0]].astype(str)
    label = (truth[:, None] == classes).argmax(1)
    return np.stack(stacked).astype(np.float64), label, tables[0]["fold"][orders[0]]


def _keys(table: dict[str, np.ndarray]) -> np.ndarray:
    columns = (table[name].astype(str) for name in ("repeat", "record_id", "label"))
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
    tasks = [member.task for member in members]
    if any(task is None or task.classes != getattr(tasks[0], "classes", ()) for task in tasks):
        raise InputError(f"the members of {folder} predict different classes")
    weights, temperatures = (np.array(details[name]) for name in ("weights", "temperatures"))
    return Ensemble(members, weights, temperatures, details["eight_ways"])
