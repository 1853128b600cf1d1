"""Matched templates for light curves: extreme scattering events and flares.

An extreme scattering event is refraction in a plasma lens: the source fades for days to months
between two brighter edges. Templates are those of a Gaussian lens (Clegg, Fey & Lazio 1998, ApJ
496, 253) and, for flares, a Gaussian in time and a fast rise with an exponential decay. Each is
fitted to a light curve with a constant source; the score is the largest signal-to-noise ratio of
its amplitude over all onsets and widths. What a score is worth is told by constant light curves,
simulated and scrambled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

__all__ = [
    "LEAST_EPOCHS",
    "Bank",
    "bank",
    "effective_trials",
    "gaussian_lens",
    "log10_false_alarm",
    "score",
]

#: Strengths of the lenses in the bank, and size of the source relative to the lens.
LENSES, SOURCE_SIZE = (4.0, 20.0), 0.5
#: Fewest epochs for templates to mean something: a constant, an amplitude, a time and a width.
LEAST_EPOCHS = 5
#: Most curves that the worth of a score is learnt from, of each kind, and the least, where the bank
#: is large; products of curves, templates and epochs that bound the first.
N_TRIALS, LEAST_TRIALS, TRIALS_WORK = 20_000, 2000, 1e9
#: Longest event that is looked for, days.
LONGEST_DAYS = 120.0
#: Least variance of a template over the measured epochs, over its mean square.
_LEAST_SHAPE = 0.05
#: Scores that are held in memory at once.
_CHUNK = 1_000_000
#: Upper tail of the scores of constant curves that the number of trials is read from.
_TAIL = 0.01


def gaussian_lens(u: np.ndarray, strength: float, source_size: float) -> np.ndarray:
    """Return the gain of a one-dimensional Gaussian plasma lens.

    Parameters
    ----------
    u : array
        Distance of observer and axis, in units of the lens's scale.
    strength : float
        alpha of Clegg et al. (1998): rays at x arrive at ``x (1 + alpha exp(-x^2))``.
    source_size : float
        FWHM of a Gaussian source, in the same units.
    """
    step, reach = 0.02, 12.0 + strength
    rays = np.linspace(-reach, reach, 1_000_001)
    edges = np.arange(-reach, reach + step, step)
    arrived, _ = np.histogram(rays * (1 + strength * np.exp(-(rays**2))), edges)
    gain = arrived * (rays[1] - rays[0]) / step
    gain = ndimage.gaussian_filter1d(gain, source_size / np.sqrt(8 * np.log(2)) / step)
    return np.interp(u, (edges[1:] + edges[:-1]) / 2, gain, left=1.0, right=1.0)


@dataclass(frozen=True)
class Bank:
    """Templates on the epochs of a table.

    Attributes
    ----------
    shapes : (n_epochs, n_templates) array
        Fractional change of flux at each epoch; its extreme is 1 in absolute value.
    kind : (n_templates,) array of str
        ``ese`` or ``flare``.
    centre_mjd, width_days : (n_templates,) array
        Middle of the event (peak of a flare); radius of the lens, FWHM or decay time of a flare.
    """

    shapes: np.ndarray
    kind: np.ndarray
    centre_mjd: np.ndarray
    width_days: np.ndarray


def bank(mjd: np.ndarray) -> Bank:
    """Return the templates that the epochs can tell from a constant.

    Widths go from the typical step between epochs to a third of the span (or `LONGEST_DAYS`), by
    factors of 1.5; centres are spaced by half a width.

    Parameters
    ----------
    mjd : (n_epochs,) array
        Times of the epochs, ascending.
    """
    step = float(np.median(np.diff(mjd)))
    widest = max(step, min((mjd[-1] - mjd[0]) / 3, LONGEST_DAYS))
    widths = step * 1.5 ** np.arange(int(np.log(widest / step) / np.log(1.5)) + 1)
    u = np.linspace(-8, 8, 1601)
    curves = [("ese", gaussian_lens(u, a, SOURCE_SIZE) - 1) for a in LENSES]
    curves.append(("flare", np.exp(-4 * np.log(2) * u**2)))
    curves.append(("flare", np.exp(np.where(u < 0, 4 * u, -u))))
    shapes, labels = [], []
    for width in widths:
        for centre in np.arange(mjd[0] - width / 2, mjd[-1] + width / 2 + 1e-9, width / 2):
            for kind, curve in curves:
                shape = np.interp((mjd - centre) / width, u, curve, left=0, right=0)
                if np.abs(shape).max() > 0.3 and np.ptp(shape) > 0.3:
                    shapes.append(shape / np.abs(shape).max())
                    labels.append((kind, centre, width))
    return Bank(np.array(shapes).T, *map(np.array, zip(*labels, strict=True)))


def score(
    flux: np.ndarray, error: np.ndarray, templates: Bank
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit every template with a constant to every light curve.

    Parameters
    ----------
    flux, error : (n, n_epochs) array
        Light curves, Jy; NaN where there is no measurement.
    templates : Bank
        From `bank`.

    Returns
    -------
    best : (n,) array
        Largest amplitude over its error; 0 below `LEAST_EPOCHS` measurements.
    which : (n,) int array
        Template that gave it.
    amplitude : (n,) array
        Its amplitude, as a fraction of the constant.
    """
    n = len(flux)
    parts = np.array_split(np.arange(n), max(1, n * templates.shapes.shape[1] // _CHUNK))
    found = [_score(flux[part], error[part], templates.shapes) for part in parts]
    best, which, amplitude = (np.concatenate(column) for column in zip(*found, strict=True))
    return best, which, amplitude


def _score(
    flux: np.ndarray, error: np.ndarray, h: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = np.isfinite(flux) & (error > 0)
    w = np.where(known, 1 / np.where(known, error, 1) ** 2, 0)
    constant = (w * np.where(known, flux, 0)).sum(1) / np.maximum(w.sum(1), 1e-300)
    # Relative to the weighted mean, sums do not cancel: half the precision is enough to choose by.
    f = np.where(known, flux - constant[:, None], 0)
    unit = np.maximum(w.max(1, keepdims=True), 1e-300)
    single_w, single_f, single_h = (a.astype(np.float32) for a in (w / unit, f, h))
    snr = _fit(single_w, single_f, single_h, _LEAST_SHAPE)[0]
    which = snr.argmax(1)
    enough = (known.sum(1) >= LEAST_EPOCHS) & (snr.max(1) != 0)
    chosen = _fit(w[:, None], f[:, None], h[:, which].T[..., None], 0.0)
    best, amplitude, offset = (np.where(enough, a[:, 0, 0], 0) for a in chosen)
    with np.errstate(invalid="ignore", divide="ignore"):
        return best, which, amplitude / (constant + offset)


def _fit(
    w: np.ndarray, f: np.ndarray, h: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit ``f = constant + amplitude h`` with weights w.

    A template that is constant over the measured epochs says nothing: its score is 0 if the
    weighted variance of h is below `least` times its mean square.

    w, f : (..., n, n_epochs), h : (..., n_epochs, n_templates); returns score, amplitude and
    constant, each (..., n, n_templates).
    """
    sum_w, sum_f = w.sum(-1, keepdims=True), (w * f).sum(-1, keepdims=True)
    sum_h, sum_hh, sum_fh = w @ h, w @ h**2, (w * f) @ h
    with np.errstate(invalid="ignore", divide="ignore"):
        information = sum_hh - sum_h**2 / sum_w
        measurable = information > least * sum_hh
        amplitude = np.where(measurable, (sum_fh - sum_f * sum_h / sum_w) / information, 0)
        score = np.where(measurable, amplitude * np.sqrt(np.maximum(information, 0)), 0)
        return score, amplitude, (sum_f - amplitude * sum_h) / sum_w


def effective_trials(
    flux: np.ndarray, error: np.ndarray, templates: Bank, rng: np.random.Generator
) -> float:
    """Return how many independent templates the bank counts for.

    The best of N independent scores exceeds x with probability ``1 - (1 - Q(x))^N``. N is read from
    the upper hundredth of the best scores of constant light curves, of two kinds: Gaussian noise on
    all epochs, and measured light curves of steady sources with their epochs scrambled. The larger
    N counts: scrambled curves have the tails of real measurements.

    Parameters
    ----------
    flux, error : (n, n_epochs) array
        Light curves of steady sources. Fewer than 20 are not scrambled.
    templates : Bank
        From `bank`.
    rng : numpy.random.Generator
        Source of randomness.
    """
    n_epochs, n_templates = templates.shapes.shape
    n_trials = int(np.clip(TRIALS_WORK / n_epochs / n_templates, LEAST_TRIALS, N_TRIALS))
    noise = rng.standard_normal((n_trials, n_epochs))
    samples = [score(1e3 + noise, np.ones_like(noise), templates)[0]]
    if len(flux) >= 20:
        picked = rng.integers(len(flux), size=min(n_trials, 100 * len(flux)))
        f, e = flux[picked], error[picked]
        order = rng.permuted(np.tile(np.arange(n_epochs), (len(picked), 1)), axis=1)
        f, e = np.take_along_axis(f, order, 1), np.take_along_axis(e, order, 1)
        samples.append(score(f, e, templates)[0])
    return max(_trials(best[best > 0]) for best in samples)


def _trials(best: np.ndarray) -> float:
    if best.size < 10 / _TAIL:
        return 1.0
    tail = stats.norm.sf(np.quantile(best, 1 - _TAIL))
    return float(np.clip(np.log1p(-_TAIL) / np.log1p(-tail), 1, None))


def log10_false_alarm(best: np.ndarray, trials: float) -> np.ndarray:
    """Return the logarithm of the probability that noise gives a score of `best` or more."""
    tail = stats.norm.logsf(best)
    few = tail + np.log(trials) < -5  # 1 - (1 - Q)^N is N Q there
    with np.errstate(divide="ignore"):
        exact = np.log(-np.expm1(trials * np.log1p(-np.exp(np.minimum(tail, -1e-12)))))
    return np.where(few, tail + np.log(trials), exact) / np.log(10)
