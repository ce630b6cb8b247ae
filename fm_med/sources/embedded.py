"""The embedded cohort: simulated on first use, kept in the cache, the default of the recipes."""

import sys
from pathlib import Path

from fm_med.cache import cache_folder, made_once
from fm_med.cohort import Cohort, open_cohort
from fm_med.sources.simulated import SIMULATION_VERSION, make_simulated


def embedded_cohort(subjects: int, *, seed: int = 0) -> Path:
    """Return the folder of a simulated cohort, made if it is not in the cache yet.

    Args:
        subjects: Number of persons.
        seed: Seed of the simulation.
    """
    name = f"simulated-v{SIMULATION_VERSION}-{subjects}-subjects-seed-{seed}"
    folder = cache_folder() / "cohorts" / name
    with made_once(folder) as needed:
        if needed:
            told = f"simulating {subjects} subjects (once, kept in {folder})"
            print(told, file=sys.stderr, flush=True)  # stdout may be for JSON
            make_simulated(folder, subjects=subjects, seed=seed)
    return folder


def open_or_simulate(cohort: str, *, subjects: int) -> Cohort:
    """Open a cohort by its folder; "simulated" is the embedded one, of so many persons."""
    return open_cohort(embedded_cohort(subjects) if cohort == "simulated" else cohort)
