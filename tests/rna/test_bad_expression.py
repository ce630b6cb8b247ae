"""Bad input of transcriptomes: one line that begins with `error:`, status 2, nothing written."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from in_process import launch

import fm_med
from fm_med.cli import main
from fm_med.cohort import CohortWriter, open_cohort

GENES = [f"ENSG{number:011d}" for number in range(1, 41)]
SAMPLES = [f"s{number}" for number in range(60)]
TINY = '{"num_tokens": 2, "hidden_size": 8, "num_heads": 2, "num_layers": 1}'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad-expression")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FM_MED_CACHE", str(folder / "cache"))
        yield folder


def counts(seed=0, genes=GENES, samples=SAMPLES):
    drawn = np.random.default_rng(seed).poisson(50, (len(samples), len(genes)))
    return pd.DataFrame(drawn, index=pd.Index(samples, name="sample"), columns=list(genes))


def described(folder, subtypes=("A", "B")):
    table = pd.DataFrame({"sample": SAMPLES, "subtype": list(subtypes) * (60 // len(subtypes))})
    table.to_csv(folder / "samples.csv", index=False)
    return folder / "samples.csv"


def convert(folder, frame, *more, unit="counts", file="counts.csv"):
    if file.endswith(".h5ad"):
        import scanpy

        scanpy.AnnData(frame.astype(np.float32)).write_h5ad(folder / file)
    else:
        frame.to_csv(folder / file)
    words = ["cohort", "matrix", folder / "cohort", "--matrix", folder / file, "--unit", unit]
    words += ["--table", described(folder), "--sample", "sample", "--class_column", "subtype"]
    return main([str(word) for word in (*words, *more)])


def the_error(capsys, status):
    error = capsys.readouterr().err
    assert status == 2, error
    assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n")
    return error


def test_counts_declared_as_tpm(tmp_path, capsys):
    error = the_error(capsys, convert(tmp_path, counts(), unit="tpm"))
    assert "declared as tpm" in error and "all values are whole numbers" in error
    assert not (tmp_path / "cohort").exists()


@pytest.mark.parametrize("file", ["counts.csv", "counts.h5ad"])
def test_a_transposed_matrix(file, tmp_path, capsys):
    turned = counts().T.rename_axis("sample")
    declared = ("--orientation", "samples_by_genes") if file.endswith("csv") else ()
    error = the_error(capsys, convert(tmp_path, turned, *declared, file=file))
    assert ("genes_by_samples by its ids" if declared else "lies on its side") in error
    assert not (tmp_path / "cohort").exists()


@pytest.mark.parametrize("version", [".12", ""])
def test_a_gene_twice(version, tmp_path, capsys):
    """By another version or the very same name, in a CSV that holds two columns of it."""
    twice = [*GENES[:-1], f"{GENES[0]}{version}"]
    error = the_error(capsys, convert(tmp_path, counts(genes=twice)))
    assert f"the gene {GENES[0]} appears 2 times" in error
    assert not (tmp_path / "cohort").exists()


def test_a_sample_twice(tmp_path, capsys):
    twice = counts(samples=[*SAMPLES[:-1], SAMPLES[0]]).T.rename_axis("gene")
    error = the_error(capsys, convert(tmp_path, twice))
    assert "1 samples have the id of another one, such as s0\n" in error
    assert not (tmp_path / "cohort").exists()


@pytest.fixture(scope="module")
def trained(place):
    """A model of a few steps, and its cohort."""
    folder = place / "trained"
    folder.mkdir()
    assert convert(folder, counts()) == 0
    settings = ("--encoder_settings", TINY, "--num_epochs", 1, "--per_device_batch_size", 16)
    argv = ("--task", "classification", "--cohort", folder / "cohort", "--reject_error", 0.2)
    assert launch("finetune", *argv, *settings, "--output", folder / "run") == 0
    return folder


def test_the_class_column_is_found_and_rejection_is_saved(trained, capsys):
    model = fm_med.load(trained / "run" / "model")
    assert model.task.columns == ("subtype",)  # the card's only one; --target was not given
    stated = model.details["rejection"]
    assert stated["error"] == 0.2 and model.threshold == stated["threshold"]
    output = trained / "predicted.csv"
    words = ["predict", trained / "run" / "model", "--cohort", trained / "cohort", "--output"]
    assert main([str(word) for word in (*words, output)]) == 0
    assert "40 of the model's 40 genes found (100%)" in capsys.readouterr().out
    table = pd.read_csv(output)
    assert set(table["predicted"]) <= {"A", "B", "no confident subtype"}
    assert ((table["predicted"] == "no confident subtype") == (table["confident"] == 0)).all()


def test_an_overlap_of_few_genes(trained, tmp_path, capsys):
    foreign = [f"ENSG{number:011d}" for number in range(29, 69)]  # 12 of 40 are the model's
    assert convert(tmp_path, counts(genes=foreign)) == 0
    capsys.readouterr()
    output = tmp_path / "predicted.csv"
    words = ["predict", trained / "run" / "model", "--cohort", tmp_path / "cohort", "--output"]
    error = the_error(capsys, main([str(word) for word in (*words, output)]))
    assert "12 of the model's 40 genes (30%), at least 80% are needed" in error
    assert not output.exists()


def test_a_class_that_training_lacks(tmp_path, capsys):
    """The last split alone has a third class."""
    assert convert(tmp_path, counts()) == 0
    source = open_cohort(tmp_path / "cohort")
    card = replace(source.card, classes={"subtype": ["A", "B", "C"]})
    schema = source.splits["train"].schema
    with CohortWriter(tmp_path / "foreign", card, schema) as writer:
        for split, table in source.splits.items():
            rows = table.combine_chunks()
            if split == "test":
                place = rows.schema.get_field_index("subtype")
                rows = rows.set_column(place, rows.schema.field(place), pa.array(["C"] * len(rows)))
            writer.write(split, rows)
    capsys.readouterr()
    argv = ("--task", "classification", "--cohort", tmp_path / "foreign")
    error = the_error(capsys, launch("finetune", *argv, "--output", tmp_path / "run"))
    assert "has class(es) that the training split lacks: C" in error
    assert not (tmp_path / "run").exists()
