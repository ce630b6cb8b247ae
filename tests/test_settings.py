"""Settings: what a command line or a preset may say, and how a wrong one is refused."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from fm_med.errors import InputError
from fm_med.settings import (
    argument,
    changed_settings,
    exit_code,
    parse_settings,
    required,
    save_settings,
    setting,
)


@dataclass
class Config:
    cohort: str = setting("simulated", "folder of a cohort")
    learning_rate: float = setting(1e-3, "peak rate, 100 % of it")
    micro_batch_size: int | None = setting(None, "rows at once")
    objective: Literal["infonce", "siglip"] = setting("infonce", "loss")
    resume: bool = setting(False, "continue")
    seed: int = setting(0, "seed")


def parse(*argv: str) -> Config:
    return parse_settings(Config, argv, program="recipe.py")


def test_defaults_and_overrides():
    assert parse() == Config()
    settings = parse("--learning_rate", "1e-4", "--micro_batch_size", "8", "--cohort=x")
    assert settings == Config(cohort="x", learning_rate=1e-4, micro_batch_size=8)
    assert isinstance(settings.learning_rate, float)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--resume"], True),
        (["--resume", "--seed", "3"], True),
        (["--seed", "3", "--resume"], True),
        (["--resume", "false"], False),
        (["--resume=true"], True),
    ],
)
def test_boolean_flags_work_bare(argv, expected):
    assert parse(*argv).resume is expected


@dataclass
class Convert:
    source: str = argument("where from")
    label: list[str] | None = setting(None, "columns")
    table: str = required("a table")
    horizons: list[float] | None = setting(None, "years")
    widths: list[int] | None = setting(None, "of layers")


@pytest.mark.parametrize(
    "argv",
    [
        ["here", "--label", "a", "b", "--table", "t"],
        ["here", "--label", "a", "--table", "t", "--label", "b"],
        ["here", "--label=a", "--label=b", "--table", "t"],
        ["here", '--label=["a", "b"]', "--table=t"],
        ["--table", "t", "here", "--label", "a", "b"],
        ["here", "--label", "a", "--label+", "b", "--table", "t"],
        ["here", "--label+", "b", "--table", "t", "--label=a"],
        ["here", "--label+", "a", "b", "--table", "t"],
    ],
)
def test_lists_may_be_given_in_one_flag_or_several(argv):
    assert parse_settings(Convert, argv) == Convert("here", ["a", "b"], table="t")


@pytest.mark.parametrize(
    ("flags", "horizons", "widths"),
    [
        (["--horizons", "1", "3", "0.5"], [1.0, 3.0, 0.5], None),
        (["--horizons=1", "--horizons", "3", "--widths", "8"], [1.0, 3.0], [8]),
        (["--horizons=[1, 3]", "--widths", "8", "16"], [1.0, 3.0], [8, 16]),
        (["--horizons", "[1, 3]", "--widths", "[8]"], [1.0, 3.0], [8]),
    ],
)
def test_lists_of_numbers_are_numbers(flags, horizons, widths):
    found = parse_settings(Convert, ["here", "--table", "t", *flags])
    assert (found.horizons, found.widths) == (horizons, widths)
    with pytest.raises(InputError, match="widths"):
        parse_settings(Convert, ["here", "--table", "t", "--widths", "wide"])


@pytest.mark.parametrize(("argv", "missing"), [(["here"], "table"), (["--table", "t"], "source")])
def test_what_is_required_is_named(argv, missing):
    with pytest.raises(InputError, match=missing):
        parse_settings(Convert, argv)


def test_a_preset_is_read_and_overridden(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("learning_rate: 1e-4\nobjective: siglip\n")
    settings = parse("--config", str(preset), "--objective", "infonce")
    assert settings.learning_rate == 1e-4
    assert settings.objective == "infonce"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--larning_rate", "3"], "unknown setting 'larning_rate'; did you mean 'learning_rate'?"),
        (["--zzz", "3"], "unknown setting 'zzz'"),
        (["--learning_rate", "fast"], "learning_rate"),
        (["--objective", "mse"], "infonce"),
        (["--seed", "1.5"], "seed"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["stray"], "stray"),
    ],
)
def test_bad_input_is_refused_in_one_line(argv, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)


@dataclass
class Restricted:
    share: ClosedUnitInterval = setting(0.1, "share")
    rows: PositiveInt | None = setting(None, "rows")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--share", "2"], "share is 2, expected share>=0 and share<=1"),
        (["--rows", "0"], "rows is 0, expected rows>0"),
    ],
)
def test_numbers_out_of_range_are_refused_with_their_range(argv, message):
    with pytest.raises(InputError) as caught:
        parse_settings(Restricted, argv)
    assert str(caught.value) == message


def test_restricted_numbers_are_plain_numbers(tmp_path):
    settings = parse_settings(Restricted, ["--share", "0.5", "--rows", "3"])
    assert (type(settings.share), type(settings.rows)) == (float, int)
    save_settings(settings, tmp_path / "config.yaml")
    assert changed_settings(settings, tmp_path / "config.yaml") == {}


def test_an_unknown_key_of_a_preset_is_refused(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("learning_rat: 1e-4\n")
    with pytest.raises(InputError, match="did you mean 'learning_rate'"):
        parse("--config", str(preset))


def test_saved_settings_are_compared_by_name(tmp_path):
    save_settings(Config(), tmp_path / "config.yaml")
    assert changed_settings(Config(), tmp_path / "config.yaml") == {}
    changed = changed_settings(Config(seed=4), tmp_path / "config.yaml")
    assert changed == {"seed": (0, 4)}


def test_exit_codes(capsys):
    def refuse():
        raise InputError("cohort x has no README.md")

    assert exit_code(lambda: None) == 0
    assert exit_code(refuse) == 2
    assert capsys.readouterr().err == "error: cohort x has no README.md\n"
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)


def test_a_place_that_cannot_be_written_is_told_in_one_line(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert exit_code(lambda: (tmp_path / "file" / "new").mkdir()) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/file/new: Not a directory\n"
    assert exit_code(lambda: (tmp_path / "file").mkdir(exist_ok=True)) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/file: File exists\n"
    for fault in (FileNotFoundError(2, "no such file", "ours"), OSError("of another kind")):
        with pytest.raises(OSError, match=r"no such file|of another kind"):
            exit_code(lambda fault=fault: (_ for _ in ()).throw(fault))


def test_a_package_that_cannot_be_imported_sends_to_the_doctor():
    def fail():
        raise ModuleNotFoundError("Could not import module 'BertForMaskedLM'")

    with pytest.raises(ModuleNotFoundError) as caught:
        exit_code(fail)
    assert caught.value.__notes__ == ["fm-med doctor says what is wrong with this installation"]


REFUSES = """
import os, sys
from fm_med.errors import InputError
from fm_med.settings import exit_code

def refuse():
    raise InputError("no cohort")

def refuse_alone():
    if os.environ["RANK"] == "1":
        raise InputError("rank 1 sees nothing")

assert exit_code(refuse) == 2
sys.exit(exit_code(refuse_alone))
"""


def test_processes_of_one_launcher_tell_an_error_once(tmp_path):
    """What all of them see and what the second sees alone."""
    script = tmp_path / "recipe.py"
    script.write_text(REFUSES)
    command = [Path(sys.executable).with_name("torchrun"), "--nproc_per_node", 3, script]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 1
    for message in ("no cohort", "rank 1 sees nothing"):
        assert done.stderr.count(f"error: {message}\n") == 1


def test_an_error_is_told_where_no_file_can_be_made(tmp_path, capsys, monkeypatch):
    def refuse():
        raise InputError("no")

    for own in ("", str(tmp_path / "absent" / "0" / "error.json")):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", own)
        assert [exit_code(refuse), exit_code(refuse)] == [2, 2]
        assert capsys.readouterr().err == "error: no\nerror: no\n"


def test_help_and_a_typo_import_no_torch(tmp_path):
    """Both must answer at once; torch alone takes seconds to import."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        '"""A recipe."""\n'
        "import atexit, sys\n"
        "from dataclasses import dataclass\n"
        "from fm_med.settings import launch, setting\n"
        "@dataclass\n"
        "class Config:\n"
        "    seed: int = setting(0, 'seed')\n"
        "def main(config):\n"
        "    import torch\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "launch(Config, main)\n"
    )
    for flag, status in (("--help", 0), ("--sed", 2)):
        done = subprocess.run(
            [sys.executable, str(recipe), flag, "1"], capture_output=True, text=True
        )
        assert done.returncode == status
        assert done.stdout.splitlines()[-1] == "False"
    assert done.stderr == "error: unknown setting 'sed'; did you mean 'seed'?\n"
