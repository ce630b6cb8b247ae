"""The pretraining report from end to end."""

import math

import numpy as np
import pytest

from fm_med.metrics import Interval
from fm_med.report import ExampleECG, Figure, KeyNumber, Table, pretraining_sections, write_report

NAN = math.nan


def near(value):
    return Interval(value, value - 0.05, value + 0.05, 40)


def full_metrics(cosine=0.4):
    groups = {"zero_shot": 0.9, "linear_probe": 0.85, "linear_probe_random": 0.7}
    metrics = {
        name: {"macro_auroc": near(value), "per_label": {"AF": near(value), "LBBB": near(value)}}
        for name, value in groups.items()
    }
    metrics["zero_shot"]["per_label"]["Rare"] = Interval(NAN, NAN, NAN, 40)
    metrics["difference"] = {"linear_probe_random": {"macro_auroc": near(0.15)}}
    metrics["retrieval"] = {"recall_at_1": near(0.2), "recall_at_10": near(0.6)}
    metrics["embedding"] = {"mean_pairwise_cosine": near(cosine), "effective_rank": near(30.0)}
    return metrics


HISTORY = [
    {"step": 1, "loss": 5.0},
    {"step": 2, "loss": 4.0, "recall_at_1": 0.1, "mean_pairwise_cosine": 0.8, "effective_rank": 9},
]


def full_sections():
    generator = np.random.default_rng(0)
    example = ExampleECG(
        generator.normal(size=(12, 200)),
        100,
        "Test recording",
        report="sinus < 60/min",
        time_attention=generator.random((12, 8)),
        lead_attention=generator.random((12, 12)),
    )
    return pretraining_sections(
        HISTORY,
        full_metrics(),
        examples=[example],
        embedding=generator.normal(size=(20, 4)),
        labels=generator.random((20, 2)) < 0.5,
        label_names=("AF", "LBBB"),
        budget=25,
    )


def test_full_report(tmp_path):
    sections = full_sections()
    assert [section.title for section in sections] == [
        "Results",
        "What the embedding space looks like",
        "What the encoder attends to",
        "How training went",
    ]
    content = [item for section in sections for item in section.content]
    assert sum(isinstance(item, KeyNumber) for item in content) == 4
    figures = [item for item in content if isinstance(item, Figure)]
    assert len(figures) == 7
    assert all(panel.alt.strip() for figure in figures for panel in figure.panels)
    (table,) = [item for item in content if isinstance(item, Table)]
    assert ("Linear probe minus random encoder", "0.150", "0.100 to 0.200", "40") in table.rows
    path = write_report(tmp_path / "report.html", title="Run", sections=sections)
    page = path.read_text(encoding="utf-8")
    assert "http" not in page
    assert "sinus &lt; 60/min" in page
    assert "25 labelled patients" in page
    assert page.count('role="img"') == 8  # the example has two panels
    assert path.stat().st_size < 1e6


def test_labels_without_a_score_are_said_to_be_left_out():
    results = full_sections()[0]
    assert "same class: Rare." in results.text
    alternatives = [item.panels[0].alt for item in results.content if isinstance(item, Figure)]
    assert len(alternatives) == 1
    assert "Rare" not in alternatives[0]


@pytest.mark.parametrize(("cosine", "alarm"), [(0.4, False), (0.99, True)])
def test_collapse_is_told_on_the_page(cosine, alarm):
    training = pretraining_sections(HISTORY, full_metrics(cosine))[-1]
    assert (training.alert is not None) == alarm


def test_nothing_measured_still_gives_a_page(tmp_path):
    sections = pretraining_sections([], {})
    assert [section.title for section in sections] == ["Results", "How training went"]
    write_report(tmp_path / "report.html", title="Run", sections=sections)


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.15, "are better than"), (0.0, "cannot be told from"), (-0.15, "are WORSE than")],
)
def test_verdict_on_pretraining_follows_the_interval(gain, verdict):
    metrics = full_metrics()
    metrics["difference"]["linear_probe_random"]["macro_auroc"] = near(gain)
    assert verdict in pretraining_sections([], metrics)[0].text
