import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.rna.units import UNITS, check_units, to_logarithm


def counts(samples=6, genes=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.negative_binomial(2, 0.02, (samples, genes)).astype(np.float64)


def of_unit(unit, values):
    tpm = values / values.sum(1, keepdims=True) * 1e6
    return {
        "counts": values,
        "tpm": tpm,
        "fpkm": tpm * 0.7,
        "log1p_tpm": np.log1p(tpm),
        "log2_tpm1": np.log2(1 + tpm),
        "log1p_cp10k": np.log1p(tpm / 100),
        "log2_normalised": np.log2(tpm + 0.5) - 3,
    }[unit]


@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_is_accepted_as_itself(unit):
    check_units(of_unit(unit, counts()), unit, "x.csv")


@pytest.mark.parametrize(
    ("really", "declared", "seen"),
    [
        ("counts", "tpm", "all values are whole numbers, as counts are"),
        ("counts", "log1p_tpm", "all values are whole numbers"),
        ("tpm", "counts", "there are fractions"),
        ("tpm", "log1p_tpm", "no logarithm is as large"),
        ("tpm", "log1p_cp10k", "no logarithm is as large"),
        ("log1p_tpm", "tpm", "as after a logarithm"),
        ("log1p_tpm", "fpkm", "as after a logarithm"),
        ("log1p_tpm", "log1p_cp10k", "sums to 1e+06 instead of at most 10000"),
        ("log2_tpm1", "log1p_tpm", "instead of at most 1e+06"),
        ("log2_normalised", "log1p_tpm", "negative"),
    ],
)
def test_a_wrong_declaration_is_told_what_was_seen(really, declared, seen):
    values = of_unit(really, counts())
    if really == "log2_normalised":
        values -= 5
    with pytest.raises(InputError, match="seen: ") as error:
        check_units(values, declared, "x.csv")
    assert seen in str(error.value)
    assert f"x.csv is declared as {declared}" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_values_and_unknown_units_are_refused():
    values = of_unit("tpm", counts())
    values[2, 3] = np.nan
    with pytest.raises(InputError, match="1 values are missing"):
        check_units(values, "tpm", "x.csv")
    with pytest.raises(InputError, match="'rpkm' is unknown"):
        check_units(values, "rpkm", "x.csv")


@given(st.integers(0, 99), st.integers(2, 40), st.booleans())
def test_counts_become_shares_of_a_million_or_ten_thousand(seed, genes, with_lengths):
    values = counts(4, genes, seed) + 1
    lengths = np.random.default_rng(seed).uniform(200, 9000, genes) if with_lengths else None
    found, unit = to_logarithm(values, "counts", lengths=lengths)
    total = 1e6 if with_lengths else 1e4
    assert unit == ("log1p_tpm" if with_lengths else "log1p_cp10k")
    for sample in range(4):  # by the definition of TPM, gene by gene
        rates = [values[sample, g] / (lengths[g] if with_lengths else 1) for g in range(genes)]
        expected = [np.log(1 + rate / sum(rates) * total) for rate in rates]
        np.testing.assert_allclose(found[sample], expected, rtol=1e-5)


def test_other_units_reach_one_logarithm():
    values = counts()
    expected = of_unit("log1p_tpm", values)
    for unit in ("tpm", "fpkm", "log2_tpm1", "log1p_tpm"):
        found, stored = to_logarithm(of_unit(unit, values), unit)
        assert stored == "log1p_tpm"
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    kept, stored = to_logarithm(values, "log2_normalised")
    assert stored == "log2_normalised"
    np.testing.assert_array_equal(kept, values.astype(np.float32))


def test_an_empty_sample_is_refused():
    values = counts()
    values[1] = 0
    with pytest.raises(InputError, match="sample 2 "):
        to_logarithm(values, "counts")
