"""What a command of `fm-med` is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command: its settings dataclass, the function they are given to, and one line of help."""

    settings: type[Any]
    run: Callable[[Any], None]
    summary: str
