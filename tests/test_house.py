"""The budgets of the house: short files, short functions, light imports, recipes that read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = sorted((REPOSITORY / "fm_med").rglob("*.py"))
RECIPES = sorted((REPOSITORY / "recipes").glob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def functions(path: Path):
    """Yield (name, lines without the docstring, positional parameters) of every function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            inside = docstring.count("\n") + 1 if docstring else 0
            positional = [a.arg for a in node.args.args if a.arg not in ("self", "cls", "ctx")]
            yield node.name, node.end_lineno - node.lineno + 1 - inside, len(positional)


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem not in {"utils", "common", "helpers", "misc"}
    for function, lines, positional in functions(path):
        assert lines <= 60, f"{function} has {lines} lines"
        # An autograd.Function can be given positional arguments only.
        limit = 6 if function == "forward" else 5
        assert positional <= limit, f"{function} has {positional} positional parameters"


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_reads_on_two_pages(path):
    assert len(path.read_text().splitlines()) <= 250
    lengths = {function: lines for function, lines, _ in functions(path)}
    assert lengths.pop("main") <= 80
    assert all(lines <= 60 for lines in lengths.values()), lengths


@pytest.mark.parametrize(
    "module", ["fm_med", "fm_med.settings", "fm_med.cli", "fm_med.cohort", "fm_med.ecg.records"]
)
def test_light_modules_import_nothing_heavy(module):
    heavy = ("torch", "transformers", "scanpy", "wfdb", "pandas", "sklearn", "matplotlib")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
