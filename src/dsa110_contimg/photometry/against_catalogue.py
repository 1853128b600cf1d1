"""A tile against the catalogue: flux scale, astrometry, completeness, and where the dishes point.

A wrong pointing leaves the median flux ratio almost untouched and tilts it across the field:
sources on one side come out too bright, on the other too faint. So the ratios are fitted with the
beam itself, moved by an offset that is solved for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import robust
from ..core.figures import Astrometry, CatalogCheck, PointingOffset
from ..telescope.beam import TileBeam

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check", "combine_pointing", "fit_pointing"]

#: Least expected signal-to-noise ratio of a source that tells of flux scale, position, pointing.
MIN_SNR = 20.0
#: Completeness: sources expected above the first are counted, those found above the second, found.
EXPECTED_SNR, DETECTED_SNR = 10.0, 5.0
#: Scatter of single sources against a catalogue of another epoch, resolution and frequency.
CATALOG_SCATTER = 0.05
#: Fewest sources for a fit of three parameters.
MIN_SOURCES = 6


def check(table: pd.DataFrame, beam: TileBeam) -> CatalogCheck:
    """Compare the photometry of a tile with the catalogue.

    Parameters
    ----------
    table : DataFrame
        As `photometry.measure` returns it.
    beam : TileBeam
        The beam the fluxes were corrected with.

    Returns
    -------
    CatalogCheck
        None where there are too few sources.
    """
    expected_snr = table.catalog_flux_jy / table.local_rms_jy
    finite = np.isfinite(table.flux_jy)
    # Chosen by what the catalogue expects, not by what was found, which would favour bright errors.
    bright = table[finite & (table["flags"] == "") & (expected_snr > MIN_SNR)]
    expected = table[finite & (expected_snr > EXPECTED_SNR)]
    result = CatalogCheck(
        n_sources=len(bright),
        flux_ratio=None,
        flux_ratio_error=None,
        flux_ratio_scatter=None,
        n_expected=len(expected),
        completeness=(expected.snr > DETECTED_SNR).mean() if len(expected) else None,
        astrometry=None,
        pointing_offset=None,
    )
    if len(bright) >= 3:
        ratio = (bright.flux_jy / bright.catalog_flux_jy).to_numpy()
        median = float(np.median(ratio))
        scatter = float(robust.sigma(ratio, median))
        result.flux_ratio = median
        result.flux_ratio_scatter = scatter
        result.flux_ratio_error = robust.median_error(scatter, len(ratio))
    if len(bright) >= MIN_SOURCES:
        result.astrometry = _astrometry(bright, beam)
        result.pointing_offset = fit_pointing(bright, beam)
    return result


def fit_pointing(table: pd.DataFrame, beam: TileBeam) -> PointingOffset | None:
    """Fit how far the dishes pointed from where the beam says, from flux ratios.

    With the true pointing d away from the assumed one, a source at x, corrected with the assumed
    beam B, comes out with the ratio ``B(x - d) / B(x)``. Fitted are d and a common factor, by
    robust least squares (soft L1) on the logarithms.

    Parameters
    ----------
    table : DataFrame
        ``ra_deg``, ``dec_deg``, ``flux_jy``, ``flux_err_jy``, ``catalog_flux_jy``.
    beam : TileBeam
        The beam the fluxes were corrected with.

    Returns
    -------
    PointingOffset or None
        None if fewer than six ratios are positive.
    """
    from scipy.optimize import least_squares

    table = table[(table.flux_jy > 0) & (table.catalog_flux_jy > 0)]
    if len(table) < MIN_SOURCES:
        return None
    ra, dec = table.ra_deg.to_numpy(), table.dec_deg.to_numpy()
    ratio = np.log((table.flux_jy / table.catalog_flux_jy).to_numpy())
    sigma = np.hypot((table.flux_err_jy / table.catalog_flux_jy).to_numpy(), CATALOG_SCATTER)
    assumed = np.log(beam.response(ra, dec))

    def residuals(parameters: np.ndarray) -> np.ndarray:
        scale, east, north = parameters
        moved = beam.response(ra - east / np.cos(np.deg2rad(dec)), dec - north)
        return (ratio - scale - np.log(np.maximum(moved, 1e-9)) + assumed) / sigma

    start = [np.median(ratio), 0.0, 0.0]
    fit = least_squares(residuals, start, loss="soft_l1", x_scale=[0.05, 0.1, 0.1], diff_step=1e-3)
    normal = fit.jac.T @ fit.jac
    if np.linalg.cond(normal) > 1e12:
        return None
    # Sources that scatter more than their errors say widen the errors; never the reverse.
    chi2 = 2 * fit.cost / max(1, len(table) - 3)
    covariance = np.linalg.inv(normal) * max(1.0, chi2)
    scale, east, north = fit.x
    offset_covariance = covariance[1:, 1:]
    offset = np.array([east, north])
    errors = np.sqrt(np.diag(offset_covariance))
    slopes = _slopes(ra, dec, ratio, sigma, beam)
    return PointingOffset(
        n=len(table),
        east_deg=east,
        north_deg=north,
        east_error_deg=errors[0],
        north_error_deg=errors[1],
        correlation=offset_covariance[0, 1] / errors.prod(),
        offset_deg=np.hypot(east, north),
        position_angle_deg=np.rad2deg(np.arctan2(east, north)) % 360,
        significance=np.sqrt(offset @ np.linalg.solve(offset_covariance, offset)),
        flux_scale=np.exp(scale),
        slope_east_per_deg=slopes[0],
        slope_north_per_deg=slopes[1],
    )


def combine_pointing(fits: Iterable[PointingOffset | None]) -> dict[str, Any] | None:
    """Return the mean pointing offset of several tiles, weighted by their covariances.

    Parameters
    ----------
    fits : iterable of PointingOffset or None
        Results of `fit_pointing`; None is passed over.

    Returns
    -------
    dict or None
        ``n_tiles``, ``n``, ``east_deg``, ``north_deg``, their errors, ``offset_deg``,
        ``position_angle_deg``, ``significance``; None without any fit.
    """
    weight, weighted, n_tiles, n = np.zeros((2, 2)), np.zeros(2), 0, 0
    for fit in fits:
        if fit is None:
            continue
        errors = np.array([fit.east_error_deg, fit.north_error_deg])
        cross = fit.correlation * errors.prod()
        inverse = np.linalg.inv([[errors[0] ** 2, cross], [cross, errors[1] ** 2]])
        weight += inverse
        weighted += inverse @ [fit.east_deg, fit.north_deg]
        n_tiles, n = n_tiles + 1, n + fit.n
    if not n_tiles:
        return None
    covariance = np.linalg.inv(weight)
    offset = covariance @ weighted
    return {
        "n_tiles": n_tiles,
        "n": n,
        "east_deg": float(offset[0]),
        "north_deg": float(offset[1]),
        "east_error_deg": float(np.sqrt(covariance[0, 0])),
        "north_error_deg": float(np.sqrt(covariance[1, 1])),
        "offset_deg": float(np.hypot(*offset)),
        "position_angle_deg": float(np.rad2deg(np.arctan2(*offset)) % 360),
        "significance": float(np.sqrt(offset @ weight @ offset)),
    }


def _offsets(ra: np.ndarray, dec: np.ndarray, beam: TileBeam) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets (east, north, deg) from the middle of the pointings."""
    from ..telescope.beam import unit_vector

    x, y, z = unit_vector(beam.ra_deg, beam.dec_deg).mean(axis=0)
    ra0, dec0 = np.rad2deg(np.arctan2(y, x)), np.rad2deg(np.arctan2(z, np.hypot(x, y)))
    east = ((ra - ra0 + 180) % 360 - 180) * np.cos(np.deg2rad(dec))
    return east, dec - dec0


def _slopes(
    ra: np.ndarray, dec: np.ndarray, ratio: np.ndarray, sigma: np.ndarray, beam: TileBeam
) -> tuple[float, float]:
    """Return the slopes of a plane through the logarithms of the ratios, per degree."""
    east, north = _offsets(ra, dec, beam)
    basis = np.stack([np.ones_like(east), east, north], axis=1) / sigma[:, None]
    solution = np.linalg.lstsq(basis, ratio / sigma, rcond=None)[0]
    return float(solution[1]), float(solution[2])


def _astrometry(table: pd.DataFrame, beam: TileBeam) -> Astrometry:
    """Return median offset, scatter and gradient of the positions, measured minus catalogue."""
    east, north = _offsets(table.ra_deg.to_numpy(), table.dec_deg.to_numpy(), beam)
    shift = 3600 * table[["shift_ra_deg", "shift_dec_deg"]].to_numpy()
    median = np.median(shift, axis=0)
    scatter = robust.sigma(shift, median, axis=0)
    basis = np.stack([np.ones_like(east), east, north], axis=1)
    gradient = np.linalg.lstsq(basis, shift, rcond=None)[0][1:]
    return Astrometry(
        n=len(table),
        ra_offset_arcsec=median[0],
        dec_offset_arcsec=median[1],
        ra_scatter_arcsec=scatter[0],
        dec_scatter_arcsec=scatter[1],
        error_arcsec=robust.median_error(scatter.max(), len(table)),
        gradient_arcsec_per_deg=gradient.tolist(),
    )
