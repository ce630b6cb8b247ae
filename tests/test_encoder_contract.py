"""What every encoder owes its callers. A new encoder needs one line in EXAMPLES."""

import importlib
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from fm_med.ecg.dual_attention import DualAttentionConfig
from fm_med.ecg.dual_attention_paper import DualAttentionPaperConfig
from fm_med.ecg.encoders import ENCODERS
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.resnet1d import ResNet1dConfig
from fm_med.ecg.vit1d import ViT1dConfig
from fm_med.errors import InputError

EXAMPLES = {
    "dual_attention": DualAttentionConfig(
        strides=(8, 4), widths=(8, 8), hidden_size=16, lead_heads=2, pooled_size=24
    ),
    "dual_attention_paper": DualAttentionPaperConfig(samples=96, pooled_size=24, dropout=0.0),
    "resnet1d": ResNet1dConfig(widths=(8, 16), depths=(1, 1), norm_groups=4),
    "vit1d": ViT1dConfig(hidden_size=16, num_layers=2, num_heads=2, patch_samples=20),
}
ATTENTIVE = ("dual_attention", "dual_attention_paper", "vit1d")
SAMPLES = 320


def build(name, seed=0):
    torch.manual_seed(seed)
    return ENCODERS[name](EXAMPLES[name]).eval()


def example_signal(batch=3, samples=SAMPLES, seed=1):
    return torch.randn(batch, 12, samples, generator=torch.Generator().manual_seed(seed))


def pooled(encoder, signal, **inputs):
    with torch.no_grad():
        return encoder(signal, **inputs).pooler_output


# peft asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def test_every_encoder_has_an_example():
    assert set(EXAMPLES) == set(ENCODERS)


@every_encoder
@pytest.mark.parametrize("samples", [500, 1000, 1234, 5000])
def test_any_length_gives_the_documented_shapes(name, samples):
    encoder = build(name)
    output = encoder(example_signal(2, samples), output_hidden_states=True, output_attentions=True)
    assert output.pooler_output.shape == (2, encoder.config.pooled_size)
    assert output.last_hidden_state.shape[0] == 2
    assert output.last_hidden_state.shape[2] == encoder.config.hidden_size
    features = output.hidden_states[-1]
    assert features.shape[0] == 2 and features.shape[2] == encoder.config.time_width
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    without = encoder(example_signal(2, samples))
    assert without.hidden_states is None and without.attentions is None
    torch.testing.assert_close(without.pooler_output, output.pooler_output, rtol=1e-4, atol=1e-4)


@every_encoder
def test_a_record_does_not_depend_on_the_others(name):
    encoder, signal = build(name), example_signal(4)
    if name != "dual_attention_paper":  # BatchNorm, as published
        encoder.train()
    alone, together = pooled(encoder, signal[1:2]), pooled(encoder, signal)[1:2]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@every_encoder
def test_every_parameter_gets_a_gradient(name):
    encoder = build(name).train()
    encoder(example_signal(8)).pooler_output.square().sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        if not parameter_name.endswith("k_proj.bias"):  # shifts all scores of a query alike
            assert parameter.grad.abs().max() > 0, parameter_name


@every_encoder
def test_the_same_input_gives_the_same_bits(name):
    signal = example_signal()
    assert torch.equal(pooled(build(name), signal), pooled(build(name), signal))


@every_encoder
def test_what_an_absent_lead_holds_has_no_influence(name):
    encoder, signal = build(name), example_signal()
    lead_mask = torch.ones(3, 12, dtype=torch.bool)
    lead_mask[0, 3] = lead_mask[1, :6] = False
    other = signal.masked_fill(~lead_mask[..., None], float("nan"))
    expected = encoder(signal, lead_mask, output_attentions=True, output_hidden_states=True)
    found = encoder(other, lead_mask, output_attentions=True, output_hidden_states=True)
    assert torch.equal(expected.pooler_output, found.pooler_output)
    assert torch.equal(expected.last_hidden_state, found.last_hidden_state)
    for before, after in zip(expected.hidden_states, found.hidden_states):
        assert torch.equal(before, after)
    # ... and the mask is used: the same record with all leads gives something else.
    assert not torch.allclose(pooled(encoder, signal)[:2], expected.pooler_output[:2])
    assert torch.allclose(pooled(encoder, signal)[2], expected.pooler_output[2], atol=1e-5)


@every_encoder
def test_a_record_without_any_lead_stays_finite(name):
    signal = torch.full((2, 12, SAMPLES), float("nan"))
    assert (
        pooled(build(name), signal, lead_mask=torch.zeros(2, 12, dtype=torch.bool)).isfinite().all()
    )


@every_encoder
def test_wrong_shapes_are_refused_in_one_sentence(name):
    encoder = build(name)
    with pytest.raises(InputError, match=r"12 leads.*\(2, 11, 320\)"):
        encoder(example_signal(2)[:, :11])
    with pytest.raises(InputError, match=r"lead_mask must be \(2, 12\)"):
        encoder(example_signal(2), torch.ones(2, 11, dtype=torch.bool))
    with pytest.raises(InputError, match="0 samples, the encoder needs at least"):
        encoder(example_signal(2)[:, :, :0])


@every_encoder
def test_the_shortest_signal_works(name):
    encoder = build(name)
    shortest = getattr(encoder, "min_samples", 20)
    assert pooled(encoder, example_signal(2, shortest)).isfinite().all()


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize("projection", ["q_proj", "k_proj"])
def test_each_attention_matters(name, projection):
    """An attention over one token, or one whose result is dropped, would not notice."""
    encoder, signal = build(name), example_signal()
    base = pooled(encoder, signal)
    modules = [module for path, module in encoder.named_modules() if path.endswith(projection)]
    assert modules
    for module in modules:
        weight = next(module.parameters())
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(-3.0)
        assert not torch.allclose(pooled(encoder, signal), base, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            weight.copy_(kept)


@every_encoder
def test_bfloat16_autocast_is_close(name):
    encoder, signal = build(name), example_signal()
    exact = pooled(encoder, signal)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pooled(encoder, signal).float()
    assert (rounded - exact).norm() / exact.norm() < 0.03


def adapted(name):
    encoder = build(name)
    config = LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules=list(encoder.lora_targets),
        target_parameters=list(encoder.lora_parameters) or None,
    )
    model = get_peft_model(encoder, config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.3, generator=generator)
    return model


@every_encoder
def test_adapters_act_in_evaluation_mode_and_survive_merging_and_reloading(name, tmp_path):
    signal = example_signal()
    base, model = pooled(build(name), signal), adapted(name)
    adapters = {path for path, _ in model.named_parameters() if "lora_" in path}
    encoder = model.base_model.model
    stacked = (path.removesuffix(".group_weight") for path in encoder.lora_parameters)
    for target in (*encoder.lora_targets, *stacked):
        assert any(f"{target}.lora_A" in path for path in adapters), target
    with_adapter = pooled(model, signal)
    assert (with_adapter - base).norm() / base.norm() > 0.01
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    reloaded = PeftModel.from_pretrained(build(name), tmp_path).eval()
    weights = dict(model.named_parameters())
    assert all(torch.equal(weight, weights[path]) for path, weight in reloaded.named_parameters())
    # Not bit for bit: a file's weights lie at other addresses, which changes MKL's order of sums.
    torch.testing.assert_close(pooled(reloaded, signal), with_adapter, rtol=1e-5, atol=1e-5)
    merged = pooled(model.merge_and_unload(), signal)
    torch.testing.assert_close(merged, with_adapter, rtol=1e-4, atol=1e-4)


@every_encoder
def test_every_adapter_gets_a_gradient(name):
    model = adapted(name).train()
    model(example_signal()).pooler_output.square().sum().backward()
    adapters = [(path, p) for path, p in model.named_parameters() if p.requires_grad]
    assert adapters
    for path, parameter in adapters:
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, path


def moved(name):
    """An encoder whose parameters and buffers all differ from their initial values."""
    encoder = build(name)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (*encoder.parameters(), *encoder.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand(tensor.shape, generator=generator))
    return encoder


@every_encoder
def test_the_round_trip_through_disk_keeps_every_bit(name, tmp_path):
    encoder = moved(name)
    encoder.save_pretrained(tmp_path)
    loaded = ENCODERS[name].from_pretrained(tmp_path).eval()
    kept = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    for path, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        assert torch.equal(kept[path], tensor), path
    assert torch.equal(pooled(loaded, example_signal()), pooled(encoder, example_signal()))
    assert loaded.config.to_dict() == encoder.config.to_dict() | {"dtype": "float32"} | {
        key: value for key, value in loaded.config.to_dict().items() if key.startswith("_")
    }


@every_encoder
def test_what_a_file_lacks_is_initialised_not_left_as_it_lay_in_memory(name, tmp_path):
    encoder = moved(name)
    encoder.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    for dropped in sorted({path.split(".")[0] for path in weights}):
        rest = {path: w for path, w in weights.items() if path.split(".")[0] != dropped}
        save_file(rest, file, metadata={"format": "pt"})
        loaded = ENCODERS[name].from_pretrained(tmp_path)
        for path, tensor in loaded.state_dict().items():
            if path in rest:
                assert torch.equal(tensor, rest[path]), path  # what was there is not overwritten
            else:
                assert tensor.isfinite().all() and tensor.float().abs().max() < 10, path
    save_file(weights, file, metadata={"format": "pt"})


@every_encoder
def test_unknown_types_of_settings_are_refused(name):
    with pytest.raises(Exception, match="num_leads"):
        type(EXAMPLES[name])(num_leads="twelve")


def test_a_fresh_process_loads_all_of_them(tmp_path):
    signal = example_signal()
    for name in ENCODERS:
        encoder = build(name)
        encoder.save_pretrained(tmp_path / name)
        torch.save(pooled(encoder, signal), tmp_path / f"{name}.pt")
    torch.save(signal, tmp_path / "signal.pt")
    EcgProcessor(sampling_rate=250.0, seconds=5.0).save_pretrained(tmp_path / "vit1d")
    code = f"""
import torch, fm_med.auto
from transformers import AutoFeatureExtractor, AutoModel
signal = torch.load({str(tmp_path / "signal.pt")!r})
for name in {list(ENCODERS)!r}:
    encoder = AutoModel.from_pretrained({str(tmp_path)!r} + "/" + name).eval()
    with torch.no_grad():
        found = encoder(signal).pooler_output
    assert torch.equal(found, torch.load({str(tmp_path)!r} + f"/{{name}}.pt")), name
processor = AutoFeatureExtractor.from_pretrained({str(tmp_path / "vit1d")!r})
assert type(processor).__name__ == "EcgProcessor" and processor.sampling_rate == 250.0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_registering_twice_is_harmless():
    importlib.reload(importlib.import_module("fm_med.auto"))
