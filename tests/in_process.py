"""Run a recipe in this process: parsed, refused and ended as from a shell, without the imports."""

import importlib.util
import sys
from pathlib import Path

from accelerate.state import AcceleratorState

from fm_med.settings import exit_code, parse_settings

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = REPOSITORY / "recipes"


def recipe(name):
    """Import a recipe's script as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def launch(name, *argv):
    """Run a recipe with these arguments and return its exit status."""
    module = recipe(name)
    words = [str(word) for word in argv]
    try:
        return exit_code(lambda: module.main(parse_settings(module.Config, words)))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # one per process otherwise
