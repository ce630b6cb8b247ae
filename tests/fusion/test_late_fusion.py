"""Late fusion: what a row lacks counts for nothing, whatever is there instead."""

from types import SimpleNamespace

import pytest
import torch
from encoder_examples import EXAMPLES, build, inputs_of, pooled
from torch import nn

from fm_med.ecg.dual_attention_paper import DualAttentionPaperModel
from fm_med.errors import InputError
from fm_med.finetuning.centring import centre_parts
from fm_med.fusion.late_fusion import LateFusionConfig, LateFusionModel
from fm_med.heads import prediction_head
from fm_med.predictor import Predictor

FIRST, SECOND = "dual_attention", "tabm"


def fused(**settings):
    return LateFusionModel.of_encoders({"first": build(FIRST), "second": build(SECOND)}, **settings)


def both(batch=6, seed=1, **present):
    """Inputs of rows that have everything, but for what `present` says."""
    inputs = {f"first_{k}": v for k, v in inputs_of(FIRST, batch, seed).items()}
    inputs |= {f"second_{k}": v for k, v in inputs_of(SECOND, batch, seed).items()}
    return inputs | {f"{part}_present": torch.tensor(rows) for part, rows in present.items()}


def widths(model):
    return [getattr(model, part).config.pooled_size for part in ("first", "second")]


def test_the_output_is_both_encoders_beside_what_is_there():
    model = fused().eval()
    inputs = both()
    a, b = widths(model)
    found = pooled(model, inputs)
    assert found.shape == (6, a + b + 2)
    first = pooled(build(FIRST), inputs_of(FIRST, 6))
    second = pooled(build(SECOND), inputs_of(SECOND, 6))
    torch.testing.assert_close(found, torch.cat([first, second, torch.ones(6, 2)], 1))


@pytest.mark.parametrize("part", ["first", "second"])
def test_what_is_hidden_is_zero_and_its_content_changes_no_bit(part):
    model = fused().eval()
    shown = [True, False, True, False, True, True]
    inputs = both(**{part: shown})
    found = pooled(model, inputs)
    a, b = widths(model)
    place = slice(0, a) if part == "first" else slice(a, a + b)
    hidden = ~torch.tensor(shown)
    assert not found[hidden][:, place].any() and found[~hidden][:, place].any()
    presence = found[:, a + b + (part == "second")]
    assert torch.equal(presence, torch.tensor(shown).float())
    for name, value in inputs.items():
        if name.startswith(f"{part}_") and name != f"{part}_present":
            nonsense = float("nan") if value.is_floating_point() else 1
            other = inputs | {name: value.clone()}
            other[name][hidden] = nonsense
            assert torch.equal(pooled(model, other), found), name


@pytest.mark.parametrize("part", ["first", "second"])
def test_hidden_rows_give_no_gradient_even_if_they_are_not_numbers(part):
    model = fused(modality_dropout=0.0).eval()
    shown = [True, False, True, True, False, True]

    def gradients(inputs):
        model.zero_grad()
        model(**inputs).pooler_output.square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    inputs = both(**{part: shown})
    spoilt = {
        name: value.masked_fill(~torch.tensor(shown).view(-1, *(1,) * (value.ndim - 1)), torch.nan)
        if name.startswith(f"{part}_") and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }
    expected, found = gradients(inputs), gradients(spoilt)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name
    # Only the rows that have it matter: the same as a batch of these alone.
    kept = {name: value[torch.tensor(shown)] for name, value in inputs.items()}
    alone = gradients(kept)
    for name, value in found.items():
        if name.startswith(f"{part}."):
            torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5)


def test_a_part_that_no_row_has_may_be_left_out_and_still_hangs_on_the_graph():
    model = fused()
    inputs = {k: v for k, v in both().items() if k.startswith("first_")}
    found = model(**inputs).pooler_output
    a, b = widths(model)
    assert not found[:, a : a + b].any() and not found[:, -1].any()
    found.square().sum().backward()
    for name, parameter in model.second.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    with pytest.raises(InputError, match="second_present is true in rows without inputs"):
        model(**inputs, second_present=torch.ones(6, dtype=torch.bool))
    with pytest.raises(InputError, match="was given no inputs"):
        model()


def test_in_training_one_of_both_is_hidden_in_some_rows_and_never_both():
    torch.manual_seed(0)
    model = fused(modality_dropout=0.4).train()
    rows = 600
    first = [True] * 300 + [False] * 100 + [True] * 200
    shown = {"first": torch.tensor(first), "second": torch.tensor([True] * 400 + [False] * 200)}
    drawn = model._hidden_at_random(shown)
    has_both = shown["first"] & shown["second"]
    for part in ("first", "second"):
        assert torch.equal(drawn[part][~has_both], shown[part][~has_both])
        share = 1 - drawn[part][has_both].float().mean()
        assert 0.13 < share < 0.27
    assert (drawn["first"] | drawn["second"]).all()
    assert len(drawn["first"]) == rows
    assert model.eval()._hidden_at_random(shown) is shown
    with pytest.raises(InputError, match=r"modality_dropout is 1.5"):
        fused(modality_dropout=1.5)


def test_saved_outputs_are_standardised_over_the_rows_given():
    model = fused().eval()
    inputs = inputs_of(FIRST, 32)
    model.standardise_by("first", inputs)
    a, _ = widths(model)
    found = pooled(model, {f"first_{name}": value for name, value in inputs.items()})[:, :a]
    varies = pooled(model.first, inputs).std(0) > 1e-3
    torch.testing.assert_close(found.mean(0), torch.zeros(a), atol=1e-4, rtol=0)
    spread = found.std(0, correction=0)[varies]
    torch.testing.assert_close(spread, torch.ones_like(spread), atol=1e-3, rtol=0)


def test_centred_parts_predict_as_before_whatever_is_there():
    torch.manual_seed(0)
    encoder = fused()
    head = prediction_head(encoder, outputs=2, output_name="logits", squeeze=False)
    with torch.no_grad():
        for tensor in (*head.parameters(), head.features.mean):
            tensor.normal_()
        for tensor in (head.features.scale, encoder.first_scale.scale, encoder.first_scale.mean):
            tensor.uniform_(0.5, 2.0)
    predictor = Predictor(encoder, head).eval()
    shown = [True, False, True, False, True, True]
    inputs = both(first=shown, second=[not rows for rows in shown[:-1]] + [True])
    others = both(seed=2, first=shown)
    with torch.no_grad():
        before = [predictor(**rows)["logits"] for rows in (inputs, others)]
    features, held_out = (pooled(encoder, rows).numpy().copy() for rows in (inputs, others))
    centre_parts(SimpleNamespace(predictor=predictor), features, held_out)
    with torch.no_grad():
        after = [predictor(**rows)["logits"] for rows in (inputs, others)]
    for one, two in zip(before, after):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    for rows, found in ((inputs, features), (others, held_out)):
        torch.testing.assert_close(pooled(encoder, rows), torch.from_numpy(found))
    for part in ("first", "second"):
        columns, presence = encoder.place_of(part)
        there = features[:, presence] > 0
        assert abs(features[there, columns].mean(0)).max() < 1e-5
        assert not features[~there, columns].any()


def test_a_batch_norm_over_absent_rows_is_refused():
    paper = DualAttentionPaperModel(EXAMPLES["dual_attention_paper"].config)
    model = LateFusionModel.of_encoders({"first": paper, "second": build(SECOND)}).train()
    inputs = {"first_signal": torch.randn(4, 12, 96)}
    inputs |= {f"second_{k}": v for k, v in inputs_of(SECOND, 4).items()}
    absent = {"first_present": torch.tensor([True, True, False, True])}
    with pytest.raises(InputError, match="DualAttentionPaperModel has BatchNorms"):
        model(**inputs, **absent)
    model.eval()(**inputs, **absent)


def test_beside_a_trained_part_a_frozen_one_stays_as_it_is_used():
    model = fused(new_parts=("second",))
    predictor = Predictor(model, nn.Identity())
    model.requires_grad_(False)
    for part in model.trained_in_full():
        part.requires_grad_(True)
    predictor.train()
    assert model.training and model.second.training and not model.first.training
    model.requires_grad_(False)
    predictor.train()
    assert not model.training


def test_adapters_lie_in_the_parts_that_are_not_new():
    targets = fused().lora_targets
    assert {name.split(".")[0] for name in targets} == {"first", "second"}
    assert all(name.startswith("first.") for name in fused(new_parts=("second",)).lora_targets)
    names = [name for name, _ in fused().named_modules()]
    assert set(targets) <= set(names)
    parameters = [name for name, _ in fused().named_parameters()]
    assert set(fused().lora_parameters) <= set(parameters) and fused().lora_parameters


def test_a_config_without_encoders_is_refused():
    with pytest.raises(InputError, match="needs the config of its first encoder"):
        LateFusionModel(LateFusionConfig())
