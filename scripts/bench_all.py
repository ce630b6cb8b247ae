"""Run every benchmark and print one table: ours, the other way, ratio, aim; with the machine.

    scripts/bench [--only read cox] [--output FOLDER]

Every benchmark is a process of its own, one after the other. The machine's limits (memory copy,
matrix products) are measured in the same run, before the first and after the last, because a
benchmark's figures mean little without them. With --output: bench.json and bench.md in FOLDER.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import HEADINGS, Row, table, turns

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Return the benchmarks beside this file."""
    found = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    return [name for name in found if name != "all"]


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def machine() -> dict[str, Any]:
    """Name the machine and the versions that the figures belong to."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


def limits() -> dict[str, float]:
    """Measure the machine on one thread: memory copy in GB/s, matrix products in GFLOP/s."""
    torch.set_num_threads(1)
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    whole, half = torch.randn(1024, 1024), torch.randn(1024, 1024).bfloat16()
    seconds = turns(
        {
            "copy": lambda: target.copy_(source),
            "fp32": lambda: whole @ whole,
            "bf16": lambda: half @ half,
        },
        rounds=9,
    )
    return {
        "memory copy, GB/s read and written": 2 * source.nbytes / seconds["copy"] / 1e9,
        "fp32 matmul, GFLOP/s": 2 * 1024**3 / seconds["fp32"] / 1e9,
        "bf16 matmul, GFLOP/s": 2 * 1024**3 / seconds["bf16"] / 1e9,
    }


def run(name: str) -> tuple[list[Row], str]:
    """Run one benchmark; return its rows, and its last line of stderr where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, str(FOLDER / f"bench_{name}.py"), "--json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return [], (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Row(**row) for row in json.loads(file.read_text())], ""


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return the whole result as Markdown."""
    about = found["machine"]
    place = about["gpu"] or f"{about['cores']} cores of {about['processor']}"
    cells = [["bench", *HEADINGS]]
    for name, bench in found["benches"].items():
        cells += [[name, *Row(**row).cells()] for row in bench["rows"]]
        if bench["error"]:
            cells.append([name, f"failed: {bench['error']}", *[""] * 6, "NO"])
    measured = ", ".join(
        f"{what} {before:.0f} (after: {found['limits_after'][what]:.0f})"
        for what, before in found["limits"].items()
    )
    return [
        f"{place}; Python {about['python']}, torch {about['torch']}; load {about['load']} at the"
        f" start; {found['minutes']:.1f} minutes.",
        "",
        f"Limits of the machine in this run, one thread: {measured}.",
        "",
        table(cells),
    ]


def main() -> int:
    """Run, print, write; return 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names(), default=names(), metavar="NAME")
    parser.add_argument("--output", type=Path, help="folder for bench.json and bench.md")
    options = parser.parse_args()
    start = time.monotonic()
    found: dict[str, Any] = {"machine": machine(), "limits": limits(), "benches": {}}
    for name in options.only:
        began = time.monotonic()
        rows, error = run(name)
        seconds = round(time.monotonic() - began, 1)
        print(f"bench_{name}: {error or f'{len(rows)} rows'}, {seconds} s", file=sys.stderr)
        as_saved = [vars(row) for row in rows]
        found["benches"][name] = {"rows": as_saved, "error": error, "seconds": seconds}
    found["limits_after"] = limits()
    found["minutes"] = (time.monotonic() - start) / 60
    text = "\n".join(lines_of(found)) + "\n"
    print(text)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "bench.json").write_text(json.dumps(found, indent=1))
        (options.output / "bench.md").write_text(text)
    return int(any(bench["error"] for bench in found["benches"].values()))


if __name__ == "__main__":
    sys.exit(main())
