"""Embeddings of a cohort's rows by any encoder, in one Parquet file.

Read it back with any Parquet reader; `metadata` says what made it.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator

import fm_med
from fm_med import hub
from fm_med.atomic import atomic_file
from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.examples import Examples, read_examples
from fm_med.finetuning.encoding import encode_rows

ROWS_AT_ONCE = 2048  # of each process, written as one row group
IDS = ("subject_id", "record_id", "split")
EMBEDDING = "embedding"
METADATA_KEY = b"fm_med"


@dataclass(frozen=True)
class Source:
    """What makes the embeddings.

    Attributes:
        encoder: On the device, in evaluation mode.
        processor: Prepares the rows.
        name: Folder or Hub id.
        sha256: Of its weights.
    """

    encoder: Any
    processor: Any
    name: str
    sha256: str


def open_source(
    name: str,
    cohort: Cohort,
    accelerator: Accelerator,
    *,
    encoder_settings: dict[str, Any] | None = None,
    processor_settings: dict[str, Any] | None = None,
) -> Source:
    """Load the encoder of a saved model: an encoder, an adapter, a fine-tuned or a foreign one.

    Args:
        name: Folder or Hub id.
        cohort: What it will read.
        accelerator: Knows the device.
        encoder_settings: Of what is put around a foreign checkpoint, such as its pooling.
        processor_settings: Instead of those that a foreign checkpoint states.

    Raises:
        InputError: There is no such model, its weights are random, or it reads another modality.
    """
    start = hub.start_from(
        name,
        cohort.card,
        encoder_settings=encoder_settings,
        processor_settings=processor_settings,
    )
    if start.has_new or not isinstance(start, hub.Start) or start.saved is None:
        raise InputError(f"{name} would start with random weights; give a folder or a Hub id")
    encoder = start.saved.encoder.to(accelerator.device).eval()
    return Source(encoder, start.saved.processor, name, start.key)


def free_file(destination: str | Path) -> Path:
    """Return the path of a file that can be written.

    Raises:
        InputError: There is something already, or its folder is a file.
    """
    path = Path(destination)
    if path.exists():
        raise InputError(f"{path} exists already")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise InputError(f"{path} cannot be written: {above} is a file")
    return path


def embed_cohort(
    source: Source,
    cohort: Cohort,
    destination: str | Path,
    accelerator: Accelerator,
    *,
    splits: Sequence[str] | None = None,
    columns: Sequence[str] = (),
    batch_size: int = 64,
) -> int:
    """Write one row per recording in the cohort's order: ids, split, embedding, columns.

    The file appears whole or not at all. Every process must call this; the first one writes. Memory
    holds one group of rows, and the ids of all.

    Args:
        source: The encoder.
        cohort: The cohort.
        destination: The new Parquet file.
        accelerator: Knows the processes.
        splits: All of them when None.
        columns: Further columns of the cohort.
        batch_size: Rows that the encoder sees at once.

    Returns:
        The number of rows.

    Raises:
        InputError: The file exists, or there is no such split or column.
    """
    path = free_file(destination)
    wanted = [split for split in cohort.splits if splits is None or split in splits]
    for split in splits or ():
        cohort.column(split, "split")  # refuses one that is not there
    schema = _schema(source, cohort, wanted, columns)
    examples = read_examples(cohort, None, splits=wanted)
    step = max(1, ROWS_AT_ONCE // batch_size) * batch_size * accelerator.num_processes
    with ExitStack() as stack:
        writer = None
        if accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = stack.enter_context(
                pq.ParquetWriter(stack.enter_context(atomic_file(path)), schema)
            )
        for start in range(0, len(examples), step):
            part = examples.take(np.arange(start, min(start + step, len(examples))))
            embedding = encode_rows(
                source.encoder, source.processor, part, accelerator, batch_size=batch_size
            )
            if writer is not None:
                writer.write_table(_table(part, embedding, schema))
    accelerator.wait_for_everyone()
    return len(examples)


def metadata(path: str | Path) -> Mapping[str, Any]:
    """Return what a file of embeddings says about itself: model, its hash, cohort, width.

    Raises:
        InputError: It is no file of embeddings.
    """
    try:
        stated = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if METADATA_KEY not in stated:
        raise InputError(f"{path} holds no embeddings of fm_med")
    return json.loads(stated[METADATA_KEY])


def _schema(
    source: Source, cohort: Cohort, splits: Sequence[str], columns: Sequence[str]
) -> pa.Schema:
    """Return the file's columns and what is said about them.

    Raises:
        InputError: The cohort has no such column, or it is written anyway.
    """
    for name in columns:
        if name in (*IDS, EMBEDDING):
            raise InputError(f"columns names {name!r}, which is written anyway")
        for split in splits:
            cohort.rows(split, np.arange(0), [name])  # refuses one that is not there
    width = int(source.encoder.config.pooled_size)
    stored = cohort.splits[splits[0]].schema
    fields = [
        *(pa.field(name, pa.string()) for name in IDS),
        pa.field(EMBEDDING, pa.list_(pa.float32(), width)),
        *(stored.field(name) for name in dict.fromkeys(columns)),
    ]
    about = {
        "model": source.name,
        "model_sha256": source.sha256,
        "encoder": source.encoder.config.model_type,
        "width": width,
        "cohort": cohort.card.name,
        "cohort_fingerprint": cohort.fingerprint,
        "splits": list(splits),
        "fm_med": fm_med.__version__,
    }
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(about)})


def _table(rows: Examples, embedding: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Return rows of the file."""
    flat = pa.array(np.ascontiguousarray(embedding).ravel(), pa.float32())
    arrays: dict[str, Any] = {name: pa.array(getattr(rows, name), pa.string()) for name in IDS}
    arrays[EMBEDDING] = pa.FixedSizeListArray.from_arrays(flat, embedding.shape[1])
    more = [name for name in schema.names if name not in arrays]
    if more:
        found = rows.table(more)
        arrays |= {name: found.column(name) for name in more}
    return pa.table([arrays[name] for name in schema.names], schema=schema)
