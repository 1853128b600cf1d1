"""Images with what photometry needs of them: noise, beam, weights, times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ..core.errors import DataError
from ..core.layout import companion
from ..maps.planes import beam_deg, celestial, flat, frequency_hz, mean_mjd

__all__ = ["SkyPlane", "open_planes"]


@dataclass(frozen=True)
class SkyPlane:
    """A plane with the maps that belong to it.

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


@contextmanager
def open_planes(image: str | Path) -> Iterator[list[SkyPlane]]:
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


def _plane(image: Path, hdu: Any, index: int, files: dict[str, fits.HDUList]) -> SkyPlane:
    header = hdu.header
    data = flat(hdu.data)

    def layer(kind: str, number: int = index) -> np.ndarray | None:
        if kind not in files:
            return None
        values = flat(files[kind][number].data)
        if values.shape != data.shape:
            raise DataError(f"{companion(image, kind)}: its shape is not that of {image.name}")
        return values

    mosaic = "pb" not in files
    return SkyPlane(
        data=data,
        wcs=celestial(header),
        beam_deg=beam_deg(header),
        rms=layer("rms"),
        response=layer("pb"),
        sensitivity=layer("weight", 2 * index) if mosaic else None,
        mjd_map=layer("weight", 2 * index + 1) if mosaic else None,
        freq_hz=frequency_hz(header),
        mjd=mean_mjd(image, header),
    )
