"""What averaging in time and frequency does to a source away from the phase centre.

The amplitude of a fringe that turns by phi during an average falls by ``sinc(phi / 2)``; averaging
n samples that were themselves point-like in time and frequency, by ``sinc(phi / 2) /
sinc(phi / 2 n)``. Turns follow from the delay of the source relative to the phase centre, and from
its rate, ``du/dt = w_e (v sin d - w cos d)``, ``dv/dt = -w_e u sin d``, ``dw/dt = w_e u cos d``
(Thompson, Moran & Swenson, Interferometry and Synthesis in Radio Astronomy, ch. 6).

The peak of a source in an image falls by the mean of that over the visibilities, weighted like the
image: the response to a direction, which an image's beam is multiplied by. (A smeared source is
also wider, by a share that is of the order of the loss: below 1 % where the loss is.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .dsa110 import C_M_S, DISH_DIAMETER_M, EARTH_RATE_RAD_S

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ["Smearing", "half_power_deg"]

#: Half-power radius of the Airy pattern in units of wavelength over diameter.
_HALF_POWER = 0.5145
#: Spacing at which an image's response is computed before a cubic spline takes over, deg.
_COARSE_DEG = 0.15


def half_power_deg(freq_hz: float) -> float:
    """Return the radius at which the beam of one dish falls to a half, deg."""
    return float(np.rad2deg(_HALF_POWER * C_M_S / freq_hz / DISH_DIAMETER_M))


@dataclass(frozen=True)
class Smearing:
    """How visibilities were averaged.

    Attributes
    ----------
    dec_deg : float
        Declination of the phase centre.
    channels, integrations : int
        Samples in an average.
    width_hz, length_s : float
        What an average spans, Hz and s.
    whole : bool
        Count the smearing within a sample, too: the correlator averages there. Otherwise that of
        averaging samples alone.
    """

    dec_deg: float
    channels: int
    integrations: int
    width_hz: float
    length_s: float
    whole: bool = False

    @property
    def none(self) -> bool:
        """Whether nothing is smeared."""
        return not self.whole and self.channels == self.integrations == 1

    def fringe(self, uvw_m: np.ndarray, offsets: np.ndarray, freq_hz: ArrayLike) -> np.ndarray:
        """Return the amplitude of fringes after averaging.

        Parameters
        ----------
        uvw_m : (n, 3) array
            Baselines at the middle of the average, m; of either sign.
        offsets : (3,) or (..., 3, k) array
            Direction cosines relative to the phase centre ``(l, m, n - 1)``.
        freq_hz : float or array
            Frequency, broadcast against ``uvw_m @ offsets`` with one axis more where it is an
            array.

        Returns
        -------
        array
            Between 0 and 1 (below the first null of the average).
        """
        rate_m = self._rates(uvw_m) @ offsets
        delay_m = uvw_m @ offsets
        freq_hz = np.asarray(freq_hz, float)
        if freq_hz.ndim:
            rate_m, delay_m = rate_m[..., None], delay_m[..., None]
        amplitude = self._average(delay_m / C_M_S * self.width_hz, self.channels)
        if self.whole or self.integrations > 1:
            turns = rate_m / C_M_S * freq_hz * self.length_s
            amplitude = amplitude * self._average(turns, self.integrations)
        return amplitude

    def response(
        self, offsets: np.ndarray, uvw_m: np.ndarray, weights: np.ndarray, freq_hz: float
    ) -> np.ndarray:
        """Return the peak of point sources of unit flux in an image.

        Parameters
        ----------
        offsets : (k, 3) array
            Directions ``(l, m, n - 1)``.
        uvw_m : (n, 3) array
            Baselines, m.
        weights : (n,) array
            Their weights in the image.
        freq_hz : float
            Mean frequency.

        Returns
        -------
        (k,) array
        """
        if self.none:
            return np.ones(len(offsets))
        total = [
            weights @ self.fringe(uvw_m, part.T, freq_hz)
            for part in np.array_split(offsets, max(1, len(offsets) // 128))
        ]
        return np.concatenate(total) / weights.sum()

    def image(
        self,
        wcs: WCS,
        shape: tuple[int, int],
        uvw_m: np.ndarray,
        weights: np.ndarray,
        freq_hz: float,
    ) -> np.ndarray:
        """Return the response on an image's pixels; the image is a SIN projection about the centre.

        Parameters
        ----------
        wcs : astropy.wcs.WCS
            Celestial coordinates of the image.
        shape : (int, int)
            Rows and columns.
        uvw_m, weights, freq_hz
            As of `response`.
        """
        from scipy.interpolate import RectBivariateSpline

        if self.none:
            return np.ones(shape)
        column0, row0 = wcs.wcs.crpix - 1
        step_x, step_y = np.deg2rad(wcs.wcs.cdelt)
        count = [max(6, int(n * abs(np.rad2deg(step_y)) / _COARSE_DEG)) for n in shape]
        rows, columns = (np.linspace(0, n - 1, k) for n, k in zip(shape, count, strict=True))
        east, north = np.meshgrid((columns - column0) * step_x, (rows - row0) * step_y)
        squared = np.minimum(east**2 + north**2, 1.0)
        offsets = np.stack([east, north, np.sqrt(1 - squared) - 1], axis=-1).reshape(-1, 3)
        coarse = self.response(offsets, uvw_m, weights, freq_hz).reshape(len(rows), len(columns))
        return RectBivariateSpline(rows, columns, coarse)(np.arange(shape[0]), np.arange(shape[1]))

    def _rates(self, uvw_m: np.ndarray) -> np.ndarray:
        u, v, w = uvw_m[..., 0], uvw_m[..., 1], uvw_m[..., 2]
        sin, cos = np.sin(np.deg2rad(self.dec_deg)), np.cos(np.deg2rad(self.dec_deg))
        return EARTH_RATE_RAD_S * np.stack([v * sin - w * cos, -u * sin, u * cos], axis=-1)

    def _average(self, turns: np.ndarray, samples: int) -> np.ndarray:
        whole = np.sinc(turns)
        return whole if self.whole else whole / np.sinc(turns / samples)
