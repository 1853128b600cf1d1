"""Optional products of a tile, made where its visibilities still are: spectra and transients.

Both begin with the visibilities without the known sources: those of the catalogue that the tile
shows, with the fluxes measured on it. Both need WSClean.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.figures import ImageFigures, SubbandImages, SubbandPart, TransientSearch
from ..core.options import PhotometryOptions
from ..core.programs import run_tool
from ..core.sidecar import Sidecar
from ..maps import fits_headers
from ..maps import noise as map_noise
from ..maps.planes import read_plane
from ..maps.restore import fit_beam
from ..ms.tile import Tile
from ..photometry import images as photometry_images
from ..photometry import measure as photometry
from . import bright_sources, transients, wsclean
from . import spectra as spectra_step
from .bright_sources import Seeds
from .job import Imaged, Job, measure_catalog
from .presets import Recipe

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["blank", "make_products"]

#: A catalogued source counts as known from this signal-to-noise ratio, and so many at most.
KNOWN_SNR, MOST_KNOWN = 3.0, 500
#: The brightest of them, whose spectra are corrected, in so many parts of the band.
MOST_CORRECTED, BANDS = 20, 8
#: Times that integrations are searched: each time the brightest of each is taken out.
MOST_ROUNDS = 5


def make_products(
    job: Job,
    imaged: Imaged,
    planes: dict[str, np.ndarray],
    facts: fits_headers.ImageFacts,
    scratch: Path,
    sidecar: Sidecar[ImageFigures],
) -> None:
    """Make what the options ask for.

    Parameters
    ----------
    job, imaged
        Tile and how it is imaged; its image, with the data that were imaged.
    planes : dict
        Its ``image``, ``rms``, ``pb``.
    facts : ImageFacts
        Of the headers.
    scratch : Path
        The products are ``out.subbands.fits``, ``out.spectra.csv``, ``out.transients.csv`` there.
    sidecar : Sidecar
        Receives the commands and the figures.
    """
    data, beam = imaged.data, imaged.beam
    assert beam is not None  # without one there is nothing to measure: see `blank`
    table = _measured(job, beam, planes)
    known = _known(job, table)
    if len(known):
        args = job.beam, job.smearing
        left = bright_sources.subtract(data, known, *args, scratch / "nearly.ms", job.threads)
        # Catalogues do not know spectra well enough for the sidelobes of the brightest.
        first = known.head(MOST_CORRECTED)
        better = bright_sources.corrected(left, first, *args, BANDS, job.threads)
        change = replace(first, spectra_jy=better.spectra_jy - first.spectra_jy)
        data = bright_sources.subtract(left, change, *args, scratch / "known.ms", job.threads)
        shutil.rmtree(left.path)
        known.spectra_jy[: len(better)] = better.spectra_jy
    figures = sidecar.figures
    if job.options.subband_images:
        figures.subbands = _subbands(job, beam, data, known, table, facts, scratch, sidecar)
    if job.options.transients:
        figures.transients = _transients(job, beam, data, planes, scratch, sidecar)


def blank(job: Job, facts: fits_headers.ImageFacts, scratch: Path) -> None:
    """Write the same products for a tile without an image: a blank plane and empty tables."""
    import pandas as pd

    if job.options.subband_images:
        nothing = np.full((1, job.recipe.size_px, job.recipe.size_px), np.nan, np.float32)
        tile = job.tile
        _write_cube(scratch, nothing, facts, float(tile.freq_hz.mean()), tile.bandwidth_hz)
        spectra_step.spectra_table([], []).to_csv(scratch / "out.spectra.csv", index=False)
    if job.options.transients:
        empty = pd.DataFrame(columns=list(transients.COLUMNS))
        empty.to_csv(scratch / "out.transients.csv", index=False)


# --- what is known --------------------------------------------------------------------------------


def _measured(
    job: Job, beam_deg: tuple[float, float, float], planes: dict[str, np.ndarray]
) -> pd.DataFrame | None:
    """Return the photometry of the catalogue's sources on the tile."""
    if job.catalog is None:
        return None
    options = PhotometryOptions(min_flux_jy=0, pb_limit=0.05)
    return measure_catalog(job, beam_deg, planes, options)


def _known(job: Job, table: pd.DataFrame | None) -> Seeds:
    """Return the known sources, with measured fluxes; those beyond the image with the catalogue's.

    Fluxes are scaled with the catalogue's spectra; what these are wrong by stays in the data.
    """
    if job.catalog is None or table is None or not len(table):
        none = np.zeros(0)
        return Seeds(none, none, np.zeros((0, len(job.tile.freq_hz))), none, np.zeros((0, 3)))
    catalog = job.catalog.set_index("name", drop=False)
    shown = table.set_index("source_id")
    ratio = (shown.flux_jy / shown.catalog_flux_jy).where(shown.snr >= KNOWN_SNR, 0.0)
    catalog = catalog.assign(flux_jy=catalog.flux_jy * ratio.reindex(catalog.index).fillna(1.0))
    noise = job.weighting.thermal_rms_jy
    return bright_sources.choose(
        catalog[catalog.flux_jy > 0], job.beam, job.wcs, noise, MOST_KNOWN, job.scale
    )


def _run(job: Job, recipe: Recipe, data: Tile, prefix: Path, sidecar: Sidecar) -> None:
    prefix.parent.mkdir()
    line = wsclean.command(
        recipe,
        data.path.resolve(),
        prefix,
        column=data.column,
        threads=job.threads,
        memory_gb=job.memory_gb,
    )
    sidecar.commands.append(line)
    run_tool(
        wsclean.bare(line, prefix.parent),
        cwd=prefix.parent,
        timeout_s=job.options.timeout_s,
        env=wsclean.ENVIRONMENT,
        watch=wsclean.watch(),
    )


# --- spectra --------------------------------------------------------------------------------------


def _subbands(
    job: Job,
    beam_deg: tuple[float, float, float],
    data: Tile,
    known: Seeds,
    table: pd.DataFrame | None,
    facts: fits_headers.ImageFacts,
    scratch: Path,
    sidecar: Sidecar,
) -> SubbandImages:
    n = min(job.options.subband_images, len(job.tile.freq_hz))
    recipe = replace(
        job.recipe,
        channels_out=1,  # parts that are not cleaned together
        spectral_terms=1,
        extra=(*job.recipe.extra, ("channels-out", str(n))),
    )
    prefix = scratch / "subbands" / "part"
    _run(job, recipe, data, prefix, sidecar)
    parts = spectra_step.parts_of(job.tile, job.weighting, job.beam, n)
    files = spectra_step.part_files(prefix, n, job.tile, parts)
    # The lowest part has the widest beam.
    cell = job.recipe.cell_arcsec / job.scale
    beam = fit_beam(read_plane(files[0]["psf"]), cell) or beam_deg
    bright = None
    if job.catalog is not None and table is not None:
        names = table.source_id[(table.snr >= spectra_step.SPECTRUM_SNR) & (table["flags"] == "")]
        bright = job.catalog[job.catalog["name"].isin(names)]
    cube, tables, figures = [], [], []
    for part, paths in zip(parts, files, strict=True):
        planes = {kind: read_plane(paths[kind]) for kind in ("residual", "model")}
        image, response = spectra_step.image_part(
            part, planes, known, job.smearing, job.weighting, job.wcs, beam
        )
        rms = map_noise.local_rms(image, np.sqrt(beam[0] * beam[1]) * 3600 / cell)
        inside = response >= job.options.pb_limit
        cube.append(np.where(inside, image / response, np.float32(np.nan)))
        figures.append(SubbandPart(freq_hz=part.freq_hz, rms_jy=np.median(rms[inside])))
        if bright is not None:
            plane = photometry_images.SkyPlane(
                image, job.wcs, beam, rms, response, freq_hz=part.freq_hz, mjd=facts.mean_mjd
            )
            tables.append(
                photometry.measure(plane, bright, PhotometryOptions(min_flux_jy=0, pb_limit=0.02))
            )
    _write_cube(
        scratch, np.array(cube), replace(facts, beam=beam), parts[0].freq_hz, parts[0].width_hz
    )
    spectra = spectra_step.spectra_table(tables, [part.freq_hz for part in parts])
    spectra.to_csv(scratch / "out.spectra.csv", index=False)
    return SubbandImages(
        parts=figures,
        beam_arcsec=[beam[0] * 3600, beam[1] * 3600],
        n_spectra=len(spectra),
        median_alpha=spectra.alpha.median() if len(spectra) else None,
    )


def _write_cube(
    scratch: Path,
    cube: np.ndarray,
    facts: fits_headers.ImageFacts,
    first_hz: float,
    width_hz: float,
) -> None:
    from astropy.io import fits

    header = fits_headers.image_header(facts, "pbcor")
    header["CRVAL3"] = (first_hz, "centre of the first plane")
    header["CDELT3"] = width_hz
    header.comments["CDELT3"] = "from plane to plane"
    path = scratch / "out.subbands.fits"
    fits.PrimaryHDU(cube[None].astype(np.float32), header).writeto(path)


# --- transients -----------------------------------------------------------------------------------


def _transients(
    job: Job,
    beam_deg: tuple[float, float, float],
    data: Tile,
    planes: dict[str, np.ndarray],
    scratch: Path,
    sidecar: Sidecar,
) -> TransientSearch:
    n = len(job.tile.time_mjd)
    recipe = replace(
        job.recipe,
        niter=0,
        channels_out=1,
        spectral_terms=1,
        extra=(*job.recipe.extra, ("intervals-out", str(n))),
    )
    noise = planes["rms"]
    inside = (planes["pb"] >= job.options.pb_limit) & np.isfinite(noise)
    excess = np.maximum(noise / np.nanmedian(noise), 1.0)
    reach_px = beam_deg[0] * 3600 / job.recipe.cell_arcsec
    found: list[transients.Flash] = []
    for round_ in range(MOST_ROUNDS):
        prefix = scratch / f"intervals{round_}" / "part"
        _run(job, recipe, data, prefix, sidecar)
        images = [read_plane(path) for path in transients.interval_files(prefix, n)]
        flashes = transients.search(images, inside, excess, job.options.transient_sigma)
        shutil.rmtree(prefix.parent)
        if not flashes:
            break
        # What a bright one leaves at its own place is not another.
        found += [f for f in flashes if not any(f.near(other, reach_px) for other in found)]
        data = bright_sources.subtract(
            data,
            _as_seeds(job, flashes),
            job.beam,
            job.smearing,
            scratch / f"quiet{round_}.ms",
            job.threads,
        )
    found.sort(key=lambda flash: (flash.integration, -flash.snr))
    table = transients.table_of(
        found, job.wcs, job.beam, job.tile.time_mjd, job.catalog, beam_deg[0]
    )
    table.to_csv(scratch / "out.transients.csv", index=False)
    return TransientSearch(
        n_integrations=n,
        n_found=len(table),
        brightest=table.sort_values("snr").iloc[-1].to_dict() if len(table) else None,
    )


def _as_seeds(job: Job, flashes: list[transients.Flash]) -> Seeds:
    """Return sources with a flat spectrum that shine in one integration each."""
    x, y = np.array([(flash.x, flash.y) for flash in flashes]).T
    ra, dec = job.wcs.all_pix2world(x, y, 0)
    flux = [
        flash.peak_jy / transients.response_at(flash, a, d, job.beam)
        for flash, a, d in zip(flashes, ra, dec, strict=True)
    ]
    return Seeds(
        ra,
        dec,
        np.repeat(np.array(flux)[:, None], len(job.tile.freq_hz), axis=1),
        np.array([flash.peak_jy for flash in flashes]),
        bright_sources.offsets_of(ra, dec, job.wcs, job.scale),
        np.array([flash.integration for flash in flashes]),
    )
