"""Image a calibrated tile: clean, correct for the drifting primary beam, measure the noise, judge.

All products are made in a scratch folder beside their places and renamed at the end, the image
last. A tile without usable data, or one on which the imager failed twice, still gets its products,
blank, and a sidecar that says why.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import fitsheaders, tileqa, wsclean
from .beam import TileBeam
from .config import ImagingOptions, add_options, from_args
from .errors import DataError, ToolStopped
from .external import find_tool
from .products import Sidecar, read_sidecar, sidecar_path
from .weighting import Tile, Weighting, read_tile, weigh

__all__ = ["KINDS", "argparser", "image_tile", "main"]

#: Products, in the order in which they are put in place.
KINDS = ("psf", "model", "residual", "pb", "pbcor", "rms", "image")
#: Modules whose change remakes an image.
MODULES = ("imaging", "wsclean", "tclean", "weighting", "fitsheaders", "tileqa", "beam")

log = logging.getLogger(__name__)


@dataclass
class Imaged:
    """What an imager leaves: planes by kind, its header's cards, and the beam (deg)."""

    planes: dict[str, np.ndarray]
    cards: dict[str, Any]
    history: tuple[str, ...]
    beam: tuple[float, float, float] | None


def image_tile(
    ms: str | Path,
    prefix: str | Path,
    options: ImagingOptions,
    *,
    threads: int = 1,
    memory_gb: float | None = None,
) -> dict[str, Any]:
    """Make the images of a tile.

    Parameters
    ----------
    ms : path
        Calibrated Measurement Set with its sidecar (pointing, weights).
    prefix : path
        Products are ``<prefix>.image.fits`` and so on, see `KINDS`.
    options : ImagingOptions
        Section ``imaging`` of the configuration.
    threads : int
        Threads of the imager.
    memory_gb : float, optional
        Memory the imager plans with.

    Returns
    -------
    dict
        QA figures, as in the sidecar.

    Raises
    ------
    DataError
        If the Measurement Set or its sidecar cannot be used.
    ToolError
        If the imager is absent or fails for a reason that does not lie in the data.
    """
    ms, prefix = Path(ms), Path(prefix)
    recipe = wsclean.recipe(options)
    clock = _Clock()
    calibrated = read_sidecar(ms)
    tile = read_tile(ms)
    find_tool("wsclean")
    sidecar = Sidecar(
        "image",
        inputs=[ms, sidecar_path(ms)],
        parameters=options.model_dump() | {"recipe": vars(recipe), "threads": threads},
        timings_s=clock.parts,
    )
    with clock("weights"):
        weighting = weigh(
            tile,
            size_px=recipe.size_px,
            cell_arcsec=recipe.cell_arcsec,
            robust=recipe.robust,
            uvmin_lambda=recipe.uvmin_lambda,
            full_weight=calibrated["qa"].get("full_weight"),
        )
    with _scratch(prefix) as scratch:
        imaged = None
        if weighting.n_visibilities == 0:
            sidecar.fail(_why_nothing(weighting))
        else:
            imaged = _clean(tile, recipe, options, scratch, sidecar, clock, threads, memory_gb)
        with clock("beam"):
            pb = _beam_plane(calibrated["qa"], tile, weighting, recipe)
        with clock("noise"):
            planes, figures = _planes(imaged, pb, recipe, options)
        figures |= _data_figures(tile, weighting, figures)
        figures["beam"] = _beam_figures(imaged)
        figures |= figures.pop("beam")
        if imaged is not None:
            tileqa.judge(sidecar, figures, weighting, options)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures["imager_peak_memory_gb"] = usage.ru_maxrss / 1e6
        figures["pointing"] = calibrated["qa"].get("pointing")
        sidecar.qa = figures
        facts = _facts(tile, weighting, recipe, imaged, sidecar, calibrated)
        with clock("write"):
            for kind in KINDS:
                _write(scratch / f"out.{kind}.fits", planes[kind], facts, kind)
        sidecar.timings_s["total"] = clock.total()
        for kind in KINDS[:-1]:
            os.replace(scratch / f"out.{kind}.fits", _product(prefix, kind))
        sidecar.write(_product(prefix, "image"), packages=("astropy", "numpy", "sep"))
        os.replace(scratch / "out.image.fits", _product(prefix, "image"))
    for reason in sidecar.reasons:
        log.warning("%s: %s: %s", prefix.name, sidecar.verdict, reason)
    return figures


class _Clock:
    """Wall times by part."""

    def __init__(self):
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


@contextmanager
def _scratch(prefix: Path) -> Iterator[Path]:
    """Give a folder beside the products, so that a rename puts them in place."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    folder = prefix.parent.resolve() / f".tmp-{os.getpid()}-{prefix.name}.imaging"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _product(prefix: Path, kind: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{kind}.fits")


def _why_nothing(weighting: Weighting) -> str:
    if weighting.flagged_fraction >= 1:
        return "no data: every visibility is flagged"
    return "no data above the shortest baseline (uvmin_lambda): the rest is flagged"


def _clean(
    tile: Tile,
    recipe: wsclean.Recipe,
    options: ImagingOptions,
    scratch: Path,
    sidecar: Sidecar,
    clock: _Clock,
    threads: int,
    memory_gb: float | None,
) -> Imaged | None:
    """Run the imager, a second time with safer settings if it had to be stopped; None if twice."""
    sidecar.tools["wsclean"] = wsclean.version()
    for attempt, settings in enumerate((recipe, wsclean.safer(recipe)), 1):
        work = scratch / f"attempt{attempt}"
        work.mkdir()
        line = wsclean.command(
            settings,
            tile.path.resolve(),
            work / "tile",
            column=tile.column,
            threads=threads,
            memory_gb=memory_gb,
        )
        sidecar.commands.append(line)
        try:
            with clock("imager"):
                wsclean.run(line, options.timeout_s)
            return _read(wsclean.outputs(settings, work / "tile"))
        except ToolStopped as error:
            sidecar.warn(f"attempt {attempt}: {error}")
    sidecar.fail("the imager was stopped twice; the image is blank")
    return None


def _read(paths: dict[str, Path]) -> Imaged:
    from astropy.io import fits

    planes, cards, history, beam = {}, {}, (), None
    for kind, path in paths.items():
        if not path.exists():
            raise DataError(f"{path.name}: the imager ended without writing it; see its log")
        with fits.open(path, memmap=False) as hdus:
            planes[kind] = hdus[0].data.reshape(hdus[0].data.shape[-2:]).astype(np.float32)
            if kind == "image":
                header = hdus[0].header
                cards, history = fitsheaders.imager_cards(header)
                axes = tuple(float(header.get(key, np.nan)) for key in ("BMAJ", "BMIN", "BPA"))
                if np.isfinite(axes).all() and axes[1] > 0:
                    beam = axes
    planes.setdefault("residual", planes["image"])  # nothing was cleaned
    planes.setdefault("model", np.zeros_like(planes["image"]))
    return Imaged(planes, cards, history, beam)


def _beam_plane(
    qa: dict[str, Any], tile: Tile, weighting: Weighting, recipe: wsclean.Recipe
) -> np.ndarray:
    """Return the primary beam on the image's pixels, weighted as the data are in the image."""
    from astropy.wcs import WCS

    weight = weighting.weight if weighting.n_visibilities else np.ones_like(weighting.weight)
    beam = TileBeam.from_qa(
        {
            "pointing": qa.get("pointing") or {},
            "weights": {"time_mjd": tile.time_mjd, "freq_hz": tile.freq_hz, "weight": weight},
        }
    )
    header = fitsheaders.image_header(_bare_facts(tile, recipe), "pb")
    return beam.image(WCS(header), (recipe.size_px, recipe.size_px)).astype(np.float32)


def _bare_facts(tile: Tile, recipe: wsclean.Recipe) -> fitsheaders.ImageFacts:
    return fitsheaders.ImageFacts(
        tile=tile,
        size_px=recipe.size_px,
        cell_arcsec=recipe.cell_arcsec,
        freq_hz=float(tile.freq_hz.mean()),
        mean_mjd=(tile.start_mjd + tile.end_mjd) / 2,
        exposure_s=0.0,
        beam=None,
        cards={},
    )


def _planes(
    imaged: Imaged | None, pb: np.ndarray, recipe: wsclean.Recipe, options: ImagingOptions
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return all planes and the figures of the image; planes are blank without an image."""
    if imaged is None:
        blank = np.full(pb.shape, np.nan, np.float32)
        planes = dict.fromkeys(KINDS, blank) | {"pb": pb}
        return planes, tileqa.image_figures(blank, blank, blank, pb, options.pb_limit)
    image = imaged.planes["image"]
    major, minor, _ = imaged.beam or (5 * recipe.cell_arcsec / 3600,) * 3
    beam_px = np.sqrt(major * minor) * 3600 / recipe.cell_arcsec
    rms = tileqa.local_rms(image, beam_px)
    with np.errstate(divide="ignore", invalid="ignore"):
        pbcor = np.where(pb >= options.pb_limit, image / pb, np.float32(np.nan))
    planes = imaged.planes | {"pb": pb, "pbcor": pbcor, "rms": rms}
    figures = tileqa.image_figures(image, imaged.planes["residual"], rms, pb, options.pb_limit)
    return planes, figures


def _data_figures(tile: Tile, weighting: Weighting, figures: dict[str, Any]) -> dict[str, Any]:
    some = weighting.n_visibilities > 0
    rms = figures["rms_jy"]
    return {
        "n_visibilities": weighting.n_visibilities,
        "flagged_fraction": weighting.flagged_fraction,
        "thermal_rms_jy": weighting.thermal_rms_jy if some else None,
        "thermal_natural_rms_jy": weighting.thermal_natural_jy if some else None,
        "rms_over_thermal": rms / weighting.thermal_rms_jy if some and rms is not None else None,
        "freq_hz": weighting.freq_hz if some else None,
        "phase_centre_ra_deg": tile.ra_deg,
        "phase_centre_dec_deg": tile.dec_deg,
    }


def _beam_figures(imaged: Imaged | None) -> dict[str, Any]:
    names = ("beam_major_arcsec", "beam_minor_arcsec", "beam_pa_deg")
    if imaged is None or imaged.beam is None:
        return dict.fromkeys(names)
    major, minor, pa = imaged.beam
    return dict(zip(names, (major * 3600, minor * 3600, pa), strict=True))


def _facts(
    tile: Tile,
    weighting: Weighting,
    recipe: wsclean.Recipe,
    imaged: Imaged | None,
    sidecar: Sidecar,
    calibrated: dict[str, Any],
) -> fitsheaders.ImageFacts:
    """Gather what the headers say."""
    facts = _bare_facts(tile, recipe)
    by_time = weighting.weight.sum(axis=1)
    qa = sidecar.qa
    cards = dict(imaged.cards) if imaged else {}
    cards["QASTATUS"] = (sidecar.verdict, "verdict on this tile: pass, warn, fail")
    for key, name, text in (
        ("RMSMEAS", "rms_jy", "[Jy/beam] median local noise"),
        ("RMSTHEO", "thermal_rms_jy", "[Jy/beam] thermal noise, radiometer equation"),
        ("FLAGFRAC", "flagged_fraction", "flagged share of the visibilities"),
    ):
        if qa.get(name) is not None:
            cards[key] = (qa[name], text)
    calibration = calibrated["qa"].get("calibration")
    if isinstance(calibration, dict):
        calibration = calibration.get("chosen")
    if calibration:
        cards["CALTBL"] = (str(calibration)[:60], "calibration applied")
    if weighting.n_visibilities:
        facts = replace(
            facts,
            freq_hz=weighting.freq_hz,
            mean_mjd=float((by_time * tile.time_mjd).sum() / by_time.sum()),
            exposure_s=float(tile.interval_s[by_time > 0].sum()),
        )
    return replace(
        facts,
        beam=imaged.beam if imaged else None,
        cards=cards,
        history=imaged.history if imaged else (),
    )


def _write(path: Path, plane: np.ndarray, facts: fitsheaders.ImageFacts, kind: str) -> None:
    from astropy.io import fits

    data = plane.astype(np.float32, copy=False)[None, None]
    header = fitsheaders.image_header(facts, kind)
    fits.PrimaryHDU(data, header).writeto(path, output_verify="exception")


def argparser() -> argparse.ArgumentParser:
    """Return the parser of the ``image`` step."""
    parser = argparse.ArgumentParser(
        prog="contimg image", description="Image a calibrated tile and judge the result."
    )
    parser.add_argument("ms", type=Path, help="calibrated Measurement Set (<id>.cal.ms)")
    parser.add_argument("prefix", type=Path, help="products are PREFIX.image.fits and so on")
    parser.add_argument("--catalog", type=Path, help="reference catalogue (CSV)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="imager's threads")
    parser.add_argument("--memory-gb", type=float, help="memory the imager plans with, GB")
    add_options(parser, ImagingOptions)
    return parser


def main(args: argparse.Namespace) -> int:
    """Run the ``image`` step."""
    figures = image_tile(
        args.ms,
        args.prefix,
        from_args(args, ImagingOptions),
        threads=args.threads,
        memory_gb=args.memory_gb,
    )
    rms, ratio = figures["rms_jy"], figures["rms_over_thermal"]
    if rms is None:
        print(f"{args.prefix}.image.fits: blank")
    else:
        print(
            f"{args.prefix}.image.fits: rms {rms * 1e3:.3f} mJy/beam ({ratio:.2f} times thermal), "
            f"dynamic range {figures['dynamic_range']:.0f}"
        )
    return 0
