"""What a model has to beat: age and sex, classical measurements, an encoder without training."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fm_med.cohort.people import tells
from fm_med.evaluation.model import FittedModel, encode, untrained_encoder
from fm_med.examples import Covariate, Examples, clinical_coding, encode_clinical

ROWS_AT_ONCE = 1024
COMMONLY_MISSING = 0.01  # share of training rows from which "missing" is a feature of its own


@dataclass(frozen=True)
class Design:
    """The columns of one baseline, for its training and its test rows.

    Attributes:
        name: As in ``metrics.json``.
        features: (train rows, p) and (test rows, p), shrunk by the fit; None for none.
        clinical: (train rows, q) and (test rows, q), never shrunk.
        what: The columns in words.
    """

    name: str
    features: tuple[np.ndarray, np.ndarray] | None
    clinical: tuple[np.ndarray, np.ndarray]
    what: str


def designs(model: FittedModel, train: Examples, test: Examples) -> Iterable[Design]:
    """Yield the baselines that the cohort has the columns for.

    Every baseline but the first is given the model's own clinical covariates, so that the
    difference to the model is what its encoder has learnt.

    Args:
        model: The model that is evaluated.
        train: Rows to fit on.
        test: Rows to predict.
    """
    basic = _basic(train, test)
    if basic is not None:
        yield basic
    own = (train.clinical.astype(np.float64), test.clinical.astype(np.float64))
    names = [covariate.name for covariate in model.coding]
    beside = f", beside {', '.join(names)}" if names else ""
    if set(names) - {"age", "sex"}:
        yield Design("clinical", None, own, f"the clinical covariates {', '.join(names)}")
    if test.cohort.card.modality == "ecg":
        measured = _ecg_features(train, test)
        yield Design("measurements", measured, own, f"classical ECG measurements{beside}")
    if not getattr(model.encoder, "has_weights", True):
        return  # a new one is the same
    random = untrained_encoder(model)
    features = encode(model, random, train), encode(model, random, test)
    yield Design("random_encoder", features, own, f"the same encoder with random weights{beside}")


def _basic(train: Examples, test: Examples) -> Design | None:
    """Return age and sex, as far as both splits have them."""
    names = [name for name in ("age", "sex") if _known(train, name) and _known(test, name)]
    if not names:
        return None
    coding = clinical_coding(train.cohort, names)
    both = tuple(_columns(coding, examples) for examples in (train, test))
    return Design("age_sex", None, (both[0], both[1]), " and ".join(names))


def _known(examples: Examples, name: str) -> bool:
    """Whether a column is there as numbers or as words that are understood, and varies."""
    if name not in examples.cohort.splits[str(examples.split[0])].column_names:
        return False
    table = examples.table([name])
    values = table.column(name).drop_null()
    understood = tells(table, name) or not pa.types.is_string(values.type)
    return understood and len(values.unique()) > 1


def _columns(coding: list[Covariate], examples: Examples) -> np.ndarray:
    """Return (rows, covariates) float64."""
    table = examples.table([covariate.name for covariate in coding])
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    return encode_clinical(coding, columns, len(examples), "the cohort").astype(np.float64)


def _ecg_features(train: Examples, test: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return measurements, missing ones filled with the training median and marked."""
    both = [unwrapped(measure_examples(examples)) for examples in (train, test)]
    missing = np.isnan(both[0])
    marked = missing.mean(0) > COMMONLY_MISSING
    median = np.zeros(both[0].shape[1])
    some = ~missing.all(0)
    median[some] = np.nanmedian(both[0][:, some], axis=0)
    filled = [
        np.concatenate([np.where(np.isnan(x), median, x), np.isnan(x[:, marked])], axis=1)
        for x in both
    ]
    return filled[0], filled[1]


def measure_examples(examples: Examples) -> np.ndarray:
    """Return (rows, measurements) of ECG rows, NaN where not measurable."""
    from fm_med.ecg.measurements import MEASUREMENTS, measure_stored
    from fm_med.ecg.storage import SIGNAL_SCHEMA, decode

    columns = [field.name for field in SIGNAL_SCHEMA]
    measured = [np.empty((0, len(MEASUREMENTS)))]
    for start in range(0, len(examples), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(examples)))
        measured.append(measure_stored(decode(examples.table(columns, rows))))
    return np.concatenate(measured)


def unwrapped(measured: np.ndarray) -> np.ndarray:
    """Replace axes in degrees, which jump at 180, by their sine and cosine."""
    from fm_med.ecg.measurements import MEASUREMENTS

    axes = np.array([name.endswith("_axis") for name in MEASUREMENTS])
    radians = np.radians(measured[:, axes])
    return np.concatenate([measured[:, ~axes], np.sin(radians), np.cos(radians)], axis=1)
