"""The report of a risk model: what it says, what it hides, and that a browser shows all of it."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from fm_med.metrics import Interval
from fm_med.report import Figure, KeyNumber, Table, survival_figures, write_report
from fm_med.report.attribution_map import attribution_panel
from fm_med.report.label_figures import label_curves
from fm_med.report.label_sections import LabelResults, label_sections
from fm_med.report.survival_discrimination import precision_box
from fm_med.report.survival_figures import (
    CalibrationPlot,
    RiskGroup,
    calibration_figure,
    kaplan_meier_figure,
)
from fm_med.report.survival_results import Subgroup, SurvivalResults, p_text
from fm_med.report.survival_sections import survival_sections

GENERATOR = np.random.default_rng(0)


def near(value, width=0.05):
    return Interval(value, value - width, value + width, 300)


def group(name, rate, persons=120):
    event = GENERATOR.exponential(1 / rate, persons)
    time = np.minimum(event, GENERATOR.uniform(24, 84, persons))
    steps = np.sort(time[event <= time])
    survival = 0.99 ** np.arange(1, len(steps) + 1)
    ends = (np.clip(survival - 0.05, 0, 1), np.clip(survival + 0.05, 0, 1))
    return RiskGroup(name, steps, survival, *ends, time, len(steps))


def plot(name="3 years"):
    risk = GENERATOR.beta(1, 9, 300)
    predicted = np.linspace(0.02, 0.3, 5)
    ends = np.clip(predicted - 0.05, 0, 1), predicted + 0.05
    curve = np.stack([predicted, 1.1 * predicted], 1)
    return CalibrationPlot(name, predicted, predicted * 1.1, *ends, risk, curve)


def results(gain=0.05, **changes):
    scores = {"c_index": near(0.7), "auroc_at_3": near(0.72)}
    model = scores | {"calibration_slope": near(0.9), "ibs": near(0.1, 0.02)}
    model |= {"brier_at_3": near(0.1), "ici_at_3": Interval(0.01, np.nan, np.nan, 300)}
    settings = {
        "metrics": {
            "model": model,
            "baselines": {"age_sex": scores},
            "difference": {"age_sex": {"c_index": near(gain, 0.03)}},
        },
        "p_values": {"age_sex": 0.012},
        "event": "heart failure",
        "unit": "months",
        "persons": 300,
        "events": 52,
        "training_events": 64,
        "horizons": {"3": "3 years"},
        "flow": [("Recordings in the cohort", "1,000", ""), ("Persons evaluated", "300", "52")],
        "calibration": [plot()],
        "groups": [group("lowest third", 0.002), group("highest third", 0.02)],
        "log_rank": (31.2, 1e-8),
        "over_time": {"This model": (np.arange(6, 60), np.full(54, 0.7))},
        "decision": {
            "This model": (np.linspace(0.01, 0.3, 20), np.linspace(0.05, 0, 20)),
            "act on everybody": (np.linspace(0.01, 0.3, 20), np.linspace(0.05, -0.2, 20)),
        },
        "subgroups": [
            Subgroup("Sex: female", 150, 22, near(0.7)),
            Subgroup("Age: under 40", None, None, None),
        ],
        "patients": [
            Figure(
                [attribution_panel(GENERATOR.normal(size=(12, 20)), seconds=10, title="Occlusion")],
                "A patient.",
                wide=True,
            )
        ],
        "methods": [("Data", "Simulated.")],
        "cautions": ["Simulated."],
    }
    return SurvivalResults(**(settings | changes))


def tables(sections):
    return [item for part in sections for item in part.content if isinstance(item, Table)]


def test_all_sections_in_the_order_of_reading():
    sections = survival_sections(results())
    assert [section.title for section in sections] == [
        "In short",
        "Participants",
        "Does it rank patients rightly?",
        "Can the risks be believed?",
        "What happened to patients of low and high risk",
        "Would it help to decide?",
        "Is it fair?",
        "Single patients",
        "Methods",
        "TRIPOD+AI checklist",
    ]
    assert sections[0].alert == "Simulated."
    figures = [item for part in sections for item in part.content if isinstance(item, Figure)]
    assert len(figures) == 7
    assert all(panel.alt.strip() for figure in figures for panel in figure.panels)


def test_what_is_not_there_is_left_out():
    bare = SurvivalResults(
        metrics={"model": {"c_index": near(0.6)}},
        event="death",
        unit="days",
        persons=10,
        events=3,
    )
    titles = [section.title for section in survival_sections(bare)]
    assert titles == ["In short", "Does it rank patients rightly?", "TRIPOD+AI checklist"]


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.05, "better than age"), (0.0, "cannot be told from age"), (-0.05, "WORSE than age")],
)
def test_verdict_follows_the_interval(gain, verdict):
    assert verdict in survival_sections(results(gain))[0].text


def test_checklist_refers_only_to_what_the_page_has():
    def where(sections, item):
        (row,) = [r for t in tables(sections[-1:]) for r in t.rows if r[0].startswith(item)]
        return row[1]

    assert where(survival_sections(results()), "14") == "“Is it fair?”"
    assert where(label_sections(label_results()), "14") == "To be written by the authors."
    assert "number of events" in where(survival_sections(results()), "10")


def test_differences_have_p_values():
    sections = survival_sections(results())
    rows = [row for table in tables(sections) for row in table.rows]
    assert ["Age and sex (Cox)", "0.050 [0.020, 0.080]", "p = .012"] in [list(r) for r in rows]
    assert p_text(1e-5) == "p < .001"
    assert p_text(float("nan")) == "p not defined"


@pytest.mark.parametrize(("events", "half"), [(20, "0.11"), (100, "0.05"), (2000, "0.01")])
def test_precision_is_that_of_the_rule(events, half):
    box = precision_box(events)
    assert f"about ± {half}" in box.text
    assert ("That is little" in box.text) == (events == 20)
    assert "learnt from 50 events" in precision_box(events, 50).text
    assert "learnt" not in precision_box(events, 500).text


def test_small_groups_and_numbers_at_risk_are_hidden():
    sections = survival_sections(results())
    (row,) = [r for t in tables(sections) for r in t.rows if r[0] == "Age: under 40"]
    assert tuple(row[1:]) == ("not shown",) * 3
    few = group("few", 0.02, persons=8)
    svg = kaplan_meier_figure([few], unit="months", event="death", test="").panels[0].svg
    assert "&lt;10" in svg


def test_numbers_at_risk_are_counted():
    followed = RiskGroup(
        "all",
        np.array([5.0]),
        np.array([0.9]),
        np.array([0.8]),
        np.array([0.95]),
        np.concatenate([np.full(30, 11.0), np.full(40, 12.0), np.full(50, 30.0)]),
        1,
    )
    svg = kaplan_meier_figure([followed], unit="months", event="death", test="").panels[0].svg
    texts = re.findall(r">([\d,]+)</text>|<!-- ([\d,]+) -->", svg)
    numbers = {a or b for a, b in texts}
    # Those followed to exactly a tick (6 months apart) are still at risk at it.
    assert {"120", "90", "50"} <= numbers


def test_calibration_names_predicted_and_seen():
    figure = calibration_figure([plot("1 year"), plot("3 years")])
    assert "1 year: 2.0% predicted, 2.2% seen" in figure.panels[0].alt
    assert figure.wide


def test_attribution_map_tells_the_strongest_stretch():
    value = np.zeros((12, 50))
    value[7, 20], value[0, 3] = -2.0, 1.0
    panel = attribution_panel(value, seconds=10, title="Occlusion")
    assert "lowers the risk, in V2 at 4.1 s" in panel.alt
    assert panel.svg.count("#0072b2") == 2  # the stretch and the key
    assert "darkest: 2" in panel.svg


def test_key_numbers_of_the_summary():
    names = [
        item.name for item in survival_sections(results())[0].content if isinstance(item, KeyNumber)
    ]
    assert names == ["C-index of the model", "Gain over age and sex", "Calibration slope"]


def label_results():
    label = (GENERATOR.random(200) < 0.3).astype(float)
    probability = np.clip(0.3 * label + 0.7 * GENERATOR.random(200), 0, 1)
    scores = {"macro_auroc": near(0.8), "accuracy": near(0.7)}
    per_label = {"per_label": {name: near(0.8) for name in ("A", "B", "C")}}
    return LabelResults(
        metrics={
            "model": scores | per_label,
            "baselines": {"age_sex": scores},
            "difference": {"age_sex": {"macro_auroc": near(0.1)}},
        },
        what="three classes",
        rows=200,
        persons=180,
        flow=[("Rows evaluated", "200", "")],
        curves=[label_curves("A", label, probability)],
        confusion=np.array([[50, 5, 1], [2, 60, 8], [0, 4, 70]]),
        classes=("A", "B", "C"),
        numbers=(GENERATOR.normal(size=50), GENERATOR.normal(size=50)),
        methods=[("Data", "None.")],
    )


def test_label_curves_agree_with_definitions():
    label = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    probability = np.array([0.9, 0.9, 0.8, 0.3, 0.2, 0.1])
    curves = label_curves("A", label, probability)
    np.testing.assert_allclose(curves.recall, [0, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curves.false_positive, [0, 1 / 3, 1 / 3, 2 / 3, 1, 1])
    np.testing.assert_allclose(curves.precision, [1, 1 / 2, 2 / 3, 2 / 4, 2 / 5, 3 / 6])
    assert np.all(np.diff(curves.stated) >= 0)


def test_label_report(tmp_path):
    sections = label_sections(label_results())
    assert [s.title for s in sections] == [
        "In short",
        "Participants",
        "How often is it right?",
        "Each label",
        "Methods",
        "TRIPOD+AI checklist",
    ]
    page = write_report(tmp_path / "r.html", title="Labels", sections=sections).read_text()
    assert "share of each class that is called rightly: A 89%" in page


CHECK = """
<script>
const wrong = [];
addEventListener("error", event => wrong.push(event.message));
addEventListener("load", () => {
  const panels = [...document.querySelectorAll(".panel")];
  const empty = panels.filter(panel => {
    const svg = panel.querySelector("svg");
    const box = svg && svg.getBBox();
    return !svg || panel.clientWidth < 100 || panel.clientHeight < 40 || box.width < 10;
  });
  const outside = performance.getEntriesByType("resource").length;
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const found = {panels: panels.length, empty: empty.length, outside, wide, wrong};
  document.title = JSON.stringify(found);
});
</script>
"""


@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_every_figure(tmp_path, width):
    """Opened in headless Chromium: every figure drawn, nothing loaded, nothing failed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not on the path")
    sections = [*survival_sections(results()), *label_sections(label_results())]
    path = write_report(tmp_path / "report.html", title="Risk", sections=sections)
    page = path.read_text(encoding="utf-8")
    assert "http" not in page
    # The check rides in a copy: the page itself has no script at all.
    assert "<script" not in page
    copy = tmp_path / "checked.html"
    copy.write_text(page.replace("</head>", f"{CHECK}</head>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [browser, *flags, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120
    )
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert title, done.stderr[-500:]
    panels = sum(
        len(item.panels) for part in sections for item in part.content if isinstance(item, Figure)
    )
    expected = f'{{"panels":{panels},"empty":0,"outside":0,"wide":false,"wrong":[]}}'
    assert title[1].replace("&quot;", '"') == expected


@pytest.mark.parametrize("high", [0.03, 0.055, 0.09, 0.18, 1.0])
def test_a_percent_axis_says_what_its_ticks_are(high):
    from matplotlib.figure import Figure

    axes = Figure(figsize=(2.5, 2)).add_subplot()
    axes.set_xlim(0, high)
    survival_figures._percent(axes.xaxis)
    axes.figure.canvas.draw()
    for tick, label in zip(axes.xaxis.get_majorticklocs(), axes.get_xticklabels()):
        assert float(label.get_text().rstrip("%")) == pytest.approx(100 * tick, abs=1e-6)
