"""timm's checkpoints give what timm computes, without timm; reference_timm.py asked it."""

import json
import shutil

import numpy as np
import pytest
import timm_checkpoints as small
import torch
from huggingface_hub import constants
from in_process import launch
from PIL import Image
from safetensors.torch import save_file as save_tensors
from transformers import AutoModel, ViTConfig

import fm_med
from fm_med import hub
from fm_med.cohort import CohortCard, open_cohort
from fm_med.errors import InputError
from fm_med.image.timm_networks import KNOWN, timm_network
from fm_med.lora import attach_lora, check_adapter, load_adapter, merge, save_adapter
from fm_med.sources.images import make_images

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
CARD = CohortCard(name="some", modality="image", units="brightness")
REFERENCE = small.reference()
CASES = REFERENCE["cases"]
RESIZED = [name for name, case in CASES.items() if "other_size" in case]


def edge(case):
    return case["config"]["model_args"]["img_size"][0]


def encoder_of(folder, size, **settings):
    sizes = {"height": size, "width": size}
    start = hub.start_from(
        str(folder), CARD, encoder_settings=settings, processor_settings=sizes
    ).saved
    return start.encoder


def run(encoder, size, **asked):
    with torch.no_grad():
        return encoder(torch.from_numpy(small.pixels(size)), **asked)


@pytest.fixture
def dinobloom(tmp_path):
    return small.write(tmp_path / "dinobloom", CASES["dinobloom"])


@pytest.mark.parametrize("name", CASES)
def test_the_features_are_timms(name, tmp_path):
    case = CASES[name]
    encoder = encoder_of(small.write(tmp_path / name, case), edge(case))
    found = run(encoder, edge(case), output_hidden_states=True)
    expected = torch.tensor(case["features"])
    assert expected.std() > 0.3
    torch.testing.assert_close(found.last_hidden_state[0], expected, rtol=1e-5, atol=1e-5)
    if len(found.hidden_states) > 1:
        first = torch.tensor(case["first_layer"])
        torch.testing.assert_close(found.hidden_states[0][0], first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RESIZED)
def test_for_another_image_size_too(name, tmp_path):
    case = CASES[name]
    size = case["other_size"]
    encoder = encoder_of(small.write(tmp_path / name, case), size)
    expected = torch.tensor(case["other_features"])
    found = run(encoder, size).last_hidden_state[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_for_an_oblong_image_transformers_stretches_the_checkpoints_own_positions(dinobloom):
    settings = {"height": 42, "width": 28}
    start = hub.start_from(str(dinobloom), CARD, processor_settings=settings).saved
    oblong = torch.from_numpy(small.pixels(42))[..., :28]
    with torch.no_grad():
        found = start.encoder(oblong).last_hidden_state
        expected = encoder_of(dinobloom, 28)(oblong).last_hidden_state
    assert found.shape == (1, 1 + 3 * 2, 24)
    assert torch.equal(found, expected)


def test_every_architecture_that_is_read_is_what_timm_has_of_its_name(tmp_path):
    read = []
    for name in (*REFERENCE["architectures"], *REFERENCE["others"]):
        try:
            network = timm_network({"architecture": name}, tmp_path)
        except InputError:
            continue
        read.append(name)
        facts = REFERENCE["architectures"][name]
        assert {key: getattr(network, key) for key in facts} == facts, name
    assert len(read) == 26
    assert {"vit_giant_patch14_reg4_dinov2", "vit_small_patch14_dinov2"} < set(read)


@pytest.mark.parametrize("name", ["dinobloom", "registers", "plain", "gated"])
def test_pooled_saved_and_loaded_again(name, tmp_path):
    case = CASES[name]
    encoder = encoder_of(small.write(tmp_path / name, case), edge(case), pooling="skip")
    features = torch.tensor(case["features"])
    last = torch.cat([features[0], features[-4:].mean(0)])  # four patches after any registers
    found = run(encoder, edge(case)).pooler_output
    assert found.shape[1] == encoder.config.pooled_size
    torch.testing.assert_close(found[0, -len(last) :], last, rtol=1e-5, atol=1e-5)
    encoder.save_pretrained(tmp_path / "ours")
    ours = AutoModel.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(run(ours, edge(case)).pooler_output, found)
    assert ours.state_dict().keys() == encoder.state_dict().keys()


@pytest.mark.parametrize("name", ["dinobloom", "gated", "plain"])
def test_adapters_act_and_are_loaded_again(name, tmp_path):
    base, size = small.write(tmp_path / name, CASES[name]), edge(CASES[name])
    encoder = fm_med.load(base).encoder
    before = run(encoder, size).pooler_output
    adapter = attach_lora(encoder, rank=2)
    check_adapter(encoder, {"pixel_values": torch.from_numpy(small.pixels(size))})
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
    encoder(torch.from_numpy(small.pixels(size))).pooler_output.square().sum().backward()
    optimizer.step()
    after = run(encoder, size).pooler_output
    assert (after - before).abs().max() > 1e-3
    save_adapter(adapter, tmp_path / "adapter", base=str(base), base_folder=base)
    loaded = load_adapter(fm_med.load(base).encoder, tmp_path / "adapter", base_folder=base)
    assert torch.equal(run(loaded.eval(), size).pooler_output, after)
    merged = run(merge(loaded).eval(), size).pooler_output
    torch.testing.assert_close(merged, after, rtol=1e-4, atol=1e-5)


def test_image_size_and_channels_are_the_checkpoints(tmp_path):
    stated = CASES["plain"]["config"]
    processor = fm_med.load(small.write(tmp_path / "a", CASES["plain"])).processor
    assert (processor.height, processor.width, processor.fit) == (28, 28, "crop")
    assert processor.mean == [0.5] * 3 and processor.middle == 1  # crop_pct is to be asked for
    cfg = stated["pretrained_cfg"] | {"crop_mode": "squash", "mean": [0.7, 0.6, 0.5]}
    config = stated | {"pretrained_cfg": cfg}
    squashed = fm_med.load(small.write(tmp_path / "b", CASES["plain"], config=config)).processor
    assert squashed.fit == "stretch" and squashed.mean == [0.7, 0.6, 0.5]


def test_half_precision_is_read_as_single(tmp_path):
    case = CASES["dinobloom"]
    half = {k: torch.from_numpy(v).bfloat16() for k, v in small.weights(case["shapes"]).items()}
    same = {name: value.float().numpy() for name, value in half.items()}
    whole = small.write(tmp_path / "whole", case, tensors=same)
    folder = small.write(tmp_path / "half", case)
    save_tensors(half, folder / "model.safetensors")
    encoder = encoder_of(folder, 42)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    expected = run(encoder_of(whole, 42), 42).pooler_output
    assert torch.equal(run(encoder, 42).pooler_output, expected)


def test_an_encoder_does_not_change_with_the_file_it_came_from(dinobloom):
    encoder = fm_med.load(dinobloom).encoder
    with (dinobloom / "model.safetensors").open("r+b") as file:
        file.write(bytes((dinobloom / "model.safetensors").stat().st_size))
    expected = torch.tensor(CASES["dinobloom"]["features"])
    found = run(encoder, 28).last_hidden_state[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_config_may_name_a_model_type_beside_timms_architecture(tmp_path):
    """Some repositories do, with the weights of either library."""
    case = CASES["dinobloom"]
    both = case["config"] | {"model_type": "dinov2"}
    wrapped = case["config"] | {"model_type": "timm_wrapper"}
    named = {f"timm_model.{k}": v for k, v in small.weights(case["shapes"]).items()}
    for folder in (
        small.write(tmp_path / "both", case, config=both),
        small.write(tmp_path / "wrapped", case, config=wrapped, tensors=named),
    ):
        found = run(fm_med.load(folder).encoder, 28).last_hidden_state[0]
        expected = torch.tensor(case["features"])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    config = ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    theirs = AutoModel.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architecture": "vit_tiny"}))
    settings = {"height": 32, "width": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    start = hub.start_from(str(tmp_path / "theirs"), CARD, processor_settings=settings).saved
    with torch.no_grad():
        expected = theirs(torch.from_numpy(small.pixels(32))).last_hidden_state
    torch.testing.assert_close(run(start.encoder, 32).last_hidden_state, expected)


ARGUMENTS = CASES["dinobloom"]["config"]["model_args"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "resnet50"}, f"timm's 'resnet50' is not read; read are {KNOWN}"),
        ({"architecture": "vit_base_patch16_224_miil"}, "vit_base_patch16_224_miil' is not read"),
        ({"architecture": "vit_giant_patch14_224"}, "vit_giant_patch14_224' is not read"),
        ({"pretrained_cfg": {}}, "does not state the mean of images in pretrained_cfg; state"),
    ],
)
def test_a_config_that_is_not_read(changed, message, tmp_path):
    case = CASES["dinobloom"]
    folder = small.write(tmp_path / "c", case, config=case["config"] | changed)
    with pytest.raises(InputError, match=message.replace("{", r"\{")) as caught:
        fm_med.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"act_layer": "relu"}, "has the argument act_layer = 'relu', which is not read; read are"),
        ({"class_token": False}, "class_token = False"),
        ({"num_heads": 5}, "embed_dim 24 is no multiple of num_heads 5"),
        ({"depth": 3}, r"lacks blocks.2.norm1.weight, which .* with shape \(24,\)"),
        ({"depth": 1}, r"has blocks.1.attn.proj.bias with shape \(24,\)"),
        ({"mlp_ratio": 3.0}, r"mlp.fc1.weight in .* \(96, 24\), vit_small.* has \(72, 24\)"),
        ({"no_embed_class": True}, r"pos_embed .*\(1, 5, 24\).*\(1, 4, 24\)"),
    ],
)
def test_an_argument_that_is_not_read_or_not_that_of_the_weights(argument, message, tmp_path):
    case = CASES["dinobloom"]
    config = case["config"] | {"model_args": ARGUMENTS | argument}
    with pytest.raises(InputError, match=message) as caught:
        fm_med.load(small.write(tmp_path / "c", case, config=config))
    assert "\n" not in str(caught.value)


def test_an_mlp_that_transformers_does_not_have(tmp_path):
    case = CASES["dinobloom"]
    config = case["config"] | {"model_args": ARGUMENTS | {"mlp_ratio": 3.5}}
    shapes = {k: [84 if n == 96 else n for n in shape] for k, shape in case["shapes"].items()}
    folder = small.write(tmp_path / "c", case, config=config, tensors=small.weights(shapes))
    with pytest.raises(InputError, match="MLP of width 84 for tokens of 24 has no equal"):
        fm_med.load(folder)


def weights_with(change):
    tensors = small.weights(CASES["dinobloom"]["shapes"])
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("blocks.1.ls2.gamma"),
            r"lacks blocks.1.ls2.gamma, which vit_small_patch14_dinov2 has with shape \(24,\)",
        ),
        (
            lambda w: w.update({"norm_pre.weight": np.ones(24, np.float32)}),
            r"has norm_pre.weight with shape \(24,\), which vit_small_patch14_dinov2 has not",
        ),
        (
            lambda w: w.update({"cls_token": w["cls_token"][0]}),
            r"cls_token in .*model.safetensors has shape \(1, 24\), .* has \(1, 1, 24\)",
        ),
        (
            lambda w: w.update({"pos_embed": w["pos_embed"][0, 0]}),
            r"pos_embed in .* has shape \(24,\)",
        ),
        (lambda w: w.pop("pos_embed"), "lacks pos_embed"),
    ],
)
def test_weights_that_are_not_whole(change, message, tmp_path):
    case = CASES["dinobloom"]
    folder = small.write(tmp_path / "c", case, tensors=weights_with(change))
    with pytest.raises(InputError, match=message) as caught:
        fm_med.load(folder)
    assert "\n" not in str(caught.value)


def test_pickles_and_damaged_files_are_refused(dinobloom):
    path = dinobloom / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        fm_med.load(dinobloom)
    path.rename(dinobloom / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are not read"):
        fm_med.load(dinobloom)


def test_an_image_smaller_than_a_patch_is_refused(dinobloom):
    with pytest.raises(InputError, match="smaller than 14 pixels hold no patch"):
        encoder_of(dinobloom, 10)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """40 images of two classes that differ in brightness."""
    folder = tmp_path_factory.mktemp("cells")
    generator = np.random.default_rng(0)
    for k in range(40):
        path = folder / "images" / ("dark", "bright")[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = generator.integers(0, 120, (30, 30, 3)) + 120 * (k % 2)
        Image.fromarray(values.astype(np.uint8)).save(path)
    return make_images(folder / "images", folder / "cohort", without_groups=True)


SHORT = ("--task", "classification", "--target", "class", "--num_epochs", 1)
SKIP = ("--encoder_settings", '{"pooling": "skip"}')


def test_the_recipe_trains_a_head_on_a_folder(cohort, dinobloom, tmp_path):
    given = ("--cohort", cohort, *SHORT, *SKIP, "--encoder", dinobloom, "--peft", "none")
    assert launch("finetune", *given, "--output", tmp_path / "run") == 0
    here = fm_med.load(tmp_path / "run" / "model").encoder
    expected = run(encoder_of(dinobloom, 28, pooling="skip"), 28).pooler_output
    assert torch.equal(run(here, 28).pooler_output, expected)


def test_the_recipe_trains_adapters_on_one_of_the_hub_without_network(
    cohort, dinobloom, tmp_path, monkeypatch
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--clinic--vit_small.dinobloom"
    shutil.copytree(dinobloom, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    given = ("--cohort", cohort, *SHORT, "--encoder", "clinic/vit_small.dinobloom")
    lora = ("--peft", "lora", "--save_adapter", "--output", tmp_path / "run")
    assert launch("finetune", *given, *lora) == 0
    whole, alone = (fm_med.load(tmp_path / "run" / "model" / part) for part in (".", "adapter"))
    named = json.loads((tmp_path / "run/model/adapter/adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == "clinic/vit_small.dinobloom"
    assert named["revision"] == commit
    assert whole.encoder.config.backbone["model_type"] == "dinov2"
    rows = open_cohort(cohort).splits["test"]
    columns = whole.predict(rows)
    assert set(columns["predicted"]) <= {"bright", "dark"}
    for name, values in alone.predict(rows).items():
        np.testing.assert_array_equal(values, columns[name])


def test_another_modality_is_refused_in_one_line(dinobloom):
    other = CohortCard(name="some", modality="ecg", units="mV")
    with pytest.raises(InputError, match="'timm', which can read image, and the cohort holds ecg"):
        hub.start_from(str(dinobloom), other)
