import numpy as np
import pandas as pd
import pytest

from fm_med.errors import InputError
from fm_med.rna.counts import marker_genes, neighbour_map, read_matrix
from fm_med.rna.genes import align, clean_genes, read_lengths, read_map, translate

GENES = [f"ENSG{index:011d}" for index in range(1, 9)]
VALUES = np.arange(24, dtype=np.float32).reshape(3, 8)


def table(tmp_path, name, frame):
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(
        path, sep="\t" if name.endswith("tsv") else ","
    )
    return path


@pytest.fixture
def frame():
    versions = [f"{gene}.{index}" for index, gene in enumerate(GENES)]
    return pd.DataFrame(VALUES, index=pd.Index(["a", "b", "c"], name="id"), columns=versions)


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.parquet"])
@pytest.mark.parametrize("transposed", [False, True])
def test_tables_are_read_in_either_orientation(tmp_path, frame, name, transposed):
    written = frame.T.rename_axis("id") if transposed else frame
    if name.endswith("parquet"):
        written = written.reset_index()
        path = tmp_path / name
        written.to_parquet(path, index=False)
    else:
        path = table(tmp_path, name, written)
    matrix = read_matrix(path)
    assert matrix.genes == GENES
    assert matrix.samples == ["a", "b", "c"]
    np.testing.assert_array_equal(matrix.values, VALUES)


def test_a_table_of_symbols_must_be_declared(tmp_path, frame):
    frame.columns = [f"G{index}" for index in range(8)]
    path = table(tmp_path, "m.csv", frame)
    with pytest.raises(InputError, match="state orientation"):
        read_matrix(path)
    assert read_matrix(path, orientation="samples_by_genes").samples == ["a", "b", "c"]
    assert read_matrix(path, orientation="genes_by_samples").genes == ["a", "b", "c"]


def test_a_false_declaration_is_refused(tmp_path, frame):
    path = table(tmp_path, "m.csv", frame)
    with pytest.raises(InputError, match="declared as genes_by_samples, but it is samples_by"):
        read_matrix(path, orientation="genes_by_samples")


def test_h5ad_layers_and_a_transposed_file(tmp_path):
    import anndata

    data = anndata.AnnData(VALUES.copy())
    data.obs_names, data.var_names = ["a", "b", "c"], GENES
    data.layers["twice"] = 2 * VALUES
    data.obs["type"] = pd.Categorical(["x", "y", "x"])
    data.write_h5ad(tmp_path / "m.h5ad")
    np.testing.assert_array_equal(read_matrix(tmp_path / "m.h5ad").values, VALUES)
    np.testing.assert_array_equal(
        read_matrix(tmp_path / "m.h5ad", layer="twice").values, 2 * VALUES
    )
    assert read_matrix(tmp_path / "m.h5ad").described.column_names == ["type"]
    with pytest.raises(InputError, match="no layer 'thrice'; it has twice"):
        read_matrix(tmp_path / "m.h5ad", layer="thrice")
    with pytest.raises(InputError, match="has no raw values"):
        read_matrix(tmp_path / "m.h5ad", layer="raw")
    data.T.write_h5ad(tmp_path / "t.h5ad")
    with pytest.raises(InputError, match="lies on its side"):
        read_matrix(tmp_path / "t.h5ad")
    (tmp_path / "no.h5ad").write_text("nothing")
    with pytest.raises(InputError, match=r"no\.h5ad cannot be read"):
        read_matrix(tmp_path / "no.h5ad")


def test_genes_are_cleaned_and_repeats_refused(tmp_path, frame):
    assert clean_genes([" ENSG00000141510.17 ", "TP53", "ENSG00000002586.20_PAR_Y"], "x") == [
        "ENSG00000141510",
        "TP53",
        "ENSG00000002586_PAR_Y",
    ]
    frame.columns = [*GENES[:7], f"{GENES[0]}.9"]
    with pytest.raises(InputError, match=f"{GENES[0]} appears 2 times"):
        read_matrix(table(tmp_path, "m.csv", frame))
    with pytest.raises(InputError, match="gene 2 has no name"):
        clean_genes(["a", " "], "x")


def test_samples_are_unique_and_values_numbers(tmp_path, frame):
    with pytest.raises(InputError, match="2 samples have the id of another"):
        read_matrix(table(tmp_path, "m.csv", frame.rename(index={"b": "a", "c": "a"})))
    frame = frame.astype(object)
    frame.iloc[1, 2] = "many"
    with pytest.raises(InputError, match="is not numeric"):
        read_matrix(table(tmp_path, "m.csv", frame))
    with pytest.raises(InputError, match="no matrix at"):
        read_matrix(tmp_path / "absent.csv")


def test_a_map_translates_and_the_first_of_two_genes_wins(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text(
        "symbol,ensembl\nTP53,ENSG00000141510.5\nP53,ENSG00000141510\nX,ENSG00000000001\n"
    )
    mapping = read_map(path)
    assert translate(["P53", "TP53", "Q", "X"], mapping, "m") == [
        "ENSG00000141510",
        None,
        None,
        "ENSG00000000001",
    ]
    with pytest.raises(InputError, match="knows none"):
        translate(["Q"], mapping, "m")
    path.write_text("symbol,ensembl\nTP53,A\nTP53,B\n")
    with pytest.raises(InputError, match="TP53 is mapped to A and to B"):
        read_map(path)


def test_lengths_are_found_by_name(tmp_path):
    path = tmp_path / "lengths.tsv"
    path.write_text("gene\tbases\nB\t200\nA\t1000\n")
    np.testing.assert_array_equal(read_lengths(path, ["A", "B"]), [1000, 200])
    with pytest.raises(InputError, match="no length of 1 genes, first C"):
        read_lengths(path, ["A", "C"])
    path.write_text("gene\tbases\nB\t0\n")
    with pytest.raises(InputError, match="line 2 has no length above 0"):
        read_lengths(path, ["B"])


def test_alignment_is_by_name():
    np.testing.assert_array_equal(align(["c", "a", "b"], ["a", "x", "c"]), [1, -1, 0])


def test_markers_are_the_genes_that_differ():
    rng = np.random.default_rng(0)
    expression = rng.normal(1, 0.1, (40, 5))
    expression[:20, 3] += 2
    expression[20:, 1] += 2
    found = marker_genes(expression, ["x"] * 20 + ["y"] * 20, list("abcde"), top=1)
    assert found == {"x": ["d"], "y": ["b"]}


def test_a_map_keeps_neighbours_together():
    label = np.repeat([0, 1], 15)
    features = np.random.default_rng(0).normal(size=(30, 5)) + 20 * label[:, None]
    places = neighbour_map(features)
    assert places.shape == (30, 2) and np.array_equal(places, neighbour_map(features))
    centres = np.stack([places[label == number].mean(0) for number in (0, 1)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(1)
    assert (nearest == label).all()
