"""How much a frozen encoder knows: linear probes and zero-shot classification, with intervals.

Run the same probe on a randomly initialised encoder and report `difference`: a random encoder with
a linear head is a strong baseline for ECGs, and a score without it says little.
"""

from dataclasses import dataclass

import numpy as np

from fm_med.metrics import (
    Interval,
    bootstrap,
    evaluable,
    macro_auroc,
    paired_difference,
)
from fm_med.sampling import patient_folds

# Inverse strengths of the L2 penalty tried by the inner cross-validation (features have SD 1).
INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
INNER_FOLDS = 3
MAX_ITERATIONS = 10_000


@dataclass(frozen=True)
class LabelledFeatures:
    """Frozen features of some rows and what they should predict.

    Attributes:
        features: (rows, dim) float.
        labels: (rows, labels) bool.
        subject_id: (rows,) the patient of each row.
        names: The labels' names.
    """

    features: np.ndarray
    labels: np.ndarray
    subject_id: np.ndarray
    names: tuple[str, ...]

    def take(self, rows: np.ndarray) -> "LabelledFeatures":
        """Return the given rows (indices or mask)."""
        return LabelledFeatures(
            self.features[rows], self.labels[rows], self.subject_id[rows], self.names
        )


@dataclass(frozen=True)
class LabelScores:
    """Scores of every row for every label, and the truth they are held against.

    Attributes:
        score: (draws, rows, labels), higher meaning more likely present; one draw per drawn
            training set or repeat.
        labels: (rows, labels) bool.
        subject_id: (rows,) the patient of each row.
        names: The labels' names.
    """

    score: np.ndarray
    labels: np.ndarray
    subject_id: np.ndarray
    names: tuple[str, ...]

    def macro_auroc(self) -> Interval:
        """Return macro AUROC, averaged over the draws.

        The interval tells how sure the value is for these draws: test patients are resampled,
        training patients are not.
        """
        return bootstrap(macro_auroc, self.subject_id, *self._columns())

    def per_label(self) -> dict[str, Interval]:
        """Return the AUROC of each label, averaged over the draws; NaN for one class only."""
        draws = len(self.score)
        return {
            name: bootstrap(
                macro_auroc,
                self.subject_id,
                np.repeat(self.labels[:, [k]], draws, axis=1),
                self.score[:, :, k].T,
            )
            for k, name in enumerate(self.names)
        }

    def skipped(self) -> list[str]:
        """Return the labels left out of the macro mean because all rows have the same class."""
        kept = evaluable(self.labels)
        return [name for name, keep in zip(self.names, kept, strict=True) if not keep]

    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and scores as (rows, draws * labels): one macro mean over all draws."""
        draws, rows, _ = self.score.shape
        return np.tile(self.labels, draws), self.score.transpose(1, 0, 2).reshape(rows, -1)


def difference(model: LabelScores, baseline: LabelScores) -> Interval:
    """Return the macro AUROC of `model` minus that of `baseline` on the same patients, paired.

    Raises:
        ValueError: The two were not scored on the same rows and labels.
    """
    if not np.array_equal(model.labels, baseline.labels):
        raise ValueError("the model and its baseline were scored on different rows or labels")
    if len(model.score) != len(baseline.score):
        raise ValueError(f"different numbers of draws: {len(model.score)}, {len(baseline.score)}")
    (label, score), (_, other) = model._columns(), baseline._columns()
    return paired_difference(macro_auroc, model.subject_id, score, other, label)


def linear_scores(train: LabelledFeatures, features: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Fit one L2 logistic regression per label on frozen features and score other rows.

    Features are standardised with the training rows' mean and SD. The penalty is shared by all
    labels (less noise than one each) and chosen from `INVERSE_PENALTIES` by macro AUROC in an
    inner cross-validation over the training patients. A label without positives or negatives
    among the training rows cannot be learnt and scores 0 everywhere.

    Args:
        train: The labelled rows.
        features: (rows, dim) to be scored.
        seed: Seed of the inner folds.

    Returns:
        (rows, labels) log-odds.
    """
    fold = patient_folds(train.labels, train.subject_id, folds=INNER_FOLDS, seed=seed)
    quality = []
    for inverse_penalty in INVERSE_PENALTIES:
        held_out = np.zeros(train.labels.shape)
        for k in range(INNER_FOLDS):
            rest = train.take(fold != k)
            held_out[fold == k] = _fit_and_score(rest, train.features[fold == k], inverse_penalty)
        quality.append(macro_auroc(train.labels, held_out))
    # The strongest penalty wins ties, and where no label can be judged (all NaN).
    best = int(np.argmax(np.nan_to_num(quality, nan=-1.0)))
    return _fit_and_score(train, features, INVERSE_PENALTIES[best])


def probe(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    budget: int | None = None,
    draws: int = 5,
    seed: int = 0,
) -> LabelScores:
    """Train linear probes on (some of) the training patients and score the test rows.

    Args:
        train: Frozen features of the training split.
        test: Frozen features of the test split, other patients.
        budget: Number of labelled training patients; None takes all, once.
        draws: Number of random training sets of that size; scores of all are averaged over.
        seed: Seed of the draws: the same patients are drawn for every encoder.

    Returns:
        Scores of the test rows, one draw per training set.

    Raises:
        ValueError: `budget` exceeds the number of training patients.
    """
    patients = np.unique(train.subject_id)
    if budget is None or budget == len(patients):
        return _scores(linear_scores(train, test.features, seed=seed)[None], test)
    if budget > len(patients):
        raise ValueError(f"{budget} labelled patients asked for, however: {len(patients)} exist")
    each = []
    for draw in range(draws):
        chosen = np.random.default_rng([seed, draw]).choice(patients, budget, replace=False)
        labelled = train.take(np.isin(train.subject_id, chosen))
        each.append(linear_scores(labelled, test.features, seed=seed + draw))
    return _scores(np.stack(each), test)


def cross_validated_probe(
    data: LabelledFeatures, *, folds: int = 5, repeats: int = 1, seed: int = 0
) -> LabelScores:
    """Score every row of a small cohort by a probe that never saw its patient.

    Args:
        data: Frozen features of the whole cohort.
        folds: Number of folds, cut between patients and balanced over labels.
        repeats: Number of random partitions; each is one draw of the result.
        seed: Seed of the partitions, the same for every encoder.

    Returns:
        Out-of-fold scores; the AUROC is of the pooled scores of all folds.

    Raises:
        ValueError: There are fewer patients than folds.
    """
    score = np.zeros((repeats, *data.labels.shape))
    for repeat in range(repeats):
        fold = patient_folds(data.labels, data.subject_id, folds=folds, seed=seed + repeat)
        for k in range(folds):
            rest, held_out = data.take(fold != k), fold == k
            score[repeat, held_out] = linear_scores(rest, data.features[held_out], seed=seed)
    return _scores(score, data)


def zero_shot(
    data: LabelledFeatures, present: np.ndarray, absent: np.ndarray | None = None
) -> LabelScores:
    """Score each label by how much nearer a row is to its presence than to its absence in words.

    Args:
        data: Embeddings of the rows in the shared space, as `features`.
        present: (labels, dim) embedding of the prompt(s) that state the label.
        absent: (labels, dim) or (1, dim) of the prompt(s) that deny it; None compares with none.

    Returns:
        One draw of cos(row, present) - cos(row, absent).
    """
    embedding = _unit(data.features)
    score = embedding @ _unit(present).T
    if absent is not None:
        score = score - embedding @ _unit(absent).T
    return _scores(score[None], data)


def _fit_and_score(
    train: LabelledFeatures, features: np.ndarray, inverse_penalty: float
) -> np.ndarray:
    """Return (rows, labels) log-odds of logistic regressions with a given penalty."""
    from sklearn.linear_model import LogisticRegression

    known = train.features.astype(np.float64)  # the solver stalls in float32
    mean, deviation = known.mean(0), known.std(0)
    scale = np.where(deviation > 1e-8, deviation, 1.0)
    known, new = (known - mean) / scale, (features - mean) / scale
    score = np.zeros((len(features), train.labels.shape[1]))
    for k in np.flatnonzero(evaluable(train.labels)):
        model = LogisticRegression(C=inverse_penalty, max_iter=MAX_ITERATIONS)
        score[:, k] = model.fit(known, train.labels[:, k]).decision_function(new)
    return score


def _scores(score: np.ndarray, data: LabelledFeatures) -> LabelScores:
    """Return (draws, rows, labels) scores together with the truth."""
    return LabelScores(score, data.labels, data.subject_id, data.names)


def _unit(embedding: np.ndarray) -> np.ndarray:
    """Return (rows, dim) scaled to length one; a zero row stays zero."""
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    return embedding / np.maximum(length, 1e-12)
