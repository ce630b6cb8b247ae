"""What every encoder of every room owes its callers; examples are in `encoder_examples.py`."""

import importlib
import re
import subprocess
import sys

import pytest
import torch
from encoder_examples import ENCODERS, EXAMPLES, build, inputs_of, pooled
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from fm_med.ecg.processor import EcgProcessor

ATTENTIVE = [name for name, example in EXAMPLES.items() if example.attentive]

# peft asks transformers by an old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
every_encoder = pytest.mark.parametrize("name", ENCODERS)
# An encoder without weights owes neither gradients nor adapters, but everything else.
every_trainable_encoder = pytest.mark.parametrize(
    "name", [name for name in ENCODERS if not EXAMPLES[name].weightless]
)


def test_every_encoder_has_an_example():
    assert set(EXAMPLES) == set(ENCODERS)


@every_encoder
def test_the_documented_shapes(name):
    encoder = build(name)
    asked = encoder(**inputs_of(name, 2), output_hidden_states=True, output_attentions=True)
    assert asked.pooler_output.shape == (2, encoder.config.pooled_size)
    assert asked.last_hidden_state.shape[0] == 2
    assert asked.last_hidden_state.shape[2] == encoder.config.hidden_size
    assert all(state.shape[0] == 2 for state in asked.hidden_states)
    for weights in asked.attentions or ():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    without = encoder(**inputs_of(name, 2))
    assert without.hidden_states is None and without.attentions is None
    torch.testing.assert_close(without.pooler_output, asked.pooler_output, rtol=1e-4, atol=1e-4)


@every_encoder
def test_a_record_does_not_depend_on_the_others(name):
    encoder, inputs = build(name), inputs_of(name, 4)
    second = {key: value[1:2] for key, value in inputs.items()}
    alone, together = pooled(encoder, second), pooled(encoder, inputs)[1:2]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@every_trainable_encoder
def test_every_parameter_gets_a_gradient(name):
    encoder = build(name).train()
    encoder(**inputs_of(name, 8)).pooler_output.square().sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        if parameter_name.endswith(EXAMPLES[name].without_gradient or "never"):
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        if not parameter_name.endswith("k_proj.bias"):  # shifts all scores of a query alike
            assert parameter.grad.abs().max() > 0, parameter_name


@every_encoder
def test_only_an_encoder_that_says_so_has_no_weights(name):
    encoder = build(name)
    assert EXAMPLES[name].weightless == (not any(True for _ in encoder.parameters()))
    assert EXAMPLES[name].weightless == (not getattr(encoder, "has_weights", True))


@every_encoder
def test_the_same_input_gives_the_same_bits(name):
    inputs = inputs_of(name)
    assert torch.equal(pooled(build(name), inputs), pooled(build(name), inputs))


@pytest.mark.parametrize("name", ATTENTIVE)
@pytest.mark.parametrize("projection", ["q_proj", "k_proj"])
def test_each_attention_matters(name, projection):
    """An attention over one token, or one whose result is dropped, would not notice."""
    encoder, inputs = build(name), inputs_of(name)
    base = pooled(encoder, inputs)
    modules = [module for path, module in encoder.named_modules() if path.endswith(projection)]
    assert modules
    for module in modules:
        weight = next(module.parameters())
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(-3.0)
        assert not torch.allclose(pooled(encoder, inputs), base, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            weight.copy_(kept)


@every_encoder
def test_bfloat16_autocast_is_close(name):
    encoder, inputs = build(name), inputs_of(name)
    exact = pooled(encoder, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pooled(encoder, inputs).float()
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


@every_trainable_encoder
def test_adapters_act_in_evaluation_mode_and_survive_merging_and_reloading(name, tmp_path):
    inputs = inputs_of(name)
    base, model = pooled(build(name), inputs), adapted(name)
    adapters = {path for path, _ in model.named_parameters() if "lora_" in path}
    encoder = model.base_model.model
    stacked = (path.rpartition(".")[0] for path in encoder.lora_parameters)
    for target in (*encoder.lora_targets, *stacked):
        assert any(re.search(rf"{target}\.(base_layer\.)*lora_A", path) for path in adapters), (
            target
        )
    with_adapter = pooled(model, inputs)
    assert (with_adapter - base).norm() / base.norm() > 0.01
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    reloaded = PeftModel.from_pretrained(build(name), tmp_path).eval()
    weights = dict(model.named_parameters())
    assert all(torch.equal(weight, weights[path]) for path, weight in reloaded.named_parameters())
    # Not bit for bit: a file's weights lie at other addresses, which changes MKL's order of sums.
    torch.testing.assert_close(pooled(reloaded, inputs), with_adapter, rtol=1e-5, atol=1e-5)
    merged = pooled(model.merge_and_unload(), inputs)
    torch.testing.assert_close(merged, with_adapter, rtol=1e-4, atol=1e-4)


@every_trainable_encoder
def test_every_adapter_gets_a_gradient(name):
    model = adapted(name).train()
    model(**inputs_of(name)).pooler_output.square().sum().backward()
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
    assert torch.equal(pooled(loaded, inputs_of(name)), pooled(encoder, inputs_of(name)))
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
    config = EXAMPLES[name].config
    with pytest.raises(Exception, match="hidden_size"):
        type(config)(hidden_size="twelve")


def test_a_fresh_process_loads_all_of_them(tmp_path):
    for name in ENCODERS:
        encoder = build(name)
        encoder.save_pretrained(tmp_path / name)
        torch.save((inputs_of(name), pooled(encoder, inputs_of(name))), tmp_path / f"{name}.pt")
    EcgProcessor(sampling_rate=250.0, seconds=5.0).save_pretrained(tmp_path / "vit1d")
    code = f"""
import torch, fm_med.auto
from transformers import AutoFeatureExtractor, AutoModel
for name in {list(ENCODERS)!r}:
    encoder = AutoModel.from_pretrained({str(tmp_path)!r} + "/" + name).eval()
    inputs, expected = torch.load({str(tmp_path)!r} + f"/{{name}}.pt")
    with torch.no_grad():
        found = encoder(**inputs).pooler_output
    assert torch.equal(found, expected), name
processor = AutoFeatureExtractor.from_pretrained({str(tmp_path / "vit1d")!r})
assert type(processor).__name__ == "EcgProcessor" and processor.sampling_rate == 250.0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_registering_twice_is_harmless():
    importlib.reload(importlib.import_module("fm_med.auto"))
