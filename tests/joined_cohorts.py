"""A cohort of simulated ECGs and a table of some of the same persons, apart and joined."""

import csv

import numpy as np

from fm_med.cohort import open_cohort
from fm_med.sources.join import join_cohorts
from fm_med.sources.table import TableColumns, make_table


def clinical_table(folder, ecgs, *, leave_out=lambda k: k % 5 == 2, more=()):
    """Make a table of the persons of `ecgs`: their age, a level, and their sex with gaps.

    Args:
        folder: Of the new cohort.
        ecgs: Folder of the ECGs.
        leave_out: By a person's number, whether the table lacks that person.
        more: (person, split) of persons who have no ECG.
    """
    cohort = open_cohort(ecgs)
    rows = []
    for split in cohort.splits:
        columns = (cohort.column(split, name) for name in ("subject_id", "age", "sex"))
        for person, age, sex in zip(*columns):
            rows.append((person, split, age, sex))
    people = list({row[0]: row for row in rows}.values())
    kept = [row for k, row in enumerate(people) if not leave_out(k)]
    kept += [(person, split, 50.0, "female") for person, split in more]
    path = folder.with_suffix(".csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("person", "part", "years", "ward", "woman"))
        for k, (person, split, age, sex) in enumerate(kept):
            woman = "" if k % 7 == 3 else float(sex == "female")
            writer.writerow((person, split, age, "abc"[k % 3], woman))
    kinds = {"numeric": ("years", "woman"), "categorical": ("ward",)}
    roles = TableColumns(subject="person", split="part", **kinds)
    return make_table(path, folder, columns=roles)


def joined(folder, ecgs, rules=None, **table):
    """Join ECGs and a table of them that is made beside the new cohort."""
    other = clinical_table(folder.with_name(f"{folder.name}-table"), ecgs, **table)
    return open_cohort(join_cohorts(ecgs, other, folder, rules))


def column(cohort, name):
    """One column of all splits, null as None."""
    return [v for table in cohort.splits.values() for v in table.column(name).to_pylist()]


def presence(cohort, name):
    return np.array(column(cohort, f"has_{name}"))
