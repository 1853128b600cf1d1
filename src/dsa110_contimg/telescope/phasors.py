"""Phases of waves along paths, channel by channel."""

from __future__ import annotations

import numpy as np

from .dsa110 import C_M_S

__all__ = ["phasors"]


def phasors(path_m: np.ndarray, freq_hz: np.ndarray) -> np.ndarray:
    """Return ``exp(2 pi i nu path / c)``, complex64, shape ``(n_chan, *path.shape)``.

    Parameters
    ----------
    path_m : array
        Path lengths, m.
    freq_hz : (n_chan,) array
        Evenly spaced frequencies, Hz. The phase of every 32nd channel is computed in double
        precision, those between by multiplication.
    """
    stride = 32
    out = np.empty((len(freq_hz), *path_m.shape), np.complex64)
    step_hz = freq_hz[1] - freq_hz[0] if len(freq_hz) > 1 else 0.0
    steps = _unit(path_m * (step_hz / C_M_S))
    for first in range(0, len(freq_hz), stride):
        out[first] = _unit(path_m * (freq_hz[first] / C_M_S))
        for c in range(first + 1, min(first + stride, len(freq_hz))):
            np.multiply(out[c - 1], steps, out=out[c])
    return out


def _unit(turns: np.ndarray) -> np.ndarray:
    angle = (2 * np.pi * (turns - np.round(turns))).astype(np.float32)
    return np.cos(angle) + 1j * np.sin(angle)
