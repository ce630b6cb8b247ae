"""Encoders of tables beside logistic regression and gradient boosting, on the same folds.

    python scripts/evidence_tabular.py [--jobs whas500,ckd,heart,recur] [--encoders malnet,...]
        [--repeats 2] [--data FOLDER] [--work FOLDER] [--output FILE]

Jobs: eight labels of WHAS500 (the task of MAL-Net), chronic kidney disease with its missing cells
(UCI 336), and two sets of visits: the Stanford heart transplants (death, 1 to 2 visits) and
recurrences (whether another follows, from the intervals so far). The encoders run through
`recipes/finetune.py` with five folds between persons; the baselines see the same training rows
(for visits: the latest one, and how many there were; recurrences were counted up to four, so that
their number alone tells much). AUROC is the mean over folds, and over labels.

`regression` is ridge regression by the same recipe, with curved effects; `straight` the same
without curves. Nothing of their encoder is trained.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fm_med.sources.table import TableColumns, make_table
from fm_med.sources.table_outcomes import OutcomeColumns

ROOT = Path(__file__).resolve().parent.parent
LABELS = ("afb", "chf", "cvd", "miord", "mitype", "sho", "av3", "dead")
INPUTS = ("age", "bmi", "diasbp", "gender", "hr", "los", "sysbp")
ENCODERS = {
    "malnet": ["--config", "recipes/presets/malnet.yaml"],
    "malnet_paper": ["--config", "recipes/presets/malnet_paper.yaml"],
    "regression": ["--config", "recipes/presets/cox_table.yaml"],
    "straight": [
        *("--config", "recipes/presets/cox_table.yaml"),
        *("--encoder_settings", '{"num_knots": 0}'),
    ],
    "tabm": ["--config", "recipes/presets/malnet.yaml", "--encoder", "tabm", "--dropout", "0"],
}


@dataclass
class Job:
    """A cohort, and what the baselines see of it.

    Attributes:
        cohort: Folder.
        features: One row per person, indexed by the cohort's record ids.
        truth: (persons, labels) of 0 and 1.
        task: multilabel or classification.
    """

    cohort: Path
    features: pd.DataFrame
    truth: pd.DataFrame
    task: str = "multilabel"


def convert(table: pd.DataFrame, folder: Path, columns: TableColumns) -> Path:
    """Write a table and make a cohort of it, unless it is there."""
    if not folder.is_dir():
        file = folder.with_suffix(".csv")
        table.to_csv(file, index=False)
        make_table(file, folder, columns=columns, stratify=True, fractions=(0.85, 0.15, 0.0))
    return folder


def row_names(table: pd.DataFrame) -> list[str]:
    """Return the record ids that a table without ids is given."""
    return [f"row-{k + 1}" for k in range(len(table))]


def whas500(work: Path, _data: Path) -> Job:
    """Eight labels from seven inputs; "dead" ignores censoring."""
    from sksurv.datasets import load_whas500

    table, outcome = load_whas500()
    table = table.apply(lambda column: pd.to_numeric(column.astype(object)))
    table["dead"] = outcome[outcome.dtype.names[0]].astype(int)
    columns = TableColumns(inputs=INPUTS, outcomes=OutcomeColumns(labels=LABELS))
    cohort = convert(table, work / "whas500", columns)
    table.index = row_names(table)
    return Job(cohort, table[list(INPUTS)], table[list(LABELS)])


def ckd(work: Path, data: Path) -> Job:
    """Chronic kidney disease or not, from 24 columns with 1,012 missing cells."""
    table = pd.read_csv(data / "tab_ckd_uci336" / "ckd_clean.csv")
    columns = TableColumns(outcomes=OutcomeColumns(classes=("class",)))
    cohort = convert(table, work / "ckd", columns)
    table.index = row_names(table)
    truth = pd.DataFrame({"ckd": (table["class"] == "ckd").astype(int)})
    return Job(cohort, table.drop(columns="class"), truth, "classification")


def heart(work: Path, _data: Path) -> Job:
    """Death after acceptance for a heart transplant; a visit per state (waiting, transplanted)."""
    from lifelines.datasets import load_stanford_heart_transplants

    table = load_stanford_heart_transplants().drop(columns="stop")
    table["event"] = table.groupby("id")["event"].transform("max")
    table = table.rename(columns={"event": "died"})
    columns = TableColumns(
        subject="id", visit_time="start", outcomes=OutcomeColumns(labels=("died",))
    )
    cohort = convert(table, work / "heart", columns)
    last = table.sort_values("start").groupby("id").last()
    last["visits"] = table.groupby("id").size()
    last.index = last.index.astype(str)
    return Job(cohort, last.drop(columns="died"), last[["died"]])


def recur(work: Path, _data: Path) -> Job:
    """Whether another recurrence is seen, from the intervals between those so far."""
    from lifelines.datasets import load_recur

    table = load_recur().sort_values(["ID", "TIME1"])
    table["again"] = table.groupby("ID")["CENSOR"].transform("last")
    table["gap"] = table["TIME1"] - table["TIME0"]
    history = table[table.groupby("ID").cumcount(ascending=False) > 0]
    history = history[["ID", "AGE", "TREAT", "gap", "TIME1", "again"]]
    history = history.drop_duplicates(["ID", "TIME1"])
    outcomes = OutcomeColumns(labels=("again",))
    columns = TableColumns(subject="ID", visit_time="TIME1", outcomes=outcomes)
    cohort = convert(history, work / "recur", columns)
    last = history.groupby("ID").last()
    last["visits"] = history.groupby("ID").size()
    last.index = last.index.astype(str)
    return Job(cohort, last.drop(columns="again"), last[["again"]])


JOBS = {"whas500": whas500, "ckd": ckd, "heart": heart, "recur": recur}


def baselines(features: pd.DataFrame) -> dict:
    """Return untrained baselines that take the table as it is."""
    numbers = [c for c in features if pd.api.types.is_numeric_dtype(features[c])]
    words = [c for c in features if c not in numbers]
    impute = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
    )
    levels = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    plain = make_column_transformer((impute, numbers), (levels, words))
    kept = make_column_transformer(("passthrough", numbers), (levels, words))
    return {
        "logistic": make_pipeline(plain, LogisticRegression(max_iter=2000)),
        "boosting": make_pipeline(kept, HistGradientBoostingClassifier(random_state=0)),
    }


def run_recipe(job: Job, flags: list[str], repeats: int, output: Path) -> pd.DataFrame:
    """Run the recipe once, unless it has run, and return its out-of-fold predictions."""
    if not (output / "out_of_fold.csv").is_file():
        flags = [*flags, "--cohort", str(job.cohort), "--task", job.task, "--output", str(output)]
        flags += ["--repeats", str(repeats)]
        if job.task == "classification":
            flags += ["--target", "class", "--select_on", "validation_loss"]
        done = subprocess.run(
            [sys.executable, "recipes/finetune.py", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(flags)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return pd.read_csv(output / "out_of_fold.csv", dtype={"record_id": str})


def auroc(truth: pd.DataFrame, score: np.ndarray) -> float:
    """Return the mean AUROC over labels of which some and not all rows are true."""
    usable = [k for k, name in enumerate(truth) if 0 < truth[name].sum() < len(truth)]
    return float(np.mean([roc_auc_score(truth.iloc[:, k], score[:, k]) for k in usable]))


def judge(job: Job, found: pd.DataFrame) -> np.ndarray:
    """Return (folds,) AUROC of the recipe's predictions."""
    columns = [f"probability_{name}" for name in job.truth]
    return np.array(
        [
            auroc(job.truth.loc[fold["record_id"]], fold[columns].to_numpy())
            for _, fold in found.groupby(["repeat", "fold"])
        ]
    )


def judge_baselines(job: Job, found: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return (folds,) AUROC of each baseline on the same folds."""
    scores = {name: [] for name in baselines(job.features)}
    for _, fold in found.groupby(["repeat", "fold"]):
        test = pd.Index(fold["record_id"])
        train = job.features.index.difference(test)
        for name, model in baselines(job.features).items():
            predicted = []
            for label in job.truth:
                model.fit(job.features.loc[train], job.truth.loc[train, label])
                predicted.append(model.predict_proba(job.features.loc[test])[:, 1])
            scores[name].append(auroc(job.truth.loc[test], np.stack(predicted, 1)))
    return {name: np.array(values) for name, values in scores.items()}


def main() -> None:
    """Print a line per job and model; write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--repeats", type=int, default=2)
    data = Path(os.environ.get("FM_MED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tabular")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    for name in options.jobs.split(","):
        job = JOBS[name](options.work, options.data)
        scores, seconds = {}, {}
        for encoder in options.encoders.split(","):
            start = time.perf_counter()
            output = options.work / f"{name}-{encoder}-{options.repeats}"
            found = run_recipe(job, ENCODERS[encoder], options.repeats, output)
            scores[encoder] = judge(job, found)
            seconds[encoder] = time.perf_counter() - start
        scores |= judge_baselines(job, found)
        for model, values in scores.items():
            difference = values - scores["logistic"]
            print(
                f"{name:<8} {model:<13} AUROC {values.mean():.3f} sd {values.std(ddof=1):.3f}"
                f"   minus logistic {difference.mean():+.3f}"
                f"   {len(values)} folds {seconds.get(model, 0):.0f} s",
                flush=True,
            )
        results[name] = {model: values.tolist() for model, values in scores.items()}
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
