import json

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    ConvNextConfig,
    ConvNextV2Config,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
)

from fm_med import hub
from fm_med.cohort import CohortCard
from fm_med.errors import InputError
from fm_med.image.backbone_families import FAMILIES
from fm_med.image.hub_backbone import HubBackboneConfig, HubBackboneModel
from fm_med.image.processor import ImageProcessor
from fm_med.lora import attach_lora, check_adapter, load_adapter, merge, save_adapter

CARD = CohortCard(name="some", modality="image", units="brightness")
TOKENS = {
    "hidden_size": 16,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
CONFIGS = {
    "resnet": lambda: ResNetConfig(embedding_size=8, layer_type="basic", **STAGES),
    "convnext": lambda: ConvNextConfig(num_stages=2, **STAGES),
    "convnextv2": lambda: ConvNextV2Config(num_stages=2, **STAGES),
    "vit": lambda: ViTConfig(intermediate_size=32, **TOKENS),
    "dinov2": lambda: Dinov2Config(**TOKENS),
    "dinov2_with_registers": lambda: Dinov2WithRegistersConfig(**TOKENS),
    "dinov3_vit": lambda: DINOv3ViTConfig(intermediate_size=32, num_register_tokens=4, **TOKENS),
}
STATED = {
    "size": {"height": 32, "width": 32},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.1, 0.2, 0.3],
    "do_normalize": True,
}


def pixels(batch=2, height=32, width=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width, generator=generator)


def checkpoint(folder, family="resnet", stated=STATED):
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIGS[family]()).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    if stated is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return model


def test_every_family_is_tested():
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("pooling", ["last", "skip"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_checkpoint_becomes_an_encoder(family, pooling, tmp_path):
    theirs = checkpoint(tmp_path / "theirs", family)
    start = hub.start_from(str(tmp_path / "theirs"), CARD, encoder_settings={"pooling": pooling})
    encoder, x = start.saved.encoder, pixels()
    assert isinstance(encoder, HubBackboneModel) and not start.is_fresh
    with torch.no_grad():
        expected = theirs(x).last_hidden_state
        found = encoder(x, output_hidden_states=True, output_attentions=True)
    if expected.ndim == 4:
        expected = expected.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found.last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    assert found.pooler_output.shape == (2, encoder.config.pooled_size)
    assert found.last_hidden_state.shape[2] == encoder.config.hidden_size
    for weights in found.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert bool(found.attentions) == FAMILIES[family].tokens
    encoder.save_pretrained(tmp_path / "ours")
    ours = AutoModel.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(ours(x).pooler_output, encoder(x).pooler_output)
        assert ours(pixels(1, 48, 40)).pooler_output.isfinite().all()


@pytest.mark.parametrize("family", ["vit", "dinov2_with_registers", "dinov3_vit"])
def test_tokens_are_pooled_without_the_registers(family, tmp_path):
    checkpoint(tmp_path, family)
    with torch.no_grad():
        found = hub.load(tmp_path).encoder(pixels())
    tokens = found.last_hidden_state
    expected = torch.cat([tokens[:, 0], tokens[:, -16:].mean(1)], 1)  # 16 patches of 8 pixels
    torch.testing.assert_close(found.pooler_output, expected)


def test_pooling_every_stage_holds_that_of_the_last(tmp_path):
    checkpoint(tmp_path)
    last, skip = (
        hub.start_from(str(tmp_path), CARD, encoder_settings={"pooling": pooling}).saved.encoder
        for pooling in ("last", "skip")
    )
    with torch.no_grad():
        few, many = last(pixels()).pooler_output, skip(pixels()).pooler_output
    assert few.shape[1] == 16 and many.shape[1] == 24
    assert torch.equal(many[:, 8:], few)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (STATED, (32, 32, "stretch")),
        (STATED | {"size": {"shortest_edge": 40}}, (40, 40, "crop")),
        (STATED | {"size": 48, "crop_size": 36, "do_center_crop": True}, (36, 36, "crop")),
    ],
)
def test_image_size_and_channels_are_the_checkpoints(stated, expected, tmp_path):
    checkpoint(tmp_path, stated=stated)
    processor = hub.load(tmp_path).processor
    assert (processor.height, processor.width, processor.fit) == expected
    assert processor.mean == STATED["image_mean"] and processor.std == STATED["image_std"]
    smaller = hub.start_from(str(tmp_path), CARD, processor_settings={"height": 20, "width": 24})
    assert smaller.saved.processor.width == 24 and smaller.saved.processor.std == processor.std


def test_a_classifiers_checkpoint_is_taken_without_its_old_head(tmp_path):
    config = CONFIGS["resnet"]()
    config.num_labels = 7
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(STATED))
    encoder = hub.load(tmp_path).encoder
    assert "label" not in json.dumps(encoder.config.to_dict()["backbone"])


def test_batch_norms_of_a_checkpoint_stay_as_they_are(tmp_path):
    checkpoint(tmp_path)
    encoder = hub.load(tmp_path).encoder.train()
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    assert encoder.training and before
    encoder(pixels(8))
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    fresh = HubBackboneModel(HubBackboneConfig(backbone=encoder.config.backbone)).train()
    assert any(m.training for m in fresh.modules() if isinstance(m, nn.BatchNorm2d))


def test_adapters_on_a_batch_norm_network_are_the_same_when_loaded_again(tmp_path):
    base = tmp_path / "theirs"
    checkpoint(base)
    encoder = hub.load(base).encoder
    adapter = attach_lora(encoder, rank=2)
    check_adapter(encoder, {"pixel_values": pixels()})
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1e-3)
    for step in range(3):
        encoder.train()
        optimizer.zero_grad()
        encoder(pixels(4, seed=step)).pooler_output.square().sum().backward()
        optimizer.step()
    encoder.eval()
    with torch.no_grad():
        expected = encoder(pixels()).pooler_output
        unchanged = hub.load(base).encoder(pixels()).pooler_output
    assert (expected - unchanged).abs().max() > 1e-3
    save_adapter(adapter, tmp_path / "adapter", base=str(base), base_folder=base)
    loaded = load_adapter(hub.load(base).encoder, tmp_path / "adapter", base_folder=base)
    with torch.no_grad():
        found = merge(loaded).eval()(pixels()).pooler_output
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_states_no_encoder_with_settings_of_its_own(tmp_path):
    checkpoint(tmp_path)
    plain = hub.start_from(str(tmp_path), CARD)
    assert plain.adapter_base("lora")[1] == tmp_path
    changed = hub.start_from(str(tmp_path), CARD, encoder_settings={"pooling": "skip"})
    with pytest.raises(InputError, match="belong to no encoder that is saved"):
        changed.adapter_base("lora")


def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path):
    checkpoint(tmp_path, stated=None)
    with pytest.raises(InputError, match=r"has no preprocessor_config\.json"):
        hub.load(tmp_path)
    settings = {"height": 32, "width": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    processor = hub.start_from(str(tmp_path), CARD, processor_settings=settings).saved.processor
    assert isinstance(processor, ImageProcessor)
    with pytest.raises(InputError, match="pooling"):
        hub.start_from(
            str(tmp_path),
            CARD,
            encoder_settings={"pooling": "all"},
            processor_settings=settings,
        )
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are not read"):
        hub.start_from(str(tmp_path), CARD, processor_settings=settings)


def test_unknown_backbones_and_channels_are_refused(tmp_path):
    with pytest.raises(InputError, match="no backbone 'bert'"):
        HubBackboneModel(HubBackboneConfig(backbone={"model_type": "bert"}))
    checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"\(batch, 3, height, width\)"):
        hub.load(tmp_path).encoder(torch.zeros(1, 1, 32, 32))
