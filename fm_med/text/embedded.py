"""The embedded text model: a small BERT trained on the reports at hand, on first use, and kept."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fm_med.cache import cache_folder, made_once
from fm_med.text.normalise import normalise
from fm_med.text.train import train_text_model

TRAINING_VERSION = 1  # raised when train_text_model makes another model of the same reports


def embedded_text_model(reports: Sequence[str]) -> Path:
    """Return the folder of a text model trained on these reports, made if not in the cache yet.

    Args:
        reports: Texts of the TRAINING split; their set decides which model it is.
    """
    distinct = sorted({normalise(report) for report in reports if normalise(report)})
    key = hashlib.sha256("\n".join([str(TRAINING_VERSION), *distinct]).encode()).hexdigest()[:16]
    folder = cache_folder() / "text-models" / key
    with made_once(folder) as needed:
        if needed:
            print(
                f"making a text model of {len(distinct)} texts (once, kept in {folder})", flush=True
            )
            train_text_model(distinct, folder)
    return folder
