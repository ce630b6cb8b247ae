"""What programs read of fm-med: exit codes 0, 1 and 2, and JSON that is alone on stdout."""

import json
import subprocess
import sys

import pytest
from fitted_models import fitted, saved, small_cohort

from fm_med import cli
from fm_med.cli.command import Command
from fm_med.cli.doctor import Doctor
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
    assert values["fingerprint"] == cohort.fingerprint


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
