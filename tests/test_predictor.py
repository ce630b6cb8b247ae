"""The predictor: what is trained, what stays still, and a head whose clinical part is free."""

import pytest
import torch

from fm_med.ecg.decoder import ReconstructionDecoder
from fm_med.ecg.dual_attention_paper import DualAttentionPaperConfig, DualAttentionPaperModel
from fm_med.ecg.vit1d import ViT1dConfig, ViT1dModel
from fm_med.heads import PredictionHead, prediction_head
from fm_med.predictor import Predictor

SIGNAL = {"signal": torch.randn(5, 12, 320, generator=torch.Generator().manual_seed(0))}
CLINICAL = torch.tensor([[60.0, 0.0], [70.0, 1.0], [55.0, 1.0], [81.0, 0.0], [40.0, 1.0]])


def vit(dropout=0.0):
    torch.manual_seed(0)
    config = ViT1dConfig(
        hidden_size=16, num_layers=1, num_heads=2, patch_samples=20, dropout=dropout
    )
    return ViT1dModel(config)


def head(encoder, outputs=1, **settings):
    named = {"output_name": "log_hazard", "squeeze": outputs == 1}
    return prediction_head(encoder, outputs=outputs, **named, **settings)


def test_a_new_predictor_predicts_zero_until_it_is_given_weights():
    encoder = vit()
    predictor = Predictor(encoder, head(encoder, clinical=["age", "sex"]))
    predicted = predictor(clinical=CLINICAL, **SIGNAL)
    assert predicted["log_hazard"].shape == (5,) and not predicted["log_hazard"].any()
    with pytest.raises(ValueError, match="age, sex"):
        predictor(**SIGNAL)
    several = Predictor(encoder, head(encoder, outputs=3))
    assert several(**SIGNAL)["log_hazard"].shape == (5, 3)


def test_the_head_is_linear_in_standardised_features_and_covariates():
    encoder = vit()
    made = head(encoder, clinical=["age", "sex"]).eval()
    width = encoder.config.pooled_size
    made.features.set(torch.full((width,), 2.0), torch.linspace(0.5, 3, width))
    made.covariates.set(torch.tensor([60.0, 0.5]), torch.tensor([10.0, 0.0]))
    weight = torch.randn(1, width, generator=torch.Generator().manual_seed(1))
    made.set_linear(weight, torch.tensor([0.3]), torch.tensor([[0.7, -0.2]]))
    features = torch.randn(5, width, generator=torch.Generator().manual_seed(2))
    expected = ((features - 2) / torch.linspace(0.5, 3, width)) @ weight[0] + 0.3
    # A constant column has no scale: it is only centred.
    expected += 0.7 * (CLINICAL[:, 0] - 60) / 10 - 0.2 * (CLINICAL[:, 1] - 0.5)
    torch.testing.assert_close(made(features, CLINICAL)["log_hazard"], expected)


@pytest.mark.parametrize("settings", [{}, {"hidden": [3], "clinical": ["age", "sex"]}])
def test_a_saved_head_is_the_same_when_loaded(tmp_path, settings):
    encoder = vit()
    made = head(encoder, **settings).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            tensor.uniform_(0.5, 2)
    made.save_pretrained(tmp_path)
    loaded = PredictionHead.from_pretrained(tmp_path).eval()
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in made.state_dict().items())
    features = torch.randn(5, encoder.config.pooled_size)
    assert torch.equal(
        made(features, CLINICAL)["log_hazard"], loaded(features, CLINICAL)["log_hazard"]
    )


def test_a_frozen_encoder_neither_drops_out_nor_learns():
    encoder = vit(dropout=0.5).requires_grad_(False)
    predictor = Predictor(encoder, head(encoder)).train()
    assert predictor.is_frozen and not encoder.training and predictor.head.training
    predictor.head.output.weight.data.normal_()
    first, second = (predictor(**SIGNAL)["log_hazard"] for _ in range(2))
    assert torch.equal(first, second)
    first.sum().backward()
    assert predictor.head.output.weight.grad.any()


def test_batchwise_dropout_has_one_mask_for_all_rows():
    encoder = vit()
    width = encoder.config.pooled_size
    features = torch.ones(4, width)
    for shared in (True, False):
        made = head(encoder, dropout=0.5, batchwise_dropout=shared).train()
        torch.manual_seed(0)
        dropped = made._drop(features)
        assert 0 < (dropped == 0).sum() < dropped.numel()
        assert bool((dropped == dropped[:1]).all()) == shared


def test_a_decoder_rebuilds_the_signal():
    encoder = vit()
    decoder = ReconstructionDecoder(encoder.config.time_width, samples=320)
    outputs = Predictor(encoder, head(encoder), decoder=decoder)(**SIGNAL)
    assert outputs["reconstruction"].shape == SIGNAL["signal"].shape


@pytest.mark.parametrize("freeze", [True, False])
def test_running_statistics_are_frozen_on_request_only(freeze):
    torch.manual_seed(0)
    encoder = DualAttentionPaperModel(DualAttentionPaperConfig(samples=96, pooled_size=24))
    predictor = Predictor(encoder, head(encoder), freeze_norms=freeze).train()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(norm.training != freeze for norm in norms)
    assert predictor.encoder.training
