"""Joint imaging of a field: the visibilities of neighbouring tiles, deconvolved together.

Co-added tiles keep the sidelobes that each was too shallow to clean. For chosen fields, the tiles
that see them are turned to one phase centre and imaged as one by WSClean. Each tile has its own,
drifting beam, which WSClean from the distribution cannot follow; so the beams are treated as a
linear mosaic does: tile t enters with its weights times its beam towards the field, P_t(0), which
is the weight that a detection at the field's centre wants, and a source at l appears with::

    B(l) = sum(W_t P_t(l)) / sum(W_t)

The image is divided by B, made of the tiles' own beams. WSClean takes a source for equally bright
in all tiles, so what each tile has more or less of it stays behind, with sidelobes. After each run
the model is therefore taken out of each tile as that tile sees it, M P_t / B, and the next run
cleans what is left: a major cycle that knows the beams. Aberration moves a source by up to 0.5
arcsec from tile to tile, which is left as it is.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from ..core import files
from ..core.errors import DataError
from ..core.figures import JointFigures, JointTile, LeftOut
from ..core.files import replacing
from ..core.layout import companion, parse_group
from ..core.options import JointOptions
from ..core.programs import run_tool
from ..core.sidecar import Sidecar, read_sidecar
from ..core.times import night_of
from ..imaging import wsclean
from ..imaging.presets import PRESETS, Recipe
from ..maps.noise import local_rms
from ..maps.planes import append_plane, read_plane
from ..maps.restore import fit_beam, restore
from ..ms import tile as tile_ms
from ..telescope import dsa110
from .headers import mosaic_header
from .tiles import TileImage, open_tile

__all__ = ["image_field", "turn"]

#: Visibilities that are turned at once.
_CHUNK_ROWS = 20_000


def axes(ra_deg: float, dec_deg: float) -> np.ndarray:
    """Return the axes of u, v, w (rows) of a phase centre in celestial coordinates, (3, 3)."""
    ra, dec = np.deg2rad([ra_deg, dec_deg])
    return np.array(
        [
            [-np.sin(ra), np.cos(ra), 0],
            [-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)],
            [np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)],
        ]
    )


def turn(source: Path, target: Path, centre_deg: tuple[float, float], weight: float) -> float:
    """Copy a calibrated tile to another phase centre; return the sum of its weights.

    Visibilities are ``exp(2 pi i nu / c (b . s - w))`` of a source in direction s, so the phase
    changes by ``2 pi nu / c (w_old - w_new)``; baselines b keep their length.

    Parameters
    ----------
    source, target : Path
        Measurement Sets.
    centre_deg : (float, float)
        New phase centre, ICRS, deg.
    weight : float
        What its weights are multiplied by.
    """
    from casacore.tables import table

    tile = tile_ms.read_tile(source)
    shutil.copytree(source, target)
    rotation = axes(tile.ra_deg, tile.dec_deg) @ axes(*centre_deg).T
    total = 0.0
    with table(str(target), ack=False, readonly=False) as main:
        spectrum = "WEIGHT_SPECTRUM" if "WEIGHT_SPECTRUM" in main.colnames() else None
        for row in range(0, main.nrows(), _CHUNK_ROWS):
            span = (row, min(_CHUNK_ROWS, main.nrows() - row))
            old = main.getcol("UVW", *span)
            new = old @ rotation
            delay = (old[:, 2] - new[:, 2]) / dsa110.C_M_S
            data = main.getcol(tile.column, *span)
            data *= np.exp(2j * np.pi * delay[:, None] * tile.freq_hz)[..., None]
            main.putcol(tile.column, data, *span)
            main.putcol("UVW", new, *span)
            kept = ~main.getcol("FLAG", *span) & ~main.getcol("FLAG_ROW", *span)[:, None, None]
            for name in filter(None, ("WEIGHT", spectrum)):
                values = weight * main.getcol(name, *span)
                main.putcol(name, values, *span)
            values = values if values.ndim == 3 else values[:, None]
            total += float((kept * values).sum())
    with table(f"{target}::FIELD", ack=False, readonly=False) as fields:
        for name in ("PHASE_DIR", "REFERENCE_DIR", "DELAY_DIR"):
            fields.putcol(name, np.deg2rad(np.array(centre_deg)).reshape(1, 1, 2))
    return total


def beam_at(tile: TileImage, ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Return a tile's beam in some directions; 0 where its image does not reach."""
    pb = np.nan_to_num(read_plane(companion(tile.path, "pb")))
    x, y = tile.wcs.all_world2pix(ra_deg, dec_deg, 0)
    at = np.nan_to_num(np.array([y, x]), nan=-1e6)
    return ndimage.map_coordinates(pb, at, order=1, cval=0.0)


def image_field(
    output: Path,
    sets: list[Path],
    images: list[Path],
    field: tuple[float, float, float],
    options: JointOptions,
    threads: int = 1,
) -> Sidecar:
    """Image a field from the visibilities of its tiles; return its sidecar, unwritten.

    Beside the image (corrected for the beam, Jy/beam) stand ``.rms.fits`` and ``.weight.fits``, as
    those of a mosaic.

    Parameters
    ----------
    output : Path
        ``joint_<name>.fits``.
    sets, images : list of Path
        Calibrated Measurement Sets, and the tiles' images with beams and sidecars beside them.
    field : (float, float, float)
        Centre (ICRS) and radius, deg.
    options : JointOptions
        Limits and depth.
    threads : int
        Number of threads.

    Raises
    ------
    DataError
        If no tile can be used.
    """
    started = time.monotonic()
    centre, radius = field[:2], field[2]
    sidecar: Sidecar[JointFigures] = Sidecar(
        "joint", inputs=[*sets, *images], parameters=options.model_dump()
    )
    tiles, left_out = _tiles(images, centre, options)
    by_group = {parse_group(path): path for path in sets}
    if not tiles:
        raise DataError(
            f"{output}: no tile of the field can be used: "
            + "; ".join(f"{e.tile} {e.reason}" for e in left_out)
        )
    sidecar.tools["wsclean"] = wsclean.version()
    cell = options.cell_arcsec
    half = int(np.ceil((radius + options.margin_deg) * 3600 / cell))
    recipe = replace(
        PRESETS["standard"],
        size_px=2 * half,
        cell_arcsec=cell,
        robust=options.robust,
        niter=options.niter,
        seed_most=0,
    )
    with files.scratch(output.name, output.parent) as scratch:
        shares = np.array(
            [
                turn(by_group[tile.group], scratch / f"{tile.group}.ms", centre, beam)
                for tile, beam in tiles
            ]
        )
        used = [tile for tile, _ in tiles]
        planes, response = _deconvolve(
            used, shares, centre, recipe, options, scratch, sidecar, threads
        )
    beam = fit_beam(planes["psf"], cell)
    if beam is None:
        raise DataError(f"{output}: the point-spread function has no core that a beam could fit")
    image = restore(planes["model"], planes["residual"], beam, cell)
    wcs = _wcs(centre, image.shape, cell)
    noise = local_rms(planes["residual"], np.sqrt(beam[0] * beam[1]) * 3600 / cell)
    inside, wcs = _cut(image.shape, wcs, radius, cell)
    image, noise, response = image[inside], noise[inside], response[inside]
    seen = response >= options.pb_limit * response.max()
    with np.errstate(divide="ignore", invalid="ignore"):
        image = np.where(seen, image / response, np.nan).astype(np.float32)
        noise = np.where(seen, noise / response, np.nan).astype(np.float32)
    _write(output, image, noise, wcs, used, beam, len(left_out), shares)
    sidecar.figures = JointFigures(
        epoch=night_of(used[0].group),
        n_tiles=len(used),
        beam_major_arcsec=beam[0] * 3600,
        beam_minor_arcsec=beam[1] * 3600,
        rms_jy=np.nanmedian(noise),
        tiles=[
            JointTile(tile=tile.group, beam=p, share=w)
            for (tile, p), w in zip(tiles, shares / shares.sum(), strict=True)
        ],
        left_out=left_out,
    )
    sidecar.timings_s = {"total": time.monotonic() - started}
    sidecar.write(output, [companion(output, kind) for kind in ("rms", "weight")])
    return sidecar


def _deconvolve(
    tiles: list[TileImage], shares: np.ndarray, centre: tuple[float, float], recipe: Recipe,
    options: JointOptions, scratch: Path, sidecar: Sidecar, threads: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:  # fmt: skip
    """Clean the turned tiles together; return model, residual and psf, and the response B."""
    sets = [scratch / f"{tile.group}.ms" for tile in tiles]
    wcs = _wcs(centre, (recipe.size_px,) * 2, recipe.cell_arcsec)
    y, x = np.mgrid[: recipe.size_px, : recipe.size_px]
    sky = wcs.all_pix2world(x, y, 0)
    beams = [beam_at(tile, *sky).astype(np.float32) for tile in tiles]
    response = sum(share * beam for share, beam in zip(shares / shares.sum(), beams, strict=True))
    model = np.zeros(response.shape, np.float32)
    for cycle in range(1, options.cycles + 1):
        prefix = scratch / f"cycle{cycle}"
        line = wsclean.command(recipe, sets[0], prefix, threads=threads)
        line += map(str, sets[1:])
        sidecar.commands.append(line)
        run_tool(
            wsclean.bare(line, scratch),
            cwd=scratch,
            timeout_s=options.timeout_s,
            env=wsclean.ENVIRONMENT,
            watch=wsclean.watch(),
        )
        paths = wsclean.outputs(recipe, prefix)
        planes = {k: read_plane(p) for k, p in paths.items()}
        model += planes["model"]
        if cycle < options.cycles:
            for ms, beam in zip(sets, beams, strict=True):
                own = _as_seen(planes["model"], beam, response)
                _take_out(ms, own, paths["model"], recipe, threads, options.timeout_s)
    return planes | {"model": model}, response


def _as_seen(model: np.ndarray, beam: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return the model as one tile sees it; where nothing is known of the beams, as it is."""
    known = response > 0.01 * response.max()
    return model * np.where(known, beam / np.where(known, response, 1), 1)


def _take_out(
    ms: Path, model: np.ndarray, like: Path, recipe: Recipe, threads: int, timeout_s: float
) -> None:
    """Subtract a model from a turned tile."""
    from casacore.tables import table

    prefix = ms.with_suffix("")
    with fits.open(like) as hdus:
        fits.writeto(f"{prefix}-model.fits", model.reshape(hdus[0].shape), hdus[0].header,
                     overwrite=True)  # fmt: skip
    line = wsclean.predict_command(recipe, ms, prefix, threads)
    line = wsclean.bare(line, prefix.parent)
    run_tool(line, cwd=prefix.parent, timeout_s=timeout_s, env=wsclean.ENVIRONMENT)
    column = tile_ms.read_tile(ms).column
    with table(str(ms), ack=False, readonly=False) as main:
        for row in range(0, main.nrows(), _CHUNK_ROWS):
            span = (row, min(_CHUNK_ROWS, main.nrows() - row))
            left = main.getcol(column, *span) - main.getcol("MODEL_DATA", *span)
            main.putcol(column, left, *span)


def _tiles(
    images: list[Path], centre: tuple[float, float], options: JointOptions
) -> tuple[list[tuple[TileImage, float]], list[LeftOut]]:
    """Return the tiles that see the centre, each with its beam there, and those left out."""
    tiles: list[tuple[TileImage, float]] = []
    left_out: list[LeftOut] = []
    for path in sorted(images, key=parse_group):
        try:
            tile = open_tile(path, options.pb_limit)
            beam = float(beam_at(tile, *(np.array([c]) for c in centre))[0])
            if beam < options.min_beam:
                raise DataError(f"its beam is {beam:.2f} towards the field")
            tiles.append((tile, beam))
        except DataError as error:
            read_sidecar(path)  # without one the reason is another
            left_out.append(LeftOut(tile=parse_group(path), reason=str(error)))
    return tiles, left_out


def _wcs(centre: tuple[float, float], shape: tuple[int, ...], cell_arcsec: float) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---SIN", "DEC--SIN"], centre
    wcs.wcs.cdelt = [-cell_arcsec / 3600, cell_arcsec / 3600]
    wcs.wcs.crpix = [shape[1] // 2 + 1, shape[0] // 2 + 1]
    wcs.wcs.radesys = "ICRS"
    return wcs


def _cut(
    shape: tuple[int, ...], wcs: WCS, radius_deg: float, cell_arcsec: float
) -> tuple[tuple[slice, slice], WCS]:
    """Return where the field lies in the image, and its coordinates."""
    half = int(np.ceil(radius_deg * 3600 / cell_arcsec))
    rows, columns = (slice(max(0, n // 2 - half), min(n, n // 2 + half + 1)) for n in shape)
    wcs = wcs.deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix - [columns.start, rows.start]
    return (rows, columns), wcs


def _write(
    output: Path,
    image: np.ndarray,
    noise: np.ndarray,
    wcs: WCS,
    tiles: list[TileImage],
    beam: tuple[float, float, float],
    n_left_out: int,
    shares: np.ndarray,
) -> None:
    mean = float(np.average([tile.mjd for tile in tiles], weights=shares))
    cards = {
        "MJD-AVG": mean,
        "EPOCHID": (night_of(tiles[0].group), "night"),
        "NTILES": (len(tiles), "tiles imaged together"),
        "NLEFTOUT": (n_left_out, "tiles left out, see the sidecar"),
    }
    header = mosaic_header(wcs, tiles, beam, cards)
    header["BTYPE"] = "Intensity"

    def put(path: Path, planes: list[tuple[np.ndarray, str, str]]) -> None:
        with replacing(path) as temporary:
            for plane, kind, unit in planes:
                header["BTYPE"], header["BUNIT"] = kind, unit
                append_plane(temporary, plane, header)

    weight = np.nan_to_num(noise.astype(float) ** -2.0)
    late = np.where(weight > 0, 0.0, np.nan)
    put(companion(output, "rms"), [(noise, "Noise", "Jy/beam")])
    put(companion(output, "weight"), [(weight, "Weight", "Jy-2"), (late, "Time", "d")])
    put(output, [(image, "Intensity", "Jy/beam")])
