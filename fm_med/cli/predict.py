"""`fm-med predict`: predictions for new patients, with input checks and warnings."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from fm_med.cli.command import Command
from fm_med.cli.device import refuse_device
from fm_med.errors import InputError
from fm_med.settings import argument, required, setting


@dataclass
class Predict:
    """Settings of `fm-med predict`."""

    model: str = argument("folder of a fine-tuned model, or a Hub id")
    output: str = required("CSV of the predictions; must not exist yet")
    records: list[str] | None = setting(None, "ECG files; with --table: one folder they lie in")
    table: str | None = setting(None, "CSV or Parquet: a path and clinical columns per recording")
    path: str = setting("path", "column of the table with the recording's path")
    cohort: str | None = setting(None, "folder of a cohort of any modality, instead of files")
    split: str = setting("test", "of the cohort")
    device: str = setting("cpu", "cpu, cuda ...")
    json: bool = setting(False, "print the counts as JSON")


def predict(settings: Predict) -> None:
    """Predict, write the table, and say how many rows deserve a second look."""
    output = Path(settings.output)
    if output.exists():
        raise InputError(f"{output} exists already")
    if (settings.cohort is None) == (settings.records is None and settings.table is None):
        raise InputError("give the patients by --records, by --table with --records, or --cohort")

    refuse_device(settings.device)
    from fm_med import hub, prediction
    from fm_med.cohort import open_cohort
    from fm_med.evaluation.result import write_table

    model = hub.load(settings.model, device=settings.device)
    if settings.cohort is not None:
        columns = prediction.predict_cohort(model, Path(settings.cohort), settings.split)
        if hasattr(model.processor, "remark"):
            rows = open_cohort(Path(settings.cohort)).splits[settings.split]
            where = sys.stderr if settings.json else sys.stdout
            print(model.processor.remark(rows), file=where)
    elif settings.table is not None:
        folders = settings.records or [str(Path(settings.table).parent)]
        if len(folders) != 1:
            raise InputError(f"with --table, --records is one folder, not {len(folders)}")
        table, folder = Path(settings.table), Path(folders[0])
        columns = prediction.predict_table(model, table, folder, path=settings.path)
    else:
        files = [Path(name) for name in settings.records or []]
        columns = prediction.predict_records(model, files)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_table(output, columns)
    rows = len(columns["name"])
    failed = sum(bool(text) for text in columns["problem"].tolist())
    warned = sum(bool(text) for text in columns["warnings"].tolist())
    if settings.json:
        counts = {"rows": rows, "predicted": rows - failed, "warned": warned}
        print(json.dumps({**counts, "output": str(output)}))
        return
    print(f"{rows - failed} of {rows} predicted, {warned} with a warning: {output}")


PREDICT_COMMANDS = {
    "predict": Command(Predict, predict, "risks or labels of new patients, with input checks")
}
