"""Models saved by older versions: brought up to this version's schema, or refused by name.

A schema is the layout of a model's folder and the content of its JSON files. Whoever changes it
raises `SCHEMA_VERSION`, adds to `MIGRATIONS` how a folder of the version before is changed, and
keeps a small checkpoint of the version before in `tests/hub/frozen`.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fm_med import __version__
from fm_med.errors import InputError
from fm_med.hub.guard import ALLOWED

SCHEMA_VERSION = 1
TASK_FILE = "task.json"
SCHEMA_FILE = "schema.json"  # of an encoder, which has no task
REFERENCE_FILE = "reference.json"  # of an encoder: aggregates of its training rows

# From a version to the next: changes a copy of the folder in place, weights included if need be.
Migration = Callable[[Path], None]
MIGRATIONS: Mapping[int, Migration] = {}


def write_schema(folder: Path) -> None:
    """State in an encoder's folder which schema it has."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, "fm_med": __version__}, indent=1)
    (folder / SCHEMA_FILE).write_text(f"{text}\n")


@contextmanager
def up_to_date(folder: Path, migrations: Mapping[int, Migration] = MIGRATIONS) -> Iterator[Path]:
    """Give the folder itself, or while it is needed a copy that was brought up to date.

    Args:
        folder: Of a model; also of a foreign checkpoint, which has no schema.
        migrations: As `MIGRATIONS`.

    Raises:
        InputError: Its schema is newer than this version's, or no migration leads from it.
    """
    version = _schema_of(folder)
    if version is None or version == SCHEMA_VERSION:
        yield folder
        return
    steps = [migrations.get(step) for step in range(version, SCHEMA_VERSION)]
    if version > SCHEMA_VERSION or None in steps:
        what = "update fm_med" if version > SCHEMA_VERSION else "save it anew with its own version"
        raise InputError(
            f"{folder} has schema_version {version}, fm_med {__version__} reads {SCHEMA_VERSION}: "
            f"{what}"
        )
    with tempfile.TemporaryDirectory(prefix="fm_med_", ignore_cleanup_errors=True) as place:
        copy = Path(place) / folder.name
        for name in sorted(ALLOWED):
            if (folder / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, copy / name)
        for step in steps:
            if step is not None:
                step(copy)
        yield copy


def _schema_of(folder: Path) -> int | None:
    """Return what a folder states; None for one that states nothing.

    Raises:
        InputError: It states something else than a number.
    """
    for name in (TASK_FILE, SCHEMA_FILE):
        path = folder / name
        if not path.is_file():
            continue
        try:
            version = json.loads(path.read_text(encoding="utf-8"))["schema_version"]
        except (ValueError, KeyError, TypeError):
            version = None
        if type(version) is not int:
            raise InputError(
                f"{path} has schema_version {version!r}, fm_med {__version__} reads "
                f"{SCHEMA_VERSION}"
            )
        return version
    return None
