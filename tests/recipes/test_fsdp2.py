"""The pretraining recipe, sharded: the same run, and a model that one process loads."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import fm_med

WORKER = Path(__file__).with_name("sharded.py")


def curve(folder, name):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return np.array([row[name] for row in rows if name in row])


def test_a_sharded_run_is_the_run_of_one_process(finished, place):
    """Two processes, blocks sharded by themselves, micro-batches; there one process, one pass."""
    folder = place / "sharded"
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    flags = ["--per_device_batch_size", 8, "--micro_batch_size", 3, "--output", folder]
    command = [*torchrun, "--nproc_per_node", 2, WORKER, "ecg_pretrain", "GroupTransformerBlock"]
    command = [str(word) for word in (*command, *finished.argv, *flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("loss", "grad_norm", "validation_loss", "mean_pairwise_cosine"):
        one, two = (curve(path, name) for path in (finished.folder, folder))
        np.testing.assert_allclose(two, one, rtol=1e-3, err_msg=name)
    assert fm_med.load(folder / "model").encoder is not None
