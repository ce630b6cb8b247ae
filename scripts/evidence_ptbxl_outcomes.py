"""Risk models on real ECGs of PTB-XL whose outcomes are SIMULATED from their real findings.

    fm-med cohort ptbxl PTBXL cohorts/ptbxl
    python scripts/evidence_ptbxl_outcomes.py --cohort cohorts/ptbxl --encoder runs/demo/model

No open set of ECGs has a follow-up of heart failure. Here each person's time to an event is drawn
from a Weibull hazard that rises with age and with the cardiologists' diagnostic classes, so that
what an encoder must read off real signals is known; the cohort's name says that its outcomes are
simulated. `recipes/finetune.py` runs with five folds, repeated, on a pretrained and on an untrained
encoder, frozen, age and sex beside the features, and with LoRA where asked for.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from fm_med.cohort import Cohort, CohortWriter, open_cohort

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "finetune.py"
LOG_HAZARD = {"MI": 1.2, "HYP": 1.0, "CD": 0.7, "STTC": 0.5}  # of a person with the class
PER_DECADE = 0.4  # of age
CENSORED = (1.0, 6.0)  # years, uniform
RATE = 0.02  # events per person and year^1.2 at 60 years without findings
SHAPE = 1.2


def main() -> None:
    """Draw the outcomes, run the recipe, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--encoder", required=True, help="a pretrained encoder")
    parser.add_argument("--work", type=Path, default=Path("runs/ptbxl_outcomes"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lora", action="store_true", help="also adapt the encoder (slow)")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    cohort = with_outcomes(open_cohort(given.cohort), given.work / "cohort")
    ways = {"pretrained, frozen": (given.encoder, "none"), "untrained": ("dual_attention", "none")}
    if given.lora:
        ways["pretrained, LoRA"] = (given.encoder, "lora")
    print("| model | C, mean of folds | minus age and sex |\n|---|---|---|")
    for name, (encoder, peft) in ways.items():
        flags = ["--cohort", str(cohort), "--encoder", encoder, "--peft", peft]
        flags += ["--clinical", "[age,sex]", "--folds", "5", "--repeats", str(given.repeats)]
        flags += ["--fold_splits", "[train,validation,test]"]
        found = crossed(given.work / name.replace(", ", "-"), flags)
        show("age and sex", found["baselines"]["clinical"]["c_index"], None)
        show(
            f"{name}, age and sex",
            found["model"]["c_index"],
            found["difference"]["clinical"]["c_index"],
        )


def with_outcomes(cohort: Cohort, destination: Path) -> Path:
    """Write the cohort again with `time`, `event` and the true log-hazard; one row per person."""
    if destination.is_dir():
        return destination
    card = dataclasses.replace(
        cohort.card,
        name=f"{cohort.card.name}, SIMULATED outcomes",
        time="time",
        event="event",
        follow_up_unit="years",
        columns=cohort.card.columns
        | {
            "time": "SIMULATED follow-up in years",
            "event": "SIMULATED event",
            "log_hazard_all": "true log-hazard of the simulation",
        },
    )
    tables = {split: outcomes(first_of_each(table)) for split, table in cohort.splits.items()}
    with CohortWriter(destination, card, next(iter(tables.values())).schema) as writer:
        for split, table in tables.items():
            writer.write(split, table)
    return destination


def first_of_each(table: pa.Table) -> pa.Table:
    """Keep the first recording of each person with an age and a diagnosis, without copies."""
    known = np.array([value is not None for value in table["NORM"].to_pylist()])
    known &= np.array([value is not None for value in table["age"].to_pylist()])
    for name in ("subject_id", "middle_hash"):
        _, first = np.unique(table[name].to_pylist(), return_index=True)
        known &= np.isin(np.arange(len(table)), first)
    return table.filter(pa.array(known))


def outcomes(table: pa.Table) -> pa.Table:
    """Draw follow-up from age and diagnostic classes; a person's draw depends on the id alone."""
    age = np.array(table["age"].to_pylist(), np.float64)
    hazard = PER_DECADE * (age - 60) / 10
    for name, effect in LOG_HAZARD.items():
        hazard += effect * np.array(table[name].to_pylist(), bool)
    own = np.stack(
        [
            np.random.default_rng([7, *key.encode()]).random(2)
            for key in table["subject_id"].to_pylist()
        ]
    )
    failure = (-np.log1p(-own[:, 0]) / (RATE * np.exp(hazard))) ** (1 / SHAPE)
    censored = CENSORED[0] + (CENSORED[1] - CENSORED[0]) * own[:, 1]
    table = table.append_column("time", pa.array(np.minimum(failure, censored)))
    table = table.append_column("event", pa.array(failure <= censored))
    return table.append_column("log_hazard_all", pa.array(hazard))


def crossed(output: Path, flags: list[str]) -> dict:
    """Run the recipe, unless it has run, and return the summary of its folds."""
    path = output / "report" / "metrics.json"
    if not path.is_file():
        command = [sys.executable, str(RECIPE), *flags, "--output", str(output)]
        subprocess.run(command, check=True)
    return json.loads(path.read_text())["cross_validation"]


def show(name: str, value: dict, gap: dict | None) -> None:
    """Print a line."""
    text = "" if gap is None else f"{gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
    print(f"| {name} | {value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}] | {text} |")


if __name__ == "__main__":
    main()
