"""Cox's model on tables, by the recipe, on six public tables, beside references.

    python scripts/evidence_tables_survival.py [--datasets whas500,...]
        [--models cox_table,straight,tabm,lstm_attention] [--repeats 3] [--work FOLDER]
        [--output FILE]

Each table becomes a cohort with `make_table` and goes through `recipes/finetune.py` with five
folds, repeated, between persons and stratified by event; medians, levels, scales, knots and the
ridge come from the training rows of each fold. C is Harrell's, averaged over folds. The tables are
those of scikit-survival; nothing is downloaded.

`cox_table` is the preset of that name: ridge Cox with curved effects. `straight` is the same
without curves, what curves are worth. `tabm` and `lstm_attention` are networks trained end to end,
minutes per table. One setting of each serves all tables. Honesty: that there are four knots, that
columns of up to six values stay straight and how many rows curves need was chosen on these very
tables, by few variants.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from fm_med.sources.table import TableColumns, make_table
from fm_med.sources.table_outcomes import OutcomeColumns
from fm_med.survival.concordance import concordance_index

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "finetune.py"
REFERENCE = {  # CoxPH without a penalty, best of forests and boosting, aim.
    "veterans": (0.706, 0.688, 0.700),
    "breast_cancer": (0.577, 0.672, 0.660),
    "whas500": (0.770, 0.777, 0.766),
    "gbsg2": (0.675, 0.693, 0.688),
    "aids": (0.739, 0.742, 0.747),
    "flchain": (0.796, 0.799, 0.797),
}
NETWORK = {
    "task": "survival",
    "peft": "full",
    "weight_decay": 0.1,
    "per_device_batch_size": 128,
    "num_epochs": 60,
    "patience": 10,
    "folds": 5,
}
COX = {"config": str(RECIPE.parent / "presets" / "cox_table.yaml")}
SETTINGS = {
    "cox_table": COX,
    "straight": COX | {"encoder_settings": {"num_knots": 0}},
    "tabm": NETWORK
    | {
        "encoder": "tabm",
        "encoder_settings": {"num_members": 16, "hidden_size": 32, "dropout": 0.2},
        "learning_rate": 0.003,
        "dropout": 0.0,
    },
    "lstm_attention": NETWORK
    | {
        "encoder": "lstm_attention",
        "encoder_settings": {"hidden_size": 32, "dropout": 0.2},
        "learning_rate": 0.001,
        "dropout": 0.2,
    },
}


def make_cohort(name: str, folder: Path) -> Path:
    """Write the table as CSV and convert it."""
    from sksurv import datasets

    if (folder / name).is_dir():
        return folder / name
    loader = {"veterans": "veterans_lung_cancer"}.get(name, name)
    table, outcome = getattr(datasets, f"load_{loader}")()
    event, follow_up = (np.asarray(outcome[field]) for field in outcome.dtype.names)
    # The chapter of the cause of death tells the outcome.
    table = table.drop(columns="chapter", errors="ignore").reset_index(drop=True)
    table = table.assign(follow_up=follow_up, died=event.astype(int))[follow_up > 0]
    file = folder / f"{name}.csv"
    table.to_csv(file, index=False)
    outcomes = OutcomeColumns(time="follow_up", event="died", follow_up_unit="days")
    # Nothing is tested on a split of its own: all rows are in the folds.
    columns = TableColumns(outcomes=outcomes)
    return make_table(file, folder / name, columns=columns, fractions=(0.85, 0.15, 0.0))


def run_recipe(cohort: Path, output: Path, settings: dict) -> pd.DataFrame:
    """Run the recipe once, unless it has run, and return its out-of-fold predictions."""
    if not (output / "out_of_fold.csv").is_file():
        settings = settings | {"cohort": str(cohort), "output": str(output)}
        flags = [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in settings.items()
        ]
        done = subprocess.run(
            [sys.executable, str(RECIPE), *flags], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(flags)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return pd.read_csv(output / "out_of_fold.csv")


def scores_of(found: pd.DataFrame) -> np.ndarray:
    """Return (repeats, folds) C of each fold."""
    scores = [
        concordance_index(
            fold["time"].to_numpy(float),
            fold["event"].to_numpy().astype(bool),
            fold["log_hazard"].to_numpy(float),
        )
        for _, fold in found.groupby(["repeat", "fold"])
    ]
    return np.reshape(scores, (found["repeat"].nunique(), -1))


def main() -> None:
    """Print a line per table and model; write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--datasets", default=",".join(REFERENCE))
    parser.add_argument("--models", default="cox_table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tables")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.work.mkdir(parents=True, exist_ok=True)
    results = {}
    print("C: mean over folds, and the deviation of the repeats' means and of single folds")
    print(f"{'table':<14} {'model':<15}  C      repeats folds    CoxPH  trees  aim    seconds")
    for name in options.datasets.split(","):
        cohort = make_cohort(name, options.work)
        for model in options.models.split(","):
            start = time.perf_counter()
            output = options.work / f"{name}-{model}-{options.repeats}"
            settings = SETTINGS[model] | {"repeats": options.repeats}
            scores = scores_of(run_recipe(cohort, output, settings))
            seconds = time.perf_counter() - start
            results[f"{name} {model}"] = {"c_index": scores.mean(), "folds": scores.tolist()}
            between = scores.mean(1).std(ddof=1) if len(scores) > 1 else float("nan")
            cox, trees, aim = REFERENCE[name]
            print(
                f"{name:<14} {model:<15}  {scores.mean():.4f} {between:.4f}  {scores.std():.3f}"
                f"    {cox:.3f}  {trees:.3f}  {aim:.3f}  {seconds:.0f}",
                flush=True,
            )
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
