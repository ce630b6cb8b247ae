"""One folder holds a whole model: saved, loaded, refused when it is something else."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, BertConfig, BertModel

import fm_med
from fm_med import hub
from fm_med.alignment import AlignmentConfig, AlignmentHeads
from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.resnet1d import ResNet1dConfig, ResNet1dModel
from fm_med.ecg.simulate import simulate
from fm_med.ecg.vit1d import ViT1dConfig, ViT1dModel
from fm_med.errors import InputError

ENCODERS = {
    "dual_attention": lambda: DualAttentionModel(
        DualAttentionConfig(
            strides=(8, 4), widths=(8, 8), hidden_size=16, lead_heads=2, pooled_size=24
        )
    ),
    "resnet1d": lambda: ResNet1dModel(ResNet1dConfig(widths=(8, 16), depths=(1, 1), norm_groups=4)),
    "vit1d": lambda: ViT1dModel(
        ViT1dConfig(hidden_size=16, num_layers=2, num_heads=2, patch_samples=20)
    ),
}
RECORDINGS = [simulate(3, seed=2).recording(row) for row in range(3)]


def saved(folder, name="resnet1d", **options):
    """Save a model of random weights; return its encoder, processor and alignment."""
    torch.manual_seed(0)
    encoder = ENCODERS[name]()
    processor = EcgProcessor(leads=("I", "II", "V2"), seconds=8.0, high_pass=0.7)
    config = AlignmentConfig(signal_dim=encoder.config.pooled_size, text_dim=8, embedding_dim=6)
    alignment = AlignmentHeads(config)
    alignment.text_mean.copy_(torch.arange(8.0))
    hub.save(
        folder,
        encoder=encoder,
        processor=processor,
        alignment=alignment,
        sample=processor(RECORDINGS[:1]),
        **options,
    )
    return encoder.eval(), processor, alignment.eval()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_saved_model_is_the_same_when_loaded(tmp_path, name):
    encoder, processor, alignment = saved(tmp_path / "runs" / "model", name)
    model = fm_med.load(tmp_path / "runs" / "model")
    assert type(model.encoder) is type(encoder)
    assert not model.encoder.training and not model.alignment.training
    assert model.processor.to_dict() == processor.to_dict()
    with torch.inference_mode():
        expected = encoder(**processor(RECORDINGS)).pooler_output
        raw = torch.randn(4, 8)
        assert torch.equal(model.alignment.project_text(raw), alignment.project_text(raw))
        assert torch.equal(
            model.alignment.project_signal(expected), alignment.project_signal(expected)
        )
    features = model.embed(RECORDINGS)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, expected.numpy())
    np.testing.assert_array_equal(model.embed(RECORDINGS[0]), model.embed(RECORDINGS[:1]))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_auto_classes_read_the_same_folder(tmp_path, name):
    encoder, processor, _ = saved(tmp_path / "model", name)
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    assert torch.equal(
        loaded(**processor(RECORDINGS)).pooler_output,
        encoder(**processor(RECORDINGS)).pooler_output,
    )
    found = AutoFeatureExtractor.from_pretrained(tmp_path / "model")
    assert isinstance(found, EcgProcessor) and found.to_dict() == processor.to_dict()


def test_saving_again_replaces_the_whole_model(tmp_path):
    """A resumed run writes its model again; what an adapter left there must not stay."""
    folder = tmp_path / "model"
    saved(folder, "resnet1d")
    (folder / "adapter_config.json").write_text("{}")
    encoder, processor, _ = saved(folder, "vit1d")
    assert not (folder / "adapter_config.json").exists()
    with torch.inference_mode():
        expected = encoder(**processor(RECORDINGS)).pooler_output
    np.testing.assert_array_equal(fm_med.load(folder).embed(RECORDINGS), expected.numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OSError):
        saved(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_text_model_travels_along(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text("{}")
    saved(tmp_path / "model", text_model=tmp_path / "text")
    assert (tmp_path / "model" / "text_model" / "config.json").read_text() == "{}"
    fm_med.load(tmp_path / "model")


def test_a_model_that_does_not_come_back_is_not_kept(tmp_path, monkeypatch):
    original = ResNet1dModel.save_pretrained

    def forgetful(self, folder, **options):
        original(self, folder, **options)
        file = folder / "model.safetensors"
        tensors = {name: torch.zeros_like(value) for name, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})

    monkeypatch.setattr(ResNet1dModel, "save_pretrained", forgetful)
    with pytest.raises(RuntimeError, match="does not reproduce the trained encoder"):
        saved(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_without_alignment_there_is_none(tmp_path):
    saved(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "alignment")
    assert fm_med.load(tmp_path / "model").alignment is None


# ----------------------------------------------------------------------------------- Refusals


def no_folder(folder):
    return folder / "absent", "there is no folder"


def a_text_model(folder):
    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    BertModel(config).save_pretrained(folder / "bert")
    return (
        folder / "bert",
        "its model type is 'bert', which is taken for genes, but it has no token",
    )


def another_kind(folder):
    saved(folder / "model")
    config = folder / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "bert"}))
    return folder / "model", "its model type is 'bert'"


def a_run(folder):
    saved(folder / "run" / "model")
    return folder / "run", "is not a model of fm_med: it has no config.json"


def without_weights(folder):
    saved(folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    return folder / "model", "it has no model.safetensors"


@pytest.mark.parametrize("case", [no_folder, a_text_model, another_kind, a_run, without_weights])
def test_what_is_no_model_is_refused(tmp_path, case):
    folder, message = case(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        fm_med.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nobody/absent", "absent", "no such/thing at/all"])
def test_a_hub_id_while_offline_is_refused_at_once(name):
    begin = time.monotonic()
    with pytest.raises(InputError, match="no model that the Hub can give") as caught:
        fm_med.load(name)
    assert time.monotonic() - begin < 5
    assert "\n" not in str(caught.value)
    assert ("vit1d" in str(caught.value)) == ("/" not in name)  # who names the Hub means the Hub


# ------------------------------------------------------------------------- Where training starts


def test_a_name_starts_from_scratch():
    encoder, processor = hub.start_encoder("resnet1d", sampling_rate=250.0, seconds=4.0)
    assert isinstance(encoder, ResNet1dModel)
    assert (processor.sampling_rate, processor.seconds) == (250.0, 4.0)


def test_a_folder_goes_on_with_its_own_processor(tmp_path):
    encoder, processor, _ = saved(tmp_path / "model")
    found, its_processor = hub.start_encoder(
        str(tmp_path / "model"), sampling_rate=250.0, seconds=4.0
    )
    state = found.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert its_processor.to_dict() == processor.to_dict()
