"""Forced photometry: the flux of every catalogued source in an image, detected or not.

The model of a stamp around a catalogue position is a beam of unit peak times the flux. The noise of
a synthesis image is correlated much like the beam, so the fit is a generalised least squares one
with that correlation: its weights lie between those of the matched filter, which suits white noise
(Condon 1997, PASP 109, 166), and the interpolated peak. The errors are those of this estimator
under the noise autocorrelation that is measured in the image itself. Sources closer than 1.5 beams
are fitted together.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS
from scipy import fft, ndimage, sparse
from scipy.spatial import cKDTree

from .catalogs import flux_at, iau_name, read_catalog
from .config import PhotometryOptions, add_options, from_args
from .errors import DataError
from .products import Sidecar, companion, group_mjd, parse_group, read_sidecar, replacing
from .telescope import TILE_S

__all__ = [
    "COLUMNS",
    "Plane",
    "forced_fit",
    "measure",
    "noise_autocorrelation",
    "open_planes",
    "without_sources",
]

#: Columns of a photometry table, in order.
COLUMNS = (
    "source_id",
    "name",
    "ra_deg",
    "dec_deg",
    "mjd",
    "group_or_epoch",
    "flux_jy",
    "flux_err_jy",
    "local_rms_jy",
    "snr",
    "upper_limit_jy",
    "catalog_flux_jy",
    "pb",
    "flags",
    "image",
)

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
#: Noise is called high above this many times the median of the image.
NOISY = 2.0
#: Least signal-to-noise ratio, and least number, of the isolated sources of a position offset.
ASTROMETRY_SNR, ASTROMETRY_N = 20.0, 3
#: Most sources whose own offsets are recorded with it.
ASTROMETRY_SHOWN = 100
#: Least number of them for positions to be moved by it before fluxes are measured.
FOLLOW_N = 5
#: Side of the square in which the noise autocorrelation is measured, pixels.
_ACF_SIDE = 1024
_FWHM = np.sqrt(8 * np.log(2))


@dataclass(frozen=True)
class Plane:
    """One image with what belongs to it.

    Attributes
    ----------
    data : (rows, columns) array
        Jy/beam; NaN where there is none.
    wcs : astropy.wcs.WCS
        Celestial coordinates, ICRS.
    beam_deg : (float, float, float)
        FWHM of the major and minor axes and position angle (north through east), deg.
    rms : (rows, columns) array, optional
        Noise of `data`, Jy/beam. Used where the annulus around a source holds too few pixels.
    response : (rows, columns) array, optional
        Primary beam that `data` is still to be divided by; None for mosaics, which are corrected.
    sensitivity : (rows, columns) array, optional
        Weight map of a mosaic, Jy^-2.
    mjd_map : (rows, columns) array, optional
        Mean time of each pixel after `mjd`, days.
    freq_hz, mjd : float
        Reference frequency and mean time (UTC).
    """

    data: np.ndarray
    wcs: WCS
    beam_deg: tuple[float, float, float]
    rms: np.ndarray | None = None
    response: np.ndarray | None = None
    sensitivity: np.ndarray | None = None
    mjd_map: np.ndarray | None = None
    freq_hz: float = np.nan
    mjd: float = np.nan


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
    sigma = 1.4826 * np.median(np.abs(data[valid] - centre))
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


def forced_fit(plane: Plane, ra_deg: np.ndarray, dec_deg: np.ndarray) -> Fit:
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
    plane : Plane
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


def without_sources(plane: Plane, ra_deg, dec_deg, flux: np.ndarray) -> np.ndarray:
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


def _pixels(wcs: WCS, ra_deg, dec_deg):
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


def _beam_shape(beam_deg, jacobian: np.ndarray) -> np.ndarray:
    """Return the inverse covariance of the beam in pixels, (n, 2, 2)."""
    major, minor, angle = beam_deg
    axis = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])  # east, north
    across = np.array([axis[1], -axis[0]])
    sky = (np.outer(axis, axis) * major**2 + np.outer(across, across) * minor**2) / _FWHM**2
    return np.linalg.inv(jacobian @ sky @ np.swapaxes(jacobian, 1, 2))


def _gaussian(shape_inverse: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    a, b, c = (shape_inverse[:, i, j, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    return np.exp(-0.5 * (a * dx**2 + 2 * b * dx * dy + c * dy**2))


def _beam_px(plane: Plane) -> tuple[float, float]:
    scale = np.sqrt(np.abs(np.linalg.det(plane.wcs.pixel_scale_matrix)))
    return plane.beam_deg[0] / scale, plane.beam_deg[1] / scale


def gather_pixels(array: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return pixels as float64 in native order, NaN outside the array."""
    inside = (rows >= 0) & (rows < array.shape[0]) & (columns >= 0) & (columns < array.shape[1])
    values = array[np.where(inside, rows, 0), np.where(inside, columns, 0)].astype(float)
    values[~inside] = np.nan
    return values


def _annulus(plane: Plane, row, column, major_px: float, minor_px: float):
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
            sigma = 1.4826 * _median(np.abs(values - middle[:, None]))[0]
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


def _correlation(plane: Plane, half: int, major_px: float, minor_px: float) -> np.ndarray:
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


def _centroids(stamps, valid, beam, dx, dy, shape_inverse) -> np.ndarray:
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


def _groups(x, y, usable, radius: float) -> Iterator[np.ndarray]:
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


# --- images and catalogues ------------------------------------------------------------------------


@contextmanager
def open_planes(image: str | Path) -> Iterator[list[Plane]]:
    """Open a tile or mosaic with its companions, mapped from disk.

    A tile, ``<id>.image.fits``, has ``.pb.fits`` and maybe ``.rms.fits`` beside it. A mosaic has
    ``.weight.fits`` and ``.rms.fits``; each strip of the sky is one HDU of it, and in the weight
    file the map of the mean time follows the weight map of each strip.

    Raises
    ------
    DataError
        If the image or its companions are absent, or are no images of one shape.
    """
    image = Path(image)
    paths = {kind: companion(image, kind) for kind in ("rms", "pb", "weight")}
    if not image.exists():
        raise DataError(f"{image}: no such image")
    if not paths["pb"].exists() and not paths["weight"].exists():
        raise DataError(
            f"{image}: neither {paths['pb'].name} nor {paths['weight'].name} is beside it; "
            f"remake the image"
        )
    files = {kind: fits.open(path) for kind, path in paths.items() if path.exists()}
    try:
        with fits.open(image) as hdus:
            yield [_plane(image, hdu, index, files) for index, hdu in enumerate(hdus)]
    finally:
        for file in files.values():
            file.close()


def _plane(image: Path, hdu, index: int, files: dict) -> Plane:
    header = hdu.header
    data = hdu.data.reshape(hdu.data.shape[-2:])

    def layer(kind: str, number: int = index) -> np.ndarray | None:
        if kind not in files:
            return None
        values = files[kind][number].data
        values = values.reshape(values.shape[-2:])
        if values.shape != data.shape:
            raise DataError(f"{companion(image, kind)}: its shape is not that of {image.name}")
        return values

    mosaic = "pb" not in files
    return Plane(
        data=data,
        wcs=WCS(header, fix=False).celestial,
        beam_deg=(
            float(header.get("BMAJ") or np.nan),
            float(header.get("BMIN") or np.nan),
            float(header.get("BPA") or 0.0),
        ),
        rms=layer("rms"),
        response=layer("pb"),
        sensitivity=layer("weight", 2 * index) if mosaic else None,
        mjd_map=layer("weight", 2 * index + 1) if mosaic else None,
        freq_hz=_frequency(header),
        mjd=_mean_mjd(image, header),
    )


def _frequency(header) -> float:
    for axis in range(1, header.get("NAXIS", 0) + 1):
        if str(header.get(f"CTYPE{axis}", "")).startswith("FREQ"):
            return float(header[f"CRVAL{axis}"])
    return float(header.get("RESTFRQ") or header.get("RESTFREQ") or np.nan)


def _mean_mjd(image: Path, header) -> float:
    """Return the mean time of an image: its card, else the middle of the tile its name holds."""
    if "MJD-AVG" in header:
        return float(header["MJD-AVG"])
    return group_mjd(parse_group(image)) + TILE_S / 2 / 86400


def measure(plane: Plane, catalog: pd.DataFrame, options: PhotometryOptions) -> pd.DataFrame:
    """Measure the catalogue's sources in one image.

    Parameters
    ----------
    plane : Plane
        Image.
    catalog : DataFrame
        As `read_catalog` returns it.
    options : PhotometryOptions
        Limits.

    Returns
    -------
    DataFrame
        One row for each source of at least ``min_flux_jy`` in the field, with the columns of
        `COLUMNS` except ``group_or_epoch`` and ``image``, and ``shift_ra_deg``, ``shift_dec_deg``
        (fitted centroid minus catalogue, on the sky), ``moved`` (measured off the catalogue
        position because all of the image is). The field is where the beam is at least
        ``pb_limit``, or where a mosaic has weight. All fluxes and noises are divided by the beam.
        ``pb`` of a mosaic is its sensitivity relative to its best point (of a tile with even noise
        that is the beam itself, up to its peak). ``upper_limit_jy`` is blank for a detection.
        ``flags`` are words: ``blend`` (fitted with a neighbour), ``edge`` (part of the stamp is
        blank), ``noisy`` (local noise above twice the median), ``blank`` (not measurable).
    """
    chosen = _in_field(plane, catalog[catalog.flux_jy >= options.min_flux_jy], options)
    ra, dec = chosen.ra_deg.to_numpy(), chosen.dec_deg.to_numpy()
    n = len(chosen)
    if n and np.isfinite(plane.beam_deg).all() and plane.beam_deg[1] > 0:
        fit, moved = _follow(plane, ra, dec, options)
    else:
        blank = np.full(n, np.nan)
        fit = Fit(blank, blank, blank, blank, np.zeros(n, bool), np.full((n, 2), np.nan))
        moved = np.zeros(2)
    known = fit.local_rms[np.isfinite(fit.local_rms)]
    typical = np.median(known) if known.size else np.nan
    divide = chosen["pb"].to_numpy() if plane.response is not None else np.ones(n)
    flux, error, rms = fit.flux / divide, fit.error / divide, fit.local_rms / divide
    with np.errstate(invalid="ignore"):
        snr = flux / error
        limit = np.where(snr >= options.upper_limit_sigma, np.nan, options.upper_limit_sigma * rms)
        words = {
            "blank": ~np.isfinite(flux),
            "edge": fit.coverage < EDGE_FRACTION,
            "blend": fit.blended,
            "noisy": fit.local_rms > NOISY * typical,
        }
    return pd.DataFrame(
        {
            "source_id": chosen["name"].to_numpy(),
            "name": [iau_name(a, d) for a, d in zip(ra, dec, strict=True)],
            "ra_deg": ra,
            "dec_deg": dec,
            "mjd": chosen["mjd"].to_numpy(),
            "flux_jy": flux,
            "flux_err_jy": error,
            "local_rms_jy": rms,
            "snr": snr,
            "upper_limit_jy": limit,
            "catalog_flux_jy": flux_at(chosen.flux_jy, chosen.alpha, plane.freq_hz),
            "pb": chosen["pb"].to_numpy(),
            "flags": ["|".join(w for w, on in words.items() if on[i]) for i in range(n)],
            "shift_ra_deg": fit.shift_deg[:, 0] + moved[0],
            "shift_dec_deg": fit.shift_deg[:, 1] + moved[1],
            "moved": bool(moved.any()),
        }
    )


def _follow(plane: Plane, ra, dec, options: PhotometryOptions) -> tuple[Fit, np.ndarray]:
    """Fit at the catalogue positions, or where the image as a whole has them.

    Returns
    -------
    fit : Fit
        At the positions that were moved.
    moved : (2,) array
        By how much they were moved, east and north, deg; 0 where the offset is not significant.
    """
    fit = forced_fit(plane, ra, dec)
    clean = ~fit.blended & (fit.coverage >= EDGE_FRACTION)
    with np.errstate(invalid="ignore"):
        bright = clean & (fit.flux / fit.error > ASTROMETRY_SNR)
    if not options.follow_offset or bright.sum() < FOLLOW_N:
        return fit, np.zeros(2)
    moved, error = _median_offset(fit.shift_deg[bright])
    length = np.hypot(*moved)
    if not max(3 * error, plane.beam_deg[1] / 50) < length < plane.beam_deg[1] / 2:
        return fit, np.zeros(2)
    return forced_fit(plane, ra + moved[0] / np.cos(np.deg2rad(dec)), dec + moved[1]), moved


def _median_offset(shift: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the median of offsets (n, 2) and its error in either direction."""
    median = np.median(shift, axis=0)
    scatter = 1.4826 * np.median(np.abs(shift - median))
    return median, float(1.2533 * scatter / np.sqrt(len(shift)))


def _in_field(plane: Plane, catalog: pd.DataFrame, options: PhotometryOptions) -> pd.DataFrame:
    """Return the sources inside the field, with their ``pb`` and ``mjd``."""
    rows, columns = plane.data.shape
    centre = plane.wcs.all_pix2world((columns - 1) / 2, (rows - 1) / 2, 0)
    reach = np.deg2rad(np.hypot(rows, columns) * max(np.abs(plane.wcs.wcs.cdelt)))
    near = _cos_separation(*centre, catalog.ra_deg, catalog.dec_deg) > np.cos(min(reach, 1.5))
    catalog = catalog[near]
    x, y = plane.wcs.all_world2pix(catalog.ra_deg.to_numpy(), catalog.dec_deg.to_numpy(), 0)
    row, column = (np.rint(np.nan_to_num(p, nan=-1e6)).astype(int) for p in (y, x))
    if plane.response is not None:
        pb = gather_pixels(plane.response, row, column)
        inside = pb >= max(options.pb_limit, 1e-6)
    else:
        weight = gather_pixels(plane.sensitivity, row, column)
        best = np.nanmax(plane.sensitivity[::4, ::4], initial=0.0)
        inside = weight > 0
        pb = np.sqrt(np.where(inside, weight, 0) / (max(best, np.nanmax(weight, initial=0.0)) or 1))
    mjd = np.full(len(catalog), plane.mjd)
    if plane.mjd_map is not None:
        later = gather_pixels(plane.mjd_map, row, column)
        mjd = mjd + np.where(np.isfinite(later), later, 0.0)
    return catalog.assign(pb=pb, mjd=mjd)[inside]


def _cos_separation(ra0, dec0, ra, dec):
    ra0, dec0, ra, dec = (np.deg2rad(a) for a in (ra0, dec0, ra, dec))
    return np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)


def position_offset(table: pd.DataFrame) -> dict | None:
    """Return the median offset of bright, isolated sources from the catalogue.

    Returns
    -------
    dict or None
        ``n``, ``ra_offset_arcsec``, ``dec_offset_arcsec`` (measured minus catalogue, on the sky),
        ``error_arcsec`` of either median, ``followed``: whether the fluxes were measured at
        positions moved by it, and ``brightest``: offsets east and north (arcsec) and S/N of up to
        `ASTROMETRY_SHOWN` sources. None below three sources.
    """
    bright = table[(table.snr > ASTROMETRY_SNR) & (table["flags"] == "")]
    if len(bright) < ASTROMETRY_N:
        return None
    median, error = _median_offset(3600 * bright[["shift_ra_deg", "shift_dec_deg"]].to_numpy())
    return {
        "n": len(bright),
        "ra_offset_arcsec": median[0],
        "dec_offset_arcsec": median[1],
        "error_arcsec": error,
        "followed": bool(bright.moved.any()),
        "brightest": [
            [round(3600 * row.shift_ra_deg, 3), round(3600 * row.shift_dec_deg, 3), round(row.snr)]
            for row in bright.nlargest(ASTROMETRY_SHOWN, "snr").itertuples()
        ],
    }


def argparser() -> argparse.ArgumentParser:
    """Return the parser of ``photometry``."""
    parser = argparse.ArgumentParser(prog="contimg photometry", description=__doc__.split("\n")[0])
    parser.add_argument("image", type=Path, help="<id>.image.fits or mosaic.fits")
    parser.add_argument("output", type=Path, metavar="OUT.csv")
    parser.add_argument("--catalog", type=Path, required=True, help="reference catalogue")
    add_options(parser, PhotometryOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure one image and write the table with its sidecar."""
    options: PhotometryOptions = from_args(args, PhotometryOptions)
    started = time.monotonic()
    catalog = read_catalog(args.catalog)
    image_record = read_sidecar(args.image)
    with open_planes(args.image) as planes:
        table = pd.concat([measure(plane, catalog, options) for plane in planes])
        epoch = _epoch(args.image, planes)
    # A source in two strips of a mosaic is kept where the mosaic is deeper.
    table = table.sort_values("pb", ascending=False, kind="stable").drop_duplicates("source_id")
    table = table.sort_values(["ra_deg", "dec_deg"]).reset_index(drop=True)
    table = table.assign(
        group_or_epoch=epoch, image=args.image.name, mjd=table.mjd.map("{:.7f}".format)
    )
    with replacing(args.output) as temporary:
        table.to_csv(temporary, columns=list(COLUMNS), index=False, float_format="%.9g")
    sidecar = Sidecar(
        "photometry",
        inputs=[args.image, args.catalog],
        parameters=options.model_dump(),
        timings_s={"total": time.monotonic() - started},
        qa=_figures(table)
        | _made_by(args.image, image_record)
        | {"flux_anchor": (image_record.get("qa") or {}).get("flux_anchor")},
    )
    if image_record.get("verdict") == "fail":
        sidecar.fail(f"{args.image.name} failed: " + "; ".join(image_record.get("reasons", [])))
    elif len(table) and not np.isfinite(table.flux_jy).any():
        sidecar.fail("no source could be measured")
    elif not len(table):
        sidecar.warn("no catalogue source is in the field")
    sidecar.write(args.output, ("numpy", "scipy", "astropy", "pandas"))


def _epoch(image: Path, planes: list[Plane]) -> str:
    if planes[0].response is not None:
        return parse_group(image)
    return str(fits.getval(image, "EPOCHID"))


def _figures(table: pd.DataFrame) -> dict:
    detected = table[np.isnan(table.upper_limit_jy) & np.isfinite(table.flux_jy)]
    clean = detected[(detected["flags"] == "") & (detected.snr > 10)]
    return {
        "n_sources": len(table),
        "n_detected": len(detected),
        "n_blended": int(table["flags"].str.contains("blend").sum()),
        "n_blank": int(table["flags"].str.contains("blank").sum()),
        "median_flux_ratio": float((clean.flux_jy / clean.catalog_flux_jy).median())
        if len(clean)
        else None,
        "median_local_rms_jy": float(table.local_rms_jy.median()) if len(detected) else None,
        "astrometry": position_offset(table),
    }


def _made_by(image: Path, record: dict) -> dict:
    """Return what tells one version of an image from another, and the correction of its epoch."""
    with image.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    release = (record.get("tools") or {}).get("dsa110-contimg", "")
    header = fits.getheader(image)
    cards = ("FLUXSCL", "FLUXSCLE", "FLUXOFF", "RAOFF", "DECOFF")
    return {
        "image_sha256": checksum,
        "image_version": f"{release} {record.get('created_utc', '')}".strip(),
        "correction": {card: header[card] for card in cards if card in header},
    }
