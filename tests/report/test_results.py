"""metrics.json and tables of results."""

import json
import math

import pytest

from fm_med.metrics import Interval
from fm_med.report import interval_table, write_metrics

GOOD = Interval(0.9, 0.85, 0.95, 1200)


def test_leaves_are_written_as_they_are(tmp_path):
    path = write_metrics(tmp_path / "report" / "metrics.json", {"a": {"b": {"c": GOOD}}, "d": GOOD})
    leaf = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 1200}
    assert json.loads(path.read_text()) == {"a": {"b": {"c": leaf}}, "d": leaf}


def test_what_is_undefined_is_null_with_its_reason(tmp_path):
    nested = {
        "value": Interval(math.nan, math.nan, math.nan, 7),
        "interval": Interval(0.5, math.nan, math.nan, 7),
    }
    path = write_metrics(tmp_path / "metrics.json", nested)
    assert "NaN" not in path.read_text()
    read = json.loads(path.read_text())
    assert read["value"]["value"] is None
    assert "not defined" in read["value"]["reason"]
    assert (read["interval"]["value"], read["interval"]["low"]) == (0.5, None)
    assert "no interval" in read["interval"]["reason"]


def test_other_leaves_are_refused_by_name_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"metric a\.b must be an Interval, however: 0\.5"):
        write_metrics(tmp_path / "metrics.json", {"a": {"b": 0.5}})
    assert list(tmp_path.iterdir()) == []


def test_table():
    missing = Interval(math.nan, math.nan, math.nan, 3)
    loss = Interval(-0.5, -0.75, 0.25, 8)
    table = interval_table({"AUROC": GOOD, "MCC": missing, "Gain": loss}, caption="All.")
    assert table.rows == [
        ("AUROC", "0.900", "0.850 to 0.950", "1,200"),
        ("MCC", "not defined", "", "3"),
        ("Gain", "−0.500", "−0.750 to 0.250", "8"),
    ]
