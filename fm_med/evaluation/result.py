"""What an evaluation leaves behind: a page, ``metrics.json`` and a table of predictions."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fm_med.atomic import atomic_file
from fm_med.metrics import Interval
from fm_med.report import Section, write_metrics, write_report
from fm_med.report.page import FOOTER


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        title: Of the page.
        subtitle: Cohort and split.
        metrics: Content of ``metrics.json``.
        sections: Of the page.
        predictions: Columns of ``predictions.csv``, all of one length.
        footer: Of the page.
        lines: (name, number) for the terminal.
        cautions: Sentences for the terminal.
    """

    title: str
    subtitle: str
    metrics: Mapping[str, Any]
    sections: Sequence[Section]
    predictions: Mapping[str, np.ndarray]
    footer: str = FOOTER
    lines: Sequence[tuple[str, Interval]] = ()
    cautions: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        """Write ``report.html``, ``metrics.json`` and ``predictions.csv`` to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_metrics(folder / "metrics.json", self.metrics)
        write_table(folder / "predictions.csv", self.predictions)
        write_report(
            folder / "report.html",
            title=self.title,
            subtitle=self.subtitle,
            sections=self.sections,
            footer=self.footer,
        )

    def summary(self) -> str:
        """Return the main results for the terminal."""
        width = max((len(name) for name, _ in self.lines), default=0)
        numbers = [f"  {name:<{width}}  {value}" for name, value in self.lines]
        return "\n".join([*numbers, *(f"note: {sentence}" for sentence in self.cautions)])


def write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns of one length as CSV; numbers with six significant digits."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True):
            writer.writerow([_text(value) for value in row])


def _text(value: Any) -> str:
    """Return a cell."""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
