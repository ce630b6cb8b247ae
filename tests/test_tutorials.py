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


def execute(page, capsys, shorter=()):
    """Run all blocks of a page; return what each command printed.

    Args:
        page: Name of the page.
        capsys: Of pytest.
        shorter: Words to add to a command, by its beginning.
    """
    printed = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page, "exec"), {"__name__": "tutorial"})
            continue
        assert language == "sh", f"{page} has a block of {language!r}, which nothing runs"
        for words in commands(text):
            line = " ".join(words)
            more = [more for start, more in dict(shorter).items() if line.startswith(start)]
            assert run([*words, *(word for each in more for word in each)]) == 0, line
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


def test_pretraining(empty, capsys, real_data):
    source, copy = real_data("ptbxl_500"), empty / "data/ptb-xl"
    copy.mkdir(parents=True)
    (copy / "records100").symlink_to(source / "records100")
    (copy / "scp_statements.csv").symlink_to(source / "scp_statements.csv")
    lines = (source / "ptbxl_database.csv").read_text().splitlines(keepends=True)
    (copy / "ptbxl_database.csv").write_text("".join(lines[:201]))
    small = {
        "fm-med cohort ptbxl": ["--workers", "1"],
        "fm-med text-model": ["--hidden_size", "16", "--layers", "1"],
        "accelerate launch recipes/ecg_pretrain.py": ["--encoder", "resnet1d", "--num_epochs", "1"],
    }
    printed = execute("pretrain.md", capsys, small)
    assert "linear probe macro AUROC" in printed["accelerate launch"]
    assert "PTB-XL" in printed["fm-med cohort"]
    assert (empty / "runs/ptbxl/report/report.html").is_file()


def test_blocks_and_commands_are_found():
    found = blocks("new_cohort.md")
    assert [language for language, _ in found] == ["python", *["sh"] * 6]
    assert commands("fm-med a \\\n  --b 'c d'\n\npython x") == [
        ["fm-med", "a", "--b", "c d"],
        ["python", "x"],
    ]
