"""Small WFDB recordings written by hand."""

import numpy as np
import pytest

NAMES = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def write_wfdb(folder, name, seed=0, rate=100, samples=200):
    """Write ``name.hea`` and ``name.dat`` (format 16, 1000 units per mV); return (12, samples)."""
    codes = np.random.default_rng(seed).integers(-2000, 2000, (12, samples)).astype("<i2")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{path.name} 12 {rate} {samples}"]
    for lead, values in zip(NAMES, codes):
        checksum = int(values.sum(dtype=np.int64)) % 65536
        lines.append(f"{path.name}.dat 16 1000.0(0)/mV 16 0 {values[0]} {checksum} 0 {lead}")
    path.with_name(path.name + ".hea").write_text("\n".join(lines) + "\n")
    path.with_name(path.name + ".dat").write_bytes(codes.T.tobytes())
    return codes


@pytest.fixture(scope="session")
def write_record():
    """Return the function that writes a recording."""
    return write_wfdb
