"""What a frozen encoder adds to age in cohorts of 800 patients with about 32 events.

    python scripts/evidence_small_cohorts.py --model runs/ecg_pretrain/model --cohort cohorts/big

Draws small cohorts from a large simulated one (`fm-med cohort simulate` with --event_share 0.05 and
another seed than the encoder's), fits on each what the recipe fits below 100 events (ridge Cox on
frozen features, age unpenalised, penalty by inner cross-validation), and judges it on everybody
else, beside age alone, the oracles and an untrained encoder.
"""

import argparse

import numpy as np
from accelerate import Accelerator

from fm_med import hub
from fm_med.cohort import open_cohort
from fm_med.examples import Examples, clinical_coding, read_examples
from fm_med.finetuning.encoding import encode_rows
from fm_med.survival import concordance_index, fit_cox
from fm_med.tasks import make_task

ORACLES = ("log_hazard_all", "log_hazard_ecg", "log_hazard_findings", "log_hazard_age")


def main() -> None:
    """Encode once, draw, fit, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a pretrained encoder")
    parser.add_argument("--cohort", required=True, help="a large simulated cohort")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--patients", type=int, default=800)
    parser.add_argument("--events", type=int, default=32)
    arguments = parser.parse_args()
    cohort = open_cohort(arguments.cohort)
    coding = clinical_coding(cohort, ["age"])
    task = make_task("survival", cohort)
    loaded = hub.load(arguments.model)
    untrained = type(loaded.encoder)(loaded.encoder.config)
    everyone = first_of_each(read_examples(cohort, task, coding, splits=list(cohort.splits)))
    features = {
        kind: encode_rows(encoder, loaded.processor, everyone, Accelerator())
        for kind, encoder in (("pretrained", loaded.encoder), ("random", untrained))
    }
    scores = []
    for seed in range(arguments.draws):
        drawn = draw(everyone, arguments.patients, arguments.events, seed)
        scores.append(
            {
                "age": score(drawn, everyone, None),
                "pretrained ECG + age": score(drawn, everyone, features["pretrained"]),
                "random ECG + age": score(drawn, everyone, features["random"]),
            }
        )
    show(scores)
    outcome = everyone.targets
    for name in ORACLES:
        known = everyone.table([name])[name].to_numpy()
        print(f"{name}: C {concordance_index(outcome['time'], outcome['event'], known):.3f}")


def first_of_each(examples: Examples) -> Examples:
    """Keep one recording of each person."""
    _, first = np.unique(examples.subject_id, return_index=True)
    return examples.take(np.sort(first))


def draw(everyone: Examples, patients: int, events: int, seed: int) -> np.ndarray:
    """Draw persons with a fixed number of events, so that draws differ by their people alone."""
    generator = np.random.default_rng(seed)
    event = everyone.targets["event"].astype(bool)
    chosen = [
        generator.choice(np.flatnonzero(kind), number, replace=False)
        for kind, number in ((event, events), (~event, patients - events))
    ]
    return np.concatenate(chosen)


def score(drawn: np.ndarray, everyone: Examples, features: np.ndarray | None) -> float:
    """Fit on the drawn patients and return C among all others."""
    others = np.setdiff1d(np.arange(len(everyone)), drawn)
    train, test = everyone.take(drawn), everyone.take(others)
    fitted = fit_cox(
        None if features is None else features[drawn],
        time=train.targets["time"],
        event=train.targets["event"],
        clinical=train.clinical,
    )
    risk = fitted.log_hazard(None if features is None else features[others], test.clinical)
    return float(concordance_index(test.targets["time"], test.targets["event"], risk))


def show(scores: list[dict[str, float]]) -> None:
    """Print mean, deviation and difference to age alone."""
    print("| model | mean C | SD over draws | minus age alone | smallest difference |")
    print("|---|---|---|---|---|")
    age = np.array([row["age"] for row in scores])
    for name in scores[0]:
        values = np.array([row[name] for row in scores])
        gain = values - age
        print(
            f"| {name} | {values.mean():.3f} | {values.std(ddof=1):.3f} | {gain.mean():+.3f} | "
            f"{gain.min():+.3f} |"
        )


if __name__ == "__main__":
    main()
