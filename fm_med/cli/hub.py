"""`fm-med push | pull | card`: share a model, a cohort or a report, fetch one, write a card."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fm_med.cli.command import Command
from fm_med.errors import InputError
from fm_med.settings import argument, setting

if TYPE_CHECKING:
    from fm_med.cohort import Cohort
    from fm_med.hub import Pushed

_COHORT_HELP = "training cohort; default: the one named in the run's config.yaml"


@dataclass
class Push:
    """Settings of `fm-med push`."""

    folder: str = argument("a run's model folder, or the adapter in it; a cohort, a report")
    name: str = argument("organisation/name on the Hub, or a folder (also file://)")
    kind: Literal["model", "cohort", "report"] = setting("model", "what is in the folder")
    revision: str | None = setting(None, "branch on the Hub; default: the main one")
    private: bool = setting(False, "only for those who may; so it is without --public, too")
    public: bool = setting(False, "everybody may read it")
    cohort: str | None = setting(None, f"{_COHORT_HELP}; searched for in what is pushed")
    base: str | None = setting(None, "organisation/name[@revision] of an adapter's encoder")
    license: str | None = setting(None, "of the model, for its card, for example apache-2.0")
    evaluation: str | None = setting(None, "folder of the results for its card; or the run's own")
    text_model: bool = setting(False, "publish the text model, too: it holds words of reports")
    i_have_permission: bool = setting(False, "of a cohort: these patients' data may go there")
    json: bool = setting(False, "print the result as JSON")


@dataclass
class Pull:
    """Settings of `fm-med pull`."""

    name: str = argument("organisation/name on the Hub, or a folder (also file://)")
    folder: str = argument("the new folder")
    kind: Literal["model", "cohort"] = setting("model", "what is fetched")
    revision: str | None = setting(None, "branch, tag or commit")
    json: bool = setting(False, "print the result as JSON")


@dataclass
class Card:
    """Settings of `fm-med card`."""

    folder: str = argument("a run's model folder, or the adapter in it")
    cohort: str | None = setting(None, f"{_COHORT_HELP}; the card shows its aggregates")
    license: str | None = setting(None, "of the model, for example apache-2.0")
    evaluation: str | None = setting(None, "folder of the results; default: the run's report")
    replace: bool = setting(False, "an older card")
    json: bool = setting(False, "print the result as JSON")


def push(settings: Push) -> None:
    """Share a model, a cohort or a report."""
    if settings.private and settings.public:
        raise InputError("--private and --public exclude each other")
    if settings.i_have_permission and settings.kind != "cohort":
        raise InputError("--i_have_permission is for --kind cohort; nothing else holds patients")
    done = _push_other(settings) if settings.kind != "model" else _push_model(settings)
    if settings.json:
        print(json.dumps(asdict(done)))
        return
    commit = f", commit {done.commit}" if done.commit else ""
    what = f"{done.files} files" if done.changed else "nothing new"
    print(f"{done.where}: {what}{commit}")
    if done.left_out and settings.kind != "model":
        print(f"left out, as told of single patients or this machine: {', '.join(done.left_out)}")
    elif done.left_out:
        print(
            f"left out: {', '.join(done.left_out)} (its encoder is known by a local folder only; "
            "push the encoder and name it with --base)"
        )


def _push_other(settings: Push) -> "Pushed":
    """Share a cohort or a report."""
    from fm_med import hub

    folder, where = Path(settings.folder), settings.name
    if settings.kind == "cohort":
        return hub.push_cohort(
            folder,
            where,
            permitted=settings.i_have_permission,
            public=settings.public,
            revision=settings.revision,
        )
    cohort = training_cohort(folder, settings.cohort)
    _warn_without(cohort)
    return hub.push_report(
        folder, where, cohort=cohort, public=settings.public, revision=settings.revision
    )


def _warn_without(cohort: "Cohort | None") -> None:
    if cohort is None:
        print(
            "warning: without --cohort the ids and reports of the cohort cannot be searched for",
            file=sys.stderr,
        )


def _look_at_card(settings: Push) -> None:
    """Refuse results that are none, and tell who would change a card that is there already."""
    from fm_med.hub.staging import has_own_words

    if settings.evaluation and not (Path(settings.evaluation) / "metrics.json").is_file():
        raise InputError(f"{settings.evaluation} is no evaluation: it has no metrics.json")
    card = Path(settings.folder) / "README.md"
    if (settings.license or settings.evaluation) and card.is_file() and has_own_words(card):
        print(
            f"warning: {card} stays as it is, without regard to --license and --evaluation; "
            "fm-med card --replace writes it anew",
            file=sys.stderr,
        )


def _push_model(settings: Push) -> "Pushed":
    """Share a model."""
    from fm_med import hub

    _look_at_card(settings)
    cohort = training_cohort(Path(settings.folder), settings.cohort)
    _warn_without(cohort)
    return hub.push(
        Path(settings.folder),
        settings.name,
        revision=settings.revision,
        public=settings.public,
        cohort=cohort,
        base=settings.base,
        license=settings.license,
        evaluation=Path(settings.evaluation) if settings.evaluation else None,
        text_model=settings.text_model,
    )


def pull(settings: Pull) -> None:
    """Fetch a model or a cohort into a folder."""
    from fm_med import hub

    fetch = hub.pull_cohort if settings.kind == "cohort" else hub.pull
    commit = fetch(settings.name, Path(settings.folder), revision=settings.revision)
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
        evaluation=Path(settings.evaluation) if settings.evaluation else None,
        replace=settings.replace,
    )
    print(json.dumps({"card": str(path)}) if settings.json else path)


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
    "push": Command(Push, push, "share a model, a cohort or a report"),
    "pull": Command(Pull, pull, "fetch a model or a cohort"),
    "card": Command(Card, card, "write a model's card"),
}
