"""Subtypes, mutation and survival from gene expression, beside plain baselines. About an hour.

    python scripts/evidence_transcriptomes.py --beataml beataml2_566x469.h5ad --output runs/rna

Runs the recipe with the presets on Beat AML (fusions, NPM1, survival) and on scanpy's own
pbmc68k_reduced, and fits logistic regression on the recipe's own folds. Probabilities are also
averaged over runs of several seeds on the same folds. Each figure is the mean of the folds with its
95 % t interval over folds.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from fm_med.cohort import open_cohort
from fm_med.examples import read_examples
from fm_med.folds import hold_out, make_folds
from fm_med.rna.storage import decode
from fm_med.sources.matrix import SampleColumns, make_matrix
from fm_med.tasks import make_task

ROOT = Path(__file__).resolve().parent.parent
MERGED = {"MLLT3-KMT2A": "KMT2A", "KMT2A_re": "KMT2A"}
SMALLEST_CLASS = 9
SPLITS = ["train", "validation", "test"]
TARGETS = {
    "fusions": ("classification", ["fusion"]),
    "pbmc": ("classification", ["bulk_labels"]),
    "npm1": ("multilabel", ["NPM1"]),
}


def main() -> None:
    """Make the cohorts, run what has not been run yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beataml", type=Path, help="h5ad of Beat AML 2.0")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="runs that are averaged")
    parser.add_argument("--only", nargs="*", default=["fusions", "npm1", "survival", "pbmc"])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    print("| job | model | accuracy | macro F1 | macro AUROC | C |\n|---|---|---|---|---|---|")
    for job in arguments.only:
        cohort = cohort_of(job, arguments.output, arguments.beataml)
        for preset in ("attention_aml", "attention_aml_paper"):
            folder = arguments.output / f"{job}-{preset}"
            run(job, cohort, preset, folder, arguments.repeats)
            show(job, preset, json.loads((folder / "report" / "metrics.json").read_text()))
        if job in TARGETS:
            members = [arguments.output / f"{job}-attention_aml"]
            for seed in range(1, arguments.seeds):
                members.append(arguments.output / f"{job}-attention_aml-seed{seed}")
                run(job, cohort, "attention_aml", members[-1], arguments.repeats, seed=seed)
            show_mean(job, members)
            show_logistic(job, cohort, arguments.repeats)


def cohort_of(job: str, output: Path, beataml: Path | None) -> Path:
    """Return the cohort of a job, made when it is not there."""
    if job == "pbmc":
        folder = output / "cohort-pbmc"
        if not folder.exists():
            make_pbmc(output, folder)
        return folder
    folder = output / ("cohort-survival" if job == "survival" else "cohort-subtypes")
    if folder.exists():
        return folder
    if beataml is None:
        sys.exit("error: --beataml names the h5ad that this job needs")
    described = describe_beataml(beataml, output / "samples.csv")
    survival = {"time": "days", "event": "dead"} if job == "survival" else {}
    subtypes = {} if job == "survival" else {"classes": ("fusion",), "labels": ("NPM1",)}
    columns = SampleColumns(sample="sample", subject="person", age="years", **survival, **subtypes)
    return make_matrix(
        beataml,
        folder,
        unit="log2_normalised",
        columns=columns,
        table=described,
        follow_up_unit="days",
    )


def describe_beataml(beataml: Path, path: Path) -> Path:
    """Write the samples' table: fusions of at least nine patients, NPM1, survival, age."""
    import scanpy

    data = scanpy.read_h5ad(beataml)
    obs = data.obs
    fusion = obs["consensusAMLFusions"].astype(object).replace(MERGED)
    counts = fusion.value_counts()
    fusion = fusion.where(fusion.isin(counts.index[counts >= SMALLEST_CLASS]))
    known = obs["vitalStatus"].astype(str) != "Unknown"
    table = obs[[]].assign(
        sample=data.obs_names,
        person=obs["subject_id"],
        fusion=fusion,
        NPM1=obs["NPM1"].map({"positive": "yes", "negative": "no"}),
        days=obs["overallSurvival"].where(known),
        dead=obs["vitalStatus"].astype(str).map({"Dead": "yes", "Alive": "no"}),
        years=obs["ageAtDiagnosis"],
    )
    table.to_csv(path, index=False)
    return path


def make_pbmc(output: Path, folder: Path) -> None:
    """Make a cohort of scanpy's 700 blood cells with ten types."""
    import scanpy

    data = scanpy.datasets.pbmc68k_reduced()
    file = output / "pbmc68k.h5ad"
    data.write_h5ad(file)
    columns = SampleColumns(classes=("bulk_labels",))
    make_matrix(file, folder, unit="log2_normalised", columns=columns, layer="raw")


def run(job: str, cohort: Path, preset: str, folder: Path, repeats: int, *, seed: int = 0) -> None:
    """Run the recipe with a preset, unless it has been run."""
    if (folder / "report" / "metrics.json").exists():
        return
    # The only column of classes is the target of "fusions" and "pbmc".
    own = {
        "npm1": ["--task=multilabel"],
        "survival": ["--task=survival", "--clinical", "age"],
    }.get(job, [])
    command = [sys.executable, str(ROOT / "recipes" / "finetune.py")]
    command += [f"--config={ROOT / 'recipes' / 'presets' / preset}.yaml", f"--cohort={cohort}"]
    command += ["--folds=5", f"--repeats={repeats}", "--fold_splits", *SPLITS, *own]
    command += [f"--seed={seed}", "--fold_seed=0"]
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run([*command, f"--output={folder}"], stdout=file, stderr=file)
    if done.returncode:
        sys.exit(f"error: the recipe failed, see {log}")


def show(job: str, model: str, metrics: dict) -> None:
    """Print a row of the recipe's cross-validated figures."""
    found = metrics["cross_validation"]["model"]
    names = ("accuracy", "macro_f1", "macro_auroc", "c_index")
    print(f"| {job} | {model} | " + " | ".join(cell(found.get(name)) for name in names) + " |")
    for name, baseline in metrics["cross_validation"].get("baselines", {}).items():
        cells = " | ".join(cell(baseline.get(name)) for name in names)
        print(f"| {job} | {name} alone | {cells} |")
        gain = metrics["cross_validation"]["difference"][name]
        print(f"| {job} | difference | " + " | ".join(cell(gain.get(n)) for n in names) + " |")


def show_mean(job: str, members: list[Path]) -> None:
    """Print the figures of probabilities averaged over runs that had the same folds."""
    tables = [
        pd.read_csv(folder / "out_of_fold.csv").set_index(["repeat", "fold", "record_id"])
        for folder in members
    ]
    columns = [name for name in tables[0] if name.startswith("probability_")]
    mean = sum(table.loc[tables[0].index, columns] for table in tables) / len(tables)
    scores = defaultdict(list)
    for _, rows in mean.groupby(level=["repeat", "fold"]):
        probability, truth = rows.to_numpy(), tables[0].loc[rows.index]
        if "label" in truth:
            classes = np.array([name.removeprefix("probability_") for name in columns])
            found = scored(probability, truth["label"].to_numpy(), classes)
        else:
            present = truth["label_" + columns[0].removeprefix("probability_")].to_numpy(int)
            both = np.concatenate([1 - probability, probability], 1)
            found = scored(both, present, np.arange(2))
        for name, value in found.items():
            scores[name].append(value)
    row = " | ".join(cell(interval(values)) for values in scores.values())
    print(f"| {job} | attention_aml, mean of {len(members)} seeds | {row} | |")


def show_logistic(job: str, cohort_folder: Path, repeats: int) -> None:
    """Fit logistic regression on the recipe's folds and print its rows.

    Once on all rows outside a fold, and once without those by which the network's epoch is chosen:
    a share of .15 that only the network has to spare.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cohort = open_cohort(cohort_folder)
    name, target = TARGETS[job]
    task = make_task(name, cohort, columns=target)
    examples = read_examples(cohort, task, splits=SPLITS)
    values, _, _ = decode(examples.table(["expression"]))
    truth = examples.targets["label"].reshape(len(examples)).astype(int)
    place = {number: row for row, number in enumerate(examples.id.tolist())}
    scores = defaultdict(lambda: defaultdict(list))
    strata = task.strata(examples.targets)
    for fold in make_folds(strata, examples.subject_id, folds=5, repeats=repeats, seed=0):
        others = examples.take(fold.train)
        kept, _ = hold_out(
            task.strata(others.targets), others.subject_id, share=0.15, seed=fold.repeat
        )
        test = [place[number] for number in examples.id[fold.test].tolist()]
        for title, rows in (("", others), (", rows as the network", others.take(kept))):
            train = [place[number] for number in rows.id.tolist()]
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000))
            model.fit(values[train], truth[train])
            probability = model.predict_proba(values[test])
            for score, value in scored(probability, truth[test], model.classes_).items():
                scores[title][score].append(value)
    for title, found in scores.items():
        row = " | ".join(cell(interval(values)) for values in found.values())
        print(f"| {job} | logistic regression{title} | {row} | |")


def scored(probability: np.ndarray, truth: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Return accuracy, macro F1 and macro AUROC on the rows of a fold.

    Args:
        probability: (rows, classes).
        truth: (rows,) names.
        classes: (classes,) names.
    """
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    guess = classes[probability.argmax(1)]
    each = [
        roc_auc_score(truth == name, probability[:, column])
        for column, name in enumerate(classes)
        if 0 < (truth == name).sum() < len(truth)
    ]
    return {
        "accuracy": accuracy_score(truth, guess),
        "macro_f1": f1_score(truth, guess, average="macro"),
        "macro_auroc": float(np.mean(each)),
    }


def interval(values: list[float]) -> dict[str, float]:
    """Return the mean over folds with its t interval."""
    from scipy.stats import t

    mean = float(np.mean(values))
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"value": mean, "low": mean - half, "high": mean + half}


def cell(found: dict[str, float] | None) -> str:
    """Write value and interval."""
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]" if found else ""


if __name__ == "__main__":
    main()
