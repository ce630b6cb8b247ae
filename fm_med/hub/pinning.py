"""Name the very revision of a model on the Hub, so that a run can be repeated."""

from typing import TypeVar

from fm_med.fusion.naming import JOINT
from fm_med.hub.fetching import folder_named
from fm_med.hub.loading import local_folder

Name = TypeVar("Name", str, str | None)


def pinned(name: Name) -> Name:
    """Return the name of a model on the Hub with its commit, `organisation/name@commit`.

    Args:
        name: As given for an encoder, perhaps with `@` and a branch, tag or commit; also two that
            are joined by "+". Names of new encoders and folders come back as they are.

    Raises:
        InputError: The Hub cannot give the model, and its cache does not have it.
    """
    if name is None or folder_named(name) is not None:
        return name
    return JOINT.join(_pinned(part) for part in name.split(JOINT))


def _pinned(name: str) -> str:
    if "/" not in name or folder_named(name) is not None:
        return name
    commit = local_folder(name).name  # .../snapshots/<commit>
    return f"{name.partition('@')[0]}@{commit}"
