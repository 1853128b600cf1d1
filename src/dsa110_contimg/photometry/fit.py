"""Fits of sources at given positions, with the noise correlation of a synthesis image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike
from scipy import fft, ndimage, sparse
from scipy.spatial import cKDTree

from ..core import robust
from .images import SkyPlane

__all__ = [
    "EDGE_FRACTION",
    "Fit",
    "forced_fit",
    "gather_pixels",
    "noise_autocorrelation",
    "without_sources",
]

_FWHM = np.sqrt(8 * np.log(2))


#: Stamps reach this many beam FWHM from the source.
STAMP_FWHM = 1.5


#: Sources closer than this many major axes are fitted together.
BLEND_FWHM = 1.5


#: Annulus of the local noise, in major axes.
ANNULUS_FWHM = (4.0, 8.0)


#: Variance treated as uncorrelated when weights are made, next to 1 correlated like the beam. It
#: keeps the weights from resting on single pixels.
NUGGET = 0.1


#: A stamp with less than this part of the beam's weight on valid pixels is flagged / not measured.
EDGE_FRACTION, LEAST_FRACTION = 0.99, 0.6


#: Side of the square in which the noise autocorrelation is measured, pixels.
_ACF_SIDE = 1024


# --- the fit --------------------------------------------------------------------------------------


def noise_autocorrelation(data: np.ndarray, reach: int, mask_radius: float) -> np.ndarray | None:
    """Measure the autocorrelation of an image's noise.

    Pixels above four robust standard deviations, and those around them, are left out; the rest is
    correlated with itself through Fourier transforms, divided by the number of pairs at each lag.

    Parameters
    ----------
    data : (rows, columns) array
        Image or part of one, of even noise. NaN is left out.
    reach : int
        Largest lag, pixels.
    mask_radius : float
        Radius around bright pixels that is left out, pixels.

    Returns
    -------
    (2 reach + 1, 2 reach + 1) array or None
        1 at the centre. None if too few pixels are left to tell.
    """
    data = np.asarray(data, float)
    valid = np.isfinite(data)
    if valid.sum() < 100:
        return None
    centre = np.median(data[valid])
    sigma = robust.sigma(data[valid], centre)
    if sigma == 0:
        return None
    bright = valid & (np.abs(data - centre) > 4 * sigma)
    valid &= ndimage.distance_transform_edt(~bright) > mask_radius
    if valid.sum() < 0.1 * valid.size or valid.sum() < (2 * reach + 1) ** 2:
        return None
    clean = np.where(valid, data, 0.0)
    clean[valid] -= clean[valid].mean()
    shape = [fft.next_fast_len(n + reach, real=True) for n in data.shape]
    products, pairs = (
        fft.irfft2(np.abs(fft.rfft2(a, shape)) ** 2, shape) for a in (clean, valid.astype(float))
    )
    lags = np.ix_(*(np.arange(-reach, reach + 1) % n for n in shape))
    acf = products[lags] / np.maximum(pairs[lags], 1)
    return acf / acf[reach, reach]


@dataclass(frozen=True)
class Fit:
    """Result of `forced_fit`, one value a position, before any beam correction.

    Attributes
    ----------
    flux, error : (n,) array
        Jy and its standard deviation; NaN where nothing can be measured.
    local_rms : (n,) array
        Noise of one pixel, Jy/beam.
    coverage : (n,) array
        Part of the beam's weight that fell on valid pixels.
    blended : (n,) bool array
        Fitted together with a neighbour.
    shift_deg : (n, 2) array
        Offset of the fitted centroid from the position, east and north, deg; meaningful for bright,
        isolated sources.
    """

    flux: np.ndarray
    error: np.ndarray
    local_rms: np.ndarray
    coverage: np.ndarray
    blended: np.ndarray
    shift_deg: np.ndarray


def forced_fit(plane: SkyPlane, ra_deg: np.ndarray, dec_deg: np.ndarray) -> Fit:
    """Fit beams of free flux at fixed positions.

    With K the beam on a stamp (unit peak, at the sub-pixel position), B the beam's value at the
    lag between two pixels, R the measured noise correlation at that lag and n the local rms,
    weights are ``w = (B + 0.1)^-1 K`` on valid pixels, and ``S = sum(w d) / sum(w K)`` with the
    error ``n sqrt(w R w) / sum(w K)``. Weights do not follow R: where the noise is smoother than
    the beam they would turn negative around the source, and 5 % of error in the beam's width would
    cost 7 % of the flux instead of 0.4 %. For a group of
    neighbours, sums become matrices: ``M S = b`` with ``M_ij = sum(w_i K_j)`` on the stamp of i,
    and covariance ``n_i n_j M^-1 (w_i R w_j) M^-T``.

    Parameters
    ----------
    plane : SkyPlane
        Image; data, wcs, beam_deg and rms are used.
    ra_deg, dec_deg : (n,) array
        Positions, ICRS, deg. Those off the image give NaN.
    """
    x, y, jacobian = _pixels(plane.wcs, ra_deg, dec_deg)
    shape_inverse = _beam_shape(plane.beam_deg, jacobian)
    major_px, minor_px = _beam_px(plane)
    half = max(2, int(np.ceil(STAMP_FWHM * major_px)))
    offsets = np.arange(-half, half + 1)
    dy, dx = (a.ravel() for a in np.meshgrid(offsets, offsets, indexing="ij"))
    on_sky = np.isfinite(x) & np.isfinite(y)
    x, y = np.where(on_sky, x, -1e6), np.where(on_sky, y, -1e6)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)

    local_rms, background = _annulus(plane, row, column, major_px, minor_px)
    stamps = (
        gather_pixels(plane.data, row[:, None] + dy, column[:, None] + dx) - background[:, None]
    )
    valid = np.isfinite(stamps)
    stamps[~valid] = 0.0
    from_source = dx + (column - x)[:, None], dy + (row - y)[:, None]
    beam = _gaussian(shape_inverse, *from_source)
    coverage = (beam**2 * valid).sum(1) / (beam**2).sum(1)

    typical = np.median(shape_inverse, axis=0)[None]
    lag = [a.ravel() for a in np.meshgrid(*2 * [np.arange(-2 * half, 2 * half + 1)])]
    beam_acf = _gaussian(typical, *(a[None] for a in lag)).reshape(4 * half + 1, -1)
    filtering = np.linalg.inv(_toeplitz(beam_acf, dx, dy) + NUGGET * np.eye(dx.size))
    weights = (beam * valid) @ filtering * valid
    acf = _correlation(plane, half, major_px, minor_px)
    covariance = _toeplitz(acf, dx, dy)
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = (weights * beam).sum(1)
        flux = (weights * stamps).sum(1) / norm
        error = local_rms * np.sqrt(((weights @ covariance) * weights).sum(1)) / norm

    usable = on_sky & (coverage >= LEAST_FRACTION) & np.isfinite(local_rms)
    shift = _centroids(stamps, valid, beam, *from_source, shape_inverse)
    shift_deg = np.einsum("nij,nj->ni", np.linalg.inv(jacobian), shift)

    blended = np.zeros(x.size, bool)
    members = _Members(weights, stamps, beam, dx, dy, column, row, x, y, shape_inverse, local_rms)
    for group in _groups(x, y, usable, BLEND_FWHM * major_px):
        flux[group], error[group] = _joint(members, acf, group)
        blended[group] = True
    flux[~usable] = error[~usable] = np.nan
    return Fit(flux, error, local_rms, coverage, blended, shift_deg)


def without_sources(
    plane: SkyPlane, ra_deg: ArrayLike, dec_deg: ArrayLike, flux: np.ndarray
) -> np.ndarray:
    """Return the image without beams of given fluxes (Jy) at given positions."""
    x, y, jacobian = _pixels(plane.wcs, ra_deg, dec_deg)
    shape_inverse = _beam_shape(plane.beam_deg, jacobian)
    half = max(2, int(np.ceil(3 * STAMP_FWHM * _beam_px(plane)[0])))
    left = np.array(plane.data, np.float32)
    for i in np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(flux)):
        row, column = round(float(y[i])), round(float(x[i]))
        rows, columns = (
            np.arange(max(0, at - half), max(0, min(size, at + half + 1)))
            for at, size in zip((row, column), left.shape, strict=True)
        )
        dx, dy = (a.ravel() for a in np.meshgrid(columns - x[i], rows - y[i]))
        beam = _gaussian(shape_inverse[i : i + 1], dx[None], dy[None])
        left[np.ix_(rows, columns)] -= flux[i] * beam.reshape(rows.size, columns.size)
    return left


def _pixels(
    wcs: WCS, ra_deg: ArrayLike, dec_deg: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixel positions and the Jacobian d(x, y)/d(east, north), pixels/deg, at each."""
    step = 1e-3
    ra, dec = np.asarray(ra_deg, float), np.asarray(dec_deg, float)
    # The step in declination goes towards the equator, never over a pole.
    sign = np.where(dec > 0, -1.0, 1.0)
    x, y = wcs.all_world2pix(ra, dec, 0)
    east = np.stack(wcs.all_world2pix(ra + step / np.cos(np.deg2rad(dec)), dec, 0))
    north = np.stack(wcs.all_world2pix(ra, dec + sign * step, 0))
    here = np.stack([x, y])
    jacobian = np.stack([(east - here) / step, sign * (north - here) / step], -1)
    jacobian = np.moveaxis(jacobian, 0, 1)
    bad = ~np.isfinite(jacobian).all((1, 2))
    jacobian[bad] = np.eye(2)
    return np.asarray(x), np.asarray(y), jacobian


def _beam_shape(beam_deg: tuple[float, float, float], jacobian: np.ndarray) -> np.ndarray:
    """Return the inverse covariance of the beam in pixels, (n, 2, 2)."""
    major, minor, angle = beam_deg
    axis = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])  # east, north
    across = np.array([axis[1], -axis[0]])
    sky = (np.outer(axis, axis) * major**2 + np.outer(across, across) * minor**2) / _FWHM**2
    return np.linalg.inv(jacobian @ sky @ np.swapaxes(jacobian, 1, 2))


def _gaussian(shape_inverse: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    a, b, c = (shape_inverse[:, i, j, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    return np.exp(-0.5 * (a * dx**2 + 2 * b * dx * dy + c * dy**2))


def _beam_px(plane: SkyPlane) -> tuple[float, float]:
    scale = np.sqrt(np.abs(np.linalg.det(plane.wcs.pixel_scale_matrix)))
    return plane.beam_deg[0] / scale, plane.beam_deg[1] / scale


def gather_pixels(array: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return pixels as float64 in native order, NaN outside the array."""
    inside = (rows >= 0) & (rows < array.shape[0]) & (columns >= 0) & (columns < array.shape[1])
    values = array[np.where(inside, rows, 0), np.where(inside, columns, 0)].astype(float)
    values[~inside] = np.nan
    return values


def _annulus(
    plane: SkyPlane, row: np.ndarray, column: np.ndarray, major_px: float, minor_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise and the background from an annulus: MAD and median, clipped at 3 sigma.

    Noise is correlated over the beam: every half beam is sample enough.
    """
    inner, outer = (f * major_px for f in ANNULUS_FWHM)
    step = max(1, int(minor_px / 2))
    axis = np.arange(-int(outer) // step, int(outer) // step + 1) * step
    dy, dx = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    keep = (np.hypot(dx, dy) >= inner) & (np.hypot(dx, dy) <= outer)
    dx, dy = dx[keep], dy[keep]
    rms, background = np.full(row.size, np.nan), np.zeros(row.size)
    for part in np.array_split(np.arange(row.size), max(1, row.size * dx.size // 2_000_000)):
        values = gather_pixels(plane.data, row[part, None] + dy, column[part, None] + dx)
        values = values.astype(np.float32)
        for _ in range(3):
            middle, number = _median(values)
            sigma = robust.MAD_TO_SIGMA * _median(np.abs(values - middle[:, None]))[0]
            values[np.abs(values - middle[:, None]) > 3 * sigma[:, None]] = np.nan
        enough = number >= dx.size / 4
        # A Gaussian cut at 3 sigma has a MAD 0.4 % short of the whole one's.
        rms[part] = np.where(enough, sigma * 1.004, np.nan)
        background[part] = np.where(enough, middle, 0.0)
    rms[rms <= 0] = np.nan
    if plane.rms is not None:
        rms = np.where(np.isfinite(rms), rms, gather_pixels(plane.rms, row, column))
    return rms, background


def _median(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of each row and the number of its finite values; NaN if there are none."""
    ordered = np.sort(values, axis=1)  # NaN comes last
    number = np.isfinite(values).sum(1)
    rows = np.arange(len(values))
    low, high = np.maximum(number - 1, 0) // 2, number // 2
    middle = (ordered[rows, low] + ordered[rows, np.minimum(high, values.shape[1] - 1)]) / 2
    return np.where(number > 0, middle, np.nan), number


def _correlation(plane: SkyPlane, half: int, major_px: float, minor_px: float) -> np.ndarray:
    """Return the noise autocorrelation to four half stamps; the beam's own where unmeasurable."""
    reach = 4 * half
    rows, columns = (
        slice(max(0, (n - _ACF_SIDE) // 2), (n + _ACF_SIDE) // 2) for n in plane.data.shape
    )
    block = np.asarray(plane.data[rows, columns], float)
    if plane.rms is not None:
        noise = np.asarray(plane.rms[rows, columns], float)
        block = np.where(noise > 0, block / np.where(noise > 0, noise, 1), np.nan)
    acf = noise_autocorrelation(block, reach, major_px)
    if acf is None:
        lag = np.arange(-reach, reach + 1)
        width = np.sqrt(major_px * minor_px) / _FWHM
        acf = np.exp(-0.5 * (lag[:, None] ** 2 + lag**2) / width**2)
    return acf


def _toeplitz(acf: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return the correlation matrix of the pixels of a stamp, made positive definite."""
    reach = len(acf) // 2
    matrix = acf[dy[:, None] - dy + reach, dx[:, None] - dx + reach]
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-6)) @ vectors.T


def _centroids(
    stamps: np.ndarray,
    valid: np.ndarray,
    beam: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
    shape_inverse: np.ndarray,
) -> np.ndarray:
    """Return centroid offsets in pixels: least squares of the beam and its two derivatives."""
    basis = np.stack([beam, beam * dx, beam * dy], -1) * valid[..., None]
    normal = np.einsum("npi,npj->nij", basis, basis)
    right = np.einsum("npi,np->ni", basis, stamps)
    normal[normal[:, 0, 0] <= 0] = np.eye(3)  # nothing valid
    solved = np.linalg.solve(normal + 1e-9 * np.eye(3), right[..., None])[..., 0]
    # To first order the beam moved by s is beam * (1 + (dx, dy) C^-1 s), C its covariance.
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.einsum("nij,nj->ni", np.linalg.inv(shape_inverse), solved[:, 1:]) / solved[:, :1]


# --- neighbours -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Members:
    """Arrays of `forced_fit` that a joint fit needs; first axis the source."""

    weights: np.ndarray
    stamps: np.ndarray
    beam: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    column: np.ndarray
    row: np.ndarray
    x: np.ndarray
    y: np.ndarray
    shape_inverse: np.ndarray
    local_rms: np.ndarray


def _groups(
    x: np.ndarray, y: np.ndarray, usable: np.ndarray, radius: float
) -> Iterator[np.ndarray]:
    """Yield the indices of sources that are linked by distances below `radius`, two or more."""
    index = np.flatnonzero(usable)
    pairs = cKDTree(np.stack([x[index], y[index]], 1)).query_pairs(radius, output_type="ndarray")
    if not len(pairs):
        return
    links = sparse.coo_array(
        (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(index.size, index.size)
    )
    _, label = sparse.csgraph.connected_components(links, directed=False)
    order = np.argsort(label, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        if group.size > 1:
            yield index[group]


def _joint(m: _Members, acf: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve a group of neighbours; return fluxes and errors."""
    n = group.size
    matrix, spread = np.empty((n, n)), np.empty((n, n))
    side, reach = int(np.sqrt(m.dx.size)), len(acf) // 2
    size = fft.next_fast_len(2 * reach + side, real=True)
    stamp = m.weights[group].reshape(n, side, side)
    # Noise correlation times the weights, on a grid that begins `reach` pixels before the stamp.
    smooth = fft.irfft2(fft.rfft2(stamp, (size, size)) * fft.rfft2(acf, (size, size)), (size, size))
    half = side // 2
    for i, a in enumerate(group):
        for j, b in enumerate(group):
            right, up = m.column[a] - m.column[b], m.row[a] - m.row[b]
            dx = m.dx + m.column[a] - m.x[b]
            dy = m.dy + m.row[a] - m.y[b]
            beam = _gaussian(m.shape_inverse[b : b + 1], dx[None], dy[None])[0]
            matrix[i, j] = m.weights[a] @ beam
            shifted = m.dx - right + half + reach, m.dy - up + half + reach
            reached = np.all([(s >= 0) & (s < 2 * reach + side) for s in shifted], 0)
            values = smooth[i][np.where(reached, shifted[1], 0), np.where(reached, shifted[0], 0)]
            spread[i, j] = m.weights[b] @ (values * reached) * m.local_rms[a] * m.local_rms[b]
    inverse = np.linalg.pinv(matrix)
    flux = inverse @ (m.weights[group] * m.stamps[group]).sum(1)
    variance = np.diag(inverse @ ((spread + spread.T) / 2) @ inverse.T)
    return flux, np.sqrt(np.maximum(variance, 0))
