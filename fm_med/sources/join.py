"""Join two cohorts of different modalities: each row of one with the other's row of that person."""

import os
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from fm_med.cohort import CohortWriter, open_cohort
from fm_med.cohort.checking import REQUIRED_COLUMNS, first_of
from fm_med.cohort.tables import in_split_order
from fm_med.cohort.writing import ROWS_PER_BATCH, free_destination
from fm_med.errors import InputError
from fm_med.fusion.naming import presence_column
from fm_med.sources.join_sides import JoinRules, Place, Side, joined_card, two_sides


class Pair(NamedTuple):
    """A row of the joined cohort: where it stands in the first and in the second, or None."""

    first: Place | None
    second: Place | None

    @property
    def ids(self) -> Place:
        """The first cohort's row, else the second's, by whose ids the new one goes."""
        place = self.first or self.second
        assert place is not None  # one of both is there
        return place


def join_cohorts(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    rules: JoinRules | None = None,
) -> Path:
    """Join two cohorts of different modalities into one, for encoders of both.

    A row has all columns of both cohorts; those of a cohort that lacks the person are null. The
    bool columns ``has_<modality>`` say what a row holds. Memory: a batch of rows, and the ids.

    Args:
        first: Folder of a cohort.
        second: Folder of another one.
        destination: The new cohort's folder.
        rules: What is matched, and how; default: every row of the first by its person.

    Returns:
        The new cohort's folder.

    Raises:
        InputError: Persons are in different splits, a person has several rows in the second cohort,
            both use a name or have a follow-up, or no row finds another.
    """
    rules = rules or JoinRules()
    free_destination(destination)
    one, two = two_sides(open_cohort(first), open_cohort(second), rules)
    card = joined_card(one, two, rules)
    matches = _matches(one, two, rules)
    names = [presence_column(side.card.modality) for side in (one, two)]
    fields = [pa.field(name, pa.string()) for name in REQUIRED_COLUMNS]
    fields += [pa.field(name, pa.bool_()) for name in names]
    schema = pa.schema([*fields, *one.fields(), *two.fields()])
    with CohortWriter(destination, card, schema) as writer:
        for split, pairs in matches.items():
            for start in range(0, len(pairs), ROWS_PER_BATCH):
                writer.write(split, _table(one, two, pairs[start : start + ROWS_PER_BATCH], names))
    return Path(destination)


def _table(one: Side, two: Side, pairs: list[Pair], names: list[str]) -> pa.Table:
    """Read both sides of some rows."""
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "subject_id": pa.array([pair.ids.subject_id for pair in pairs], pa.string()),
        "record_id": pa.array([pair.ids.record_id for pair in pairs], pa.string()),
    }
    for side, name, places in zip((one, two), names, zip(*pairs)):
        found = side.read(places)
        columns[name] = pa.array([place is not None for place in places])
        columns |= {column: found.column(column) for column in found.column_names}
    return pa.table(columns)


def _matches(one: Side, two: Side, rules: JoinRules) -> dict[str, list[Pair]]:
    """Find the rows of the joined cohort, split by split.

    Raises:
        InputError: As of `join_cohorts`.
    """
    here, there = one.places(), two.places()
    where = f"{one.cohort.path} and {two.cohort.path}"
    _refuse_other_splits(here, there, rules, where)
    if rules.by == "record_id":
        _refuse_other_persons(here, there, where)
    partner = _partners(there, rules, two)
    pairs = [(place.split, Pair(place, partner.get(getattr(place, rules.by)))) for place in here]
    if not any(pair.second for _, pair in pairs):
        kind = "person" if rules.by == "subject_id" else "record"
        raise InputError(
            f"no {kind} of {two.cohort.path} is in {one.cohort.path}: {rules.by} is for example "
            f"{next(iter(partner))!r} there and {getattr(here[0], rules.by)!r} here"
        )
    if rules.how == "outer":
        known = {getattr(place, rules.by) for place in here}
        split_of = {place.subject_id: place.split for place in here}
        rest = (place for key, place in partner.items() if key not in known)
        pairs += [(split_of.get(p.subject_id, p.split), Pair(None, p)) for p in rest]
    matches: dict[str, list[Pair]] = {}
    for split, pair in pairs:
        matches.setdefault(split, []).append(pair)
    return {split: matches[split] for split in in_split_order(matches)}


def _partners(there: list[Place], rules: JoinRules, two: Side) -> dict[str, Place]:
    """Return the row of the second cohort for each person or record.

    Raises:
        InputError: A person has several, and none is stated.
    """
    found: dict[str, Place] = {}
    several = []
    for place in there:
        key = getattr(place, rules.by)
        if key in found:
            several.append(key)
        if key not in found or rules.pick == "last":
            found[key] = place
    if several and rules.pick is None:
        people = list(dict.fromkeys(several))
        raise InputError(
            f"{len(people)} person(s) have several rows in {two.cohort.path}: {first_of(people)}; "
            "say which one to take (--pick first or last), or join by record_id"
        )
    return found


def _refuse_other_splits(
    here: list[Place], there: list[Place], rules: JoinRules, where: str
) -> None:
    """Refuse persons in different splits: an encoder of the one may have learnt from them.

    Raises:
        InputError: There are some.
    """
    splits = {place.subject_id: place.split for place in there}
    own = {place.subject_id: place.split for place in here}
    moved = [person for person, split in own.items() if splits.get(person, split) != split]
    if moved and rules.splits == "agree":
        named = first_of(f"{person} ({own[person]}, {splits[person]})" for person in moved)
        raise InputError(
            f"{len(moved)} person(s) are in different splits of {where}: {named}; make one by the "
            "other's split, or take the first one's (--splits first) if nothing has learnt from "
            "the second"
        )


def _refuse_other_persons(here: list[Place], there: list[Place], where: str) -> None:
    """Refuse records that belong to different persons.

    Raises:
        InputError: There are some.
    """
    owner = {place.record_id: place.subject_id for place in there}
    wrong = [p.record_id for p in here if owner.get(p.record_id, p.subject_id) != p.subject_id]
    if wrong:
        raise InputError(
            f"{len(wrong)} record(s) belong to different persons in {where}: {first_of(wrong)}"
        )
