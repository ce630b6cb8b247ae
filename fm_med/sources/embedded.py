"""The embedded cohort: simulated on first use, kept in the cache, the default of the recipes."""

from pathlib import Path

from fm_med.cache import cache_folder
from fm_med.sources.simulated import make_simulated

SIMULATION_VERSION = 1  # raised when the same subjects and seed give another cohort


def embedded_cohort(subjects: int, *, seed: int = 0) -> Path:
    """Return the folder of a simulated cohort, made if it is not in the cache yet.

    Args:
        subjects: Number of persons.
        seed: Seed of the simulation.
    """
    name = f"simulated-v{SIMULATION_VERSION}-{subjects}-subjects-seed-{seed}"
    folder = cache_folder() / "cohorts" / name
    if not folder.is_dir():
        print(f"simulating {subjects} subjects (once, kept in {folder})", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_simulated(folder, subjects=subjects, seed=seed)
    return folder
