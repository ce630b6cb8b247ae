"""Tasks that tests give to other processes, which import them from here."""

import os
import sys
import time
from pathlib import Path


def double(number):
    return 2 * number


def meet(folder, count):
    """Wait until `count` processes are doing this; return the own one."""
    Path(folder, str(os.getpid())).touch()
    deadline = time.monotonic() + 60
    while len(list(Path(folder).iterdir())) < count:
        assert time.monotonic() < deadline, "no other process came"
        time.sleep(0.005)
    return os.getpid()


def fail_elsewhere(here):
    """Fail in any other process; in process `here` wait, so that others get a task."""
    if os.getpid() != here:
        raise ValueError("failed elsewhere")
    time.sleep(0.02)


def note_start(path):
    Path(path).touch()
    return path


def arrow_without_pandas(_):
    """Return whether pandas is imported by what readers do, and by whoever asks for it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pa.array(np.arange(3))
    assert pc.equal(column, 2).to_pylist() == [False, False, True]
    assert pa.array(["a", None]).to_pylist() == ["a", None]
    before = "pandas" in sys.modules
    frame = pa.table({"column": column}).to_pandas()
    return before, type(frame).__module__.partition(".")[0], frame["column"].tolist()
