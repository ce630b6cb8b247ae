"""Push the results of an evaluation or a run: what is said of many persons, never of one."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import get_token

from fm_med.cohort import Cohort
from fm_med.disclosure import MINIMUM
from fm_med.errors import InputError
from fm_med.hub.card_facts import leaves_of
from fm_med.hub.card_results import calibration, results
from fm_med.hub.fetching import folder_named, told
from fm_med.hub.guard import Source, refuse_traces
from fm_med.hub.traces import Traces
from fm_med.hub.uploading import Content, Pushed, upload

METRICS, PAGE = "metrics.json", "README.md"
_NUMBERS = ("value", "low", "high", "n")

REPORT = Content("a report", "dataset", lambda name: name in (METRICS, PAGE))


def push_report(
    folder: Path,
    name: str,
    *,
    cohort: Cohort | None = None,
    public: bool = False,
    revision: str | None = None,
) -> Pushed:
    """Share the aggregate part of a report: its metrics, and a page made from them.

    `predictions.csv` has a row per patient, and `report.html` draws single patients' recordings and
    curves that step at each event; both stay, as does everything else in the folder. So do metrics
    of fewer than ten persons.

    Args:
        folder: With `metrics.json`: of an evaluation, or a run's `report`.
        name: `organisation/name` of a data set on the Hub, or a folder (also file://).
        cohort: The cohort it was judged on: its ids and reports are searched for.
        public: Everybody may read it.
        revision: Branch on the Hub; None: the main one.

    Raises:
        InputError: It is no report, a trace of a person was found, or the Hub refuses. Nothing has
            been published then.
    """
    path = folder / METRICS
    if not path.is_file():
        raise InputError(f"{folder} is no report: it has no {METRICS}")
    try:
        metrics = aggregates(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise InputError(f"{path} is no valid JSON") from None
    if not metrics:
        raise InputError(f"{folder} is not shared: no metric in it is of {MINIMUM} persons or more")
    target = folder_named(name)
    if target is not None and revision is not None:
        raise InputError(f"{name} is a folder; it has no revision {revision!r}")
    title = name.rsplit("/", 1)[-1] if target is None else target.name
    files: dict[str, Source] = {
        METRICS: (json.dumps(metrics, indent=1) + "\n").encode(),
        PAGE: _page(title, metrics).encode(),
    }
    token = get_token()
    refuse_traces(folder, files, Traces.of(cohort, secrets=[token] if token else []))
    left_out = sorted({file.name for file in folder.iterdir()} - {METRICS})
    with told(name):
        pushed = upload(files, name, REPORT, revision=revision, public=public)
    return replace(pushed, left_out=tuple(left_out))


def aggregates(node: Any) -> dict[str, Any]:
    """Return the metrics of enough persons; of subgroups all or none, as one could be told.

    Args:
        node: Content of `metrics.json`, or a part of it; what is no metric is left out.
    """
    found: dict[str, Any] = {}
    for name, child in node.items() if isinstance(node, Mapping) else ():
        if not isinstance(child, Mapping):
            continue
        if "value" in child:
            if isinstance(child.get("n"), int) and child["n"] >= MINIMUM:
                found[name] = {key: child.get(key) for key in _NUMBERS}
        elif not name.startswith("subgroup") or _all_are_large(child):
            kept = aggregates(child)
            if kept:
                found[name] = kept
    return found


def _all_are_large(node: Mapping[str, Any]) -> bool:
    if "value" in node:
        return isinstance(node.get("n"), int) and node["n"] >= MINIMUM
    return all(_all_are_large(child) for child in node.values() if isinstance(child, Mapping))


def _page(title: str, metrics: Mapping[str, Any]) -> str:
    leaves = list(leaves_of(metrics))
    header = yaml.safe_dump({"tags": ["fm_med", "medical", "evaluation"]}, sort_keys=False)
    lines = [f"# {title}", "", "Results of a model on a cohort, for research.", ""]
    lines += ["## Results", "", *results(leaves)]
    calibrated = calibration(leaves)
    if calibrated:
        lines += ["", "## Calibration", "", *calibrated]
    lines += ["", f"Numbers of fewer than {MINIMUM} persons are left out.", ""]
    return f"---\n{header}---\n\n" + "\n".join(lines)
