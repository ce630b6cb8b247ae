"""Aggregates of tables: what is missing, new, absent or of unseen levels is told."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from fm_med.tabular.describing import fits, row_facts, steps
from fm_med.tabular.processor import TableProcessor

CARD = SimpleNamespace(modality="tabular", name="t")


def table(**columns):
    """Columns of numbers or texts; `input` metadata as a cohort has it."""
    fields, arrays = [], []
    for name, values in columns.items():
        array = pa.array(values)
        inner = array.type.value_type if pa.types.is_list(array.type) else array.type
        kind = "categorical" if pa.types.is_string(inner) else "numeric"
        fields.append(pa.field(name, array.type, metadata={"input": kind}))
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


TRAINED = table(age=[1.0, 2.0, None, 4.0], grade=["a", "b", "a", "b"])


def states(found):
    return {line.topic: line.state for line in found}


def test_missing_cells_levels_and_numbers_of_each_row():
    facts = row_facts(TRAINED)
    assert facts.yes["missing cell: age"].tolist() == [0, 0, 1, 0]
    assert facts.yes["level: grade = a"].tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(facts.numbers["column: age"], [1.0, 2.0, np.nan, 4.0])


def test_of_visits_the_latest_counts():
    facts = row_facts(table(x=[[1.0, 2.0], [3.0], [5.0, None]], g=[["a"], ["a", "b"], [None]]))
    np.testing.assert_array_equal(facts.numbers["column: x"], [2.0, 3.0, np.nan])
    np.testing.assert_array_equal(facts.yes["level: g = b"], [0, 1, np.nan])


def test_the_same_columns_need_no_attention():
    found = fits(TableProcessor.for_cohort(CARD, pa.concat_tables([TRAINED] * 10)), CARD, TRAINED)
    assert set(states(found).values()) == {"ok"}


def test_absent_new_and_changed_columns_and_unseen_levels_are_told():
    processor = TableProcessor.for_cohort(CARD, pa.concat_tables([TRAINED] * 10))
    assert states(fits(processor, CARD, table(grade=["a"])))["columns"] == "attention"
    other = table(age=["1", "2"], grade=["a", "c"], more=[1.0, 2.0])
    found = {line.topic: line for line in fits(processor, CARD, other)}
    assert found["kinds of columns"].state == "attention"
    assert found["columns"].state == "ok"
    assert found["new columns"].cohort == "more" and found["new columns"].state == "ok"
    assert found["levels of grade"].state == "attention"
    assert found["levels of grade"].cohort == "50.0% of cells: c"


def test_steps_name_the_columns_in_order():
    text = " ".join(steps(TableProcessor.for_cohort(CARD, pa.concat_tables([TRAINED] * 10))))
    assert "numeric, in this order: age" in text and "categorical, in this order: grade" in text
