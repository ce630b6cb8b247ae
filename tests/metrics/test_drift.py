"""Drift of an embedding: what is the same is called so, what moved is found and measured."""

import numpy as np
import pytest

from fm_med.metrics.drift import embedding_drift, frechet_diagonal


def drift(rows, seed, *, shift=0.0, scale=1.0, reference=400, dim=20):
    rng = np.random.default_rng(seed)
    spread = np.linspace(0.2, 3.0, dim)
    old = rng.normal(size=(reference, dim)) * spread
    new = (rng.normal(size=(rows, dim)) * scale + shift) * spread
    return embedding_drift(
        new, mean=old.mean(0), variance=old.var(0, ddof=1), rows=reference, seed=seed
    )


@pytest.mark.parametrize("rows", [25, 200])
def test_chance_is_called_chance(rows):
    """Of draws from one population about one in twenty has p below .05, and none moves far."""
    found = [drift(rows, seed) for seed in range(60)]
    small = sum(one.p_value < 0.05 for one in found)
    assert small <= 9  # 3 expected; above 9 with a probability of .001
    assert 0.3 < np.mean([one.p_value for one in found]) < 0.7
    assert max(one.shift for one in found if one.p_value > 0.05) < 0.4


def test_a_shift_is_measured_in_deviations():
    found = drift(300, 1, shift=0.6)
    assert found.shift == pytest.approx(0.6, abs=0.08)
    assert found.chance < 0.2 and found.p_value < 0.01
    assert found.moved > 0.7 and found.features == 20


def test_a_change_of_spread_alone_is_found():
    found = drift(300, 1, scale=2.0)
    assert found.shift == pytest.approx(1.0, abs=0.1) and found.p_value < 0.01
    assert found.moved == 0.0


def test_the_distance_is_the_one_of_the_formula():
    one = (np.array([0.0, 1.0]), np.array([1.0, 4.0]))
    other = (np.array([3.0, 1.0]), np.array([1.0, 9.0]))
    assert frechet_diagonal(*one, *other) == pytest.approx(9.0 + 1.0)


def test_constant_features_do_not_count():
    features = np.c_[np.ones(40), np.random.default_rng(0).normal(size=40)]
    found = embedding_drift(features, mean=np.ones(2), variance=np.array([0.0, 1.0]), rows=100)
    assert found.features == 1 and np.isfinite(found.shift)
