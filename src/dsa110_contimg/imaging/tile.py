"""Image a calibrated tile: clean, correct for the drifting primary beam, measure the noise, judge.

All products are made in a scratch folder beside their places and renamed at the end, the image
last. A tile without usable data, or one on which the imager failed twice, still gets its products,
blank, and a sidecar that says why.
"""

from __future__ import annotations

import hashlib
import json
import logging
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..catalogs import flux_anchor
from ..core import files
from ..core.errors import DataError, ToolStopped, ToolTimeout
from ..core.figures import ApplyFigures, CatalogCheck, ImageFigures
from ..core.options import ImagingOptions, PhotometryOptions, SelfcalOptions
from ..core.programs import find_tool, run_tool
from ..core.provenance import commit
from ..core.sidecar import Sidecar, read_sidecar, sidecar_path
from ..core.times import clock_of, night_of
from ..maps import fits_headers
from ..maps import noise as map_noise
from ..maps.planes import flat
from ..maps.restore import fit_beam, restore
from ..ms.tile import Tile, read_tile
from ..telescope.beam import TileBeam
from ..telescope.smearing import Smearing
from . import bright_sources, selfcal, tclean, wsclean
from . import judge as image_judge
from .job import Imaged, Job, facts_of, measure_catalog
from .presets import optional_products, resolve, safer
from .weights import Weighting, weigh

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "image_tile"]

#: Products, in the order in which they are put in place.
KINDS = ("psf", "model", "residual", "pb", "pbcor", "rms", "image")


#: Imagers: modules with `command`, `outputs`, `watch`, `version` and `ENVIRONMENT`.
ENGINES = {"wsclean": wsclean, "tclean": tclean}


log = logging.getLogger(__name__)


def image_tile(
    ms: str | Path,
    prefix: str | Path,
    options: ImagingOptions,
    *,
    selfcal: SelfcalOptions | None = None,
    catalog: str | Path | None = None,
    threads: int = 1,
    memory_gb: float | None = None,
) -> ImageFigures:
    """Make the images of a tile.

    Parameters
    ----------
    ms : path
        Calibrated Measurement Set with its sidecar, which says where the dishes pointed.
    prefix : path
        Products are ``<prefix>.image.fits`` and so on, see `KINDS`.
    options : ImagingOptions
        Section ``imaging`` of the configuration.
    selfcal : SelfcalOptions, optional
        Section ``selfcal``; matters where the options or the preset ask for self-calibration.
    catalog : path, optional
        Reference catalogue: its brightest sources are treated apart, see `bright_sources`, and
        fluxes and positions are compared with it.
    threads : int
        Threads of the imager.
    memory_gb : float, optional
        Memory the imager plans with.

    Returns
    -------
    ImageFigures
        As in the sidecar.

    Raises
    ------
    DataError
        If the Measurement Set or its sidecar cannot be used.
    ToolError
        If the imager is absent or fails for a reason that does not lie in the data.
    """
    ms, prefix = Path(ms), Path(prefix)
    clock = _Clock()
    sidecar: Sidecar[ImageFigures] = Sidecar(
        "image",
        inputs=[ms, sidecar_path(ms), *([catalog] if catalog else [])],
        timings_s=clock.parts,
    )
    with clock("weights"):
        job = _prepare(ms, options, selfcal or SelfcalOptions(), catalog, threads, memory_gb)
    sidecar.parameters = options.model_dump() | {"recipe": asdict(job.recipe), "threads": threads}
    # Beside the products, so that a rename puts them in place.
    with files.scratch(f"{prefix.name}.imaging", prefix.parent) as scratch:
        imaged = None
        if job.weighting.n_visibilities:
            imaged = _image(job, scratch, sidecar, clock)
        else:
            sidecar.fail(_why_nothing(job.weighting))
        with clock("beam"):
            pb = job.response()
        with clock("noise"):
            planes = _planes(job, imaged, pb)
            figures = _figures(job, imaged, planes)
        if imaged is not None:
            if job.catalog is not None and imaged.beam is not None:
                with clock("catalogue"):
                    figures.catalog = _check_sky(job, imaged.beam, planes)
            image_judge.judge(sidecar, figures, job.weighting, options)
        sidecar.figures = figures
        facts = facts_of(job, imaged, _cards(job, sidecar))
        if names := optional_products(options):
            from . import optional

            with clock("optional"):
                if imaged is not None and imaged.beam is not None:
                    optional.make_products(job, imaged, planes, facts, scratch, sidecar)
                else:
                    optional.blank(job, facts, scratch)
        with clock("write"):
            for kind in KINDS:
                _write(scratch / f"out.{kind}.fits", planes[kind], facts, kind)
        sidecar.timings_s["total"] = clock.total()
        made = [*names, *(f"{kind}.fits" for kind in KINDS)]
        targets = {scratch / f"out.{n}": prefix.with_name(f"{prefix.name}.{n}") for n in made}
        files.put_in_place(targets)
    sidecar.write(_product(prefix, "image"), [*targets.values()][:-1])
    for reason in sidecar.reasons:
        log.warning("%s: %s: %s", prefix.name, sidecar.verdict, reason)
    return figures


class _Clock:
    """Wall times by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._start = time.monotonic()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.parts[part] = self.parts.get(part, 0.0) + time.monotonic() - start

    def total(self) -> float:
        return time.monotonic() - self._start


def _product(prefix: Path, kind: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{kind}.fits")


def _prepare(
    ms: Path,
    options: ImagingOptions,
    selfcal_options: SelfcalOptions,
    catalog: str | Path | None,
    threads: int,
    memory_gb: float | None,
) -> Job:
    """Read what there is and settle how it is imaged."""
    from ..catalogs.catalogue import read_catalog

    if options.engine == "wsclean":
        find_tool("wsclean")
    recipe = resolve(options)
    calibrated = read_sidecar(ms, ApplyFigures).figures
    tile = read_tile(ms)
    weighting = weigh(
        tile,
        size_px=recipe.size_px,
        cell_arcsec=recipe.cell_arcsec,
        robust=recipe.robust,
        uvmin_lambda=recipe.uvmin_lambda,
    )
    # The beam weighs integrations and channels as the image does.
    weight = weighting.weight if weighting.n_visibilities else np.ones_like(weighting.weight)
    beam = TileBeam.from_pointing(calibrated.pointing, tile.time_mjd, tile.freq_hz, weight)
    return Job(
        tile=tile,
        calibrated=calibrated,
        catalog=read_catalog(catalog) if catalog else None,
        recipe=recipe,
        options=options,
        selfcal=selfcal_options,
        weighting=weighting,
        beam=beam,
        smearing=Smearing(
            tile.dec_deg,
            calibrated.averaging.channels,
            calibrated.averaging.integrations,
            float(np.abs(tile.width_hz).mean()),
            float(tile.interval_s.mean()),
            options.correlator_smearing,
        ),
        scale=calibrated.aberration_scale,
        threads=threads,
        memory_gb=memory_gb,
    )


def _why_nothing(weighting: Weighting) -> str:
    if weighting.flagged_fraction >= 1:
        return "no data: every visibility is flagged"
    return "no data above the shortest baseline (uvmin_lambda): the rest is flagged"


# --- imaging --------------------------------------------------------------------------------------


def _image(job: Job, scratch: Path, sidecar: Sidecar, clock: _Clock) -> Imaged | None:
    """Make the image, self-calibrated where asked; None if the imager had to be stopped twice."""
    imaged = _picture(job, job.tile, scratch, sidecar, clock)
    if imaged is None or not job.recipe.selfcal or not job.recipe.niter:
        return imaged
    if job.options.engine != "wsclean":
        sidecar.warn("not self-calibrated: that needs imaging.engine: wsclean")
        return imaged
    best = selfcal.improve(
        job.tile,
        imaged,
        selfcal.rounds_of(job.selfcal),
        lambda tile, folder: _picture(job, tile, folder, sidecar, clock),
        lambda shown, ms: _predict(job, shown, ms, clock),
        scratch,
        uvmin_lambda=job.recipe.uvmin_lambda,
        options=job.selfcal,
        timeout_s=job.options.timeout_s,
    )
    best.picture.selfcal = best.record
    kept = sum(entry.accepted for entry in best.record)
    best.picture.cards["NSELFCAL"] = (kept, "rounds of self-calibration that were kept")
    return best.picture


def _predict(job: Job, imaged: Imaged, ms: Path, clock: _Clock) -> None:
    """Write the visibilities of an image with its seeds as ``MODEL_DATA`` into a copy of it."""
    with clock("predict"):
        recipe, prefix = imaged.made_by
        models = sorted(prefix.parent.glob(f"{prefix.name}*-model.fits"))
        beam_px = int(np.ceil((imaged.beam or (0.0,))[0] * 3600 / recipe.cell_arcsec))
        selfcal.keep_sources(imaged, models, beam_px)
        line = wsclean.predict_command(recipe, ms.resolve(), prefix, job.threads)
        run_tool(
            wsclean.bare(line, prefix.parent),
            cwd=prefix.parent,
            timeout_s=job.options.timeout_s,
            env=wsclean.ENVIRONMENT,
        )
        if imaged.seeded is not None:
            selfcal.add_difference_to_model(ms, imaged.seeded)


def _picture(job: Job, data: Tile, scratch: Path, sidecar: Sidecar, clock: _Clock) -> Imaged | None:
    """Seed, clean and restore; None if the imager had to be stopped twice."""
    seeds, tile, mask = None, data, None
    if job.catalog is not None and job.recipe.seed_most and job.recipe.niter:
        with clock("seeds"):
            seeds = bright_sources.choose(
                job.catalog,
                job.beam,
                job.wcs,
                job.recipe.seed_jy,
                job.recipe.seed_most,
                job.scale,
            )
            if len(seeds):
                tile = bright_sources.subtract(
                    tile, seeds, job.beam, job.smearing, scratch / "seeded.ms", job.threads
                )
                # Restored as faint as the sources that stay in the data: the image is divided by
                # one response.
                apparent = seeds.apparent_jy * job.smeared(seeds.offsets)
                seeds = replace(seeds, apparent_jy=apparent)
    if job.catalog is not None and job.recipe.mask_radius_arcsec and job.recipe.niter:
        mask = scratch / "mask.fits"
        _write_mask(job, job.catalog, mask)
    imaged = _clean(job, tile, mask, scratch, sidecar, clock)
    if imaged is None:
        return None
    with clock("restore"):
        planes, cell = imaged.planes, job.recipe.cell_arcsec
        imaged.beam = fit_beam(planes["psf"], cell)
        if imaged.beam is not None:
            planes["image"] = restore(planes["model"], planes["residual"], imaged.beam, cell)
            if seeds is not None and len(seeds):
                planes["image"] = bright_sources.add_to_image(
                    planes["image"], seeds, imaged.beam, job.wcs
                )
                planes["model"] = bright_sources.add_to_model(planes["model"], seeds, job.wcs)
        else:
            planes["image"] = planes["residual"]
    imaged.seeded = None if tile is data else tile
    imaged.data = data
    imaged.cards["NSEEDS"] = (0 if seeds is None else len(seeds), "sources treated apart")
    return imaged


def _write_mask(job: Job, catalog: pd.DataFrame, path: Path) -> None:
    """Write the mask of the catalogue sources that could stand out of the noise."""
    faintest = 5 * job.weighting.thermal_rms_jy
    image = bright_sources.mask(
        catalog[catalog.flux_jy >= faintest],
        job.wcs,
        job.recipe.size_px,
        job.recipe.mask_radius_arcsec,
    )
    _write(path, image, facts_of(job), "pb")


def _clean(
    job: Job, tile: Tile, mask: Path | None, scratch: Path, sidecar: Sidecar, clock: _Clock
) -> Imaged | None:
    """Run the imager, a second time with safer settings if it had to be stopped.

    None if it diverged twice: that is the data's fault. One that does not end is a failure, which
    another day may not have.
    """
    engine = ENGINES[job.options.engine]
    sidecar.tools[job.options.engine] = engine.version()
    for attempt, recipe in enumerate((job.recipe, safer(job.recipe)), 1):
        work = scratch / f"attempt{attempt}"
        work.mkdir()
        line = engine.command(
            recipe,
            tile.path.resolve(),
            work / "tile",
            column=tile.column,
            threads=job.threads,
            memory_gb=job.memory_gb,
            mask=mask,
        )
        sidecar.commands.append(line)
        try:
            with clock("imager"):
                run_tool(
                    wsclean.bare(line, scratch),
                    cwd=scratch,
                    timeout_s=job.options.timeout_s,
                    env=engine.ENVIRONMENT,
                    watch=engine.watch(),
                )
        except ToolStopped as error:
            sidecar.warn(f"attempt {attempt}: {error}")
            shutil.rmtree(work)
            if isinstance(error, ToolTimeout) and attempt > 1:
                raise
            continue
        imaged = Imaged({}, tile, (recipe, work / "tile"))
        _read(engine.outputs(recipe, work / "tile"), imaged)
        return imaged
    sidecar.fail("the imager was stopped twice; the image is blank")
    return None


def _read(paths: dict[str, Path], imaged: Imaged) -> None:
    """Read what an imager wrote: planes, and what its header says."""
    from astropy.io import fits

    for kind, path in paths.items():
        if not path.exists():
            if kind == "model":
                continue
            raise DataError(f"{path.name}: the imager ended without writing it; see its log")
        with fits.open(path, memmap=False) as hdus:
            imaged.planes[kind] = flat(hdus[0].data).astype(np.float32)
            if kind == "residual":
                imaged.cards, imaged.history = fits_headers.imager_cards(hdus[0].header)
    imaged.planes.setdefault("model", np.zeros_like(imaged.planes["residual"]))


# --- what follows from the image ------------------------------------------------------------------


def _planes(job: Job, imaged: Imaged | None, pb: np.ndarray) -> dict[str, np.ndarray]:
    """Return the planes of all products; blank, but for the beam, without an image."""
    if imaged is None:
        return dict.fromkeys(KINDS, np.full(pb.shape, np.nan, np.float32)) | {"pb": pb}
    image, cell = imaged.planes["image"], job.recipe.cell_arcsec
    major, minor, _ = imaged.beam or (5 * cell / 3600,) * 3
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected = np.where(pb >= job.options.pb_limit, image / pb, np.float32(np.nan))
    rms = map_noise.local_rms(image, np.sqrt(major * minor) * 3600 / cell)
    return imaged.planes | {"pb": pb, "pbcor": corrected, "rms": rms}


def _figures(job: Job, imaged: Imaged | None, planes: dict[str, np.ndarray]) -> ImageFigures:
    """Return the figures of data, beam and image."""
    measured = image_judge.image_figures(
        planes["image"], planes["residual"], planes["rms"], planes["pb"], job.options.pb_limit
    )
    weighting, rms = job.weighting, measured["rms_jy"]
    some = weighting.n_visibilities > 0
    beam = imaged.beam if imaged else None
    major, minor, angle = beam or (None, None, None)
    return ImageFigures(
        **measured,
        n_visibilities=weighting.n_visibilities,
        flagged_fraction=weighting.flagged_fraction,
        thermal_rms_jy=weighting.thermal_rms_jy if some else None,
        thermal_natural_rms_jy=weighting.thermal_natural_jy if some else None,
        rms_over_thermal=rms / weighting.thermal_rms_jy if some and rms is not None else None,
        freq_hz=weighting.freq_hz if some else None,
        beam_major_arcsec=major and major * 3600,
        beam_minor_arcsec=minor and minor * 3600,
        beam_pa_deg=angle,
        selfcal=imaged.selfcal if imaged else [],
        flux_anchor=flux_anchor.anchor_of(job.calibrated.calibration),
        phase_centre_ra_deg=job.tile.ra_deg,
        phase_centre_dec_deg=job.tile.dec_deg,
        pointing=job.calibrated.pointing,
        imager_peak_memory_gb=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6,
        peak_memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )


def _check_sky(
    job: Job, beam_deg: tuple[float, float, float], planes: dict[str, np.ndarray]
) -> CatalogCheck:
    """Compare the image with the catalogue."""
    from ..photometry import against_catalogue

    # Sources that could not reach five times the noise on axis tell nothing.
    faintest = 5 * float(np.nanmedian(planes["rms"]))
    wanted = PhotometryOptions(min_flux_jy=faintest, pb_limit=job.options.pb_limit)
    return against_catalogue.check(measure_catalog(job, beam_deg, planes, wanted), job.beam)


# --- files ----------------------------------------------------------------------------------------


def _cards(job: Job, sidecar: Sidecar[ImageFigures]) -> dict[str, Any]:
    """Return the cards of quality and provenance."""
    figures, calibration = sidecar.figures, job.calibrated.calibration
    cards: dict[str, Any] = {"QASTATUS": (sidecar.verdict, "verdict: pass, warn, fail")}
    for key, value, text in (
        ("RMSMEAS", figures.rms_jy, "[Jy/beam] median local noise"),
        ("RMSTHEO", figures.thermal_rms_jy, "[Jy/beam] thermal noise, radiometer equation"),
        ("FLAGFRAC", figures.flagged_fraction, "flagged share of the visibilities"),
    ):
        if value is not None:
            cards[key] = (value, text)
    if figures.rms_over_thermal:
        cards["QASCORE"] = (1 / figures.rms_over_thermal, "thermal over measured noise")
    group = calibration.group
    cards["CALTBL"] = (group[:40], "group whose calibration was applied")
    cards["CALDATE"] = (f"{night_of(group)}T{clock_of(group)}", "start of that group, UTC")
    cards |= flux_anchor.cards(flux_anchor.anchor_of(calibration))
    cards["PIPEVERS"] = (__version__, "version of dsa110-contimg")
    if sha := commit():
        cards["GITSHA"] = (sha, "commit of dsa110-contimg")
    values = {k: v for k, v in sidecar.parameters.items() if k != "threads"}
    text = json.dumps(values, sort_keys=True, default=str)
    cards["CFGHASH"] = (hashlib.sha256(text.encode()).hexdigest()[:12], "of the imaging options")
    cards["CHANAVG"] = (job.smearing.channels, "channels averaged; the response counts it")
    cards["ABERSCAL"] = (job.scale, "magnification by aberration, taken out of CDELT")
    cards["PBLIMIT"] = (job.options.pb_limit, "corrected images are blank below this response")
    cards["PRESET"] = (job.options.preset, "imaging preset")
    cards["IMAGER"] = (job.options.engine, "program that cleaned")
    return cards


def _write(path: Path, plane: np.ndarray, facts: fits_headers.ImageFacts, kind: str) -> None:
    from astropy.io import fits

    data = plane.astype(np.float32, copy=False)[None, None]
    header = fits_headers.image_header(facts, kind)
    fits.PrimaryHDU(data, header).writeto(path, output_verify="exception")
