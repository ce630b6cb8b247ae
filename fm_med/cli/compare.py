"""`fm-med compare-cohort`: what of a cohort differs from what a model was trained on."""

import json
from dataclasses import dataclass
from pathlib import Path

from fm_med.cli.command import Command
from fm_med.cli.device import refuse_device
from fm_med.cli.hub import training_cohort
from fm_med.settings import argument, setting

_MARKS = {"ok": "ok", "attention": "!!", "unknown": "??"}


@dataclass
class CompareCohort:
    """Settings of `fm-med compare-cohort`."""

    model: str = argument("folder of a model, or a Hub id")
    cohort: str = argument("folder of a cohort of the same modality")
    training: str | None = setting(None, "its training cohort; for models without aggregates")
    device: str = setting("cpu", "cpu, cuda ...")
    json: bool = setting(False, "print the differences as JSON")


def compare_cohort(settings: CompareCohort) -> None:
    """Print one line per thing compared; differences are no error.

    A model whose folder keeps no aggregates of its training rows, as of older versions, is compared
    by its training cohort: the one given, or the one in its run's config.yaml, if it is at hand.
    """
    refuse_device(settings.device)
    from fm_med import hub
    from fm_med.cohort import open_cohort
    from fm_med.comparison import compare, summed_up

    cohort = open_cohort(Path(settings.cohort))
    model = hub.load(settings.model, device=settings.device)
    if settings.training or not model.details.get("reference"):
        training = training_cohort(model.folder, settings.training)
        model.details["reference"] = {} if training is None else summed_up(model, training)
    found = compare(model, cohort)
    if settings.json:
        print(json.dumps([line.to_dict() for line in found], indent=1))
        return
    rows = [("", "", "model", "cohort")]
    rows += [(_MARKS[line.state], line.topic, line.model, line.cohort) for line in found]
    widths = [max(len(row[k]) for row in rows) for k in (1, 2)]
    for place, (mark, topic, old, new) in enumerate(rows):
        print(f"{mark:<2}  {topic:<{widths[0]}}  {old:<{widths[1]}}  {new}".rstrip())
        if place and found[place - 1].advice:
            print(f"    -> {found[place - 1].advice}")
    number = sum(line.state == "attention" for line in found)
    print(f"{number} of {len(found)} deserve attention" if number else "nothing deserves attention")


COMPARE_COMMANDS = {
    "compare-cohort": Command(
        CompareCohort, compare_cohort, "how a cohort differs from a model's training rows"
    )
}
