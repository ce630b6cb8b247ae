"""Restricted cubic splines: straight outside, smooth inside, by Harrell's formula."""

import numpy as np
import pytest

from fm_med.errors import InputError
from fm_med.survival.splines import RestrictedCubicSpline


def test_columns_are_smooth_and_straight_beyond_the_knots():
    spline = RestrictedCubicSpline(np.array([-1.0, 0.0, 0.5, 2.0]), -10.0, 10.0)
    x = np.linspace(-6, 6, 1201)
    basis = spline.basis(x)
    assert basis.shape == (1201, 3) and (basis[:, 0] == x).all()
    second = np.diff(basis, 2, axis=0) / 0.01**2
    outside = (x[1:-1] < -1.02) | (x[1:-1] > 2.02)
    assert np.abs(second[outside]).max() < 1e-6
    # Continuous second derivatives: no jump larger than the third derivative allows.
    assert np.abs(np.diff(second, axis=0)).max() < 0.2
    assert not basis[x <= -1, 1:].any()


def test_columns_are_those_of_the_formula():
    # rcspline.eval(3, knots = c(0, 1, 4), norm = 2): (27 - 8 * 4 / 3 + 0) / 16.
    value = RestrictedCubicSpline(np.array([0.0, 1.0, 4.0]), -9.0, 9.0).basis([3.0])
    assert value[0].tolist() == pytest.approx([3.0, (27 - 8 * 4 / 3) / 16])


def test_knots_and_limits_come_from_the_training_values():
    values = np.random.default_rng(0).normal(size=2000)
    spline = RestrictedCubicSpline.fit(values, 5)
    assert spline.knots == pytest.approx(np.quantile(values, [0.05, 0.275, 0.5, 0.725, 0.95]))
    assert (spline.basis([1e9]) == spline.basis([spline.high])).all()
    few = RestrictedCubicSpline.fit(np.array([0.0, 1.0] * 50), 4)
    assert few.basis([0.0, 1.0]).shape == (2, 1)


def test_bad_input():
    with pytest.raises(InputError, match="3 to 7 knots"):
        RestrictedCubicSpline.fit(np.arange(9.0), 2)
    with pytest.raises(InputError, match="finite"):
        RestrictedCubicSpline.fit(np.array([0.0, np.nan]))
