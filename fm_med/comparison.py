"""What of a cohort differs from what a model was trained on, before anything is trained.

Of the training rows only the aggregates in the model's folder are known (`fm_med.reference`). Rows
are counted one per person, the first. A difference deserves attention when it is both larger than
chance and large enough to matter: a share by Cohen's h of .2, a median by half a deviation, a
spread by a factor of two, an embedding by `NOTABLE_SHIFT`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fm_med.cohort import Cohort
from fm_med.differences import Difference, judged, listed
from fm_med.disclosure import MINIMUM
from fm_med.errors import InputError
from fm_med.examples import Examples, read_examples
from fm_med.fusion.naming import JOINT, PARTS
from fm_med.hub import LoadedModel
from fm_med.metrics.drift import LARGE_SHIFT, Drift, embedding_drift
from fm_med.modalities import modality_of
from fm_med.reference import (
    Reference,
    common_facts,
    describing,
    encoded,
    kept_reference,
    one_per_person,
    parts,
    quantiles,
    room_facts,
    sample_of,
    shares,
)
from fm_med.tasks import FollowUpTask

FEWEST_NEW = 20  # persons; with fewer nothing but the form is compared
NOTABLE_H, NOTABLE_MEDIAN, NOTABLE_SPREAD, NOTABLE_SHIFT = 0.2, 0.5, 2.0, 0.2
CHANCE = 2.58  # standard errors
_SHOWN = 4  # of the items of a topic that differ

ADVICE = {
    "absent lead": "an absent lead is silent in the model; see why it is absent",
    "signal": "look at some of these recordings before training on them",
    "missing": "see whether it is missing at random",
    "missing cell": "the training median stands in; see whether it is missing at random",
    "label": "other patients or another definition; recalibrate, and choose new thresholds",
    "event": "other patients, follow-up or definition; absolute risks need recalibration",
    "follow-up": "risks hold within the shorter follow-up; an effect may change with time",
    "sex": "judge the sexes apart in the evaluation",
    "age (years)": "other ages: give age as a clinical covariate, and judge age groups apart",
    "amplitude (mV)": "see whether unit and gain were right when the cohort was made",
    "sampling rate (Hz)": "recordings are resampled; a low rate may have cost detail",
    "noise, 30 to 50 Hz (% of power)": "another filter or device; a source filtered at 40 Hz has "
    "little, a bad contact much",
    "baseline wander (% of power)": "another filter or device; the model's own filter removes most",
    "column": "see whether the unit is the same",
    "level": "other patients or another coding",
}
UNLIKE = "other patients or another way of measuring; look at a few rows"


def compare(model: LoadedModel, cohort: Cohort) -> list[Difference]:
    """Compare a cohort with what a model expects and was trained on.

    Args:
        model: From `fm_med.load`, with or without a head.
        cohort: To be used with it.

    Raises:
        InputError: The cohort holds another modality than the model reads.
    """
    modality = modality_of(cohort.card.modality)
    if not modality.reads(model.processor):
        raise InputError(f"{cohort.path} holds {modality.name}, which {model.folder} does not read")
    people = one_per_person(read_examples(cohort, None, splits=list(cohort.splits)))
    sample = sample_of(people)
    reference = Reference.from_dict(model.details.get("reference") or {})
    return [
        _persons(model, reference, people),
        *_form(model, cohort, sample),
        *_columns(model, cohort),
        *_aggregates(reference, people, sample),
        _embedding(model, reference, sample),
    ]


def summed_up(model: LoadedModel, training: Cohort) -> dict[str, Any]:
    """Return the aggregates of a training cohort that a model's folder does not keep.

    Raises:
        InputError: The model does not read the cohort.
    """
    _refuse_other(model, training)
    split = "train" if "train" in training.splits else next(iter(training.splits))
    rows = read_examples(training, None, splits=[split])
    return kept_reference(rows, model.encoder, model.processor)


def _refuse_other(model: LoadedModel, cohort: Cohort) -> None:
    modality = modality_of(cohort.card.modality)
    if not modality.reads(model.processor):
        raise InputError(f"{cohort.path} holds {modality.name}, which {model.folder} does not read")


def _persons(model: LoadedModel, reference: Reference, people: Examples) -> Difference:
    known = model.details.get("training", {}).get("persons") or reference.persons
    trained = f"{known:,} persons" if known else "not known"
    new = f"{len(people):,} persons"
    if not reference.persons:
        advice = (
            "the model's folder keeps no aggregates of its training rows (an older version, or "
            "few persons), so rows are not compared; name its training cohort "
            "with --training if you have it"
        )
        return Difference("persons", trained, new, "unknown", advice)
    if len(people) < FEWEST_NEW:
        advice = f"below {FEWEST_NEW} persons chance explains anything; rows are not compared"
        return Difference("persons", trained, new, "attention", advice)
    return Difference("persons", trained, new)


def _form(model: LoadedModel, cohort: Cohort, sample: Examples) -> Iterator[Difference]:
    """Compare leads, units, columns, sizes and so on with what the processor expects."""
    name, table = cohort.card.modality, sample.table()
    if JOINT not in name:
        yield from describing(name).fits(model.processor, cohort.card, table)
        return
    for place, (part, rows, _shown) in zip(PARTS, parts(name, table)):
        if rows.num_rows:
            found = describing(part).fits(getattr(model.processor, place), cohort.card, rows)
            yield from (one for one in found if one.topic != "units")  # the card's are joined


def _columns(model: LoadedModel, cohort: Cohort) -> Iterator[Difference]:
    """Compare clinical and target columns."""
    available = set.intersection(*(set(table.column_names) for table in cohort.splits.values()))
    wanted = [covariate.name for covariate in model.coding]
    if wanted:
        absent = [name for name in wanted if name not in available]
        advice = "the model does not predict without them; add the columns (a cell may be empty)"
        yield _there("clinical columns", wanted, absent, advice)
    if model.task is None:
        return
    absent = [name for name in model.task.columns if name not in available]
    advice = "enough to predict, but not to fine-tune or to evaluate this task"
    yield _there("target columns", list(model.task.columns), absent, advice)
    unit = cohort.card.follow_up_unit
    if isinstance(model.task, FollowUpTask) and unit:
        same = unit == model.task.unit
        advice = "horizons of the model are in its own unit; convert the cohort in the same one"
        yield judged("follow-up unit", model.task.unit, unit, "" if same else advice)


def _there(topic: str, wanted: list[str], absent: list[str], advice: str) -> Difference:
    found = f"without {listed(absent)}" if absent else "all there"
    return judged(topic, listed(wanted), found, advice if absent else "")


# ------------------------------------------------------------------------------ Aggregates


def _aggregates(reference: Reference, people: Examples, sample: Examples) -> Iterator[Difference]:
    """Compare shares and quantiles, one line per topic, and one per item that differs."""
    if not reference.persons or len(people) < FEWEST_NEW:
        return
    facts = common_facts(people), room_facts(sample)
    new_shares = {n: s for fact in facts for n, s in shares(fact, hide=False).items()}
    new_quantiles = {n: q for fact in facts for n, q in quantiles(fact, hide=False).items()}
    lines = [
        _share(name, reference.shares[name], new_shares[name])
        for name in reference.shares
        if name in new_shares
    ]
    lines += [
        _quantile(name, reference.quantiles[name], new_quantiles[name])
        for name in reference.quantiles
        if name in new_quantiles
    ]
    yield from _gathered(lines)
    yield from _only_one(reference.shares, new_shares)


def _share(name: str, old: tuple[float, int], new: tuple[float, int]) -> tuple[Difference, float]:
    """Compare two shares; also return how far beyond notable they are."""
    (trained, n), (found, m) = old, new
    shown, few = f"{trained:.1%}", MINIMUM / n
    # A kept share of none stands for any below ten persons: the nearest of them is compared.
    if trained == 0:
        trained, shown = min(found, few), f"under {few:.1%}"
    elif trained == 1:
        trained, shown = max(found, 1 - few), f"over {1 - few:.1%}"
    h = abs(2 * np.arcsin(np.sqrt(trained)) - 2 * np.arcsin(np.sqrt(found)))
    chance = CHANCE * np.sqrt(1 / n + 1 / m)
    notable = h >= NOTABLE_H and h > chance
    advice = ADVICE.get(_topic(name), UNLIKE) if notable else ""
    return judged(name, shown, f"{found:.1%}", advice), float(h)


def _quantile(
    name: str, old: tuple[list[float], int], new: tuple[list[float], int]
) -> tuple[Difference, float]:
    """Compare two lists of quantiles by their medians and the width of their middle half."""
    (trained, n), (found, m) = old, new
    width, new_width = ((values[3] - values[1]) / 1.349 for values in (trained, found))
    # What is constant in training is compared in percent.
    deviation = max(width, 0.02 * abs(trained[2]), 1e-12)
    shift = abs(trained[2] - found[2]) / deviation
    chance = CHANCE * 1.2533 * np.sqrt(1 / n + 1 / m)
    ratio = max(width, new_width) / max(min(width, new_width), 0.02 * abs(trained[2]), 1e-12)
    wider = ratio >= NOTABLE_SPREAD * (1 + chance) and max(width, new_width) > 0.05 * abs(found[2])
    notable = (shift >= NOTABLE_MEDIAN and shift > chance) or wider
    shown = [f"{values[2]:.3g} ({values[1]:.3g} to {values[3]:.3g})" for values in (trained, found)]
    advice = ADVICE.get(_topic(name), UNLIKE) if notable else ""
    apart = max(shift, float(np.log2(max(ratio, 1.0))))
    return judged(name, shown[0], shown[1], advice), float(apart)


def _topic(name: str) -> str:
    return "follow-up" if name.startswith("follow-up") else name.partition(": ")[0]


def _gathered(lines: list[tuple[Difference, float]]) -> Iterator[Difference]:
    """Return what differs one by one, and what does not as one line per topic."""
    topics: dict[str, list[tuple[Difference, float]]] = {}
    for line in lines:
        topics.setdefault(_topic(line[0].topic), []).append(line)
    for topic, items in topics.items():
        items.sort(key=lambda item: (item[0].state == "ok", -item[1]))
        notable = [line for line, _ in items if line.state != "ok"]
        yield from notable[:_SHOWN]
        if len(notable) > _SHOWN:
            names = [line.topic.partition(": ")[2] for line in notable[_SHOWN:]]
            yield Difference(f"{topic}: others", "", listed(names), "attention", notable[0].advice)
        alike = [line for line, _ in items if line.state == "ok"]
        if len(alike) == 1:
            yield alike[0]
        elif alike:
            most = alike[0]  # of those that do not, the one furthest apart
            item = most.topic.partition(": ")[2]
            yield Difference(f"{topic}: {len(alike)} alike, as {item}", most.model, most.cohort)


def _only_one(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    """Return the labels that only one side has."""
    trained, found = (
        {name.partition(": ")[2] for name in side if _topic(name) == "label"} for side in (old, new)
    )
    if trained != found:
        only = [listed(sorted(names)) for names in (trained - found, found - trained)]
        yield Difference("labels of one side only", only[0], only[1])


# ------------------------------------------------------------------------------- Embedding


def _embedding(model: LoadedModel, reference: Reference, sample: Examples) -> Difference:
    """Compare what the encoder makes of the rows with what it made of those of training."""
    topic, kept = "embedding", reference.embedding
    if not kept:
        return Difference(topic, "not known", "not compared", "unknown")
    try:
        features = encoded(sample, model.encoder, model.processor)
    except InputError as error:
        return Difference(topic, "", "cannot be read", "attention", str(error))
    if len(features) < FEWEST_NEW:
        return Difference(topic, f"{kept['persons']} persons", f"{len(features)}", "unknown")
    drift = embedding_drift(
        features,
        mean=np.array(kept["mean"]),
        variance=np.array(kept["variance"]),
        rows=kept["persons"],
    )
    far = drift.shift >= NOTABLE_SHIFT and drift.shift > drift.chance
    return judged(
        topic,
        f"chance alone: up to {drift.chance:.2f} SD per feature",
        f"{drift.shift:.2f} SD (p {drift.p_value:.3f})",
        _meaning(drift) if far else "",
    )


def _meaning(drift: Drift) -> str:
    share = f"{drift.moved:.0%} of {drift.features} features moved by more than {LARGE_SHIFT} SD"
    return (
        f"the encoder sees other inputs than in training ({share}); the lines above may say why. "
        "Do not trust the model as it is: fine-tune it on this cohort, or check its calibration"
    )
