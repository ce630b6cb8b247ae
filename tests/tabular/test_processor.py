import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.cohort import CohortCard
from fm_med.errors import InputError
from fm_med.tabular.encoders import ENCODERS
from fm_med.tabular.processor import TableProcessor
from fm_med.tabular.scaling import NumericScale

CARD = CohortCard(name="clinic", modality="tabular", units="those of its columns")


def table(**columns):
    """A table whose columns are inputs by their type, but for visit_time."""
    fields, arrays = [], []
    for name, values in columns.items():
        array = pa.array(values)
        kind = array.type.value_type if pa.types.is_list(array.type) else array.type
        kind = "numeric" if pa.types.is_floating(kind) else "categorical"
        metadata = None if name == "visit_time" else {"input": kind}
        fields.append(pa.field(name, array.type, metadata=metadata))
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


def twenty(rows):
    """Twenty persons for each row: what is learnt must be that of ten at least."""
    return pa.concat_tables([rows] * 20).combine_chunks()


WIDE = table(
    age=[50.0, 60.0, None, 90.0],
    sodium=[140.0, 142.0, 138.0, 144.0],
    stage=["I", "II", None, "I"],
    sex=["f", "m", "m", "f"],
)


def test_medians_flags_and_levels_of_the_training_rows():
    processor = TableProcessor.for_cohort(CARD, twenty(WIDE))
    found = processor.from_rows(WIDE)
    age = np.array([50.0, 60.0, 60.0, 90.0])
    known = np.array([50.0, 60.0, 90.0])
    expected = (age - known.mean()) / known.std()
    np.testing.assert_allclose(found["numeric"][:, 0, 0], expected, rtol=1e-6)
    assert found["missing"][:, 0].tolist() == [[False] * 2, [False] * 2, [True, False], [False] * 2]
    assert found["categorical"][:, 0].tolist() == [[2, 2], [3, 3], [1, 3], [2, 2]]
    assert found["visit_mask"].tolist() == [[True]] * 4 and found["visit_time"].sum() == 0
    assert {name: (x.shape, x.dtype) for name, x in found.items()} == {
        "numeric": ((4, 1, 2), torch.float32),
        "categorical": ((4, 1, 2), torch.int64),
        "missing": ((4, 1, 2), torch.bool),
        "visit_mask": ((4, 1), torch.bool),
        "visit_time": ((4, 1), torch.float32),
    }


def test_new_rows_are_read_by_what_training_taught():
    processor = TableProcessor.for_cohort(CARD, twenty(WIDE))
    new = table(sex=["x", None], stage=["III", None], age=[None, 1e9], sodium=[None, 141.0])
    found = processor.from_rows(new)
    assert found["categorical"][:, 0].tolist() == [[0, 0], [1, 0]]  # sex was never missing
    assert found["missing"][:, 0].tolist() == [[True, False], [False, False]]  # sodium never was
    np.testing.assert_allclose(found["numeric"][0, 0, 1], 0.0, atol=1e-6)  # the median, and mean
    assert found["numeric"][1, 0, 0] == 8.0  # clipped


VISITS = table(
    visit_time=[[3.0, 5.0, 11.0], [100.0], [0.0, 4.0]],
    crea=[[1.0, None, 3.0], [5.0], [2.0, 4.0]],
    stage=[["I", "II", "II"], ["III"], [None, "I"]],
    sex=["f", "m", "f"],
)


def test_visits_are_padded_and_timed():
    processor = TableProcessor.for_cohort(CARD, twenty(VISITS))
    found = processor.from_rows(VISITS)
    assert found["visit_mask"].tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert processor.time_scale == 4.0  # the median of 2, 6, 4
    assert found["visit_time"].tolist() == [[0, 0.5, 2], [0, 0, 0], [0, 1, 0]]
    assert found["categorical"][0].tolist() == [[2, 2], [3, 2], [3, 2]]  # sex holds for all visits
    assert found["categorical"][1].tolist() == [[4, 3], [0, 0], [0, 0]]
    assert found["missing"][:, :, 0].tolist() == [[False, True, False], [False] * 3, [False] * 3]
    scaled = (np.array([1.0, 3.0, 3.0]) - 3.0) / np.std([1, 3, 5, 2, 4])
    np.testing.assert_allclose(found["numeric"][0, :, 0], scaled, rtol=1e-6)
    assert (found["numeric"][1, 1:] == 0).all()
    alone = processor.from_rows(VISITS.slice(2, 1))
    for name, value in alone.items():
        assert torch.equal(value, found[name][2:, :2]), name


def test_only_the_latest_visits_are_read():
    processor = TableProcessor.for_cohort(CARD, twenty(VISITS), max_visits=2)
    found = processor.from_rows(VISITS)
    assert found["visit_mask"].tolist() == [[True, True], [True, False], [True, True]]
    assert found["visit_time"].tolist() == [[0, 1.5], [0, 0], [0, 1]]
    assert found["missing"][0, :, 0].tolist() == [True, False]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=5), min_size=1),
    st.integers(1, 6),
)
def test_visits_against_the_naive_loop(rows, kept):
    rows = [*rows, [1.0, -1.0, None]]
    source = table(x=rows, visit_time=[[float(k) for k in range(len(row))] for row in rows])
    processor = TableProcessor.for_cohort(CARD, source, max_visits=kept)
    found = processor.from_rows(source)
    scale = NumericScale(**processor.scales[0])
    for k, row in enumerate(rows):
        latest = row[-kept:]
        assert found["visit_mask"][k].sum() == len(latest)
        cells = np.array([np.nan if x is None else x for x in latest])
        np.testing.assert_allclose(
            found["numeric"][k, : len(latest), 0], scale.apply(cells), rtol=1e-5, atol=1e-6
        )
        assert found["missing"][k, : len(latest), 0].tolist() == [x is None for x in latest]


@pytest.mark.parametrize("method", ["standard", "quantile"])
@given(values=st.lists(st.floats(-1e5, 1e5), min_size=3, max_size=80))
def test_scaling_is_monotone_and_bounded(method, values):
    values = np.array(values)
    scale = NumericScale.fit(values, method)
    scaled = scale.apply(np.sort(values))
    assert np.isfinite(scaled).all() and (np.diff(scaled) >= -1e-9).all()
    assert np.abs(scaled).max() <= 8
    assert scale.apply(np.array([np.nan])) == scale.apply(np.array([scale.median]))
    edges = scale.bins()
    assert len(edges) >= 2 and (np.diff(edges) > 0).all()
    assert NumericScale(**scale.to_dict()) == scale


def test_a_constant_column_is_zero():
    scale = NumericScale.fit(np.full(5, 0.1), "standard")
    assert scale.apply(np.array([0.1, 7.0, np.nan])).tolist() == [0.0, 0.0, 0.0]


def test_quantiles_give_the_normal_score_of_the_rank():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=20000))
    scaled = NumericScale.fit(values, "quantile").apply(values)
    assert abs(scaled.mean()) < 0.02 and abs(scaled.std() - 1) < 0.05
    middle = np.abs(np.log(values)) < 1.5
    np.testing.assert_allclose(scaled[middle], np.log(values[middle]), atol=0.06)


@pytest.mark.parametrize("source", [WIDE, VISITS])
@pytest.mark.parametrize("scaling", ["standard", "quantile"])
def test_saving_keeps_everything(source, scaling, tmp_path):
    processor = TableProcessor.for_cohort(CARD, lambda: twenty(source), scaling=scaling)
    processor.save_pretrained(tmp_path)
    loaded = TableProcessor.from_pretrained(tmp_path)
    before, after = processor.from_rows(source), loaded.from_rows(source)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert loaded.encoder_settings() == processor.encoder_settings()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("source", [WIDE, VISITS])
def test_its_settings_fit_every_encoder(name, source):
    processor = TableProcessor.for_cohort(CARD, twenty(source))
    encoder = ENCODERS[name](ENCODERS[name].config_class(**processor.encoder_settings())).eval()
    pooled = encoder(**processor.from_rows(source)).pooler_output
    assert pooled.shape == (source.num_rows, encoder.config.pooled_size)
    assert pooled.isfinite().all()


def test_bad_rows_are_refused_in_one_line():
    processor = TableProcessor.for_cohort(CARD, twenty(WIDE))
    with pytest.raises(InputError, match="no column 'sodium', which the model was trained on"):
        processor.from_rows(WIDE.drop_columns(["sodium"]))
    with pytest.raises(InputError, match="'age' holds string, in training it was numeric"):
        processor.from_rows(table(**{**WIDE.to_pydict(), "age": ["old"] * 4}))
    with pytest.raises(InputError, match="'stage' holds numbers, in training it was categorical"):
        processor.from_rows(table(**{**WIDE.to_pydict(), "stage": [1.0] * 4}))
    with pytest.raises(InputError, match="'age' is missing in every training row"):
        TableProcessor.for_cohort(CARD, table(age=pa.array([None, None], pa.float64())))
    with pytest.raises(InputError, match="names no inputs"):
        TableProcessor.for_cohort(CARD, pa.table({"age": [1.0]}))
    with pytest.raises(InputError, match="holds ecg, expected tabular"):
        TableProcessor.for_cohort(CohortCard(name="e", modality="ecg", units="mV"), WIDE)
    uneven = table(x=[[1.0, 2.0]], y=[[1.0]])
    with pytest.raises(InputError, match="row 1 has 2 visits in column 'x' and 1 in column 'y'"):
        TableProcessor.for_cohort(CARD, uneven).from_rows(uneven)
    empty = table(x=[[1.0], []])
    with pytest.raises(InputError, match="row 2 has no visit"):
        TableProcessor.for_cohort(CARD, empty).from_rows(empty)
