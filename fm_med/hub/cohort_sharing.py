"""Push a cohort as a data set, which takes an explicit permission, and pull one."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi, get_token, snapshot_download

from fm_med.atomic import atomic_folder
from fm_med.cohort import open_cohort
from fm_med.cohort.card import CARD_FILE
from fm_med.errors import InputError
from fm_med.hub.fetching import folder_named, refuse_damage, told
from fm_med.hub.guard import Source, refuse
from fm_med.hub.traces import Traces, find_traces
from fm_med.hub.uploading import Content, Pushed, upload

_SHARD = re.compile(r"data/[A-Za-z0-9_][\w.-]*\.arrow")
_NO_LICENSE = {"", "unknown", "none", "unlicensed"}


def _belongs(name: str) -> bool:
    return name == CARD_FILE or bool(_SHARD.fullmatch(name))


COHORT = Content("a cohort", "dataset", _belongs)


def push_cohort(
    folder: Path,
    name: str,
    *,
    permitted: bool,
    public: bool = False,
    revision: str | None = None,
) -> Pushed:
    """Share a cohort: patients' recordings, reports and outcomes, all that its shards hold.

    The card and the shards go, in one commit; `skipped.csv`, which names files of this machine, and
    anything else stays.

    Args:
        folder: Of the cohort.
        name: `organisation/name` of a data set on the Hub, or a folder (also file://).
        permitted: The user has said that these data may be given there.
        public: Everybody may read it; only where the card states the licence of the data.
        revision: Branch on the Hub; None: the main one.

    Raises:
        InputError: It was not permitted, is no whole cohort, has no licence to be public, its card
            names a path or a token, or the Hub refuses. Nothing has been published then.
    """
    if not permitted:
        raise InputError(
            f"{folder} holds patients' data, which are shared only with --i_have_permission: say "
            f"it if consent, ethics vote and licence allow that they are given to {name}"
        )
    cohort = open_cohort(folder)
    if public and str(cohort.card.license or "").strip().lower() in _NO_LICENSE:
        raise InputError(
            f"{folder} is not made public: its card states no licence of the data; leave out "
            "--public, or make the cohort with the licence that allows it"
        )
    target = folder_named(name)
    if target is not None and revision is not None:
        raise InputError(f"{name} is a folder; it has no revision {revision!r}")
    present = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    files: dict[str, Source] = {entry: p for entry, p in present.items() if _belongs(entry)}
    refuse(folder, [f"{entry} is a link" for entry in files if present[entry].is_symlink()])
    token = get_token()
    known = Traces(secrets=(token,) if token else ())
    text = (folder / CARD_FILE).read_text(encoding="utf-8")
    found = [trace for trace in find_traces(text, None, known) if not trace.startswith("the date")]
    refuse(folder, [f"{CARD_FILE} holds {trace}" for trace in found])
    left = {entry.split("/")[0] for entry, path in present.items() if path.is_file()}
    left_out = sorted(left - {entry.split("/")[0] for entry in files})
    with told(name):
        pushed = upload(files, name, COHORT, revision=revision, public=public)
    return replace(pushed, left_out=tuple(left_out))


def pull_cohort(name: str, folder: Path, *, revision: str | None = None) -> str:
    """Copy a cohort from the Hub or a shared folder into a new folder, and check that it is whole.

    Args:
        name: `organisation/name` of a data set, a folder or a file:// address.
        folder: The new folder; appears whole or not at all. A cut download goes on where it ended.
        revision: Branch, tag or commit.

    Returns:
        The commit that was copied; "" from a folder.

    Raises:
        InputError: The folder is not empty, the cohort cannot be had, or arrived damaged.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty; pull into a new folder")
    source, commit = folder_named(name), ""
    if source is not None and revision is not None:
        raise InputError(f"{name} is a folder; it has no revision {revision!r}")
    if source is None:
        source = _download(name, revision)
        commit = source.name
    open_cohort(source)
    files = {path.relative_to(source).as_posix(): path for path in source.rglob("*")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        for entry, path in files.items():
            if _belongs(entry) and path.is_file():
                (temporary / entry).parent.mkdir(parents=True, exist_ok=True)
                refuse_damage(path, name)
                shutil.copyfile(path, temporary / entry)
    return commit


def _download(name: str, revision: str | None) -> Path:
    """Return the folder of a data set in the cache; nothing but card and shards is asked for."""
    with told(name):
        try:
            there = HfApi().list_repo_files(name, revision=revision, repo_type="dataset")
        except OSError:
            there = []  # offline, or no such data set: the cache has it, or the next line says so
        wanted = [entry for entry in there if _belongs(entry)] or [CARD_FILE, "data/*.arrow"]
        return Path(
            snapshot_download(name, revision=revision, repo_type="dataset", allow_patterns=wanted)
        )
