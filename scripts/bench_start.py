"""How long one waits: for the import, for --help, for the answer to a typo, for the first step.

    python scripts/bench_start.py [--rounds 5]

Every figure is that of fresh processes. The aims are for the wall clock, which is what one feels;
other programs on the machine lengthen it, so the CPU time stands beside it. The first step is that
of `scripts/demo` after its environment is made: with an empty cache, where the cohort is simulated
and the text model made first, and once more with both there.
"""

import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import Row, parser, present

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = [path.name for path in sorted((REPOSITORY / "recipes").glob("*.py"))]
# As scripts/demo starts it.
LAUNCH = ["launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
LAUNCH += ["--dynamo_backend", "no", "recipes/ecg_pretrain.py"]
IMPORT_AIM_MS, ANSWER_AIM, FIRST_STEP_AIM = 50.0, 0.5, 25.0
PATIENCE = 300.0  # seconds until a first step is given up
BARE, IMPORT = "python", "import fm_med"


def program(name: str) -> str:
    """Return a command of the environment that runs this file."""
    return str(Path(sys.executable).with_name(name))


def commands() -> dict[str, tuple[list[str], int]]:
    """Return the commands by name, with the exit status that each must have."""
    found = {
        BARE: ([sys.executable, "-c", "pass"], 0),
        IMPORT: ([sys.executable, "-c", "import fm_med"], 0),
        "fm-med --help": ([program("fm-med"), "--help"], 0),
        "fm-med cohrt": ([program("fm-med"), "cohrt"], 2),
    }
    for recipe in RECIPES:
        found[f"{recipe} --help"] = ([sys.executable, f"recipes/{recipe}", "--help"], 0)
    typo = [sys.executable, "recipes/ecg_pretrain.py", "--ouput", "runs/x"]
    return found | {"ecg_pretrain.py --ouput": (typo, 2)}


def once(command: list[str], status: int) -> tuple[float, float]:
    """Run a command; return its wall and CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, cwd=REPOSITORY, check=False)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != status:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}, expected {status}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def answers(rounds: int) -> list[Row]:
    """Measure the commands in turns; the first round only warms the file cache."""
    wanted = commands()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for attempt in range(rounds + 1):
        for name, (command, status) in wanted.items():
            figures = once(command, status)
            if attempt:
                taken[name].append(figures)
    wall, cpu = (
        {
            name: statistics.median(figures[clock] for figures in all_of)
            for name, all_of in taken.items()
        }
        for clock in (0, 1)
    )
    beyond = {clock: 1000 * (s[IMPORT] - s[BARE]) for clock, s in (("wall", wall), ("CPU", cpu))}
    rows = [
        Row(f"{IMPORT}, beyond a bare python, wall", beyond["wall"], "ms", ours_aim=IMPORT_AIM_MS),
        Row(f"{IMPORT}, beyond a bare python, CPU", beyond["CPU"], "ms"),
    ]
    for name in wanted:
        if name not in (BARE, IMPORT):
            rows.append(Row(f"{name}, wall", wall[name], "s", ours_aim=ANSWER_AIM))
            rows.append(Row(f"{name}, CPU", cpu[name], "s"))
    return rows


def first_step(folder: Path, cache: Path) -> tuple[float, float]:
    """Start the demo's recipe; return wall and CPU seconds to its first logged step, and end it."""
    environment = os.environ | {"FM_MED_CACHE": str(cache), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [program("accelerate"), *LAUNCH, "--output", str(folder)]
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            while not (folder / "metrics.jsonl").exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the recipe ended with {process.returncode}")
                if time.perf_counter() - start > PATIENCE:
                    raise RuntimeError(f"no step after {PATIENCE:.0f} s")
                time.sleep(0.02)
            return time.perf_counter() - start, cpu_of_session(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def cpu_of_session(session: int) -> float:
    """Return the CPU seconds so far of the processes of a session, and of their ended children."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a row per command and clock."""
    options = parser(__doc__).parse_args()
    rows = answers(options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("empty cache", "cohort and text model there"):
            place = Path(folder, name.replace(" ", "-"))
            wall, cpu = first_step(place, Path(folder, "cache"))
            what = f"first step of the demo, {name}"
            rows.append(Row(f"{what}, wall", wall, "s", ours_aim=FIRST_STEP_AIM))
            rows.append(Row(f"{what}, CPU", cpu, "s"))
    present(rows, options.json)


if __name__ == "__main__":
    main()
