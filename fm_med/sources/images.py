"""A cohort from images: one folder per class, or a table that names the files."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from fm_med.cohort import COLUMN_MEANINGS, CohortCard, CohortWriter
from fm_med.cohort.writing import free_destination
from fm_med.errors import InputError
from fm_med.image.pixels import DICOM_SUFFIXES, read_pixels
from fm_med.image.storage import IMAGE_SCHEMA, encode
from fm_med.sources.ecg_table import SPLIT_NAMES, draw_splits
from fm_med.sources.table_file import booleans, identifiers, read_table, refuse_rows

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", *DICOM_SUFFIXES)
ROWS_AT_ONCE = 64
CLASS_COLUMN = "class"


@dataclass(frozen=True)
class ImageColumns:
    """Which column of a manifest holds what.

    Attributes:
        path: The image's path.
        group: What must not be cut by a split: the patient, or the smear or slide.
        class_column: One class per image.
        labels: Columns of truth values.
        split: train, validation or test.
    """

    path: str
    group: str | None = None
    class_column: str | None = None
    labels: tuple[str, ...] = ()
    split: str | None = None

    def names(self) -> list[str]:
        """Return all columns to read."""
        single = (self.path, self.group, self.class_column, self.split)
        return [name for name in (*single, *self.labels) if name is not None]


def make_images(
    folder: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    table: str | os.PathLike[str] | None = None,
    columns: ImageColumns | None = None,
    without_groups: bool = False,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Path:
    """Convert images.

    Images of one patient, smear or slide look alike, so that a split through them measures
    recognition of the slide: without a group column the conversion is refused unless
    `without_groups` says that every image is another patient's, or that there is no telling.

    Args:
        folder: With one folder of images per class, or what the table's paths start from.
        destination: The new cohort's folder.
        table: CSV or Parquet with one row per image.
        columns: Of the table.
        without_groups: Treat each image as a group of its own.
        fractions: Shares of groups in train, validation and test.
        seed: Of the draw of groups.

    Returns:
        The cohort's folder. Files that are no images are listed in `skipped.csv`.

    Raises:
        InputError: A folder, file or column is missing, a class is empty, no image could be read,
            there are no groups, or a group is in two of the given splits.
    """
    free_destination(destination)
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"no images at {folder}: there is no such folder")
    grouped = columns is not None and columns.group is not None
    if not grouped and not without_groups:
        raise InputError(
            "the images have no group column (patient, smear or slide), so a split could put one "
            "slide on both sides; name it with --group, or say --without_groups"
        )
    if table is None:
        rows = _from_folders(root)
        class_names = [CLASS_COLUMN]
    else:
        if columns is None:
            raise InputError(f"state which column of {table} holds the images' paths")
        rows = _from_table(table, columns)
        class_names = [columns.class_column] if columns.class_column else []
    if "split" not in rows:
        rows["split"] = pa.array(draw_splits(rows["subject_id"].to_pylist(), fractions, seed))
    labels = list(columns.labels) if columns else []
    card = CohortCard(
        name=root.name if table is None else Path(table).stem,
        modality="image",
        units="stored brightness, 8 or 16 bits",
        classes={name: sorted({c for c in rows[name].to_pylist() if c}) for name in class_names},
        label_sets={"labels": labels} if labels else {},
        columns={name: "class of the image; null when unknown" for name in class_names},
        source=f"{root.name}; split by {columns.group if columns and grouped else 'image'}",
    )
    described = pa.table(rows)
    kept = [field for field in described.schema if field.name != "path"]
    with CohortWriter(destination, card, pa.schema([*kept, *IMAGE_SCHEMA])) as writer:
        _write(writer, described, root)
    return Path(destination)


def _from_folders(root: Path) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return the rows of a folder of class folders."""
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    if len(classes) < 2:
        raise InputError(f"{root} holds {len(classes)} folder(s), expected one per class")
    paths, names = [], []
    for folder in classes:
        inside = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise InputError(f"the class folder {folder} holds no image ({', '.join(SUFFIXES)})")
        paths += [str(path.relative_to(root)) for path in inside]
        names += [folder.name] * len(inside)
    ids = pa.array(paths, pa.string())
    return {"subject_id": ids, "record_id": ids, "path": ids, CLASS_COLUMN: pa.array(names)}


def _from_table(
    table: str | os.PathLike[str], columns: ImageColumns
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return the rows of a manifest."""
    source = read_table(table, columns.names())
    for name in (*columns.labels, *filter(None, [columns.class_column])):
        if name in COLUMN_MEANINGS:
            raise InputError(f"a class or label cannot be named {name!r}: every cohort uses it")
    paths = identifiers(source, columns.path)
    repeated = [path for path, count in Counter(paths.to_pylist()).items() if count > 1]
    if repeated:
        raise InputError(f"{table}: the image {repeated[0]} is listed more than once")
    groups = identifiers(source, columns.group) if columns.group else paths
    rows = {"subject_id": groups, "record_id": paths, "path": paths}
    if columns.class_column:
        rows[columns.class_column] = source.column(columns.class_column)
    rows |= {name: booleans(source, name) for name in columns.labels}
    if columns.split:
        column = source.column(columns.split)
        splits = [SPLIT_NAMES.get((text or "").lower()) for text in column.to_pylist()]
        unknown = np.array([split is None for split in splits], bool)
        refuse_rows(unknown, f"column {columns.split!r} is not train, validation or test", column)
        rows["split"] = pa.array(splits, pa.string())
    return rows


def _write(writer: CohortWriter, described: pa.Table, root: Path) -> None:
    """Read and write the images, some at a time; those that cannot be read are listed."""
    for first in range(0, described.num_rows, ROWS_AT_ONCE):
        read: dict[str, list[dict[str, object]]] = {}
        for row in described.slice(first, ROWS_AT_ONCE).to_pylist():
            try:
                pixels = read_pixels(root / row["path"])
            except InputError as error:
                writer.skip(row["record_id"], str(error))
                continue
            kept = {name: value for name, value in row.items() if name != "path"}
            read.setdefault(row["split"], []).append({**kept, **encode(pixels)})
        for split, rows in read.items():
            writer.write(split, rows)
