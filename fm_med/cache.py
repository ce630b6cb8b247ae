"""Where things are kept that a command can make again: embedded cohorts, text models, stores."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: FM_MED_CACHE, else fm_med under XDG_CACHE_HOME or ~/.cache."""
    if "FM_MED_CACHE" in os.environ:
        return Path(os.environ["FM_MED_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fm_med"


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Yield True where the folder is to be made: for one process; the others wait for it.

    The lock belongs to the process, so the operating system frees it if its holder is killed, and
    the next one makes the folder. What is made must appear whole (`fm_med.atomic`).

    Args:
        folder: In the cache; its parent is made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not folder.is_dir()
