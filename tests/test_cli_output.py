"""What programs read of fm-med: exit codes 0, 1 and 2, and JSON that is alone on stdout."""

import dataclasses
import json
import subprocess
import sys

import pytest
from fitted_models import fitted, saved, small_cohort

from fm_med import cli
from fm_med.cli.command import Command
from fm_med.cli.doctor import Doctor
from fm_med.cli.made import tell_made
from fm_med.doctor import Finding


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return small_cohort(tmp_path_factory.mktemp("output") / "cohort", subjects=60)


def printed(capsys, *words, status=0):
    assert cli.main([str(word) for word in words]) == status
    return capsys.readouterr()


def test_describe_gives_the_card(capsys, cohort):
    values = json.loads(printed(capsys, "cohort", "describe", cohort.path, "--json").out)
    assert values["modality"] == "ecg" and values["units"] == "mV" and values["skipped"] == 0
    assert sum(values["subjects"].values()) == 60
    assert values["fingerprint"] == cohort.fingerprint and values["path"] == str(cohort.path)


@pytest.mark.parametrize("name", sorted({*cli.COMMANDS} - {"completion"}))
def test_every_command_but_the_shells_script_can_answer_in_json(name):
    fields = {field.name: field for field in dataclasses.fields(cli.COMMANDS[name].settings)}
    assert fields["json"].default is False


def test_a_new_cohort_is_told_alone_on_stdout_and_notes_apart(capsys, tmp_path):
    words = ("cohort", "simulate", tmp_path / "a", "--subjects", 20, "--workers", 1, "--json")
    found = printed(capsys, *words)
    assert json.loads(found.out)["path"] == str(tmp_path / "a") and found.err == ""
    table = tmp_path / "t.csv"
    table.write_text("x,y\n" + "".join(f"{row % 7},{row % 2}\n" for row in range(60)))
    words = ("cohort", "table", tmp_path / "b", "--table", table, "--label", "y")
    plain = printed(capsys, *words)
    assert "1 numeric inputs: x" in plain.out and "every row counts" in plain.out
    found = printed(capsys, *words[:2], tmp_path / "c", *words[3:], "--json")
    values = json.loads(found.out)
    assert values["modality"] == "tabular" and values["skipped"] == 0
    assert "1 numeric inputs: x" in found.err and "every row counts" in found.err


def test_a_part_of_a_cohort_is_told(capsys):
    tell_made("somewhere", as_json=True, shard="2/8")
    assert json.loads(capsys.readouterr().out) == {"path": "somewhere", "part": "2/8"}
    tell_made("somewhere", as_json=False, shard="2/8", notes=["and more"])
    assert capsys.readouterr().out.startswith("part 2/8 is in somewhere; join all parts with")


def test_text_model_card_and_embed_give_what_they_wrote(capsys, cohort, tmp_path):
    (tmp_path / "reports.txt").write_text("sinus rhythm\natrial fibrillation\n")
    words = ("text-model", "--reports", tmp_path / "reports.txt", "--output", tmp_path / "bert")
    words += ("--num_epochs", 0, "--hidden_size", 16, "--layers", 1, "--json")
    values = json.loads(printed(capsys, *words).out)
    assert values == {"folder": str(tmp_path / "bert"), "reports": 2}
    folder = saved(tmp_path / "model", fitted(cohort), cohort)
    values = json.loads(printed(capsys, "card", folder, "--json").out)
    assert values == {"card": str(folder / "README.md")}
    file = tmp_path / "e.parquet"
    values = json.loads(printed(capsys, "embed", folder, cohort.path, file, "--json").out)
    rows = sum(table.num_rows for table in cohort.splits.values())
    assert values["file"] == str(file) and values["rows"] == rows and values["width"] > 0


def test_check_gives_the_problems_and_its_status(capsys, cohort, tmp_path):
    assert json.loads(printed(capsys, "cohort", "check", cohort.path, "--json").out) == {
        "problems": []
    }
    found = printed(capsys, "cohort", "check", tmp_path, "--json", status=2)
    (problem,) = json.loads(found.out)["problems"]
    assert "is not a cohort" in problem
    assert found.err.startswith("error: ") and found.err.count("\n") == 1


def test_predict_gives_the_counts(capsys, cohort, tmp_path):
    folder = saved(tmp_path / "model", fitted(cohort), cohort)
    out = tmp_path / "risks.csv"
    words = ("predict", folder, "--cohort", cohort.path, "--output", out, "--json")
    values = json.loads(printed(capsys, *words).out)
    rows = cohort.splits["test"].num_rows
    assert values["rows"] == values["predicted"] == rows
    assert values["output"] == str(out) and out.is_file()


def test_push_tells_that_a_card_stays_and_refuses_results_that_are_none(capsys, cohort, tmp_path):
    folder = saved(tmp_path / "model", fitted(cohort), cohort)
    words = ("push", folder, tmp_path / "share", "--cohort", cohort.path)
    found = printed(capsys, *words, "--evaluation", tmp_path, status=2)
    assert "is no evaluation: it has no metrics.json" in found.err
    assert printed(capsys, *words, "--license", "mit").err == ""
    found = printed(capsys, *words, "--license", "apache-2.0")
    assert found.err.startswith(f"warning: {folder}/README.md stays as it is")
    assert "license: mit" in (tmp_path / "share" / "README.md").read_text()


@pytest.mark.parametrize("device", ["cudaa", "xpu9", "cuda:77"])
@pytest.mark.parametrize("command", ["predict", "compare-cohort"])
def test_a_device_that_is_not_there_is_told_before_anything_is_read(capsys, command, device):
    words = {"predict": ("m", "--cohort", "c", "--output", "o.csv"), "compare-cohort": ("m", "c")}
    found = printed(capsys, command, *words[command], "--device", device, status=2)
    assert found.err.startswith(f"error: --device {device} cannot be used: ")
    assert found.err.count("\n") == 1


def test_doctor_gives_its_findings_and_its_status(capsys, monkeypatch):
    findings = [Finding("a", "ok", "fine"), Finding("b", "problem", "broken", "mend it")]
    monkeypatch.setattr("fm_med.doctor.examine", lambda: findings)
    found = printed(capsys, "doctor", "--json", status=2)
    assert [one["state"] for one in json.loads(found.out)] == ["ok", "problem"]
    assert found.err == "error: b: broken; mend it\n"


def test_a_fault_of_ours_is_one_with_its_traceback():
    code = (
        "import sys; from fm_med import cli; from fm_med.cli.command import Command\n"
        "from fm_med.cli.doctor import Doctor\n"
        "def fault(settings): raise KeyError('ours')\n"
        "cli.COMMANDS['doctor'] = Command(Doctor, fault, '')\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and "KeyError: 'ours'" in done.stderr


def test_the_statuses_are_documented_where_one_looks(capsys, monkeypatch):
    assert "0 done, 1 a fault of fm_med (with traceback), 2" in printed(capsys, "--help").out
    quiet = Command(Doctor, lambda settings: None, "")
    monkeypatch.setitem(cli.COMMANDS, "doctor", quiet)
    assert printed(capsys, "doctor").out == ""
    assert printed(capsys, "doctor", "--jason", status=2).err.count("\n") == 1
