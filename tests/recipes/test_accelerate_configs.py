"""The shipped Accelerate configurations are ones that this Accelerate can read and launch."""

import subprocess

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from in_process import RECIPES

FOLDER = RECIPES / "accelerate"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "cpu": "MULTI_CPU",
    "fsdp2": "FSDP",
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
    for section in ("fsdp_config", "mpirun_config"):
        assert set(getattr(config, section, {})) <= known
    assert path.read_text().startswith("# ") and "accelerate launch" in path.read_text()


def test_an_unknown_key_is_noticed(tmp_path):
    text = (FOLDER / "single_gpu.yaml").read_text()
    (tmp_path / "typo.yaml").write_text(text + "num_proceses: 2\n")
    with pytest.raises(ValueError, match="num_proceses"):
        load_config_from_file(str(tmp_path / "typo.yaml"))


def test_the_slurm_script_is_valid_bash():
    subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], check=True)
