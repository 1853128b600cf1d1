"""Robust statistics: scatter that outliers hardly move, from median absolute deviations.

The factors are rounded values of ``1 / Phi^-1(3/4) = 1.482602218505602``, not SciPy's: these have
decided flags, gates and published errors, which stay comparable only if no digit changes. The
rounding is a millionth of the scatter, which itself is known to some percent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["MAD_TO_SIGMA", "NOISE_MAD_TO_SIGMA", "mad", "median_error", "sigma"]

#: Standard deviations per median absolute deviation of a normal distribution.
MAD_TO_SIGMA = 1.4826
#: The same for the noise of images.
NOISE_MAD_TO_SIGMA = 1.482602


def mad(values: np.ndarray, centre: Any = None, axis: int | None = None) -> Any:
    """Return the median absolute deviation.

    Parameters
    ----------
    values : array
        Finite.
    centre : float or array, optional
        What the deviations are from; the median by default.
    axis : int, optional
        Along which axis; of all values by default.
    """
    centre = np.median(values, axis=axis, keepdims=True) if centre is None else centre
    return np.median(np.abs(values - centre), axis=axis)


def sigma(values: np.ndarray, centre: Any = None, axis: int | None = None) -> Any:
    """Return the standard deviation that normal values of the same `mad` have."""
    return MAD_TO_SIGMA * mad(values, centre, axis)


def median_error(scatter: Any, n: int) -> Any:
    """Return the standard error of the median of n normal values with some scatter."""
    return 1.2533 * scatter / np.sqrt(n)
