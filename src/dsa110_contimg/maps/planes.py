"""Planes of FITS images: pixels, coordinates, and what headers say of beam, time and frequency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import DataError
from ..core.layout import parse_group
from ..core.times import DAY_S, group_mjd
from ..telescope.dsa110 import TILE_S

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

__all__ = [
    "Plane",
    "append_plane",
    "beam_deg",
    "celestial",
    "flat",
    "frequency_hz",
    "mean_mjd",
    "read_plane",
    "read_planes",
]


# --- pixels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """One sky plane of a FITS image.

    Attributes
    ----------
    data : (ny, nx) float array
        Native byte order; memory-mapped where the file allows it.
    header : astropy.io.fits.Header
        As written.
    path : Path
        Where it came from.
    """

    data: np.ndarray
    header: Any
    path: Path

    def wcs(self) -> WCS:
        """Return the celestial WCS."""
        return celestial(self.header)


def flat(data: np.ndarray) -> np.ndarray:
    """Return the sky plane of an image whose other axes have one pixel."""
    return data.reshape(data.shape[-2:])


def read_plane(path: str | Path) -> np.ndarray:
    """Return the first plane of a file, (rows, columns) float32, in memory."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        return flat(hdus[0].data).astype(np.float32)


def append_plane(path: Path, data: np.ndarray, header: Header) -> None:
    """Write a plane as the next image of a file, (1, 1, rows, columns) float32, with checksums."""
    from astropy.io import fits

    data = data.astype(np.float32, copy=False)[None, None]
    if path.exists():
        fits.append(path, data, header, checksum=True)
    else:
        fits.PrimaryHDU(data, header).writeto(path, checksum=True)


def read_planes(path: Path) -> list[Plane]:
    """Read the images of a FITS file: one for a tile, one for each strip of a mosaic.

    Raises
    ------
    DataError
        If the file is no readable image.
    """
    from astropy.io import fits

    try:
        with fits.open(path, memmap=True) as hdus:
            planes = [
                Plane(hdu.data[(0,) * (hdu.data.ndim - 2)], hdu.header, Path(path))
                for hdu in hdus
                if hdu.is_image and hdu.data is not None and hdu.data.ndim >= 2
            ]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a readable FITS image ({error}); remake it") from None
    if not planes:
        raise DataError(f"{path}: holds no image; remake it")
    return planes


# --- headers --------------------------------------------------------------------------------------


def celestial(header: Header) -> WCS:
    """Return the celestial coordinates of a header."""
    from astropy.wcs import WCS

    # What would be fixed is the observatory's position, which has two equivalent forms.
    return WCS(header, fix=False).celestial


def beam_deg(header: Header) -> tuple[float, float, float]:
    """Return FWHM axes and position angle of the restoring beam, deg; axes NaN if there is none."""
    return (
        float(header.get("BMAJ") or np.nan),
        float(header.get("BMIN") or np.nan),
        float(header.get("BPA") or 0.0),
    )


def frequency_hz(header: Header) -> float:
    """Return the reference frequency; NaN if there is none."""
    for axis in range(1, header.get("NAXIS", 0) + 1):
        if str(header.get(f"CTYPE{axis}", "")).startswith("FREQ"):
            return float(header[f"CRVAL{axis}"])
    return float(header.get("RESTFRQ") or header.get("RESTFREQ") or np.nan)


def mean_mjd(path: Path, header: Header) -> float:
    """Return the mean time of an image: its card, else the middle of the tile its name tells."""
    return float(header.get("MJD-AVG") or group_mjd(parse_group(path)) + TILE_S / 2 / DAY_S)
