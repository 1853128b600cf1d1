"""Mosaics: tiles on one grid, added with the weights that minimise the noise.

The best estimate of the sky from tiles d with primary beam P and noise sigma is
``sum(P d / sigma^2) / sum(P^2 / sigma^2)``, with the variance ``1 / sum(P^2 / sigma^2)``. Nothing
is divided by a small P. Tiles are convolved to a common beam first where theirs differ. They are
brought onto the catalogue's flux scale and positions as they are added (`correction`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from astropy.wcs import WCS
from reproject import reproject_interp
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from ..core.errors import DataError
from ..core.layout import companion
from ..core.options import MosaicOptions
from ..core.robust import MAD_TO_SIGMA, mad
from ..maps.beams import convolve
from ..maps.planes import read_plane
from .sections import Section, grid
from .tiles import TileImage

__all__ = ["Coadd", "coadd"]

#: Largest part of the grid that is worked on at once, pixels.
BLOCK_PX = 4_000_000


#: Pixels that the spline reaches beyond a block of a tile; that its ringing is felt; between nodes
#: at which smooth maps are looked up; that these are continued beyond the tile.
_SPLINE_PX, _RINGING_PX, _NODE_PX, _PAD_PX = 16, 3, 8, 32


_FWHM = np.sqrt(8 * np.log(2))


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
    used: dict[str, dict] = field(default_factory=dict)


#: Image, beam, noise and validity of a tile, see `layers`.
Layers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def layers(tile: TileImage, target: tuple[float, float, float], scale: float = 1.0) -> Layers:
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
        found.append(read_plane(path))
        if found[-1].shape != tile.shape:
            raise DataError(f"{path}: its shape is not that of {tile.path.name}")
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
    return float(mad(sample)) if sample.size else np.nan


def coadd(
    section: Section, target: tuple[float, float, float], options: MosaicOptions, scale: float = 1.0
) -> Coadd:
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


def _box(tile: TileImage, wcs: WCS, shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
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


def _blocks(box: tuple[int, int, int, int]) -> Iterator[tuple[slice, slice]]:
    row0, row1, column0, column1 = box
    height = max(1, BLOCK_PX // (column1 - column0))
    for row in range(row0, row1, height):
        yield slice(row, min(row + height, row1)), slice(column0, column1)


def _reproject(
    content: Layers, tile_wcs: WCS, wcs: WCS, rows: slice, columns: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
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


def _compare(
    image: np.ndarray,
    pb: np.ndarray,
    inverse: np.ndarray,
    total: np.ndarray,
    weight: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
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
        "overlap_scatter": MAD_TO_SIGMA * float(mad(pull, 0)) if pull.size > 100 else None,
        "overlap_flux_ratio": float(np.median(ratio)) if ratio.size > 20 else None,
    }
