"""The tutorials, run from top to bottom: every block of a page, in an empty folder."""

import json
import re
import shlex
from pathlib import Path

import pytest
from in_process import REPOSITORY, launch

from fm_med import cli
from fm_med.cohort import open_cohort

TUTORIALS = REPOSITORY / "docs" / "tutorials"


def blocks(page):
    """Yield (language, text) of the code blocks of a page."""
    text = (TUTORIALS / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text):
    """Return the commands of a block as words; a command goes on after a backslash."""
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def run(words):
    """Run a command as the shell would, but in this process; return its exit status."""
    if words[0] == "fm-med":
        return cli.main(words[1:])
    while words[0] in ("accelerate", "launch", "python"):
        words = words[1:]
    recipe = Path(words[0])
    assert recipe.parent == Path("recipes") and (REPOSITORY / recipe).is_file()
    return launch(recipe.stem, *words[1:])


def execute(page, capsys):
    """Run all blocks of a page; return what each command printed."""
    printed = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page, "exec"), {"__name__": "tutorial"})
            continue
        assert language == "sh", f"{page} has a block of {language!r}, which nothing runs"
        for words in commands(text):
            assert run(words) == 0, " ".join(words)
            printed[" ".join(words[:2])] = capsys.readouterr().out
    return printed


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("FM_MED_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_cohort(empty, capsys):
    printed = execute("new_cohort.md", capsys)
    compared = printed["fm-med compare-cohort"]
    assert "!!  sampling rate (Hz)" in compared and "deserve attention" in compared
    assert "??" not in compared
    assert (empty / "runs/mine/report-page/report.html").is_file()
    test = open_cohort("cohorts/mine").splits["test"].num_rows
    assert json.loads(printed["fm-med predict"])["predicted"] == test > 0
    details = json.loads((empty / "runs/mine/model/task.json").read_text())
    assert details["reference"]["persons"] == details["training"]["persons"] >= 50
    assert (empty / "cohorts/mine/skipped.csv").read_text().count("\n") == 1  # the head alone


def test_blocks_and_commands_are_found():
    found = blocks("new_cohort.md")
    assert [language for language, _ in found] == ["python", *["sh"] * 6]
    assert commands("fm-med a \\\n  --b 'c d'\n\npython x") == [
        ["fm-med", "a", "--b", "c d"],
        ["python", "x"],
    ]
