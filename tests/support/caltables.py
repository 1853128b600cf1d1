"""Solved gains as python-casacore reads them, and the gains that a simulation put in."""

from pathlib import Path

import numpy as np
from casacore.tables import table

from dsa110_contimg.calibration.tables import Solution


def read_solution(path: Path) -> Solution:
    """Read a calibration table without CASA."""
    with table(str(path), ack=False) as t:
        name = "FPARAM" if "FPARAM" in t.colnames() else "CPARAM"
        columns = (t.getcol(c) for c in ("ANTENNA1", "TIME", name, "FLAG", "SNR"))
        antenna, time_s, values, flags, snr = columns
    return Solution(antenna, time_s / 86400, values, flags, snr)


def true_gains(truth, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Return injected gains (117, n_chan, 2), NaN where there are none, and channels, ascending."""
    known = truth.gains(group)
    order = np.argsort(known["freq_hz"])
    gains = np.full((117, len(order), 2), np.nan, complex)
    gains[known["antennas"]] = known["gains"][:, order]
    gains[list(truth.dead)] = np.nan
    return gains, known["freq_hz"][order]
