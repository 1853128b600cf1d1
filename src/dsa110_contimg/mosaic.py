"""Mosaics: tiles on one grid, added with the weights that minimise the noise.

The best estimate of the sky from tiles d with primary beam P and noise sigma is
``sum(P d / sigma^2) / sum(P^2 / sigma^2)``, with the variance ``1 / sum(P^2 / sigma^2)``. Nothing
is divided by a small P. Tiles are convolved to a common beam first where theirs differ. They are
brought onto the catalogue's flux scale and positions as they are added (`correction`).
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from reproject import reproject_interp
from scipy import fft, ndimage, optimize
from scipy.interpolate import RectBivariateSpline

from . import __version__, anchors
from .beam import unit_vector
from .config import MosaicOptions, add_options, from_args
from .correction import Correction, measure_correction
from .errors import DataError
from .products import Sidecar, companion, group_mjd, night_of, parse_group, read_sidecar, replacing
from .telescope import TILE_S

__all__ = ["Tile", "coadd", "common_beam", "convolve", "grid", "open_tile", "sections"]

#: Tiles further apart in declination than this belong to different strips, deg.
DEC_GAP_DEG = 2.0
#: A strip is split where right ascension jumps by more than this, deg on the sky.
RA_GAP_DEG = 10.0
#: Longest section of a strip that is one image, between tile centres, deg on the sky. An hour with
#: two tiles on either side is shorter; beyond, the projection bends and memory grows.
SECTION_DEG = 24.0
#: Sky that neighbouring sections share, so that a source on the seam has its surroundings, deg.
SEAM_DEG = 0.2
#: A tile whose beam area exceeds this many times the median would spoil the common beam.
BEAM_OUTLIER = 2.0
#: Beams that agree to this fraction of the major axis are one.
SAME_BEAM = 1e-3
#: A correction of the flux scale beyond this is worth a warning.
LARGE_CORRECTION = 0.1
#: Largest part of the grid that is worked on at once, pixels.
BLOCK_PX = 4_000_000
#: Pixels that the spline reaches beyond a block of a tile; that its ringing is felt; between nodes
#: at which smooth maps are looked up; that these are continued beyond the tile.
_SPLINE_PX, _RINGING_PX, _NODE_PX, _PAD_PX = 16, 3, 8, 32
_FWHM = np.sqrt(8 * np.log(2))


@dataclass(frozen=True)
class Tile:
    """A tile that goes into a mosaic.

    Attributes
    ----------
    group : str
        Group id.
    path : Path
        ``<id>.image.fits``.
    header : astropy.io.fits.Header
        Its header.
    wcs : astropy.wcs.WCS
        Celestial coordinates.
    shape : (int, int)
        Rows and columns.
    beam_deg : (float, float, float)
        FWHM axes and position angle, deg.
    mjd : float
        Mean time, UTC.
    ra_deg, dec_deg : (n,) array
        Points all over the part of the tile with enough beam.
    anchor : dict or None
        What its flux scale rests on, see `anchors`.
    """

    group: str
    path: Path
    header: fits.Header
    wcs: WCS
    shape: tuple[int, int]
    beam_deg: tuple[float, float, float]
    mjd: float
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    anchor: dict | None = None

    @property
    def centre(self) -> np.ndarray:
        """Unit vector of the middle of its points."""
        middle = unit_vector(self.ra_deg, self.dec_deg).mean(0)
        return middle / np.linalg.norm(middle)

    @property
    def cell_deg(self) -> float:
        """Pixel size, deg."""
        return float(np.sqrt(np.abs(np.linalg.det(self.wcs.pixel_scale_matrix))))


@dataclass(frozen=True)
class Section:
    """Part of a strip that becomes one image.

    Attributes
    ----------
    own : list of Tile
        Tiles whose middles lie in it.
    tiles : list of Tile
        All tiles of its strip; those that reach into it contribute.
    ra_range_deg : (float, float)
        Limits in right ascension relative to the middle, deg; infinite at the strip's ends.
    middle_deg : (float, float)
        Direction of its middle, ICRS.
    """

    own: list[Tile]
    tiles: list[Tile]
    ra_range_deg: tuple[float, float]
    middle_deg: tuple[float, float]


@dataclass
class Coadd:
    """One image of a mosaic.

    Attributes
    ----------
    wcs : astropy.wcs.WCS
        Celestial coordinates.
    image, weight, time : (rows, columns) float32 array
        Flux corrected for the beam (Jy/beam), sum of weights (Jy^-2), mean time minus `mjd_zero`
        (days). Where no tile reaches, image and time are NaN and the weight is 0.
    mjd_zero : float
        Zero of `time`.
    used : dict
        Group id -> figures of the tiles that contribute.
    """

    wcs: WCS
    image: np.ndarray
    weight: np.ndarray
    time: np.ndarray
    mjd_zero: float
    used: dict = field(default_factory=dict)


# --- tiles ----------------------------------------------------------------------------------------


def open_tile(path: Path, options: MosaicOptions) -> Tile:
    """Read what is to be known of a tile before it is added.

    Raises
    ------
    DataError
        If it cannot contribute: failed, without a beam, without a pixel above ``pb_limit``. The
        message is the reason to leave it out.
    """
    record = read_sidecar(path)
    if record.get("verdict") == "fail":
        raise DataError("failed: " + "; ".join(record.get("reasons", [])))
    header = fits.getheader(path)
    beam = tuple(float(header.get(key) or 0.0) for key in ("BMAJ", "BMIN", "BPA"))
    if not (beam[0] > 0 and beam[1] > 0):
        raise DataError("it has no restoring beam")
    wcs = WCS(header, fix=False).celestial
    with fits.open(companion(path, "pb")) as hdus:
        pb = hdus[0].data
        pb = pb.reshape(pb.shape[-2:])
        step = max(1, min(pb.shape) // 100)
        row, column = (np.unique(np.append(np.arange(0, n, step), n - 1)) for n in pb.shape)
        column, row = (a.ravel() for a in np.meshgrid(column, row))
        enough = pb[row, column] >= options.pb_limit
        shape = pb.shape
    if not enough.any():
        raise DataError(f"its primary beam is nowhere above {options.pb_limit:g}")
    ra, dec = wcs.all_pix2world(column[enough], row[enough], 0)
    anchor = (record.get("qa") or {}).get("flux_anchor")
    return Tile(
        parse_group(path), Path(path), header, wcs, shape, beam, _mjd(path, header), ra, dec, anchor
    )


def _mjd(path: Path, header: fits.Header) -> float:
    return float(header.get("MJD-AVG") or group_mjd(parse_group(path)) + TILE_S / 2 / 86400)


def gather(
    paths: Iterable[Path], options: MosaicOptions
) -> tuple[list[Tile], list[dict[str, str]]]:
    """Return the tiles that can be added, in order of time, and those left out with the reason."""
    tiles, left_out = [], []
    for path in sorted(map(Path, paths), key=parse_group):
        if not path.exists():
            raise DataError(f"{path}: no such tile")
        try:
            tiles.append(open_tile(path, options))
        except DataError as error:
            if not path.with_name(path.name + ".json").exists():
                raise
            left_out.append({"tile": parse_group(path), "reason": str(error)})
    area = {t.group: t.beam_deg[0] * t.beam_deg[1] for t in tiles}
    limit = BEAM_OUTLIER * np.median(list(area.values())) if area else np.inf
    for tile in [t for t in tiles if area[t.group] > limit]:
        tiles.remove(tile)
        size = " x ".join(f"{3600 * b:.1f}" for b in tile.beam_deg[:2])
        reason = f"its beam of {size} arcsec is more than twice the median in area"
        left_out.append({"tile": tile.group, "reason": reason})
    return tiles, sorted(left_out, key=lambda entry: entry["tile"])


# --- geometry -------------------------------------------------------------------------------------


def sections(tiles: list[Tile]) -> list[Section]:
    """Split tiles into strips where the sky jumps, and strips into sections.

    Positions decide, not times: a strip goes on through RA 0, and a night that comes back to where
    it began adds to the same strip.
    """
    by_dec = sorted(tiles, key=lambda t: t.centre[2])
    found = []
    for bands in _runs(by_dec, [np.rad2deg(np.arcsin(t.centre[2])) for t in by_dec], DEC_GAP_DEG):
        ra = np.array([np.rad2deg(np.arctan2(t.centre[1], t.centre[0])) % 360 for t in bands])
        order = np.argsort(ra, kind="stable")
        # Begin after the widest hole of the circle, then count upwards.
        holes = np.diff(np.append(ra[order], ra[order[0]] + 360))
        order = np.roll(order, -(int(np.argmax(holes)) + 1))
        ra = ra[order[0]] + (ra[order] - ra[order[0]]) % 360
        stretch = np.cos(np.arcsin(np.mean([t.centre[2] for t in bands])))
        members = [bands[i] for i in order]
        start = 0
        for strip in _runs(members, ra * stretch, RA_GAP_DEG):
            found += _cut(strip, ra[start : start + len(strip)], stretch)
            start += len(strip)
    return found


def _runs(items: list, values, gap: float) -> Iterator[list]:
    """Yield runs of items whose ascending values have no step above `gap`."""
    breaks = np.flatnonzero(np.diff(values) > gap) + 1
    for part in np.split(np.arange(len(items)), breaks):
        if part.size:
            yield [items[i] for i in part]


def _cut(strip: list[Tile], ra: np.ndarray, stretch: float) -> list[Section]:
    count = int(np.ceil(max((ra[-1] - ra[0]) * stretch, 1e-9) / SECTION_DEG))
    parts = np.array_split(np.arange(len(strip)), min(count, len(strip)))
    found = []
    for part in parts:
        own = [strip[i] for i in part]
        vector = np.mean([t.centre for t in own], axis=0)
        middle = np.rad2deg(
            [np.arctan2(vector[1], vector[0]), np.arcsin(vector[2] / np.linalg.norm(vector))]
        )
        middle[0] = ra[part].mean() + (middle[0] - ra[part].mean() + 180) % 360 - 180
        first, last = part[0], part[-1]
        low = -np.inf if first == 0 else (ra[first - 1] + ra[first]) / 2 - middle[0]
        high = np.inf if last == len(strip) - 1 else (ra[last] + ra[last + 1]) / 2 - middle[0]
        seam = SEAM_DEG / stretch
        found.append(Section(own, strip, (low - seam, high + seam), (middle[0] % 360, middle[1])))
    return found


def grid(section: Section) -> tuple[WCS, tuple[int, int]]:
    """Return the grid of a section: SIN about its middle, the finest cell of its tiles."""
    cell = min(t.cell_deg for t in section.own)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = section.middle_deg
    wcs.wcs.cdelt = [-cell, cell]
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.radesys = "ICRS"
    corners = []
    for tile in section.own:
        away = (tile.ra_deg - section.middle_deg[0] + 180) % 360 - 180
        inside = (away >= section.ra_range_deg[0]) & (away <= section.ra_range_deg[1])
        if inside.any():
            x, y = wcs.all_world2pix(tile.ra_deg[inside], tile.dec_deg[inside], 0)
            corners += [(x.min(), y.min()), (x.max(), y.max())]
    low, high = np.floor(np.min(corners, 0)), np.ceil(np.max(corners, 0))
    wcs.wcs.crpix = 1 - low
    columns, rows = (high - low).astype(int) + 1
    return wcs, (int(rows), int(columns))


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


def _covariance(beam_deg) -> np.ndarray:
    """Return the covariance of a beam on the sky, (east, north), deg^2."""
    major, minor, angle = beam_deg
    axis = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
    across = np.array([axis[1], -axis[0]])
    return (np.outer(axis, axis) * major**2 + np.outer(across, across) * minor**2) / _FWHM**2


def convolve(data: np.ndarray, cell_deg: float, beam, target) -> np.ndarray:
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


# --- adding ---------------------------------------------------------------------------------------


def correct(tile: Tile, correction: Correction) -> Tile:
    """Return a tile whose coordinates have the epoch's shift."""
    east, north = (a / 3600 for a in correction.shift_arcsec)

    def move(ra, dec):
        return (ra + east / np.cos(np.deg2rad(dec))) % 360, dec + north

    wcs = tile.wcs.deepcopy()
    wcs.wcs.crval = move(*wcs.wcs.crval)
    ra, dec = move(tile.ra_deg, tile.dec_deg)
    return replace(tile, wcs=wcs, ra_deg=ra, dec_deg=dec)


def layers(
    tile: Tile, target, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Return a tile at the target beam, fluxes multiplied by `scale`.

    Returns
    -------
    image, pb, rms : (rows, columns) float32 array
        Blank pixels are filled (0, nearest, nearest), for splines not to ring.
    clean : (rows, columns) float32 array or None
        1 where no blank pixel is near, else 0; None if nothing is blank.
    """
    found = []
    for path in (tile.path, companion(tile.path, "pb"), companion(tile.path, "rms")):
        with fits.open(path) as hdus:
            data = hdus[0].data.reshape(hdus[0].data.shape[-2:])
            if data.shape != tile.shape:
                raise DataError(f"{path}: its shape is not that of {tile.path.name}")
            found.append(data.astype(np.float32))
    image, pb, rms = found
    valid = np.isfinite(image) & np.isfinite(pb) & np.isfinite(rms) & (rms > 0)
    clean = None
    if not valid.all():
        image[~valid] = 0
        if valid.any():
            nearest = ndimage.distance_transform_edt(
                ~valid, return_distances=False, return_indices=True
            )
            pb, rms = pb[tuple(nearest)], rms[tuple(nearest)]
        clean = ndimage.binary_erosion(valid, iterations=_RINGING_PX, border_value=1)
        clean = clean.astype(np.float32)
    if target != tile.beam_deg:
        smooth = convolve(image, tile.cell_deg, tile.beam_deg, target)
        rms *= _mad(smooth) / _mad(image)
        image = smooth
    image *= np.float32(scale)
    rms *= np.float32(scale)
    return image, pb, rms, clean


def _mad(data: np.ndarray) -> float:
    sample = data[data != 0][::7]
    return float(np.median(np.abs(sample - np.median(sample)))) if sample.size else np.nan


def coadd(section: Section, target, options: MosaicOptions, scale: float = 1.0) -> Coadd:
    """Add the tiles of a section.

    Parameters
    ----------
    section : Section
        What to add, and where.
    target : (float, float, float)
        Common beam, deg.
    options : MosaicOptions
        ``pb_limit`` is used.
    scale : float
        What the tiles' fluxes are multiplied by.
    """
    wcs, shape = grid(section)
    total, weight, moment = (np.zeros(shape, np.float32) for _ in range(3))
    zero = section.own[0].mjd
    result = Coadd(wcs, total, weight, moment, zero)
    for tile in section.tiles:
        box = _box(tile, wcs, shape)
        if box is None:
            continue
        content = layers(tile, target, scale)
        overlap, added = [], 0.0
        for rows, columns in _blocks(box):
            block = _reproject(content, tile.wcs, wcs, rows, columns)
            if block is None:
                continue
            image, pb, rms, clean = block
            good = clean & (pb >= options.pb_limit) & (rms > 0)
            inverse = np.where(good, 1 / np.where(good, rms, 1) ** 2, 0)
            view = np.s_[rows, columns]
            overlap.append(_compare(image, pb, inverse, total[view], weight[view]))
            total[view] += inverse * pb * np.where(good, image, 0)
            weight[view] += inverse * pb**2
            moment[view] += inverse * pb**2 * (tile.mjd - zero)
            added += float((inverse * pb**2).sum())
        if added > 0:
            result.used[tile.group] = {"weight": added} | _agreement(overlap)
    with np.errstate(invalid="ignore", divide="ignore"):
        total /= weight
        moment /= weight
    return result


def _box(tile: Tile, wcs: WCS, shape) -> tuple[int, int, int, int] | None:
    """Return first and last row and column of a tile on the grid, or None if it is not on it."""
    x, y = wcs.all_world2pix(tile.ra_deg, tile.dec_deg, 0)
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return None
    # The points stand up to a step apart: allow for one.
    step = max(1, min(tile.shape) // 100) + 1
    row0, row1 = max(0, int(y[known].min()) - step), min(shape[0], int(y[known].max()) + step + 1)
    column0, column1 = (
        max(0, int(x[known].min()) - step),
        min(shape[1], int(x[known].max()) + step + 1),
    )
    return (row0, row1, column0, column1) if row0 < row1 and column0 < column1 else None


def _blocks(box) -> Iterator[tuple[slice, slice]]:
    row0, row1, column0, column1 = box
    height = max(1, BLOCK_PX // (column1 - column0))
    for row in range(row0, row1, height):
        yield slice(row, min(row + height, row1)), slice(column0, column1)


def _reproject(content, tile_wcs: WCS, wcs: WCS, rows: slice, columns: slice):
    """Return image, beam, noise and validity of a tile on a block of the grid.

    None where they do not meet. Beam and noise are smooth: they are looked up at nodes, between
    which a spline carries them.
    """
    image, pb, rms, clean = content
    block = wcs.deepcopy()
    block.wcs.crpix = wcs.wcs.crpix - [columns.start, rows.start]
    shape = rows.stop - rows.start, columns.stop - columns.start
    # A cubic spline wants four nodes, also where a tile just touches the block.
    nodes = [np.linspace(0, max(n, 4) - 1, max(4, n // _NODE_PX + 1)) for n in shape]
    x, y = tile_wcs.all_world2pix(*block.all_pix2world(*np.meshgrid(*nodes[::-1]), 0), 0)
    if not np.isfinite(x).all():
        x, y = np.nan_to_num(x, nan=-1e6), np.nan_to_num(y, nan=-1e6)
    # Only the part of the tile below the block goes through the image's spline.
    low = [max(0, int(p.min()) - _SPLINE_PX) for p in (y, x)]
    high = [min(n, int(p.max()) + _SPLINE_PX) for n, p in zip(image.shape, (y, x), strict=True)]
    if high[0] - low[0] < 4 or high[1] - low[1] < 4:
        return None
    part = tile_wcs.deepcopy()
    part.wcs.crpix = tile_wcs.wcs.crpix - [low[1], low[0]]
    below = np.s_[low[0] : high[0], low[1] : high[1]]

    def carry(smooth: np.ndarray, degree: int) -> np.ndarray:
        # Continued beyond the tile, or the spline would feel its border.
        smooth = np.pad(smooth, _PAD_PX, mode="reflect", reflect_type="odd")
        at = y + _PAD_PX, x + _PAD_PX
        values = ndimage.map_coordinates(smooth, at, order=1, mode="nearest")
        spline = RectBivariateSpline(*nodes, values, kx=degree, ky=degree)
        return spline(*(np.arange(n) for n in shape)).astype(np.float32)

    def move(data: np.ndarray, order: str) -> np.ndarray:
        return reproject_interp(
            (data[below], part), block, shape_out=shape, order=order, roundtrip_coords=False,
            return_footprint=False,
        ).astype(np.float32)  # fmt: skip

    moved = move(image, "bicubic")
    inside = np.isfinite(moved)
    moved[~inside] = 0
    if clean is not None:
        inside &= move(clean, "nearest-neighbor") == 1
    return moved, carry(pb, 3), carry(rms, 1), inside


def _compare(image, pb, inverse, total, weight) -> tuple[np.ndarray, np.ndarray]:
    """Return (difference / its noise, flux ratio of bright pixels) of a tile and the sum so far."""
    both = (inverse > 0) & (weight > 0)
    own, before = image[both] / pb[both], total[both] / weight[both]
    own_weight, before_weight = inverse[both] * pb[both] ** 2, weight[both]
    pull = (own - before) / np.sqrt(1 / own_weight + 1 / before_weight)
    bright = before * np.sqrt(np.minimum(own_weight, before_weight)) > 20
    return pull[::11], own[bright] / before[bright]


def _agreement(overlap: list) -> dict[str, float | None]:
    pull, ratio = (np.concatenate(parts) for parts in zip(*overlap, strict=True))
    return {
        "overlap_scatter": 1.4826 * float(np.median(np.abs(pull))) if pull.size > 100 else None,
        "overlap_flux_ratio": float(np.median(ratio)) if ratio.size > 20 else None,
    }


# --- the product ----------------------------------------------------------------------------------


def mosaic_header(wcs: WCS, tiles: list[Tile], beam, cards: dict) -> fits.Header:
    """Return the header of one image: four axes, times, telescope, beam, and `cards`."""
    first = tiles[0].header
    header = fits.Header()
    header["BUNIT"], header["BTYPE"] = "Jy/beam", "Intensity"
    freq = float(np.mean([t.header["CRVAL3"] for t in tiles]))
    axes = [
        *zip(
            wcs.wcs.ctype, wcs.wcs.crpix, wcs.wcs.crval, wcs.wcs.cdelt, ("deg", "deg"), strict=True
        ),
        ("FREQ", 1.0, freq, float(first.get("CDELT3", 1.0)), "Hz"),
        ("STOKES", 1.0, 1.0, 1.0, ""),
    ]
    header["WCSAXES"] = 4
    for number, values in enumerate(axes, 1):
        for key, value in zip(("CTYPE", "CRPIX", "CRVAL", "CDELT", "CUNIT"), values, strict=True):
            header[f"{key}{number}"] = value
    header["LONPOLE"], header["LATPOLE"] = 180.0, float(wcs.wcs.crval[1])
    header["RADESYS"], header["SPECSYS"] = "ICRS", str(first.get("SPECSYS", "TOPOCENT"))
    header["RESTFRQ"] = (freq, "[Hz] same as CRVAL3")
    for key, value in zip(("BMAJ", "BMIN", "BPA"), beam or (), strict=False):
        header[key] = (value, "[deg] common beam of the tiles")
    for key in ("TELESCOP", "INSTRUME", "OBSERVER", "OBSGEO-X", "OBSGEO-Y", "OBSGEO-Z"):
        if key in first:
            header[key] = (first[key], first.comments[key])
    header["TIMESYS"] = "UTC"
    half = TILE_S / 2 / 86400
    begin = min(float(t.header.get("MJD-BEG") or t.mjd - half) for t in tiles)
    end = max(float(t.header.get("MJD-END") or t.mjd + half) for t in tiles)
    moments = {"BEG": begin, "AVG": cards.pop("MJD-AVG"), "END": end}
    header["DATE-OBS"] = (Time(begin, format="mjd").isot, "start of the first tile")
    header["MJD-OBS"] = (begin, "[d] start of the first tile")
    for name, mjd in moments.items():
        header[f"DATE-{name}"] = Time(mjd, format="mjd").isot
        header[f"MJD-{name}"] = mjd
    header.comments["MJD-AVG"] = "[d] mean, weighted like the image"
    header["DURATION"] = ((end - begin) * 86400, "[s] first to last")
    header["XPOSURE"] = (
        sum(float(t.header.get("XPOSURE", TILE_S)) for t in tiles),
        "[s] all tiles",
    )
    header["DATE"] = Time.now().isot[:19]
    header["ORIGIN"] = f"dsa110-contimg {__version__}"
    for key, value in cards.items():
        header[key] = value
    for tile in tiles:
        header.add_history(f"tile {tile.group}")
    return header


def epoch_id(output: Path, groups: list[str]) -> str:
    """Return what the mosaic is called in tables: the night, and the hour if its name has one."""
    hour = re.fullmatch(r"mosaic_(\d\d)\.fits", output.name)
    return night_of(groups[0]) + (f"T{hour[1]}" if hour else "")


def make(paths: list[Path], output: Path, options: MosaicOptions) -> Sidecar:
    """Make a mosaic with its maps; return its sidecar, unwritten.

    Each section of the sky is one HDU of the image and of the rms map. In the weight map, the map
    of the mean time (days after ``MJD-AVG``) follows the weights of each section.
    """
    started = time.monotonic()
    tiles, left_out = gather(paths, options)
    correction = Correction()
    if options.correct_epoch:
        correction = measure_correction(_photometry(tile.path) for tile in tiles)
        tiles = [correct(tile, correction) for tile in tiles] if correction.moved else tiles
    sidecar = Sidecar(
        "mosaic", inputs=sorted(paths, key=parse_group), parameters=options.model_dump()
    )
    epoch = epoch_id(output, sorted(map(parse_group, paths)))
    anchor = anchors.merged(t.anchor for t in tiles)
    used: dict[str, dict] = {}
    ratios, covered = [], 0.0
    kinds = ("image", "rms", "weight")
    with ExitStack() as stack:
        temporary = {
            kind: stack.enter_context(
                replacing(output if kind == "image" else companion(output, kind))
            )
            for kind in kinds
        }
        target = common_beam([t.beam_deg for t in tiles]) if tiles else None
        parts = sections(tiles)
        for part in parts:
            result = coadd(part, target, options, correction.scale)
            for group, figures in result.used.items():
                # A tile may reach into two sections: the larger share speaks for it.
                if figures["weight"] > used.get(group, {"weight": 0})["weight"]:
                    used[group] = figures
            members = [t for t in part.tiles if t.group in result.used]
            with np.errstate(invalid="ignore"):
                pulls = result.image[::5, ::5] * np.sqrt(result.weight[::5, ::5])
            ratios.append(pulls[np.isfinite(pulls)])
            covered += np.count_nonzero(result.weight) * np.prod(np.abs(result.wcs.wcs.cdelt))
            cards = {
                "EPOCHID": (epoch, "night, and UTC hour of an hourly mosaic"),
                "NTILES": (len(members), "tiles added"),
                "NLEFTOUT": (len(left_out), "tiles left out, see the sidecar"),
                "PBLIMIT": (options.pb_limit, "tiles are cut where their beam is below"),
            }
            cards |= correction.cards() | anchors.cards(anchor)
            _write(temporary, result, members, target, cards)
        if not parts:
            _write_blank(temporary, sorted(paths, key=parse_group)[0], epoch, len(left_out))
    groups = {t.group: t for t in tiles}
    silent = [g for g in groups if g not in used]
    left_out += [{"tile": g, "reason": "no pixel of it has weight"} for g in silent]
    pulls = np.concatenate(ratios) if ratios else np.empty(0)
    sidecar.qa = {
        "epoch": epoch,
        "n_tiles": len(used),
        "n_left_out": len(left_out),
        "n_images": len(parts),
        "area_deg2": covered,
        "beam_major_arcsec": target[0] * 3600 if target else None,
        "beam_minor_arcsec": target[1] * 3600 if target else None,
        "beam_pa_deg": target[2] if target else None,
        "rms_over_predicted": 1.4826 * float(np.median(np.abs(pulls))) if pulls.size else None,
        "tiles": [{"tile": g, "mjd": groups[g].mjd} | used[g] for g in sorted(used)],
        "left_out": left_out,
        "correction": correction.figures(),
        "flux_anchor": anchor,
    }
    if words := anchors.warning(anchor):
        sidecar.warn(words)
    if not used:
        sidecar.fail(
            "no tile could be used: " + "; ".join(f"{e['tile']} {e['reason']}" for e in left_out)
        )
    off = abs(correction.flux_ratio - 1)
    if off > max(LARGE_CORRECTION, 3 * correction.flux_ratio_error):
        done = "was corrected" if correction.scaled else "is too far off to be corrected"
        sidecar.warn(f"flux scale {correction.flux_ratio:.2f} of the catalogue's: it {done}")
    sidecar.timings_s = {"total": time.monotonic() - started}
    return sidecar


def _photometry(image: Path) -> Path:
    """Return the table of a tile's sources."""
    return image.with_name(image.name.removesuffix(".image.fits") + ".photometry.csv")


def _write(temporary, result: Coadd, tiles, beam, cards: dict) -> None:
    """Append one section to the three files; its image is lost."""
    mean = result.mjd_zero + _weighted_mean(result.time, result.weight)
    header = mosaic_header(result.wcs, tiles, beam, {"MJD-AVG": mean} | cards)
    result.time += np.float32(result.mjd_zero - mean)
    _append(temporary["image"], result.image, header)
    # The image is on disk: its memory serves the noise.
    with np.errstate(divide="ignore"):
        rms = np.divide(1, np.sqrt(result.weight, out=result.image), out=result.image)
    rms[np.isinf(rms)] = np.nan
    header["BTYPE"] = "Noise"
    _append(temporary["rms"], rms, header)
    header["BTYPE"], header["BUNIT"] = "Weight", "Jy-2"
    _append(temporary["weight"], result.weight, header)
    header["BTYPE"], header["BUNIT"] = "Time", "d"
    header.add_history("pixels are mean times in days after MJD-AVG")
    _append(temporary["weight"], result.time, header)


def _weighted_mean(values: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean of values that are NaN where the weight is 0, a row at a time."""
    total = sum(
        np.dot(np.nan_to_num(v).astype(float), w) for v, w in zip(values, weight, strict=True)
    )
    return total / float(weight.sum(dtype=float))


def _append(path: Path, data: np.ndarray, header: fits.Header) -> None:
    data = data.astype(np.float32, copy=False)[None, None]
    if path.exists():
        fits.append(path, data, header, checksum=True)
    else:
        fits.PrimaryHDU(data, header).writeto(path, checksum=True)


def _write_blank(temporary, path: Path, epoch: str, n_left_out: int) -> None:
    """Write a mosaic without sky on the grid of its first tile."""
    header = fits.getheader(path)
    shape = header["NAXIS2"], header["NAXIS1"]
    header = header.copy(strip=False)
    header["MJD-AVG"] = _mjd(path, header)
    header["EPOCHID"], header["NTILES"], header["NLEFTOUT"] = epoch, 0, n_left_out
    blank = np.full(shape, np.nan, np.float32)
    _append(temporary["image"], blank, header)
    _append(temporary["rms"], blank, header)
    header["BUNIT"] = "Jy-2"
    _append(temporary["weight"], np.zeros(shape, np.float32), header)
    header["BUNIT"] = "d"
    _append(temporary["weight"], blank, header)


def argparser() -> argparse.ArgumentParser:
    """Return the parser of ``mosaic``."""
    parser = argparse.ArgumentParser(prog="contimg mosaic", description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, metavar="OUT.fits")
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE.fits", help="<id>.image.fits"
    )
    add_options(parser, MosaicOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Make a mosaic and write its sidecar."""
    options: MosaicOptions = from_args(args, MosaicOptions)
    sidecar = make(args.images, args.output, options)
    sidecar.write(args.output, ("numpy", "scipy", "astropy", "reproject"))
    for entry in sidecar.qa["left_out"]:
        print(f"left out {entry['tile']}: {entry['reason']}")
    print(f"{args.output}: {sidecar.qa['n_tiles']} tiles, {sidecar.verdict}")
