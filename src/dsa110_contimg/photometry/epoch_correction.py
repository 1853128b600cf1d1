"""Correction of an epoch: its flux scale and its positions, measured before its mosaic is made.

The tiles of an epoch were measured at the catalogue's positions already. The mosaic step compares
those measurements with the catalogue, clips the sources that vary, and brings the tiles onto the
catalogue's scale and positions while it adds them. So no product is changed after it is made, and
all that follows from the mosaic (its noise and weight maps, the night's photometry, light curves)
has the same correction. Cards carry it with the names and the signs of the VAST survey::

    corrected flux = FLUXSCL x (flux + FLUXOFF)
    corrected position = position + (RAOFF, DECOFF)

What is not significant is not applied. FLUXOFF, which a clean bias causes, is fitted so that it
does not pass for a scale, but it belongs to sources and not to pixels: it is recorded, not applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize

from ..core import robust
from ..core.errors import DataError
from ..core.figures import EpochCorrection, PhotometryFigures
from ..core.sidecar import read_sidecar
from ..core.tables import read_csv

__all__ = ["Correction", "fit_flux", "measure_correction"]

#: Least signal-to-noise ratio of a source, and fewest sources, for a flux scale.
LEAST_SNR, LEAST_N = 10.0, 10
#: Sources further off than this many standard deviations are taken for variable.
CLIP_SIGMA = 4.0
#: A correction below this many of its errors is not applied.
SIGNIFICANT = 3.0
#: Flux ratios outside are a failed calibration, which no correction mends.
POSSIBLE = (0.5, 2.0)
#: Position offsets below this are left, arcsec.
LEAST_OFFSET = 0.3


@dataclass(frozen=True)
class Correction:
    """Flux scale and position of an epoch relative to the catalogue.

    Attributes
    ----------
    flux_ratio, flux_ratio_error : float
        Measured over catalogue flux of the steady sources.
    flux_offset_jy, flux_offset_error_jy : float
        What is to be added to a source's flux before it is scaled.
    n_flux, n_clipped : int
        Sources that told it, and sources taken for variable.
    ra_offset_arcsec, dec_offset_arcsec, position_error_arcsec : float
        Measured minus catalogue position, on the sky, and the error in either direction.
    n_positions : int
        Tiles that told it.
    scaled, moved : bool
        Whether flux scale and position are applied.
    """

    flux_ratio: float = 1.0
    flux_ratio_error: float = 0.0
    flux_offset_jy: float = 0.0
    flux_offset_error_jy: float = 0.0
    n_flux: int = 0
    n_clipped: int = 0
    ra_offset_arcsec: float = 0.0
    dec_offset_arcsec: float = 0.0
    position_error_arcsec: float = 0.0
    n_positions: int = 0
    scaled: bool = False
    moved: bool = False

    @property
    def scale(self) -> float:
        """FLUXSCL: what pixels are multiplied by."""
        return 1 / self.flux_ratio if self.scaled else 1.0

    @property
    def shift_arcsec(self) -> tuple[float, float]:
        """RAOFF and DECOFF: what is added to positions, on the sky."""
        return (-self.ra_offset_arcsec, -self.dec_offset_arcsec) if self.moved else (0.0, 0.0)

    def cards(self) -> dict[str, tuple[float | int, str]]:
        """Return the header cards."""
        ra, dec = self.shift_arcsec
        return {
            "FLUXSCL": (self.scale, "applied: pixels were multiplied by it"),
            "FLUXSCLE": (self.flux_ratio_error / self.flux_ratio**2, "its error"),
            "FLUXOFF": (self.flux_offset_jy, "[Jy] of sources, not of pixels"),
            "RAOFF": (ra, "[arcsec] applied: added, on the sky"),
            "DECOFF": (dec, "[arcsec] applied: added"),
            "POSOFFE": (self.position_error_arcsec, "[arcsec] error of RAOFF and DECOFF"),
            "NFLUXSCL": (self.n_flux, "sources that told FLUXSCL"),
        }

    def figures(self) -> EpochCorrection:
        """Return what goes into a sidecar."""
        return EpochCorrection(
            **asdict(self), FLUXSCL=self.scale, RAOFF_DECOFF_arcsec=self.shift_arcsec
        )


def measure_correction(tables: Iterable[Path]) -> Correction:
    """Measure the correction of an epoch from the photometry of its tiles.

    Parameters
    ----------
    tables : iterable of path
        ``<id>.photometry.csv`` with sidecars. Absent and empty ones are skipped.
    """
    rows, offsets = [], []
    for path in tables:
        if not Path(path).exists():
            continue
        try:
            table = read_csv(path)
            clean = (table["flags"] == "") & (table.snr > LEAST_SNR) & (table.catalog_flux_jy > 0)
            rows.append(table[clean])
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: not a photometry table ({error}); remake it") from None
        found = read_sidecar(path, PhotometryFigures).figures.astrometry
        if found and found.error_arcsec > 0:
            offsets.append([found.ra_offset_arcsec, found.dec_offset_arcsec, found.error_arcsec])
    flux = _flux(pd.concat(rows)) if rows else {}
    return Correction(**flux, **_position(np.array(offsets)))


def _flux(rows: pd.DataFrame) -> dict:
    # A source in two tiles counts once.
    weight = rows.flux_err_jy**-2.0
    sums = pd.DataFrame(
        {"w": weight, "ws": weight * rows.flux_jy, "wc": weight * rows.catalog_flux_jy}
    ).groupby(rows.source_id.to_numpy()).sum()  # fmt: skip
    if len(sums) < LEAST_N:
        return {"n_flux": len(sums)}
    measured, catalog = (sums.ws / sums.w).to_numpy(), (sums.wc / sums.w).to_numpy()
    found = fit_flux(measured, sums.w.to_numpy() ** -0.5, catalog)
    ratio, error = found["flux_ratio"], found["flux_ratio_error"]
    possible = POSSIBLE[0] < ratio < POSSIBLE[1] and found["n_flux"] >= LEAST_N
    return found | {"scaled": bool(possible and abs(ratio - 1) > SIGNIFICANT * error)}


def fit_flux(measured: np.ndarray, error: np.ndarray, catalog: np.ndarray) -> dict:
    """Fit ``measured = ratio (catalogue - offset)``, variable sources clipped.

    Measurements have their errors and a scatter proportional to flux, which is that of the ratios;
    the fit is Huber's. The offset is taken as 0 where it is not significant.

    Parameters
    ----------
    measured, error, catalog : (n,) array
        Fluxes, their errors, and what the catalogue has, Jy.

    Returns
    -------
    dict
        ``flux_ratio``, ``flux_offset_jy``, their errors, ``n_flux``, ``n_clipped``.
    """
    kept = np.ones(measured.size, bool)
    start = np.array([np.median(measured / catalog), 0.0])
    n_terms = 2 if np.ptp(catalog) > 1e-9 * catalog.max() else 1  # equal fluxes tell no offset
    for _ in range(10):
        away = (measured - start[1]) / catalog - start[0]
        scatter = robust.sigma(away[kept], 0)
        # Part of the scatter is noise: what is left is that of the sources.
        own = np.sqrt(max(scatter**2 - np.median((error / catalog)[kept] ** 2), 1e-4**2))
        sigma = np.hypot(error, own * catalog)
        if n_terms == 2:
            both, covariance = _huber(measured[kept], sigma[kept], catalog[kept], 2, start)
        else:
            both, covariance = np.zeros(2), np.zeros((2, 2))
        if not both[1] or abs(both[1]) < SIGNIFICANT * np.sqrt(covariance[1, 1]):
            one, variance = _huber(measured[kept], sigma[kept], catalog[kept], 1, start)
            both = np.array([one[0], 0.0])
            covariance[0, 0] = variance[0, 0]
        start = both
        pull = np.abs(measured - start[0] * catalog - start[1]) / sigma
        now = pull < CLIP_SIGMA
        if np.array_equal(now, kept) or now.sum() < 3:
            break
        kept = now
    return {
        "flux_ratio": float(start[0]),
        "flux_ratio_error": float(np.sqrt(covariance[0, 0])),
        "flux_offset_jy": float(-start[1]),
        "flux_offset_error_jy": float(np.sqrt(covariance[1, 1])),
        "n_flux": int(kept.sum()),
        "n_clipped": int((~kept).sum()),
    }


def _huber(
    measured: np.ndarray,
    sigma: np.ndarray,
    catalog: np.ndarray,
    n_terms: int,
    start: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a slope, with `n_terms` 2 an intercept, too; return terms and their covariance."""
    design = (np.stack([catalog, np.ones_like(catalog)], 1) / sigma[:, None])[:, :n_terms]
    solved = optimize.least_squares(
        lambda x: design @ x - measured / sigma, start[:n_terms], lambda _: design,
        loss="huber", f_scale=1.345,
    )  # fmt: skip
    pull = design @ solved.x - measured / sigma
    # Huber's estimator at a normal distribution has 95 % of the efficiency of the mean.
    inflate = max(1.0, robust.sigma(pull, 0)) ** 2 / 0.95
    return solved.x, np.linalg.inv(design.T @ design) * inflate


def _position(offsets: np.ndarray) -> dict:
    if not len(offsets):
        return {}
    weight = offsets[:, 2] ** -2.0
    mean = np.average(offsets[:, :2], axis=0, weights=weight)
    error = weight.sum() ** -0.5
    if len(offsets) > 2:  # tiles that disagree by more than their errors tell less
        scatter = np.average((offsets[:, :2] - mean) ** 2, axis=0, weights=weight).mean()
        error = max(error, np.sqrt(scatter / (len(offsets) - 1)))
    length = np.hypot(*mean)
    return {
        "ra_offset_arcsec": float(mean[0]),
        "dec_offset_arcsec": float(mean[1]),
        "position_error_arcsec": float(error),
        "n_positions": len(offsets),
        "moved": bool(length > max(LEAST_OFFSET, SIGNIFICANT * error)),
    }
