"""Embeddings in Parquet: every row once and in order, by any model, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from fitted_models import fitted, saved, small_cohort
from forked import run
from in_process import REPOSITORY, launch

import fm_med
from fm_med import cli, embedding
from fm_med.cohort import open_cohort
from fm_med.lora import adapter_parameters, attach_lora, save_adapter
from fm_med.sources.images import make_images


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return small_cohort(tmp_path_factory.mktemp("embedding") / "cohort", subjects=40)


@pytest.fixture(scope="module")
def model(cohort):
    return saved(cohort.path.with_name("model"), fitted(cohort), cohort)


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def vectors(table):
    return np.stack(table.column("embedding").to_numpy())


def written(path):
    table = pq.read_table(path)
    return table, vectors(table)


def embed(model, cohort, output, *more):
    words = ("--model", model, "--cohort", cohort.path, "--output", output, *more)
    return launch("embed", *words)


def test_every_row_once_in_the_cohorts_order(model, cohort, tmp_path, capsys):
    assert embed(model, cohort, tmp_path / "e.parquet", "--columns", "age", "sex", "AFIB") == 0
    table, found = written(tmp_path / "e.parquet")
    for name in ("subject_id", "record_id", "split", "sex"):
        every = [v for split in cohort.splits for v in cohort.column(split, name)]
        assert table.column(name).to_pylist() == every
    assert table.column_names[3:] == ["embedding", "age", "sex", "AFIB"]
    loaded = fm_med.load(model)
    expected = np.concatenate([loaded.embed(rows) for rows in cohort.splits.values()])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert f"{len(found)} rows of width 24: {tmp_path}" in capsys.readouterr().out


def test_the_file_says_what_made_it(model, cohort, tmp_path):
    assert embed(model, cohort, tmp_path / "e.parquet", "--splits", "test") == 0
    about = embedding.metadata(tmp_path / "e.parquet")
    assert about == json.loads(pq.read_schema(tmp_path / "e.parquet").metadata[b"fm_med"])
    assert (about["width"], about["splits"]) == (24, ["test"])
    assert about["cohort_fingerprint"] == cohort.fingerprint
    assert about["model"] == str(model) and len(about["model_sha256"]) == 64
    assert about["encoder"] == "fm_med_dual_attention"
    schema = pq.read_schema(tmp_path / "e.parquet")
    assert str(schema.field("embedding").type) == "fixed_size_list<element: float>[24]"
    assert pq.read_table(tmp_path / "e.parquet").num_rows == cohort.splits["test"].num_rows


def test_rows_are_written_group_by_group(model, cohort, tmp_path, monkeypatch, accelerator):
    source = embedding.open_source(str(model), cohort, accelerator)
    embedding.embed_cohort(source, cohort, tmp_path / "whole.parquet", accelerator)
    monkeypatch.setattr(embedding, "ROWS_AT_ONCE", 16)
    embedding.embed_cohort(source, cohort, tmp_path / "parts.parquet", accelerator, batch_size=8)
    rows = sum(table.num_rows for table in cohort.splits.values())
    assert pq.ParquetFile(tmp_path / "parts.parquet").num_row_groups == -(-rows // 16)
    (whole, a), (parts, b) = (written(tmp_path / f"{name}.parquet") for name in ("whole", "parts"))
    assert whole.drop_columns("embedding").equals(parts.drop_columns("embedding"))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_nothing_is_left_of_a_run_that_failed(model, cohort, tmp_path, monkeypatch, accelerator):
    source = embedding.open_source(str(model), cohort, accelerator)
    calls = []

    def failing(*arguments, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the device is gone")
        return encode_rows(*arguments, **settings)

    encode_rows = embedding.encode_rows
    monkeypatch.setattr(embedding, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(embedding, "encode_rows", failing)
    with pytest.raises(RuntimeError, match="gone"):
        embedding.embed_cohort(source, cohort, tmp_path / "e.parquet", accelerator, batch_size=8)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_write_what_one_writes(model, cohort, tmp_path):
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    assert embed(model, cohort, one, "--columns", "age") == 0
    words = ("--model", model, "--cohort", cohort.path, "--output", two, "--columns", "age")
    log = tmp_path / "log"
    assert run(*words, log=log, processes=2, recipe="embed") == [0, 0], log.read_text()
    assert log.read_text().count("rows of width 24") == 1
    (a, first), (b, second) = written(one), written(two)
    assert a.drop_columns("embedding").equals(b.drop_columns("embedding"))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_the_command_writes_the_same(model, cohort, tmp_path, capsys):
    assert embed(model, cohort, tmp_path / "a.parquet") == 0
    words = ["embed", model, cohort.path, tmp_path / "b.parquet"]
    try:
        assert cli.main([str(word) for word in words]) == 0
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    tables = [pq.read_table(tmp_path / f"{name}.parquet") for name in "ab"]
    assert tables[0].equals(tables[1], check_metadata=True)
    assert capsys.readouterr().out.count("rows of width 24") == 2


def test_an_adapter_alone_embeds_with_its_encoder(model, cohort, tmp_path):
    base = fm_med.load(model)
    adapter = attach_lora(base.encoder, rank=2)
    with torch.no_grad():
        for name, parameter in adapter_parameters(adapter):
            parameter.fill_(0.1 if "lora_B" in name else 0.2)
    folder = tmp_path / "adapter"
    save_adapter(adapter, folder, base=str(model), base_folder=model)
    base.processor.save_pretrained(folder)
    assert embed(folder, cohort, tmp_path / "a.parquet", "--splits", "test") == 0
    assert embed(model, cohort, tmp_path / "b.parquet", "--splits", "test") == 0
    found, plain = (written(tmp_path / f"{name}.parquet")[1] for name in "ab")
    expected = fm_med.load(folder).embed(cohort.splits["test"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - plain).max() > 1e-3
    hashes = {embedding.metadata(tmp_path / f"{name}.parquet")["model_sha256"] for name in "ab"}
    assert len(hashes) == 2


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A cohort of 12 small images."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("cells")
    generator = np.random.default_rng(0)
    for k in range(12):
        path = folder / "images" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    make_images(folder / "images", folder / "cohort", without_groups=True)
    return open_cohort(folder / "cohort")


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """A small foreign vision model as transformers saves one."""
    from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

    folder = tmp_path_factory.mktemp("vision") / "resnet"
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    ResNetModel(ResNetConfig(**sizes, layer_type="basic")).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_a_foreign_vision_model_embeds_images(cells, vision, tmp_path):
    assert embed(vision, cells, tmp_path / "last.parquet") == 0
    more = ("--encoder_settings", '{"pooling": "skip"}')
    assert embed(vision, cells, tmp_path / "skip.parquet", *more) == 0
    last, skip = (written(tmp_path / f"{name}.parquet")[1] for name in ("last", "skip"))
    assert (last.shape, skip.shape) == ((12, 16), (12, 24))
    np.testing.assert_allclose(last, skip[:, 8:], atol=1e-6)
    about = embedding.metadata(tmp_path / "last.parquet")
    assert about["encoder"] == "fm_med_hub_backbone"


def test_bad_input_is_refused_in_one_line(model, cohort, cells, vision, tmp_path, capsys):
    there = tmp_path / "there.parquet"
    there.write_text("")
    good = ("--model", model, "--cohort", cohort.path)
    out = ("--output", tmp_path / "out.parquet")
    for words, message in (
        ((*good, "--output", there), "there.parquet exists already"),
        ((*good, "--output", there / "e.parquet"), "is a file"),
        ((*good, *out, "--splits", "exam"), "has no split 'exam'; it has train"),
        ((*good, *out, "--columns", "wieght"), "has no column 'wieght'; it has subject_id"),
        ((*good, *out, "--columns", "split"), "columns names 'split', which is written anyway"),
        (("--model", model, "--cohort", cells.path, *out), "but the cohort holds image"),
        (
            ("--model", vision, "--cohort", cohort.path, *out),
            "can read image, and the cohort holds ecg",
        ),
        (("--model", "vit1d", "--cohort", cohort.path, *out), "would start with random weights"),
        (("--model", "tabm", "--cohort", cohort.path, *out), "tabm is an encoder of tabular"),
        (("--model", "nobody/nothing", "--cohort", cohort.path, *out), "nobody/nothing is no"),
    ):
        assert launch("embed", *words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.parquet"]
    with pytest.raises(fm_med.errors.InputError, match="cannot be read"):
        embedding.metadata(there)


def test_help_needs_nothing_heavy():
    code = "import sys, runpy; sys.argv = ['embed.py', '--help']\ntry:\n"
    code += "    runpy.run_path('recipes/embed.py', run_name='__main__')\n"
    code += "except SystemExit: pass\nprint('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "--columns" in done.stdout
    assert done.stderr.strip().endswith("False")
