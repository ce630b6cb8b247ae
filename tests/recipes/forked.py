"""Run recipes in forked processes, alone or as one group, and kill them where it hurts most.

The processes are forked from a server that has imported everything, so that each starts at once.
"""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["fm_med.hub", "fm_med.pretraining_report", "fm_med.run"])


def run(*argv, log, processes=1, kill=None, timeout=120, recipe="ecg_pretrain"):
    """Run a recipe; return the exit status of every process.

    Args:
        argv: Of the recipe.
        log: File for what the processes print.
        processes: How many; they find each other through the environment, as under torchrun.
        kill: (module, function, call, part) for the main process; see `die_in`.
        timeout: Seconds until hanging processes are killed.
        recipe: Its name.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = [
        SERVER.Process(target=child, args=(recipe, argv, str(log), rank, processes, port, kill))
        for rank in range(processes)
    ]
    for process in group:
        process.start()
    group[0].join(timeout)
    for process in group[1:]:
        # A launcher ends the others when one has died; here they first get the time to end alone.
        process.join(1 if kill else 10)
    statuses = [process.exitcode for process in group]
    for process in group:
        process.kill()
        process.join()
    return statuses


def child(recipe, argv, log, rank, processes, port, kill):
    """Be one process of a run."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if processes > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from in_process import launch

    if kill and rank == 0:
        die_in(*kill)
    sys.exit(launch(recipe, *argv))


def die_in(module, function, call, part):
    """Make the `call`-th call of a function the process's last.

    Args:
        module: Where the function is looked up.
        function: Its name; dots reach into a class.
        call: 1 for the first.
        part: "before" it does anything, "after" it is done, or "half": after it wrote a file of
            which the second half is then missing. With "full" it does not die, but finds the disk
            full.
    """
    place = importlib.import_module(module)
    *inside, name = function.split(".")
    for step in inside:
        place = getattr(place, step)
    original, calls = getattr(place, name), [0]

    def last(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call and part == "full":
            raise OSError(28, "No space left on device")
        if calls[0] == call and part == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls[0] == call:
            if part == "half":
                os.truncate(args[1], Path(args[1]).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, name, last)
