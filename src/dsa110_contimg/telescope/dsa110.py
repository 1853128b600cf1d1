"""The DSA-110 as built: site, stations, frequency and time plan.

Numbers are those of the correlator's writer (dsa110-meridian-fs) and of the station table
(dsa110-antpos, revision of 2022-02-15). Antenna numbers are zero-based everywhere in this package;
the correlator's names are number + 1, and station ``DSA-103`` is number 102.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from astropy.coordinates import EarthLocation

#: Speed of light, m/s.
C_M_S = 299792458.0
#: Name of the telescope in Measurement Sets and images.
NAME = "DSA-110"
#: Name the correlator writes, and the only one CASA's observatory table knows.
RAW_NAME = "OVRO_MMA"
#: casacore's codes of the correlations of linear feeds.
CORRELATIONS = {9: "XX", 10: "XY", 11: "YX", 12: "YY"}
#: Reference position that the correlator writes: geodetic latitude and longitude (rad, east
#: positive), height (m). It is the origin of the file's antenna positions and of sidereal time.
LATITUDE_RAD = 0.6498455107238486
LONGITUDE_RAD = -2.064427799136453
HEIGHT_M = 1188.0519
#: Dish diameter, m.
DISH_DIAMETER_M = 4.65
#: System equivalent flux density of one antenna and polarisation, Jy.
SEFD_JY = 6500.0

#: Channels: 16 subbands of 48; sb00 holds the highest frequencies and frequencies descend.
N_SUBBANDS = 16
N_CHANNELS_SUBBAND = 48
CHANNEL_WIDTH_HZ = 250e6 / 8192 * 8
#: Centre of the highest channel: median of eight fine channels counted down from 1.53 GHz, the
#: first of them number 1024.
TOP_CHANNEL_HZ = 1.53e9 - (1024 + 3.5) * 250e6 / 8192
#: XX and YY, AIPS numbers.
POLARIZATIONS = (-5, -6)

#: Integration time, s (96 samples), and integrations a file.
INTEGRATION_S = 96 * 0.134217728
N_INTEGRATIONS = 24
TILE_S = N_INTEGRATIONS * INTEGRATION_S
SAMPLES_PER_INTEGRATION = 96
#: Sidereal rate, rad/s.
EARTH_RATE_RAD_S = 7.2921150e-5


@dataclass(frozen=True)
class Stations:
    """The station table, in order of antenna number (0 to 116).

    Attributes
    ----------
    names : tuple of str
        ``DSA-001`` ...
    arms : tuple of str
        ``EW``, ``NS`` or ``OUT``.
    active : (117,) bool
        Antennas that the correlator read out in 2026.
    itrf_m : (117, 3) float
        Geocentric ITRF positions, m.
    """

    names: tuple[str, ...]
    arms: tuple[str, ...]
    active: np.ndarray
    itrf_m: np.ndarray


@cache
def stations() -> Stations:
    """Read the station table."""
    text = resources.files(__package__).joinpath("data/stations.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    return Stations(
        names=tuple(r["station"] for r in rows),
        arms=tuple(r["arm"] for r in rows),
        active=np.array([r["active_2026"] == "1" for r in rows]),
        itrf_m=np.array([[float(r[f"itrf_{axis}_m"]) for axis in "xyz"] for r in rows]),
    )


@cache
def location() -> EarthLocation:
    """Return the reference position as an `astropy.coordinates.EarthLocation`.

    Earth-rotation data are those installed with the package; astropy is told not to fetch others.
    """
    import astropy.units as u
    from astropy.coordinates import EarthLocation
    from astropy.utils import iers

    iers.conf.auto_download = False
    iers.conf.auto_max_age = None

    return EarthLocation.from_geodetic(LONGITUDE_RAD * u.rad, LATITUDE_RAD * u.rad, HEIGHT_M * u.m)


def subband_frequencies(subband: int) -> np.ndarray:
    """Return the 48 channel centres of a subband, Hz, in the correlator's (descending) order."""
    first = subband * N_CHANNELS_SUBBAND
    return TOP_CHANNEL_HZ - CHANNEL_WIDTH_HZ * np.arange(first, first + N_CHANNELS_SUBBAND)
