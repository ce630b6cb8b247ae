"""What a run refuses before it begins or goes on: a filled folder, other settings or content."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import yaml

from fm_med.errors import InputError
from fm_med.settings import changed_settings

# Settings that may differ when a run is resumed: they change how long or how loudly it runs,
# the name of its folder, or where its model goes.
SAFE_TO_CHANGE = frozenset(
    {
        "resume",
        "output",
        "num_epochs",
        "patience",
        "tracker",
        "push_to_hub",
        "hub_private",
        "keep_checkpoints",
        "checkpoint_every",
    }
)


def refuse_non_empty(folder: Path) -> None:
    """Refuse an output that holds something: old files would mix with the new run's.

    Raises:
        InputError: The path is a file or a folder that is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"output {folder} is not empty; "
            "choose another --output, or continue its run with --resume"
        )


def take_pinned(folder: Path, settings: Any) -> None:
    """Give a run that is resumed the very commits of Hub models that it began with.

    A model `organisation/name` was written to `config.yaml` as `organisation/name@commit`, and an
    open `..._revision` as a commit. A branch or tag is what it was at the first start.

    Args:
        folder: Of the run.
        settings: Of the recipe; changed in place.
    """
    path = folder / "config.yaml"
    saved = yaml.safe_load(path.read_text()) if path.is_file() else {}
    for field in dataclasses.fields(settings):
        before, now = saved.get(field.name), getattr(settings, field.name)
        if not isinstance(before, str) or not re.search(r"(^|@)[0-9a-f]{40}($|\+)", before):
            continue
        is_open = field.name.endswith("revision") and now is None
        if is_open or (isinstance(now, str) and _unpinned(now) == _unpinned(before)):
            setattr(settings, field.name, before)


def _unpinned(name: str) -> str:
    return re.sub(r"@[\w.-]+", "", name)


def refuse_changes(folder: Path, settings: Any) -> None:
    """Refuse to resume with other settings than the run began with.

    Raises:
        InputError: There is no run in the folder, or a setting outside `SAFE_TO_CHANGE` differs.
    """
    saved = folder / "config.yaml"
    if not saved.is_file():
        raise InputError(f"there is no run to resume in {folder}: it has no config.yaml")
    changed = changed_settings(settings, saved)
    refused = [
        f"{name} was {before!r} and is now {now!r}"
        for name, (before, now) in changed.items()
        if name not in SAFE_TO_CHANGE
    ]
    if refused:
        raise InputError(f"cannot resume {folder} with changed settings: {'; '.join(refused)}")


def what_must_stay(settings: Any) -> dict[str, Any]:
    """Return the settings that may not differ when a run is resumed."""
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if name not in SAFE_TO_CHANGE}


def refuse_foreign_checkpoints(folder: Path, identity: dict[str, Any]) -> None:
    """Refuse to go on with a checkpoint that another run wrote and somebody put there.

    Args:
        folder: The run's checkpoints.
        identity: What the checkpoints of this run carry as `run` in their state.

    Raises:
        InputError: A checkpoint carries something else; names what differs.
    """
    for path in sorted(folder.glob("step-*/checkpoint.json")):
        try:
            found = json.loads(path.read_text())["state"].get("run", {})
        except (OSError, ValueError, LookupError):
            continue  # torn: whoever loads it says so
        other = [
            f"{name} {found[name]!r} instead of {value!r}"
            for name, value in identity.items()
            if name in found and found[name] != value
        ]
        if other:
            raise InputError(f"{path.parent} is a checkpoint of another run: {'; '.join(other)}")
