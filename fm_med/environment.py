"""What a run runs on: processes, device, versions, packages, and a disk that may be full."""

import errno
import platform
from importlib import metadata
from typing import Any

import torch
from accelerate import Accelerator

from fm_med.errors import InputError

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat the run: processes, device, versions."""
    cuda = accelerator.device.type == "cuda"
    packages = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "fm-med")
    return {
        "num_processes": accelerator.num_processes,
        "device": torch.cuda.get_device_name() if cuda else accelerator.device.type,
        "mixed_precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def refuse_missing_tracker(tracker: str) -> None:
    """Refuse a tracker whose package is missing: Accelerate would silently log nothing.

    Raises:
        InputError: The package is not installed.
    """
    try:
        metadata.version(tracker)
    except metadata.PackageNotFoundError:
        raise InputError(
            f"--tracker {tracker} needs the package {tracker}: pip install 'fm-med[{tracker}]'"
        ) from None


def is_disk_fault(error: Exception) -> bool:
    """Tell whether a failed write is the disk's fault: full, read-only, forbidden or broken."""
    # Safetensors has one error for everything; when it writes, it is the disk.
    return not isinstance(error, OSError) or error.errno in _DISK_FAULTS
