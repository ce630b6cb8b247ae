"""ECGs on paper: the scale is right, gaps stay gaps, absent leads are said to be absent."""

import re

import numpy as np
import pytest

from fm_med.ecg.leads import LEADS
from fm_med.report.ecg_paper import MM, ExampleECG, ecg_panel, lead_map_panel


def example(rate=100, **parts):
    time = np.arange(10 * rate) / rate
    signal = np.stack([0.1 * (lead + 1) * np.sin(2 * np.pi * time) for lead in range(12)])
    return ExampleECG(signal, rate, "a sine", **parts)


def traces(panel):
    """Absolute points of each drawn trace, in millimetres."""
    found = []
    for path in re.findall(r'<path d="([^"]*)" fill="none" stroke="#14181c"', panel.svg):
        if "l" not in path:
            continue  # a calibration pulse
        pieces = []
        for piece in path.split("M")[1:]:
            numbers = np.array(re.findall(r"-?\d+", piece), dtype=float).reshape(-1, 2)
            pieces.append(np.cumsum(numbers, axis=0) / MM)
        found.append(pieces)
    return found


@pytest.mark.parametrize("rate", [100, 500])
def test_scale_is_25_mm_per_second_and_10_mm_per_millivolt(rate):
    for lead, (points,) in enumerate(traces(ecg_panel(example(rate), rows=True))):
        assert np.ptp(points[:, 0]) == pytest.approx(250, abs=25 / rate + 0.02)
        assert np.ptp(points[:, 1]) == pytest.approx(2 * (lead + 1), abs=0.05)
        assert points[rate // 4, 1] < points[0, 1]  # positive is up


def test_three_by_four_shows_each_lead_at_its_own_time_and_a_rhythm_strip():
    panel = ecg_panel(example())
    drawn = traces(panel)
    assert len(drawn) == 13
    assert all(len(pieces) == 1 for pieces in drawn)
    widths = [np.ptp(pieces[0][:, 0]) for pieces in drawn]
    assert widths[:12] == pytest.approx([62.5] * 12, abs=0.3)
    assert widths[12] == pytest.approx(250, abs=0.3)
    (fourth,) = drawn[3]  # V4, from 7.5 s: half a period later than lead I
    assert fourth[25, 1] > fourth[0, 1]
    assert re.findall(r">([IaV][^<]*)</text>", panel.svg) == [
        *("I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6"),
        "II",
    ]


def test_missing_samples_stay_gaps():
    shown = example()
    shown.signal[4, 300:400] = np.nan
    shown.signal[4, 450] = np.nan
    pieces = traces(ecg_panel(shown, rows=True))[4]
    assert len(pieces) == 3
    assert pieces[1][0, 0] - pieces[0][-1, 0] == pytest.approx(25.25, abs=0.02)


def test_absent_leads_are_named():
    shown = example()
    shown.signal[6] = np.nan
    shown.signal[7] = 0.0
    panel = ecg_panel(shown, rows=True)
    assert len(traces(panel)) == 10
    assert "V1 absent" in panel.svg
    assert "Absent leads: V1, V2." in panel.alt
    masked = ecg_panel(example(lead_mask=np.arange(12) < 3))
    assert masked.svg.count("absent") == 9


def test_attention_shades_its_stretch_of_its_lead():
    attention = np.full((12, 10), 1.0)
    attention[5, 3] = 11.0
    panel = ecg_panel(example(time_attention=attention))
    boxes = re.findall(
        r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)" fill="#0072b2" '
        r'fill-opacity="([\d.]+)"',
        panel.svg,
    )
    ((x, y, width, height, opacity),) = boxes
    (points,) = traces(panel)[5]
    assert float(opacity) == 0.55
    assert int(x) / MM == pytest.approx(points[300, 0], abs=0.02)
    assert int(width) / MM == 25
    assert int(y) / MM < points[0, 1] < (int(y) + int(height)) / MM
    assert len(traces(panel)) == 12  # full length, not 3 x 4: nothing of the attention is cut


def test_lead_map_places_rows_and_columns():
    attention = np.full((12, 12), 1 / 24)
    attention[8, 2] = 0.5
    panel = lead_map_panel(example(lead_attention=attention))
    cells = re.findall(r'<rect x="(\d+)" y="(\d+)"[^>]*><title>(\S+) reads (\S+): ', panel.svg)
    assert len(cells) == 144
    ((x, y),) = [(x, y) for x, y, row, column in cells if (row, column) == ("V3", "III")]
    columns, rows = sorted({int(c[0]) for c in cells}), sorted({int(c[1]) for c in cells})
    assert (columns.index(int(x)), rows.index(int(y))) == (LEADS.index("III"), LEADS.index("V3"))
    assert "highest where V3 reads III (0.50" in panel.alt
    assert "6.0 × even attention" in panel.svg
    with pytest.raises(ValueError, match="no lead attention"):
        lead_map_panel(example())
