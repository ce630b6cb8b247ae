"""The readable part of a model's card."""

from typing import Any

from huggingface_hub import try_to_load_from_cache

from fm_med.disclosure import MINIMUM, without_small_counts
from fm_med.hub.card_facts import Facts
from fm_med.hub.card_results import calibration, results, table
from fm_med.hub.cohort_facts import cohort_facts
from fm_med.hub.staging import LOCAL, is_local
from fm_med.usage import energy_text

Lines = list[str]

_NO_DEVICE = (
    "**Not a medical device.** This model is for research. It has not been assessed for diagnosis, "
    "treatment or triage of patients; nobody may be treated, or not treated, because of its output."
)
_TASKS = {
    "survival": "predicts the risk of {target} (log-hazard, and the risk at {horizons})",
    "discrete_time": "predicts the risk of {target} (hazards per interval; the risk at {horizons})",
    "competing_risks": "predicts which of {number} events comes first: {target} (at {horizons})",
    "multilabel": "predicts the probability of each of {number} findings: {target}",
    "classification": "predicts one of {number} classes: {target}",
    "regression": "predicts the number {target}",
}
# Where things lay, and what belongs to the machine rather than to the training.
_NO_SETTINGS = {"cohort", "output", "resume", "tracker", "config", "prompts", "subjects"}
_NO_SETTINGS |= {"push_to_hub", "hub_private"}


def page(facts: Facts) -> str:
    """Return the page below the header."""
    sections = {
        "Intended use": _use(facts),
        "Input": _input(facts),
        "Training data": _data(facts),
        "Results": results(facts.results)
        or ["Not stated: the run's results were not at hand when this card was written."],
        "Calibration": calibration(facts.results, drawn=facts.has_figure),
        "Training": _training(facts),
        "Limits": _limits(facts),
        "How to use": _how(facts),
    }
    lines = [f"# {facts.name}", "", _what(facts), "", _NO_DEVICE, ""]
    for title, content in sections.items():
        if content:
            lines += [f"## {title}", "", *content, ""]
    return "\n".join(lines)


def _what(facts: Facts) -> str:
    kind = str(facts.config.get("model_type", "")).removeprefix("fm_med_") or "encoder"
    form = "A low-rank adapter" if facts.is_adapter else f"A `{kind}` network"
    if not facts.task:
        purpose = "turns each recording into a vector of features"
        if facts.alignment:
            purpose += ", trained so that recordings and their reports lie close together"
        return f"{form} for {facts.modality} data that {purpose}."
    task = facts.details["task"]
    classes = task.get("classes") or []
    unit = task.get("unit", "")
    horizons = ", ".join(f"{h:g} {unit}" for h in facts.details.get("horizons", []))
    target = ", ".join(classes) or ", ".join(task.get("columns", []))
    of_one_event = facts.task in ("survival", "discrete_time")
    event = (task.get("columns") or ["", target])[-1] if of_one_event else target
    words = {"target": event, "horizons": horizons or "no horizon", "number": len(classes)}
    purpose = _TASKS.get(facts.task, "predicts {target}").format(**words)
    return f"{form} for {facts.modality} data that {purpose}."


def _use(facts: Facts) -> Lines:
    lines = [
        "For research on cohorts whose input meets the contract below: to compare with other "
        "models, to fine-tune on a cohort of one's own, to study what it has learned.",
        "",
        "Before it is used on other patients it must be validated on them, discrimination and "
        "calibration, and recalibrated where needed: another hospital has other devices, other "
        "prevalences and another follow-up.",
    ]
    clinical = [entry["name"] for entry in facts.details.get("clinical", [])]
    if clinical:
        lines += ["", f"Beside the input it takes {', '.join(clinical)}."]
    return lines


def _input(facts: Facts) -> Lines:
    values = facts.processor
    lines = []
    for key, value in values.items():
        if key == "feature_extractor_type":
            lines.append(f"- Processor: `{value}`, saved in `preprocessor_config.json`")
        elif isinstance(value, list):
            lines += _listed(key, value)
        elif value is not None and not isinstance(value, dict):
            lines.append(f"- {key}: {value}{_UNITS.get(key, '')}")
    return lines


_UNITS = {"sampling_rate": " Hz", "seconds": " s", "high_pass": " Hz", "low_pass": " Hz"}
_NAMES = {"leads": 12, "genes": 5, "numeric": 60, "categorical": 60}  # how many are listed


def _listed(key: str, values: list[Any]) -> Lines:
    """Name leads, columns and the first genes; what was fitted to rows is only in the file."""
    if key not in _NAMES or not values:
        return []
    names = ", ".join(str(value) for value in values[: _NAMES[key]])
    more = f", ... ({len(values)} in all)" if len(values) > _NAMES[key] else ""
    return [f"- {key}: {names}{more}"]


def _data(facts: Facts) -> Lines:
    if facts.cohort is not None:
        card = facts.cohort.card
        lines = [f"{card.name}: {card.modality} in {card.units}.", ""]
        return [*lines, *cohort_facts(facts.cohort), "", f"Numbers below {MINIMUM} are not shown."]
    known = without_small_counts(facts.details.get("training", {}))
    if not known:
        return ["Not stated: the training cohort was not at hand when this card was written."]
    lines = [f"{known.get('cohort', 'not stated')}."]
    for key, name in (("rows", "Rows"), ("persons", "Persons"), ("events", "Events")):
        count = known.get(key)
        if count is not None:
            lines.append(f"- {name}: {count:,}" if isinstance(count, int) else f"- {name}: {count}")
    return lines


def _training(facts: Facts) -> Lines:
    lines: Lines = []
    if facts.base:
        revision = f", revision {facts.base_revision}" if facts.base_revision else ""
        lines.append(f"- Began with: `{facts.base}`{revision}")
        lines.append(f"- Licence of it: {_license_of(facts.base, facts.base_revision)}")
    training = facts.details.get("training", {})
    started = str(training.get("encoder") or facts.settings.get("encoder") or "")
    if started and not facts.base:
        is_new = not is_local(started) and started != LOCAL
        what = f"a new `{started}`" if is_new else "an encoder kept locally, not stated"
        lines.append(f"- Began with: {what}")
    if "peft" in training:
        lines.append(f"- Weights trained: {training['peft']}")
    lines += _text_model(facts)
    shown = {key: value for key, value in facts.settings.items() if _may_show(key, value)}
    if "seed" in shown:
        lines.append(f"- Seed: {shown['seed']}")
    environment = facts.environment
    if environment:
        count = environment.get("num_processes", 1)
        processes = "1 process" if count == 1 else f"{count} processes"
        lines.append(f"- Hardware: {processes} on {environment.get('device')}")
        precision = environment.get("mixed_precision")
        lines.append(f"- Precision: {'float32' if precision == 'no' else precision}")
        if "minutes" in environment:
            lines.append(f"- Time: {environment['minutes']:.0f} minutes since its last start")
        lines.append(f"- Energy: {energy_text(environment.get('energy_kwh'))}")
        versions = environment.get("versions", {})
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(f"- Versions: Python {environment.get('python')}, {named}")
    if shown:
        rows = [(f"`{key}`", f"`{value}`") for key, value in shown.items()]
        lines += ["", "<details><summary>All settings</summary>", "", *table(("", ""), rows)]
        lines += ["", "</details>"]
    return lines


def _may_show(key: str, value: Any) -> bool:
    if key in _NO_SETTINGS or value is None:
        return False
    return not any(is_local(str(part)) for part in (value if isinstance(value, list) else [value]))


def _text_model(facts: Facts) -> Lines:
    """Name the frozen text model, with its revision and its licence where the cache knows it."""
    text = facts.alignment.get("text", {})
    name = facts.settings.get("text_encoder")
    if not text and not name:
        return []
    if name == "embedded":
        lines = ["- Text model: a small BERT, trained on the reports of the training split"]
    elif not name or "/" not in str(name) or is_local(str(name)):
        lines = ["- Text model: kept locally, not stated"]
    else:
        revision = facts.settings.get("text_revision")
        lines = [f"- Text model: `{name}`" + (f", revision {revision}" if revision else "")]
        lines.append(f"- Licence of the text model: {_license_of(str(name), revision)}")
    if text:
        pooling = text.get("pooling")
        lines[0] += f"; {text.get('dim')} dimensions, {pooling} pooling, hash `{text.get('model')}`"
    return lines


def _license_of(name: str, revision: str | None) -> str:
    from huggingface_hub import ModelCard

    path = try_to_load_from_cache(name, "README.md", revision=revision)
    if not isinstance(path, str):
        return "not known"
    return str(ModelCard.load(path, ignore_metadata_errors=True).data.license or "not stated")


def _limits(facts: Facts) -> Lines:
    lines = ["- Intervals tell of the persons tested, not of other hospitals, devices or years."]
    if facts.task in ("survival", "competing_risks"):
        lines.append(
            "- Risks hold for the baseline hazard of the training cohort; with few events they are "
            "uncertain even where the ranking is good."
        )
    if facts.has_text_model:
        lines.append("- The text model knows language and habits of one hospital's reports.")
    return lines


def _how(facts: Facts) -> Lines:
    lines = ["```python", "import fm_med", *_call(facts), "```"]
    if facts.is_adapter:
        lines += _adapter_code(facts)
    else:
        lines += [
            "",
            "The encoder alone, with transformers:",
            "",
            "```python",
            "import fm_med.auto",
            "from transformers import AutoModel",
            "",
            f'encoder = AutoModel.from_pretrained("{facts.address}")',
            "```",
        ]
    start = facts.base if facts.is_adapter and facts.base else f"{facts.address}"
    return [
        *lines,
        "",
        "Adapt it to a cohort of your own:",
        "",
        "```",
        "accelerate launch recipes/finetune.py --cohort COHORT --peft lora \\",
        f"    --encoder {start} --output OUTPUT",
        "```",
    ]


def _call(facts: Facts) -> Lines:
    """Return the lines that load the model and use it: for an ECG on a file, else on any rows."""
    is_ecg = facts.modality == "ecg"
    lines = ["from fm_med.ecg.records import read_recording"] if is_ecg else []
    lines += ["", f'model = fm_med.load("{facts.address}")']
    rows, note = "rows", "  # rows of a cohort, or what model.processor takes"
    if is_ecg:
        rows, note = '[read_recording("patient7.hea")]', ""
    if not facts.task:
        return [*lines, f"features = model.embed({rows}){note}"]
    examples = [
        f'"{entry["name"]}": [{_EXAMPLES.get(entry["name"], "...")}]'
        for entry in facts.details.get("clinical", [])
    ]
    clinical = f", clinical={{{', '.join(examples)}}}" if examples else ""
    return [*lines, f"predictions = model.predict({rows}{clinical}){note}"]


_EXAMPLES = {"age": "63", "sex": '"female"'}


def _adapter_code(facts: Facts) -> Lines:
    return [
        "",
        "The adapter on its encoder, with PEFT:",
        "",
        "```python",
        "import fm_med.auto",
        "from peft import PeftModel",
        "from transformers import AutoModel",
        "",
        f'encoder = AutoModel.from_pretrained("{facts.base or "organisation/encoder"}")',
        f'adapted = PeftModel.from_pretrained(encoder, "{facts.address}")',
        "```",
    ]
