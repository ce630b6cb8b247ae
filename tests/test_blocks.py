import math

import pytest
import torch

from fm_med.blocks import (
    GroupLayerNorm,
    GroupLinear,
    GroupTransformerBlock,
    TransformerBlock,
    attend,
    sinusoidal_positions,
)


def naive_attention(query, key, value, allowed):
    """The definition, one query at a time."""
    result = torch.zeros(*query.shape[:-1], value.shape[-1])
    for index in torch.cartesian_prod(*(torch.arange(n) for n in query.shape[:-1])).tolist():
        *place, i = index
        k, v, mask = key[tuple(place)], value[tuple(place)], allowed[tuple(place)][i]
        scores = (k @ query[tuple(index)]) / math.sqrt(query.shape[-1])
        weights = torch.where(mask, scores, -torch.inf).softmax(0)
        result[tuple(index)] = weights @ v
    return result


@pytest.mark.parametrize("batch", [(2,), (2, 3)])
@pytest.mark.parametrize("heads", [1, 2])  # one head of few tokens takes no fused kernel on a CPU
@pytest.mark.parametrize("need_weights", [False, True])
def test_attend_is_the_definition(batch, heads, need_weights):
    torch.manual_seed(0)
    query, key = torch.randn(*batch, heads, 4, 8), torch.randn(*batch, heads, 5, 8)
    value = torch.randn(*batch, heads, 5, 6)
    key_mask = torch.ones(*batch, 1, 1, 5, dtype=torch.bool)
    key_mask[0, ..., 2] = False
    context, weights = attend(query, key, value, key_mask=key_mask, need_weights=need_weights)
    expected = naive_attention(query, key, value, key_mask.expand(*batch, heads, 4, 5))
    torch.testing.assert_close(context, expected)
    assert (weights is not None) == need_weights
    if weights is not None:
        torch.testing.assert_close(weights @ value, context)
        assert (weights[0, ..., 2] == 0).all()


def test_attend_in_bfloat16_is_close_to_float32():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 7, 16)
    exact, _ = attend(query, key, value)
    rounded, _ = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_without_keys_stays_finite(dtype):
    query, key, value = torch.randn(3, 1, 1, 4, 8, dtype=dtype)
    nothing = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    context, _ = attend(query, key, value, key_mask=nothing)
    assert context.isfinite().all()


def test_attend_drops_weights_only_when_told():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 2, 7, 16)
    assert torch.equal(attend(query, key, value)[0], attend(query, key, value)[0])
    with_dropout = attend(query, key, value, dropout=0.5, need_weights=True)[0]
    assert not torch.allclose(with_dropout, attend(query, key, value)[0])


def test_a_masked_token_is_never_read():
    torch.manual_seed(0)
    block = TransformerBlock(16, heads=2, hidden=32).eval()
    x = torch.randn(3, 5, 16)
    key_mask = torch.tensor([True, True, False, True, True]).expand(3, 5)
    other = x.clone()
    other[:, 2] = 100.0
    seen = [0, 1, 3, 4]
    assert torch.equal(
        block(x, key_mask=key_mask)[0][:, seen], block(other, key_mask=key_mask)[0][:, seen]
    )
    assert not torch.allclose(block(x)[0][:, seen], block(other)[0][:, seen])


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 16)
    for block in (TransformerBlock(16, heads=2, hidden=32, dropout=0.3),):
        assert not torch.equal(block.train()(x)[0], block(x)[0])
        assert torch.equal(block.eval()(x)[0], block(x)[0])
    grouped = GroupTransformerBlock(3, 16, heads=2, hidden=32, dropout=0.3)
    assert not torch.equal(grouped.train()(x[:, None])[0], grouped(x[:, None])[0])
    assert torch.equal(grouped.eval()(x[:, None])[0], grouped(x[:, None])[0])


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_group_block_is_one_plain_block_per_group(need_weights):
    torch.manual_seed(0)
    grouped = GroupTransformerBlock(3, 16, heads=2, hidden=32).eval()
    with torch.no_grad():
        for parameter in grouped.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(3, 4, 5, 16)
    found, weights = grouped(x, need_weights=need_weights)
    for group in range(3):
        plain = TransformerBlock(16, heads=2, hidden=32).eval()
        with torch.no_grad():
            for name, module in grouped.named_children():
                target = getattr(plain, name)
                if isinstance(module, GroupLinear):
                    target.weight.copy_(module.group_weight[group].t())
                    target.bias.copy_(module.bias[group, 0])
                if isinstance(module, GroupLayerNorm):
                    target.weight.copy_(module.weight[group])
                    target.bias.copy_(module.bias[group])
        expected, expected_weights = plain(x[group], need_weights=need_weights)
        torch.testing.assert_close(found[group], expected)
        if need_weights:
            torch.testing.assert_close(weights[group], expected_weights)


def test_positions_follow_the_formula_at_any_length():
    found = sinusoidal_positions(700, 6, like=torch.zeros(1))
    for position in (0, 1, 699):
        for channel in range(3):
            angle = position * 10000 ** (-2 * channel / 6)
            assert found[position, 2 * channel].item() == pytest.approx(math.sin(angle), abs=1e-4)
            assert found[position, 2 * channel + 1].item() == pytest.approx(
                math.cos(angle), abs=1e-4
            )
