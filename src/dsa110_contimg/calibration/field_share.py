"""Which share of its field's flux a calibrator has, from the catalogue, for the plan.

The plan is made whenever the Snakefile is parsed, and the catalogue may hold millions of rows: what
was found is kept in one small file, and the catalogue is read only for a calibrator or a
declination that is new.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..catalogs import calibrators, catalogue
from ..core.files import write_text
from ..core.records import parse
from .plan import BAND_CENTRE_HZ

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FieldShares", "field_share"]

#: Sources further from the pointing are not counted, deg (second null of the beam).
FIELD_RADIUS_DEG = 6.0
#: Declinations are rounded to this, deg: the share does not change in it.
STEP_DEG = 0.1
#: Raised when shares are computed otherwise.
_VERSION = 1


def field_share(
    calibrator: calibrators.Calibrator, catalog: pd.DataFrame, pointing_dec_deg: float
) -> float:
    """Return a calibrator's share of the beam-weighted flux in its field, at its transit.

    Parameters
    ----------
    calibrator : Calibrator
        Its flux is that of its own spectrum.
    catalog : DataFrame
        As of `catalogs.read_catalog`. The fluxes of an old list are trusted only where the
        catalogue knows the source too: the share of one of the VLA list that it lacks is 0.
    pointing_dec_deg : float
        Declination of the pointing, ICRS, deg; it is as far as the calibrator in right ascension.

    Returns
    -------
    float
        Between 0 and 1.
    """
    from ..telescope.beam import airy_power, separation_rad

    ra, dec, flux, alpha = (
        catalog[name].to_numpy() for name in ("ra_deg", "dec_deg", "flux_jy", "alpha")
    )
    own = separation_rad(calibrator.ra_deg, calibrator.dec_deg, ra, dec) < math.radians(
        calibrators.SAME_SOURCE_ARCSEC / 3600
    )
    if calibrator.anchor == calibrators.VLA_LIST and not own.any():
        return 0.0
    off_axis = separation_rad(calibrator.ra_deg, pointing_dec_deg, ra, dec)
    others = ~own & (off_axis < math.radians(FIELD_RADIUS_DEG))
    apparent = catalogue.flux_at(flux[others], alpha[others], BAND_CENTRE_HZ) * airy_power(
        off_axis[others], BAND_CENTRE_HZ
    )
    offset = math.radians(calibrator.dec_deg - pointing_dec_deg)
    mine = calibrator.flux(BAND_CENTRE_HZ) * airy_power(abs(offset), BAND_CENTRE_HZ)
    return float(mine / (mine + apparent.sum()))


class FieldShares:
    """Shares as of `field_share`, kept in a file.

    Parameters
    ----------
    catalog : Path
        Reference catalogue.
    kept : Path
        File that keeps what was found; it is void when the catalogue changes.
    """

    def __init__(self, catalog: Path, kept: Path):
        self._catalog, self._kept = catalog, kept
        self._table: pd.DataFrame | None = None
        self._shares: dict[str, float] | None = None

    def __call__(self, calibrator: calibrators.Calibrator, pointing_dec_deg: float) -> float:
        """Return the share of a calibrator, computing it when it is not known."""
        if self._shares is None:
            self._shares = self._read()
        dec = round(pointing_dec_deg / STEP_DEG) * STEP_DEG
        flux = float(calibrator.flux(BAND_CENTRE_HZ))
        name = f"{calibrator.ra_deg:.4f} {calibrator.dec_deg:.4f} {flux:.4g} at {dec:.1f}"
        if name not in self._shares:
            if self._table is None:
                self._table = catalogue.read_catalog(self._catalog)
            self._shares[name] = field_share(calibrator, self._table, dec)
            write_text(self._kept, json.dumps({"key": self._key(), "shares": self._shares}))
        return self._shares[name]

    def _key(self) -> list:
        stat = os.stat(self._catalog)
        return [_VERSION, str(self._catalog), stat.st_size, stat.st_mtime_ns]

    def _read(self) -> dict[str, float]:
        """Return what was kept; nothing when it is of another catalogue, or not to be read."""
        try:
            content = json.loads(self._kept.read_text())
            known = content["key"] == self._key()
            return parse(dict[str, float], content["shares"]) if known else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
