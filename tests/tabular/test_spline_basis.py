"""The design matrix of a regression as an encoder: its columns, and the fit through the recipe."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from encoder_examples import pooled
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import launch

import fm_med.hub
from fm_med.cohort import CohortCard, open_cohort
from fm_med.sources.table import TableColumns, make_table
from fm_med.sources.table_outcomes import OutcomeColumns
from fm_med.survival import RestrictedCubicSpline, concordance_index, fit_cox
from fm_med.tabular.processor import TableProcessor
from fm_med.tabular.spline_basis import SplineBasisConfig, SplineBasisModel, spline_bends

CARD = CohortCard(name="clinic", modality="tabular", units="those of its columns")


def table(**columns):
    """A table whose columns are inputs by their type, but for visit_time."""
    fields, arrays = [], []
    for name, values in columns.items():
        array = pa.array(list(values))
        kind = array.type.value_type if pa.types.is_list(array.type) else array.type
        kind = "numeric" if pa.types.is_floating(kind) else "categorical"
        metadata = None if name == "visit_time" else {"input": kind}
        fields.append(pa.field(name, array.type, metadata=metadata))
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


def design(processor, rows, **given):
    config = SplineBasisConfig(**processor.encoder_settings(), **given)
    return pooled(SplineBasisModel(config).eval(), processor.from_rows(rows)).numpy()


@settings(max_examples=50, deadline=None)
@given(
    knots=st.sets(st.integers(-30, 30), min_size=3, max_size=5),
    low=st.integers(-40, 0),
    high=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_bends_are_those_of_the_splines_of_survival(knots, low, high, seed):
    knots = np.array(sorted(knots)) / 10
    x = np.random.default_rng(seed).normal(0, 3, 20)
    expected = RestrictedCubicSpline(knots, low / 10, high / 10).basis(x)
    cut = torch.from_numpy(x)[:, None].clamp(low / 10, high / 10)
    found = torch.cat([cut, spline_bends(cut, torch.from_numpy(knots)[None])[:, 0]], -1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("knots", [3, 4, 5])
def test_knots_are_harrells_quantiles_of_the_training_rows(knots):
    generator = np.random.default_rng(knots)
    train, new = generator.gamma(2.0, size=1200), generator.gamma(2.0, size=50)
    processor = TableProcessor.for_cohort(CARD, table(age=train.tolist()))
    found = design(processor, table(age=new.tolist()), num_knots=knots)
    spline = RestrictedCubicSpline.fit((train - train.mean()) / train.std(), knots)
    expected = spline.basis((new - train.mean()) / train.std())
    np.testing.assert_allclose(found, expected, atol=2e-3)  # knots are rounded to 1e-4
    assert found.shape == (50, knots - 1)


def test_columns_that_cannot_be_curved_stay_straight():
    """Six values are no curve; equal quantiles are one knot; few rows carry no curve at all."""
    generator = np.random.default_rng(0)
    columns = {
        "grade": generator.integers(1, 7, 300).astype(float).tolist(),
        "often_zero": np.where(generator.random(300) < 0.5, 0, generator.gamma(2, size=300)),
        "mostly_zero": np.where(generator.random(300) < 0.97, 0, generator.gamma(2, size=300)),
        "age": generator.normal(size=300),
    }
    columns = {name: list(map(float, values)) for name, values in columns.items()}
    processor = TableProcessor.for_cohort(CARD, table(**columns))
    knots = SplineBasisConfig(**processor.encoder_settings()).knots
    assert {column: len(found) for column, found in knots.items()} == {1: 3, 3: 4}
    found = design(processor, table(**columns))
    assert found.shape == (300, 4 + 1 + 2)
    for place, column in ((4, 1), (6, 3)):  # the last bend of each curved column
        low, high = (processor.encoder_settings()["quantiles"][column][end] for end in (0, -1))
        expected = RestrictedCubicSpline(np.array(knots[column]), low, high).basis(found[:, column])
        np.testing.assert_allclose(found[:, place], expected[:, -1], rtol=1e-4, atol=1e-5)
    few = TableProcessor.for_cohort(CARD, table(**columns).slice(0, 11))
    assert not SplineBasisConfig(**few.encoder_settings()).knots
    assert SplineBasisConfig(**few.encoder_settings()).pooled_size == 4


CLINIC = table(
    age=[50.0, 60.0, None, 90.0],
    sodium=[140.0, 142.0, 138.0, 144.0],
    stage=["I", "II", None, "III"],
    sex=["f", "m", "m", "f"],
)


def twenty(rows):
    """Twenty persons for each row: what is learnt must be that of ten at least."""
    return pa.concat_tables([rows] * 20).combine_chunks()


def test_levels_and_missing_cells():
    processor = TableProcessor.for_cohort(CARD, twenty(CLINIC))
    found = design(processor, CLINIC)
    # age, sodium, age missing, stage I, II, III, sex m against f, stage missing
    assert found[:, 2:].tolist() == [
        [0, 1, 0, 0, -1, 0],
        [0, 0, 1, 0, 1, 0],
        [1, 0, 0, 0, 1, 1],
        [0, 0, 0, 1, -1, 0],
    ]
    new = table(age=[None, 1e9], sodium=[None, 1.0], stage=["IV", None], sex=[None, "other"])
    found = design(processor, new)
    # A missing sex was not seen in training: like a level that was not, it says nothing.
    assert found[:, 2:].tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]
    assert np.abs(found).max() <= 8


def test_the_history_of_visits():
    processor = TableProcessor.for_cohort(
        CARD, table(visit_time=[[0.0, 2.0, 6.0], [1.0]], crea=[[1.0, 2.0, 6.0], [5.0]])
    )
    rows = table(visit_time=[[0.0, 2.0, 6.0], [1.0]], crea=[[1.0, 2.0, 6.0], [5.0]])
    scaled = (np.array([1.0, 2.0, 6.0, 5.0]) - 3.5) / np.std([1, 2, 6, 5])
    latest = design(processor, rows, history="none")
    np.testing.assert_allclose(latest[:, 0], scaled[2:], rtol=1e-6)
    timed = design(processor, rows, history="time")
    np.testing.assert_allclose(timed[:, 1:], [[np.log(4), np.log(3)], [np.log(2), 0]], rtol=1e-6)
    mean = design(processor, rows, history="mean")
    np.testing.assert_allclose(mean[:, 3], [scaled[:3].mean(), scaled[3]], rtol=1e-5)


def test_reloading_gives_the_same_bits(tmp_path):
    generator = np.random.default_rng(2)
    rows = table(
        age=generator.normal(60, 9, 80).tolist(), stage=generator.choice(["a", "b", "c"], 80)
    )
    processor = TableProcessor.for_cohort(CARD, rows)
    encoder = SplineBasisModel(SplineBasisConfig(**processor.encoder_settings())).eval()
    encoder.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = SplineBasisModel.from_pretrained(tmp_path).eval()
    again = TableProcessor.from_pretrained(tmp_path).from_rows(rows)
    assert torch.equal(pooled(loaded, again), pooled(encoder, processor.from_rows(rows)))


def test_settings_of_other_columns_are_refused():
    with pytest.raises(Exception, match="flagged tells of 1 columns, there are 2"):
        SplineBasisConfig(num_numeric=2, flagged=[True])
    with pytest.raises(Exception, match="num_knots"):
        SplineBasisConfig(num_knots=6)


# -------------------------------------------------------------------------- Through the recipe


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A clinic whose risk is least in the middle of a column, which no line can tell."""
    folder, generator = tmp_path_factory.mktemp("clinic"), np.random.default_rng(5)
    age, crea = generator.normal(60, 10, 300), generator.gamma(4, size=300)
    stage = generator.choice(["I", "II", "III"], 300)
    risk = 1.5 * ((age - 60) / 10) ** 2 + 0.3 * crea + 0.7 * (stage == "III")
    time = generator.exponential(np.exp(-risk)) * 1000 + 1
    crea[generator.random(300) < 0.1] = np.nan
    rows = pd.DataFrame({"age": age, "crea": crea, "stage": stage, "days": time.round(2)})
    rows["died"] = (generator.random(300) < 0.6).astype(int)
    rows.to_csv(folder / "clinic.csv", index=False)
    columns = TableColumns(
        outcomes=OutcomeColumns(time="days", event="died", follow_up_unit="days")
    )
    return make_table(folder / "clinic.csv", folder / "cohort", columns=columns)


@pytest.fixture(scope="module")
def fitted(clinic):
    output = clinic.parent / "run"
    assert (
        launch("finetune", "--encoder", "spline_basis", "--cohort", clinic, "--output", output) == 0
    )
    return fm_med.hub.load(output / "model")


def test_the_recipes_fit_is_ridge_cox_on_the_design(clinic, fitted):
    """Nothing is trained, so that the validation rows are learnt from as well."""
    cohort = open_cohort(clinic)
    rows = pa.concat_tables([cohort.splits["train"], cohort.splits["validation"]])
    columns, head = fitted.embed(rows), fitted.head
    cox = fit_cox(columns, time=rows.column("time"), event=rows.column("event"))
    assert 0 < cox.penalty < np.inf
    weight = head.output.weight.detach().numpy()[0] / head.features.scale.numpy()
    np.testing.assert_allclose(weight, cox.coefficients / cox.scale, rtol=1e-4, atol=1e-6)
    found = fitted.predict(rows)["log_hazard"]
    expected = cox.log_hazard(columns)
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=1e-4)
    test = cohort.splits["test"]
    risk = fitted.predict(test)["log_hazard"]
    follow_up = (test.column(name).to_numpy() for name in ("time", "event"))
    assert concordance_index(*follow_up, risk) > 0.7  # by age alone, straight, about .5


def test_there_is_nothing_to_train(clinic, capsys, tmp_path):
    shared = ("--encoder", "spline_basis", "--cohort", clinic, "--output", tmp_path / "run")
    for method in ("lora", "full"):
        assert launch("finetune", *shared, "--peft", method) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == f"error: --peft {method}: the encoder has no weights, use --peft none"


def test_a_head_with_hidden_layers_learns_on_the_columns(clinic, tmp_path):
    """Such a head needs the loop, and columns of one scale."""
    shared = ("--encoder", "spline_basis", "--cohort", clinic, "--output", tmp_path / "run")
    assert launch("finetune", *shared, "--head_hidden", "[4]", "--num_epochs", 2) == 0
    model = fm_med.hub.load(tmp_path / "run" / "model")
    train = model.embed(open_cohort(clinic).splits["train"])
    scale = np.where(train.std(0) > 1e-6, train.std(0), 1)
    np.testing.assert_allclose(model.head.features.scale, scale, rtol=1e-4)


def test_a_saved_one_keeps_its_knots(clinic, fitted, tmp_path, capsys):
    argv = ("--encoder", fitted.folder, "--cohort", clinic, "--output", tmp_path / "run")
    assert launch("finetune", *argv) == 0
    assert "peft none: the encoder has no weights" in capsys.readouterr().out
    again = fm_med.hub.load(tmp_path / "run" / "model")
    assert torch.equal(again.encoder.knots, fitted.encoder.knots)
    assert torch.equal(again.head.output.weight, fitted.head.output.weight)


def test_without_weights_there_is_no_random_one_to_beat(clinic, fitted, tmp_path):
    """A baseline that is the model itself would say that the encoder has learnt nothing."""
    model, output = fitted.folder, tmp_path / "report"
    assert launch("evaluate", "--model", model, "--cohort", clinic, "--output", output) == 0
    found = json.loads((output / "metrics.json").read_text())
    assert found["model"]["c_index"]["value"] > 0.7
    assert "random_encoder" not in found.get("baselines", {})
