"""Fetch a model from the Hub or from a shared folder; nothing but its known files comes along."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants, get_token, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from fm_med.atomic import atomic_folder
from fm_med.errors import InputError
from fm_med.hub.guard import ALLOWED

# The HTTP library under the Hub's client changes with its version; its errors have one base.
NetworkError: type[Exception] = next(
    kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"
)


def folder_named(name_or_path: str | Path) -> Path | None:
    """Return the folder that a name stands for, there or not; None for the name of a Hub model."""
    name = str(name_or_path)
    if name.startswith("file://"):
        return Path(unquote(urlsplit(name).path))
    path = Path(name).expanduser()
    if path.is_dir() or path.is_absolute() or name.startswith((".", "~")):
        return path
    return None


def download(name: str, *, revision: str | None = None) -> Path:
    """Return the folder of a Hub model in the cache, downloading what is missing.

    Only files that a model of fm_med has are asked for: whatever else a repository holds, a pickle
    or a path that leaves its folder, never comes to this machine.

    Raises:
        InputError: The Hub cannot give it: no such model, no right to it, no network.
    """
    with told(name):
        return Path(snapshot_download(name, revision=revision, allow_patterns=sorted(ALLOWED)))


def pull(name: str, folder: Path, *, revision: str | None = None) -> str:
    """Copy a model from the Hub or a shared folder into a new folder.

    Args:
        name: `organisation/name`, a folder or a file:// address.
        folder: The new folder; appears whole or not at all. A cut download goes on where it ended.
        revision: Branch, tag or commit.

    Returns:
        The commit that was copied; "" from a folder.

    Raises:
        InputError: The folder is not empty, the model cannot be had, or a file arrived damaged.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; pull into a new folder")
    source = folder_named(name)
    if source is not None and revision is not None:
        raise InputError(f"{name} is a folder; it has no revision {revision!r}")
    if source is not None and not source.is_dir():
        raise InputError(f"there is no folder {source}")
    commit = ""
    if source is None:
        source = download(name, revision=revision)
        commit = source.name
    names = [entry for entry in sorted(ALLOWED) if (source / entry).is_file()]
    if not {"config.json", "adapter_config.json"} & set(names):
        raise InputError(f"{name} is not a model of fm_med: it has no config.json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        for entry in names:
            (temporary / entry).parent.mkdir(parents=True, exist_ok=True)
            refuse_damage(source / entry, name)
            shutil.copyfile(source / entry, temporary / entry)
    return commit


def refuse_damage(path: Path, name: str) -> None:
    """Compare a file of the cache with the hash that the Hub gave for it, which is its name."""
    blob = path.resolve()
    if not path.is_symlink() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return
    content = blob.read_bytes()
    if len(blob.name) == 64:
        found = hashlib.sha256(content).hexdigest()
    else:
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if found != blob.name:
        raise InputError(f"{path.name} of {name} is damaged; delete {blob} and try again")


@contextmanager
def told(name: str) -> Iterator[None]:
    """Tell in one line, without any token, why the Hub does not do what it was asked.

    Raises:
        InputError: It said no, or could not be reached.
    """
    try:
        yield
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        NetworkError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        if isinstance(error, InputError):
            raise
        reason = _reason(error)
        if reason is None:
            raise
        raise InputError(f"{name}: {reason}") from None


def _reason(error: BaseException) -> str | None:
    """Return what went wrong in plain words; None for what is no fault of Hub or network."""
    causes: list[BaseException] = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) and inner not in causes:
        causes.append(inner)
    for cause in causes:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so the Hub is not asked (and the cache does not have it)"
        if isinstance(cause, RevisionNotFoundError):
            return "the Hub has no such revision"
        if status is not None:
            return _refused(int(status), isinstance(cause, RepositoryNotFoundError), cause)
    if any(isinstance(cause, HFValidationError) for cause in causes):
        return "this is no name of a model on the Hub, organisation/name"
    if any(isinstance(cause, NetworkError | ConnectionError) for cause in causes):
        return f"the Hub at {endpoint()} cannot be reached ({first_line(causes[-1])})"
    if isinstance(error, LocalEntryNotFoundError):
        return f"the Hub at {endpoint()} cannot give it ({first_line(error)})"
    return None


def _refused(status: int, is_unknown: bool, error: BaseException) -> str:
    if status in (401, 404) and is_unknown:
        seen = "the token in use" if get_token() else "no token, so private ones are not seen"
        return f"the Hub knows no such model for you ({seen})"
    if status == 401 and get_token() is None:
        return "the Hub wants a token; log in with hf auth login, or set HF_TOKEN"
    if status == 401:
        return "the Hub does not accept the token; log in with hf auth login, or set HF_TOKEN"
    if status == 403:
        return "the token has no right to write there"
    if status in (409, 412):
        return "somebody else has pushed meanwhile; nothing was pushed, look at it and push again"
    if status == 429:
        return "the Hub asks to slow down; try again later"
    return f"the Hub answered {status} ({first_line(error)})"


def endpoint() -> str:
    """Return the Hub's address without a password that might stand in it."""
    return re.sub(r"//[^/@]*@", "//", str(constants.ENDPOINT))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without any token."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_secrets(lines[0])[:200]


def without_secrets(text: str) -> str:
    """Return a text without tokens and passwords in addresses."""
    token = get_token()
    if token:
        text = text.replace(token, "***")
    return re.sub(r"//[^/@\s]*@", "//", re.sub(r"\bhf_[A-Za-z0-9]{8,}", "***", text))
