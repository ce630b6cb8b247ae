"""`fm-med text-model`: train a small text model on the reports at hand, without a network."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fm_med.cli.command import Command
from fm_med.errors import InputError
from fm_med.settings import required, setting

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class TextModel:
    """Settings of `fm-med text-model`."""

    reports: list[str] = required(
        "cohorts, text files (a report per line) or CSV/Parquet with a column `report`"
    )
    output: str = required("folder of the new text model")
    num_epochs: int = setting(3, "epochs of masked language modelling; 0 for a random network")
    hidden_size: int = setting(128, "width of the network")
    layers: int = setting(3, "number of layers")
    vocabulary_size: int = setting(4000, "upper bound of the number of word pieces")
    seed: int = setting(0, "seed of weights, order and masks")
    json: bool = setting(False, "print the result as JSON")


def text_model(settings: TextModel) -> None:
    """Train a tokenizer and a small BERT on reports and save both."""
    from fm_med.text.train import train_text_model

    reports = [text for source in settings.reports for text in read_reports(Path(source))]
    train_text_model(
        reports,
        Path(settings.output),
        num_epochs=settings.num_epochs,
        hidden_size=settings.hidden_size,
        layers=settings.layers,
        vocabulary_size=settings.vocabulary_size,
        seed=settings.seed,
    )
    count = len(set(reports))
    if settings.json:
        print(json.dumps({"folder": settings.output, "reports": count}))
    else:
        print(f"text model of {count} distinct reports: {settings.output}")


def read_reports(source: Path) -> list[str]:
    """Read the reports of a cohort's training split, of a table, or the lines of a text file.

    Raises:
        InputError: No such file or folder, or no reports in it.
    """
    from fm_med.cohort import open_cohort

    if source.is_dir():
        reports = list(open_cohort(source).column("train", "report"))
    elif not source.is_file():
        raise InputError(f"there is no file or cohort {source}")
    else:
        table = _table(source)
        if "report" not in table:
            raise InputError(f"{source} has no column 'report'; its columns are {list(table)}")
        reports = list(table["report"])
    reports = [text for text in reports if isinstance(text, str) and text.strip()]
    if not reports:
        raise InputError(f"{source} holds no report")
    return reports


def _table(source: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        if source.suffix == ".txt":
            return pd.DataFrame({"report": source.read_text(encoding="utf-8").splitlines()})
        return pd.read_parquet(source) if source.suffix == ".parquet" else pd.read_csv(source)
    except ValueError as error:  # of pandas, pyarrow and of what is no text
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source} cannot be read: {reason}") from None


TEXT_COMMANDS = {
    "text-model": Command(TextModel, text_model, "train a small text model on reports, offline"),
}
