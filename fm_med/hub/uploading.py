"""Put files into a repository of the Hub, or into a shared folder: all of them, or none."""

import filecmp
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from fm_med.atomic import atomic_folder
from fm_med.errors import InputError
from fm_med.hub.fetching import endpoint, folder_named
from fm_med.hub.guard import Source

Files = Mapping[str, Source]
Result = TypeVar("Result")

_PATIENCE = 5  # times that a request is repeated when the Hub asks to slow down
_LONGEST_WAIT = 310.0  # seconds; the Hub counts in windows of five minutes


@dataclass(frozen=True)
class Pushed:
    """What a push has done.

    Attributes:
        where: Address of the repository, or the folder.
        commit: The commit that holds the files; "" in a folder.
        changed: False where everything was there already.
        files: Number of files.
        left_out: Files or folders that did not go along.
    """

    where: str
    commit: str
    changed: bool
    files: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """What is shared.

    Attributes:
        what: In words, "a model".
        repository: Kind of the Hub's repository.
        belongs: Whether a file is one that such a push may replace or remove.
    """

    what: str
    repository: Literal["model", "dataset"]
    belongs: Callable[[str], bool]


def upload(
    files: Files, name: str, content: Content, *, revision: str | None, public: bool
) -> Pushed:
    """Send files; what a push repeats is not sent again, older files of the same kind are removed.

    Args:
        files: Name to content, or to where it lies.
        name: `organisation/name` on the Hub, or a folder (also file://).
        content: What is shared.
        revision: Branch on the Hub; made if it is not there. None: the main one.
        public: Everybody may read it.

    Raises:
        InputError: The target holds something else, or is public or private otherwise.
    """
    target = folder_named(name)
    if target is not None:
        return _to_folder(files, target, content)
    return _to_hub(files, name, content, revision=revision, public=public)


# ------------------------------------------------------------------------------------ The Hub


def _to_hub(
    files: Files, name: str, content: Content, *, revision: str | None, public: bool
) -> Pushed:
    """Send large files, then make one commit; until then nobody sees anything of it."""
    if "/" not in name:  # the Hub would make user/name, and not find it by its name alone
        raise InputError(f"{name} is no folder, and on the Hub it lacks the owner: owner/{name}")
    api, kind = HfApi(), content.repository
    patiently(lambda: api.create_repo(name, private=not public, exist_ok=True, repo_type=kind))
    info = patiently(lambda: api.repo_info(name, repo_type=kind))
    if bool(info.private) == public:
        is_now, flag = ("private", "leave out --public") if public else ("public", "say --public")
        raise InputError(f"{name} exists and is {is_now}: {flag}, or change it on its page")
    branch = revision or "main"
    refs = patiently(lambda: api.list_repo_refs(name, repo_type=kind))
    heads = {ref.name: ref.target_commit for ref in refs.branches}
    head = heads.get(branch, str(info.sha))
    there = patiently(lambda: api.list_repo_files(name, revision=head, repo_type=kind))
    additions = [CommitOperationAdd(path, source) for path, source in sorted(files.items())]
    stale = sorted({path for path in there if content.belongs(path)} - set(files))
    deletions = [CommitOperationDelete(path, is_folder=False) for path in stale]
    start = branch if branch in heads else "main"
    patiently(
        lambda: api.preupload_lfs_files(
            name, additions, revision=start, free_memory=False, repo_type=kind
        )
    )
    if branch not in heads:  # only now, so that a cut upload leaves no branch behind
        patiently(lambda: api.create_branch(name, branch=branch, revision=head, repo_type=kind))
    done = patiently(
        lambda: api.create_commit(
            name,
            [*additions, *deletions],
            commit_message="Push with fm-med",
            parent_commit=head,
            revision=branch,
            repo_type=kind,
        )
    )
    where = f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}"
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


def _to_folder(files: Files, target: Path, content: Content) -> Pushed:
    """Write a folder; an older one there is replaced whole."""
    present = sorted(target.rglob("*")) if target.is_dir() else []
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file")
    old = {path.relative_to(target).as_posix(): path for path in present if not path.is_dir()}
    foreign = [name for name in sorted(old) if not content.belongs(name)]
    if foreign:
        raise InputError(
            f"{target} holds something else than {content.what} ({foreign[0]}); not replaced"
        )
    if set(old) == set(files) and all(_same(old[name], file) for name, file in files.items()):
        return Pushed(str(target), "", changed=False, files=len(files))
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as temporary:
            for name, source in files.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, source)
            if target.is_dir():
                target.rename(aside)
    except OSError as error:
        if aside.is_dir():
            aside.rename(target)
        raise InputError(f"{target} cannot be written: {error}") from None
    shutil.rmtree(aside, ignore_errors=True)
    return Pushed(str(target), "", changed=True, files=len(files))


def _same(old: Path, source: Source) -> bool:
    if isinstance(source, Path):
        return filecmp.cmp(old, source, shallow=False)
    return old.read_bytes() == source


def _write(path: Path, source: Source) -> None:
    if isinstance(source, Path):
        shutil.copyfile(source, path)
    else:
        path.write_bytes(source)
