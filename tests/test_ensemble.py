import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from fm_med.ensemble import load_ensemble, make_ensemble, out_of_fold, probabilities
from fm_med.errors import InputError
from fm_med.folds import write_table
from fm_med.heads import prediction_head
from fm_med.hub import save_predictor
from fm_med.image.pixels import Pixels
from fm_med.image.processor import ImageProcessor
from fm_med.image.spatial_attention import SpatialAttentionConfig, SpatialAttentionModel
from fm_med.image.storage import IMAGE_SCHEMA, encode
from fm_med.mixing import combine, fit_label_weights, fit_weights, mix
from fm_med.predictor import Predictor
from fm_med.tasks import ClassificationTask, MultilabelTask, RegressionTask

CLASSES = ("normal", "other", "target")


def opinions(rows=300, skill=(2.0, 0.0), seed=0):
    """Out-of-fold probabilities of members of given skill, too sure of themselves by 3."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 3, rows)
    truth = np.eye(3)[label]
    logits = [3 * (s * truth + generator.gumbel(size=(rows, 3))) for s in skill]
    shares = [np.exp(x - x.max(1, keepdims=True)) for x in logits]
    return np.stack([s / s.sum(1, keepdims=True) for s in shares]), label


def label_opinions(rows=300, skill=((2.0, 0.0), (0.0, 2.0)), seed=0):
    """Probabilities of labels, (members, rows, labels), by members who know one label each."""
    generator = np.random.default_rng(seed)
    label = (generator.random((rows, len(skill))) < 0.3).astype(float)
    signs = 2 * label - 1
    logits = [3 * (np.array(s) * signs + generator.logistic(size=signs.shape)) for s in skill]
    unknown = generator.random(label.shape) < 0.1
    return 1 / (1 + np.exp(-np.stack(logits))), np.where(unknown, np.nan, label)


def saved_run(folder, probability, label, seed=0, names=CLASSES, kind=ClassificationTask):
    torch.manual_seed(seed)
    encoder = SpatialAttentionModel(
        SpatialAttentionConfig(widths=(8, 16), depths=(1, 1), norm_groups=4)
    )
    columns = {ClassificationTask: ("class",), RegressionTask: ("size",)}.get(kind, names)
    processor, task = ImageProcessor(height=12, width=12), kind(columns, names)
    head = prediction_head(
        encoder, outputs=task.outputs, output_name=task.output_name, squeeze=task.squeeze
    )
    torch.nn.init.normal_(head.output.weight)
    trained = SimpleNamespace(
        predictor=Predictor(encoder, head).eval(), processor=processor, task=task
    )
    sample = processor.from_rows(cells(2)), torch.zeros(2, 0)
    save_predictor(folder / "model", trained, coding=[], sample=sample)
    order = np.random.default_rng(seed).permutation(len(label))
    table = {
        "repeat": np.zeros(len(label), int),
        "fold": (np.arange(len(label)) % 3)[order],
        "record_id": [f"r{k}" for k in order],
    }
    if kind is MultilabelTask:
        table |= {f"label_{n}": label[order, k] for k, n in enumerate(names)}
    else:
        table |= {"label": [names[label[k]] for k in order]} if names else {"target": label}
    table |= {f"probability_{n}": probability[order, k] for k, n in enumerate(names)}
    write_table(folder / "out_of_fold.csv", table)
    return folder


def cells(rows, seed=0):
    generator = np.random.default_rng(seed)
    drawn = [Pixels(generator.integers(0, 256, (12, 12, 3)).astype(np.uint8)) for _ in range(rows)]
    return pa.Table.from_pylist([encode(image) for image in drawn], pa.schema(IMAGE_SCHEMA))


def cross_entropy(probability, label):
    return -np.log(probability[np.arange(len(label)), label]).mean()


def test_a_member_without_skill_gets_no_weight_and_overconfidence_is_cooled():
    probability, label = opinions()
    weights, temperatures = fit_weights(probability, label, "stacked")
    assert weights[0] > 0.9 and weights.sum() == pytest.approx(1)
    assert temperatures[0] == pytest.approx(3, rel=0.5)
    even, _ = fit_weights(probability, label, "average")
    assert even.tolist() == [0.5, 0.5]
    new, truth = opinions(seed=1)
    stacked = cross_entropy(combine(new, weights, temperatures), truth)
    assert stacked < cross_entropy(combine(new, even, temperatures), truth)
    assert stacked < cross_entropy(new[0], truth)


def test_two_members_that_know_different_things_are_better_together():
    probability, label = opinions(skill=(1.5, 1.5))
    weights, temperatures = fit_weights(probability, label, "stacked")
    new, truth = opinions(rows=3000, skill=(1.5, 1.5), seed=1)
    mixed = combine(new, weights, temperatures)
    np.testing.assert_allclose(mixed.sum(1), 1)
    right = [(p.argmax(1) == truth).mean() for p in (*new, mixed)]
    assert right[2] > max(right[:2])


@pytest.mark.parametrize("eight_ways", [False, True])
def test_a_saved_ensemble_mixes_what_its_members_predict(eight_ways, tmp_path):
    probability, label = opinions(skill=(1.5, 1.0))
    runs = [saved_run(tmp_path / f"{k}", probability[k], label, seed=k) for k in range(2)]
    made = make_ensemble(tmp_path / "both", runs, eight_ways=eight_ways)
    loaded, rows = load_ensemble(tmp_path / "both"), cells(3)
    columns = loaded.predict(rows)
    assert list(columns) == [f"probability_{name}" for name in CLASSES]
    each = np.stack([probabilities(member, rows, eight_ways) for member in made.members])
    expected = combine(each, loaded.weights, loaded.temperatures)
    np.testing.assert_array_equal(np.stack(list(columns.values()), 1), expected)
    assert np.abs(each[0] - each[1]).max() > 0.01
    plain = made.members[0].predict(rows)["probability_normal"]
    assert np.allclose(each[0][:, 0], plain) is not eight_ways
    found, truth, fold = out_of_fold(runs)
    np.testing.assert_allclose(found[1][truth.argsort()].sum(1), 1)
    assert found.shape == (2, 300, 3) and set(fold) == {0, 1, 2}
    assert cross_entropy(found[0], truth) == pytest.approx(cross_entropy(probability[0], label))


def test_each_label_has_weights_of_its_own():
    probability, label = label_opinions()
    weights, temperatures = fit_label_weights(probability, label, "stacked")
    assert weights[0, 0] > 0.9 and weights[1, 1] > 0.9
    np.testing.assert_allclose(weights.sum(1), 1)
    for k in range(2):  # as a classification of two classes, of the rows where it is known
        known = ~np.isnan(label[:, k])
        own = np.stack([1 - probability[:, known, k], probability[:, known, k]], -1)
        expected = fit_weights(own, label[known, k].astype(int), "stacked")
        np.testing.assert_array_equal(weights[k], expected[0])
        np.testing.assert_array_equal(temperatures[k], expected[1])
        mixed = mix(probability[:, known], weights, temperatures)[:, k]
        np.testing.assert_allclose(mixed, combine(own, *expected)[:, 1])
    even, cooled = fit_label_weights(probability, label, "average")
    assert (even == 0.5).all() and (cooled == temperatures).all()


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_label_that_never_changes_teaches_nothing(value):
    probability, label = label_opinions(rows=40)
    label[:, 1] = value
    weights, temperatures = fit_label_weights(probability, label, "stacked")
    assert weights[1].tolist() == [0.5, 0.5] and temperatures[1].tolist() == [1.0, 1.0]
    mixed = mix(probability, weights, temperatures)[:, 1]
    np.testing.assert_allclose(mixed, probability[..., 1].mean(0), atol=1e-9)


@pytest.mark.parametrize("eight_ways", [False, True])
def test_a_saved_ensemble_of_labels(eight_ways, tmp_path):
    names = ("big", "round")
    probability, label = label_opinions()
    runs = [
        saved_run(tmp_path / f"{k}", probability[k], label, k, names, MultilabelTask)
        for k in range(2)
    ]
    found, truth, _ = out_of_fold(runs)
    assert found.shape == (2, 300, 2) and np.isnan(truth).sum() == np.isnan(label).sum() > 0
    assert np.nansum(truth, 0).tolist() == np.nansum(label, 0).tolist()
    right = np.where(np.isnan(truth), np.nan, np.where(truth == 1, found[0], 1 - found[0]))
    expected = np.where(label == 1, probability[0], 1 - probability[0])[~np.isnan(label)]
    assert np.nanmean(right) == pytest.approx(expected.mean())  # rows and truth in one order
    made = make_ensemble(tmp_path / "both", runs, eight_ways=eight_ways)
    loaded, rows = load_ensemble(tmp_path / "both"), cells(3)
    assert loaded.weights.shape == (2, 2) and (loaded.weights == made.weights).all()
    columns = loaded.predict(rows)
    assert list(columns) == ["probability_big", "probability_round"]
    each = np.stack([probabilities(member, rows, eight_ways) for member in made.members])
    expected = mix(each, loaded.weights, loaded.temperatures)
    np.testing.assert_array_equal(np.stack(list(columns.values()), 1), expected)
    plain = made.members[0].predict(rows)["probability_big"]
    assert np.array_equal(each[0][:, 0], plain) is not eight_ways
    assert np.abs(each.sum(2) - 1).max() > 0.01  # not shares of one another
    changed = label_opinions(seed=1)[1]
    other = saved_run(tmp_path / "other", probability[1], changed, 1, names, MultilabelTask)
    with pytest.raises(InputError, match="other was run on other rows"):
        make_ensemble(tmp_path / "more", [runs[0], other])


def test_only_classes_and_labels_have_probabilities_to_mix(tmp_path):
    probability, label = opinions(rows=30)
    runs = [
        saved_run(tmp_path / f"{k}", probability[k][:, :0], label, k, (), RegressionTask)
        for k in range(2)
    ]
    with pytest.raises(InputError, match="0 predicts neither classes nor labels, so it has no"):
        make_ensemble(tmp_path / "both", runs)
    classes = [saved_run(tmp_path / f"c{k}", probability[k], label, k) for k in range(2)]
    make_ensemble(tmp_path / "good", classes)
    for place in ("member-1", "member-0"):
        shutil.rmtree(tmp_path / "good" / place)
        shutil.copytree(runs[0] / "model", tmp_path / "good" / place)
        with pytest.raises(InputError, match=f"{place} predicts neither classes nor labels"):
            load_ensemble(tmp_path / "good")
    labels, truth = label_opinions(rows=30)
    names = ("big", "round")
    mixed = saved_run(tmp_path / "l", labels[0], truth, 0, names, MultilabelTask)
    with pytest.raises(InputError, match="l was run on other rows, repeats or classes"):
        make_ensemble(tmp_path / "mixed", [classes[0], mixed])


def test_what_cannot_be_mixed_is_refused(tmp_path):
    probability, label = opinions(rows=30)
    runs = [saved_run(tmp_path / f"{k}", probability[k], label, seed=k) for k in range(2)]
    with pytest.raises(InputError, match="two runs or more"):
        make_ensemble(tmp_path / "one", runs[:1])
    foreign = saved_run(tmp_path / "others", probability[0, :20], label[:20])
    with pytest.raises(InputError, match="was run on other rows"):
        make_ensemble(tmp_path / "both", [runs[0], foreign])
    (runs[1] / "out_of_fold.csv").unlink()
    with pytest.raises(InputError, match="with --folds"):
        make_ensemble(tmp_path / "both", runs)
    write_table(runs[1] / "out_of_fold.csv", {"record_id": ["a"], "log_hazard": [0.0]})
    with pytest.raises(InputError, match="neither classes nor labels"):
        out_of_fold([runs[1]])
    with pytest.raises(InputError, match="is no ensemble"):
        load_ensemble(tmp_path)
    assert not (tmp_path / "both").exists()
