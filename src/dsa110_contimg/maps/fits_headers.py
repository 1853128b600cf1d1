"""FITS headers of tiles: complete, standard, and the same whichever imager ran.

Four axes (RA, DEC, FREQ, STOKES) in the SIN projection, ICRS, UTC. Cards that say where and when
are made here from the Measurement Set; of the imager's own header the rest is kept (its ``WSC*``
cards, its history).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..core.times import DAY_S
from ..ms.tile import Tile
from ..telescope import dsa110

if TYPE_CHECKING:
    from astropy.io import fits

__all__ = ["ImageFacts", "image_header", "imager_cards"]

#: Units of each kind of image.
UNITS = {
    "image": "Jy/beam",
    "pbcor": "Jy/beam",
    "residual": "Jy/beam",
    "rms": "Jy/beam",
    "psf": "Jy/beam",
    "model": "Jy/pixel",
    "pb": "",
}
_TYPES = {"pb": "PrimaryBeam", "psf": "Beam"}
#: Cards of an imager that this package states itself, or that do not hold for an ICRS float image.
_OWN = {
    "SIMPLE", "BITPIX", "EXTEND", "BSCALE", "BZERO", "BLANK", "BUNIT", "BTYPE", "EQUINOX",
    "RADESYS", "TELESCOP", "INSTRUME", "OBSERVER", "OBJECT", "SPECSYS", "SPECSYS2", "LONPOLE",
    "LATPOLE", "RESTFRQ", "RESTFREQ", "DATE", "TIMESYS", "WCSAXES", "VELREF", "ALTRVAL",
    "ALTRPIX", "OBSRA", "OBSDEC", "ORIGIN", "COMMENT", "HISTORY", "",
}  # fmt: skip
_OWN_PREFIXES = (
    "NAXIS", "CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT", "CROTA", "PC", "PV", "DATE-", "MJD",
    "OBSGEO", "BMAJ", "BMIN", "BPA",
)  # fmt: skip


@dataclass(frozen=True)
class ImageFacts:
    """What the headers of all images of a tile share.

    Attributes
    ----------
    tile : Tile
        The Measurement Set.
    size_px, cell_arcsec
        Image geometry.
    freq_hz : float
        Mean frequency of the data, weighted like the image.
    mean_mjd : float
        Mean time of the data, weighted like the image, UTC.
    exposure_s : float
        Time with data.
    beam : (float, float, float) or None
        Restoring beam: major and minor axis (FWHM), position angle, all deg.
    cards : mapping
        Further cards: keyword to value or to (value, comment).
    history : tuple of str
        Lines of history.
    """

    tile: Tile
    size_px: int
    cell_arcsec: float
    freq_hz: float
    mean_mjd: float
    exposure_s: float
    beam: tuple[float, float, float] | None
    cards: Mapping[str, Any]
    history: tuple[str, ...] = ()


def image_header(facts: ImageFacts, kind: str) -> fits.Header:
    """Return the header of one image of a tile.

    Parameters
    ----------
    facts : ImageFacts
        What all images of the tile share.
    kind : str
        ``image``, ``pbcor``, ``residual``, ``rms``, ``psf``, ``model`` or ``pb``.

    Returns
    -------
    astropy.io.fits.Header
    """
    from astropy.io import fits
    from astropy.time import Time

    tile = facts.tile
    header = fits.Header()
    cell_deg = facts.cell_arcsec / 3600
    header["BUNIT"] = (UNITS[kind], "brightness unit")
    header["BTYPE"] = (_TYPES.get(kind, "Intensity"), "kind of image")
    axes = [
        ("RA---SIN", facts.size_px // 2 + 1, tile.ra_deg % 360, -cell_deg, "deg"),
        ("DEC--SIN", facts.size_px // 2 + 1, tile.dec_deg, cell_deg, "deg"),
        ("FREQ", 1, facts.freq_hz, tile.bandwidth_hz, "Hz"),
        ("STOKES", 1, 1, 1, ""),
    ]
    header["WCSAXES"] = len(axes)
    for number, (ctype, crpix, crval, cdelt, cunit) in enumerate(axes, 1):
        header[f"CTYPE{number}"] = ctype
        header[f"CRPIX{number}"] = float(crpix)
        header[f"CRVAL{number}"] = float(crval)
        header[f"CDELT{number}"] = float(cdelt)
        header[f"CUNIT{number}"] = cunit
    header.comments["CRVAL3"] = "mean frequency, weighted like the image"
    header.comments["CDELT3"] = "whole bandwidth"
    header["LONPOLE"] = 180.0
    header["LATPOLE"] = tile.dec_deg
    header["RADESYS"] = "ICRS"
    header["SPECSYS"] = "TOPOCENT"
    header["RESTFRQ"] = (facts.freq_hz, "[Hz] same as CRVAL3")
    if facts.beam is not None and kind != "pb":
        for key, value, text in zip(
            ("BMAJ", "BMIN", "BPA"),
            facts.beam,
            ("[deg] major axis (FWHM)", "[deg] minor axis (FWHM)", "[deg] north through east"),
            strict=True,
        ):
            header[key] = (value, text)
    header["OBJECT"] = tile.name
    header["TELESCOP"] = dsa110.NAME
    header["INSTRUME"] = "DSA"
    header["OBSERVER"] = dsa110.NAME
    header["OBSRA"] = (tile.ra_deg % 360, "[deg] phase centre")
    header["OBSDEC"] = (tile.dec_deg, "[deg] phase centre")
    for axis, value in zip("XYZ", dsa110.location().geocentric, strict=True):
        header[f"OBSGEO-{axis}"] = (round(float(value.to_value("m")), 3), "[m] ITRF")
    header["TIMESYS"] = "UTC"
    moments = {"BEG": tile.start_mjd, "AVG": facts.mean_mjd, "END": tile.end_mjd}
    start = Time(tile.start_mjd, format="mjd", scale="utc")
    header["DATE-OBS"] = (start.isot, "start of the data")
    header["MJD-OBS"] = (tile.start_mjd, "[d] start of the data")
    for name, mjd in moments.items():
        header[f"DATE-{name}"] = Time(mjd, format="mjd", scale="utc").isot
        header[f"MJD-{name}"] = mjd
    header["DURATION"] = ((tile.end_mjd - tile.start_mjd) * DAY_S, "[s] first to last")
    header["XPOSURE"] = (facts.exposure_s, "[s] time with data")
    header["DATE"] = (Time.now().isot[:19], "file written (UTC)")
    header["ORIGIN"] = f"dsa110-contimg {__version__}"
    for key, value in facts.cards.items():
        header[key] = value
    for line in facts.history:
        header.add_history(line)
    return header


def imager_cards(header: fits.Header) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what is to be kept of an imager's header: its own cards and its history."""
    cards = {
        card.keyword: (card.value, card.comment)
        for card in header.cards
        if card.keyword not in _OWN
        and not card.keyword.startswith(_OWN_PREFIXES)
        and not (isinstance(card.value, float) and not np.isfinite(card.value))
    }
    history = tuple(str(line) for line in header.get("HISTORY", ()))
    return cards, history
