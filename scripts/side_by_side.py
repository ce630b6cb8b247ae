"""What the benchmarks share: turns, memory of a fresh process, and the table they print.

A benchmark makes `Row`s, one per figure, and ends with `present`. `scripts/bench` runs them all.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Clock = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One figure of a benchmark beside the naive or a peer's way.

    Attributes:
        what: What is done, at which size.
        ours: The project's figure.
        unit: Of both figures; with "/s" in it more is better, else less.
        other: The other way's figure, None where there is none.
        way: Which the other way is; one written again in plain form says so.
        ours_aim: Bound that `ours` should keep: at least for rates, else at most.
        ratio_aim: Bound that `ratio` should reach.
    """

    what: str
    ours: float
    unit: str
    other: float | None = None
    way: str = ""
    ours_aim: float | None = None
    ratio_aim: float | None = None

    @property
    def rate(self) -> bool:
        """Tell whether more is better."""
        return "/s" in self.unit

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.other is None:
            return None
        return self.ours / self.other if self.rate else self.other / max(self.ours, 1e-12)

    @property
    def met(self) -> bool | None:
        """Tell whether every aim is reached; None where there is none."""
        checks = []
        if self.ours_aim is not None:
            checks.append(self.ours >= self.ours_aim if self.rate else self.ours <= self.ours_aim)
        if self.ratio_aim is not None and self.ratio is not None:
            checks.append(self.ratio >= self.ratio_aim)
        return all(checks) if checks else None

    def cells(self) -> list[str]:
        """Return the row as it is printed."""
        aims = []
        if self.ours_aim is not None:
            aims.append(f"{'>=' if self.rate else '<='} {number(self.ours_aim)}")
        if self.ratio_aim is not None:
            aims.append(f">= {number(self.ratio_aim)}x")
        met = {True: "yes", False: "NO", None: ""}[self.met]
        ratio = "" if self.ratio is None else f"{number(self.ratio)}x"
        other = "" if self.other is None else number(self.other)
        return [
            self.what,
            self.unit,
            number(self.ours),
            other,
            self.way,
            ratio,
            ", ".join(aims),
            met,
        ]


HEADINGS = ["what", "unit", "ours", "other", "the other way", "ratio", "aim", "met"]


def number(value: float) -> str:
    """Write a figure with three digits or its whole part."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def turns(
    ways: dict[str, Callable[[], object]], rounds: int, clock: Clock = time.process_time
) -> dict[str, float]:
    """Return the median seconds of each way; they alternate, and a first round only warms up.

    CPU time by default: other programs on the machine change it little.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for attempt in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if attempt:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MB (Linux)."""
    # ru_maxrss would be that of the parent where it is larger; VmHWM begins anew with a program.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def growth_mb(work: Callable[[], object]) -> float:
    """Return by how much a call exceeds the resident memory before it at its peak, in MB (Linux).

    In a process that has freed much, the call may fill what was freed: measure in a fresh one.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_mb()
    work()
    return peak_mb() - before


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a fresh process, whose memory is its own.

    Args:
        work: A function of a module (the benchmark's own is imported again).
        arguments: Its arguments; they must pickle.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the arguments of every benchmark."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--rounds", type=int, default=5, help="timed turns of every way")
    made.add_argument("--json", type=Path, help="file to write the rows to")
    return made


def table(cells: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def present(rows: Sequence[Row], to: Path | None) -> None:
    """Print the rows and, if wanted, write them to a JSON file."""
    print(table([HEADINGS, *(row.cells() for row in rows)]))
    sys.stdout.flush()
    if to is not None:
        to.write_text(json.dumps([asdict(row) for row in rows], indent=1))
