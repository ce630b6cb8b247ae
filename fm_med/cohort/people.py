"""Whether a cohort tells the age and the sex of its persons."""

import pyarrow as pa
import pyarrow.compute as pc

SEXES = ("female", "male")


def tells(table: pa.Table, name: str) -> bool:
    """Whether a table has age as numbers, or sex as female and male.

    A clinician's own table may mean anything by these names, such as a sex that is coded 1 and 2.

    Args:
        table: Rows of a cohort.
        name: "age" or "sex".
    """
    if name not in table.column_names:
        return False
    column = table.column(name)
    if name == "age":
        return bool(pa.types.is_integer(column.type) or pa.types.is_floating(column.type))
    if not pa.types.is_string(column.type):
        return False
    return set(pc.unique(column).drop_null().to_pylist()) <= set(SEXES)
