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
from ..core.layout import companion, parse_group
from ..core.times import DAY_S, group_mjd
from ..telescope.dsa110 import TILE_S

__all__ = ["Plane", "open_planes"]


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


def _plane(image: Path, hdu: Any, index: int, files: dict[str, fits.HDUList]) -> Plane:
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


def _frequency(header: fits.Header) -> float:
    for axis in range(1, header.get("NAXIS", 0) + 1):
        if str(header.get(f"CTYPE{axis}", "")).startswith("FREQ"):
            return float(header[f"CRVAL{axis}"])
    return float(header.get("RESTFRQ") or header.get("RESTFREQ") or np.nan)


def _mean_mjd(image: Path, header: fits.Header) -> float:
    """Return the mean time of an image: its card, else the middle of the tile its name holds."""
    if "MJD-AVG" in header:
        return float(header["MJD-AVG"])
    return group_mjd(parse_group(image)) + TILE_S / 2 / DAY_S
