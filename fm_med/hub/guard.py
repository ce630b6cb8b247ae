"""What may leave the house: known files of a model only, and in them nothing about a person."""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fm_med.errors import InputError
from fm_med.hub.traces import Traces, find_traces
from fm_med.report.calibration_drawing import CALIBRATION_FILE

Source = Path | bytes

_WEIGHTS = ("config.json", "model.safetensors")
_PREDICTION = ("preprocessor_config.json", "task.json", *(f"head/{name}" for name in _WEIGHTS))
_ADAPTER = ("README.md", "adapter_config.json", "adapter_base.json", "adapter_model.safetensors")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
TEXT_MODEL = "text_model"
ALLOWED = frozenset(
    [
        CALIBRATION_FILE,
        "LICENSE",
        "schema.json",
        "reference.json",
        *_WEIGHTS,
        *_PREDICTION,
        *_ADAPTER,
        *(f"alignment/{name}" for name in _WEIGHTS),
        *(f"adapter/{name}" for name in (*_ADAPTER, *_PREDICTION)),
        *(f"{TEXT_MODEL}/{name}" for name in ("README.md", *_WEIGHTS, *_TOKENIZER)),
    ]
)

_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"}
_SIGNALS = set(
    ".npy .npz .csv .tsv .parquet .arrow .feather .h5 .hdf5 .h5ad .mat .dat .hea .edf .dcm "
    ".png .jpg .jpeg .tif .tiff .xml .jsonl .txt .html".split()
)
# What a drawing of lines and words needs none of: pictures, scripts, other files.
_NO_DRAWING = re.compile(
    r"<\s*(?:image|script|foreignObject|iframe|embed|object|style|!)|\bon\w+\s*=|"
    r"href\s*=\s*['\"](?!#)|url\((?!#)|data:|&#",
    re.IGNORECASE,
)
_LARGEST_DRAWING = 300_000  # bytes; a usual one has 20,000
_LONGEST_HEADER = 100 * 2**20


def model_files(folder: Path) -> list[str]:
    """Return the names of a model folder's files, all of them known ones.

    Raises:
        InputError: There is no such folder or it holds no model, or something else lies in it: a
            pickle, signals, a link, a file that no model has. Names all kinds found.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    problems, names = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            problems.append(f"{name} is a link")
        elif path.is_dir():
            continue
        elif name in ALLOWED and path.is_file():
            names.append(name)
        else:
            problems.append(f"{name} {_why_not(name)}")
    if not {"config.json", "adapter_config.json"} & set(names) and not problems:
        problems.append("it has neither config.json nor adapter_config.json, so it is no model")
    refuse(folder, problems)
    return names


def _why_not(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _PICKLES:
        return "is a pickle, which runs code when it is loaded; weights are shared as .safetensors"
    if suffix in _SIGNALS:
        return "may hold signals, rows or predictions of patients"
    return "is no file of a model"


def refuse(folder: Path, problems: list[str]) -> None:
    """Refuse to share a folder, naming the first problems in one line.

    Raises:
        InputError: There are problems.
    """
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{folder} is not shared: {'; '.join(problems[:3])}{more}")


def refuse_traces(folder: Path, files: Mapping[str, Source], known: Traces) -> None:
    """Read every file that is to be shared and refuse what tells of a person, a path or a secret.

    Args:
        folder: Named in the message.
        files: Name to content, or to where it lies.
        known: Ids and reports of the training cohort, tokens.

    Raises:
        InputError: Something was found, or a file is not what its name says.
    """
    problems = []
    for name, source in files.items():
        problems += [f"{name} holds {trace}" for trace in _traces_of(name, source, known)]
    refuse(folder, problems)


def _traces_of(name: str, source: Source, known: Traces) -> Iterator[str]:
    if name.endswith(".safetensors"):
        header = safetensors_header(source)
        if header is None:
            yield "something else than safetensors"
            return
        # Names and notes; sizes and offsets are numbers that mean nobody.
        told = {"names": [key for key in header if key != "__metadata__"]}
        told["notes"] = header.get("__metadata__", [])
        yield from find_traces(json.dumps(told), told, known)
        return
    content = source.read_bytes() if isinstance(source, Path) else source
    try:
        text = content.decode("utf-8")
        values = json.loads(text) if name.endswith(".json") else None
    except ValueError:
        yield "something else than text" if not name.endswith(".json") else "no valid JSON"
        return
    if name == CALIBRATION_FILE:
        if not text.startswith("<svg ") or len(text) > _LARGEST_DRAWING:
            yield "something else than a small drawing"
        if _NO_DRAWING.search(text):
            yield "more than lines and words: a picture, a script or a link"
    yield from find_traces(text, values, known)


def safetensors_header(source: Source) -> dict[str, Any] | None:
    """Return the header of a safetensors file (names, shapes, notes); None where it has none."""
    if isinstance(source, bytes):
        size, rest = source[:8], source[8:]
    else:
        with source.open("rb") as file:
            size = file.read(8)
            length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
            rest = file.read(length) if 0 < length < _LONGEST_HEADER else b""
    if len(size) < 8:
        return None
    try:
        header = json.loads(rest[: struct.unpack("<Q", size)[0]])
    except ValueError:
        return None
    return header if isinstance(header, dict) else None
