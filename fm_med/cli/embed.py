"""`fm-med embed`: the embeddings of a cohort's rows."""

import json
from dataclasses import dataclass
from pathlib import Path

from fm_med.cli.command import Command
from fm_med.errors import InputError
from fm_med.settings import argument, setting


@dataclass
class Embed:
    """Settings of `fm-med embed`."""

    model: str = argument("folder of a model of any modality, or a Hub id")
    cohort: str = argument("folder of a cohort")
    destination: str = argument("Parquet file; must not exist yet")
    splits: list[str] | None = setting(None, "default: all, in the cohort's order")
    columns: list[str] | None = setting(None, "of the cohort, to keep beside: age sex ...")
    batch_size: int = setting(64, "rows at a time")
    json: bool = setting(False, "print the result as JSON")


def embed(settings: Embed) -> None:
    """Write the file and say how many rows it has."""
    if settings.batch_size < 1:  # not by a type of the parser's, which would be imported for --help
        raise InputError(f"batch_size is {settings.batch_size}, expected batch_size > 0")
    from fm_med import distributed, embedding
    from fm_med.cohort import open_cohort

    path = embedding.free_file(settings.destination)
    cohort = open_cohort(Path(settings.cohort))
    accelerator = distributed.accelerator(mixed_precision="no")
    source = embedding.open_source(settings.model, cohort, accelerator)
    rows = embedding.embed_cohort(
        source,
        cohort,
        path,
        accelerator,
        splits=settings.splits,
        columns=settings.columns or [],
        batch_size=settings.batch_size,
    )
    width = source.encoder.config.pooled_size
    if settings.json:
        print(json.dumps({"file": str(path), "rows": rows, "width": width}))
    else:
        print(f"{rows} rows of width {width}: {path}")


EMBED_COMMANDS = {
    "embed": Command(Embed, embed, "embeddings of a cohort's rows by any encoder, to Parquet")
}
