"""What pretraining and adapters bring to the risk of 10,000 patients with known truth.

    python scripts/evidence_risk.py --encoder runs/ecg_pretrain/model [--work runs/risk]

Simulates a cohort with 5 % events and fine-tunes on it by `recipes/finetune.py` with the preset
hf_risk: the pretrained encoder with LoRA, the same one frozen, and an untrained one. All are judged
on other simulated persons beside age and sex alone and the truth; differences are paired. With
--effect 0 nothing predicts anything, and C must be one half.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from fm_med import hub
from fm_med.cohort import Cohort, open_cohort
from fm_med.evaluation.model import FittedModel, predict
from fm_med.examples import Examples, clinical_coding, read_examples
from fm_med.sources.simulated import make_simulated
from fm_med.survival import (
    concordance_difference,
    concordance_index,
    concordance_interval,
    fit_cox,
)
from fm_med.tasks import make_task

ROOT = Path(__file__).resolve().parent.parent
ORACLES = ("log_hazard_all", "log_hazard_ecg", "log_hazard_findings", "log_hazard_age")
CLINICAL = ["age", "sex"]


def main() -> None:
    """Simulate, fine-tune, judge, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="a pretrained encoder")
    parser.add_argument("--work", default="runs/risk", type=Path)
    parser.add_argument("--patients", default=10_000, type=int)
    parser.add_argument("--judged", default=20_000, type=int)
    parser.add_argument("--effect", default=1.0, type=float)
    parser.add_argument("--num_epochs", default=8, type=int)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    cohort = simulated(given.work / "cohort", given.patients, seed=11, effect=given.effect)
    others = simulated(given.work / "judged", given.judged, seed=12, effect=given.effect)
    longer = ["--num_epochs", str(given.num_epochs)]
    ways = {
        "pretrained + LoRA, age, sex": [given.encoder, "--peft", "lora", *longer],
        "pretrained, frozen, age, sex": [given.encoder, "--peft", "none"],
        "untrained, frozen, age, sex": ["dual_attention", "--peft", "none"],
    }
    people = first_of_each(others)
    risk = {
        name: predicted(fine_tuned(given.work / f"way{k}", cohort, flags), people)
        for k, (name, flags) in enumerate(ways.items())
    }
    risk["age, sex"] = by_covariates(cohort, people)
    truth = {name: people.table([name])[name].to_numpy() for name in ORACLES}
    show(people, risk, truth)


def simulated(folder: Path, persons: int, *, seed: int, effect: float) -> Cohort:
    """Return a simulated cohort with 5 % events, made once."""
    if not folder.is_dir():
        make_simulated(folder, subjects=persons, seed=seed, effect=effect, event_share=0.05)
    return open_cohort(folder)


def first_of_each(cohort: Cohort) -> Examples:
    """Return one recording of each person of all splits."""
    task, coding = make_task("survival", cohort), clinical_coding(cohort, CLINICAL)
    examples = read_examples(cohort, task, coding, splits=list(cohort.splits))
    _, first = np.unique(examples.subject_id, return_index=True)
    return examples.take(np.sort(first))


def fine_tuned(folder: Path, cohort: Cohort, flags: list[str]) -> FittedModel:
    """Run the recipe, unless it has run, and load its model."""
    if not (folder / "model").is_dir():
        preset = ROOT / "recipes" / "presets" / "hf_risk.yaml"
        command = [sys.executable, str(ROOT / "recipes" / "finetune.py"), "--config", str(preset)]
        command += ["--cohort", str(cohort.path), "--folds", "0", "--output", str(folder)]
        subprocess.run([*command, "--encoder", *flags], check=True)
    loaded = hub.load(str(folder / "model"))
    assert loaded.head is not None
    assert loaded.task is not None
    return FittedModel(loaded.encoder, loaded.head, loaded.processor, loaded.task, loaded.coding)


def predicted(model: FittedModel, people: Examples) -> np.ndarray:
    """Return log-hazards; the covariates are coded as the model's cohort codes them."""
    coded = read_examples(
        people.cohort, model.task, model.coding, splits=list(people.cohort.splits)
    )
    rows = {key: row for row, key in enumerate(coded.record_id)}
    return predict(model, coded.take(np.array([rows[key] for key in people.record_id])))


def by_covariates(cohort: Cohort, people: Examples) -> np.ndarray:
    """Return log-hazards of an unpenalised Cox model of age and sex, fitted like the others."""
    task, coding = make_task("survival", cohort), clinical_coding(cohort, CLINICAL)
    train = read_examples(cohort, task, coding, splits=["train", "validation"])
    fitted = fit_cox(
        None, time=train.targets["time"], event=train.targets["event"], clinical=train.clinical
    )
    return fitted.log_hazard(None, people.clinical)


def show(people: Examples, risk: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
    """Print C with intervals, paired differences, and shares of the gap to the truth."""
    outcome = {name: people.targets[name] for name in ("time", "event")}
    events = int(outcome["event"].sum())
    print(f"{len(people)} persons, {events} events")
    print("| model | C | minus age and sex | minus untrained | share of the gap to the truth |")
    print("|---|---|---|---|---|")
    plain = risk["age, sex"]
    best = concordance_index(**outcome, risk=truth["log_hazard_all"])
    floor = concordance_index(**outcome, risk=plain)
    for name, values in risk.items():
        c = concordance_interval(**outcome, risk=values)
        gaps = [
            concordance_difference(outcome["time"], outcome["event"], values, rival)[0]
            for rival in (plain, risk["untrained, frozen, age, sex"])
        ]
        cells = [f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]" for gap in gaps]
        share = (c.value - floor) / (best - floor)
        print(
            f"| {name} | {c.value:.3f} [{c.low:.3f}, {c.high:.3f}] | {cells[0]} | {cells[1]} | "
            f"{share:.0%} |"
        )
    for name, values in truth.items():
        print(f"| truth: {name} | {concordance_index(**outcome, risk=values):.3f} | | | |")


if __name__ == "__main__":
    main()
