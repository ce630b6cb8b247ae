"""Nothing in a model's folder runs, whatever somebody has planted there."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from frozen_models import FROZEN
from safetensors.torch import load_file

import fm_med
from fm_med.errors import InputError

WEIGHTS = {
    "encoder": "model.safetensors",
    "encoder/alignment": "model.safetensors",
    "risk/head": "model.safetensors",
    "adapter": "adapter_model.safetensors",
    "adapter/head": "model.safetensors",
}


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The frozen models of the present schema, to be spoilt."""
    shutil.copytree(sorted(FROZEN.iterdir())[-1], tmp_path / "models")
    monkeypatch.chdir(tmp_path / "models")  # the adapter knows its encoder as ./encoder
    return tmp_path / "models"


@pytest.mark.parametrize("place", WEIGHTS)
@pytest.mark.parametrize("kind", ["bomb", "weights"])
def test_a_pickle_is_never_loaded(models, tmp_path, place, kind):
    model, file = models / place.split("/")[0], models / place / WEIGHTS[place]
    fm_med.load(model)
    planted = file.with_name("adapter_model.bin" if place == "adapter" else "pytorch_model.bin")
    if kind == "bomb":
        planted.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    else:  # a harmless one is none of ours either
        torch.save(load_file(file), planted)
    fm_med.load(model)  # beside the real weights it is not looked at
    file.unlink()
    with pytest.raises(InputError, match=WEIGHTS[place]) as caught:
        fm_med.load(model)
    assert "\n" not in str(caught.value) and not (tmp_path / "boom").exists()
    planted.rename(file)  # nor under another name
    with pytest.raises(InputError, match="cannot be loaded"):
        fm_med.load(model)
    assert not (tmp_path / "boom").exists()


def test_code_of_a_repository_is_never_run(models, tmp_path):
    folder = models / "encoder"
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')\nclass Evil: pass\n")
    auto_map = dict.fromkeys(("AutoConfig", "AutoModel", "AutoFeatureExtractor"), "evil.Evil")
    for name in ("config.json", "preprocessor_config.json"):
        values = json.loads((folder / name).read_text()) | {"auto_map": auto_map}
        (folder / name).write_text(json.dumps(values))
        if name == "config.json":
            assert type(fm_med.load(folder).encoder).__name__ == "ViT1dModel"
    with pytest.raises(InputError, match="preprocessor_config.json has unknown keys auto_map"):
        fm_med.load(folder)
    assert not (tmp_path / "boom").exists()


def test_weights_elsewhere_are_not_fetched(models, tmp_path):
    """An index of shards may name any path; ours have none."""
    head = models / "risk" / "head"
    (head / "model.safetensors").rename(tmp_path / "outside.safetensors")
    names = load_file(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../../../outside.safetensors")}
    (head / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="has no model.safetensors"):
        fm_med.load(models / "risk")
