"""The shared space: temperature, centring, and what survives saving."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from fm_med.alignment import AlignmentConfig, AlignmentHeads, build_towers
from fm_med.ecg.resnet1d import ResNet1dConfig, ResNet1dModel

SIZES = {"signal_dim": 12, "text_dim": 8, "embedding_dim": 6, "hidden_dim": 10}


def heads(**options):
    torch.manual_seed(0)
    made = AlignmentHeads(AlignmentConfig(**SIZES | options)).eval()
    made.text_mean.copy_(torch.linspace(-1, 1, 8))
    return made


def towers(**options):
    torch.manual_seed(0)
    encoder = ResNet1dModel(ResNet1dConfig(widths=(8, 16), depths=(1, 1), norm_groups=4))
    options = {
        "text": {"model": "m"},
        "embedding_dim": 6,
        "decoder": None,
        "sigmoid": False,
    } | options
    return build_towers(encoder, torch.arange(8.0), temperature=0.07, **options)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_the_scale_begins_at_one_over_the_temperature(temperature):
    scalars = heads(temperature=temperature).temperature()
    assert scalars.keys() == {"logit_scale"}
    assert scalars["logit_scale"].item() == pytest.approx(1 / temperature, rel=1e-5)


def test_the_sigmoid_loss_has_a_bias():
    scalars = heads(sigmoid=True).temperature()
    assert scalars.keys() == {"logit_scale", "logit_bias"}
    assert scalars["logit_bias"].item() == -10


def test_the_scale_is_bounded_and_learnt():
    alignment = heads()
    alignment.temperature()["logit_scale"].backward()
    assert alignment.temperature.log_scale.grad.item() == pytest.approx(1 / 0.07, rel=1e-5)
    alignment.temperature.log_scale.data.fill_(20.0)
    assert alignment.temperature()["logit_scale"].item() == 100


def test_both_projections_lie_on_the_unit_sphere():
    alignment = heads()
    signal = alignment.project_signal(torch.randn(5, 12))
    text = alignment.project_text(torch.randn(5, 8))
    assert signal.shape == text.shape == (5, 6)
    for embedding in (signal, text):
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(5))


def test_reports_are_centred_with_the_training_mean():
    alignment = heads()
    raw = torch.randn(5, 8)
    by_hand = functional.normalize(alignment.text_projection(raw - alignment.text_mean), dim=1)
    torch.testing.assert_close(alignment.project_text(raw), by_hand)
    alignment.text_mean.zero_()
    assert not torch.allclose(alignment.project_text(raw), by_hand)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_every_parameter_and_buffer_survives_saving(tmp_path, sigmoid):
    alignment = heads(sigmoid=sigmoid, text={"model": "bert", "pooling": "mean"})
    for parameter in alignment.parameters():
        parameter.data.normal_()
    alignment.save_pretrained(tmp_path)
    loaded = AlignmentHeads.from_pretrained(tmp_path)
    state, found = alignment.state_dict(), loaded.state_dict()
    assert state.keys() == found.keys() >= {"text_mean", "temperature.log_scale"}
    assert all(torch.equal(state[name], found[name]) for name in state)
    assert {name for name, _ in alignment.named_buffers()} <= state.keys()  # none left out
    assert loaded.config.text == {"model": "bert", "pooling": "mean"}
    raw, features = torch.randn(3, 8), torch.randn(3, 12)
    assert torch.equal(loaded.project_text(raw), alignment.project_text(raw))
    assert torch.equal(loaded.project_signal(features), alignment.project_signal(features))


def test_what_a_file_lacks_gets_its_first_value_not_what_is_in_memory(tmp_path, caplog):
    """transformers builds on the meta device: without `_init_weights` this is uninitialised."""
    heads(sigmoid=True).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for name in ("text_mean", "temperature.log_scale", "temperature.bias"):
        del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    loaded = AlignmentHeads.from_pretrained(tmp_path)
    assert torch.equal(loaded.text_mean, torch.zeros(8))
    assert loaded.temperature.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert loaded.temperature.bias.item() == -10
    assert all(value.isfinite().all() for value in loaded.state_dict().values())
    for name in tensors:  # what the file has is not overwritten
        assert torch.equal(loaded.state_dict()[name], tensors[name])


def test_towers_give_each_row_its_embeddings_and_the_scalars():
    model = towers(sigmoid=True).eval()
    assert torch.equal(model.heads.text_mean, torch.arange(8.0))
    inputs = {"signal": torch.randn(3, 12, 320), "lead_mask": torch.ones(3, 12, dtype=torch.bool)}
    raw = torch.randn(3, 8)
    outputs = model(raw, **inputs)
    features = model.encoder(**inputs).pooler_output
    torch.testing.assert_close(outputs["signal_embedding"], model.heads.project_signal(features))
    torch.testing.assert_close(outputs["text_embedding"], model.heads.project_text(raw))
    assert outputs["logit_scale"].shape == outputs["logit_bias"].shape == (3,)
    assert "reconstruction" not in outputs


def test_a_decoder_reads_the_time_features():
    class Mean(nn.Module):
        def forward(self, time_features):
            return time_features.mean(1)

    model = towers(decoder=Mean()).eval()
    signal = torch.randn(2, 12, 320)
    outputs = model(torch.randn(2, 8), signal=signal)
    expected = model.encoder(signal, output_hidden_states=True).hidden_states[-1].mean(1)
    torch.testing.assert_close(outputs["reconstruction"], expected)
