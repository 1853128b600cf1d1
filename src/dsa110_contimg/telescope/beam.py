"""Primary beam: the Airy pattern of one dish, and its mean over a drifting tile.

The array does not track. Over a tile the pointing moves 1.24 deg through the sky, so an image's
beam is the mean of the Airy patterns about the pointing of each integration, weighted as the data
are weighted, over time and frequency. Its peak is less than 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import j1

from ..core.errors import DataError
from ..core.figures import Pointing
from .dsa110 import C_M_S, DISH_DIAMETER_M

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ["TileBeam", "airy_from_sine", "airy_power", "separation_rad", "unit_vector"]

#: Step of the radial table, in sine of the separation. Linear interpolation is then good to
#: step^2 / 8 times the largest second derivative of the pattern, (pi D / lambda)^2 / 2: 2e-6.
_TABLE_STEP = 7e-5
#: Spacing at which an image's beam is computed before a cubic spline takes over, deg.
_COARSE_DEG = 0.04


def airy_power(
    separation_rad: ArrayLike, freq_hz: ArrayLike, diameter_m: float = DISH_DIAMETER_M
) -> Any:
    """Return the power response of a uniformly illuminated circular dish, 1 on axis.

    Parameters
    ----------
    separation_rad : float or array
        Angle from the pointing, rad. Beyond a right angle the response is 0.
    freq_hz : float or array
        Frequency, Hz; broadcast against `separation_rad`.
    diameter_m : float
        Dish diameter, m.

    Returns
    -------
    float or array
        ``(2 J1(x) / x)^2`` with ``x = pi D sin(separation) / wavelength``.
    """
    separation_rad = np.asarray(separation_rad, float)
    response = airy_from_sine(np.sin(separation_rad), np.asarray(freq_hz, float), diameter_m)
    return np.where(np.abs(separation_rad) < np.pi / 2, response, 0.0)[()]


def airy_from_sine(sine: Any, freq_hz: Any, diameter_m: float = DISH_DIAMETER_M) -> Any:
    """Return `airy_power` where the sine of the separation is at hand; 1e9 stands for behind."""
    x = np.abs(np.pi * diameter_m / C_M_S * sine * freq_hz)
    x = np.maximum(x, 1e-9)  # the response is 1 to machine precision there
    return np.minimum((2.0 * j1(x) / x) ** 2, 1.0)


def unit_vector(ra_deg: ArrayLike, dec_deg: ArrayLike) -> np.ndarray:
    """Return unit vectors, shape ``(..., 3)``, of directions in degrees."""
    ra, dec = np.deg2rad(ra_deg), np.deg2rad(dec_deg)
    return np.stack(
        np.broadcast_arrays(np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)), -1
    )


def separation_rad(
    ra1_deg: ArrayLike, dec1_deg: ArrayLike, ra2_deg: ArrayLike, dec2_deg: ArrayLike
) -> Any:
    """Return the angle between directions in degrees, rad; exact at all separations."""
    a, b = unit_vector(ra1_deg, dec1_deg), unit_vector(ra2_deg, dec2_deg)
    chord = np.linalg.norm(a - b, axis=-1)
    return 2 * np.arctan2(chord, np.linalg.norm(a + b, axis=-1))


@dataclass(frozen=True)
class TileBeam:
    """The beam of one tile: where the dishes pointed, and with what weight.

    Attributes
    ----------
    ra_deg, dec_deg : (n_time,) array
        Pointing at each integration, ICRS, deg.
    freq_hz : (n_chan,) array
        Channel centres, Hz.
    weights : (n_time, n_chan) array
        Weight of each integration and channel in the image; any scale.
    diameter_m : float
        Dish diameter, m.

    Raises
    ------
    DataError
        If the shapes disagree or no weight is positive.
    """

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    freq_hz: np.ndarray
    weights: np.ndarray
    diameter_m: float = DISH_DIAMETER_M

    def __post_init__(self) -> None:
        for name in ("ra_deg", "dec_deg", "freq_hz", "weights"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), float))
        expected = (self.ra_deg.size, self.freq_hz.size)
        if self.weights.shape != expected or self.dec_deg.shape != self.ra_deg.shape:
            raise DataError(
                f"beam: weights of shape {self.weights.shape} do not fit "
                f"{expected[0]} pointings and {expected[1]} channels"
            )
        if not np.all(np.isfinite(self.weights)) or np.any(self.weights < 0):
            raise DataError("beam: weights must be finite and not negative")
        if not self.weights.sum() > 0:
            raise DataError("beam: every weight is zero; the tile holds no data")

    @classmethod
    def from_pointing(
        cls, pointing: Pointing, time_mjd: ArrayLike, freq_hz: ArrayLike, weight: ArrayLike
    ) -> TileBeam:
        """Build the beam from where the array pointed and what the data weigh.

        Parameters
        ----------
        pointing : Pointing
            Of the sidecar of a tile. Where the data were averaged in time, their mid-times differ
            from those of the pointings, which are then interpolated along their great circle.
        time_mjd : (n_time,) array
            Mid-times of the data, UTC.
        freq_hz : (n_chan,) array
            Channels, Hz.
        weight : (n_time, n_chan) array
            Their weights.
        """
        directions = unit_vector(pointing.ra_deg, pointing.dec_deg)
        known, wanted = np.array(pointing.time_mjd), np.array(time_mjd)
        x, y, z = (np.interp(wanted, known, axis) for axis in directions.T)
        ra, dec = np.rad2deg(np.arctan2(y, x)) % 360, np.rad2deg(np.arctan2(z, np.hypot(x, y)))
        return cls(ra, dec, np.asarray(freq_hz, float), np.asarray(weight, float))

    def response(self, ra_deg: ArrayLike, dec_deg: ArrayLike, exact: bool = False) -> Any:
        """Return the tile's mean power response in some directions.

        Parameters
        ----------
        ra_deg, dec_deg : float or array
            ICRS directions, deg; broadcast against each other. NaN gives NaN.
        exact : bool
            Sum over all integrations and channels instead of interpolating in a radial table
            (error below 2e-6). For tests: slow, and needs n_time x n_chan values a direction.

        Returns
        -------
        float or array
            Response between 0 and 1. For an image, see `image`.
        """
        directions = unit_vector(ra_deg, dec_deg)
        shape, directions = directions.shape[:-1], directions.reshape(-1, 3)
        total = np.zeros(len(directions))
        if not len(directions):
            return total.reshape(shape)
        if exact:
            for sine, weight in zip(self._sines(directions), self.weights, strict=True):
                total += airy_from_sine(sine[:, None], self.freq_hz, self.diameter_m) @ weight
        else:
            sines = list(self._sines(directions))
            grid, profiles = self._profiles(max(np.nanmax(s, initial=0.0) for s in sines))
            for sine, profile in zip(sines, profiles, strict=True):
                total += np.interp(sine, grid, profile)
        return (total / self.weights.sum()).reshape(shape)[()]

    def samples(self, ra_deg: float, dec_deg: float) -> np.ndarray:
        """Return the power response to one direction at each integration and channel.

        This is what attenuates a source in the visibilities; shape ``(n_time, n_chan)``.
        """
        sine = np.concatenate(list(self._sines(unit_vector(ra_deg, dec_deg)[None])))
        return airy_from_sine(sine[:, None], self.freq_hz, self.diameter_m)

    def image(self, wcs: WCS, shape: tuple[int, int]) -> np.ndarray:
        """Return the beam on an image's pixels.

        The response is computed every 0.04 deg and interpolated with a cubic spline, for it changes
        on the scale of the beam, 2.7 deg.

        Parameters
        ----------
        wcs : astropy.wcs.WCS
            Celestial world coordinates (a cube's are cut to their celestial axes), ICRS.
        shape : (int, int)
            Rows and columns.

        Returns
        -------
        (rows, columns) float array
            NaN where the projection has no sky.
        """
        from astropy.wcs.utils import proj_plane_pixel_scales
        from scipy.interpolate import RectBivariateSpline

        wcs = wcs.celestial
        step = max(1, int(_COARSE_DEG / max(proj_plane_pixel_scales(wcs))))
        rows, columns = (_coarse(n, step) for n in shape)
        ra, dec = wcs.all_pix2world(*np.meshgrid(columns, rows), 0)
        if len(rows) < 4 or len(columns) < 4 or not np.all(np.isfinite(ra)):
            ra, dec = wcs.all_pix2world(*np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), 0)
            return self.response(ra, dec)
        spline = RectBivariateSpline(rows, columns, self.response(ra, dec))
        return spline(np.arange(shape[0]), np.arange(shape[1]))

    def _sines(self, directions: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the sine of the separations from each pointing; 1e9 (no response) behind it."""
        for pointing in unit_vector(self.ra_deg, self.dec_deg):
            chord2 = ((directions - pointing) ** 2).sum(-1)
            sine = np.sqrt(chord2 * np.clip(1 - chord2 / 4, 0, None))
            yield np.where(chord2 > 2, 1e9, sine)

    def _profiles(self, largest_sine: float) -> tuple[np.ndarray, np.ndarray]:
        """Tabulate, for each integration, the weighted sum over channels against the sine."""
        n = int(np.ceil(min(largest_sine, 1.0) / _TABLE_STEP)) + 2
        grid = _TABLE_STEP * np.arange(n)
        table = np.empty((len(self.weights), n + 1))
        for part in np.array_split(np.arange(n), max(1, n // 512)):
            airy = airy_from_sine(grid[part], self.freq_hz[:, None], self.diameter_m)
            table[:, part] = self.weights @ airy
        table[:, n] = 0.0  # behind the dish
        return np.append(grid, 2.0), table


def _coarse(n: int, step: int) -> np.ndarray:
    """Return positions from 0 to n - 1, about `step` apart, both ends included."""
    return np.linspace(0, n - 1, max(2, -(-(n - 1) // step) + 1))
