"""What the benchmarks share: rows and their aims, turns, fresh processes, and the runner."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
HELP = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    sys.argv[1:] = ["--help"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            importlib.import_module(name).main()
        raise SystemExit(f"{name} ran")
    except SystemExit as end:
        if end.code or "--json" not in printed.getvalue():
            raise SystemExit(f"{name}: {end.code} {printed.getvalue()}")
    print(name)
"""


def script(name):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def harness():
    return script("side_by_side")


@pytest.fixture(scope="module")
def runner(harness):
    return script("bench_all")


@pytest.mark.parametrize(
    ("unit", "ours", "other", "ratio"),
    [("ms", 2.0, 10.0, 5.0), ("MB", 10.0, 2.0, 0.2), ("records/s", 10.0, 2.0, 5.0)],
)
def test_a_ratio_tells_how_many_times_better_ours_is(harness, unit, ours, other, ratio):
    assert harness.Row("", ours, unit, other).ratio == pytest.approx(ratio)
    assert harness.Row("", ours, unit).ratio is None


@pytest.mark.parametrize(
    ("unit", "aims", "met"),
    [
        ("ms", {}, None),
        ("ms", {"ours_aim": 2.0}, True),
        ("ms", {"ours_aim": 1.9}, False),
        ("ms", {"ratio_aim": 5.0}, True),
        ("ms", {"ratio_aim": 5.1}, False),
        ("ms", {"ours_aim": 2.0, "ratio_aim": 5.1}, False),
        ("ms", {"ours_aim": 1.9, "ratio_aim": 5.0}, False),
        ("rows/s", {"ours_aim": 2.0}, True),
        ("rows/s", {"ours_aim": 2.1}, False),
        ("rows/s", {"ratio_aim": 0.2}, True),
        ("rows/s", {"ratio_aim": 0.21}, False),
    ],
)
def test_an_aim_is_an_upper_bound_but_for_rates(harness, unit, aims, met):
    row = harness.Row("what", 2.0, unit, 10.0, "way", **aims)
    assert row.met is met
    assert row.cells()[-1] == {True: "yes", False: "NO", None: ""}[met]
    assert row.cells()[6].count("=") == len(aims)


def test_turns_alternate_and_leave_the_first_round_out(harness):
    now, order = [0.0], []

    def way(name, durations):
        durations = iter(durations)

        def run():
            order.append(name)
            now[0] += next(durations)

        return run

    ways = {"a": way("a", [100, 1, 2, 9]), "b": way("b", [100, 7, 5, 6])}
    assert harness.turns(ways, 3, clock=lambda: now[0]) == {"a": 2, "b": 6}
    assert order == ["a", "b"] * 4


def test_memory_is_that_of_a_fresh_process(harness, tmp_path, monkeypatch):
    """The parent's own memory does not count, and 100 MB more are measured as 100 MB more."""
    (tmp_path / "worker.py").write_text(
        "import side_by_side\n"
        "def peak(size):\n"
        "    block = bytearray(size)\n"
        "    return side_by_side.peak_mb()\n"
        "def growth(before, size):\n"
        "    kept, freed = bytearray(before), bytearray(3 * size)\n"
        "    del freed\n"
        "    return side_by_side.growth_mb(lambda: bytearray(size))\n"
    )
    for folder in (SCRIPTS, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    import worker

    ours = bytearray(400 * 2**20)
    small, large = (harness.alone(worker.peak, size) for size in (0, 100 * 2**20))
    assert large - small == pytest.approx(100, abs=5)
    assert large < 200
    assert harness.alone(worker.growth, 2**26, 100 * 2**20) == pytest.approx(100, abs=5)
    assert len(ours) == 400 * 2**20


def test_rows_are_printed_and_read_back(harness, tmp_path, capsys):
    rows = [
        harness.Row("reading", 2000.4, "rows/s", 10.0, "naive", ours_aim=3000.0),
        harness.Row("memory", 0.1234, "MB"),
    ]
    harness.present(rows, tmp_path / "rows.json")
    read = json.loads((tmp_path / "rows.json").read_text())
    assert [harness.Row(**row) for row in read] == rows
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["reading", "rows/s", "2,000", "10", "naive", "200x", ">= 3,000", "NO"]
    assert [cell.strip() for cell in lines[3].strip("|").split("|")][2] == "0.123"


@pytest.fixture
def two_benchmarks(runner, tmp_path, monkeypatch):
    """A runner for a folder with one benchmark that works and one that fails."""
    (tmp_path / "side_by_side.py").write_text((SCRIPTS / "side_by_side.py").read_text())
    (tmp_path / "bench_works.py").write_text(
        "import side_by_side\n"
        "options = side_by_side.parser('').parse_args()\n"
        "side_by_side.present([side_by_side.Row('this', 1.0, 's', 2.0)], options.json)\n"
    )
    (tmp_path / "bench_fails.py").write_text("raise ValueError('no such peer')\n")
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr(runner, "limits", lambda: {"memory copy": 10.0})
    return runner


def run(runner, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench_all.py", *map(str, arguments)])
    return runner.main()


def test_a_failed_benchmark_is_named_and_the_others_run(
    two_benchmarks, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "output"
    assert run(two_benchmarks, monkeypatch, "--output", output) == 1
    printed = capsys.readouterr()
    assert "bench_fails: ValueError: no such peer" in printed.err
    lines = [line for line in printed.out.splitlines() if line.startswith("| fails ")]
    assert len(lines) == 1 and "failed: ValueError: no such peer" in lines[0] and "NO" in lines[0]
    found = json.loads((output / "bench.json").read_text())
    assert found["benches"]["works"]["rows"][0]["ours"] == 1.0
    assert found["benches"]["fails"]["error"] == "ValueError: no such peer"
    assert (output / "bench.md").read_text() == printed.out.rstrip("\n") + "\n"


def test_benchmarks_can_be_chosen(two_benchmarks, monkeypatch, capsys):
    assert run(two_benchmarks, monkeypatch, "--only", "works") == 0
    assert "fails" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        run(two_benchmarks, monkeypatch, "--only", "nothing")


def test_every_benchmark_is_found_and_answers_help(runner):
    """In one process, as each imports torch; with the arguments that the runner gives."""
    scripts = {path.stem for path in SCRIPTS.glob("bench_*.py")} - {"bench_all"}
    assert {f"bench_{name}" for name in runner.names()} == scripts
    assert "cox" in runner.names()
    command = [sys.executable, "-c", HELP, *sorted(scripts)]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(scripts)
