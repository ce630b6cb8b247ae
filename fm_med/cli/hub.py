"""`fm-med push | pull | card`: share a model, fetch one, write its card."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fm_med.cli.command import Command
from fm_med.errors import InputError
from fm_med.settings import argument, setting

if TYPE_CHECKING:
    from fm_med.cohort import Cohort

_COHORT_HELP = "training cohort; default: the one named in the run's config.yaml"


@dataclass
class Push:
    """Settings of `fm-med push`."""

    folder: str = argument("a run's model folder, or the adapter in it")
    name: str = argument("organisation/name on the Hub, or a folder (also file://)")
    revision: str | None = setting(None, "branch on the Hub; default: the main one")
    private: bool = setting(False, "only for those who may; so it is without --public, too")
    public: bool = setting(False, "everybody may read it")
    cohort: str | None = setting(None, f"{_COHORT_HELP}; searched for in what is pushed")
    base: str | None = setting(None, "organisation/name[@revision] of an adapter's encoder")
    license: str | None = setting(None, "of the model, for its card, for example apache-2.0")
    text_model: bool = setting(False, "publish the text model, too: it holds words of reports")
    json: bool = setting(False, "print the result as JSON")


@dataclass
class Pull:
    """Settings of `fm-med pull`."""

    name: str = argument("organisation/name on the Hub, or a folder (also file://)")
    folder: str = argument("the new folder")
    revision: str | None = setting(None, "branch, tag or commit")
    json: bool = setting(False, "print the result as JSON")


@dataclass
class Card:
    """Settings of `fm-med card`."""

    folder: str = argument("a run's model folder, or the adapter in it")
    cohort: str | None = setting(None, f"{_COHORT_HELP}; the card shows its aggregates")
    license: str | None = setting(None, "of the model, for example apache-2.0")
    replace: bool = setting(False, "an older card")


def push(settings: Push) -> None:
    """Share a model."""
    if settings.private and settings.public:
        raise InputError("--private and --public exclude each other")
    from fm_med import hub

    cohort = training_cohort(Path(settings.folder), settings.cohort)
    if cohort is None:
        print(
            "warning: without --cohort the ids and reports of the training cohort cannot be "
            "searched for",
            file=sys.stderr,
        )
    done = hub.push(
        Path(settings.folder),
        settings.name,
        revision=settings.revision,
        public=settings.public,
        cohort=cohort,
        base=settings.base,
        license=settings.license,
        text_model=settings.text_model,
    )
    if settings.json:
        print(json.dumps(asdict(done)))
        return
    commit = f", commit {done.commit}" if done.commit else ""
    what = f"{done.files} files" if done.changed else "nothing new"
    print(f"{done.where}: {what}{commit}")
    if done.left_out:
        print(
            f"left out: {', '.join(done.left_out)} (its encoder is known by a local folder only; "
            "push the encoder and name it with --base)"
        )


def pull(settings: Pull) -> None:
    """Fetch a model into a folder."""
    from fm_med import hub

    commit = hub.pull(settings.name, Path(settings.folder), revision=settings.revision)
    if settings.json:
        print(json.dumps({"folder": settings.folder, "commit": commit}))
    else:
        print(settings.folder + (f", commit {commit}" if commit else ""))


def card(settings: Card) -> None:
    """Write a model's card."""
    from fm_med import hub

    folder = Path(settings.folder)
    path = hub.write_card(
        folder,
        cohort=training_cohort(folder, settings.cohort),
        license=settings.license,
        replace=settings.replace,
    )
    print(path)


def training_cohort(folder: Path, named: str | None) -> "Cohort | None":
    """Open the cohort that a model was trained on; None where it is not at hand.

    Args:
        folder: Of the model, in its run's folder.
        named: By the user; None looks into the run's `config.yaml`.

    Raises:
        InputError: The named one is no cohort.
    """
    import yaml

    from fm_med.cohort import open_cohort
    from fm_med.sources.embedded import open_or_simulate

    if named is not None:
        return open_cohort(named)
    parents = folder.resolve().parents
    config = next((p / "config.yaml" for p in parents[:2] if (p / "config.yaml").is_file()), None)
    settings = yaml.safe_load(config.read_text()) if config is not None else {}
    source = str(settings.get("cohort", ""))
    if source == "simulated":
        return open_or_simulate(source, subjects=int(settings["subjects"]))
    return open_cohort(source) if source and Path(source).is_dir() else None


HUB_COMMANDS = {
    "push": Command(Push, push, "share a model on the Hub or in a folder"),
    "pull": Command(Pull, pull, "fetch a model from the Hub or from a folder"),
    "card": Command(Card, card, "write a model's card"),
}
