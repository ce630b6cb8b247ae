"""What a run has used: minutes, and energy where the machine counts it.

Processors count it in `/sys/class/powercap` (often readable by root alone), NVIDIA's GPUs in NVML
if the package pynvml is there. Both count whatever runs on them. It is summed up on one machine
only: of a run on several, nothing is told.
"""

import os
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
SECONDS = 20.0  # between two readings; a processor's counter begins anew after some minutes
_JOULES_PER_KWH = 3.6e6


class Usage:
    """Counts from when it is made; `update` it now and then, so that no counter is missed.

    Args:
        powercap: Folder with the processors' counters.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        here, everywhere = (int(os.environ.get(n, "1")) for n in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        self._began = self._read_at = time.monotonic()
        # intel-rapl:0 is a whole processor; intel-rapl:0:1 a part of it, which it counts already.
        zones = [zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1]
        zones = [zone for zone in zones if _number(zone / "energy_uj") is not None]
        self._zones = zones if here == everywhere else []
        self._gpus = _gpus(here) if here == everywhere else []
        self._last = self._counters()
        self._joules = {"cpu": 0.0} if self._zones else {}
        self._joules |= {"gpu": 0.0} if self._gpus else {}

    def update(self, *, now: bool = False) -> None:
        """Add what was used since the last reading; at most every `SECONDS`, unless `now`."""
        if not self._joules or (not now and time.monotonic() - self._read_at < SECONDS):
            return
        self._read_at, counters = time.monotonic(), self._counters()
        for name, (value, whole) in counters.items():
            used = value - self._last[name][0]
            self._joules[name.partition(" ")[0]] += used + (whole if used < 0 else 0.0)
            self._last[name] = value, whole

    def spent(self) -> dict[str, Any]:
        """Return `minutes`, and `energy_kwh` by "cpu" and "gpu" where it was counted."""
        self.update(now=True)
        found: dict[str, Any] = {"minutes": round((time.monotonic() - self._began) / 60, 2)}
        if self._joules:
            kwh = {name: float(f"{j / _JOULES_PER_KWH:.3g}") for name, j in self._joules.items()}
            found["energy_kwh"] = kwh
        return found

    def _counters(self) -> dict[str, tuple[float, float]]:
        """Return joules of each counter, and at how many it begins anew."""
        found = {}
        for zone in self._zones:
            used, whole = (_number(zone / n) for n in ("energy_uj", "max_energy_range_uj"))
            if used is not None:
                found[f"cpu {zone.name}"] = used / 1e6, (whole or 0.0) / 1e6
        for place, gpu in enumerate(self._gpus):
            millijoules = import_module("pynvml").nvmlDeviceGetTotalEnergyConsumption(gpu)
            found[f"gpu {place}"] = millijoules / 1e3, 0.0
        return found


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # not there, or for root alone
        return None


def _gpus(processes: int) -> list[Any]:
    """Return NVML's handles of the GPUs of this run's processes; [] where it counts nothing."""
    if not torch.cuda.is_available() or find_spec("pynvml") is None:
        return []
    nvml = import_module("pynvml")
    used = min(processes, torch.cuda.device_count())
    try:
        nvml.nvmlInit()
        names = [f"GPU-{torch.cuda.get_device_properties(k).uuid}" for k in range(used)]
        handles = [nvml.nvmlDeviceGetHandleByUUID(name) for name in names]
        for handle in handles:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # older GPUs count nothing
    except nvml.NVMLError:
        return []
    return handles


def energy_text(energy: dict[str, float] | None) -> str:
    """Return what a card says of the energy that a run has used."""
    if not energy:
        return "not measured"
    names = {"cpu": "processors", "gpu": "GPUs"}
    parts = ", ".join(f"{names.get(name, name)} {kwh:g} kWh" for name, kwh in energy.items())
    return f"{parts}, as counted by this machine, whatever else ran on it"
