"""Look at what fm_med runs on, and say what to do about what is wrong."""

import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from fm_med.cache import cache_folder

_NEEDED_GB = 5.0
_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        topic: What it is about.
        state: "problem" keeps something from working, "warning" may.
        found: What was seen, in one line.
        advice: What to do; "" where nothing is to be done.
    """

    topic: str
    state: Literal["ok", "warning", "problem"]
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return it as plain values."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything; takes as long as importing torch, and `_SECONDS` for a Hub asleep."""
    looks = (_python, _packages, _torchvision, _devices, _hub, _token, _cache, _disk)
    return [finding for look in looks for finding in look()]


# ---------------------------------------------------------------------------------- Software


def _python() -> Iterator[Finding]:
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("python", "ok", found)  # pip refuses versions that are too old


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what fm-med asks for."""
    from packaging.requirements import Requirement

    try:
        needed = metadata.requires("fm-med") or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", "problem", "fm-med is not installed", "pip install fm-med")
        return
    wrong, right = [], []
    for requirement in map(Requirement, needed):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append((f"{requirement.name} is missing", str(requirement)))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            right.append(f"{requirement.name} {version}")
        else:
            wrong.append((f"{requirement.name} is {version}", str(requirement)))
    for found, asked in wrong:
        yield Finding("packages", "problem", f"{found}, needed {asked}", f"pip install '{asked}'")
    own = metadata.version("fm-med")
    yield Finding("packages", "ok", f"fm-med {own}; {', '.join(right)}")


def _torchvision() -> Iterator[Finding]:
    """Import torchvision, in a process of its own: beside another build of torch it breaks peft."""
    if importlib.util.find_spec("torchvision") is None:
        yield Finding("torchvision", "ok", "not installed, and not needed")
        return
    done = subprocess.run(
        [sys.executable, "-c", "import torchvision"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == 0:
        yield Finding("torchvision", "ok", "installed (not needed), and it can be imported")
        return
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    yield Finding(
        "torchvision",
        "problem",
        f"installed beside a torch that it was not built for: {reason[:160]}",
        "pip uninstall torchvision (peft and transformers' image processors fail beside it)",
    )


def _devices() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding("devices", "problem", "torch is not installed", "pip install torch")
        return
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        found = f"torch cannot be imported: {reason}"
        yield Finding("devices", "problem", found, "reinstall torch")
        return
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            size = f"{card.total_memory / 2**30:.0f} GB"
            yield Finding("devices", "ok", f"GPU {index}: {card.name}, {size}")
    elif shutil.which("nvidia-smi"):
        built = torch.version.cuda or "no CUDA"
        found = f"there is an NVIDIA driver, but torch {torch.__version__} ({built}) sees no GPU"
        yield Finding("devices", "warning", found, "install the build of torch for your driver")
    else:
        yield Finding("devices", "ok", f"no GPU; {cores} cores, {threads} threads")
    if threads > cores:
        advice = f"export OMP_NUM_THREADS={cores}"
        yield Finding("devices", "warning", f"{threads} threads on {cores} cores", advice)


# ------------------------------------------------------------------------------------- The Hub


def _hub() -> Iterator[Finding]:
    """See whether the Hub answers at all; no token is sent."""
    from huggingface_hub import constants

    address = re.sub(r"//[^/@]*@", "//", str(constants.ENDPOINT))
    if constants.HF_HUB_OFFLINE:
        found = "HF_HUB_OFFLINE is set: the Hub is not asked, models come from cache and folders"
        yield Finding("hub", "ok", found)
        return
    match = re.match(r"(https?)://(?:[^/@]*@)?([^/:]+)(?::(\d+))?", str(constants.ENDPOINT))
    if match is None:
        yield Finding("hub", "problem", f"HF_ENDPOINT is {address}", "set an http(s) address")
        return
    port = int(match[3] or (443 if match[1] == "https" else 80))
    error = _unreachable(match[2], port)
    if error:
        advice = "export HF_HUB_OFFLINE=1 to work without it, or set HF_ENDPOINT or HTTPS_PROXY"
        if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy")):
            advice = "a proxy is set and may reach it all the same; try fm-med pull"
        yield Finding("hub", "warning", f"{address} cannot be reached ({error})", advice)
        return
    yield Finding("hub", "ok", f"{address} can be reached")


def _unreachable(host: str, port: int) -> str:
    """Return why a connection fails; "" where it does not."""
    answers: list[str] = ["no answer in time"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_SECONDS).close()
            answers.append("")
        except OSError as error:
            answers.append(str(error))

    # In a thread: looking up a name knows no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return answers[-1]


def _token() -> Iterator[Finding]:
    """Say whether there is a token; never which."""
    from huggingface_hub import get_token

    if get_token() is None:
        found = "none: private models are not seen, and nothing can be pushed"
        yield Finding("token", "ok", found, "hf auth login, if you need them")
        return
    where = "in the environment" if os.environ.get("HF_TOKEN") else "saved on this machine"
    yield Finding("token", "ok", f"there is one, {where}")


# ---------------------------------------------------------------------------------------- Disk


def _cache() -> Iterator[Finding]:
    from huggingface_hub import constants

    for topic, folder in (
        ("cache of the Hub", Path(constants.HF_HUB_CACHE)),
        ("cache of fm_med", cache_folder()),
    ):
        if _writable(folder):
            yield Finding(topic, "ok", str(folder))
        else:
            name = "HF_HOME" if "Hub" in topic else "FM_MED_CACHE"
            advice = f"make it writable, or set {name} to a folder that is"
            yield Finding(topic, "problem", f"{folder} cannot be written", advice)


def _existing(folder: Path) -> Path:
    """Return the folder or its nearest parent that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _writable(folder: Path) -> bool:
    place = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def _disk() -> Iterator[Finding]:
    seen: dict[int, Any] = {}
    for name, folder in (("working folder", Path.cwd()), ("caches", cache_folder())):
        place = _existing(folder)
        device = place.stat().st_dev
        if device in seen:
            continue
        seen[device] = free = shutil.disk_usage(place).free / 1e9
        if free < _NEEDED_GB:
            advice = "make room: checkpoints and text models take gigabytes"
            yield Finding("disk", "warning", f"{free:.1f} GB free for the {name}", advice)
        else:
            yield Finding("disk", "ok", f"{free:.0f} GB free for the {name}")
