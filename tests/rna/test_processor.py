import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm_med.cohort import CohortCard
from fm_med.errors import InputError
from fm_med.rna.processor import ExpressionProcessor
from fm_med.rna.storage import decode, encode, expression_fields

GENES = ["ENSG00000000001", "TP53", "FLT3", "NPM1", "KIT"]
CARD = CohortCard(name="some", modality="rna", units="log1p_tpm")


def rows(values, genes=GENES, unit="log1p_tpm"):
    fields = expression_fields(genes, unit)
    return pa.table(list(encode(values).values()), schema=pa.schema(fields))


def drawn(samples=20, seed=0):
    return np.random.default_rng(seed).normal(3, 2, (samples, 5)).astype(np.float32)


def test_rows_come_back_as_they_were_written():
    values = drawn()
    found, genes, unit = decode(rows(values).slice(3, 7))
    np.testing.assert_array_equal(found, values[3:10])
    assert (genes, unit) == (GENES, "log1p_tpm")
    hashes = encode(np.concatenate([values, values[:2]]))["input_hash"].to_pylist()
    assert len(set(hashes)) == 20 and hashes[:2] == hashes[-2:]


def test_training_rows_have_mean_zero_and_deviation_one():
    values = drawn()
    processor = ExpressionProcessor.for_cohort(CARD, rows(values))
    found = processor.from_rows(rows(values))["expression"].numpy()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-5)
    assert processor.encoder_settings() == {"num_genes": 5}


@given(st.permutations(range(5)), st.integers(0, 50))
def test_the_order_of_genes_does_not_matter(order, seed):
    values = drawn(6, seed)
    processor = ExpressionProcessor.for_cohort(CARD, rows(drawn()))
    expected = processor.from_rows(rows(values))["expression"]
    shuffled = rows(values[:, order], [GENES[place] for place in order])
    assert torch.equal(processor.from_rows(shuffled)["expression"], expected)


def test_the_most_variable_genes_are_kept_in_their_order():
    values = drawn() * np.array([1, 9, 1, 5, 7], np.float32)
    processor = ExpressionProcessor.for_cohort(CARD, rows(values), max_genes=3)
    assert processor.genes == ["TP53", "NPM1", "KIT"]


def test_a_missing_gene_becomes_its_training_mean_until_too_many_are():
    values = drawn()
    processor = ExpressionProcessor.for_cohort(CARD, rows(values))
    four = processor.from_rows(rows(values[:, [0, 1, 2, 4]], [*GENES[:3], "KIT"]))["expression"]
    assert torch.equal(four[:, 3], torch.zeros(20))
    assert processor.share_found(["KIT", "TP53"]) == pytest.approx(0.4)
    message = r"3 of the model's 5 genes \(60%\), at least 80% are needed; missing for example NPM1"
    with pytest.raises(InputError, match=message):
        processor.from_rows(rows(values[:, :3], GENES[:3]))


def test_units_must_agree_and_a_change_of_base_is_done():
    values = np.abs(drawn())
    processor = ExpressionProcessor.for_cohort(CARD, rows(values))
    in_base_two = rows(values / np.log(2).astype(np.float32), unit="log2_tpm1")
    torch.testing.assert_close(
        processor.from_rows(in_base_two)["expression"],
        processor.from_rows(rows(values))["expression"],
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(InputError, match="in log1p_cp10k, the model was trained on log1p_tpm"):
        processor.from_rows(rows(values, unit="log1p_cp10k"))
    card = CohortCard(name="x", modality="ecg", units="mV")
    with pytest.raises(InputError, match="holds ecg, expected rna"):
        ExpressionProcessor.for_cohort(card, rows(values))


def test_it_is_saved_and_loaded(tmp_path):
    processor = ExpressionProcessor.for_cohort(CARD, rows(drawn()))
    processor.save_pretrained(tmp_path)
    again = ExpressionProcessor.from_pretrained(tmp_path)
    other = rows(drawn(seed=3))
    assert torch.equal(
        again.from_rows(other)["expression"], processor.from_rows(other)["expression"]
    )


def test_incomplete_settings_are_refused():
    with pytest.raises(InputError, match="2 genes, 1 means and 2 scales"):
        ExpressionProcessor(genes=["a", "b"], units="log1p_tpm", mean=[0], scale=[1, 1])
    with pytest.raises(InputError, match="'mV'"):
        ExpressionProcessor(genes=["a"], units="mV", mean=[0], scale=[1])
    bare = pa.table({"expression": pa.array([b"1234"], pa.large_binary())})
    with pytest.raises(InputError, match="does not name its genes"):
        decode(bare)
