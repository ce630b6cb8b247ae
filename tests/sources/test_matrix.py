import csv

import numpy as np
import pandas as pd
import pytest

from fm_med.cli import main
from fm_med.cohort import check_cohort, open_cohort
from fm_med.errors import InputError
from fm_med.rna.storage import decode
from fm_med.sources.matrix import SampleColumns, make_matrix

GENES = [f"ENSG{index:011d}" for index in range(1, 31)]
SAMPLES = [f"s{index}" for index in range(40)]


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    counts = pd.DataFrame(rng.poisson(50, (40, 30)), index=SAMPLES, columns=GENES)
    counts.rename_axis("sample").to_csv(tmp_path / "counts.csv")
    described = pd.DataFrame(
        {
            "sample": SAMPLES[::-1],
            "person": [f"p{index // 2}" for index in range(40)][::-1],
            "subtype": ["A", "B", "", "C"] * 10,
            "npm1": ["1", "0"] * 20,
            "days": [str(index + 1) for index in range(40)],
            "dead": ["yes", "no"] * 20,
            "age": ["50"] * 40,
            "sex": ["F", "male"] * 20,
        }
    )
    described.to_csv(tmp_path / "samples.csv", index=False)
    return tmp_path, counts, described


COLUMNS = SampleColumns(
    sample="sample",
    subject="person",
    classes=("subtype",),
    labels=("npm1",),
    time="days",
    event="dead",
    age="age",
    sex="sex",
)


def make(folder, name="cohort", **changes):
    options = {"unit": "counts", "columns": COLUMNS, "table": folder / "samples.csv"}
    options |= {"follow_up_unit": "days"} | changes
    return make_matrix(folder / "counts.csv", folder / name, **options)


def test_rows_describe_their_sample(files):
    folder, counts, described = files
    cohort = open_cohort(make(folder))
    assert check_cohort(cohort.path) == []
    assert cohort.card.classes == {"subtype": ["A", "B", "C"]}
    assert cohort.card.units == "log1p_cp10k"
    described = described.set_index("sample")
    seen = 0
    for split in cohort.splits:
        rows = cohort.rows(split, np.arange(cohort.splits[split].num_rows))
        values, genes, unit = decode(rows)
        assert (genes, unit) == (GENES, "log1p_cp10k")
        for row, sample in enumerate(rows["record_id"].to_pylist()):
            raw = counts.loc[sample].to_numpy(float)
            np.testing.assert_allclose(values[row], np.log1p(raw / raw.sum() * 1e4), rtol=1e-5)
            assert rows["subject_id"][row].as_py() == described.loc[sample, "person"]
            assert (rows["subtype"][row].as_py() or "") == described.loc[sample, "subtype"]
            assert rows["npm1"][row].as_py() == (described.loc[sample, "npm1"] == "1")
            assert rows["time"][row].as_py() == float(described.loc[sample, "days"])
            assert rows["event"][row].as_py() == (described.loc[sample, "dead"] == "yes")
            seen += 1
    assert seen == 40


def test_the_genes_are_part_of_the_fingerprint(files):
    folder, counts, _ = files
    first = open_cohort(make(folder)).fingerprint
    again = open_cohort(make(folder, "again")).fingerprint
    counts.columns = [*GENES[1:], GENES[0]]
    counts.rename_axis("sample").to_csv(folder / "counts.csv")
    assert first == again != open_cohort(make(folder, "other")).fingerprint


def test_lengths_make_tpm_and_a_map_renames(files):
    folder, counts, _ = files
    lengths = pd.Series(np.linspace(500, 5000, 30), index=[f"G{i}" for i in range(30)])
    lengths.rename_axis("gene").to_csv(folder / "lengths.csv")
    pd.Series(lengths.index, index=GENES).rename_axis("old").to_csv(folder / "map.csv")
    cohort = open_cohort(
        make(folder, gene_lengths=folder / "lengths.csv", gene_map=folder / "map.csv")
    )
    values, genes, unit = decode(cohort.rows("train", np.arange(1)))
    raw = counts.loc[cohort.column("train", "record_id")[0]].to_numpy() / lengths.to_numpy()
    assert genes[0] == "G0" and unit == "log1p_tpm"
    np.testing.assert_allclose(values[0], np.log1p(raw / raw.sum() * 1e6), rtol=1e-5)


def test_samples_without_follow_up_are_listed(files):
    folder, _, described = files
    described.loc[3, "days"] = ""
    described.loc[5, "days"] = "0"
    described.to_csv(folder / "samples.csv", index=False)
    cohort = make(folder)
    with (cohort / "skipped.csv").open() as file:
        skipped = list(csv.reader(file))[1:]
    assert sorted(skipped) == sorted([[s, "without follow-up"] for s in (SAMPLES[36], SAMPLES[34])])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "tpm"}, "declared as tpm .*, but all values are whole numbers"),
        ({"orientation": "genes_by_samples"}, "but it is samples_by_genes by its ids"),
        ({"columns": SampleColumns(sample="who")}, "no column 'who'"),
        ({"columns": SampleColumns()}, "state which column of"),
        ({"columns": SampleColumns(sample="sample", classes=("age",))}, "cannot be named 'age'"),
        ({"table": None}, "the samples have no column 'person'; there are none; give a table"),
        ({"columns": SampleColumns(sample="sample", time="days")}, "needs both"),
    ],
)
def test_bad_input_leaves_nothing(files, change, message):
    folder, _, _ = files
    with pytest.raises(InputError, match=message):
        make(folder, **change)
    assert not list(folder.glob("*cohort*"))


def test_a_sample_that_is_not_described_is_named(files):
    folder, _, described = files
    described.iloc[1:].to_csv(folder / "samples.csv", index=False)
    with pytest.raises(InputError, match="does not describe 1 of the 40 samples.*first s39"):
        make(folder)


def test_the_command(files, capsys):
    folder, _, _ = files
    words = f"cohort matrix {folder}/c --matrix {folder}/counts.csv --unit counts"
    table = f"--table {folder}/samples.csv --sample sample --class_column subtype"
    assert main([*words.split(), *table.split()]) == 0
    assert "rna, log1p_cp10k" in capsys.readouterr().out
    assert main([*words.split(), "--time", "days"]) == 2
    assert capsys.readouterr().err == "error: state the unit of 'days' with --follow_up_unit\n"
