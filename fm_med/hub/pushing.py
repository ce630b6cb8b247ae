"""Push a model to the Hub, or to a shared folder, in one piece."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from fm_med.atomic import atomic_file, atomic_folder
from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.hub.card import has_card, model_card
from fm_med.hub.fetching import endpoint, folder_named, told
from fm_med.hub.guard import ALLOWED, TEXT_MODEL, Source, model_files, refuse_traces
from fm_med.hub.staging import set_bases, without_paths
from fm_med.hub.traces import Traces

CARD = "README.md"
_PATIENCE = 5  # times that a request is repeated when the Hub asks to slow down
_LONGEST_WAIT = 310.0  # seconds; the Hub counts in windows of five minutes

Files = Mapping[str, Source]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Pushed:
    """What a push has done.

    Attributes:
        where: Address of the repository, or the folder.
        commit: The commit that holds the model; "" in a folder.
        changed: False where everything was there already.
        files: Number of files.
        left_out: Folders of the model that did not go along.
    """

    where: str
    commit: str
    changed: bool
    files: int
    left_out: tuple[str, ...] = ()


def push(
    folder: Path,
    name: str,
    *,
    revision: str | None = None,
    public: bool = False,
    cohort: Cohort | None = None,
    base: str | None = None,
    license: str | None = None,
    text_model: bool = False,
) -> Pushed:
    """Share a saved model: all of its files in one commit, or none.

    The folder must hold nothing but a model's files, and they nothing about a person (see
    `fm_med.hub.guard`). A folder without a card is given one. What a push repeats is not sent
    again, and what the repository has of an older model is removed by the same commit.

    Args:
        folder: A run's `model` folder, or its `adapter`.
        name: `organisation/name` on the Hub, or a folder (also file://) for a closed network.
        revision: Branch on the Hub; made if it is not there. None: the main one.
        public: Everybody may read it. A repository is private otherwise.
        cohort: The training cohort: its ids and reports are searched for, and its aggregates go
            onto a new card.
        base: Name of the encoder that an adapter belongs to, `organisation/name` or with
            `@revision`, where the adapter knows it by a local folder. The same weights must be
            there; its commit is pinned.
        license: Of the model, for a new card.
        text_model: Also publish `text_model/`, whose vocabulary holds words of the reports. To a
            private repository it always goes along.

    Raises:
        InputError: Something must not be shared, or the Hub refuses or cannot be reached. Nothing
            has been published then.
    """
    names = model_files(folder)
    target = folder_named(name)
    if target is not None and revision is not None:
        raise InputError(f"{name} is a folder; it has no revision {revision!r}")
    if public and not text_model and any(n.startswith(f"{TEXT_MODEL}/") for n in names):
        raise InputError(
            f"{folder}/{TEXT_MODEL} has words of the training reports in its vocabulary: push to a "
            "private repository, or say --text_model to publish it"
        )
    files: dict[str, Source] = {entry: folder / entry for entry in names}
    files = without_paths(files)
    is_new = not has_card(files)
    if is_new:
        card = model_card(
            folder, name=_title(name, target), cohort=cohort, license=license, base=base
        )
        files[CARD] = card.encode()
    token = get_token()
    refuse_traces(folder, files, Traces.of(cohort, secrets=[token] if token else []))
    with told(name):
        complete = set_bases(files, base, target=target)
        if target is None:
            pushed = _to_hub(complete, name, revision=revision, public=public)
        else:
            pushed = _to_folder(complete, target)
    if is_new:
        with atomic_file(folder / CARD) as temporary:
            temporary.write_bytes(_content(files[CARD]))
    left_out = sorted({entry.split("/")[0] for entry in set(files) - set(complete)})
    return replace(pushed, left_out=tuple(left_out))


def _title(name: str, target: Path | None) -> str:
    """Return what a card calls the model: never a path."""
    return name if target is None else target.name


def _content(source: Source) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


# ------------------------------------------------------------------------------------ The Hub


def _to_hub(files: Files, name: str, *, revision: str | None, public: bool) -> Pushed:
    """Send large files, then make one commit; until then nobody sees anything of it."""
    api = HfApi()
    patiently(lambda: api.create_repo(name, private=not public, exist_ok=True))
    info = patiently(lambda: api.model_info(name))
    if bool(info.private) == public:
        is_now, flag = ("private", "leave out --public") if public else ("public", "say --public")
        raise InputError(f"{name} exists and is {is_now}: {flag}, or change it on its page")
    branch = revision or "main"
    refs = patiently(lambda: api.list_repo_refs(name))
    heads = {ref.name: ref.target_commit for ref in refs.branches}
    head = heads.get(branch, str(info.sha))
    there = patiently(lambda: api.list_repo_files(name, revision=head))
    additions = [CommitOperationAdd(path, source) for path, source in sorted(files.items())]
    stale = sorted((set(there) & ALLOWED) - set(files))
    deletions = [CommitOperationDelete(path, is_folder=False) for path in stale]
    start = branch if branch in heads else "main"
    patiently(lambda: api.preupload_lfs_files(name, additions, revision=start, free_memory=False))
    if branch not in heads:  # only now, so that a cut upload leaves no branch behind
        patiently(lambda: api.create_branch(name, branch=branch, revision=head))
    done = patiently(
        lambda: api.create_commit(
            name,
            [*additions, *deletions],
            commit_message="Push with fm-med",
            parent_commit=head,
            revision=branch,
        )
    )
    where = f"{endpoint()}/{name}"
    return Pushed(where, str(done.oid), changed=done.oid != head, files=len(files))


def patiently(request: Callable[[], Result]) -> Result:
    """Make a request to the Hub, again after a while when it asks to slow down (429)."""
    for attempt in range(_PATIENCE):
        try:
            return request()
        except HfHubHTTPError as error:
            response = error.response
            if response is None or response.status_code != 429:
                raise
            asked = response.headers.get("Retry-After", "")
            wait = float(asked) if asked.isdecimal() else 2.0**attempt
            time.sleep(min(wait, _LONGEST_WAIT))
    return request()


# --------------------------------------------------------------------------------- A shared folder


def _to_folder(files: Files, target: Path) -> Pushed:
    """Write a model as a folder; an older one there is replaced whole."""
    present = sorted(target.rglob("*")) if target.is_dir() else []
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file")
    old = {path.relative_to(target).as_posix(): path for path in present if not path.is_dir()}
    foreign = sorted(set(old) - ALLOWED)
    if foreign:
        raise InputError(f"{target} holds something else than a model ({foreign[0]}); not replaced")
    if set(old) == set(files) and all(
        old[entry].read_bytes() == _content(source) for entry, source in files.items()
    ):
        return Pushed(str(target), "", changed=False, files=len(files))
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as temporary:
            for entry, source in files.items():
                path = temporary / entry
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_content(source))
            if target.is_dir():
                target.rename(aside)
    except OSError as error:
        if aside.is_dir():
            aside.rename(target)
        raise InputError(f"{target} cannot be written: {error}") from None
    shutil.rmtree(aside, ignore_errors=True)
    return Pushed(str(target), "", changed=True, files=len(files))
