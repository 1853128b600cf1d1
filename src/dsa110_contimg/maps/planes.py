"""Planes of FITS images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import DataError

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ["Plane", "read_planes"]

# --- images ---------------------------------------------------------------------------------------


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
        from astropy.wcs import WCS, FITSFixedWarning

        with warnings.catch_warnings():
            # The observatory's position is given in one of two equivalent forms; that is no news.
            warnings.simplefilter("ignore", FITSFixedWarning)
            return WCS(self.header).celestial


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
