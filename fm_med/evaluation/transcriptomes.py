"""What a report on gene expression adds: marker genes, and how well embeddings part the classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fm_med.evaluation.model import FittedModel, encode
from fm_med.evaluation.participants import Participants
from fm_med.examples import Examples
from fm_med.metrics import Interval
from fm_med.report.label_figures import classes_map_figure
from fm_med.report.page import Section, Table
from fm_med.rna.counts import neighbour_map
from fm_med.rna.markers import Markers, find_markers
from fm_med.rna.storage import decode

COMPONENTS = 50
SHOWN_GENES = 5
FEWEST_ROWS = 10  # for a map and clusters
MAP_ROWS = 20_000  # UMAP takes minutes for more
MODEL, COMPONENTS_NAME = "The model’s embedding", "Principal components of the expression"
METHODS = {"gradient": "gradient × input", "attention": "attention × input"}


@dataclass(frozen=True)
class Transcriptome:
    """Parts of a report.

    Attributes:
        sections: Of the page.
        metrics: `embedding.<model or pca>.<silhouette or ari>`.
        tables: Columns of CSV files by their names.
    """

    sections: list[Section]
    metrics: dict[str, Any]
    tables: dict[str, Mapping[str, np.ndarray]]


def describe_expression(
    model: FittedModel, people: Participants, *, draw_map: bool | None
) -> Transcriptome:
    """Find marker genes and judge embeddings of a model of classes.

    Args:
        model: Reads expression.
        people: Marker genes are sought in the training rows where there are some, as they explain
            what was learnt; embeddings are those of the evaluated rows.
        draw_map: Draw embeddings by UMAP, whose first call compiles for a while; None draws up to
            `MAP_ROWS` rows.
    """
    draw_map = len(people.test) <= MAP_ROWS if draw_map is None else draw_map
    sections: list[Section] = []
    metrics: dict[str, Any] = {}
    tables: dict[str, Mapping[str, np.ndarray]] = {}
    if model.encoder.main_input_name == "expression":
        rows = people.test if people.train is None else people.train
        markers = _markers(model, rows)
        where = "evaluated" if people.train is None else "training"
        sections.append(_marker_section(markers, where))
        tables["markers"] = markers.table()
    spaces = _spaces(model, people)
    label = people.test.targets["label"]
    counts = np.bincount(label)
    if len(label) >= FEWEST_ROWS and (counts > 1).sum() > 1:
        metrics["embedding"] = {
            key: cluster_scores(space, label) for key, (_, space) in spaces.items()
        }
        section = _embedding_section(model, spaces, metrics["embedding"], label, draw_map)
        sections.append(section)
    return Transcriptome(sections, metrics, tables)


def cluster_scores(space: np.ndarray, label: np.ndarray) -> dict[str, Interval]:
    """Return how well a space parts the classes.

    Args:
        space: (rows, dim).
        label: (rows,) class numbers, two classes or more.

    Returns:
        `silhouette` of the classes, and `ari`, the adjusted Rand index between the classes and as
        many clusters of k-means. Without intervals: both suffer from rows drawn twice.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    clusters = KMeans(len(np.unique(label)), n_init=10, random_state=0).fit_predict(space)
    values = {
        "silhouette": silhouette_score(space, label),
        "ari": adjusted_rand_score(label, clusters),
    }
    return {
        name: Interval(float(value), np.nan, np.nan, len(label)) for name, value in values.items()
    }


def _markers(model: FittedModel, rows: Examples) -> Markers:
    """Rank the model's genes on some rows."""
    expression = rows.inputs(np.arange(len(rows)), model.processor, model.device)["expression"]
    name = model.task.output_name
    covariates = len(model.coding)

    def score(x: Tensor) -> Tensor:
        # Covariates are added to the score, so that they do not change its gradient.
        clinical = torch.zeros(len(x), covariates, device=x.device) if covariates else None
        return model.head(model.encoder(expression=x).pooler_output, clinical)[name]

    return find_markers(
        model.encoder,
        score,
        expression,
        rows.targets["label"],
        genes=model.processor.genes,
        classes=model.task.classes,
    )


def _marker_section(markers: Markers, where: str) -> Section:
    """Return the table of agreement with Wilcoxon's ranking."""
    head = ["Class", "Rows"]
    for method in markers.methods:
        head += [f"Overlap, {METHODS[method]}", f"Spearman, {METHODS[method]}"]
    head += ["First by the gradient", "First by Wilcoxon"]
    cells = []
    for name, rows in markers.rows.items():
        agreement = [
            f"{value:.2f}".replace("-", "−")
            for method in markers.methods
            for value in (markers.overlap(method, name), markers.spearman(method, name))
        ]
        firsts = [", ".join(markers.first(m, name, SHOWN_GENES)) for m in ("gradient", "wilcoxon")]
        cells.append((name, f"{rows:,}", *agreement, *firsts))
    # Genes are told apart by their sign, so that about half of all could come first.
    chance = 2 * markers.top / len(markers.genes)
    caption = (
        f"Genes that speak for each class, in the {where} rows: the model’s ranking beside "
        "Wilcoxon’s rank-sum test of the class against all others."
    )
    note = (
        f"Overlap: share of Wilcoxon’s first {markers.top} genes that are among the method’s first "
        f"{markers.top}; about {chance:.2f} by chance. A gene that is low in a class comes last. "
        "Everything is in markers.csv."
    )
    return Section("Which genes speak for a class?", "", [Table(head, cells, caption, note)])


def _spaces(model: FittedModel, people: Participants) -> dict[str, tuple[str, np.ndarray]]:
    """Return the spaces that are compared, by key: name and (rows, dim)."""
    from sklearn.decomposition import PCA

    source = people.test if people.train is None else people.train
    learnt, _, _ = decode(source.table(["expression"]))
    values, _, _ = decode(people.test.table(["expression"]))
    mean, scale = learnt.mean(0), np.maximum(learnt.std(0), 1e-6)
    components = min(COMPONENTS, len(learnt) - 1, learnt.shape[1])
    reduced = PCA(components, random_state=0).fit((learnt - mean) / scale)
    return {
        "model": (MODEL, encode(model, model.encoder, people.test)),
        "pca": (COMPONENTS_NAME, reduced.transform((values - mean) / scale)),
    }


def _embedding_section(
    model: FittedModel,
    spaces: Mapping[str, tuple[str, np.ndarray]],
    scores: Mapping[str, Mapping[str, Interval]],
    label: np.ndarray,
    draw_map: bool,
) -> Section:
    """Return silhouette, clusters and perhaps a map."""
    cells = [
        (name, *(f"{scores[key][which].value:.3f}" for which in ("silhouette", "ari")))
        for key, (name, _) in spaces.items()
    ]
    content: list[Any] = [
        Table(
            ("", "Silhouette of the classes", "Adjusted Rand index of clusters"),
            cells,
            "How well the evaluated rows lie apart by class.",
            "Clusters: k-means with as many clusters as classes. Components and scales are those "
            "of the training rows. No intervals: resampled rows lie on top of each other.",
        )
    ]
    if draw_map:
        maps = {name: neighbour_map(space) for name, space in spaces.values()}
        content.append(classes_map_figure(maps, label, model.task.classes))
    return Section("Do the classes lie apart?", "", content)
