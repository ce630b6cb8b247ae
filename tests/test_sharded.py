"""A model spread over processes by FSDP2 learns, resumes and is saved as a whole one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sharded_worker import build

from fm_med import best_weights
from fm_med.coupled import cut_alike
from fm_med.errors import InputError

WORKER = Path(__file__).with_name("sharded_worker.py")
WRAPS = ("NO_WRAP", "TRANSFORMER_BASED_WRAP")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where two processes, really started, wrote what they found."""
    folder = tmp_path_factory.mktemp("sharded")
    launcher = ["-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, "--standalone", str(WORKER), str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACCELERATE_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def results(place):
    return [json.loads((place / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("passes", ["one pass", "two passes"])
def test_steps_equal_those_of_one_process_and_one_full_batch(results, wrap, passes):
    for result in results:
        found = result[wrap][passes]
        for name in ("gradient", "value", "norm", "weights", "copied"):
            assert found[name] <= 1e-10, name


@pytest.mark.parametrize(("wrap", "units"), [("NO_WRAP", 1), ("TRANSFORMER_BASED_WRAP", 3)])
def test_the_weights_are_really_spread(results, wrap, units):
    shares = [result[wrap]["one pass"]["share"] for result in results]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.6
    assert {result[wrap]["one pass"]["units"] for result in results} == {units}


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(results, wrap):
    for result in results:
        assert result[wrap]["exact"] == {"saved": True, "resumed": True, "moved": True}


@pytest.mark.parametrize("wrap", WRAPS)
def test_one_process_loads_what_a_sharded_run_saved(place, wrap):
    folder = place / wrap
    model, _ = build()
    untrained = {name: value.clone() for name, value in model.state_dict().items()}
    best_weights.load_best(folder, step=3, module=model)
    expected = load_file(folder / "before.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(model.projection.weight, untrained["projection.weight"])
    averaged = load_file(folder / "step-000003" / "average.safetensors")
    assert all(torch.equal(v, expected[f"average.{k}"]) for k, v in averaged.items())
    assert not torch.equal(averaged["projection.weight"], model.projection.weight)


def test_all_processes_cut_into_equally_many_pieces():
    for sizes, micro_batch_size in (([5, 7], 3), ([7, 7], 3), ([3, 9], 4), ([4, 2], None)):
        pieces = cut_alike(sizes, micro_batch_size)
        assert len({len(own) for own in pieces}) == 1
        for rows, own in zip(sizes, pieces, strict=True):
            covered = [row for piece in own for row in range(rows)[piece]]
            assert covered == list(range(rows))
            lengths = [piece.stop - piece.start for piece in own]
            assert 1 <= min(lengths)
            assert max(lengths) <= (micro_batch_size or rows)
    with pytest.raises(InputError, match=r"\[1, 9\] rows .* 3 micro-batches"):
        cut_alike([1, 9], 3)
