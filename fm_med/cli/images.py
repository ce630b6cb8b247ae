"""`fm-med cohort images`: make a cohort from images."""

from dataclasses import dataclass
from pathlib import Path

from fm_med.cli.command import Command
from fm_med.cli.made import MADE_JSON, tell_made
from fm_med.errors import InputError
from fm_med.settings import argument, setting


@dataclass
class Images:
    """Settings of `fm-med cohort images`."""

    folder: str = argument("folder with one folder of images per class, or of the table's images")
    destination: str = argument("folder of the new cohort")
    table: str | None = setting(None, "CSV or Parquet with one row per image")
    path: str | None = setting(None, "its column with the image's path")
    group: str | None = setting(None, "column with the patient, smear or slide; never cut")
    class_column: str | None = setting(None, "column with one class per image")
    label: list[str] | None = setting(None, "one or more columns of truth values")
    split: str | None = setting(None, "column with train, validation, test; default: 80/10/10")
    without_groups: bool = setting(False, "every image is a group of its own")
    seed: int = setting(0, "seed of the split by group")
    json: bool = setting(False, MADE_JSON)


def images(settings: Images) -> None:
    """Convert images."""
    from fm_med.sources.images import ImageColumns, make_images

    if (settings.table is None) != (settings.path is None):
        raise InputError("--table and --path belong together")
    columns = None
    if settings.path is not None:
        columns = ImageColumns(
            settings.path,
            settings.group,
            settings.class_column,
            tuple(settings.label or ()),
            settings.split,
        )
    folder = make_images(
        settings.folder,
        Path(settings.destination),
        table=settings.table,
        columns=columns,
        without_groups=settings.without_groups,
        seed=settings.seed,
    )
    tell_made(folder, as_json=settings.json)


IMAGE_COMMANDS = {"cohort images": Command(Images, images, "make a cohort from images")}
