"""Optional product of a tile: what was in the sky for one integration only.

The known sources are taken out of the visibilities with the fluxes that the tile itself gives, as
they drift through the beam; each integration is imaged; and from each image the median of all is
subtracted, which takes what is constant with it. What stands out of the noise then was there in
one integration. The brightest of each integration is noted and taken out of the visibilities, and
so on until nothing is left: so sidelobes are not noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.robust import NOISE_MAD_TO_SIGMA, mad
from ..maps.noise import mad_rms
from ..telescope.beam import TileBeam, separation_rad

if TYPE_CHECKING:
    import pandas as pd
    from astropy.wcs import WCS

__all__ = ["COLUMNS", "Flash", "interval_files", "response_at", "search", "table_of"]

#: Half side of the piece around a peak to which a parabola is fitted for its place and height.
_NEAR = 1
#: A peak's highest pixel may be lower than the peak.
NEARLY = 0.8
#: Side of the squares in which the noise is taken, pixels: several hundred beams.
BLOCK_PX = 100
#: Fewest integrations whose median tells what is constant.
LEAST_INTEGRATIONS = 4
COLUMNS = (
    "name", "ra_deg", "dec_deg", "mjd", "integration", "flux_jy", "flux_err_jy", "snr", "pb",
    "known",
)  # fmt: skip


@dataclass(frozen=True)
class Flash:
    """A peak in the image of one integration: pixel (from 0), height and noise, Jy/beam."""

    integration: int
    x: float
    y: float
    peak_jy: float
    noise_jy: float

    @property
    def snr(self) -> float:
        """Peak over noise."""
        return self.peak_jy / self.noise_jy

    def near(self, other: Flash, reach_px: float) -> bool:
        """Tell whether another is in the same integration and no further away."""
        away = np.hypot(self.x - other.x, self.y - other.y)
        return self.integration == other.integration and bool(away < reach_px)


def interval_files(prefix: Path, n: int) -> list[Path]:
    """Return WSClean's images of the intervals."""
    return [Path(f"{prefix}-t{k:04d}-image.fits") for k in range(n)]


def search(
    images: Sequence[np.ndarray], inside: np.ndarray, excess: np.ndarray, sigma: float
) -> list[Flash]:
    """Find the brightest of what differs in one image from the others.

    Parameters
    ----------
    images : sequence of (rows, columns) array
        Dirty images of the integrations, Jy/beam; all NaN or zero without data.
    inside : (rows, columns) bool array
        Where to look.
    excess : (rows, columns) array
        By how much the noise of the tile is larger there than where it is least, at least 1.
    sigma : float
        Least signal-to-noise ratio.

    Returns
    -------
    list of Flash
        The brightest of each integration that has any, in order of time.
    """
    usable = [k for k, image in enumerate(images) if np.isfinite(image).all() and image.any()]
    if len(usable) < LEAST_INTEGRATIONS:
        return []
    steady = _median([images[k] for k in usable])
    found = []
    for k in usable:
        left = np.where(inside, images[k] - steady, 0.0)
        # Of the image itself: the median hides the noise of whichever image it is taken from.
        noise = np.maximum(mad_rms(images[k][inside]), _noise_of_blocks(images[k])) * excess
        ratio = left / noise
        row, column = np.unravel_index(np.argmax(ratio), ratio.shape)
        if ratio[row, column] > NEARLY * sigma:
            y, x, peak = _summit(left, int(row), int(column))
            flash = Flash(k, x, y, peak, float(noise[row, column]))
            if flash.snr >= sigma:
                found.append(flash)
    return found


def _median(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the median of images, pixel by pixel, a few rows at a time."""
    out = np.empty_like(images[0])
    for start in range(0, len(out), 256):
        rows = slice(start, start + 256)
        out[rows] = np.median([image[rows] for image in images], axis=0)
    return out


def _noise_of_blocks(image: np.ndarray) -> np.ndarray:
    """Return the noise of squares of `BLOCK_PX` pixels, from median absolute values, per pixel.

    It is larger where errors of bright sources are left, in the one integration or in all.
    """
    rows, columns = (-(-n // BLOCK_PX) for n in image.shape)
    grown = np.pad(
        image,
        [(0, k * BLOCK_PX - n) for k, n in zip((rows, columns), image.shape, strict=True)],
        mode="symmetric",
    )
    blocks = grown.reshape(rows, BLOCK_PX, columns, BLOCK_PX).swapaxes(1, 2)
    noise = NOISE_MAD_TO_SIGMA * mad(blocks.reshape(rows, columns, -1), 0, axis=2)
    spread = np.repeat(np.repeat(noise, BLOCK_PX, axis=0), BLOCK_PX, axis=1)
    return spread[: image.shape[0], : image.shape[1]]


def _summit(image: np.ndarray, row: int, column: int) -> tuple[float, float, float]:
    """Return place (row, column) and height of a peak between pixels, by a fitted paraboloid."""
    if not (0 < row < image.shape[0] - 1 and 0 < column < image.shape[1] - 1):
        return float(row), float(column), float(image[row, column])
    offset = np.arange(-_NEAR, _NEAR + 1)
    y, x = (a.ravel() for a in np.meshgrid(offset, offset, indexing="ij"))
    values = image[row - _NEAR : row + _NEAR + 1, column - _NEAR : column + _NEAR + 1].ravel()
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    c = np.linalg.lstsq(basis.astype(float), values, rcond=None)[0]
    curvature = np.array([[2 * c[3], c[4]], [c[4], 2 * c[5]]])
    if np.linalg.eigvalsh(curvature).max() >= 0:
        return float(row), float(column), float(image[row, column])
    dx, dy = np.clip(-np.linalg.solve(curvature, c[1:3]), -_NEAR, _NEAR)
    height = c @ [1, dx, dy, dx * dx, dx * dy, dy * dy]
    return float(row + dy), float(column + dx), float(max(height, image[row, column]))


def response_at(flash: Flash, ra_deg: float, dec_deg: float, beam: TileBeam) -> float:
    """Return the beam's response at a flash's place and time, averaged over channels."""
    weight = beam.weights[flash.integration]
    samples = beam.samples(ra_deg, dec_deg)[flash.integration]
    return float((weight * samples).sum() / weight.sum())


def table_of(
    flashes: Sequence[Flash],
    wcs: WCS,
    beam: TileBeam,
    times_mjd: np.ndarray,
    known: pd.DataFrame | None,
    radius_deg: float,
) -> pd.DataFrame:
    """Return a table of what was found, `COLUMNS`, corrected for the beam of its moment.

    Parameters
    ----------
    flashes : sequence of Flash
    wcs : astropy.wcs.WCS
        Celestial coordinates of the images.
    beam : TileBeam
        Pointing of each integration, and weights.
    times_mjd : (n_time,) array
        Mid-times of the integrations.
    known : DataFrame, optional
        Catalogue; the source within `radius_deg` is named in ``known``.
    radius_deg : float
        Distance at which a source is the same, deg.
    """
    import pandas as pd

    from ..catalogs.catalogue import iau_name

    rows: list[dict[str, Any]] = []
    for flash in flashes:
        ra, dec = (float(v) for v in wcs.all_pix2world(flash.x, flash.y, 0))
        response = response_at(flash, ra, dec, beam)
        match = ""
        if known is not None and len(known):
            away = np.rad2deg(separation_rad(ra, dec, known.ra_deg, known.dec_deg))
            match = str(known["name"].iloc[int(np.argmin(away))]) if away.min() < radius_deg else ""
        rows.append(
            {
                "name": iau_name(ra, dec),
                "ra_deg": ra,
                "dec_deg": dec,
                "mjd": float(times_mjd[flash.integration]),
                "integration": flash.integration,
                "flux_jy": flash.peak_jy / response,
                "flux_err_jy": flash.noise_jy / response,
                "snr": flash.snr,
                "pb": response,
                "known": match,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))
