"""`--help` and typos answer at once: nothing that takes long to import is imported for them.

What is imported is tested rather than how long it takes, which depends on the machine's load.
"""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = sorted(path.stem for path in (REPOSITORY / "recipes").glob("*.py"))
HEAVY = (
    "torch numpy pyarrow pandas scipy sklearn matplotlib transformers huggingface_hub peft "
    "accelerate datasets safetensors h5py wfdb scanpy onnx"
).split()
PARSER = ["jsonargparse", "yaml"]  # a tenth of a second, for what has settings
MOST_MODULES = 400  # about 280 today


def imported(code, unwanted):
    """Run code that may exit; return its status, its output and what it imported of `unwanted`."""
    script = (
        "import sys, runpy, traceback\nstatus = 0\n"
        f"try:\n    {code}\nexcept SystemExit as end:\n    status = end.code\n"
        f"found = [name for name in {unwanted!r} if name in sys.modules]\n"
        f"assert len(sys.modules) < {MOST_MODULES}, len(sys.modules)\n"
        "print(f'\\n{status} {found}')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    return last, "\n".join(printed), done.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        ([], 0),
        (["cohort"], 0),
        (["pussh"], 2),
        (["cohort", "pbtxl"], 2),
    ],
)
def test_the_list_of_commands_needs_no_parser(words, status):
    code = f"from fm_med.cli import main; status = main({words!r})"
    assert imported(code, HEAVY + PARSER)[0] == f"{status} []"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["push", "--help"], 0),
        (["doctor", "--help"], 0),
        (["cohort", "mimic-iv-ecg", "--help"], 0),
        (["push", "folder", "org/name", "--licence", "mit"], 2),
        (["completion", "fish"], 0),
    ],
)
def test_a_command_with_its_settings_imports_nothing_heavy(words, status):
    code = f"from fm_med.cli import main; status = main({words!r})"
    assert imported(code, HEAVY)[0] == f"{status} []"


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--leaning_rate=1", 2)])
def test_a_recipe_imports_nothing_heavy(recipe, flag, status):
    script = str(REPOSITORY / "recipes" / f"{recipe}.py")
    code = f"sys.argv = ['{recipe}.py', {flag!r}]; runpy.run_path({script!r}, run_name='__main__')"
    last, printed, error = imported(code, HEAVY)
    assert last == f"{status} []"
    assert "usage:" in printed if status == 0 else "unknown setting 'leaning_rate'" in error


def test_the_package_itself_imports_next_to_nothing():
    assert (
        imported("import fm_med", HEAVY + PARSER + ["fm_med.errors", "typing_extensions"])[0]
        == "0 []"
    )
