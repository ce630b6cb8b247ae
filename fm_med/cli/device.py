"""Refuse a device that is not there before anything is loaded."""

from fm_med.errors import InputError


def refuse_device(name: str) -> None:
    """Put nothing on a device, to see whether it is there.

    Args:
        name: cpu, cuda, cuda:1 ...

    Raises:
        InputError: torch does not know it, or it is not in this machine.
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"--device {name} cannot be used: {reason[:200]}") from None
