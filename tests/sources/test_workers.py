"""Tasks shared by this process and others."""

import multiprocessing
import os
import threading
from functools import partial

import pytest
from shared_tasks import arrow_without_pandas, double, fail_elsewhere, meet, note_start

from fm_med.sources.workers import cores, each_done, worker_pool


def test_cores_where_the_system_tells_and_where_not(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 8


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
@pytest.mark.parametrize("tasks", [0, 1, 5])
def test_every_task_is_done_once(tasks, workers):
    done = list(each_done(double, range(tasks), workers))
    assert sorted(done) == [2 * number for number in range(tasks)]


def test_one_process_is_this_one(monkeypatch):
    monkeypatch.setattr("fm_med.sources.workers.worker_pool", None)
    assert list(each_done(double, [1, 2, 3], 1)) == [2, 4, 6]
    assert list(each_done(double, [1], 4)) == [2]


def test_this_process_works_beside_the_others(tmp_path):
    """Each task waits for two others, which only processes of their own can do meanwhile."""
    done = list(each_done(partial(meet, count=3), [tmp_path] * 3, 3))
    assert len(set(done)) == 3
    assert os.getpid() in done


def test_what_fails_in_another_process_is_told_and_ends_the_rest():
    tasks = [os.getpid()] * 1000  # 20 s for this process alone
    done = []
    with pytest.raises(ValueError, match="failed elsewhere"):
        done.extend(each_done(fail_elsewhere, tasks, 2))
    assert len(done) < 500


def test_stopping_leaves_neither_processes_nor_threads(tmp_path):
    threads = threading.active_count()
    results = each_done(note_start, [str(tmp_path / str(n)) for n in range(2000)], 2)
    next(results)
    results.close()
    assert threading.active_count() == threads
    assert multiprocessing.active_children() == []
    begun = len(list(tmp_path.iterdir()))
    assert 1 <= begun < 2000


def test_other_processes_leave_pandas_out_unless_they_need_it():
    with worker_pool(1) as pool:
        found = pool.submit(arrow_without_pandas, None).result()
    assert found == (False, "pandas", [0, 1, 2])
