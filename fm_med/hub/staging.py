"""What a model says about where things lay at home, put as others can use it.

Also the event times of single patients and small numbers, which models saved by older versions
hold.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from fm_med.disclosure import without_small_counts
from fm_med.errors import InputError
from fm_med.hub.fetching import folder_named
from fm_med.hub.guard import Source
from fm_med.lora import BASE_FILE, file_hash
from fm_med.survival.coarsening import coarsened_hazard
from fm_med.tasks import FollowUpTask, task_from_dict

ADAPTER_CONFIG = "adapter_config.json"
LOCAL = "a local folder"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


def is_local(name: str) -> bool:
    """Tell whether something was named by a path of this machine rather than on the Hub."""
    return "/" in name and (folder_named(name) is not None or not _HUB_NAME.fullmatch(name))


def without_paths(files: Mapping[str, Source]) -> dict[str, Source]:
    """Return the files with the paths of encoders blotted out; `set_bases` fills them again.

    Event times of single patients and small numbers go, too.
    """
    staged = dict(files)
    for name, source in files.items():
        kind = name.rsplit("/", 1)[-1]
        if kind == "task.json":
            staged[name] = _changed(source, _blot_task)
        elif kind == ADAPTER_CONFIG:
            staged[name] = _changed(source, _blot_base)
        elif kind == "README.md" and not has_own_words(source):
            del staged[name]
    return staged


def has_own_words(source: Source) -> bool:
    """Tell whether a card was written for this model; PEFT leaves an empty form."""
    text = source.read_bytes() if isinstance(source, Path) else source
    return b"# Model Card for Model ID" not in text


def _changed(source: Source, change: Callable[[dict[str, Any]], bool]) -> Source:
    """Return a JSON file after a change; the file itself where nothing has changed."""
    try:
        values = json.loads(source.read_bytes() if isinstance(source, Path) else source)
    except ValueError:
        return source  # the guard tells of it
    if not isinstance(values, dict) or not change(values):
        return source
    return (json.dumps(values, indent=1) + "\n").encode()


def _blot_task(values: dict[str, Any]) -> bool:
    changed = _coarsen(values)
    training = values.get("training")
    if not isinstance(training, dict):
        return changed
    told = without_small_counts(training)
    if is_local(str(told.get("encoder"))):
        told["encoder"] = LOCAL
    values["training"] = told
    return changed or told != training


def _coarsen(values: dict[str, Any]) -> bool:
    """Coarsen the baseline hazard of a model; those saved by this version are coarse already."""
    stored, stated = values.get("baseline"), values.get("task")
    if not isinstance(stored, dict) or not isinstance(stated, dict):
        return False
    task = task_from_dict(stated)
    if not isinstance(task, FollowUpTask):
        return False
    times = {*values.get("horizons", []), *task.horizons}
    values["baseline"] = coarsened_hazard(task.hazard_from(stored), times).to_dict()
    return bool(values["baseline"] != stored)


def _blot_base(values: dict[str, Any]) -> bool:
    if not is_local(str(values.get("base_model_name_or_path"))):
        return False
    values["base_model_name_or_path"] = None
    return True


def set_bases(
    files: Mapping[str, Source], base: str | None, *, target: Path | None
) -> dict[str, Source]:
    """Return the files with adapters that name their encoder where others find it.

    Args:
        files: From `without_paths`.
        base: As for `push`. Without it the `adapter/` inside a whole model is left out if its
            encoder is known by a local folder only.
        target: The shared folder that is pushed to; only there may an encoder be a folder too.

    Raises:
        InputError: The encoder of an adapter that is to be pushed by itself is known by a local
            folder only, or an encoder has other weights than the adapter's.
    """
    staged = dict(files)
    for name, source in files.items():
        if name.rsplit("/", 1)[-1] != ADAPTER_CONFIG:
            continue
        values = json.loads(source.read_bytes() if isinstance(source, Path) else source)
        wanted = base or values["base_model_name_or_path"]
        if wanted is None and name != ADAPTER_CONFIG:
            inside = name.removesuffix(ADAPTER_CONFIG)
            staged = {entry: file for entry, file in staged.items() if not entry.startswith(inside)}
            continue
        if wanted is None:
            raise InputError(
                f"{name}: the encoder of the adapter is known by a local folder only; push the "
                "encoder first and name it with --base organisation/name"
            )
        if base is None and values.get("revision"):
            continue
        proof = name.replace(ADAPTER_CONFIG, BASE_FILE)
        if proof not in files:
            raise InputError(
                f"{name}: there is no {proof}, which says what weights the adapter belongs to; "
                "save it with fm_med.lora.save_adapter"
            )
        stated = json.loads(_read(files[proof]))["sha256"]
        where, commit, found = _find(wanted, target)
        if found != stated:
            raise InputError(f"{name}: the adapter was trained on other weights than {wanted} has")
        values |= {"base_model_name_or_path": where, "revision": commit}
        staged[name] = (json.dumps(values, indent=1) + "\n").encode()
    return staged


def _read(source: Source) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


def _find(base: str, target: Path | None) -> tuple[str, str | None, str | None]:
    """Return an encoder's name, its commit and the hash of its weights."""
    folder = folder_named(base)
    if folder is not None:
        weights = folder / "model.safetensors"
        if target is None or not weights.is_file():
            raise InputError(f"--base {base} is no model on the Hub that the adapter goes to")
        return str(base), None, file_hash(weights)
    name, _, revision = base.partition("@")
    info = HfApi().model_info(name, revision=revision or None, files_metadata=True)
    for file in info.siblings or []:
        if file.rfilename == "model.safetensors" and file.lfs is not None:
            return name, info.sha, file.lfs.sha256
    return name, info.sha, None
