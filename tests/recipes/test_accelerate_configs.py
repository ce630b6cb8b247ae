"""The shipped Accelerate configurations are ones that this Accelerate can read and launch."""

import os
import subprocess
from types import SimpleNamespace

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from in_process import RECIPES

from fm_med.errors import InputError
from fm_med.run import refuse_sharding

FOLDER = RECIPES / "accelerate"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "cpu": "MULTI_CPU",
    "deepspeed": "DEEPSPEED",
    "fsdp2": "FSDP",
    "multi_gpu": "MULTI_GPU",
    "multi_node": "MULTI_GPU",
    "single_gpu": "NO",
}
REFUSED = ("cpu_ram_efficient_loading", "activation_checkpointing")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path):
    config = load_config_from_file(str(path))  # refuses unknown keys of the first level
    assert config.distributed_type.value == KINDS[path.stem]
    # It does not look into the second level: those keys must be options of `accelerate launch`.
    known = {action.dest for action in launch_command_parser()._actions}
    assert {*config.mpirun_config, *config.fsdp_config, *config.deepspeed_config} <= known
    assert path.read_text().startswith("# ") and "accelerate launch" in path.read_text()


def test_an_unknown_key_is_noticed(tmp_path):
    text = (FOLDER / "single_gpu.yaml").read_text()
    (tmp_path / "typo.yaml").write_text(text + "num_proceses: 2\n")
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(tmp_path / "typo.yaml"))


def test_the_slurm_script_is_valid_bash():
    subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], check=True)


def accelerator_of(kind, **plugin):
    """Stand in for an Accelerator: this machine has no GPUs to configure one for."""
    asked = {"fsdp_version": 2, **dict.fromkeys(REFUSED, False)} | plugin
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(**asked))
    return SimpleNamespace(distributed_type=DistributedType[kind], state=state)


@pytest.mark.parametrize(
    ("kind", "plugin", "message"),
    [
        ("DEEPSPEED", {}, "Accelerate.s own DEEPSPEED.*deepspeed.yaml with fm_med.distributed"),
        ("FSDP", {"fsdp_version": 1}, "fsdp_version 1 is not.*fsdp2.yaml"),
        ("FSDP", {"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading"),
        ("FSDP", {"activation_checkpointing": True}, "fsdp_activation_checkpointing"),
    ],
)
def test_what_would_break_a_promise_is_refused_and_told_what_to_use(kind, plugin, message):
    with pytest.raises(InputError, match=message):
        refuse_sharding(accelerator_of(kind, **plugin))


@pytest.mark.parametrize("kind", ["NO", "MULTI_CPU", "MULTI_GPU", "FSDP"])
def test_the_other_kinds_are_not(kind):
    refuse_sharding(accelerator_of(kind))


def test_the_fsdp2_file_asks_for_nothing_that_is_refused(monkeypatch):
    """Read as `accelerate launch` reads it: from its options into the environment of the run."""
    parser = launch_command_parser()
    path = FOLDER / "fsdp2.yaml"
    arguments = parser.parse_args(["--config_file", str(path), "recipe.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    before = dict(os.environ)
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    assert "ACCELERATE_USE_FSDP" not in before
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    refuse_sharding(accelerator_of("FSDP", **{name: getattr(plugin, name) for name in REFUSED}))
