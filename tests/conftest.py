"""Shared fixtures: one thread, no network, and the real data where it is present."""

import os

# Before any import of torch or huggingface_hub: both read their environment once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def data_folder() -> Path:
    """The folder of real data: FM_MED_DATA, else shared/data beside the checkout."""
    return Path(os.environ.get("FM_MED_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture
def real_data():
    """Return a function that gives a folder of real data or skips with the reason."""

    def find(name: str) -> Path:
        folder = data_folder() / name
        if not folder.is_dir():
            pytest.skip(f"real data {name!r} is not at {folder} (set FM_MED_DATA)")
        return folder

    return find
