"""Calibrators: the flux standards, the VLA list, a user's own.

They are read while the workflow is planned, so this needs neither pandas nor astropy.
"""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..core.errors import DataError
from .catalogue import DEFAULT_ALPHA, REFERENCE_HZ

__all__ = [
    "SAME_SOURCE_ARCSEC",
    "VLA_LIST",
    "Calibrator",
    "all_calibrators",
    "find_calibrator",
    "flux_standards",
    "read_calibrators",
    "vla_calibrators",
]

#: Entries of two lists this close to each other are one source, arcsec.
SAME_SOURCE_ARCSEC = 45.0


#: Anchor of the calibrators of the VLA list.
VLA_LIST = "VLA calibrator list"


#: Range in which the calibrators' spectra are used, Hz.
_VALID_HZ = (1e9, 2e9)


#: Centres of the L and C bands that the VLA calibrator list refers to, Hz.
_VLA_L_HZ, _VLA_C_HZ = 1.465e9, 4.885e9


#: Perley & Butler 2017 (ApJS 230, 7): log10(S/Jy) as a polynomial in log10(nu/GHz), for the epoch
#: of that paper. Positions from the VLA calibrator list, J2000.
_STANDARDS = {
    "3C48": ("0137+331", 24.42208096, 33.15975916, (1.3253, -0.7553, -0.1914, 0.0498)),
    "3C138": ("0521+166", 80.29119175, 16.63945867, (1.0088, -0.4981, -0.1552, -0.0102, 0.0223)),
    "3C147": (
        "0542+498",
        85.65057465,
        49.85200932,
        (1.4516, -0.6961, -0.2007, 0.0640, -0.0464, 0.0289),
    ),
    "3C196": ("0813+482", 123.40021583, 48.21729500, (1.2872, -0.8530, -0.1534, -0.0200, 0.0201)),
    "3C286": ("1331+305", 202.78453327, 30.50915524, (1.2481, -0.4507, -0.1798, 0.0357)),
    "3C295": ("1411+522", 212.83603208, 52.20253917, (1.4701, -0.7658, -0.2780, -0.0347, 0.0399)),
}


@dataclass(frozen=True)
class Calibrator:
    """A calibrator with its spectrum between 1 and 2 GHz.

    Attributes
    ----------
    name : str
        Its name; `aliases` are others it goes by.
    ra_deg, dec_deg : float
        ICRS position, deg.
    steady : bool
        Whether its flux is known to be constant, so that it may set the flux scale.
    log_coefficients : tuple of float
        Polynomial of log10(S/Jy) in log10(nu/GHz), constant term first.
    anchor : str
        Where the spectrum is from; recorded in what is made with it.
    """

    name: str
    ra_deg: float
    dec_deg: float
    steady: bool
    log_coefficients: tuple[float, ...]
    anchor: str
    aliases: tuple[str, ...] = ()

    def flux(self, freq_hz: ArrayLike) -> Any:
        """Return the flux density, Jy, at frequencies in Hz.

        Raises
        ------
        DataError
            Outside 1 to 2 GHz, where the spectra are not to be trusted.
        """
        freq_hz = np.asarray(freq_hz, float)
        if not np.all((freq_hz >= _VALID_HZ[0]) & (freq_hz <= _VALID_HZ[1])):
            raise DataError(
                f"{self.name}: its spectrum is known from 1e9 to 2e9 Hz; "
                f"asked for {freq_hz.min():g} to {freq_hz.max():g} Hz"
            )
        exponent = np.polynomial.polynomial.polyval(
            np.log10(freq_hz / 1e9), np.array(self.log_coefficients)
        )
        return 10.0**exponent

    @classmethod
    def power_law(
        cls,
        name: str,
        ra_deg: float,
        dec_deg: float,
        flux_jy: float,
        alpha: float = DEFAULT_ALPHA,
        *,
        freq_hz: float = REFERENCE_HZ,
        steady: bool = False,
        anchor: str,
        aliases: tuple[str, ...] = (),
    ) -> Calibrator:
        """Return a calibrator with `flux_jy` at `freq_hz` and spectral index `alpha`."""
        constant = math.log10(flux_jy) - alpha * math.log10(freq_hz / 1e9)
        return cls(name, ra_deg, dec_deg, steady, (constant, alpha), anchor, aliases)


@cache
def flux_standards() -> tuple[Calibrator, ...]:
    """Return the flux standards of Perley & Butler 2017 that this telescope can see.

    At these frequencies they are constant to a few per cent over decades (3C138 and 3C48 flare, but
    at higher frequencies).
    """
    return tuple(
        Calibrator(name, ra, dec, True, coefficients, "Perley-Butler 2017", (alias, name.lower()))
        for name, (alias, ra, dec, coefficients) in _STANDARDS.items()
    )


@cache
def vla_calibrators() -> tuple[Calibrator, ...]:
    """Return the calibrators of the VLA list that have a 20 cm flux, without the flux standards.

    The spectral index is that between 20 and 6 cm, or -0.7 where no 6 cm flux is listed. Their
    fluxes are decades old and many of them vary: none is steady.
    """
    known = {alias for standard in flux_standards() for alias in standard.aliases}
    text = resources.files(__package__).joinpath("data/vla_calibrators_20cm.csv").read_text()
    found = []
    for row in csv.DictReader(text.splitlines()):
        flux = float(row["flux_20cm_jy"])
        if row["name"] in known or flux <= 0:  # the list writes 0 for unknown
            continue
        alpha = DEFAULT_ALPHA
        if float(row["flux_6cm_jy"] or 0) > 0:
            ratio = float(row["flux_6cm_jy"]) / flux
            alpha = math.log(ratio) / math.log(_VLA_C_HZ / _VLA_L_HZ)
        found.append(
            Calibrator.power_law(
                row["name"],
                float(row["ra_deg"]),
                float(row["dec_deg"]),
                flux,
                alpha,
                freq_hz=_VLA_L_HZ,
                anchor=VLA_LIST,
                aliases=(row["alt_name"],) if row["alt_name"] else (),
            )
        )
    return tuple(found)


def read_calibrators(path: str | os.PathLike) -> tuple[Calibrator, ...]:
    """Read a table of further calibrators.

    Parameters
    ----------
    path : path
        CSV with ``name,ra_deg,dec_deg,flux_jy[,alpha][,steady]``; flux at 1.4 GHz, `steady`
        ``true`` or ``false`` (the default).

    Raises
    ------
    DataError
        With the line, for a value that is absent or out of range.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; set 'calibrators' to a CSV table") from None
    return tuple(_calibrator(row, f"{path}, line {n}") for n, row in enumerate(rows, 2))


def _calibrator(row: dict, where: str) -> Calibrator:
    for key in ("name", "ra_deg", "dec_deg", "flux_jy"):
        if not (row.get(key) or "").strip():
            raise DataError(
                f"{where}: {key} is missing; wanted name,ra_deg,dec_deg,flux_jy[,alpha]"
            )
    numbers = {}
    limits = {"ra_deg": (0, 360), "dec_deg": (-90, 90), "flux_jy": (1e-6, 1e5), "alpha": (-5, 5)}
    for key, (low, high) in limits.items():
        text = (row.get(key) or str(DEFAULT_ALPHA)).strip()
        try:
            numbers[key] = float(text)
        except ValueError:
            raise DataError(f"{where}: {key} is no number: {text!r}") from None
        if not low <= numbers[key] <= high:
            raise DataError(f"{where}: {key} must be between {low:g} and {high:g}, is {text}")
    steady = (row.get("steady") or "false").strip().lower()
    if steady not in ("true", "false"):
        raise DataError(f"{where}: steady must be true or false, is {steady!r}")
    return Calibrator.power_law(
        row["name"].strip(),
        numbers["ra_deg"],
        numbers["dec_deg"],
        numbers["flux_jy"],
        numbers["alpha"],
        steady=steady == "true",
        anchor="user's calibrator table",
    )


def all_calibrators(path: str | os.PathLike | None = None) -> tuple[Calibrator, ...]:
    """Return all calibrators, in order of preference: flux standards, VLA list, user's table.

    What the user's table says of a source replaces what the VLA list says of it.

    Parameters
    ----------
    path : path, optional
        The user's table.
    """
    user = read_calibrators(path) if path else ()
    listed = [c for c in vla_calibrators() if not any(_same(c, other) for other in user)]
    return (*flux_standards(), *listed, *user)


def _same(a: Calibrator, b: Calibrator) -> bool:
    """Return whether two entries share a name or a place."""
    if {a.name, *a.aliases} & {b.name, *b.aliases}:
        return True
    off_ra = ((a.ra_deg - b.ra_deg + 180) % 360 - 180) * math.cos(math.radians(a.dec_deg))
    return math.hypot(off_ra, a.dec_deg - b.dec_deg) * 3600 < SAME_SOURCE_ARCSEC


def find_calibrator(name: str, path: str | os.PathLike | None = None) -> Calibrator:
    """Return the calibrator of a name or alias, from `all_calibrators`.

    Raises
    ------
    DataError
        If no table knows it.
    """
    for calibrator in all_calibrators(path):
        if name in (calibrator.name, *calibrator.aliases):
            return calibrator
    raise DataError(
        f"calibrator {name!r} is in no table; add it to the file named by 'calibrators'"
    )
