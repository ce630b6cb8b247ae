"""Predict for new patients: inputs checked one by one, risks with intervals, and warnings.

A model answers for any input that has the right shape. What it was not trained on is named here:
leads that are missing, ages and heart rates that the training rows did not have, and recordings
whose features lie far from all that it has seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fm_med.cohort import open_cohort
from fm_med.ecg.leads import LEADS
from fm_med.ecg.measurements import MEASUREMENTS, measure
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.recording import Recording
from fm_med.ecg.records import read_recording
from fm_med.errors import InputError
from fm_med.examples import Covariate, encode_clinical, read_examples
from fm_med.hub import LoadedModel
from fm_med.modalities import modality_of
from fm_med.sources.table_file import read_table
from fm_med.tasks import FollowUpTask

ROWS_AT_ONCE = 64
FAR = 2.5  # root mean square of standardised features; about 1 for training rows
BEYOND = 0.25  # of the range of the middle 98 % of the training rows
HEART_RATES = (30.0, 200.0)  # per minute; outside, the detection or the patient is unusual
MISSING_SHARE = 0.05  # of the samples of a recording
DECISIONS = ("predicted", "confident")  # of a model of classes; no numbers

Columns = dict[str, Any]


@dataclass
class Batch:
    """A few patients, ready for the model.

    Attributes:
        name: Of each row, as the user knows it.
        inputs: Of the encoder, for the rows without a problem.
        clinical: Clinical columns by name, all rows.
        problem: Why a row cannot be predicted; None where it can.
        warnings: Per row.
    """

    name: list[str]
    inputs: dict[str, Tensor]
    clinical: Columns
    problem: list[str | None]
    warnings: list[list[str]] = field(default_factory=list)


def predict_records(
    model: LoadedModel, paths: Sequence[Path], clinical: Columns | None = None
) -> Columns:
    """Predict for ECG files of any rate, length and lead order.

    Args:
        model: With a head.
        paths: The recordings.
        clinical: Clinical columns by name, one value per recording, None where missing.

    Returns:
        Columns of a table: `name`, the predictions, `warnings`, `problem`.

    Raises:
        InputError: The model reads something else, needs a clinical column, or no file can be used.
    """
    _need_recordings(model)
    clinical = clinical or {}
    _need_columns(model, clinical)
    batches = (
        _read_batch(
            model,
            paths[start : start + ROWS_AT_ONCE],
            {name: values[start : start + ROWS_AT_ONCE] for name, values in clinical.items()},
        )
        for start in range(0, len(paths), ROWS_AT_ONCE)
    )
    return _predict(model, batches)


def predict_table(model: LoadedModel, table: Path, records: Path, *, path: str = "path") -> Columns:
    """Predict for the rows of a CSV or Parquet file that names recordings and clinical columns.

    Args:
        model: With a head.
        table: One row per recording.
        records: Folder that the paths are relative to.
        path: Column with the path.

    Raises:
        InputError: A column is missing, or see `predict_records`.
    """
    _need_recordings(model)
    names = [covariate.name for covariate in model.coding]
    rows = read_table(table, [path, *names])
    files = [records / str(value) for value in rows.column(path).to_pylist()]
    clinical = {name: rows.column(name).to_pylist() for name in names}
    columns = predict_records(model, files, clinical)
    return {**columns, "name": rows.column(path).to_pylist()}


def predict_cohort(model: LoadedModel, cohort: Path, split: str) -> Columns:
    """Predict for every row of a cohort's split, of any modality, with or without targets.

    Raises:
        InputError: The cohort lacks the split or a clinical column, or is of another modality.
    """
    opened = open_cohort(cohort)
    examples = read_examples(opened, None, splits=[split])
    modality = modality_of(opened.card.modality)
    if not modality.reads(model.processor):
        raise InputError(f"{cohort} holds {modality.name}, which {model.folder} does not read")
    names = [covariate.name for covariate in model.coding]
    clinical = {name: opened.column(split, name) for name in names}

    def batches() -> Iterator[Batch]:
        for start in range(0, len(examples), ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, len(examples)))
            yield Batch(
                name=examples.record_id[rows].tolist(),
                inputs=examples.inputs(rows, model.processor, model.encoder.device),
                clinical={
                    name: list(values[start : rows[-1] + 1]) for name, values in clinical.items()
                },
                problem=[None] * len(rows),
                warnings=[[] for _ in rows],
            )

    return _predict(model, batches())


def _need_recordings(model: LoadedModel) -> None:
    """Refuse a model of another modality."""
    if not isinstance(model.processor, EcgProcessor):
        raise InputError(
            f"{model.folder} does not read ECGs: make a cohort of the new rows with fm-med cohort "
            "and give it with --cohort"
        )


def _need_columns(model: LoadedModel, clinical: Columns) -> None:
    """Refuse to guess clinical covariates that nobody gave."""
    missing = [covariate.name for covariate in model.coding if covariate.name not in clinical]
    if missing:
        raise InputError(
            f"the model needs the clinical column(s) {', '.join(missing)}; give a --table that has "
            "them (a cell may be empty)"
        )


def _read_batch(model: LoadedModel, paths: Sequence[Path], clinical: Columns) -> Batch:
    """Read recordings one by one, so that one bad file does not cost the others."""
    prepared: list[dict[str, Tensor]] = []
    problems: list[str | None] = []
    warnings: list[list[str]] = []
    for path in paths:
        try:
            recording = read_recording(path)
            prepared.append(model.processor(recording))
        except (InputError, OSError) as error:
            problems.append(str(error))
            warnings.append([])
            continue
        problems.append(None)
        warnings.append(_recording_warnings(recording, model.processor))
    device = model.encoder.device
    inputs = {
        name: torch.cat([one[name] for one in prepared]).to(device)
        for name in (prepared[0] if prepared else {})
    }
    return Batch([str(path) for path in paths], inputs, clinical, problems, warnings)


def _recording_warnings(recording: Recording, processor: EcgProcessor) -> list[str]:
    """Return what is unusual about one recording."""
    found = []
    wanted = np.array([lead in processor.leads for lead in LEADS])
    absent = [lead for lead, gone in zip(LEADS, wanted & ~recording.lead_mask) if gone]
    if absent:
        found.append(f"absent leads: {', '.join(absent)}")
    seconds = recording.signal.shape[1] / recording.sampling_rate
    if seconds < 0.95 * processor.seconds:
        found.append(f"only {seconds:.1f} s of {processor.seconds:g} s")
    share = recording.missing_samples / max(1, recording.signal.size)
    if share > MISSING_SHARE:
        found.append(f"{share:.0%} of the samples are missing")
    measured = measure(
        recording.signal[None],
        sampling_rate=recording.sampling_rate,
        lead_mask=recording.lead_mask[None],
    )
    rate = float(measured[0, list(MEASUREMENTS).index("heart_rate")])
    if np.isnan(rate):
        found.append("no heartbeats were found")
    elif not HEART_RATES[0] <= rate <= HEART_RATES[1]:
        found.append(f"a heart rate of {rate:.0f} per minute")
    return found


@torch.inference_mode()
def _predict(model: LoadedModel, batches: Iterator[Batch]) -> Columns:
    """Predict batch by batch and join the columns; rows with a problem have no numbers."""
    if model.head is None or model.task is None:
        raise InputError(f"{model.folder} is an encoder without a head; it predicts nothing")
    parts: list[Columns] = []
    for batch in batches:
        usable = np.array([problem is None for problem in batch.problem])
        part: Columns = {"name": batch.name}
        if usable.any():
            part |= _numbers(model, batch, usable)
        part["warnings"] = ["; ".join(found) for found in batch.warnings]
        part["problem"] = [problem or "" for problem in batch.problem]
        parts.append(part)
    if not any(len(part) > 3 for part in parts):
        first = next((text for part in parts for text in part["problem"] if text), "no rows given")
        raise InputError(f"nothing could be predicted: {first}")
    names = list(dict.fromkeys(name for part in parts for name in part))
    names = [*(n for n in names if n not in ("warnings", "problem")), "warnings", "problem"]
    return {
        name: np.concatenate(
            [np.asarray(part.get(name, [_blank(name)] * len(part["name"]))) for part in parts]
        )
        for name in names
    }


def _blank(name: str) -> Any:
    """Return what a column holds in rows without a prediction."""
    return "" if name in DECISIONS else np.nan


def _numbers(model: LoadedModel, batch: Batch, usable: np.ndarray) -> Columns:
    """Return the predictions of a batch, NaN in rows with a problem; adds to its warnings."""
    rows = np.flatnonzero(usable)
    chosen = {name: [values[row] for row in rows] for name, values in batch.clinical.items()}
    covariates = encode_clinical(model.coding, chosen, len(rows), "the input")
    for covariate in model.coding:
        for row, value in zip(rows, covariate.numbers(chosen[covariate.name], "the input")):
            batch.warnings[row] += _covariate_warnings(covariate, float(value))
    assert model.head is not None and model.task is not None  # checked by the caller
    pooled = model.encoder(**batch.inputs).pooler_output
    clinical = torch.from_numpy(covariates).to(pooled.device) if model.coding else None
    outputs = model.head(pooled, clinical)[model.head.config.output_name].float().cpu().numpy()
    for row, distance in zip(rows, _distance(model, pooled)):
        if distance > FAR:
            text = f"unlike the training rows (features {distance:.1f} times as far out as theirs)"
            batch.warnings[row].append(text)
    columns = model.task.columns_of(outputs) | model.decisions(outputs)
    if isinstance(model.task, FollowUpTask) and model.baseline is not None:
        risks = (model.baseline, outputs, model.horizons)
        ends = model.task.interval_columns(*risks)
        for name, values in model.task.risk_columns(*risks).items():
            columns[name] = values
            columns |= {end: ends[end] for end in (f"{name}_low", f"{name}_high") if end in ends}
    whole: Columns = {}
    for name, values in columns.items():
        dtype = object if name in DECISIONS else float
        whole[name] = np.full(len(usable), _blank(name), dtype)
        whole[name][rows] = values
    return whole


def _covariate_warnings(covariate: Covariate, value: float) -> list[str]:
    """Return whether a clinical value is missing or outside what the training rows had."""
    if np.isnan(value):
        return [f"{covariate.name} is missing; the training median {covariate.fill:g} was taken"]
    margin = BEYOND * (covariate.high - covariate.low)
    if covariate.low - margin <= value <= covariate.high + margin:
        return []
    return [
        f"{covariate.name} of {value:g} is outside the training rows "
        f"(98 % of them: {covariate.low:g} to {covariate.high:g})"
    ]


def _distance(model: LoadedModel, pooled: Tensor) -> np.ndarray:
    """Return (rows,) root mean square of features standardised by the training rows.

    0 where the head has no statistics of its training features.
    """
    assert model.head is not None
    standardise = model.head.features
    known = bool((standardise.scale != 1).any() or (standardise.mean != 0).any())
    if not known:
        return np.zeros(len(pooled))
    return standardise(pooled).square().mean(1).sqrt().float().cpu().numpy()
