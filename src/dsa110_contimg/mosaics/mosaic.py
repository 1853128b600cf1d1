"""The mosaic as a product: tiles to image, weights, noise and sidecar."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ..catalogs import flux_anchor
from ..core.figures import LeftOut, MosaicFigures, MosaicTile
from ..core.files import replacing
from ..core.layout import companion, parse_group
from ..core.options import MosaicOptions
from ..core.robust import MAD_TO_SIGMA, mad
from ..core.sidecar import Sidecar
from ..maps.beams import common_beam
from ..maps.planes import append_plane, mean_mjd
from ..photometry.epoch_correction import Correction, measure_correction
from .coadd import Coadd, coadd
from .headers import epoch_id, mosaic_header
from .sections import sections
from .tiles import TileImage, gather

#: A correction of the flux scale beyond this is worth a warning.
LARGE_CORRECTION = 0.1


# --- adding ---------------------------------------------------------------------------------------


def shifted(tile: TileImage, correction: Correction) -> TileImage:
    """Return a tile whose coordinates have the epoch's shift."""
    east, north = (a / 3600 for a in correction.shift_arcsec)

    def move(ra: Any, dec: Any) -> tuple[Any, Any]:
        return (ra + east / np.cos(np.deg2rad(dec))) % 360, dec + north

    wcs = tile.wcs.deepcopy()
    wcs.wcs.crval = move(*wcs.wcs.crval)
    ra, dec = move(tile.ra_deg, tile.dec_deg)
    return replace(tile, wcs=wcs, ra_deg=ra, dec_deg=dec)


def make_mosaic(paths: list[Path], output: Path, options: MosaicOptions) -> Sidecar:
    """Make a mosaic with its maps; write its sidecar and return it.

    Each section of the sky is one HDU of the image and of the rms map. In the weight map, the map
    of the mean time (days after ``MJD-AVG``) follows the weights of each section.
    """
    started = time.monotonic()
    tiles, left_out = gather(paths, options)
    correction = Correction()
    if options.correct_epoch:
        correction = measure_correction(_photometry(tile.path) for tile in tiles)
        tiles = [shifted(tile, correction) for tile in tiles] if correction.moved else tiles
    sidecar: Sidecar[MosaicFigures] = Sidecar(
        "mosaic", inputs=sorted(paths, key=parse_group), parameters=options.model_dump()
    )
    epoch = epoch_id(output, sorted(map(parse_group, paths)))
    anchor = flux_anchor.merged(t.anchor for t in tiles)
    used: dict[str, dict] = {}
    ratios, covered = [], 0.0
    kinds = ("image", "rms", "weight")
    with ExitStack() as stack:
        temporary = {
            kind: stack.enter_context(
                replacing(output if kind == "image" else companion(output, kind))
            )
            for kind in kinds
        }
        target = common_beam([t.beam_deg for t in tiles]) if tiles else None
        n_images = 0
        for part in sections(tiles):
            assert target is not None  # a section has tiles
            result = coadd(part, target, options, correction.scale)
            if not result.used:  # blank, all of it
                continue
            n_images += 1
            for group, figures in result.used.items():
                # A tile may reach into two sections: the larger share speaks for it.
                if figures["weight"] > used.get(group, {"weight": 0})["weight"]:
                    used[group] = figures
            members = [t for t in part.tiles if t.group in result.used]
            with np.errstate(invalid="ignore"):
                pulls = result.image[::5, ::5] * np.sqrt(result.weight[::5, ::5])
            ratios.append(pulls[np.isfinite(pulls)])
            covered += np.count_nonzero(result.weight) * np.prod(np.abs(result.wcs.wcs.cdelt))
            cards = {
                "EPOCHID": (epoch, "night, and UTC hour of an hourly mosaic"),
                "NTILES": (len(members), "tiles added"),
                "NLEFTOUT": (len(left_out), "tiles left out, see the sidecar"),
                "PBLIMIT": (options.pb_limit, "tiles are cut where their beam is below"),
            }
            cards |= correction.cards() | flux_anchor.cards(anchor)
            _write(temporary, result, members, target, cards)
        if not n_images:
            _write_blank(temporary, sorted(paths, key=parse_group)[0], epoch, len(left_out))
    groups = {t.group: t for t in tiles}
    silent = [g for g in groups if g not in used]
    left_out += [LeftOut(tile=g, reason="no pixel of it has weight") for g in silent]
    pulls = np.concatenate(ratios) if ratios else np.empty(0)
    sidecar.figures = MosaicFigures(
        epoch=epoch,
        n_tiles=len(used),
        n_left_out=len(left_out),
        n_images=n_images,
        area_deg2=covered,
        beam_major_arcsec=target[0] * 3600 if target else None,
        beam_minor_arcsec=target[1] * 3600 if target else None,
        beam_pa_deg=target[2] if target else None,
        rms_over_predicted=MAD_TO_SIGMA * float(mad(pulls, 0)) if pulls.size else None,
        tiles=[MosaicTile(tile=g, mjd=groups[g].mjd, **used[g]) for g in sorted(used)],
        left_out=left_out,
        correction=correction.figures(),
        flux_anchor=anchor,
    )
    if words := flux_anchor.warning(anchor):
        sidecar.warn(words)
    if not used:
        sidecar.fail(
            "no tile could be used: " + "; ".join(f"{e.tile} {e.reason}" for e in left_out)
        )
    off = abs(correction.flux_ratio - 1)
    if off > max(LARGE_CORRECTION, 3 * correction.flux_ratio_error):
        done = "was corrected" if correction.scaled else "is too far off to be corrected"
        sidecar.warn(f"flux scale {correction.flux_ratio:.2f} of the catalogue's: it {done}")
    sidecar.timings_s = {"total": time.monotonic() - started}
    sidecar.write(output, [companion(output, kind) for kind in kinds[1:]])
    return sidecar


def _photometry(image: Path) -> Path:
    """Return the table of a tile's sources."""
    return image.with_name(image.name.removesuffix(".image.fits") + ".photometry.csv")


def _write(
    temporary: Mapping[str, Path],
    result: Coadd,
    tiles: list[TileImage],
    beam: tuple[float, float, float],
    cards: dict[str, Any],
) -> None:
    """Append one section to the three files; its image is lost."""
    mean = result.mjd_zero + _weighted_mean(result.time, result.weight)
    header = mosaic_header(result.wcs, tiles, beam, {"MJD-AVG": mean} | cards)
    result.time += np.float32(result.mjd_zero - mean)
    append_plane(temporary["image"], result.image, header)
    # The image is on disk: its memory serves the noise.
    with np.errstate(divide="ignore"):
        rms = np.divide(1, np.sqrt(result.weight, out=result.image), out=result.image)
    rms[np.isinf(rms)] = np.nan
    header["BTYPE"] = "Noise"
    append_plane(temporary["rms"], rms, header)
    header["BTYPE"], header["BUNIT"] = "Weight", "Jy-2"
    append_plane(temporary["weight"], result.weight, header)
    header["BTYPE"], header["BUNIT"] = "Time", "d"
    header.add_history("pixels are mean times in days after MJD-AVG")
    append_plane(temporary["weight"], result.time, header)


def _weighted_mean(values: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean of values that are NaN where the weight is 0, a row at a time."""
    total = sum(
        np.dot(np.nan_to_num(v).astype(float), w) for v, w in zip(values, weight, strict=True)
    )
    return total / float(weight.sum(dtype=float))


def _write_blank(temporary: Mapping[str, Path], path: Path, epoch: str, n_left_out: int) -> None:
    """Write a mosaic without sky on the grid of its first tile."""
    header = fits.getheader(path)
    shape = header["NAXIS2"], header["NAXIS1"]
    header = header.copy(strip=False)
    header["MJD-AVG"] = mean_mjd(path, header)
    header["EPOCHID"], header["NTILES"], header["NLEFTOUT"] = epoch, 0, n_left_out
    blank = np.full(shape, np.nan, np.float32)
    append_plane(temporary["image"], blank, header)
    append_plane(temporary["rms"], blank, header)
    header["BUNIT"] = "Jy-2"
    append_plane(temporary["weight"], np.zeros(shape, np.float32), header)
    header["BUNIT"] = "d"
    append_plane(temporary["weight"], blank, header)
