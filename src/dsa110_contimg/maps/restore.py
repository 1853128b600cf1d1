"""The restoring beam, and restoring with it.

The array's point-spread function has a narrow core on broad shoulders, a third to a half as high.
A Gaussian fitted to both, as imagers do by default, is up to twice as wide as the core: sources too
faint to be cleaned would then not have the shape that the header states, and flux that cleaning
left in the residual would add to it with the wrong profile. So the beam is fitted to the core
alone, and the model is restored with that.
"""

from __future__ import annotations

import numpy as np

__all__ = ["fit_beam", "restore"]

#: The core is where the point-spread function is at least this, around its peak.
CORE_LEVEL = 0.6
#: Half side of the piece that is searched for the core, pixels, and how finely it is interpolated.
_REACH, _FINER = 32, 4


def fit_beam(
    psf: np.ndarray, cell_arcsec: float, level: float = CORE_LEVEL
) -> tuple[float, float, float] | None:
    """Fit an elliptical Gaussian to the core of a point-spread function.

    Linear least squares on the logarithm, with weights that undo the logarithm's effect on errors.

    Parameters
    ----------
    psf : (rows, columns) array
        Peak 1 at the central pixel (rows // 2, columns // 2).
    cell_arcsec : float
        Pixel size, arcsec.
    level : float
        Where the core ends.

    Returns
    -------
    (float, float, float) or None
        FWHM of the major and minor axis, position angle (north through east, 0 to 180), all deg.
        None if the core is no peak or too small to be fitted.
    """
    from scipy.ndimage import label, map_coordinates

    row, column = psf.shape[0] // 2, psf.shape[1] // 2
    reach = min(_REACH, row, column)
    piece = np.asarray(psf[row - reach : row + reach, column - reach : column + reach], dtype=float)
    if not np.isfinite(piece).all() or not piece[reach, reach] > 0:
        return None
    fine = np.arange((2 * reach - 1) * _FINER + 1) / _FINER
    values = map_coordinates(piece, np.meshgrid(fine, fine, indexing="ij"), order=5)
    values /= piece[reach, reach]
    labels, _ = label(values >= level)
    y, x = np.nonzero(labels == labels[reach * _FINER, reach * _FINER])
    if min(y.min(), x.min()) == 0 or max(y.max(), x.max()) == len(fine) - 1:
        return None
    value = np.minimum(values[y, x], 1.0)
    east, north = reach - fine[x], fine[y] - reach
    basis = np.stack([east**2, 2 * east * north, north**2], axis=1)
    solution = np.linalg.lstsq(basis * value[:, None], -np.log(value) * value, rcond=None)[0]
    shape = np.array([[solution[0], solution[1]], [solution[1], solution[2]]])
    curvature, axes = np.linalg.eigh(shape)  # ascending: the major axis comes first
    if not curvature[0] > 0:
        return None
    fwhm = 2 * np.sqrt(np.log(2) / curvature) * cell_arcsec / 3600
    angle = np.rad2deg(np.arctan2(axes[0, 0], axes[1, 0])) % 180
    return float(fwhm[0]), float(fwhm[1]), float(angle)


def restore(
    model: np.ndarray,
    residual: np.ndarray,
    beam_deg: tuple[float, float, float],
    cell_arcsec: float,
) -> np.ndarray:
    """Return the residual plus the model convolved with a Gaussian beam of unit peak.

    Parameters
    ----------
    model : (rows, columns) array
        Jy/pixel.
    residual : (rows, columns) array
        Jy/beam.
    beam_deg : (float, float, float)
        As `fit_beam` gives it.
    cell_arcsec : float
        Pixel size, arcsec.

    Returns
    -------
    (rows, columns) float32 array
        Jy/beam.
    """
    from scipy import fft

    if not model.any():
        return residual.astype(np.float32)
    # The transform of a Gaussian is a Gaussian; padding keeps the edges from meeting.
    pad = int(np.ceil(4 * beam_deg[0] * 3600 / cell_arcsec))
    shape = [fft.next_fast_len(n + pad, real=True) for n in model.shape]
    major, minor, angle = beam_deg[0] * 3600, beam_deg[1] * 3600, np.deg2rad(beam_deg[2])
    v = fft.fftfreq(shape[0])[:, None] / cell_arcsec  # along north, per arcsec
    u = -fft.rfftfreq(shape[1])[None, :] / cell_arcsec  # along east
    along, across = u * np.sin(angle) + v * np.cos(angle), u * np.cos(angle) - v * np.sin(angle)
    area = np.pi * major * minor / (4 * np.log(2)) / cell_arcsec**2  # pixels
    gaussian = area * np.exp(
        -(np.pi**2) / (4 * np.log(2)) * ((major * along) ** 2 + (minor * across) ** 2)
    )
    spectrum = fft.rfft2(model.astype(float), shape) * gaussian
    smooth = fft.irfft2(spectrum, shape)[: model.shape[0], : model.shape[1]]
    return (residual + smooth).astype(np.float32)
