"""One flux scale for all epochs, told by the ensemble of steady sources.

Epochs are taken in blocks of `BLOCK`, in order of time. A source's reference flux comes from the
first block in which it is measured well and steady, and is frozen then. An epoch that sees frozen
sources is compared with those alone, each epoch by itself: there is no chain of comparisons that
could drift, and a new night moves no other one. Only epochs that see none, those of the first block
or of a new part of the sky, are solved for together. So the scales are a function of the set of
epochs, and a night at the end costs its own block and not the history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ..core import robust

__all__ = [
    "BLOCK",
    "REFERENCE_N",
    "REFERENCE_SNR",
    "STEADY_P",
    "EpochScale",
    "epoch_scale",
    "no_reference",
    "solve_block",
]

#: Epochs of a block.
BLOCK = 20
#: Sources above this signal-to-noise ratio (median over epochs) tell the flux scale.
REFERENCE_SNR = 10.0
#: Fewest of them for an epoch's scale to be fitted.
REFERENCE_N = 3
#: A source less likely to be steady than this does not tell the flux scale.
STEADY_P = 1e-3


@dataclass(frozen=True)
class EpochScale:
    """Flux scales of epochs relative to the ensemble.

    Attributes
    ----------
    scale, error : (n_epochs,) array
        Measured over common flux, and its standard deviation (1 and 0 where it cannot be told).
    n_reference : (n_epochs,) int array
        Steady sources that told it.
    systematic : float
        Fractional scatter of steady sources beyond their errors.
    steady : (n_sources,) bool array
        Reference sources that were kept.
    candidate : (n_sources,) bool array
        Reference sources before variable ones were clipped.
    """

    scale: np.ndarray
    error: np.ndarray
    n_reference: np.ndarray
    systematic: float
    steady: np.ndarray
    candidate: np.ndarray


def epoch_scale(flux: np.ndarray, error: np.ndarray, floor: float = 0.0) -> EpochScale:
    """Fit the flux scale of each epoch to the steady sources.

    The model is ``ln f = a + b`` with a per source and b per epoch; the median of b is 0. Errors
    are statistical and a fractional scatter s in quadrature, s fitted by maximum likelihood.
    Sources whose chi-squared has a probability below 1e-3 are clipped and may come back.

    Parameters
    ----------
    flux, error : (n_sources, n_epochs) array
        Measured fluxes and statistical errors, Jy; NaN where there is none.
    floor : float
        Least fractional scatter.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.isfinite(flux) & (flux > 0) & (error > 0)
        snr = np.where(known, flux / error, np.nan)
        y, sigma = np.log(np.where(known, flux, 1)), np.where(known, error / flux, np.inf)
    count = known.sum(1)
    candidate = (count >= 2) & (_nanmedian(snr) >= REFERENCE_SNR)
    known &= candidate[:, None]
    b, steady = _median_polish(y, known), candidate
    systematic = max(floor, _scatter(_residual(y, b, known, sigma, 1.0), sigma, count, tails=True))
    for _ in range(30):
        before = steady, systematic
        chi2 = np.nansum(
            _residual(y, b, known, sigma, systematic) ** 2 / (sigma**2 + systematic**2), axis=1
        )
        steady = candidate & (stats.chi2.sf(chi2, np.maximum(count - 1, 1)) > STEADY_P)
        kept = known & steady[:, None]
        weight = np.where(kept, 1 / (sigma**2 + systematic**2), 0)
        b = _two_way(y, weight, b)
        residual = _residual(y, b, kept, sigma, systematic)
        systematic = max(floor, _scatter(residual, sigma, count))
        if np.array_equal(before[0], steady) and abs(systematic - before[1]) < 1e-5:
            break
    n_reference = (known & steady[:, None]).sum(0)
    determined = n_reference >= REFERENCE_N
    if determined.any():
        b = b - np.median(b[determined])
    with np.errstate(divide="ignore"):
        b_error = 1 / np.sqrt(weight.sum(0))
    return EpochScale(
        np.where(determined, np.exp(b), 1.0),
        np.where(determined, np.exp(b) * b_error, 0.0),
        n_reference,
        float(systematic),
        steady,
        candidate,
    )


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Return row medians without warnings; NaN becomes -inf where nothing is known."""
    known = np.isfinite(values).any(1)
    result = np.full(len(values), -np.inf)
    result[known] = np.nanmedian(values[known], axis=1)
    return result


def _median_polish(y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return epoch terms from alternating medians: a start that variable sources do not move."""
    b = np.zeros(y.shape[1])
    rows = known.any(1)
    if not rows.any():
        return b
    table = np.where(known, y, np.nan)[rows]
    for _ in range(5):
        a = np.nanmedian(table - b, axis=1)
        columns = np.isfinite(table).any(0)
        b[columns] = np.nanmedian((table - a[:, None])[:, columns], axis=0)
    return b


def _two_way(y: np.ndarray, weight: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the epoch terms of the weighted least-squares fit ``y = a + b``, mean 0."""
    rows, columns = weight.sum(1) > 0, weight.sum(0) > 0
    if not rows.any():
        return b
    w = weight[np.ix_(rows, columns)]
    data = np.where(w > 0, y[np.ix_(rows, columns)], 0)
    per_source = w.sum(1)
    # Normal equations with the source terms eliminated; one mean is free.
    matrix = np.diag(w.sum(0)) - (w / per_source[:, None]).T @ w
    right = (w * data).sum(0) - (w / per_source[:, None]).T @ (w * data).sum(1)
    b = b.copy()
    b[columns] = np.linalg.lstsq(matrix, right, rcond=1e-10)[0]
    return b


def _residual(
    y: np.ndarray, b: np.ndarray, known: np.ndarray, sigma: np.ndarray, systematic: float
) -> np.ndarray:
    """Return what epochs and the mean of each source leave; NaN where nothing is known."""
    weight = np.where(known, 1 / (sigma**2 + systematic**2), 0)
    a = ((y - b) * weight).sum(1) / np.maximum(weight.sum(1), 1e-300)
    return np.where(known, y - a[:, None] - b, np.nan)


def _scatter(
    residual: np.ndarray, sigma: np.ndarray, count: np.ndarray, tails: bool = False
) -> float:
    """Return the fractional scatter beyond the errors, by maximum likelihood.

    A source's own mean takes one degree of freedom, which shrinks its residuals by
    ``sqrt(1 - 1/n)``. With `tails` the likelihood is Student's t of three degrees of freedom,
    which variable sources hardly move.
    """
    kept = np.isfinite(residual)
    if kept.sum() < 4:
        return 0.0
    shrink = np.sqrt(1 - 1 / np.maximum(count, 2))[:, None]
    r, s2 = (residual / shrink)[kept], sigma[kept] ** 2

    def cost(ln_s: float) -> float:
        variance = s2 + np.exp(2 * ln_s)
        misfit = 4 * np.log1p(r**2 / variance / 3) if tails else r**2 / variance
        return float((np.log(variance) + misfit).sum())

    best = optimize.minimize_scalar(cost, bounds=(np.log(1e-5), np.log(1.0)), method="bounded")
    return float(np.exp(best.x)) if best.x > np.log(1e-4) else 0.0


# --- blocks ---------------------------------------------------------------------------------------

#: Columns of a reference: logarithm of the flux (Jy), its error, fractional scatter beyond errors.
_REFERENCE = ("ln_flux", "error", "systematic")


def no_reference() -> pd.DataFrame:
    """Return the reference before the first block: no source is frozen."""
    return pd.DataFrame(columns=_REFERENCE, index=pd.Index([], dtype=str), dtype=float)


def solve_block(
    table: pd.DataFrame, epochs: list[str], reference: pd.DataFrame, floor: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Find the scales of a block of epochs, and freeze the sources that it measures well.

    Parameters
    ----------
    table : DataFrame
        Usable measurements: ``source_id``, ``epoch``, ``flux_jy``, ``flux_err_jy``.
    epochs : list of str
        Epochs of the block, in order of time.
    reference : DataFrame
        Frozen sources by ``source_id``: ``ln_flux``, its ``error``, and the fractional scatter
        beyond the errors (``systematic``) of the fit they come from.
    floor : float
        Least fractional scatter.

    Returns
    -------
    scales : DataFrame
        By epoch: ``scale`` (measured over reference), ``scale_error``, ``systematic``,
        ``n_reference``, ``n_candidates`` (the same before variable sources were clipped). Where
        fewer than three sources tell it, the scale is 1 and its error 0.
    reference : DataFrame
        With the sources that this block froze.
    """
    source, sources = pd.factorize(table.source_id, sort=True)
    column = pd.Index(epochs).get_indexer(table.epoch)
    flux, error = (np.full((len(sources), len(epochs)), np.nan) for _ in range(2))
    flux[source, column], error[source, column] = table.flux_jy, table.flux_err_jy
    frozen = reference.reindex(sources)
    found = [_against(frozen, flux[:, e], error[:, e], floor) for e in range(len(epochs))]
    free = np.array([e for e, one in enumerate(found) if one is None], int)
    if free.size:
        joint = epoch_scale(flux[:, free], error[:, free], floor)
        with np.errstate(invalid="ignore"):
            seen = (flux[:, free] > 0).astype(int)
        counted = seen[joint.candidate].sum(0)
        for i, e in enumerate(free):
            found[e] = (
                joint.scale[i], joint.error[i], joint.systematic, joint.n_reference[i], counted[i]
            )  # fmt: skip
    names = ["scale", "scale_error", "systematic", "n_reference", "n_candidates"]
    scales = pd.DataFrame(found, columns=names, index=pd.Index(epochs, dtype=str))
    new = _freeze(sources, flux, error, scales)
    return scales, pd.concat([reference, new[~new.index.isin(reference.index)]])


def _against(
    frozen: pd.DataFrame, flux: np.ndarray, error: np.ndarray, floor: float
) -> tuple | None:
    """Compare one epoch with frozen sources; None if too few of them were measured.

    A night that scatters more than those before it, beyond chance, gets its own scatter.
    """
    a, a_error = frozen.ln_flux.to_numpy(), frozen.error.to_numpy()
    with np.errstate(invalid="ignore"):
        known = (flux > 0) & (np.exp(a) > REFERENCE_SNR * error)
    if known.sum() < REFERENCE_N:
        return None
    residual = np.log(flux[known]) - a[known]
    sigma = np.hypot(error[known] / flux[known], a_error[known])
    systematic = max(floor, float(frozen.systematic[known].median()))
    limit = stats.norm.isf(STEADY_P / 2)
    b = np.median(residual)
    pull = np.abs(residual - b) / np.hypot(sigma, systematic)
    if robust.sigma(pull, 0) > 1 + 3 * 1.17 / np.sqrt(pull.size):
        own = _scatter((residual - b)[:, None], sigma[:, None], np.full(pull.size, 1e9), tails=True)
        systematic = max(systematic, own)
    variance = sigma**2 + systematic**2
    for _ in range(10):
        kept = np.abs(residual - b) < limit * np.sqrt(variance)
        if kept.sum() < REFERENCE_N:
            return None
        before, b = b, np.average(residual[kept], weights=1 / variance[kept])
        if abs(b - before) < 1e-7:
            break
    scale, b_error = np.exp(b), (1 / variance[kept]).sum() ** -0.5
    return scale, scale * b_error, systematic, kept.sum(), known.sum()


def _freeze(
    sources: pd.Index, flux: np.ndarray, error: np.ndarray, scales: pd.DataFrame
) -> pd.DataFrame:
    """Return the steady sources of a block: weighted means on the common scale and their errors."""
    determined = (scales.n_reference >= REFERENCE_N).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        known = (flux > 0) & (error > 0) & determined
        snr = np.where(known, flux / error, np.nan)
        y = np.log(np.where(known, flux, 1) / scales.scale.to_numpy())
        sigma = np.hypot(error / flux, (scales.scale_error / scales.scale).to_numpy())
    count = known.sum(1)
    scatter = scales.systematic.to_numpy()
    weight = np.where(known, 1 / (np.where(known, sigma, 1) ** 2 + scatter**2), 0)
    total = np.maximum(weight.sum(1), 1e-300)
    mean = (weight * y).sum(1) / total
    chi2 = (weight * (y - mean[:, None]) ** 2).sum(1)
    steady = (
        (count >= 2)
        & (_nanmedian(snr) >= REFERENCE_SNR)
        & (stats.chi2.sf(chi2, np.maximum(count - 1, 1)) > STEADY_P)
    )
    columns = {
        "ln_flux": mean,
        "error": total**-0.5,
        "systematic": (weight * scatter).sum(1) / total,
    }
    return pd.DataFrame(columns, index=pd.Index(sources, dtype=str))[steady]
