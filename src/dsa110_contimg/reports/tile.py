"""Pages of a tile and of a calibration, and the pictures that the page of the night shows.

Made once, beside the products: for each tile ``<id>.html`` (one self-contained file),
``<id>.view.jpg`` and ``<id>.thumbnail.jpg``; for each calibration ``<id>.solutions.html``; for each
mosaic a small copy. A figure that cannot be drawn leaves a note in its place: no page is worth a
tile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..calibration.tables import read_cube
from ..core.errors import DataError
from ..core.figures import ApplyFigures, ConvertFigures
from ..core.files import replacing, write_text
from ..core.sidecar import Record, vouch
from ..core.times import night_of
from ..maps import planes as map_planes
from ..telescope.dsa110 import CHANNEL_WIDTH_HZ, N_CHANNELS_SUBBAND, N_SUBBANDS, TOP_CHANNEL_HZ
from . import plots, tile_plots
from .judge import (
    STAGES,
    TABLES,
    dig,
    judge_calibration,
    judge_tile,
    load_group,
    read_photometry,
    seconds_of,
)
from .pages import environment, is_number

__all__ = [
    "THUMBNAIL_PX",
    "build_calibration",
    "build_tile",
    "shrink_mosaic",
    "write_calibration",
    "write_tile",
]

#: Pictures of a tile, beside its page: ``<id>.<kind>.jpg``.
PICTURES = ("view", "thumbnail")
#: Side of a thumbnail, pixels.
THUMBNAIL_PX = 168
#: Longest side of a section of a mosaic's small copy, pixels; of more than so many sections, less.
VIEW_PX, FEW_SECTIONS, SMALL_VIEW_PX = 2000, 3, 1200
#: Edges of the band, MHz.
_HIGH_MHZ = (TOP_CHANNEL_HZ + CHANNEL_WIDTH_HZ / 2) / 1e6
BAND_MHZ = (_HIGH_MHZ - N_SUBBANDS * N_CHANNELS_SUBBAND * CHANNEL_WIDTH_HZ / 1e6, _HIGH_MHZ)

log = logging.getLogger(__name__)


class _Notes(list):
    """What could not be drawn."""

    def draw(self, what: str, function: Callable[[], Any]) -> Any:
        """Return what a function draws; None, and a note, where it fails in whatever way."""
        try:
            return function()
        except Exception as error:  # the tile must not fail for a picture of it
            log.warning("%s could not be drawn", what, exc_info=not isinstance(error, DataError))
            self.append(f"{what} could not be drawn: {error}")
            return None


def _plane(path: Path) -> map_planes.Plane | None:
    return map_planes.read_planes(path)[0] if path.exists() else None


def build_tile(folder: Path) -> tuple[str, bytes | None, bytes | None]:
    """Return page, view and thumbnail of a tile; no pictures where there is no readable image.

    Parameters
    ----------
    folder : Path
        Folder of the group, named after it.

    Raises
    ------
    DataError
        If the folder is absent.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give that of a group")
    group = folder.name
    files = load_group(folder)
    products = {kind: files.products[kind] for kind in STAGES if kind in files.products}
    tile = judge_tile(group, files, None, folder)
    rows = read_photometry(folder / f"{group}.photometry.csv")
    notes = _Notes()

    def plane(kind: str) -> map_planes.Plane | None:
        return notes.draw(f"{group}.{kind}.fits", lambda: _plane(folder / f"{group}.{kind}.fits"))

    with plots.style():
        image, beam = plane("image"), plane("pb")
        response = beam.data if beam else None
        view = thumbnail = left = None
        if image:
            view = notes.draw("the image", lambda: tile_plots.view(image, response))
            # On the scale of the blocks' maxima, so that their noise is light, not grey.
            thumbnail = plots.jpeg(plots.shrink(image.data, THUMBNAIL_PX))[0]
        if residual := plane("residual"):
            noise = plane("rms")
            left = notes.draw(
                "the residual", lambda: tile_plots.residuals(residual, noise, response)
            )
        calibrated = files.figures("cal.ms", ApplyFigures)
        summary = calibrated and calibrated.visibilities
        converted = files.figures("ms", ConvertFigures)
        flags = converted and converted.flags
        drawn = {
            "view": view and plots.image_uri(view),
            "residual": left and plots.image_uri(left),
            "visibilities": summary
            and notes.draw("visibilities", lambda: tile_plots.visibilities(summary)),
            "flags": flags and notes.draw("flags", lambda: tile_plots.flag_map(flags, BAND_MHZ)),
            "fluxes": notes.draw("fluxes", lambda: plots.flux_scale(rows, 0.1)),
        }
    page = (
        environment()
        .get_template("tile.html.j2")
        .render(
            tile=tile,
            night=night_of(group),
            plots=drawn,
            notes=notes,
            calibration=_calibration(files.choice or {}),
            towards=summary and summary.towards_deg,
            numbers={kind: _numbers(record) for kind, record in products.items()},
            sidecars=products,
            seconds={kind: sum(seconds_of(record)) for kind, record in products.items()},
            version=__version__,
        )
    )
    return page, view, thumbnail


def _calibration(choice: dict[str, Any]) -> dict[str, Any] | None:
    """Return which calibration was applied, and where its page is."""
    chosen = choice.get("chosen")
    if not chosen:
        return None
    return {
        "group": chosen,
        "calibrator": dig(choice, "calibrators", chosen) or "",
        "borrowed": bool(choice.get("borrowed")),
        "href": f"../../../{night_of(chosen)}/report.html#c{chosen}",
    }


def _numbers(record: Record) -> dict[str, Any]:
    """Return the figures of merit of a product that are single numbers or words."""
    single = record.figures.single()
    return {k: v for k, v in single.items() if is_number(v) or isinstance(v, str)}


def build_calibration(folder: Path) -> str:
    """Return the page of the calibration solved on a group: every table, every antenna.

    Parameters
    ----------
    folder : Path
        Folder of the group, named after it.
    """
    folder = Path(folder).resolve()
    group = folder.name
    files = load_group(folder)
    judged = judge_calibration(group, files)
    if judged is None:
        raise DataError(f"{folder}: no calibration was solved on this group")
    tile = files.figures("ms", ConvertFigures)
    flags = tile and tile.flags
    present = {*flags.by_antenna, *flags.absent_antennas, *flags.dead_antennas} if flags else set()
    notes = _Notes()
    drawn: list[dict] = []

    def draw(kind: str) -> list[dict]:
        return plots.solution_figures(kind, read_cube(folder / f"{group}.{kind}").only(present))

    with plots.style():
        for kind in ("bcal", "gcal", "kcal"):
            if kind in judged["tables"]:
                drawn += notes.draw(f"{group}.{kind}", partial(draw, kind)) or []
    own = folder / f"{group}.calibration.png"
    return (
        environment()
        .get_template("calibration.html.j2")
        .render(
            calibration=judged,
            night=night_of(group),
            own=plots.png(own.read_bytes()) if own.exists() else None,
            drawn=[{"folded": ""} | f for f in drawn],
            notes=notes,
            sidecars={k: files.products[k] for k in judged["tables"]},
            version=__version__,
        )
    )


def shrink_mosaic(mosaic: Path, out: Path) -> None:
    """Write a small copy of a mosaic: of each block of pixels the maximum, celestial WCS adapted.

    Each section is at most `VIEW_PX` pixels long, less where there are many. Cards ``NOISE`` and
    ``MIDDLE`` keep what sets the grey scale: robust standard deviation and median at full size.
    """
    from astropy.io import fits

    planes = map_planes.read_planes(mosaic)
    size = VIEW_PX if len(planes) <= FEW_SECTIONS else SMALL_VIEW_PX
    hdus: list[Any] = []
    for plane in planes:
        small = plots.shrink(plane.data, size)
        step = max(1, -(-max(plane.data.shape) // size))
        header = plane.wcs()[::step, ::step].to_header()
        middle, sigma = plots.middle_and_sigma(plane.data)
        header["MIDDLE"], header["NOISE"] = (middle, "median, Jy/beam"), (sigma, "Jy/beam")
        hdus.append((fits.ImageHDU if hdus else fits.PrimaryHDU)(small, header))
    with replacing(out) as temporary:
        fits.HDUList(hdus).writeto(temporary)
    vouch("mosaic_view", out, [mosaic])


def write_tile(folder: Path, out: Path) -> int:
    """Write the page of a tile, and its pictures beside it; return the page's size, bytes."""
    page, view, thumbnail = build_tile(folder)
    for kind, content in zip(PICTURES, (view, thumbnail), strict=True):
        with replacing(out.with_suffix(f".{kind}.jpg")) as temporary:
            temporary.write_bytes(content or plots.blank_jpeg())
    write_text(out, page)
    made_of = [folder / f"{folder.name}.{kind}" for kind in ("image.fits", "photometry.csv")]
    vouch("tile_report", out, made_of, [out.with_suffix(f".{k}.jpg") for k in PICTURES])
    return len(page)


def write_calibration(folder: Path, out: Path) -> int:
    """Write the page of a calibration; return its size, bytes."""
    page = build_calibration(folder)
    write_text(out, page)
    made_of = [folder / f"{folder.name}.{kind}" for kind in TABLES]
    vouch("calibration_report", out, made_of)
    return len(page)
