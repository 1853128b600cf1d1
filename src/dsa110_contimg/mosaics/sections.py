"""The grids of a mosaic: strips of the sky, cut into sections that are one image each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike

from .tiles import TileImage

__all__ = ["Section", "grid", "sections"]

#: Tiles further apart in declination than this belong to different strips, deg.
DEC_GAP_DEG = 2.0


#: A strip is split where right ascension jumps by more than this, deg on the sky.
RA_GAP_DEG = 10.0


#: Longest section of a strip that is one image, between tile centres, deg on the sky. An hour with
#: two tiles on either side is shorter; beyond, the projection bends and memory grows.
SECTION_DEG = 24.0


#: Sky that neighbouring sections share, so that a source on the seam has its surroundings, deg.
SEAM_DEG = 0.2


@dataclass(frozen=True)
class Section:
    """Part of a strip that becomes one image.

    Attributes
    ----------
    own : list of TileImage
        Tiles whose middles lie in it.
    tiles : list of TileImage
        All tiles of its strip; those that reach into it contribute.
    ra_range_deg : (float, float)
        Limits in right ascension relative to the middle, deg; infinite at the strip's ends.
    middle_deg : (float, float)
        Direction of its middle, ICRS.
    """

    own: list[TileImage]
    tiles: list[TileImage]
    ra_range_deg: tuple[float, float]
    middle_deg: tuple[float, float]


# --- geometry -------------------------------------------------------------------------------------


def sections(tiles: list[TileImage]) -> list[Section]:
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


def _runs(items: list, values: ArrayLike, gap: float) -> Iterator[list]:
    """Yield runs of items whose ascending values have no step above `gap`."""
    breaks = np.flatnonzero(np.diff(values) > gap) + 1
    for part in np.split(np.arange(len(items)), breaks):
        if part.size:
            yield [items[i] for i in part]


def _cut(strip: list[TileImage], ra: np.ndarray, stretch: float) -> list[Section]:
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
