"""FITS headers of mosaics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from .. import __version__
from ..core.times import DAY_S, night_of
from ..telescope.dsa110 import TILE_S
from .tiles import TileImage

# --- the product ----------------------------------------------------------------------------------


def mosaic_header(
    wcs: WCS, tiles: list[TileImage], beam: tuple[float, float, float] | None, cards: dict[str, Any]
) -> fits.Header:
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
    half = TILE_S / 2 / DAY_S
    begin = min(float(t.header.get("MJD-BEG") or t.mjd - half) for t in tiles)
    end = max(float(t.header.get("MJD-END") or t.mjd + half) for t in tiles)
    moments = {"BEG": begin, "AVG": cards.pop("MJD-AVG"), "END": end}
    header["DATE-OBS"] = (Time(begin, format="mjd").isot, "start of the first tile")
    header["MJD-OBS"] = (begin, "[d] start of the first tile")
    for name, mjd in moments.items():
        header[f"DATE-{name}"] = Time(mjd, format="mjd").isot
        header[f"MJD-{name}"] = mjd
    header.comments["MJD-AVG"] = "[d] mean, weighted like the image"
    header["DURATION"] = ((end - begin) * DAY_S, "[s] first to last")
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
