"""What each of two cohorts brings into their join: its columns, by which names, and its card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from fm_med.cohort import Cohort, CohortCard
from fm_med.cohort.checking import HASH_COLUMNS, REQUIRED_COLUMNS
from fm_med.errors import InputError
from fm_med.fusion.naming import JOINT, UNITS_JOINT, presence_column

By = Literal["subject_id", "record_id"]
How = Literal["left", "outer"]


@dataclass(frozen=True)
class JoinRules:
    """How rows find each other, and what becomes of names that both cohorts use.

    Attributes:
        by: What must be equal: the person, or the record.
        how: "left" keeps the rows of the first cohort; "outer" also those persons (or records)
            that only the second one has.
        pick: Which of several rows of a person in the second cohort is taken, in its order; None
            refuses several.
        splits: "agree" refuses persons who are in different splits; "first" takes the split of the
            first cohort, which is safe only if no encoder has learnt from the second one.
        drop_first: Columns of the first cohort to leave out.
        drop_second: Of the second one.
        prefix: Put before the names in the second cohort that the first one has, too.
    """

    by: By = "subject_id"
    how: How = "left"
    pick: Literal["first", "last"] | None = None
    splits: Literal["agree", "first"] = "agree"
    drop_first: tuple[str, ...] = ()
    drop_second: tuple[str, ...] = ()
    prefix: str = ""


class Place(NamedTuple):
    """Where a row stands, and whose it is."""

    split: str
    row: int
    subject_id: str
    record_id: str


@dataclass(frozen=True)
class Side:
    """One cohort's contribution.

    Attributes:
        cohort: The cohort.
        card: Its card, with the new names and without what is left out.
        columns: New names of its columns, by their names in the cohort.
    """

    cohort: Cohort
    card: CohortCard
    columns: dict[str, str]

    def fields(self) -> list[pa.Field]:
        """Return its columns in the joined cohort, where any of them may be null."""
        schema = next(iter(self.cohort.splits.values())).schema
        named = (schema.field(old).with_name(new) for old, new in self.columns.items())
        return [field.with_nullable(True) for field in named]

    def places(self) -> list[Place]:
        """Return all rows in order."""
        found = []
        for split in self.cohort.splits:
            people, records = (
                self.cohort.column(split, name) for name in ("subject_id", "record_id")
            )
            found += [Place(split, k, *ids) for k, ids in enumerate(zip(people, records))]
        return found

    def read(self, places: Sequence[Place | None]) -> pa.Table:
        """Read rows in the order wanted; all null for None."""
        schema = pa.schema(self.fields())
        parts: list[pa.Table] = []
        where = np.full(len(places), -1)
        rows_read = 0
        for split in dict.fromkeys(place.split for place in places if place):
            mine = [(k, p.row) for k, p in enumerate(places) if p and p.split == split]
            wanted, rows = (np.array(numbers) for numbers in zip(*mine))
            where[wanted] = rows_read + np.arange(len(rows))
            rows_read += len(rows)
            parts.append(self.cohort.rows(split, rows, list(self.columns)))
        if not parts:
            return schema.empty_table().take(pa.nulls(len(places), pa.int64()))
        found = pa.concat_tables(parts).rename_columns(list(self.columns.values()))
        return found.take(pa.array(where, mask=where < 0)).cast(schema)


def two_sides(first: Cohort, second: Cohort, rules: JoinRules) -> tuple[Side, Side]:
    """Find the columns of both and the names they will have.

    Raises:
        InputError: A modality cannot be joined, or both cohorts use a name.
    """
    for cohort in (first, second):
        if JOINT in cohort.card.modality or UNITS_JOINT in cohort.card.units:
            raise InputError(f"{cohort.path} holds {cohort.card.modality}: two can be joined")
    if first.card.modality == second.card.modality:
        raise InputError(
            f"{first.path} and {second.path} both hold {first.card.modality}; cohorts of two "
            "different modalities are joined"
        )
    one = _side(first, rules.drop_first, {})
    taken = {*one.columns, *(presence_column(c.card.modality) for c in (first, second))}
    there = _columns(second, rules.drop_second)
    clashing = [name for name in there if name in taken and name not in HASH_COLUMNS]
    if clashing and not rules.prefix:
        raise InputError(
            f"{first.path} and {second.path} both have the column(s) {', '.join(clashing)}; leave "
            "them out of one (--drop_first, --drop_second) or rename those of the second (--prefix)"
        )
    hashes = tuple(name for name in there if name in taken and name in HASH_COLUMNS)
    renamed = {name: rules.prefix + name for name in clashing}
    two = _side(second, (*rules.drop_second, *hashes), renamed)
    again = [name for name in renamed.values() if name in taken or name in there]
    if again:
        raise InputError(f"--prefix {rules.prefix}: there is a column {again[0]!r} already")
    return one, two


def _columns(cohort: Cohort, dropped: Sequence[str]) -> list[str]:
    """Return a cohort's columns but for those left out and those that every cohort has.

    Raises:
        InputError: A column to leave out is not there.
    """
    there = next(iter(cohort.splits.values())).column_names
    missing = [name for name in dropped if name not in there or name in REQUIRED_COLUMNS]
    if missing:
        raise InputError(f"{cohort.path} has no column {missing[0]!r} that could be left out")
    return [name for name in there if name not in (*REQUIRED_COLUMNS, *dropped)]


def _side(cohort: Cohort, dropped: Sequence[str], renamed: Mapping[str, str]) -> Side:
    """Return a cohort's columns by their new names, and its card with these names."""
    columns = {name: renamed.get(name, name) for name in _columns(cohort, dropped)}
    card = cohort.card
    follow_up = card.time is not None and {card.time, card.event} <= columns.keys()
    sets = {
        name: [columns[label] for label in labels if label in columns]
        for name, labels in card.label_sets.items()
    }
    card = replace(
        card,
        time=columns[card.time] if follow_up and card.time else None,
        event=columns[card.event] if follow_up and card.event else None,
        follow_up_unit=card.follow_up_unit if follow_up else None,
        label_sets={name: labels for name, labels in sets.items() if labels},
        classes={columns[name]: c for name, c in card.classes.items() if name in columns},
        columns={columns[name]: m for name, m in card.columns.items() if name in columns},
    )
    return Side(cohort, card, columns)


def joined_card(one: Side, two: Side, rules: JoinRules) -> CohortCard:
    """Return the card of the joined cohort.

    Raises:
        InputError: Both have a follow-up, or a label set of one name.
    """
    a, b = one.card, two.card
    if a.time and b.time:
        raise InputError(
            f"{one.cohort.path} and {two.cohort.path} both have a follow-up ({a.time}, {b.time}); "
            f"leave one out: --drop_second {two.cohort.card.time} {two.cohort.card.event}"
        )
    sets = {rules.prefix + n if n in a.label_sets else n: v for n, v in b.label_sets.items()}
    both = sorted(a.label_sets.keys() & sets.keys())
    if both:
        raise InputError(
            f"{one.cohort.path} and {two.cohort.path} both have a label set {both[0]!r}; "
            "--prefix renames that of the second"
        )
    followed = a if a.time else b
    mixed = rules.how == "outer"
    presence = {
        presence_column(card.modality): f"true where the row holds {card.modality}"
        for card in (a, b)
    }
    return CohortCard(
        name=f"{a.name}{JOINT}{b.name}",
        modality=f"{a.modality}{JOINT}{b.modality}",
        units=f"{a.units}{UNITS_JOINT}{b.units}",
        sampling_rate=a.sampling_rate or b.sampling_rate,
        leads=a.leads or b.leads,
        follow_up_unit=followed.follow_up_unit,
        time=followed.time,
        event=followed.event,
        label_sets=a.label_sets | sets,
        classes=a.classes | b.classes,
        features=" ".join(text for text in (a.features, b.features) if text),
        columns=presence | a.columns | b.columns,
        language=[*dict.fromkeys([*a.language, *b.language])],
        source=f"{a.source or a.name}; {'all of' if mixed else 'where known'} {b.source or b.name}",
        license=a.license if a.license == b.license else "other",
        allow_duplicates=a.allow_duplicates or b.allow_duplicates,
    )
