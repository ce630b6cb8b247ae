"""Images through the recipe: from a vision model of others to a saved SVM; what is refused."""

import json

import numpy as np
import pytest
import torch
from in_process import launch
from PIL import Image
from transformers import AutoModel, BertConfig, ResNetConfig

import fm_med
from fm_med.cli import main
from fm_med.cohort import open_cohort
from fm_med.ensemble import load_ensemble, make_ensemble
from fm_med.folds import read_table
from fm_med.sources.images import ImageColumns, make_images

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
SHORT = ("--task", "classification", "--target", "class", "--num_epochs", 2, "--augment", "none")
SMALL = {"widths": [8, 16], "depths": [1, 1], "norm_groups": 4, "dropout": 0.0}
SIXTEEN = ("--processor_settings", json.dumps({"height": 16, "width": 16}))
FRESH = ("--encoder", "spatial_attention", "--encoder_settings", json.dumps(SMALL), *SIXTEEN)


def cell(kind, seed, depth=255):
    """A bright or a dark disc on noise."""
    generator = np.random.default_rng(seed)
    down, across = np.mgrid[-1:1:20j, -1:1:20j]
    disc = down**2 + across**2 < 0.4
    return depth * np.clip(
        0.5 + (0.25 if kind else -0.25) * disc + generator.normal(0, 0.1, disc.shape), 0, 1
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def cells(place):
    """72 images of 24 smears, some with 16 bits, some with transparency."""
    folder = place / "cells"
    folder.mkdir()
    lines = ["file,smear,class,split"]
    for k in range(72):
        kind, smear = k % 2, k // 3
        if k % 5 == 0:
            image = Image.fromarray(cell(kind, k, 65535).astype(np.uint16))
        else:
            grey = Image.fromarray(cell(kind, k).astype(np.uint8))
            image = grey.convert("RGBA") if k % 7 == 0 else grey
        image.save(folder / f"{k}.png")
        lines.append(f"{k}.png,{smear},{'bright' if kind else 'dark'},{split_of(smear)}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def split_of(smear):
    return "test" if smear >= 20 else "validation" if smear >= 17 else "train"


@pytest.fixture(scope="module")
def cohort(place, cells):
    columns = ImageColumns("file", "smear", "class", (), "split")
    return make_images(cells, place / "cohort", table=cells / "manifest.csv", columns=columns)


@pytest.fixture(scope="module")
def resnet(place):
    folder = place / "resnet"
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(folder)
    stated = {"size": {"shortest_edge": 24}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


@pytest.fixture(scope="module")
def runs(place, cohort, resnet):
    """An SVM on frozen features of a foreign network, and a network trained from scratch."""
    folders = [place / "svm", place / "network"]
    frozen = ("--encoder", resnet, "--encoder_settings", '{"pooling": "skip"}', "--peft", "none")
    ways = ((*frozen, "--head", "svm"), (*FRESH, "--per_device_batch_size", 8))
    for folder, way in zip(folders, ways):
        argv = ("--cohort", cohort, *SHORT, *way, "--folds", 2, "--output", folder)
        assert launch("finetune", *argv) == 0
    return folders


def test_a_frozen_network_of_others_with_an_svm_is_saved_whole(runs, cohort):
    model = fm_med.load(runs[0] / "model")
    assert (model.processor.height, model.processor.fit) == (24, "crop")
    assert model.encoder.config.pooling == "skip" and model.details["training"]["head"] == "svm"
    rows = open_cohort(cohort).splits["test"]
    columns = model.predict(rows)
    assert list(columns) == ["probability_bright", "probability_dark", "predicted"]
    called = np.where(columns["probability_bright"] > 0.5, "bright", "dark")
    assert (columns["predicted"] == called).all()
    assert (called == np.array(rows["class"].to_pylist())).mean() > 0.8
    stated = read_table(runs[0] / "report" / "predictions.csv")
    test = stated["split"] == "test"
    np.testing.assert_allclose(
        stated["probability_bright"][test], columns["probability_bright"], atol=1e-6
    )
    assert not [p for p in (runs[0] / "model").rglob("*") if p.suffix in (".bin", ".pkl", ".pt")]


def test_two_runs_become_an_ensemble(runs, cohort, tmp_path):
    made = make_ensemble(tmp_path / "both", runs)
    assert made.weights.sum() == pytest.approx(1)
    columns = load_ensemble(tmp_path / "both").predict(open_cohort(cohort).splits["test"])
    np.testing.assert_allclose(sum(columns.values()), 1)


def the_error(capsys, status):
    error = capsys.readouterr().err
    assert status == 2, error
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--clinical", "age"), "age"),
        (("--encoder_settings", '{"pooling": "all"}'), "pooling"),
        (("--save_adapter",), "--save_adapter needs --peft lora"),
    ],
)
def test_the_recipe_refuses(argv, message, cohort, resnet, tmp_path, capsys):
    given = ("--cohort", cohort, *SHORT, "--encoder", resnet, "--peft", "none", "--head", "svm")
    status = launch("finetune", *given, *argv, "--output", tmp_path / "out")
    assert message in the_error(capsys, status)


def test_a_text_model_is_no_image_encoder(cohort, tmp_path, capsys):
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    AutoModel.from_config(config).save_pretrained(tmp_path / "bert")
    capsys.readouterr()
    (tmp_path / "bert" / "preprocessor_config.json").write_text("{}")
    argv = ("--cohort", cohort, *SHORT, "--encoder", tmp_path / "bert")
    status = launch("finetune", *argv, "--output", tmp_path / "out")
    assert "'bert', which can read rna, and the cohort holds image" in the_error(capsys, status)


def test_a_class_that_the_training_rows_lack(place, cells, tmp_path, capsys):
    lines = (cells / "manifest.csv").read_text().splitlines()
    lines[-1] = lines[-1].replace("bright", "odd")
    (tmp_path / "odd.csv").write_text("\n".join(lines) + "\n")
    columns = ImageColumns("file", "smear", "class", (), "split")
    odd = make_images(cells, tmp_path / "odd", table=tmp_path / "odd.csv", columns=columns)
    status = launch("finetune", "--cohort", odd, *SHORT, *FRESH, "--output", tmp_path / "out")
    assert "that the training split lacks: odd" in the_error(capsys, status)


def conversion(cells, tmp_path, change, *flags):
    lines = (cells / "manifest.csv").read_text().splitlines()
    (tmp_path / "m.csv").write_text("\n".join(change(lines)) + "\n")
    argv = ["cohort", "images", str(cells), str(tmp_path / "made"), "--class_column", "class"]
    return main([*argv, "--table", str(tmp_path / "m.csv"), "--path", "file", *flags])


def test_a_group_that_leaks_and_no_group_at_all(cells, tmp_path, capsys):
    flags = ("--group", "smear", "--split", "split")
    status = conversion(
        cells, tmp_path, lambda lines: [*lines[:-1], lines[-1].replace("test", "train")], *flags
    )
    assert "more than one split" in the_error(capsys, status)
    status = conversion(cells, tmp_path, list)
    assert "name it with --group, or say --without_groups" in the_error(capsys, status)


def test_no_image_and_an_empty_class(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "folder" / name).mkdir(parents=True)
    (tmp_path / "folder" / "a" / "1.png").write_text("no image")
    argv = ["cohort", "images", str(tmp_path / "folder"), str(tmp_path / "made")]
    status = main([*argv, "--without_groups"])
    assert "folder/b holds no image" in the_error(capsys, status)
    (tmp_path / "folder" / "b" / "1.png").write_text("nor this")
    assert main([*argv, "--without_groups"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
