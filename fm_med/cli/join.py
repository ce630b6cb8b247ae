"""`fm-med cohort join`: one cohort of two modalities."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fm_med.cli.command import Command
from fm_med.cli.made import MADE_JSON, tell_made
from fm_med.settings import argument, setting


@dataclass
class Join:
    """Settings of `fm-med cohort join`."""

    first: str = argument("folder of a cohort, of which every row is kept")
    second: str = argument("folder of a cohort of another modality")
    destination: str = argument("folder of the new cohort")
    by: Literal["subject_id", "record_id"] = setting("subject_id", "what must be equal")
    how: Literal["left", "outer"] = setting("left", "outer: also keep what only the second has")
    pick: Literal["first", "last"] | None = setting(None, "of a person's rows in the second")
    splits: Literal["agree", "first"] = setting("agree", "first: persons may differ in the second")
    drop_first: list[str] | None = setting(None, "columns of the first to leave out")
    drop_second: list[str] | None = setting(None, "columns of the second to leave out")
    prefix: str = setting("", "before names of the second that the first has, too")
    json: bool = setting(False, MADE_JSON)


def join(settings: Join) -> None:
    """Join two cohorts and say what came of it."""
    from fm_med.sources.join import join_cohorts
    from fm_med.sources.join_sides import JoinRules

    folder = join_cohorts(
        Path(settings.first),
        Path(settings.second),
        Path(settings.destination),
        JoinRules(
            by=settings.by,
            how=settings.how,
            pick=settings.pick,
            splits=settings.splits,
            drop_first=tuple(settings.drop_first or ()),
            drop_second=tuple(settings.drop_second or ()),
            prefix=settings.prefix,
        ),
    )
    tell_made(folder, as_json=settings.json)


JOIN_COMMANDS = {"cohort join": Command(Join, join, "join two cohorts of different modalities")}
