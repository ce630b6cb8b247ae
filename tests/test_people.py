import pyarrow as pa
import pytest

from fm_med.cohort.people import tells


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("age", [63.0, None], True),
        ("age", [63, 41], True),
        ("age", ["60-69", "40-49"], False),
        ("age", [True, False], False),
        ("sex", ["female", None, "male"], True),
        ("sex", ["female", "F"], False),
        ("sex", [1.0, 2.0], False),
    ],
)
def test_age_is_a_number_and_sex_a_word(name, values, told):
    assert tells(pa.table({name: values}), name) is told
    assert not tells(pa.table({"other": values}), name)
