"""Kill -9 a pretraining run at random moments, resume it, and compare it with one never killed.

    python scripts/evidence_resume.py [--kills 10] [--seed 0]

Half of the kills hit a run of one process, half one of two (torchrun), each at a random moment
after the first step. Every third kill waits for the next checkpoint that is being written. All
processes die at once. At the end weights, optimiser, averaged weights, random states, saved model
and metrics must be the same bytes, and every step must be logged once with the same loss.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parent.parent
FLAGS = "--num_epochs 3 --checkpoint_every 2 --ema_decay 0.9 --probe_labels 30"


def make_data(place: Path):
    """Make a cohort of 120 persons, a small text model and an encoder with dropout."""
    import torch

    from fm_med.cohort import open_cohort
    from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
    from fm_med.ecg.processor import EcgProcessor
    from fm_med.sources.simulated import make_simulated
    from fm_med.text.train import train_text_model

    cohort = make_simulated(place / "cohort", subjects=120, seed=3, workers=1)
    reports = open_cohort(cohort).column("train", "report")
    train_text_model(
        reports, place / "bert", num_epochs=0, hidden_size=32, layers=1, progress=False
    )
    torch.manual_seed(2)
    DualAttentionModel(DualAttentionConfig(dropout=0.2)).save_pretrained(place / "encoder")
    EcgProcessor().save_pretrained(place / "encoder")


def start(place: Path, processes: int, output: Path, *more: str) -> subprocess.Popen:
    """Start the recipe; on several processes as its user would, with torchrun."""
    launcher = [sys.executable]
    if processes > 1:
        torchrun = Path(sys.executable).with_name("torchrun")
        launcher = [str(torchrun), "--nproc_per_node", str(processes), "--standalone"]
    paths = ["--cohort", place / "cohort", "--text_encoder", place / "bert"]
    paths += ["--encoder", place / "encoder", "--output", output]
    size = ["--per_device_batch_size", 16 // processes, "--micro_batch_size", 4]
    command = [*launcher, REPOSITORY / "recipes" / "ecg_pretrain.py", *paths, *size]
    with (place / "log").open("a") as log:
        return subprocess.Popen(
            [*map(str, command), *FLAGS.split(), *more],
            stdout=log,
            stderr=log,
            env=os.environ | {"FM_MED_CACHE": str(place / "cache")},
        )


def finish(place: Path, processes: int, output: Path, *more: str):
    """Run to the end."""
    if start(place, processes, output, *more).wait() != 0:
        sys.exit((place / "log").read_text()[-3000:])


def logged_steps(output: Path) -> int:
    """Return how many lines of metrics there are."""
    metrics = output / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def kill(run: subprocess.Popen, output: Path, *, while_saving: bool, wait: float) -> str:
    """Kill all processes of a run after it has taken a step; tell where that was."""
    before = logged_steps(output)
    while run.poll() is None and logged_steps(output) <= before:
        time.sleep(0.005)
    end = time.monotonic() + wait
    while run.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    checkpoints = output / "checkpoints"
    saving: list[str] = []
    while run.poll() is None and while_saving and not saving:
        saving = [path.name for path in checkpoints.glob(".*.tmp")]
    if run.poll() is not None:
        return "the run had ended"
    workers = psutil.Process(run.pid).children(recursive=True)
    run.kill()  # the launcher first, or it would end the others more gently
    for worker in workers:
        worker.kill()
    run.wait()
    psutil.wait_procs(workers)
    torn = [path.name.split(".")[1] for path in checkpoints.glob(".*.tmp")]
    return f"after line {logged_steps(output)}" + (f", writing {torn[0]}" if torn else "")


def outcome(output: Path) -> dict[str, object]:
    """Return what must not depend on kills."""
    files = [*output.glob("model/**/*"), *output.glob("checkpoints/**/*.safetensors")]
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    timed = ("samples_per_second", "data_wait")
    return {
        "files": {str(f.relative_to(output)): f.read_bytes() for f in files if f.is_file()},
        "steps": [row["step"] for row in rows if "loss" in row],
        "losses": [[v for k, v in row.items() if k not in timed] for row in rows],
        "report": (output / "report" / "metrics.json").read_text(),
    }


def main():
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    generator = random.Random(settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_data(place)
        print("processes  kill  where")
        for processes, kills in ((1, (settings.kills + 1) // 2), (2, settings.kills // 2)):
            whole, killed = place / f"whole-{processes}", place / f"killed-{processes}"
            finish(place, processes, whole)
            more: tuple[str, ...] = ()
            for number in range(kills):
                run = start(place, processes, killed, *more)
                wait, saving = generator.uniform(0, 0.6), number % 3 == 1
                where = kill(run, killed, while_saving=saving, wait=wait)
                print(f"{processes:>9}  {number + 1:>4}  {where}", flush=True)
                more = ("--resume",)
            finish(place, processes, killed, *more)
            one, other = outcome(whole), outcome(killed)
            steps = one["steps"]
            assert steps == list(range(1, len(steps) + 1))
            for name in one:
                same = "equal" if one[name] == other[name] else "DIFFERENT"
                print(f"{processes:>9}  {name} ({len(one[name])}): {same}", flush=True)
            if one != other:
                files = one["files"].items() ^ other["files"].items()
                sys.exit(f"different files: {sorted({name for name, _ in files})}")


if __name__ == "__main__":
    main()
