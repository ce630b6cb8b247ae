"""Where things are kept that a command can make again: embedded cohorts, text models, stores."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: FM_MED_CACHE, else fm_med under XDG_CACHE_HOME or ~/.cache."""
    if "FM_MED_CACHE" in os.environ:
        return Path(os.environ["FM_MED_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fm_med"
