"""Which genes carry each class: by a model's gradients and attention, beside Wilcoxon's test."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fm_med.rna.counts import marker_genes
from fm_med.rna.gene_attention import GeneAttentionModel

TOP = 50  # genes of a class that two rankings are compared by
ROWS_AT_ONCE = 128

# From (batch, genes) expression to (batch, classes) scores, differentiable.
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Markers:
    """Genes ranked for each class, those first that the class has more of.

    Attributes:
        genes: Names.
        rows: Number of rows by class; classes of fewer than two rows are left out.
        scores: By method ("gradient", "attention"), by class, (genes,) larger first.
        wilcoxon: By class, (genes,) place of each gene in Wilcoxon's ranking, 0 first.
        top: Genes that overlaps are counted over.
    """

    genes: Sequence[str]
    rows: Mapping[str, int]
    scores: Mapping[str, Mapping[str, np.ndarray]]
    wilcoxon: Mapping[str, np.ndarray]
    top: int = TOP
    methods: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        """Name the methods."""
        object.__setattr__(self, "methods", tuple(self.scores))

    def ranking(self, method: str, name: str) -> np.ndarray:
        """Return (genes,) the place of each gene for a class, 0 first; method "wilcoxon" too."""
        if method == "wilcoxon":
            return self.wilcoxon[name]
        return places(np.argsort(-self.scores[method][name], kind="stable"))

    def overlap(self, method: str, name: str) -> float:
        """Return the share of Wilcoxon's first genes that are among the method's first."""
        both = (self.ranking(method, name) < self.top) & (self.wilcoxon[name] < self.top)
        return float(both.sum() / self.top)

    def spearman(self, method: str, name: str) -> float:
        """Return the correlation of the two rankings over all genes."""
        return float(np.corrcoef(self.ranking(method, name), self.wilcoxon[name])[0, 1])

    def first(self, method: str, name: str, number: int) -> list[str]:
        """Return the first genes of a ranking."""
        order = np.argsort(self.ranking(method, name))[:number]
        return [self.genes[place] for place in order]

    def table(self) -> dict[str, np.ndarray]:
        """Return columns of a table: per class the genes that come first in any ranking."""
        columns: dict[str, list[object]] = {"class": [], "gene": []}
        for name in self.rows:
            ranks = {m: self.ranking(m, name) for m in (*self.methods, "wilcoxon")}
            best = np.min(list(ranks.values()), axis=0)
            for gene in np.flatnonzero(best < self.top)[np.argsort(best[best < self.top])]:
                columns["class"].append(name)
                columns["gene"].append(self.genes[gene])
                for method, rank in ranks.items():
                    columns.setdefault(f"rank_{method}", []).append(int(rank[gene]) + 1)
                    if method in self.scores:
                        score = float(self.scores[method][name][gene])
                        columns.setdefault(f"score_{method}", []).append(score)
        return {name: np.array(values) for name, values in columns.items()}


def find_markers(
    encoder: torch.nn.Module,
    score: Score,
    expression: Tensor,
    label: np.ndarray,
    *,
    genes: Sequence[str],
    classes: Sequence[str],
) -> Markers:
    """Rank the genes of each class by a model and by Wilcoxon's test on the same rows.

    A gradient also praises a gene for being low in a class, which Wilcoxon's ranking puts last.
    So that both can be compared, each gene's score is given the sign of its difference between the
    class and all other rows.

    Args:
        encoder: Of the model; only `GeneAttentionModel` has attention between parts of the genes.
        score: The model, from expression to one score per class.
        expression: (rows, genes), centred per gene, as the encoder reads it.
        label: (rows,) class numbers.
        genes: Names of the columns.
        classes: Names of the classes.
    """
    count = np.bincount(label, minlength=len(classes))
    kept = [number for number in range(len(classes)) if count[number] > 1]
    values = expression.cpu().numpy()
    attributed = {"gradient": gradient_times_input(score, expression, label, len(classes))}
    if isinstance(encoder, GeneAttentionModel):
        attributed["attention"] = attention_times_input(encoder, expression, label, len(classes))
    directions = np.stack(
        [
            np.sign(values[label == number].mean(0) - values[label != number].mean(0))
            for number in kept
        ]
    )
    some = np.isin(label, kept)
    names = [classes[number] for number in label[some]]
    # Differences from the smallest value: the test only reads ranks, scanpy takes logarithms.
    order = marker_genes(values[some] - values.min(0), names, genes, top=len(genes))
    number_of = {gene: place for place, gene in enumerate(genes)}
    return Markers(
        genes=genes,
        rows={classes[number]: int(count[number]) for number in kept},
        scores={
            method: {
                classes[number]: found[number] * sign for number, sign in zip(kept, directions)
            }
            for method, found in attributed.items()
        },
        wilcoxon={
            name: places(np.array([number_of[gene] for gene in ranked]))
            for name, ranked in order.items()
        },
        top=min(TOP, max(1, len(genes) // 4)),
    )


def gradient_times_input(
    score: Score, expression: Tensor, label: np.ndarray, classes: int
) -> np.ndarray:
    """Attribute each row's score of its own class, less the mean of all, to genes.

    Returns:
        (classes, genes) float64, mean over the rows of each class of x times the gradient.

    References:
        Shrikumar et al., "Not just a black box", 2016.
    """
    found = np.zeros((classes, expression.shape[1]))
    for rows in _batches(len(label)):
        x = expression[rows].detach().requires_grad_()
        with torch.enable_grad():
            scores = score(x)
            own = scores[torch.arange(len(rows)), torch.from_numpy(label[rows])]
            gradient = torch.autograd.grad((own - scores.mean(1)).sum(), x)[0]
        np.add.at(found, label[rows], (gradient * x.detach()).double().cpu().numpy())
    return found / np.maximum(np.bincount(label, minlength=classes), 1)[:, None]


@torch.no_grad()
def attention_times_input(
    encoder: GeneAttentionModel, expression: Tensor, label: np.ndarray, classes: int
) -> np.ndarray:
    """Attribute what each row attends to, its summaries of genes, to the genes themselves.

    The share of a summary is that of the pooling, followed back through the blocks' attention with
    their residual connections (rollout); it is given to genes by the length of their weights in the
    summary, times the size of their expression.

    Returns:
        (classes, genes) float64 above zero, mean over the rows of each class.

    References:
        Abnar and Zuidema, "Quantifying attention flow in transformers", ACL 2020.
    """
    length = encoder.gene_weights().double()
    found = np.zeros((classes, expression.shape[1]))
    for rows in _batches(len(label)):
        attentions = encoder(expression[rows], output_attentions=True).attentions
        share = attentions[-1][:, 0, 0].double()
        for weights in reversed(attentions[:-1]):
            share = (share + (share[:, None] @ weights.double().mean(1))[:, 0]) / 2
        read = (share @ length) * expression[rows].abs()
        np.add.at(found, label[rows], read.cpu().numpy())
    return found / np.maximum(np.bincount(label, minlength=classes), 1)[:, None]


def places(order: np.ndarray) -> np.ndarray:
    """Return the place of each item in an order."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def _batches(rows: int) -> list[np.ndarray]:
    return [np.arange(s, min(s + ROWS_AT_ONCE, rows)) for s in range(0, rows, ROWS_AT_ONCE)]
