"""The tiles of a mosaic: what is to be known of them before they are added, which are left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ..core.errors import DataError
from ..core.figures import FluxAnchor, ImageFigures, LeftOut
from ..core.layout import companion, parse_group
from ..core.options import MosaicOptions
from ..core.sidecar import read_sidecar
from ..maps.planes import beam_deg, celestial, flat, mean_mjd
from ..telescope.beam import unit_vector

__all__ = ["TileImage", "gather", "open_tile"]

#: A tile whose beam area exceeds this many times the median would spoil the common beam.
BEAM_OUTLIER = 2.0


@dataclass(frozen=True)
class TileImage:
    """A tile that goes into a mosaic.

    Attributes
    ----------
    group : str
        Group id.
    path : Path
        ``<id>.image.fits``.
    header : astropy.io.fits.Header
        Its header.
    wcs : astropy.wcs.WCS
        Celestial coordinates.
    shape : (int, int)
        Rows and columns.
    beam_deg : (float, float, float)
        FWHM axes and position angle, deg.
    mjd : float
        Mean time, UTC.
    ra_deg, dec_deg : (n,) array
        Points all over the part of the tile with enough beam.
    anchor : FluxAnchor or None
        What its flux scale rests on.
    """

    group: str
    path: Path
    header: fits.Header
    wcs: WCS
    shape: tuple[int, int]
    beam_deg: tuple[float, float, float]
    mjd: float
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    anchor: FluxAnchor | None = None

    @property
    def centre(self) -> np.ndarray:
        """Unit vector of the middle of its points."""
        middle = unit_vector(self.ra_deg, self.dec_deg).mean(0)
        return middle / np.linalg.norm(middle)

    @property
    def cell_deg(self) -> float:
        """Pixel size, deg."""
        return float(np.sqrt(np.abs(np.linalg.det(self.wcs.pixel_scale_matrix))))


# --- tiles ----------------------------------------------------------------------------------------


def open_tile(path: Path, pb_limit: float) -> TileImage:
    """Read what is to be known of a tile before it is added, where its beam is above a limit.

    Raises
    ------
    DataError
        If it cannot contribute: failed, without a beam, without a pixel above ``pb_limit``. The
        message is the reason to leave it out.
    """
    record = read_sidecar(path, ImageFigures)
    if record.verdict == "fail":
        raise DataError("failed: " + "; ".join(record.reasons))
    header = fits.getheader(path)
    beam = beam_deg(header)
    if not (beam[0] > 0 and beam[1] > 0):
        raise DataError("it has no restoring beam")
    wcs = celestial(header)
    with fits.open(companion(path, "pb")) as hdus:
        pb = flat(hdus[0].data)
        step = max(1, min(pb.shape) // 100)
        row, column = (np.unique(np.append(np.arange(0, n, step), n - 1)) for n in pb.shape)
        column, row = (a.ravel() for a in np.meshgrid(column, row))
        enough = pb[row, column] >= pb_limit
        shape = pb.shape
    if not enough.any():
        raise DataError(f"its primary beam is nowhere above {pb_limit:g}")
    ra, dec = wcs.all_pix2world(column[enough], row[enough], 0)
    return TileImage(
        parse_group(path),
        Path(path),
        header,
        wcs,
        shape,
        beam,
        mean_mjd(path, header),
        ra,
        dec,
        record.figures.flux_anchor,
    )


def gather(paths: Iterable[Path], options: MosaicOptions) -> tuple[list[TileImage], list[LeftOut]]:
    """Return the tiles that can be added, in order of time, and those left out with the reason."""
    tiles, left_out = [], []
    for path in sorted(map(Path, paths), key=parse_group):
        if not path.exists():
            raise DataError(f"{path}: no such tile")
        try:
            tiles.append(open_tile(path, options.pb_limit))
        except DataError as error:
            if not path.with_name(path.name + ".json").exists():
                raise
            left_out.append(LeftOut(tile=parse_group(path), reason=str(error)))
    area = {t.group: t.beam_deg[0] * t.beam_deg[1] for t in tiles}
    limit = BEAM_OUTLIER * np.median(list(area.values())) if area else np.inf
    for tile in [t for t in tiles if area[t.group] > limit]:
        tiles.remove(tile)
        size = " x ".join(f"{3600 * b:.1f}" for b in tile.beam_deg[:2])
        reason = f"its beam of {size} arcsec is more than twice the median in area"
        left_out.append(LeftOut(tile=tile.group, reason=reason))
    return tiles, sorted(left_out, key=lambda entry: entry.tile)
