"""Charts: what they hold, and that they can stand together on one page."""

import re

import numpy as np
import pytest

from fm_med.metrics import Interval
from fm_med.report.figures import curve, curves_figure, intervals_figure, map_figure
from fm_med.report.svg import BLUE, PAGE_COLOURS, VERMILLION

BLUE_ON_PAGE = PAGE_COLOURS[BLUE]

HISTORY = [{"step": step, "loss": 5.0 - 0.01 * step} for step in range(1, 101)]
HISTORY += [
    {"step": step, "epoch": step // 50, "retrieval.recall_at_1": step / 200, "note": "text"}
    for step in (50, 100)
]


def test_curve_reads_steps_and_values_with_or_without_prefix():
    steps, values = curve(HISTORY, "recall_at_1")
    assert steps.tolist() == [50, 100]
    assert values.tolist() == [0.25, 0.5]
    assert len(curve(HISTORY, "absent")[0]) == 0
    assert len(curve(HISTORY, "note")[0]) == 0
    assert len(curve(HISTORY, "at_1")[0]) == 0


def test_curves_figure_tells_its_ends_and_is_left_out_without_data():
    figure = curves_figure(HISTORY, {"loss": "training"}, axis="Loss", caption="")
    assert figure.panels[0].alt.startswith("Loss over 100 steps: training from 4.9")
    assert curves_figure(HISTORY, {"absent": "x"}, axis="", caption="") is None
    assert curves_figure([], {"loss": "x"}, axis="", caption="") is None


def test_intervals_figure_shows_every_row_and_series():
    rows = {
        "first label": {"model": Interval(0.9, 0.8, 0.95, 9), "random": Interval(0.7, 0.6, 0.8, 9)},
        "second label": {"model": Interval(0.6, 0.5, 0.7, 9)},
    }
    panel = intervals_figure(rows, ("absent", "model", "random"), caption="", axis="AUROC").panels[
        0
    ]
    for text in ("first label", "second label", "model", "random", "AUROC"):
        assert text in panel.svg
    assert "absent" not in panel.svg
    assert VERMILLION in panel.svg  # the second series keeps the second colour
    assert BLUE_ON_PAGE not in panel.svg
    assert "second label: model 0.600 [0.500, 0.700]" in panel.alt


@pytest.mark.parametrize("rows", [12, 60])
def test_map_of_few_and_many_rows(monkeypatch, rows):
    monkeypatch.setattr("fm_med.report.figures.MAP_ROWS", 40)
    generator = np.random.default_rng(0)
    labels = generator.random((rows, 3)) < [0.5, 0.2, 0.4]
    labels[:, 1] = False
    figure = map_figure(generator.normal(size=(rows, 6)), labels, ("a", "b", "c"))
    assert f"Map of {min(rows, 40)} recordings" in figure.panels[0].alt
    assert "0 of" in figure.panels[0].svg


def test_svg_is_inline_ready():
    """No links, no fixed size, the page's colours, and no id that another figure has too."""
    drawn = [
        curves_figure(HISTORY, {"loss": "training"}, axis="Loss", caption="").panels[0].svg
        for _ in range(2)
    ]
    for svg in drawn:
        assert svg.startswith("<svg viewBox=")
        assert "http" not in svg
        assert "<metadata" not in svg
        assert "xlink" not in svg
        assert not any(colour in svg for colour in PAGE_COLOURS)
        assert "var(--ink)" in svg
        ids = re.findall(r' id="([^"]+)"', svg)
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert len(ids) == len(set(ids))
        assert used == set(ids) != set()
    first, second = (set(re.findall(r' id="([^"]+)"', svg)) for svg in drawn)
    assert not first & second
