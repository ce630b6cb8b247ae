"""What the default encoder learns beside a wider, slower one and the published network.

    python scripts/evidence_encoder_speed.py --output runs/encoder_speed

Three encoders are pretrained by the recipe on the same simulated pairs in the same order for the
same epochs: the literal published network at its own length of 1,024 samples, the default, which
takes a quarter of its time, and a wider dual attention that takes half of it. The table has, of
each seed's test split, linear probe and zero-shot macro AUROC with 95 % intervals over persons; the
last lines compare seed by seed. How long a step takes is `bench_encoder`'s affair. A seed takes
about ten minutes on a quiet machine.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "ecg_pretrain.py"
LITERAL, DEFAULT, WIDER = "literal, 1,024 samples", "default", "wider"
SETTINGS: dict[str, dict[str, Any]] = {
    LITERAL: {"samples": 1024},
    DEFAULT: {},
    WIDER: {
        "widths": (32, 48, 64),
        "kernel_size": 5,
        "hidden_size": 64,
        "time_heads": 2,
    },
}
SCORES = {"probe": "linear_probe", "zero-shot": "zero_shot", "untrained": "linear_probe_random"}


def make_encoder(name: str, seed: int, folder: Path) -> None:
    """Save an encoder with random weights for the recipe to start from."""
    import torch

    from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
    from fm_med.ecg.dual_attention_paper import DualAttentionPaperConfig, DualAttentionPaperModel
    from fm_med.ecg.processor import EcgProcessor

    torch.manual_seed(seed)
    if name == LITERAL:
        encoder = DualAttentionPaperModel(DualAttentionPaperConfig(**SETTINGS[name]))
    else:
        encoder = DualAttentionModel(DualAttentionConfig(**SETTINGS[name]))
    encoder.save_pretrained(folder)
    EcgProcessor().save_pretrained(folder)


def metrics_of(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the report's metrics of one run, which is made if it is not there."""
    place = options.output / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    metrics = place / "run" / "report" / "metrics.json"
    if not metrics.exists():
        make_encoder(name, seed, place / "encoder")
        command = [sys.executable, str(RECIPE), f"--encoder={place / 'encoder'}", f"--seed={seed}"]
        size = [f"--subjects={options.subjects}", f"--num_epochs={options.num_epochs}"]
        size.append(f"--per_device_batch_size={options.batch}")
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        command += [*size, f"--output={place / 'run'}", "--mixed_precision=no"]
        subprocess.run(command, check=True, env=environment)
    return json.loads(metrics.read_text())


def difference(first: list[float], second: list[float]) -> str:
    """Write the mean difference over seeds and its standard error."""
    by_seed = [a - b for a, b in zip(first, second)]
    mean = statistics.mean(by_seed)
    if len(by_seed) < 2:
        return f"{mean:+.4f}"
    return f"{mean:+.4f} (standard error {statistics.stdev(by_seed) / math.sqrt(len(by_seed)):.4f})"


def main() -> None:
    """Run what has not been run yet and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--subjects", type=int, default=2500, help="2,091 pairs for training")
    parser.add_argument("--num_epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="pairs per step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), metavar="ENCODER")
    options = parser.parse_args()
    values: dict[str, dict[str, list[float]]] = {}
    print("| encoder | seed | " + " | ".join(SCORES) + " |\n|---|---|" + "---|" * len(SCORES))
    for seed in options.seeds:
        for name in options.only:
            metrics = metrics_of(name, seed, options)
            cells = []
            for score, group in SCORES.items():
                found = metrics[group]["macro_auroc"]
                values.setdefault(name, {}).setdefault(score, []).append(found["value"])
                cells.append(f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]")
            print(f"| {name} | {seed} | " + " | ".join(cells) + " |", flush=True)
    for one, other in ((DEFAULT, LITERAL), (WIDER, LITERAL), (DEFAULT, WIDER)):
        if one in values and other in values:
            for score in SCORES:
                shown = difference(values[one][score], values[other][score])
                print(f"{score}: {one} minus {other}: {shown}")


if __name__ == "__main__":
    main()
