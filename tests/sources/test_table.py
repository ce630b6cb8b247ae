import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.cli import main
from fm_med.cohort import check_cohort, open_cohort
from fm_med.errors import InputError
from fm_med.sources.table import TableColumns, make_table
from fm_med.sources.table_cells import CellRules, kind_of, numeric_cells, text_cells
from fm_med.sources.table_outcomes import OutcomeColumns, divide

FOLLOW_UP = OutcomeColumns(time="days", event="dead", follow_up_unit="days")


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a cohort from the text of a CSV."""
    made = []

    def convert(text, rules=None, name="cohort", encoding="utf-8", **options):
        roles = {key: options.pop(key) for key in TableColumns.__annotations__ if key in options}
        table = tmp_path / "patients.csv"
        table.write_text(text, encoding=encoding)
        made.append(tmp_path / f"{name}{len(made)}")
        options = {"seed": 0, "stratify": False, "fractions": (1.0, 0.0, 0.0)} | options
        columns = TableColumns(**roles)
        return open_cohort(make_table(table, made[-1], columns=columns, rules=rules, **options))

    return convert


def refused(make, match, *arguments, **options):
    with pytest.raises(InputError, match=match):
        make(*arguments, **options)


WIDE = """id,age,grade,sodium,site of biopsy,days,dead
a,60,1,140,left,10,1
b,70.5,2,,right,20,0
c,,1,135.25,,30,1
d,50,3,131,left,,0
"""


def test_a_wide_table_keeps_its_cells_and_says_what_they_are(make):
    cohort = make(
        WIDE,
        subject="id",
        categorical=("grade",),
        inputs=("age", "sodium", "site of biopsy"),
        outcomes=FOLLOW_UP,
        units={"sodium": "mmol/l"},
    )
    table = cohort.splits["train"]
    assert table.column("subject_id").to_pylist() == ["a", "b", "c"]
    assert table.column("age").to_pylist() == [60.0, 70.5, None]
    assert table.column("sodium").to_pylist() == [140.0, None, 135.25]
    assert table.column("grade").to_pylist() == ["1", "2", "1"]
    assert table.column("site of biopsy").to_pylist() == ["left", "right", None]
    assert table.column("time").to_pylist() == [10.0, 20.0, 30.0]
    assert table.column("event").to_pylist() == [True, False, True]
    assert table.schema.field("sodium").metadata == {b"input": b"numeric", b"unit": b"mmol/l"}
    assert table.schema.field("grade").metadata == {b"input": b"categorical"}
    assert table.schema.field("time").metadata is None
    assert cohort.card.modality == "tabular" and cohort.card.follow_up_unit == "days"
    assert cohort.card.columns["sodium"] == "numeric input, mmol/l"
    assert cohort.card.columns["site of biopsy"] == "categorical input: left, right"
    assert (cohort.path / "skipped.csv").read_text().split() == [
        "record_id,reason",
        "d,without",
        "follow-up",
    ]
    assert check_cohort(cohort.path) == []


def test_every_column_without_another_role_is_an_input_unless_some_are_named(make):
    options = {"subject": "id", "outcomes": FOLLOW_UP}

    def inputs(cohort):
        schema = cohort.splits["train"].schema
        return [field.name for field in schema if (field.metadata or {}).get(b"input")]

    everything = ["age", "grade", "sodium", "site of biopsy"]
    assert inputs(make(WIDE, **options)) == everything
    assert inputs(make(WIDE, drop=("sodium",), **options)) == [*everything[:2], everything[3]]
    assert inputs(make(WIDE, numeric=("sodium", "age"), **options)) == ["age", "sodium"]


VISITS = """person;when;creatinine;stage;sex;outcome;remission
p2;2020-03-01;1.5;II;f;B;
p1;2020-01-11;1.2;I;m;A;1
p2;2020-01-30;1.4;II;f;B;0
p1;2020-01-01;1.1;II;m;;1
p1;2020-01-31;;III;m;A;
"""


def test_visits_become_lists_in_the_order_of_time(make):
    outcomes = OutcomeColumns(classes=("outcome",), labels=("remission",))
    cohort = make(VISITS, subject="person", visit_time="when", outcomes=outcomes)
    table = cohort.splits["train"]
    assert table.column("subject_id").to_pylist() == ["p2", "p1"]
    assert table.column("creatinine").to_pylist() == [[1.4, 1.5], [1.1, 1.2, None]]
    assert table.column("stage").to_pylist() == [["II", "II"], ["II", "I", "III"]]
    assert table.column("sex").to_pylist() == ["f", "m"]  # never differs within a person
    days = [np.diff(times).tolist() for times in table.column("visit_time").to_pylist()]
    assert days == [[31.0], [10.0, 20.0]]
    assert table.column("outcome").to_pylist() == ["B", "A"]
    assert table.column("remission").to_pylist() == [False, True]
    assert cohort.card.classes == {"outcome": ["A", "B"]}
    assert check_cohort(cohort.path) == []


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), min_size=1, max_size=20, unique=True)
)
def test_visits_against_the_naive_grouping(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("visits")
    cells = {"s": [f"p{p}" for p, _ in rows], "t": [t for _, t in rows], "x": range(len(rows))}
    pq.write_table(pa.table({k: list(v) for k, v in cells.items()}), folder / "t.parquet")
    columns = TableColumns(subject="s", visit_time="t", numeric=("x",))
    made = make_table(
        folder / "t.parquet", folder / "c", columns=columns, fractions=(1.0, 0.0, 0.0)
    )
    table = open_cohort(made).splits["train"]
    expected = {}
    for person, time, value in sorted(zip(cells["s"], cells["t"], cells["x"]), key=lambda r: r[1]):
        expected.setdefault(person, []).append((time, value))
    found = {}
    for row in table.to_pylist():
        values = row["x"] if isinstance(row["x"], list) else [row["x"]]
        found[row["subject_id"]] = list(zip(row["visit_time"], values))
    assert found == expected


def test_dirty_cells_are_refused_with_column_value_and_row(make):
    table = "id,pot,rbc\n1,4.5,normal\n2,\t?,normal\n3,4.1,?\n"
    refused(make, r"'pot'.*mixed.*row 2 \('\?'\)", table, subject="id")
    refused(make, r"'pot' holds what is no number.*row 2 \('\?'\)", table, numeric=("pot",))
    refused(make, r"'rbc' holds a mark.*row 3 \('\?'\)", table, inputs=("rbc",))
    cohort = make(table, CellRules(missing=("?",)), subject="id")
    assert cohort.splits["train"].column("pot").to_pylist() == [4.5, None, 4.1]
    assert cohort.splits["train"].column("rbc").to_pylist() == ["normal", "normal", None]
    only_pot = CellRules(missing=("pot=?",))
    refused(make, r"'rbc' holds a mark.*row 3 \('\?'\)", table, only_pot, subject="id")
    kept = make(table, CellRules(missing=("pot=?",), accept=("rbc=?",)), subject="id")
    assert kept.splits["train"].column("rbc").to_pylist() == ["normal", "normal", "?"]


def test_sentinels_are_refused_or_declared(make):
    table = "id,urine,sodium\n1,1200,140\n2,1000000.0,-9\n3,900,135\n"
    refused(make, r"'urine' holds what looks like a code.*row 2 \('1000000\.0'\)", table)
    declared = ("urine=1000000",)
    refused(make, r"'sodium'.*code.*row 2 \('-9'\)", table, CellRules(missing=declared))
    cohort = make(table, CellRules(missing=declared, accept=("sodium=-9",)), subject="id")
    assert cohort.splits["train"].column("urine").to_pylist() == [1200.0, None, 900.0]
    assert cohort.splits["train"].column("sodium").to_pylist() == [140.0, -9.0, 135.0]


def test_ordinary_extremes_are_no_sentinels():
    def cells(*values):
        return pa.chunked_array([pa.array([str(value) for value in values])])

    for values in [(95, 99, 100), (-9, -8, 3), (0, 1, 9), (580000, 1000000, 300000), (999,)]:
        assert numeric_cells(cells(*values), "x", CellRules()).to_pylist() == list(values)
    for values in [(0, 1, 99), (63, 71, 999), (0.4, 1e6), (-999, 5)]:
        with pytest.raises(InputError, match="looks like a code"):
            numeric_cells(cells(*values), "x", CellRules())


def test_decimal_commas_are_refused_or_declared(make):
    table = "id;crea;age\n1;1,5;60\n2;1.7;61\n3;2;62\n"
    refused(make, r"'crea'.*row 1 \('1,5'\)", table)
    refused(make, r"'crea'.*row 2 \('1\.7'\)", table, CellRules(decimal=","))
    cohort = make(table, CellRules(decimal="either"), subject="id")
    assert cohort.splits["train"].column("crea").to_pylist() == [1.5, 1.7, 2.0]
    german = make(table.replace("1.7", "1,7"), CellRules(decimal=","), subject="id")
    assert german.splits["train"].column("crea").to_pylist() == [1.5, 1.7, 2.0]
    thousands = "id;crea\n1;1,500\n2;1.7\n"
    refused(make, r"'crea'.*row 1 \('1,500'\)", thousands, CellRules(decimal="either"))


@given(st.lists(st.one_of(st.none(), st.floats(-1e4, 1e4).map(lambda x: round(x, 3))), min_size=1))
def test_numbers_are_read_as_written(values):
    column = pa.chunked_array(
        [pa.array([v if v is None else repr(v) for v in values], pa.string())]
    )
    rules = CellRules(accept=tuple(str(v) for v in values if v is not None))
    assert numeric_cells(column, "x", rules).to_pylist() == values
    comma = pa.chunked_array(
        [pa.array([v if v is None else repr(v).replace(".", ",") for v in values], pa.string())]
    )
    rules = CellRules(accept=rules.accept, decimal=",")
    assert numeric_cells(comma, "x", rules).to_pylist() == values


def test_codes_that_a_program_wrote_as_floats_are_levels_without_decimals():
    column = pa.chunked_array([pa.array(["1.0", None, "2.0"])])
    assert text_cells(column, "x", CellRules()).to_pylist() == ["1", None, "2"]


def test_ids_and_free_text_are_no_levels():
    names = pa.chunked_array([pa.array([f"patient {k}" for k in range(50)])])
    with pytest.raises(InputError, match="'name' holds 50 different texts in 50 rows"):
        kind_of(names, "name", CellRules())


BAD = [
    ("id,x\n1,\n2,\n", {}, r"'x' is blank in every row"),
    ("id,x\n1,3\n1,4\n", {"subject": "id"}, r"more than one row.*row 1 \('1'\), 2 \('1'\)"),
    ("id,x,x\n1,3,4\n", {}, "two columns 'x'"),
    ("id,x\n1,3\n", {"inputs": ("y",)}, "has no column 'y'; it has id, x"),
    ("id,x\n1,3\n", {"numeric": ("x",), "drop": ("x",)}, "'x'.*two roles"),
    ("id,x\n1,3\n", {"subject": "id", "drop": ("x",)}, "no column left to predict from"),
    ("id,time\n1,3\n", {"subject": "id"}, "cannot be named 'time'"),
    ("id,x,d\n1,3,1\n", {"outcomes": OutcomeColumns(time="d")}, "both a time column and an event"),
    (
        "id,x,d,e\n1,3,1,0\n",
        {"outcomes": OutcomeColumns(time="d", event="e")},
        "unit of the time column 'd' is not stated",
    ),
    (WIDE.replace("20,0", "-20,0"), {"subject": "id", "outcomes": FOLLOW_UP}, r"negative in row 2"),
    ("id,x,y\n1,3,maybe\n", {"outcomes": OutcomeColumns(labels=("y",))}, r"neither true nor false"),
    ("id,x,event\n1,3,1\n", {"outcomes": OutcomeColumns(labels=("event",))}, "cannot be named"),
    (VISITS.replace("2020-03-01", "2020-01-30"), {"visit_time": "when"}, "same time in row 3"),
    (VISITS.replace("2020-03-01", "March"), {"visit_time": "when"}, r"'when' is no date.*row 1"),
    (
        VISITS.replace("B;0", "A;0"),
        {"visit_time": "when", "outcomes": OutcomeColumns(classes=("outcome",))},
        "'outcome' differs between the visits of p2",
    ),
]


@pytest.mark.parametrize(("text", "options", "message"), BAD)
def test_bad_tables_are_refused_in_one_line(make, text, options, message):
    if text.startswith("person"):
        options = {"subject": "person"} | options
    refused(make, message, text, **options)


def test_a_person_in_two_given_splits_is_refused(make):
    table = VISITS.replace("remission\n", "part\n").replace(";\n", ";train\n")
    table = table.replace(";1\n", ";train\n").replace(";0\n", ";test\n")
    refused(
        make,
        "p2 is in the splits train and test",
        table,
        subject="person",
        visit_time="when",
        split="part",
        drop=("outcome",),
    )


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=30, max_size=60),
    st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.7, 0.3, 0.0)]),
    st.integers(0, 5),
)
def test_stratified_splits_give_every_stratum_its_share(strata, fractions, seed):
    people = [f"person {k}" for k in range(len(strata))]
    strata = np.array(strata)
    split = np.array(divide(people, fractions, seed, strata))
    for name, share in zip(("train", "validation", "test"), fractions):
        assert abs((split == name).sum() - share * len(people)) <= 2
        for stratum in np.unique(strata):
            inside = strata == stratum
            assert abs((split[inside] == name).sum() - share * inside.sum()) <= 3
    order = np.random.default_rng(seed).permutation(len(people))
    shuffled = divide([people[k] for k in order], fractions, seed, strata[order])
    assert [split[k] for k in order] == shuffled  # the order of the table does not matter


def test_kidney_disease_with_its_dirty_tokens(make, real_data):
    folder = real_data("tab_ckd_uci336")
    lines = (folder / "chronic_kidney_disease_full.arff").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.lower().startswith("@data"))
    header = (folder / "ckd_clean.csv").read_text().splitlines()[0]
    names = header.split(",")
    rows = [line.rstrip(",").split(",") for line in lines[start + 1 :] if line.strip()]
    rows = [row if len(row) == 25 else [c for c in row if c != ""] for row in rows]
    assert {len(row) for row in rows} == {25} and any("\t?" in row for row in rows)
    text = "\n".join([header, *map(",".join, rows)])
    options = {"outcomes": OutcomeColumns(classes=("class",))}
    refused(make, r"mixed.*row \d+ \('\?'\)", text, **options)
    dirty = make(text, CellRules(missing=("?",)), **options)
    clean = make((folder / "ckd_clean.csv").read_text(), **options)
    blank = sum(dirty.splits["train"].column(name).null_count for name in names)
    assert blank == 1012  # as SOURCE.md says
    for name in names:
        columns = (c.splits["train"].column(name).to_pylist() for c in (dirty, clean))
        assert next(columns) == next(columns), name


def test_the_command(tmp_path, capsys):
    (tmp_path / "t.csv").write_text(
        "id,crea,stage,y\n"
        + "".join(f"{k},{k / 7:.2f},{'I' * (k % 3 + 1)},{k % 2}\n" for k in range(60))
    )
    words = ["cohort", "table", str(tmp_path / "c"), "--table", str(tmp_path / "t.csv")]
    words += ["--subject", "id", "--label", "y", "--stratify", "--unit", "crea=mg/dl"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "1 numeric inputs: crea" in printed and "1 categorical inputs: stage" in printed
    assert open_cohort(tmp_path / "c").card.label_sets == {"labels": ["y"]}
    assert main([*words, "--numeric", "age"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
