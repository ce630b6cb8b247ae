from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from fm_med.ensemble import (
    combine,
    fit_weights,
    load_ensemble,
    make_ensemble,
    out_of_fold,
    probabilities,
)
from fm_med.errors import InputError
from fm_med.folds import write_table
from fm_med.heads import prediction_head
from fm_med.hub import save_predictor
from fm_med.image.pixels import Pixels
from fm_med.image.processor import ImageProcessor
from fm_med.image.spatial_attention import SpatialAttentionConfig, SpatialAttentionModel
from fm_med.image.storage import IMAGE_SCHEMA, encode
from fm_med.predictor import Predictor
from fm_med.tasks import ClassificationTask

CLASSES = ("normal", "other", "target")


def opinions(rows=300, skill=(2.0, 0.0), seed=0):
    """Out-of-fold probabilities of members of given skill, too sure of themselves by 3."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 3, rows)
    truth = np.eye(3)[label]
    logits = [3 * (s * truth + generator.gumbel(size=(rows, 3))) for s in skill]
    shares = [np.exp(x - x.max(1, keepdims=True)) for x in logits]
    return np.stack([s / s.sum(1, keepdims=True) for s in shares]), label


def saved_run(folder, probability, label, seed=0, names=CLASSES):
    torch.manual_seed(seed)
    encoder = SpatialAttentionModel(
        SpatialAttentionConfig(widths=(8, 16), depths=(1, 1), norm_groups=4)
    )
    head = prediction_head(encoder, outputs=3, output_name="logits", squeeze=False)
    torch.nn.init.normal_(head.output.weight)
    processor, task = ImageProcessor(height=12, width=12), ClassificationTask(("class",), names)
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
        "label": [names[label[k]] for k in order],
    }
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
    with pytest.raises(InputError, match="no classification"):
        out_of_fold([runs[1]])
    with pytest.raises(InputError, match="is no ensemble"):
        load_ensemble(tmp_path)
    assert not (tmp_path / "both").exists()
