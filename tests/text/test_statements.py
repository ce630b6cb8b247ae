import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm_med.errors import InputError
from fm_med.text.encoder import FrozenTextEncoder
from fm_med.text.statements import embed_reports, embed_statements, scp_sentences, statements
from fm_med.text.store import ReportStore

CODES = sorted(scp_sentences())


def test_weights_follow_the_likelihoods():
    assert statements([("IMI", 75.0), ("SR", 0.0), ("LVH", 25.0)]) == [
        ("Myocardial Infarction: inferior myocardial infarction", 0.75),
        ("Ventricular Hypertrophy: left ventricular hypertrophy", 0.25),
    ]


def test_without_any_likelihood_all_codes_count_equally():
    assert statements([("AFIB", 0.0), ("LVOLT", 0.0)]) == [
        ("Statements related to impulse formation (abnormalities): atrial fibrillation", 0.5),
        (
            "Other QRS morphology descriptive statements: "
            "low QRS voltages in the frontal and horizontal leads",
            0.5,
        ),
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from(CODES), st.sampled_from([0.0, 15.0, 35.0, 50.0, 80.0, 100.0])),
        min_size=1,
        max_size=8,
    )
)
def test_weights_sum_to_one(codes):
    parts = statements(codes)
    assert math.isclose(sum(weight for _, weight in parts), 1)
    assert {sentence for sentence, _ in parts} <= {scp_sentences()[code] for code, _ in codes}
    positive = sum(likelihood > 0 for _, likelihood in codes)
    assert len(parts) == (positive or len(codes))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([], "no SCP code"),
        ([("NORM", 100.0), ("XYZ", 50.0)], "unknown SCP code 'XYZ'"),
        ([("NORM", -1.0)], "NORM has likelihood -1.0"),
        ([("NORM", math.nan)], "NORM has likelihood nan"),
    ],
)
def test_bad_codes_are_refused(codes, message):
    with pytest.raises(InputError, match=message):
        statements(codes)


def test_table_is_that_of_ptbxl(real_data):
    with (real_data("ptbxl_500") / "scp_statements.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {
        row[""]: f"{row['Statement Category']}: {row['SCP-ECG Statement Description']}"
        for row in rows
    }
    assert scp_sentences() == expected and len(expected) == 71


def test_embedding_is_the_weighted_mean_over_statements(bert_folder, tmp_path):
    encoder = FrozenTextEncoder(bert_folder, dtype="float32", device="cpu")
    store = ReportStore(tmp_path, encoder)
    rows = [[("NORM", 100.0)], [("IMI", 50.0), ("LVH", 35.0), ("SR", 0.0)], [("SR", 0.0)]]
    naive = [
        sum(weight * encoder.encode([text])[0] for text, weight in statements(row)) for row in rows
    ]
    np.testing.assert_allclose(embed_statements(store, rows), np.stack(naive), atol=1e-5)
    assert store.forward_passes == 4
    with pytest.raises(InputError, match="row 1: unknown SCP code 'QQ'"):
        embed_statements(store, [rows[0], [("QQ", 1.0)]])


def test_reports_as_written(bert_folder, tmp_path, reports):
    store = ReportStore(tmp_path, FrozenTextEncoder(bert_folder, dtype="float32"))
    np.testing.assert_array_equal(embed_reports(store, reports), store.embed(reports))
    with pytest.raises(InputError, match="row 1 has no report"):
        embed_reports(store, [reports[0], None])
