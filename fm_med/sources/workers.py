"""Processes that read or simulate recordings, and that end when the one that started them ends."""

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from importlib.abc import MetaPathFinder
from queue import Empty, SimpleQueue
from typing import TypeVar

import pyarrow as pa

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use; where that is not told, as on macOS, all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of processes whose workers do not outlive the process that made it."""
    context = multiprocessing.get_context("spawn")  # fork is unsafe once torch has threads
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def each_done(
    work: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    """Do tasks here and in other processes; yield the results in the order they are done.

    This process begins at once, the others join it when they have started. Whoever is done with a
    task takes the next one, so that nobody waits before the last task is taken.

    Args:
        work: A function of a module, so that it pickles.
        tasks: The first ones are begun first.
        workers: Processes, this one included; there are never more than tasks.
    """
    left, others = deque(tasks), min(workers, len(tasks)) - 1
    if others < 1:
        yield from map(work, tasks)
        return
    done: SimpleQueue[Result] = SimpleQueue()
    pool, threads = worker_pool(others), ThreadPoolExecutor(others)
    try:
        handing = [threads.submit(_hand_out, work, left, pool, done) for _ in range(others)]
        for task in _taken(left):
            done.put(work(task))
            yield from _collected(done, [thread for thread in handing if thread.done()])
        for thread in as_completed(handing):
            yield from _collected(done, [thread])
    finally:
        left.clear()
        pool.shutdown(cancel_futures=True)
        threads.shutdown()


def _hand_out(
    work: Callable[[Task], Result],
    left: deque[Task],
    pool: ProcessPoolExecutor,
    done: SimpleQueue[Result],
) -> None:
    """Give one process of the pool a task, and the next one when it is done."""
    for task in _taken(left):
        done.put(pool.submit(work, task).result())


def _taken(left: deque[Task]) -> Iterator[Task]:
    """Yield tasks that nobody else gets."""
    while True:
        try:
            yield left.popleft()
        except IndexError:
            return


def _collected(done: SimpleQueue[Result], ended: Sequence[Future[None]]) -> Iterator[Result]:
    """Yield the results that are there; raise what ended a thread that handed out tasks."""
    for thread in ended:
        thread.result()
    while True:
        try:
            yield done.get_nowait()
        except Empty:
            return


def _begin() -> None:
    _end_with_parent()
    _leave_pandas_out()


def _end_with_parent() -> None:
    """End this process when the one that started it is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _leave_pandas_out() -> None:
    """Keep pyarrow from importing pandas, which takes as long as reading 1,000 recordings.

    With its first array pyarrow looks for pandas, to know its types; here is none of them. Who
    needs pandas for something else (wfdb does) imports it as ever.
    """
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas(MetaPathFinder):
    """Says that pandas is not installed."""

    @classmethod
    def find_spec(cls, fullname: str, *_: object) -> None:
        """Raise for pandas, know nothing of the rest."""
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname, name=fullname)
