"""InfoNCE in blocks against its definition, written with the whole matrix of similarities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fm_med.objectives import contrastive, contrastive_loss, cosine_loss, siglip_loss
from fm_med.objectives.positives import Positives


def embeddings(total, dim, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(2, total, dim, generator=generator, dtype=dtype)
    return [x.requires_grad_() for x in functional.normalize(made, dim=-1).unbind()]


def positives(report_id, subject_id):
    return (report_id[:, None] == report_id) | (subject_id[:, None] == subject_id)


def contrastive_by_definition(signal, text, scale, mask):
    logits = scale * signal @ text.T
    target = mask.double() / mask.sum(1, keepdim=True)
    across = -(target * logits.log_softmax(1)).sum(1).mean()
    down = -(target * logits.T.log_softmax(1)).sum(1).mean()
    return (across + down) / 2


def siglip_by_definition(signal, text, scale, bias, mask):
    logits = scale * signal @ text.T + bias
    return -functional.logsigmoid(torch.where(mask, logits, -logits)).sum() / len(signal)


@given(
    total=st.integers(1, 13),
    dim=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    chunk_size=st.integers(1, 15),
    reports=st.integers(1, 13),
    subjects=st.integers(1, 13),
    log_scale=st.floats(-1, 4.6),
)
@settings(max_examples=60, deadline=None)
def test_blocks_equal_the_definition(total, dim, seed, chunk_size, reports, subjects, log_scale):
    generator = torch.Generator().manual_seed(seed)
    report_id = torch.randint(reports, (total,), generator=generator)
    subject_id = torch.randint(subjects, (total,), generator=generator)
    mask = positives(report_id, subject_id)
    ids = {"report_id": report_id, "subject_id": subject_id, "chunk_size": chunk_size}
    for fast, slow in (
        (
            lambda s, t, a, b: contrastive_loss(s, t, logit_scale=a, **ids) + 0 * b,
            lambda s, t, a, b: contrastive_by_definition(s, t, a, mask) + 0 * b,
        ),
        (
            lambda s, t, a, b: siglip_loss(s, t, logit_scale=a, logit_bias=b, **ids),
            lambda s, t, a, b: siglip_by_definition(s, t, a, b, mask),
        ),
    ):
        results = []
        for loss in (fast, slow):
            signal, text = embeddings(total, dim, seed)
            scale = torch.tensor(math.exp(log_scale), dtype=torch.float64, requires_grad=True)
            bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
            value = loss(signal, text, scale, bias)
            value.backward()
            results.append([value, signal.grad, text.grad, scale.grad, bias.grad])
        for ours, theirs in zip(*results):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kept", [0, 20, 10_000])
@pytest.mark.parametrize("scale", [30.0, 41.0, 1000.0])
def test_blocks_kept_or_computed_again_give_the_same(monkeypatch, kept, scale):
    """Logits up to 40 are added as exponentials, larger ones by their logarithms."""
    monkeypatch.setattr(contrastive, "KEPT_ELEMENTS", kept)
    results = []
    for definition in (True, False):
        signal, text = embeddings(9, 4, 3)
        leaves = [signal, text, torch.tensor(scale, dtype=torch.float64, requires_grad=True)]
        if definition:
            value = contrastive_by_definition(*leaves, torch.eye(9, dtype=torch.bool))
        else:
            value = contrastive_loss(signal, text, logit_scale=leaves[2], chunk_size=2)
        first = torch.autograd.grad(value, leaves, retain_graph=True)
        again = torch.autograd.grad(value, leaves)
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        results.append([value, *first])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_single_precision_survives_far_similarities():
    """Logits from -100 to 100: their exponentials have no place in float32."""
    signal = torch.eye(3)[[0, 0, 1]]
    text = torch.stack([-signal[0], signal[0], signal[2]])
    double = [x.double() for x in (signal, text, torch.tensor(100.0))]
    expected = contrastive_by_definition(*double, torch.eye(3, dtype=torch.bool))
    value = contrastive_loss(signal, text, logit_scale=torch.tensor(100.0))
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    nothing = contrastive_loss(signal * torch.nan, text, logit_scale=torch.tensor(10.0))
    assert nothing.isnan()


def test_autocast_rounds_the_products_only():
    """Exponentials of logits in bfloat16 would be wrong by percents."""
    signal, text = embeddings(64, 16, 0, torch.float32)
    scale = torch.tensor(30.0)
    with torch.autocast("cpu", torch.bfloat16):
        value = contrastive_loss(signal, text, logit_scale=scale)
        logits = ((signal * scale) @ text.T).float()
    own = torch.arange(64)
    losses = [functional.cross_entropy(x, own) for x in (logits, logits.T)]
    assert value.item() == pytest.approx((sum(losses) / 2).item(), rel=1e-5)


@given(
    total=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.integers(1, 20), max_size=3),
    chunk_size=st.integers(1, 25),
)
@settings(max_examples=60, deadline=None)
def test_pairs_of_blocks_are_those_with_an_equal_id(total, seed, kinds, chunk_size):
    generator = torch.Generator().manual_seed(seed)
    ids = tuple(torch.randint(most, (total,), generator=generator) for most in kinds)
    together = torch.eye(total, dtype=torch.int64)
    for values in ids:
        together |= (values[:, None] == values).long()
    positives = Positives(total, ids, torch.device("cpu"))
    found = torch.zeros_like(together)
    for start in range(0, total, chunk_size):
        first, second = positives.pairs(slice(start, min(start + chunk_size, total)))
        found.index_put_((first + start, second), torch.tensor(1), accumulate=True)
    assert torch.equal(found, together)
    assert torch.equal(positives.counts(chunk_size), together.sum(1))


@pytest.mark.parametrize("total", [1, 2, 7, 64])
def test_uninformative_embeddings_cost_log_of_the_batch(total):
    same = torch.ones(total, 4, dtype=torch.float64) / 2
    value = contrastive_loss(same, same, logit_scale=torch.tensor(30.0))
    assert value.item() == pytest.approx(math.log(total), abs=1e-12)


def test_identical_reports_are_no_negatives():
    """Two recordings with one report and equal embeddings cost nothing more than their entropy."""
    signal = torch.eye(3, dtype=torch.float64)[[0, 0, 1]]
    ids = torch.tensor([5, 5, 6])
    scale = torch.tensor(100.0, dtype=torch.float64)
    value = contrastive_loss(signal, signal, logit_scale=scale, report_id=ids)
    assert value.item() == pytest.approx(2 / 3 * math.log(2), abs=1e-9)
    assert contrastive_loss(signal, signal, logit_scale=scale).item() > 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_precision_of_the_input_is_kept(dtype):
    signal, text = embeddings(8, 4, 0, torch.float64)
    exact = contrastive_loss(signal, text, logit_scale=torch.tensor(10.0)).item()
    narrow = [x.detach().to(dtype).requires_grad_() for x in (signal, text)]
    value = contrastive_loss(*narrow, logit_scale=torch.tensor(10.0))
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert narrow[0].grad.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    assert value.item() == pytest.approx(exact, rel=tolerance)


def test_cosine_loss_is_minimal_for_one_constant_vector():
    """The defect that the docstring tells of."""
    constant = functional.normalize(torch.ones(5, 3), dim=-1)
    assert cosine_loss(constant, constant).item() == pytest.approx(0.0, abs=1e-6)


@given(
    total=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    chunk_size=st.integers(1, 10),
    soft=st.floats(0.05, 1.0),
    own_features=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_soft_targets_equal_the_definition(total, seed, chunk_size, soft, own_features):
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(4, (total,), generator=torch.Generator().manual_seed(seed))
    features = embeddings(total, 3, seed + 1)[0].detach() if own_features else None
    results = []
    for definition in (True, False):
        signal, text = embeddings(total, 5, seed)
        if definition:
            known = (text if features is None else features).detach()
            mask = (ids[:, None] == ids).double()
            target = (1 - soft) * mask / mask.sum(1, keepdim=True)
            target = target + soft * (scale.detach() * known @ known.T).softmax(1)
            logits = scale * signal @ text.T
            across = -(target * logits.log_softmax(1)).sum(1).mean()
            value = (across - (target * logits.T.log_softmax(1)).sum(1).mean()) / 2
        else:
            value = contrastive_loss(
                signal,
                text,
                logit_scale=scale,
                report_id=ids,
                soft_targets=soft,
                text_features=features,
                chunk_size=chunk_size,
            )
        results.append([value, *torch.autograd.grad(value, (signal, text, scale))])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
