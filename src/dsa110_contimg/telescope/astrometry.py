"""Directions and baselines, exact: ERFA with measured Earth orientation.

Hour angle and declination here are *observed* ones without refraction: of the direction in which
the dishes see a source, referred to the Earth's crust, after precession, nutation, annual and
diurnal aberration, Earth rotation and polar motion. The correlator's phase centre, hour angle 0 at
the declination of the header, is one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import erfa
import numpy as np
from numpy.typing import ArrayLike

from ..core.times import DAY_S
from .dsa110 import HEIGHT_M, LATITUDE_RAD, LONGITUDE_RAD

__all__ = ["Site", "Sky", "hour_angle_vector", "meridian_axes"]

_NO_REFRACTION = (0.0, 0.0, 0.0, 0.0)  # pressure, temperature, humidity, wavelength
#: Half the arc along which the direction of north is taken, rad.
_NORTH_STEP = 1e-4


@dataclass(frozen=True)
class Site:
    """A place on Earth: geodetic latitude and longitude (rad, east positive), height (m)."""

    latitude: float = LATITUDE_RAD
    longitude: float = LONGITUDE_RAD
    height: float = HEIGHT_M

    @property
    def itrf_m(self) -> np.ndarray:
        """Geocentric position, m."""
        return erfa.gd2gc(1, self.longitude, self.latitude, self.height)  # 1: WGS84


def hour_angle_vector(ha: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return unit vectors (..., 3): axes at hour angle 0 on the equator, east, and the pole."""
    ha, dec = np.broadcast_arrays(ha, dec)
    return np.stack([np.cos(dec) * np.cos(ha), -np.cos(dec) * np.sin(ha), np.sin(dec)], axis=-1)


class Sky:
    """The sky over a site at some times.

    Parameters
    ----------
    jd : (T,) float
        Times, JD (UTC).
    site : Site
        Where.

    Notes
    -----
    UT1 - UTC and the pole come from the tables installed with astropy, never from the network.
    Beyond their end astropy warns and extrapolates.
    """

    def __init__(self, jd: np.ndarray, site: Site):
        from astropy.time import Time
        from astropy.utils import iers

        self.site = site
        with (
            iers.conf.set_temp("auto_download", False),
            iers.conf.set_temp("iers_degraded_accuracy", "warn"),
        ):
            moments = Time(np.atleast_1d(jd), format="jd", scale="utc")
            pole = iers.earth_orientation_table.get().pm_xy(moments)
            self._utc = (moments.jd1, moments.jd2)
            self._ut1 = (moments.ut1.jd1, moments.ut1.jd2)
            self._tt = (moments.tt.jd1, moments.tt.jd2)
            dut1 = np.asarray(moments.delta_ut1_utc)
        #: The times as a Measurement Set has them, s since MJD 0 (UTC).
        self.mjd_s = moments.mjd * DAY_S
        x, y = (p.to_value("rad") for p in pole)
        self._place = (dut1, site.longitude, site.latitude, site.height, x, y)

    @property
    def lst(self) -> np.ndarray:
        """Local apparent sidereal time, rad in [0, 2 pi)."""
        greenwich = erfa.gst06a(*self._ut1, *self._tt) + erfa.sp00(*self._tt)
        return (greenwich + self.site.longitude) % (2 * np.pi)

    def meridian_icrs(self, dec_app: ArrayLike) -> np.ndarray:
        """Return the ICRS direction of hour angle 0 at a declination: (T, 2), rad, RA first."""
        ra, dec = erfa.atoc13("H", 0.0, dec_app, *self._utc, *self._place, *_NO_REFRACTION)
        return np.stack([ra % (2 * np.pi), dec], axis=-1)

    def observed(self, ra: float, dec: float) -> tuple[np.ndarray, np.ndarray]:
        """Return hour angle and declination (T,), rad, of an ICRS direction."""
        fixed = (0.0, 0.0, 0.0, 0.0)  # no proper motion, parallax or radial velocity
        _, _, ha, dec_obs, _, _ = erfa.atco13(
            ra, dec, *fixed, *self._utc, *self._place, *_NO_REFRACTION
        )
        return ha, dec_obs

    def axes(self, ra: float, dec: float) -> np.ndarray:
        """Return the axes u, v, w of a phase centre, v towards ICRS north.

        Returns
        -------
        (T, 3, 3) float
            Rows u, v, w; components as those of `hour_angle_vector`.
        """
        w = hour_angle_vector(*self.observed(ra, dec))
        v = self._northward(ra, dec)
        v -= (v * w).sum(axis=-1, keepdims=True) * w
        v /= np.linalg.norm(v, axis=-1, keepdims=True)
        return np.stack([np.cross(v, w), v, w], axis=-2)

    def scale(self, ra: float, dec: float) -> np.ndarray:
        """Return by how much aberration magnifies the sky about an ICRS direction: (T,)."""
        return np.linalg.norm(self._northward(ra, dec), axis=-1)

    def _northward(self, ra: float, dec: float) -> np.ndarray:
        """Return the change of the observed direction per radian of declination: (T, 3)."""
        ahead = hour_angle_vector(*self.observed(ra, dec + _NORTH_STEP))
        behind = hour_angle_vector(*self.observed(ra, dec - _NORTH_STEP))
        return (ahead - behind) / (2 * np.sin(_NORTH_STEP))

    def antenna_uvw(self, positions: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """Return u, v, w of antennas.

        Parameters
        ----------
        positions : (A, 3)
            Earth-fixed positions relative to any origin, m.
        axes : (T, 3, 3)
            From `axes` or `meridian_axes`.

        Returns
        -------
        (T, A, 3) float
            Metres; the difference of two antennas is the baseline's.
        """
        lon = self.site.longitude
        x, y, z = positions.T
        local = np.stack(
            [np.cos(lon) * x + np.sin(lon) * y, np.cos(lon) * y - np.sin(lon) * x, z], axis=-1
        )
        return np.einsum("tij,aj->tai", axes, local)


def meridian_axes(dec: np.ndarray) -> np.ndarray:
    """Return the axes u, v, w (as `Sky.axes`) at hour angle 0, v towards the Earth's pole."""
    dec = np.asarray(dec)
    zero, one = np.zeros_like(dec), np.ones_like(dec)
    u = np.stack([zero, one, zero], axis=-1)
    v = np.stack([-np.sin(dec), zero, np.cos(dec)], axis=-1)
    return np.stack([u, v, hour_angle_vector(zero, dec)], axis=-2)
