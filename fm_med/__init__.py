"""fm_med: pretrain medical encoders, fine-tune them on a cohort, evaluate them honestly.

Importing this package imports nothing heavy. `fm_med.load` brings in what it needs when called.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fm_med.hub import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import `load` on first use, so that `import fm_med` stays under 50 ms."""
    if name == "load":
        from fm_med.hub import load

        return load
    raise AttributeError(f"module 'fm_med' has no attribute {name!r}")
