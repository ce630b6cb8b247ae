"""What pretraining learns on simulated ECGs, and what its controls do not. Takes about an hour.

    python scripts/evidence_pretraining.py --output runs/evidence

Runs the recipe with InfoNCE, with SigLIP, with the published positives-only objective, with that
objective plus reconstruction, and with shuffled reports, and prints one table of test-split scores
with 95 % intervals over persons. With shuffled reports zero-shot must be .50; the positives-only
objective is expected to collapse (mean pairwise cosine near 1).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "ecg_pretrain.py"
VARIANTS = {
    "InfoNCE": [],
    "SigLIP": ["--objective", "siglip"],
    "cosine, positives only": ["--objective", "cosine"],
    "cosine + reconstruction": ["--objective", "cosine", "--reconstruction_weight", "1.0"],
    "InfoNCE, shuffled reports": ["--shuffle_reports"],
}
COLUMNS = {
    "zero-shot": ("zero_shot", "macro_auroc"),
    "probe": ("linear_probe", "macro_auroc"),
    "random": ("linear_probe_random", "macro_auroc"),
    "R@10": ("retrieval", "recall_at_10"),
    "cosine": ("embedding", "mean_pairwise_cosine"),
    "rank": ("embedding", "effective_rank"),
}


def main() -> None:
    """Run what has not been run yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--subjects", type=int, default=7200, help="6,000 pairs for training")
    parser.add_argument("--num_epochs", type=int, default=12)
    parser.add_argument("--only", nargs="*", help=f"some of {', '.join(VARIANTS)}")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.only or VARIANTS:
        folder = arguments.output / name.replace(" ", "-").replace(",", "")
        if not (folder / "report" / "metrics.json").exists():
            settings = [f"--subjects={arguments.subjects}", f"--num_epochs={arguments.num_epochs}"]
            command = [sys.executable, str(RECIPE), *settings, f"--output={folder}"]
            subprocess.run([*command, *VARIANTS[name]], check=True)
        metrics = json.loads((folder / "report" / "metrics.json").read_text())
        rows.append([name, *(cell(metrics[group][leaf]) for group, leaf in COLUMNS.values())])
    print("| objective | " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def cell(interval: dict[str, float]) -> str:
    """Write value and interval."""
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


if __name__ == "__main__":
    main()
