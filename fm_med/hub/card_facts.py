"""What a model's card is made from, read from the model's folder and from its run's around it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fm_med.cohort import Cohort
from fm_med.disclosure import MINIMUM
from fm_med.fusion.naming import JOINT
from fm_med.hub.staging import is_local
from fm_med.report.calibration_drawing import CALIBRATION_FILE


@dataclass(frozen=True)
class Leaf:
    """A number of `metrics.json`: place as ("model", "c_index"), value, interval, persons."""

    path: tuple[str, ...]
    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_control(self) -> bool:
        """Whether it is of a baseline, or a difference to one."""
        kinds = {"baselines", "difference"} & set(self.path)
        return bool(kinds) or self.path[0].endswith("_random")

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass
class Facts:
    """All that a card is made from.

    Attributes:
        name: Of the model.
        address: What it is loaded by.
        config: Of the encoder; of the adapter where there is no encoder.
        processor: Content of `preprocessor_config.json`.
        details: Content of `task.json`; empty for an encoder alone.
        alignment: Config of the projections; empty without.
        settings: The run's `config.yaml`; empty where the run is not at hand.
        environment: The run's `env.json`.
        results: The run's `report/metrics.json`, without single labels and small groups.
        cohort: The training cohort; None where it is not at hand.
        license: Of the model.
        base: Name of the encoder on the Hub that training began with; None for none or a local one.
        base_revision: Its commit, branch or tag, where known.
        has_text_model: Whether the text model travels along.
        is_adapter: Whether the weights are an adapter alone.
        has_figure: Whether a drawing of the calibration lies beside the card.
    """

    name: str
    address: str
    config: dict[str, Any]
    processor: dict[str, Any]
    details: dict[str, Any]
    alignment: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    results: list[Leaf]
    cohort: Cohort | None
    license: str
    base: str | None
    base_revision: str | None = None
    has_text_model: bool = False
    is_adapter: bool = False
    has_figure: bool = False

    @property
    def task(self) -> str:
        """Name of the task; "" for an encoder alone."""
        return str(self.details.get("task", {}).get("name", ""))

    @property
    def modality(self) -> str:
        """What the model reads, for example "ecg"."""
        kind = str(self.processor.get("feature_extractor_type", ""))
        if not kind and self.cohort is not None:  # an adapter alone, as PEFT saves it
            return self.cohort.card.modality
        if kind == "FusionProcessor":
            return JOINT.join(self.processor["names"])
        known = {
            "Ecg": "ecg",
            "Table": "tabular",
            "Image": "image",
            "Expression": "rna",
            "RankValue": "rna",
        }
        return known.get(kind.removesuffix("Processor"), kind or "unknown")


def read_facts(
    folder: Path, name: str, *, cohort: Cohort | None, license: str | None, base: str | None
) -> Facts:
    """Read what there is; arguments as for `fm_med.hub.card.model_card`."""
    folder = folder.resolve()
    run = _run_of(folder)
    in_run = (run / "env.json").is_file()
    adapter = _json(folder / "adapter_config.json")
    settings = yaml.safe_load((run / "config.yaml").read_text()) if in_run else {}
    metrics = _json(run / "report" / "metrics.json") if in_run else {}
    details = _json(folder / "task.json")
    if adapter and not details:  # the run's results are those of a head that is not here
        metrics = {}
    started = base or adapter.get("base_model_name_or_path")
    started = started or details.get("training", {}).get("encoder") or settings.get("encoder")
    started, _, revision = str(started or "").partition("@")
    is_hub = "/" in started and not is_local(started)
    return Facts(
        name=name.rsplit("/", 1)[-1],
        address=name if "/" in name else f"organisation/{name}",
        config=_json(folder / "config.json") or adapter,
        processor=_json(folder / "preprocessor_config.json"),
        details=details,
        alignment=_json(folder / "alignment" / "config.json"),
        settings=settings or {},
        environment=_json(run / "env.json") if in_run else {},
        results=list(leaves_of(metrics)),
        cohort=cohort,
        license=license or "unknown",
        base=started if is_hub else None,
        base_revision=(revision or adapter.get("revision")) if is_hub else None,
        has_text_model=(folder / "text_model").is_dir(),
        is_adapter=bool(adapter),
    )


def figure_of(folder: Path, evaluation: Path | None) -> Path | None:
    """Return where the drawing of a model's calibration is; None for none.

    Args:
        folder: Of the model.
        evaluation: Folder of the results to show; None: the `report` of the run, if it has a
            drawing, else what lies in the folder.
    """
    if (folder / "adapter_config.json").is_file() and not (folder / "task.json").is_file():
        return None
    places = [evaluation] if evaluation else [_run_of(folder.resolve()) / "report", folder]
    files = (place / CALIBRATION_FILE for place in places)
    return next((file for file in files if file.is_file()), None)


def _run_of(folder: Path) -> Path:
    """Return the run's folder around a model's, or around the adapter's in it."""
    run = folder.parent
    is_inner = not (run / "env.json").is_file() and (run.parent / "env.json").is_file()
    return run.parent if is_inner else run


def _json(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def leaves_of(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Yield the defined results on enough persons, but those of single labels and groups."""
    for name, child in node.items():
        if not isinstance(child, Mapping) or name.startswith(("per_", "subgroup")):
            continue
        if "value" not in child:
            yield from leaves_of(child, (*path, name))
        elif child["value"] is not None and child.get("n", 0) >= MINIMUM:
            yield Leaf((*path, name), child["value"], child["low"], child["high"], child["n"])
