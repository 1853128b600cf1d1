"""The gains that a simulation put in."""

import numpy as np


def true_gains(truth, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Return injected gains (117, n_chan, 2), NaN where there are none, and channels, ascending."""
    known = truth.gains(group)
    order = np.argsort(known["freq_hz"])
    gains = np.full((117, len(order), 2), np.nan, complex)
    gains[known["antennas"]] = known["gains"][:, order]
    gains[list(truth.dead)] = np.nan
    return gains, known["freq_hz"][order]
