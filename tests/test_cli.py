"""The `fm-med` command: finds commands, hands on every setting, and refuses in one line."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from fm_med import cli
from fm_med.cli.cohort import EcgTable, PtbXl, Simulate
from fm_med.cli.text_model import read_reports
from fm_med.cohort import open_cohort
from fm_med.errors import InputError

FM_MED = Path(sys.executable).with_name("fm-med")  # the installed command


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "cohort"
    assert cli.main(["cohort", "simulate", str(folder), "--subjects", "20", "--seed", "4"]) == 0
    return folder


def refused(capsys, *words):
    """Run a command that must be refused; return its line."""
    status = cli.main([str(word) for word in words])
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


# -------------------------------------------------------------------------------- Finding commands


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_overview_names_every_command(capsys, words):
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"fm-med {name} " in printed and command.summary in printed


def test_a_group_lists_its_commands(capsys):
    assert cli.main(["cohort"]) == 0
    printed = capsys.readouterr().out
    assert "fm-med cohort check" in printed and "text-model" not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cohrt"], "unknown command 'cohrt'; the commands are cohort ptbxl"),
        (["cohort", "chek"], "unknown command 'cohort chek'; the commands are cohort ptbxl"),
        (["cohort", "check", "x", "--alow_duplicates"], "did you mean 'allow_duplicates'"),
        (["cohort", "simulate", "x", "--subj", "20"], "unknown setting 'subj'"),
        (["cohort", "simulate", "x", "--subjects", "many"], "subjects"),
        (["cohort", "simulate", "x", "--hospital", "c"], "hospital"),
        (["cohort", "ptbxl", "x", "y", "--sampling_rate", "250"], "sampling_rate"),
        (["cohort", "check"], "cohort"),
        (["cohort", "ecg", "x", "--records", "r", "--subject", "s", "--path", "p"], "table"),
        (["text-model", "--reports", "x"], "output"),
        (["embed", "m", "c", "e.parquet", "--batch_size", "0"], "batch_size is 0, expected"),
    ],
)
def test_a_wrong_command_line_is_refused(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_each_setting(capsys, name):
    with pytest.raises(SystemExit) as end:
        cli.main([*name.split(), "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for field in dataclasses.fields(cli.COMMANDS[name].settings):
        assert field.name in printed


def test_help_and_typos_import_nothing_heavy():
    code = (
        "import sys\n"
        "from fm_med.cli import main\n"
        "status = main(['cohort', 'simulate', 'x', '--subject', '3'])\n"
        "print(status, [m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2 []\n"


def test_the_installed_command_is_this_one(tmp_path):
    done = subprocess.run(
        [str(FM_MED), "cohort", "describe", "absent"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no cohort at absent: there is no such folder\n"


# ---------------------------------------------------------------------------------- What they do


@pytest.mark.parametrize(
    ("name", "settings", "module", "function"),
    [
        ("cohort ptbxl", PtbXl("a", "b"), "fm_med.sources.ptbxl", "make_ptbxl"),
        (
            "cohort ecg",
            EcgTable("b", table="t", records="r", subject="s", path="p", label=["AF"]),
            "fm_med.sources.ecg_table",
            "make_ecg_table",
        ),
        ("cohort simulate", Simulate("b"), "fm_med.sources.simulated", "make_simulated"),
    ],
)
def test_every_setting_reaches_the_conversion(monkeypatch, name, settings, module, function):
    """Each setting is given a value of its own; a forgotten or exchanged one shows."""
    for number, field in enumerate(dataclasses.fields(settings)):
        if field.name != "label":
            setattr(settings, field.name, f"value {number} of {field.name}")
    seen = []

    def made(*positional, **keywords):
        seen.append(([str(value) for value in positional], keywords))

    monkeypatch.setattr(f"{module}.{function}", made)
    monkeypatch.setattr("fm_med.cli.cohort.tell_made", lambda folder, **keywords: None)
    cli.COMMANDS[name].run(settings)
    ((positional, keywords),) = seen
    if "labels" in keywords:
        keywords["label"] = list(keywords.pop("labels"))
    given = dataclasses.asdict(settings)
    del given["json"]
    for key, value in keywords.items():
        assert given.pop(key) == value, key
    assert sorted(map(str, given.values())) == sorted(positional)


def test_simulate_describe_and_check(capsys, cohort):
    assert cli.main(["cohort", "describe", str(cohort)]) == 0
    described = capsys.readouterr().out
    assert "simulated hospital a: ecg, mV, 100 Hz" in described
    assert "14 subjects" in described  # seven of ten for training
    assert cli.main(["cohort", "check", str(cohort)]) == 0
    assert capsys.readouterr().out == described + "no problem found\n"


def test_check_lists_every_problem_and_tells_the_first(capsys, cohort, tmp_path):
    for path in cohort.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(cohort)).parent.mkdir(exist_ok=True)
            (tmp_path / path.relative_to(cohort)).write_bytes(path.read_bytes())
    path = next((tmp_path / "data").glob("test-*.arrow"))
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    place = table.schema.get_field_index("time")
    table = table.set_column(place, table.schema.field("time"), pa.array([-1.0] * len(table)))
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    assert cli.main(["cohort", "check", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "- 'time' is negative in split 'test'" in printed.out
    assert printed.out.count("\n- ") == 1  # and that the rows are not the card's
    assert printed.err.startswith(f"error: cohort {tmp_path}: 'time' is negative")
    assert "(and 1 more problems)" in printed.err and printed.err.count("\n") == 1


def test_a_taken_destination_is_refused(capsys, cohort):
    before = {path: path.read_bytes() for path in cohort.rglob("*") if path.is_file()}
    assert "exists already" in refused(capsys, "cohort", "simulate", cohort, "--subjects", 20)
    assert {path: path.read_bytes() for path in cohort.rglob("*") if path.is_file()} == before


# -------------------------------------------------------------------------------- Text model


def test_reports_are_read_from_cohorts_tables_and_text(tmp_path, cohort):
    texts = ["sinus rhythm", "atrial fibrillation"]
    frame = pd.DataFrame({"report": [texts[0], None, " ", texts[1]], "n": range(4)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text(f"{texts[0]}\n\n{texts[1]}\n")
    for name in ("t.csv", "t.parquet", "t.txt"):
        assert read_reports(tmp_path / name) == texts
    expected = [text for text in open_cohort(cohort).column("train", "report") if text]
    assert read_reports(cohort) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.csv", None, "there is no file or cohort"),
        ("t.csv", "text\na\n", "no column 'report'; its columns are ['text']"),
        ("t.txt", "\n \n", "holds no report"),
        ("t.csv", "", "cannot be read: No columns to parse"),
        ("t.csv", "\udcff", "cannot be read: 'utf-8' codec can't decode"),
        ("t.txt", "\udcff", "cannot be read: 'utf-8' codec can't decode"),
        ("t.parquet", "text", "cannot be read: "),
    ],
)
def test_sources_without_reports_are_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(InputError) as caught:
        read_reports(tmp_path / name)
    assert message in str(caught.value)


def test_a_text_model_is_made_and_read(tmp_path, capsys):
    from fm_med.text.encoder import FrozenTextEncoder

    (tmp_path / "t.txt").write_text("sinus rhythm\natrial fibrillation\nsinus rhythm\n")
    argv = ["text-model", "--reports", tmp_path / "t.txt", "--output", tmp_path / "model"]
    argv += ["--num_epochs", 1, "--hidden_size", 16, "--layers", 1]
    assert cli.main([str(word) for word in argv]) == 0
    assert "text model of 2 distinct reports" in capsys.readouterr().out
    encoder = FrozenTextEncoder(tmp_path / "model", dtype="float32")
    assert encoder.encode(["sinus rhythm"]).shape == (1, 16)
    assert encoder.model.config.num_hidden_layers == 1
    assert "is not an empty folder" in refused(capsys, *argv)
