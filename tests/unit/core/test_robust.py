"""Robust scatter, against SciPy and the normal distribution."""

import numpy as np
import pytest
from scipy import stats

from dsa110_contimg.core import robust


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_scatter_is_that_of_scipy_to_the_digits_kept(axis):
    values = np.random.default_rng(1).normal(3.0, 2.0, (401, 50))
    truth = stats.median_abs_deviation(values, axis, scale="normal")
    assert robust.sigma(values, axis=axis) == pytest.approx(truth, rel=2e-6)
    assert robust.mad(values, 3.0, axis) == pytest.approx(
        np.median(np.abs(values - 3.0), axis=axis)
    )
    assert pytest.approx(1 / stats.norm.ppf(0.75), rel=2e-7) == robust.NOISE_MAD_TO_SIGMA


def test_the_error_of_a_median():
    medians = np.median(np.random.default_rng(2).normal(0.0, 2.0, (4000, 101)), axis=1)
    assert robust.median_error(2.0, 101) == pytest.approx(medians.std(), rel=0.05)
