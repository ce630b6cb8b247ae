import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.ecg.millivolt import write_millivolt
from fm_med.ecg.storage import MISSING


@settings(max_examples=60)
@given(
    rows=st.integers(0, 6),
    samples=st.integers(1, 40),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["one", "per row", "per lead"]),
    absent=st.floats(0, 1),
)
def test_bit_for_bit_the_plain_product(rows, samples, seed, kind, absent):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-32767, 32768, (rows, 12, samples), dtype=np.int16)
    shape = {"one": (1, 1), "per row": (rows, 1), "per lead": (rows, 12)}[kind]
    gain = np.broadcast_to(rng.lognormal(-7, 1, shape).astype(np.float32), (rows, 12)).copy()
    mask = rng.random((rows, 12)) >= absent
    codes[~mask] = MISSING
    # An absent lead's gain is zero in a cohort; the processor may also hide leads that have one.
    gain[~mask & (rng.random((rows, 12)) < 0.5)] = 0.0
    out = np.full((rows, 12, samples), np.nan, np.float32)
    write_millivolt(list(codes.reshape(rows, 12 * samples)), gain, mask, out)
    plain = codes.astype(np.float32) * gain[:, :, None]
    plain[~mask] = 0.0
    assert out.tobytes() == plain.tobytes()


def test_memory_that_can_only_be_read_is_enough():
    codes = np.frombuffer(np.arange(24, dtype=np.int16).tobytes(), np.int16)
    out = np.empty((1, 12, 2), np.float32)
    every, gain = np.ones((1, 12), bool), np.full((1, 12), 0.5, np.float32)
    write_millivolt([codes], gain, every, out)
    assert (out[0] == codes.reshape(12, 2) * 0.5).all()
    with pytest.raises(ValueError, match="broadcast"):  # never fewer samples than were promised
        write_millivolt([codes], gain, every, np.empty((1, 12, 3), np.float32))
