"""Forced photometry: the flux of every catalogued source in an image, detected or not.

The model of a stamp around a catalogue position is a beam of unit peak times the flux. The noise of
a synthesis image is correlated much like the beam, so the fit is a generalised least squares one
with that correlation: its weights lie between those of the matched filter, which suits white noise
(Condon 1997, PASP 109, 166), and the interpolated peak. The errors are those of this estimator
under the noise autocorrelation that is measured in the image itself. Sources closer than 1.5 beams
are fitted together.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

from ..catalogs.catalogue import flux_at, iau_name, read_catalog
from ..core import robust
from ..core.figures import (
    EpochCards,
    ImageFigures,
    MedianOffset,
    MosaicFigures,
    PhotometryFigures,
)
from ..core.files import replacing
from ..core.layout import parse_group
from ..core.options import PhotometryOptions
from ..core.sidecar import Record, Sidecar, read_sidecar
from .fit import EDGE_FRACTION, Fit, forced_fit, gather_pixels
from .images import SkyPlane, open_planes

__all__ = ["COLUMNS", "measure", "measure_image"]

#: Columns of a photometry table, in order.
COLUMNS = (
    "source_id",
    "name",
    "ra_deg",
    "dec_deg",
    "mjd",
    "group_or_epoch",
    "flux_jy",
    "flux_err_jy",
    "local_rms_jy",
    "snr",
    "upper_limit_jy",
    "catalog_flux_jy",
    "pb",
    "flags",
    "image",
)


#: Noise is called high above this many times the median of the image.
NOISY = 2.0


#: Least signal-to-noise ratio, and least number, of the isolated sources of a position offset.
ASTROMETRY_SNR, ASTROMETRY_N = 20.0, 3


#: Most sources whose own offsets are recorded with it.
ASTROMETRY_SHOWN = 100


#: Least number of them for positions to be moved by it before fluxes are measured.
FOLLOW_N = 5


_FWHM = np.sqrt(8 * np.log(2))


def measure(plane: SkyPlane, catalog: pd.DataFrame, options: PhotometryOptions) -> pd.DataFrame:
    """Measure the catalogue's sources in one image.

    Parameters
    ----------
    plane : SkyPlane
        Image.
    catalog : DataFrame
        As `read_catalog` returns it.
    options : PhotometryOptions
        Limits.

    Returns
    -------
    DataFrame
        One row for each source of at least ``min_flux_jy`` in the field, with the columns of
        `COLUMNS` except ``group_or_epoch`` and ``image``, and ``shift_ra_deg``, ``shift_dec_deg``
        (fitted centroid minus catalogue, on the sky), ``moved`` (measured off the catalogue
        position because all of the image is). The field is where the beam is at least
        ``pb_limit``, or where a mosaic has weight. All fluxes and noises are divided by the beam.
        ``pb`` of a mosaic is its sensitivity relative to its best point (of a tile with even noise
        that is the beam itself, up to its peak). ``upper_limit_jy`` is blank for a detection.
        ``flags`` are words: ``blend`` (fitted with a neighbour), ``edge`` (part of the stamp is
        blank), ``noisy`` (local noise above twice the median), ``blank`` (not measurable).
    """
    chosen = _in_field(plane, catalog[catalog.flux_jy >= options.min_flux_jy], options)
    ra, dec = chosen.ra_deg.to_numpy(), chosen.dec_deg.to_numpy()
    n = len(chosen)
    if n and np.isfinite(plane.beam_deg).all() and plane.beam_deg[1] > 0:
        fit, moved = _follow(plane, ra, dec, options)
    else:
        blank = np.full(n, np.nan)
        fit = Fit(blank, blank, blank, blank, np.zeros(n, bool), np.full((n, 2), np.nan))
        moved = np.zeros(2)
    known = fit.local_rms[np.isfinite(fit.local_rms)]
    typical = np.median(known) if known.size else np.nan
    divide = chosen["pb"].to_numpy() if plane.response is not None else np.ones(n)
    flux, error, rms = fit.flux / divide, fit.error / divide, fit.local_rms / divide
    with np.errstate(invalid="ignore"):
        snr = flux / error
        limit = np.where(snr >= options.upper_limit_sigma, np.nan, options.upper_limit_sigma * rms)
        words = {
            "blank": ~np.isfinite(flux),
            "edge": fit.coverage < EDGE_FRACTION,
            "blend": fit.blended,
            "noisy": fit.local_rms > NOISY * typical,
        }
    return pd.DataFrame(
        {
            "source_id": chosen["name"].to_numpy(),
            "name": [iau_name(a, d) for a, d in zip(ra, dec, strict=True)],
            "ra_deg": ra,
            "dec_deg": dec,
            "mjd": chosen["mjd"].to_numpy(),
            "flux_jy": flux,
            "flux_err_jy": error,
            "local_rms_jy": rms,
            "snr": snr,
            "upper_limit_jy": limit,
            "catalog_flux_jy": flux_at(chosen.flux_jy, chosen.alpha, plane.freq_hz),
            "pb": chosen["pb"].to_numpy(),
            "flags": ["|".join(w for w, on in words.items() if on[i]) for i in range(n)],
            "shift_ra_deg": fit.shift_deg[:, 0] + moved[0],
            "shift_dec_deg": fit.shift_deg[:, 1] + moved[1],
            "moved": bool(moved.any()),
        }
    ).astype(dict.fromkeys(("source_id", "name", "flags"), str))  # also where there is no row


def _follow(
    plane: SkyPlane, ra: np.ndarray, dec: np.ndarray, options: PhotometryOptions
) -> tuple[Fit, np.ndarray]:
    """Fit at the catalogue positions, or where the image as a whole has them.

    Returns
    -------
    fit : Fit
        At the positions that were moved.
    moved : (2,) array
        By how much they were moved, east and north, deg; 0 where the offset is not significant.
    """
    fit = forced_fit(plane, ra, dec)
    clean = ~fit.blended & (fit.coverage >= EDGE_FRACTION)
    with np.errstate(invalid="ignore"):
        bright = clean & (fit.flux / fit.error > ASTROMETRY_SNR)
    if not options.follow_offset or bright.sum() < FOLLOW_N:
        return fit, np.zeros(2)
    moved, error = _median_offset(fit.shift_deg[bright])
    length = np.hypot(*moved)
    if not max(3 * error, plane.beam_deg[1] / 50) < length < plane.beam_deg[1] / 2:
        return fit, np.zeros(2)
    return forced_fit(plane, ra + moved[0] / np.cos(np.deg2rad(dec)), dec + moved[1]), moved


def _median_offset(shift: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the median of offsets (n, 2) and its error in either direction."""
    median = np.median(shift, axis=0)
    return median, float(robust.median_error(robust.sigma(shift, median), len(shift)))


def _in_field(plane: SkyPlane, catalog: pd.DataFrame, options: PhotometryOptions) -> pd.DataFrame:
    """Return the sources inside the field, with their ``pb`` and ``mjd``."""
    rows, columns = plane.data.shape
    ra0, dec0 = plane.wcs.all_pix2world((columns - 1) / 2, (rows - 1) / 2, 0)
    reach = np.deg2rad(np.hypot(rows, columns) * max(np.abs(plane.wcs.wcs.cdelt)))
    near = _cos_separation(ra0, dec0, catalog.ra_deg, catalog.dec_deg) > np.cos(min(reach, 1.5))
    catalog = catalog[near]
    x, y = plane.wcs.all_world2pix(catalog.ra_deg.to_numpy(), catalog.dec_deg.to_numpy(), 0)
    row, column = (np.rint(np.nan_to_num(p, nan=-1e6)).astype(int) for p in (y, x))
    if plane.response is not None:
        pb = gather_pixels(plane.response, row, column)
        inside = pb >= max(options.pb_limit, 1e-6)
    else:
        assert plane.sensitivity is not None  # of a mosaic
        weight = gather_pixels(plane.sensitivity, row, column)
        best = np.nanmax(plane.sensitivity[::4, ::4], initial=0.0)
        inside = weight > 0
        pb = np.sqrt(np.where(inside, weight, 0) / (max(best, np.nanmax(weight, initial=0.0)) or 1))
    mjd = np.full(len(catalog), plane.mjd)
    if plane.mjd_map is not None:
        later = gather_pixels(plane.mjd_map, row, column)
        mjd = mjd + np.where(np.isfinite(later), later, 0.0)
    return catalog.assign(pb=pb, mjd=mjd)[inside]


def _cos_separation(ra0: float, dec0: float, ra: pd.Series, dec: pd.Series) -> pd.Series:
    ra0, dec0, ra, dec = (np.deg2rad(a) for a in (ra0, dec0, ra, dec))
    return np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)


def position_offset(table: pd.DataFrame) -> MedianOffset | None:
    """Return the median offset of bright, isolated sources from the catalogue.

    Returns
    -------
    MedianOffset or None
        With up to `ASTROMETRY_SHOWN` of the brightest. None below three sources.
    """
    bright = table[(table.snr > ASTROMETRY_SNR) & (table["flags"] == "")]
    if len(bright) < ASTROMETRY_N:
        return None
    median, error = _median_offset(3600 * bright[["shift_ra_deg", "shift_dec_deg"]].to_numpy())
    return MedianOffset(
        n=len(bright),
        ra_offset_arcsec=median[0],
        dec_offset_arcsec=median[1],
        error_arcsec=error,
        followed=bool(bright.moved.any()),
        brightest=[
            (round(3600 * row.shift_ra_deg, 3), round(3600 * row.shift_dec_deg, 3), round(row.snr))
            for row in bright.nlargest(ASTROMETRY_SHOWN, "snr").itertuples()
        ],
    )


def _epoch(image: Path, planes: list[SkyPlane]) -> str:
    if planes[0].response is not None:
        return parse_group(image)
    return str(fits.getval(image, "EPOCHID"))


def _figures(table: pd.DataFrame, image: Path, record: Record) -> PhotometryFigures:
    """Return what a table says, what tells one version of its image from another, and its epoch."""
    detected = table[np.isnan(table.upper_limit_jy) & np.isfinite(table.flux_jy)]
    clean = detected[(detected["flags"] == "") & (detected.snr > 10)]
    with image.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    release, header = record.tools.get("dsa110-contimg", ""), fits.getheader(image)
    figures = record.figures
    return PhotometryFigures(
        n_sources=len(table),
        n_detected=len(detected),
        n_blended=int(table["flags"].str.contains("blend").sum()),
        n_blank=int(table["flags"].str.contains("blank").sum()),
        median_flux_ratio=(clean.flux_jy / clean.catalog_flux_jy).median() if len(clean) else None,
        median_local_rms_jy=table.local_rms_jy.median() if len(detected) else None,
        astrometry=position_offset(table),
        image_sha256=checksum,
        image_version=f"{release} {record.created_utc or ''}".strip(),
        correction=EpochCards(**{c: header[c] for c in EpochCards.model_fields if c in header}),
        flux_anchor=figures.flux_anchor
        if isinstance(figures, ImageFigures | MosaicFigures)
        else None,
    )


def measure_image(image: Path, output: Path, catalog: Path, options: PhotometryOptions) -> Sidecar:
    """Measure the catalogue's sources in a tile or mosaic; write the table with its sidecar.

    Parameters
    ----------
    image : Path
        ``<id>.image.fits`` or ``mosaic.fits``, with its companions and its sidecar.
    output : Path
        Table to write (CSV), with the columns of `COLUMNS`.
    catalog : Path
        Reference catalogue.
    options : PhotometryOptions
        Limits.

    Raises
    ------
    DataError
        If image, companions, sidecar or catalogue cannot be used.
    """
    started = time.monotonic()
    sources = read_catalog(catalog)
    image_record = read_sidecar(image)
    with open_planes(image) as planes:
        table = pd.concat([measure(plane, sources, options) for plane in planes])
        epoch = _epoch(image, planes)
    # A source in two strips of a mosaic is kept where the mosaic is deeper.
    table = table.sort_values("pb", ascending=False, kind="stable").drop_duplicates("source_id")
    table = table.sort_values(["ra_deg", "dec_deg"]).reset_index(drop=True)
    table = table.assign(group_or_epoch=epoch, image=image.name, mjd=table.mjd.map("{:.7f}".format))
    with replacing(output) as temporary:
        table.to_csv(temporary, columns=list(COLUMNS), index=False, float_format="%.9g")
    sidecar = Sidecar(
        "photometry",
        inputs=[image, catalog],
        parameters=options.model_dump(),
        timings_s={"total": time.monotonic() - started},
        figures=_figures(table, image, image_record),
    )
    if image_record.verdict == "fail":
        sidecar.fail(f"{image.name} failed: " + "; ".join(image_record.reasons))
    elif len(table) and not np.isfinite(table.flux_jy).any():
        sidecar.fail("no source could be measured")
    elif not len(table):
        sidecar.warn("no catalogue source is in the field")
    sidecar.write(output)
    return sidecar
