"""What an evaluation leaves behind: a page, ``metrics.json`` and a table of predictions."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fm_med.atomic import atomic_file
from fm_med.errors import InputError
from fm_med.metrics import Interval
from fm_med.report import Section, write_metrics, write_report
from fm_med.report.calibration_drawing import CALIBRATION_FILE
from fm_med.report.page import FOOTER


def free_report_folder(folder: Path) -> Path:
    """Return the folder if it holds no report yet; the report of a training run is no such.

    Raises:
        InputError: It is a file, or has a ``report.html``.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder")
    if (folder / "report.html").exists():
        raise InputError(f"{folder} holds a report already; give another --output")
    return folder


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
        tables: Columns of further CSV files by their names.
        calibration: A drawing for a model's card, as SVG; "" for none.
    """

    title: str
    subtitle: str
    metrics: Mapping[str, Any]
    sections: Sequence[Section]
    predictions: Mapping[str, np.ndarray]
    footer: str = FOOTER
    lines: Sequence[tuple[str, Interval]] = ()
    cautions: Sequence[str] = ()
    tables: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    calibration: str = ""

    def write(self, folder: Path) -> None:
        """Write ``report.html``, ``metrics.json``, ``predictions.csv`` and the card's drawing.

        What a training run has left there under the same names is kept with ``training_`` before
        its name.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.json", "predictions.csv"):
            if (folder / name).is_file():
                (folder / name).replace(folder / f"training_{name}")
        write_metrics(folder / "metrics.json", self.metrics)
        write_table(folder / "predictions.csv", self.predictions)
        for name, columns in self.tables.items():
            write_table(folder / f"{name}.csv", columns)
        if self.calibration:
            with atomic_file(folder / CALIBRATION_FILE) as temporary:
                temporary.write_text(self.calibration, encoding="utf-8")
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
