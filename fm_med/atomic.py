"""Write files and folders whole or not at all: to a temporary name first, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _temporary_beside(path: Path) -> Path:
    """Return a name in the same folder (a rename is atomic only within one file system)."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it replaces `path`, on failure nothing is left.

    The data is flushed to disk before the rename, so a crash leaves the old file or the new one.

    Args:
        path: The file to write; its folder must exist.
    """
    temporary = _temporary_beside(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it becomes `path`, on failure it is removed.

    Args:
        path: The folder to make; it must not exist yet (or be an empty folder).
    """
    temporary = _temporary_beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_left_overs(folder: Path) -> None:
    """Delete what a process that was killed while writing left under temporary names.

    Args:
        folder: Searched itself and one level deeper; no process may be writing there.
    """
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
