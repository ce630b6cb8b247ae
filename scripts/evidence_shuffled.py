"""What pretraining learns when every ECG gets another one's report: nothing. About 1.5 min a seed.

    python scripts/evidence_shuffled.py --output runs/shuffled

One run is not enough: without information the embedding collapses to one axis, which all labels
share, so that a single macro AUROC scatters widely around .50 (standard deviation near .08). The
script runs the recipe's control with several seeds and prints each label's mean over the seeds
with its standard error. A leak would show as a mean above .50, in some labels or in all.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "ecg_pretrain.py"


def main() -> None:
    """Run the seeds that have not been run yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=13)
    parser.add_argument("--num_epochs", type=int, default=4)
    arguments = parser.parse_args()
    scores = [
        zero_shot(arguments.output / f"seed-{seed}", seed, arguments.num_epochs)
        for seed in range(arguments.seeds)
    ]
    print("| label | mean over seeds | standard error | smallest | largest |")
    print("|---|---|---|---|---|")
    for name in scores[0]:
        values = np.array([score[name] for score in scores])
        error = values.std(ddof=1) / np.sqrt(len(values))
        print(f"| {name} | {values.mean():.3f} | {error:.3f} | {values.min():.3f} "
              f"| {values.max():.3f} |")  # fmt: skip


def zero_shot(folder: Path, seed: int, num_epochs: int) -> dict[str, float]:
    """Return the zero-shot AUROC of every label and their mean, of one run of the control."""
    metrics = folder / "report" / "metrics.json"
    if not metrics.exists():
        settings = [f"--seed={seed}", f"--num_epochs={num_epochs}", f"--output={folder}"]
        subprocess.run([sys.executable, str(RECIPE), "--shuffle_reports", *settings], check=True)
    found = json.loads(metrics.read_text())["zero_shot"]
    labels = {name: interval["value"] for name, interval in found["per_label"].items()}
    return {"all labels": found["macro_auroc"]["value"], **labels}


if __name__ == "__main__":
    main()
