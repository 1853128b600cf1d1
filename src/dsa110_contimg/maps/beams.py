"""Restoring beams: one that several fit in, and convolution to it."""

from __future__ import annotations

import numpy as np
from scipy import fft, optimize

__all__ = ["common_beam", "convolve"]

_FWHM = np.sqrt(8 * np.log(2))


#: Beams that agree to this fraction of the major axis are one.
SAME_BEAM = 1e-3


# --- beams ----------------------------------------------------------------------------------------


def common_beam(beams: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return the smallest beam that all `beams` (FWHM axes and position angle, deg) fit in."""
    first = _covariance(beams[0])
    if all(np.abs(_covariance(b) - first).max() < 2 * SAME_BEAM * first.max() for b in beams):
        return beams[0]
    covariances = np.array([_covariance(b) for b in beams])

    def beam_of(shape: np.ndarray) -> tuple[float, float, float]:
        """Return the beam of one shape (log axis ratio, position angle) that holds all others."""
        ratio, angle = shape
        unit = (np.exp(ratio / 2), np.exp(-ratio / 2), np.rad2deg(angle))
        inverse = np.linalg.inv(_covariance(unit))
        # It holds C if no eigenvalue of C / (its own) is above 1.
        scale = np.sqrt(np.linalg.eigvals(inverse @ covariances).real.max()) * (1 + 1e-9)
        return scale * unit[0], scale * unit[1], unit[2]

    def area(shape: np.ndarray) -> float:
        major, minor, _ = beam_of(shape)
        return major * minor

    starts = [(np.log(b[0] / b[1]), np.deg2rad(b[2])) for b in (max(beams), min(beams))]
    starts += [(0.05, angle) for angle in (0.0, np.pi / 3, 2 * np.pi / 3)]
    found = [
        optimize.minimize(
            area, start, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-12}
        )
        for start in starts
    ]
    major, minor, angle = beam_of(min(found, key=lambda f: f.fun).x)
    if major < minor:
        major, minor, angle = minor, major, angle + 90
    return float(major), float(minor), float((angle + 90) % 180 - 90)


def _covariance(beam_deg: tuple[float, float, float]) -> np.ndarray:
    """Return the covariance of a beam on the sky, (east, north), deg^2."""
    major, minor, angle = beam_deg
    axis = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
    across = np.array([axis[1], -axis[0]])
    return (np.outer(axis, axis) * major**2 + np.outer(across, across) * minor**2) / _FWHM**2


def convolve(
    data: np.ndarray,
    cell_deg: float,
    beam: tuple[float, float, float],
    target: tuple[float, float, float],
) -> np.ndarray:
    """Convolve an image in Jy/beam from one Gaussian beam to a larger one.

    The kernel is applied as the ratio of the beams' Fourier transforms, which is exact for kernels
    of any width, below a pixel too; sources keep their peak.

    Parameters
    ----------
    data : (rows, columns) array
        Finite everywhere; x runs to the west, y to the north.
    cell_deg : float
        Pixel size, deg.
    beam, target : (float, float, float)
        FWHM axes and position angle, deg.
    """
    difference = (_covariance(target) - _covariance(beam)) / cell_deg**2
    values, vectors = np.linalg.eigh(difference)
    difference = (vectors * np.maximum(values, 0)) @ vectors.T
    margin = int(np.ceil(3 * target[0] / cell_deg))
    shape = [fft.next_fast_len(n + margin, real=True) for n in data.shape]
    v = fft.fftfreq(shape[0])[:, None]
    u = -fft.rfftfreq(shape[1])[None]  # to the east
    quadratic = difference[0, 0] * u**2 + 2 * difference[0, 1] * u * v + difference[1, 1] * v**2
    gain = target[0] * target[1] / (beam[0] * beam[1])
    transfer = (gain * np.exp(-2 * np.pi**2 * quadratic)).astype(np.float32)
    spectrum = fft.rfft2(np.asarray(data, np.float32), shape) * transfer
    return fft.irfft2(spectrum, shape)[: data.shape[0], : data.shape[1]]
