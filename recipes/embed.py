"""Embed a cohort by an encoder: one row per recording in a Parquet file.

    accelerate launch recipes/embed.py --model runs/ptbxl/model --cohort cohorts/new \
        --output embeddings.parquet
    accelerate launch recipes/embed.py --model facebook/dinov2-base --cohort cohorts/cells \
        --output cells.parquet --columns cell_type

The model is an encoder, an adapter or a fine-tuned model, of any modality, or a foreign checkpoint
that the modality adopts. The file holds subject_id, record_id, split and embedding, beside the
columns that were asked for; its metadata name the model's and the cohort's hashes.
"""

from dataclasses import dataclass
from typing import Any

from jsonargparse.typing import PositiveInt

from fm_med.settings import launch, required, setting


@dataclass
class Config:
    """Settings; any of them can be a flag or a key of --config."""

    model: str = required("folder of a model, or a Hub id")
    output: str = required("Parquet file; must not exist yet")
    cohort: str = setting("simulated", "folder of a cohort; 'simulated' makes one")
    subjects: PositiveInt = setting(2500, "persons in the simulated cohort")
    splits: list[str] | None = setting(None, "default: all, in the cohort's order")
    columns: list[str] | None = setting(None, "of the cohort, to keep beside: age sex ...")
    encoder_settings: dict[str, Any] | None = setting(None, "around a foreign checkpoint: pooling")
    processor_settings: dict[str, Any] | None = setting(None, "of a foreign checkpoint")
    per_device_batch_size: PositiveInt = setting(64, "rows per process at a time")


def main(config: Config) -> None:
    """Data, model, embeddings."""
    from fm_med import distributed, embedding
    from fm_med.sources.embedded import open_or_simulate

    output = embedding.free_file(config.output)
    accelerator = distributed.accelerator(mixed_precision="no")
    cohort = open_or_simulate(config.cohort, subjects=config.subjects)
    source = embedding.open_source(
        config.model,
        cohort,
        accelerator,
        encoder_settings=config.encoder_settings,
        processor_settings=config.processor_settings,
    )
    rows = embedding.embed_cohort(
        source,
        cohort,
        output,
        accelerator,
        splits=config.splits,
        columns=config.columns or [],
        batch_size=config.per_device_batch_size,
    )
    accelerator.print(f"{rows} rows of width {source.encoder.config.pooled_size}: {output}")


if __name__ == "__main__":
    launch(Config, main)
