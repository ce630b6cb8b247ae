"""The commands that make cohorts of public data sets."""

import dataclasses
import subprocess
import sys

import pytest

from fm_med.cli import main
from fm_med.cli.public_cohorts import PUBLIC_COMMANDS
from fm_med.cohort import open_cohort

MAKERS = {
    "cohort code15": "fm_med.sources.code15.make_code15",
    "cohort mimic-iv-ecg": "fm_med.sources.mimic.make_mimic",
    "cohort cinc": "fm_med.sources.cinc.make_cinc",
}


@pytest.mark.parametrize("name", PUBLIC_COMMANDS)
def test_every_setting_reaches_the_conversion(monkeypatch, name):
    """Each setting is given a value of its own; a forgotten or exchanged one shows."""
    kind = PUBLIC_COMMANDS[name].settings
    given = {field.name: f"the {field.name}" for field in dataclasses.fields(kind)}
    seen = []
    monkeypatch.setattr(MAKERS[name], lambda *places, **options: seen.append((places, options)))
    monkeypatch.setattr("fm_med.cli.public_cohorts._tell", lambda folder, settings: None)
    PUBLIC_COMMANDS[name].run(kind(**given))
    ((places, options),) = seen
    assert [str(place) for place in places] == ["the source", "the destination"]
    making = dataclasses.asdict(options.pop("making"))
    del making["fractions"], making["rows_per_shard"]
    assert options | making == {
        key: value for key, value in given.items() if key not in ("source", "destination", "json")
    }


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from fm_med.cli import main\n"
        "try:\n"
        "    main(['cohort', 'code15', '--help'])\n"
        "except SystemExit:\n"
        "    heavy = ('torch', 'h5py', 'pyarrow', 'numpy', 'transformers', 'pandas')\n"
        "    print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr


def test_reading_code15_imports_h5py_only_when_needed():
    code = (
        "import sys, fm_med.sources.code15\n"
        "print([name for name in ('h5py', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


def test_from_the_command_line(real_data, tmp_path, capsys):
    source = str(real_data("cinc2021_sample"))
    assert main(["cohort", "cinc", source, str(tmp_path / "whole")]) == 0
    told = capsys.readouterr().out
    assert "PhysioNet/CinC Challenge: ecg, mV, 500 Hz" in told
    assert "skipped 1 (see skipped.csv), first: E07509: the same recording as E07510" in told
    target = str(tmp_path / "cohort")
    for shard in ("1/2", "2/2"):
        assert main(["cohort", "cinc", source, target, "--shard", shard]) == 0
    assert "part 2/2 is in" in capsys.readouterr().out
    assert main(["cohort", "merge", target]) == 2
    assert "E07510 (train) = E07509" in capsys.readouterr().err
    assert main(["cohort", "merge", target, "--drop_duplicates"]) == 0
    merged, whole = open_cohort(target), open_cohort(tmp_path / "whole")
    assert merged.card == whole.card
    assert main(["cohort", "check", target]) == 0


def test_a_unit_that_is_none_is_refused_in_one_line(real_data, tmp_path, capsys):
    source = str(real_data("code15_sample10"))
    words = ["cohort", "code15", source, str(tmp_path / "cohort"), "--seed", "26"]
    assert main([*words, "--millivolt_per_unit", "0.1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: with 0.1 mV per stored unit") and error.count("\n") == 1
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "6 subjects       1 events, 2 without follow-up" in told
    assert "signal: int16" in told and "a stored unit was read as 1 mV" in told
