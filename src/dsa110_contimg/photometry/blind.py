"""Blind source finding: what stands in a mosaic and in no catalogue.

The catalogue's sources are measured and taken out; in what is left, photutils finds the peaks above
the noise. Their fluxes come from the same beam fit as those of forced photometry, made jointly with
the catalogue's sources nearby. A finder can hang on an image that nobody foresaw: it runs in a
process of its own with a time limit, and a night that exceeds it has an empty, failed list.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from scipy.spatial import cKDTree

from ..catalogs.catalogue import iau_name, read_catalog
from ..core.errors import ToolStopped
from ..core.figures import BlindFigures
from ..core.files import replacing
from ..core.options import BlindOptions
from ..core.programs import program, run_as_program, run_tool
from ..core.sidecar import Sidecar, read_sidecar
from ..core.tables import read_csv
from ..maps.noise import local_rms
from ..telescope.beam import unit_vector
from .fit import EDGE_FRACTION, forced_fit, gather_pixels, without_sources
from .images import SkyPlane, open_planes

__all__ = ["COLUMNS", "find", "search_mosaic"]

#: Columns of ``blind.csv``.
COLUMNS = (
    "name", "ra_deg", "dec_deg", "mjd", "flux_jy", "flux_err_jy", "local_rms_jy", "snr",
    "nearest", "nearest_arcsec", "flags", "image",
)  # fmt: skip

#: A detection this near to a catalogue source, in major axes, is that source.
SAME_FWHM = 0.5
#: Catalogue sources this near, in major axes, are fitted together with a detection.
NEAR_FWHM = 3.0
#: A detection fainter than this part of a catalogue source within `NEAR_FWHM` is its artefact.
ARTEFACT_SHARE = 0.05
#: A peak whose area at half its height exceeds the beam's by this factor is extended.
EXTENDED = 2.0


def find(plane: SkyPlane, catalog: pd.DataFrame, options: BlindOptions) -> pd.DataFrame:
    """Find the sources of a mosaic that a catalogue does not have.

    Parameters
    ----------
    plane : SkyPlane
        Part of a mosaic, from `open_planes`.
    catalog : DataFrame
        As `read_catalog` returns it.
    options : BlindOptions
        ``threshold_sigma`` is used.

    Returns
    -------
    DataFrame
        `COLUMNS` without ``image``, brightest first. ``flags`` are words: ``extended``, ``edge``,
        ``blend`` (fitted with a neighbour).
    """
    from photutils.detection import find_peaks

    blank = ~np.isfinite(plane.data)
    if blank.all() or not plane.beam_deg[1] > 0:
        return pd.DataFrame(columns=COLUMNS[:-1])
    known = _known(plane, catalog)
    scale = np.sqrt(np.abs(np.linalg.det(plane.wcs.pixel_scale_matrix)))
    major_px, minor_px = (b / scale for b in plane.beam_deg[:2])
    left = without_sources(plane, known.ra_deg, known.dec_deg, known.fitted_jy.to_numpy())
    snr = np.where(blank, 0, left / _noise(left, blank, plane.rms, np.sqrt(major_px * minor_px)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # photutils warns where it finds nothing
        peaks = find_peaks(snr, options.threshold_sigma, box_size=2 * int(minor_px / 2) + 1)
    if not peaks:
        return pd.DataFrame(columns=COLUMNS[:-1])
    column, row = (np.asarray(peaks[f"{axis}_peak"]) for axis in "xy")
    # Above half its peak, a beam covers an ellipse with the beam's axes.
    reach = np.arange(-2 * int(major_px), 2 * int(major_px) + 1)
    around = gather_pixels(snr, row[:, None, None] + reach[:, None], column[:, None, None] + reach)
    area = np.count_nonzero(around >= snr[row, column][:, None, None] / 2, axis=(1, 2))
    ra, dec = plane.wcs.all_pix2world(column, row, 0)
    found = pd.DataFrame(
        {
            "ra_deg": ra,
            "dec_deg": dec,
            "extended": area > EXTENDED * np.pi / 4 * major_px * minor_px,
        }
    )
    return _judge(plane, found, known, options)


def _known(plane: SkyPlane, catalog: pd.DataFrame) -> pd.DataFrame:
    """Return the catalogue's sources in an image, with what was fitted there (``fitted_jy``)."""
    x, y = plane.wcs.all_world2pix(catalog.ra_deg.to_numpy(), catalog.dec_deg.to_numpy(), 0)
    rows, columns = plane.data.shape
    middle = plane.wcs.all_pix2world((columns - 1) / 2, (rows - 1) / 2, 0)
    towards = unit_vector(catalog.ra_deg.to_numpy(), catalog.dec_deg.to_numpy()) @ unit_vector(
        *middle
    )
    inside = (towards > 0) & (x > 0) & (x < columns - 1) & (y > 0) & (y < rows - 1)
    known = catalog[inside].reset_index(drop=True)
    if not len(known):
        return known.assign(fitted_jy=np.empty(0))
    fit = forced_fit(plane, known.ra_deg.to_numpy(), known.dec_deg.to_numpy())
    return known.assign(fitted_jy=np.maximum(np.nan_to_num(fit.flux), 0))


def _noise(
    image: np.ndarray, blank: np.ndarray, predicted: np.ndarray | None, beam_px: float
) -> np.ndarray:
    """Return the noise: what the weights predict, or what is measured around where that is more."""
    measured = local_rms(np.where(blank, np.nan, image), beam_px)
    if predicted is not None:
        measured = np.fmax(measured, np.asarray(predicted, np.float32))
    return np.where(measured > 0, measured, np.inf)


def _judge(
    plane: SkyPlane, found: pd.DataFrame, known: pd.DataFrame, options: BlindOptions
) -> pd.DataFrame:
    """Fit detections with their catalogued neighbours; keep those that are significant and new."""
    major = plane.beam_deg[0]
    here = unit_vector(found.ra_deg.to_numpy(), found.dec_deg.to_numpy())
    near, names = np.full(len(found), np.inf), np.full(len(found), "", object)
    beside, brightest = known[:0], np.zeros(len(found))
    if len(known):
        there = cKDTree(unit_vector(known.ra_deg.to_numpy(), known.dec_deg.to_numpy()))
        chord, nearest = there.query(here)
        near, names = np.rad2deg(2 * np.arcsin(chord / 2)), known["name"].to_numpy()[nearest]
        around = there.query_ball_point(here, 2 * np.sin(np.deg2rad(NEAR_FWHM * major) / 2))
        beside = known.iloc[sorted({i for group in around for i in group})]
        fluxes = known.fitted_jy.to_numpy()
        brightest = np.array([fluxes[group].max() if group else 0.0 for group in around])
    new = near > SAME_FWHM * major
    found, near, names, brightest = found[new], near[new], names[new], brightest[new]
    if not len(found):
        return pd.DataFrame(columns=COLUMNS[:-1])
    ra, dec = (np.r_[found[c], beside[c]] for c in ("ra_deg", "dec_deg"))
    n = len(found)
    fit = forced_fit(plane, ra, dec)
    # Once more where the fit has them: positions of pixels and islands are coarse.
    moved = np.where(fit.blended[:, None] | ~np.isfinite(fit.shift_deg), 0, fit.shift_deg)[:n]
    moved[np.hypot(*moved.T) > major / 2] = 0
    dec[:n] += moved[:, 1]
    ra[:n] = (ra[:n] + moved[:, 0] / np.cos(np.deg2rad(dec[:n]))) % 360
    fit = forced_fit(plane, ra, dec)
    with np.errstate(invalid="ignore"):
        snr = (fit.flux / fit.error)[:n]
    words = {
        "extended": found.extended.to_numpy(),
        "edge": fit.coverage[:n] < EDGE_FRACTION,
        "blend": fit.blended[:n],
    }
    mjd = np.full(n, plane.mjd)
    if plane.mjd_map is not None:
        x, y = plane.wcs.all_world2pix(ra[:n], dec[:n], 0)
        row, column = (
            np.clip(np.rint(p).astype(int), 0, size - 1)
            for p, size in zip((y, x), plane.data.shape, strict=True)
        )
        mjd = mjd + np.nan_to_num(plane.mjd_map[row, column])
    table = pd.DataFrame(
        {
            "name": [iau_name(a, d) for a, d in zip(ra[:n], dec[:n], strict=True)],
            "ra_deg": ra[:n],
            "dec_deg": dec[:n],
            "mjd": mjd,
            "flux_jy": fit.flux[:n],
            "flux_err_jy": fit.error[:n],
            "local_rms_jy": fit.local_rms[:n],
            "snr": snr,
            "nearest": names,
            "nearest_arcsec": 3600 * near,
            "flags": ["|".join(w for w, on in words.items() if on[i]) for i in range(n)],
        }
    )
    real = (table.snr >= options.threshold_sigma) & (table.flux_jy > ARTEFACT_SHARE * brightest)
    return table[real.to_numpy()].sort_values("snr", ascending=False, ignore_index=True)


def _first_of(table: pd.DataFrame, radius_deg: float) -> np.ndarray:
    """Return which rows have no earlier row within a radius."""
    kept = np.ones(len(table), bool)
    if len(table) > 1:
        tree = cKDTree(unit_vector(table.ra_deg.to_numpy(), table.dec_deg.to_numpy()))
        pairs = tree.query_pairs(2 * np.sin(np.deg2rad(radius_deg) / 2))
        for first, second in sorted(pairs):
            if kept[first]:
                kept[second] = False
    return kept


def search_mosaic(image: Path, output: Path, catalog: Path, options: BlindOptions) -> Sidecar:
    """Search a mosaic in a process with a time limit; write the list with its sidecar.

    Parameters
    ----------
    image : Path
        ``mosaic.fits``, with its companions and its sidecar.
    output : Path
        List to write (CSV), with the columns of `COLUMNS`.
    catalog : Path
        Reference catalogue: what it has is left out.
    options : BlindOptions
        Thresholds and time limit; a search that exceeds it leaves an empty list that failed.
    """
    started = time.monotonic()
    record = read_sidecar(image)
    sidecar: Sidecar[BlindFigures] = Sidecar(
        "blind", inputs=[image, catalog], parameters=options.model_dump()
    )
    with replacing(output) as temporary:
        command = program(
            "dsa110_contimg.photometry.blind",
            image=image,
            output=temporary,
            catalog=catalog,
            options=options.model_dump(),
        )
        try:
            run_tool(command, timeout_s=options.timeout_s)
        except ToolStopped:
            sidecar.fail(f"the search was stopped after {options.timeout_s:.0f} s")
            pd.DataFrame(columns=COLUMNS).to_csv(temporary, index=False)
        table = read_csv(temporary)
    if record.verdict == "fail":
        sidecar.fail(f"{image.name} failed")
    sidecar.figures = BlindFigures(n_sources=len(table))
    sidecar.timings_s = {"total": time.monotonic() - started}
    sidecar.write(output)
    return sidecar


def _main(image: str, output: str, catalog: str, options: dict) -> None:
    """Do the search itself."""
    sources = read_catalog(catalog)
    with open_planes(image) as planes:
        found = (find(plane, sources, BlindOptions(**options)) for plane in planes)
        parts = [part for part in found if len(part)]
    table = pd.concat(parts) if parts else pd.DataFrame(columns=COLUMNS)
    table = table.assign(image=Path(image).name)
    # A source in the seam of two images is kept where it is better seen.
    table = table.sort_values("snr", ascending=False, kind="stable")
    beam = fits.getval(image, "BMAJ") if len(table) else 0.0
    table[_first_of(table, beam / 2)].to_csv(
        output, columns=list(COLUMNS), index=False, float_format="%.9g"
    )


if __name__ == "__main__":
    run_as_program(_main)
