"""How a model was made and judged, in sentences for the report."""

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from fm_med.cohort import Cohort
from fm_med.evaluation.baselines import Design
from fm_med.evaluation.model import FittedModel
from fm_med.evaluation.participants import Participants

Topic = tuple[str, str]
TRAINING_TOLD = ("encoder", "peft", "cohort", "rows", "persons", "events", "penalty")


def common_methods(
    model: FittedModel, cohort: Cohort, split: str, designs: Sequence[Design]
) -> list[Topic]:
    """Return what holds for every task: data, predictors, missing values, model, rivals."""
    card = cohort.card
    topics = [
        (
            "Data",
            f"{card.name}, split “{split}”. Source: {card.source or 'not stated'}. Licence: "
            f"{card.license or 'not stated'}. Fingerprint {card.fingerprint[:16]}.",
        ),
        ("Predictors", _predictors(model)),
        (
            "Missing data",
            "Absent leads and long gaps are marked and silenced; short gaps are interpolated. "
            "Missing covariates are replaced by the median of the training rows."
            if card.modality == "ecg"
            else "Missing values are replaced as learnt from the training rows.",
        ),
        ("Model", _model(model)),
    ]
    if designs:
        text = "; ".join(f"{design.name}: {design.what}" for design in designs)
        topics.append(
            (
                "Baselines",
                f"Fitted on the cohort’s training split, with a ridge chosen by cross-validation "
                f"and clinical covariates left unshrunk. {text}.",
            )
        )
    return topics


def cautions(model: FittedModel, cohort: Cohort, people: Participants, split: str) -> list[str]:
    """Return what the reader must know before any number."""
    found = []
    if model.was_fitted_on(cohort, split):
        found.append(
            f"The model was trained on the split “{split}”: every number below is too good."
        )
    if "simulated" in cohort.card.source.lower():
        found.append("These patients are simulated: nothing here says anything about real ones.")
    if people.train is None:
        found.append("The cohort has no training split: there are no baselines to compare with.")
    return found


def software() -> Topic:
    """Return the version of this package."""
    return ("Software", f"fm_med {metadata.version('fm-med')}.")


def _predictors(model: FittedModel) -> str:
    """Describe the input."""
    processor = model.processor
    settings: dict[str, Any] = {
        name: getattr(processor, name)
        for name in ("sampling_rate", "seconds", "high_pass", "low_pass")
        if hasattr(processor, name)
    }
    signal = ""
    if "sampling_rate" in settings:
        signal = (
            f"ECG of {settings['seconds']:g} s at {settings['sampling_rate']:g} Hz, "
            f"{settings['high_pass']} to {settings['low_pass']} Hz, {len(processor.leads)} leads"
        )
    names = [covariate.name for covariate in model.coding]
    clinical = f"clinical covariates {', '.join(names)}" if names else "no clinical covariates"
    return f"{signal + '; ' if signal else ''}{clinical}."


def _model(model: FittedModel) -> str:
    """Describe the network."""
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    known = "; ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in model.training.items()
        if name in TRAINING_TOLD and value is not None
    )
    return (
        f"{type(model.encoder).__name__} with {parameters:,} parameters and a head for the task "
        f"“{model.task.name}”.{f' Training: {known}.' if known else ''}"
    )
