"""The benchmark of GPUs where there is none: it says so, and can be tried on the CPU."""

import json
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from in_process import REPOSITORY

from fm_med import distributed


@pytest.fixture
def bench(monkeypatch):
    """The benchmark as a module; what it sets for its process is put back."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(distributed, "COMPILER", distributed.COMPILER)
    AcceleratorState._reset_state(reset_partial_state=True)
    import bench_gpu

    yield bench_gpu
    torch.compiler.reset()
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in ("bench_gpu", "bench_pretrain", "side_by_side"):
        sys.modules.pop(name, None)


def test_without_a_gpu_nothing_is_measured(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.main(["--json", str(tmp_path / "rows.json")])
    assert json.loads((tmp_path / "rows.json").read_text()) == []
    assert "no GPU" in capsys.readouterr().out


def test_a_dry_run_on_the_cpu_measures_everything(bench, tmp_path):
    sizes = ["--subjects", "20", "--batch", "4", "--steps", "1", "--rounds", "1"]
    file = tmp_path / "rows.json"
    bench.main(["--device", "cpu", *sizes, "--encoders", "dual_attention", "--json", str(file)])
    rows = {row["what"]: row for row in json.loads(file.read_text())}
    assert list(rows) == [
        "dual_attention, training",
        "dual_attention, loader's wait",
        "vit1d, blocks, forward + backward",
        "vit1d of ViT-base's size, blocks, forward + backward",
    ]
    assert all(row["ours"] > 0 for row in rows.values())
    assert rows["dual_attention, training"]["other"] > 0
    assert [row["ours_aim"] for row in rows.values()] == [None, 2.0, 40.0, 40.0]
