"""Push a model to the Hub, or to a shared folder, in one piece."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub import get_token

from fm_med.atomic import atomic_file
from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.hub.card import has_card, model_card, put_figure
from fm_med.hub.card_facts import figure_of
from fm_med.hub.fetching import folder_named, told
from fm_med.hub.guard import ALLOWED, TEXT_MODEL, Source, model_files, refuse_traces
from fm_med.hub.staging import set_bases, without_paths
from fm_med.hub.traces import Traces
from fm_med.hub.uploading import Content, Pushed, upload
from fm_med.report.calibration_drawing import CALIBRATION_FILE

CARD = "README.md"
MODEL = Content("a model", "model", lambda name: name in ALLOWED)


def push(
    folder: Path,
    name: str,
    *,
    revision: str | None = None,
    public: bool = False,
    cohort: Cohort | None = None,
    base: str | None = None,
    license: str | None = None,
    evaluation: Path | None = None,
    text_model: bool = False,
) -> Pushed:
    """Share a saved model: all of its files in one commit, or none.

    The folder must hold nothing but a model's files, and they nothing about a person (see
    `fm_med.hub.guard`). A folder without a card is given one. What a push repeats is not sent
    again, and what the repository has of an older model is removed by the same commit.

    Args:
        folder: A run's `model` folder, or its `adapter`.
        name: `organisation/name` on the Hub, or a folder (also file://) for a closed network.
        revision: Branch on the Hub; made if it is not there. None: the main one.
        public: Everybody may read it. A repository is private otherwise.
        cohort: The training cohort: its ids and reports are searched for, and its aggregates go
            onto a new card.
        base: Name of the encoder that an adapter belongs to, `organisation/name` or with
            `@revision`, where the adapter knows it by a local folder. The same weights must be
            there; its commit is pinned.
        license: Of the model, for a new card.
        evaluation: Folder of the results that a new card shows; None: the run's own.
        text_model: Also publish `text_model/`, whose vocabulary holds words of the reports. To a
            private repository it always goes along.

    Raises:
        InputError: Something must not be shared, or the Hub refuses or cannot be reached. Nothing
            has been published then.
    """
    names = model_files(folder)
    target = folder_named(name)
    if target is not None and revision is not None:
        raise InputError(f"{name} is a folder; it has no revision {revision!r}")
    if public and not text_model and any(n.startswith(f"{TEXT_MODEL}/") for n in names):
        raise InputError(
            f"{folder}/{TEXT_MODEL} has words of the training reports in its vocabulary: push to a "
            "private repository, or say --text_model to publish it"
        )
    files: dict[str, Source] = {entry: folder / entry for entry in names}
    files = without_paths(files)
    is_new = not has_card(files)
    if is_new:
        card = model_card(
            folder,
            name=_title(name, target),
            cohort=cohort,
            license=license,
            base=base,
            evaluation=evaluation,
        )
        files[CARD] = card.encode()
        files.pop(CALIBRATION_FILE, None)
        figure = figure_of(folder, evaluation)
        if figure is not None:
            files[CALIBRATION_FILE] = figure
    token = get_token()
    refuse_traces(folder, files, Traces.of(cohort, secrets=[token] if token else []))
    with told(name):
        complete = set_bases(files, base, target=target)
        pushed = upload(complete, name, MODEL, revision=revision, public=public)
    if is_new:
        with atomic_file(folder / CARD) as temporary:
            temporary.write_bytes(_content(files[CARD]))
        put_figure(folder, figure)
    left_out = sorted({entry.split("/")[0] for entry in set(files) - set(complete)})
    return replace(pushed, left_out=tuple(left_out))


def _title(name: str, target: Path | None) -> str:
    """Return what a card calls the model: never a path."""
    return name if target is None else target.name


def _content(source: Source) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source
