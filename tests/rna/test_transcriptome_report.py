"""The page of a model of classes from expression: markers, embeddings, rows without a class."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch

from fm_med.cohort import open_cohort
from fm_med.evaluation import FittedModel, evaluate_labels, labels
from fm_med.evaluation.confident import Called, called_scores
from fm_med.evaluation.model import encode
from fm_med.evaluation.transcriptomes import Transcriptome, cluster_scores
from fm_med.examples import read_examples
from fm_med.finetuning.linear import fit_head
from fm_med.heads import prediction_head
from fm_med.report.label_figures import classes_map_figure
from fm_med.rna.gene_attention import GeneAttentionConfig, GeneAttentionModel
from fm_med.rna.processor import ExpressionProcessor
from fm_med.sources.matrix import SampleColumns, make_matrix
from fm_med.tasks import make_task

GENES = [f"ENSG{number:011d}" for number in range(40)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three classes, of which each has more of four genes."""
    folder = tmp_path_factory.mktemp("expression")
    generator = np.random.default_rng(0)
    kind = np.arange(150) % 3
    rate = np.full((150, 40), 20.0)
    for number in range(3):
        rate[kind == number, 4 * number : 4 * number + 4] = 60
    samples = [f"s{number}" for number in range(150)]
    frame = pd.DataFrame(generator.poisson(rate), index=samples, columns=GENES)
    frame.rename_axis("sample").to_csv(folder / "counts.csv")
    described = pd.DataFrame({"sample": samples, "subtype": [f"type {k}" for k in kind]})
    described.to_csv(folder / "samples.csv", index=False)
    made = make_matrix(
        folder / "counts.csv",
        folder / "cohort",
        unit="counts",
        columns=SampleColumns(sample="sample", classes=("subtype",)),
        table=folder / "samples.csv",
    )
    return open_cohort(made)


@pytest.fixture(scope="module")
def model(cohort):
    task = make_task("classification", cohort)
    train = read_examples(cohort, task, splits=["train"])
    processor = ExpressionProcessor.for_cohort(cohort.card, train.table())
    torch.manual_seed(0)
    sizes = {"num_genes": 40, "num_tokens": 4, "hidden_size": 8, "num_heads": 2}
    encoder = GeneAttentionModel(GeneAttentionConfig(**sizes)).eval()
    head = prediction_head(
        encoder, outputs=3, output_name="logits", squeeze=False, clinical=[]
    ).eval()
    fitted = FittedModel(encoder, head, processor, task)
    fit_head(head, task, train, encode(fitted, encoder, train))
    return fitted


def test_the_page_has_markers_embeddings_and_rejected_rows(model, cohort, tmp_path):
    settings = {"threshold": 0.9, "draw_map": False}  # UMAP takes long to compile
    found = evaluate_labels(model, cohort, split="test", what="the subtype", **settings)
    found.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    for title in ("Which genes speak for a class?", "Do the classes lie apart?"):
        assert title in page
    assert "no confident subtype" in page
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["embedding"]) == {"model", "pca"}
    rows = len(found.predictions["confident"])
    share = found.predictions["confident"].mean()
    assert 0 < share < 1
    assert metrics["model"]["coverage"]["value"] == pytest.approx(share)
    confident = found.predictions["confident"]
    right = found.predictions["predicted"][confident] == found.predictions["label"][confident]
    assert metrics["model"]["accuracy_of_called"]["value"] == pytest.approx(right.mean())
    assert (found.predictions["predicted"][~confident] == "no confident subtype").all()
    with (tmp_path / "markers.csv").open() as file:
        table = list(csv.DictReader(file))
    for number in range(3):
        first = {
            row["gene"]
            for row in table
            if row["class"] == f"type {number}" and int(row["rank_wilcoxon"]) <= 4
        }
        assert first == set(GENES[4 * number : 4 * number + 4])
    assert rows == metrics["embedding"]["model"]["ari"]["n"]


def test_every_row_is_called_without_a_threshold(model, cohort, monkeypatch):
    nothing = Transcriptome([], {}, {})
    monkeypatch.setattr(labels, "describe_expression", lambda *_, **__: nothing)
    found = evaluate_labels(model, cohort, split="test", what="the subtype")
    assert "coverage" not in found.metrics["model"]
    assert "confident" not in found.predictions


def test_scores_of_called_rows_on_resamples():
    generator = np.random.default_rng(1)
    accepted, right = generator.random(30) < 0.6, generator.random(30) < 0.7
    who = np.arange(30).astype(str)
    found = called_scores(Called(np.zeros(30, int), accepted, right, 0.5), who)
    assert found["coverage"].value == pytest.approx(accepted.mean())
    accuracy = found["accuracy_of_called"]
    assert accuracy.value == pytest.approx(right[accepted].mean())
    drawn = [
        right[rows][accepted[rows]].mean()
        for rows in (generator.integers(30, size=30) for _ in range(2000))
    ]
    assert (accuracy.low, accuracy.high) == pytest.approx(
        np.quantile(drawn, (0.025, 0.975)), abs=0.06
    )
    none = called_scores(Called(np.zeros(30, int), np.zeros(30, bool), right, 0.5), who)
    assert np.isnan(none["accuracy_of_called"].value) and none["coverage"].value == 0


def test_classes_that_lie_apart_score_one():
    label = np.arange(30) % 3
    apart = np.eye(3)[label] * 100 + np.random.default_rng(0).normal(size=(30, 3))
    found = cluster_scores(apart, label)
    assert found["ari"].value == 1.0 and found["silhouette"].value > 0.95
    mixed = cluster_scores(np.random.default_rng(0).normal(size=(30, 3)), label)
    assert mixed["ari"].value < 0.3 and mixed["silhouette"].value < 0.2


def test_a_map_names_all_classes():
    label = np.arange(24) % 12
    places = np.random.default_rng(0).normal(size=(24, 2))
    figure = classes_map_figure({"one": places, "two": -places}, label, list("abcdefghijkl"))
    svg = figure.panels[0].svg
    assert "one and by two" in figure.panels[0].alt and "l." in figure.panels[0].alt
    assert svg.count("<svg") == 1
