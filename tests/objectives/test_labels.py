"""Losses of labels: each against its definition, in plain words."""

import math

import pytest
import torch

from fm_med.objectives import (
    asymmetric_loss,
    bce_loss,
    cross_entropy_loss,
    focal_loss,
    huber_loss,
    squared_error_loss,
)

LOGITS = torch.tensor([[0.3, -2.0], [1.5, 0.2], [-0.7, 4.0]], dtype=torch.float64)
LABEL = torch.tensor([[1.0, 0.0], [float("nan"), 1.0], [0.0, 0.0]], dtype=torch.float64)
KNOWN = [(row, k) for row in range(3) for k in range(2) if not math.isnan(LABEL[row, k])]


def probability(row, k):
    return 1 / (1 + math.exp(-LOGITS[row, k]))


def mean_over_known(term):
    return sum(term(probability(i, k), float(LABEL[i, k]), k) for i, k in KNOWN) / len(KNOWN)


def test_bce_with_weights_leaves_out_unknown_labels():
    weight = torch.tensor([3.0, 0.5], dtype=torch.float64)
    expected = mean_over_known(
        lambda p, y, k: -float(weight[k]) * y * math.log(p) - (1 - y) * math.log(1 - p)
    )
    assert bce_loss(LOGITS, label=LABEL, pos_weight=weight).item() == pytest.approx(expected)


def test_focal_loss_is_its_definition_and_bce_for_gamma_0():
    def term(p, y, _k):
        right = p if y == 1 else 1 - p
        return -((1 - right) ** 2) * math.log(right)

    assert focal_loss(LOGITS, label=LABEL).item() == pytest.approx(mean_over_known(term))
    plain = focal_loss(LOGITS, label=LABEL, gamma=0.0)
    assert plain.item() == pytest.approx(bce_loss(LOGITS, label=LABEL).item())


def test_asymmetric_loss_is_its_definition():
    def term(p, y, _k):
        shifted = max(p - 0.05, 0)
        return -y * math.log(p) - (1 - y) * shifted**4 * math.log(1 - shifted)

    assert asymmetric_loss(LOGITS, label=LABEL).item() == pytest.approx(mean_over_known(term))


@pytest.mark.parametrize("loss", [bce_loss, focal_loss, asymmetric_loss])
def test_unknown_labels_have_no_gradient_and_extremes_stay_finite(loss):
    logits = torch.tensor([[80.0, -80.0, 80.0], [-80.0, 0.0, 0.0]], requires_grad=True)
    label = torch.tensor([[0.0, 1.0, float("nan")], [0.0, 1.0, float("nan")]])
    loss(logits, label=label).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, 2] == 0).all()
    unknown = torch.full((2, 3), float("nan"))
    zero = loss(logits, label=unknown)
    assert zero.item() == 0 and zero.requires_grad


def test_cross_entropy_weighs_rows_by_their_class():
    logits, label = LOGITS, torch.tensor([0, 1, 1])
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    each = [-torch.log_softmax(logits[i], 0)[label[i]].item() for i in range(3)]
    expected = (each[0] + 3 * each[1] + 3 * each[2]) / 7
    found = cross_entropy_loss(logits, label=label, class_weight=weight)
    assert found.item() == pytest.approx(expected)


def test_huber_is_half_a_square_near_and_linear_far():
    value, target = torch.tensor([0.5, 4.0]), torch.zeros(2)
    assert huber_loss(value, target=target).item() == pytest.approx((0.125 + 3.5) / 2)
    assert squared_error_loss(value, target=target).item() == pytest.approx((0.25 + 16) / 2)


@pytest.mark.parametrize("loss", [bce_loss, focal_loss, asymmetric_loss, cross_entropy_loss])
def test_a_row_of_weight_two_is_a_row_that_comes_twice(loss):
    rows, weight = [0, 0, 1, 2, 2, 2], torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64)
    classes, label, extra = loss is cross_entropy_loss, LABEL, {}
    if classes:
        label, extra = torch.tensor([0, 1, 1]), {"class_weight": torch.tensor([1.0, 4.0]).double()}
    elif loss is not asymmetric_loss:
        extra = {"pos_weight": torch.tensor([3.0, 0.5], dtype=torch.float64)}
    expected = loss(LOGITS[rows], label=label[rows], **extra).item()
    found = loss(LOGITS, label=label, row_weight=weight / 2, **extra).item()
    assert found == pytest.approx(expected)
    if not classes:
        unknown = loss(LOGITS, label=torch.full((3, 2), float("nan")), row_weight=weight)
        assert unknown.item() == 0
