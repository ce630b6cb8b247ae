"""The card of a model: what it takes, what it was trained on, what it reaches, how to use it.

Made from what lies in the model's folder and in its run's folder beside it. It holds aggregates
only, never a row, an id, a report or a path.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fm_med.atomic import atomic_file
from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.hub.card_facts import Facts, Leaf, figure_of, leaves_of, read_facts
from fm_med.hub.card_names import place_of
from fm_med.hub.card_text import page
from fm_med.hub.guard import Source, model_files
from fm_med.report.calibration_drawing import CALIBRATION_FILE

CARD = "README.md"
TASK_TYPES = {
    "survival": "survival-analysis",
    "discrete_time": "survival-analysis",
    "competing_risks": "survival-analysis",
    "multilabel": "multi-label-classification",
    "classification": "classification",
    "regression": "regression",
}


def has_card(files: Mapping[str, Source]) -> bool:
    """Tell whether a card is among the files of a model."""
    return CARD in files


def write_card(
    folder: Path,
    *,
    cohort: Cohort | None = None,
    license: str | None = None,
    evaluation: Path | None = None,
    replace: bool = False,
) -> Path:
    """Write the card of a model's folder.

    Args:
        folder: A run's `model` folder.
        cohort: The training cohort, for its aggregates.
        license: Of the model, an identifier of the Hub.
        evaluation: Folder of the results to show; None: the run's own.
        replace: An older card.

    Raises:
        InputError: It is no model's folder, or there is a card and it is not to be replaced.
    """
    model_files(folder)
    path = folder / CARD
    if path.exists() and not replace:
        raise InputError(f"{path} exists; say --replace to write it anew")
    resolved = folder.resolve()
    name = resolved.parent.name if resolved.name in ("model", "adapter") else resolved.name
    text = model_card(folder, name=name, cohort=cohort, license=license, evaluation=evaluation)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    put_figure(folder, figure_of(folder, evaluation))
    return path


def put_figure(folder: Path, figure: Path | None) -> None:
    """Copy the drawing that a new card shows beside it; an older one goes."""
    path = folder / CALIBRATION_FILE
    if figure is None:
        path.unlink(missing_ok=True)
    elif figure.resolve() != path.resolve():
        with atomic_file(path) as temporary:
            shutil.copyfile(figure, temporary)


def model_card(
    folder: Path,
    *,
    name: str,
    cohort: Cohort | None = None,
    license: str | None = None,
    base: str | None = None,
    evaluation: Path | None = None,
) -> str:
    """Return the card as text: a YAML header for the Hub, a page for people.

    It shows the drawing that `figure_of` finds, which is to lie beside it (`put_figure`).

    Args:
        folder: A run's `model` folder, or its `adapter`; settings, environment and results are
            taken from the run's folder around it, if it is there.
        name: Of the repository, `organisation/name`, or of the model.
        cohort: The training cohort, for its aggregates.
        license: Of the model, an identifier of the Hub; None: unknown.
        base: Name on the Hub of the encoder that an adapter belongs to.
        evaluation: Folder of the results to show; None: the `report` of the run.

    Raises:
        InputError: `evaluation` has no `metrics.json`.
    """
    facts = read_facts(folder, name, cohort=cohort, license=license, base=base)
    if evaluation is not None:
        path = evaluation / "metrics.json"
        if not path.is_file():
            raise InputError(f"{evaluation} is no evaluation: it has no metrics.json")
        facts.results = list(leaves_of(json.loads(path.read_text(encoding="utf-8"))))
    facts.has_figure = figure_of(folder, evaluation) is not None
    header = yaml.safe_dump(_header(facts), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{header}---\n\n{page(facts)}"


# ------------------------------------------------------------------------------------- Header


def _header(facts: Facts) -> dict[str, Any]:
    header: dict[str, Any] = {"license": facts.license, "library_name": "fm_med"}
    tags = ["fm_med", "medical", facts.modality, facts.task or "pretraining"]
    header["tags"] = [tag for tag in tags if tag] + (["lora"] if facts.is_adapter else [])
    if not facts.task:
        header["pipeline_tag"] = "feature-extraction"
    if facts.cohort is not None and facts.cohort.card.language:
        header["language"] = list(facts.cohort.card.language)
    if facts.base:
        header["base_model"] = facts.base
        header["base_model_relation"] = "adapter" if facts.is_adapter else "finetune"
    own = [leaf for leaf in facts.results if not leaf.is_control]
    if own:
        header["model-index"] = [{"name": facts.name, "results": [_result(facts, own)]}]
    return header


def _result(facts: Facts, leaves: list[Leaf]) -> dict[str, Any]:
    """Return one entry of the model-index; the interval stands in each metric's name."""
    kind = TASK_TYPES.get(facts.task, "feature-extraction")
    trained_on = facts.details.get("training", {}).get("cohort")
    cohort = facts.cohort.card.name if facts.cohort is not None else trained_on
    cohort = str(cohort or "the training cohort")
    metrics: list[dict[str, Any]] = []
    for leaf in leaves:
        ends = f", 95% interval {leaf.low:.3f} to {leaf.high:.3f}" if leaf.low is not None else ""
        label = f"{place_of(leaf).row} (N={leaf.n}{ends})"
        metrics.append({"type": leaf.path[-1], "value": round(leaf.value, 4), "name": label})
    dataset = {"name": cohort, "type": "-".join(cohort.lower().split())}
    return {"task": {"type": kind}, "dataset": dataset, "metrics": metrics}
