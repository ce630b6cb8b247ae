"""The shipped Accelerate configurations are ones that this Accelerate can read and launch."""

import subprocess
from types import SimpleNamespace

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from in_process import RECIPES

from fm_med.errors import InputError
from fm_med.run import refuse_sharding

FOLDER = RECIPES / "accelerate"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "cpu": "MULTI_CPU",
    "multi_gpu": "MULTI_GPU",
    "multi_node": "MULTI_GPU",
    "single_gpu": "NO",
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_knows_every_key(path):
    config = load_config_from_file(str(path))  # refuses unknown keys of the first level
    assert config.distributed_type.value == KINDS[path.stem]
    # It does not look into the second level: those keys must be options of `accelerate launch`.
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.mpirun_config) <= known
    assert path.read_text().startswith("# ") and "accelerate launch" in path.read_text()


def test_an_unknown_key_is_noticed(tmp_path):
    text = (FOLDER / "single_gpu.yaml").read_text()
    (tmp_path / "typo.yaml").write_text(text + "num_proceses: 2\n")
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(tmp_path / "typo.yaml"))


def test_the_slurm_script_is_valid_bash():
    subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], check=True)


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP"])
def test_what_cannot_be_resumed_exactly_is_refused_and_told_what_to_use(kind):
    with pytest.raises(InputError, match=f"{kind} is not supported: .*multi_gpu.yaml"):
        refuse_sharding(SimpleNamespace(distributed_type=DistributedType[kind]))
    for other in ("NO", "MULTI_CPU", "MULTI_GPU"):
        refuse_sharding(SimpleNamespace(distributed_type=DistributedType[other]))
