"""Pretraining on a stream: two processes see what one sees, and a cut run goes on bit for bit."""

import json
import signal

import numpy as np
import pytest
from forked import run
from in_process import launch

from fm_med.cohort import open_cohort


def logged(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    timed = ("samples_per_second", "data_wait")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def weights(folder):
    files = [*folder.glob("model/**/*"), *folder.glob("checkpoints/**/*.safetensors")]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()}


@pytest.fixture(scope="module")
def argv(simulated, bert):
    argv = ("--streaming", "--cohort", simulated, "--text_encoder", bert, "--probe_labels", 20)
    return (*argv, "--num_epochs", 2, "--checkpoint_every", 2)


def test_two_processes_killed_and_resumed_and_one_alone(argv, simulated, tmp_path):
    log = tmp_path / "log"
    two, killed, one = (tmp_path / name for name in ("two", "killed", "one"))
    assert run(*argv, "--per_device_batch_size", 16, "--output", two, log=log, processes=2) == [
        0,
        0,
    ], log.read_text()
    rows = [row for row in logged(two) if "loss" in row]
    pairs = sum(bool(text) for text in open_cohort(simulated).column("train", "report"))
    assert len(rows) == 2 * -(-pairs // 32)  # no row is left out

    flags = (*argv, "--per_device_batch_size", 16, "--output", killed)
    kill = ("fm_med.run", "Run.log", len(rows) // 2 + 3, "after")  # in the second epoch
    assert run(*flags, log=log, processes=2, kill=kill)[0] == -signal.SIGKILL
    assert run(*flags, "--resume", log=log, processes=2) == [0, 0], log.read_text()
    assert logged(killed) == logged(two)
    found, expected = weights(killed), weights(two)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []

    flags = (*argv, "--per_device_batch_size", 32, "--output", one)
    assert run(*flags, log=log) == [0], log.read_text()
    for ours, theirs in zip(logged(one), logged(two), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("loss", "validation_loss"):
            if name in ours:
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cohort", "nobody/absent"), "error: no cohort at nobody/absent: there is no such"),
        (("--shuffle_reports",), "error: --shuffle_reports needs all pairs at hand"),
        (("--text_source", "statements"), "has no column 'scp_codes'"),
    ],
)
def test_what_cannot_be_streamed_is_refused(argv, tmp_path, capsys, flags, message):
    """Offline, as all tests are."""
    assert launch("ecg_pretrain", *argv, *flags, "--output", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
