"""Measures of variability of light curves, and the choice of candidates."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import pandas as pd
from scipy import special, stats

from ..core.options import LightcurveOptions
from . import templates
from .flux_scale import STEADY_P

__all__ = [
    "SteadySample",
    "Window",
    "add_templates",
    "candidates",
    "match",
    "pair_metrics",
    "variability",
    "windows",
]

#: Least |Vs| of a significant pair: the VAST pipeline's default.
SIGNIFICANT_VS = 4.3
#: Beyond this many measurements of a source, pairs are formed of the faintest and brightest only.
PAIRS_MOST = 200
#: Events are looked for in windows of this length, which overlap by half: the longest template (a
#: lens of 120 days of radius) fits in one of them whole, days.
WINDOW_DAYS = 512.0
#: Most steady sources that are scrambled to learn what a score is worth.
SAMPLE = 500


def pair_metrics(flux: np.ndarray, error: np.ndarray) -> tuple[float, float, float]:
    """Return metrics of pairs of measurements of one source.

    Returns
    -------
    vs_max : float
        Largest ``|Vs|``, ``Vs = (a - b) / sqrt(ea^2 + eb^2)``.
    vs, m : float
        ``|Vs|`` and ``|m|``, ``m = 2 (a - b) / (a + b)``, of the pair with the largest ``|m|``
        among those with ``|Vs|`` of at least 4.3; 0 if there is none. As in the VAST pipeline.
    """
    if flux.size > PAIRS_MOST:
        order = np.argsort(flux)
        keep = np.r_[order[: PAIRS_MOST // 2], order[-PAIRS_MOST // 2 :]]
        flux, error = flux[keep], error[keep]
    if flux.size < 2:
        return 0.0, 0.0, 0.0
    first, second = _pairs(flux.size)
    difference = np.abs(flux[first] - flux[second])
    vs = difference / np.hypot(error[first], error[second])
    with np.errstate(divide="ignore"):
        m = 2 * difference / np.abs(flux[first] + flux[second])
    significant = vs >= SIGNIFICANT_VS
    if not significant.any():
        return float(vs.max()), 0.0, 0.0
    best = np.argmax(np.where(significant, m, -1))
    return float(vs.max()), float(vs[best]), float(m[best])


@cache
def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n, 1)


def variability(table: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of variability of each source.

    Parameters
    ----------
    table : DataFrame
        Light curves, as in `DICTIONARY`. Rows with ``used`` enter.

    Returns
    -------
    DataFrame
        One row a source, with w = 1 / flux_err^2 (Jy^-2) and N used measurements:
        ``eta = N/(N-1) (<w S^2> - <w S>^2/<w>)``, the reduced chi-squared about the weighted mean;
        ``v = std(S)/mean(S)``; ``vs``, ``m``, ``vs_max`` from `pair_metrics`; ``chi2_reduced``, the
        same as eta with the statistical errors alone; ``log10_false_alarm``, the probability that a
        constant
        source has this eta or more.
    """
    used = table[table["used"]]
    grouped = used.groupby("source_id", sort=False)
    n = grouped.size()
    first = table.groupby("source_id", sort=False)[["name", "ra_deg", "dec_deg"]].first()
    out = first.assign(n_meas=n.reindex(first.index, fill_value=0))
    out["n_detected"] = (
        used[used.upper_limit_jy.isna()]
        .groupby("source_id")
        .size()
        .reindex(out.index, fill_value=0)
    )
    out["mean_flux_jy"] = grouped.flux_jy.mean()
    weight = used.flux_err_jy**-2.0
    sums = pd.DataFrame(
        {"source_id": used.source_id, "w": weight, "ws": weight * used.flux_jy}
    ).groupby("source_id")[["w", "ws"]].sum()  # fmt: skip
    out["wavg_flux_jy"] = sums.ws / sums.w
    out["wavg_flux_err_jy"] = sums.w**-0.5
    out["min_flux_jy"], out["max_flux_jy"] = grouped.flux_jy.min(), grouped.flux_jy.max()
    out["max_snr"] = grouped.snr.max()
    out["eta"] = _chi2(used, used.flux_jy, used.flux_err_jy) / (n - 1).where(n > 1)
    out["chi2_reduced"] = _chi2(
        used, used.flux_jy, used.flux_raw_err_jy / used.flux_scale
    ) / (n - 1).where(n > 1)  # fmt: skip
    out["v"] = grouped.flux_jy.std(ddof=1) / out.mean_flux_jy
    pairs = [
        (source, *pair_metrics(part.flux_jy.to_numpy(), part.flux_err_jy.to_numpy()))
        for source, part in grouped[["flux_jy", "flux_err_jy"]]
    ]
    pairs = pd.DataFrame(pairs, columns=["source_id", "vs_max", "vs", "m"]).set_index("source_id")
    out = out.join(pairs)
    dof = (out.n_meas - 1).clip(lower=1)
    out["log10_false_alarm"] = log10_chi2_sf((out.eta * dof).to_numpy(), dof.to_numpy())
    return out.reset_index()


def log10_chi2_sf(chi2: np.ndarray, dof: np.ndarray) -> np.ndarray:
    """Return the logarithm of the upper tail of chi-squared, where it underflows too.

    Far out the tail is ``(x/2)^(k/2 - 1) exp(-x/2) / Gamma(k/2)`` to a relative error of about k/x.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = stats.chi2.logsf(chi2, dof)
        far = (dof / 2 - 1) * np.log(chi2 / 2) - chi2 / 2 - special.gammaln(dof / 2)
    return np.where(np.isneginf(exact), far, exact) / np.log(10)


def _chi2(used: pd.DataFrame, flux: pd.Series, error: pd.Series) -> pd.Series:
    """Return chi-squared about the weighted mean, by source."""
    weight = error**-2.0
    by = used.source_id
    mean = (weight * flux).groupby(by).transform("sum") / weight.groupby(by).transform("sum")
    return (weight * (flux - mean) ** 2).groupby(by).sum()


# --- templates ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A stretch of time in which events are looked for.

    Attributes
    ----------
    epochs : list of str
        Its epochs, in order of time.
    mjd : (n_epochs,) array
        Their times.
    """

    epochs: list[str]
    mjd: np.ndarray

    @cached_property
    def templates(self) -> templates.Bank:
        """The templates that its epochs can tell from a constant."""
        return templates.bank(self.mjd)

    def grid(self, curves: pd.DataFrame, sources: pd.Index) -> tuple[np.ndarray, np.ndarray]:
        """Return fluxes and errors of some sources, (n_sources, n_epochs); NaN where unmeasured."""
        column = pd.Index(self.epochs).get_indexer(curves.epoch)
        inside = curves.used.to_numpy() & (column >= 0)
        row = sources.get_indexer(curves.source_id[inside])
        flux, error = (np.full((len(sources), len(self.epochs)), np.nan) for _ in range(2))
        flux[row, column[inside]] = curves.flux_jy[inside]
        error[row, column[inside]] = curves.flux_err_jy[inside]
        return flux, error


def windows(mjd: pd.Series) -> list[Window]:
    """Divide epochs (name to time) into windows of `WINDOW_DAYS` that overlap by half.

    The longest events fit in a window, so a new night concerns two of them and not the history.
    Windows with too few epochs, and those with no epoch that another one lacks, are left out.
    """
    mjd = mjd.sort_values(kind="stable")
    half = np.floor(mjd.to_numpy() / (WINDOW_DAYS / 2)).astype(int)
    found: list[Window] = []
    for first in sorted({*half, *(half - 1)}):
        inside = (half == first) | (half == first + 1)
        if inside.sum() < templates.LEAST_EPOCHS:
            continue
        window = Window(list(mjd.index[inside]), mjd.to_numpy()[inside])
        if found and set(window.epochs) <= set(found[-1].epochs):
            continue
        if found and set(found[-1].epochs) <= set(window.epochs):
            found.pop()
        found.append(window)
    return found


def match(curves: pd.DataFrame, sources: pd.Index, window: Window) -> pd.DataFrame:
    """Find the best template of each source in a window.

    Returns
    -------
    DataFrame
        By source: ``template`` (``ese`` or ``flare``), ``template_score``, ``template_amplitude``
        (of the flux), ``template_mjd``, ``template_width_days``; the score is NaN for a source
        with too few measurements, and not positive where none can be told.
    """
    flux, error = window.grid(curves, sources)
    best, which, amplitude = templates.score(flux, error, window.templates)
    columns = {
        "template": window.templates.kind[which],
        "template_score": np.where(
            np.isfinite(flux).sum(1) >= templates.LEAST_EPOCHS, best, np.nan
        ),
        "template_amplitude": amplitude,
        "template_mjd": window.templates.centre_mjd[which],
        "template_width_days": window.templates.width_days[which],
    }
    return pd.DataFrame(columns, index=sources)


@dataclass
class SteadySample:
    """Light curves of steady sources, to be scrambled: those whose names have the lowest checksums.

    A choice that depends neither on the order in which sources come nor on their number.
    """

    checksum: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    flux: np.ndarray | None = None
    error: np.ndarray | None = None

    def add(self, curves: pd.DataFrame, sources: pd.Index, window: Window) -> None:
        """Take those of some sources that are steady in the window."""
        flux, error = window.grid(curves, sources)
        count = np.isfinite(flux).sum(1)
        weight = np.where(np.isfinite(flux), error**-2.0, 0)
        mean = np.nansum(weight * flux, 1) / np.maximum(weight.sum(1), 1e-300)
        chi2 = np.nansum(weight * (flux - mean[:, None]) ** 2, 1)
        steady = stats.chi2.sf(chi2, np.maximum(count - 1, 1)) > STEADY_P
        kept = steady & (count >= templates.LEAST_EPOCHS)
        flux, error = flux[kept], error[kept]
        checksum = np.array([zlib.crc32(s.encode()) for s in sources[kept]], int)
        if self.flux is not None:
            flux, error = np.r_[self.flux, flux], np.r_[self.error, error]
            checksum = np.r_[self.checksum, checksum]
        order = np.argsort(checksum, kind="stable")[:SAMPLE]
        self.checksum, self.flux, self.error = checksum[order], flux[order], error[order]

    def trials(self, window: Window) -> float:
        """Return how many independent templates the window counts for."""
        assert self.flux is not None and self.error is not None  # curves were added
        rng = np.random.default_rng(len(window.epochs))  # the same answer for the same table
        return templates.effective_trials(self.flux, self.error, window.templates, rng)


def add_templates(
    measures: pd.DataFrame, matches: list[pd.DataFrame], trials: float
) -> pd.DataFrame:
    """Add the best template of all windows to the measures of variability.

    ``log10_false_alarm`` becomes that of the better of two tests, twice the smaller probability;
    that of the templates counts the independent ones of all windows. Unchanged without windows.
    """
    blank = dict.fromkeys(("score", "amplitude", "mjd", "width_days"), np.nan)
    out = measures.assign(template="", **{f"template_{k}": v for k, v in blank.items()})
    if not matches:
        return out
    best = pd.concat(matches).sort_values("template_score", ascending=False, kind="stable")
    best = best[~best.index.duplicated()].reindex(measures.source_id).reset_index(drop=True)
    best.index = measures.index
    matched = best.template_score > 0
    out[best.columns] = best.where(matched)
    out["template"] = out["template"].astype(object).where(matched, "")
    by_template = np.where(matched, templates.log10_false_alarm(best.template_score, trials), 0.0)
    both = np.fmin(out.log10_false_alarm, by_template) + np.log10(2)
    # Long enough in one window for templates to be a second test, whether one was found or not.
    out["log10_false_alarm"] = out.log10_false_alarm.where(
        best.template_score.isna(), np.minimum(both, 0)
    )
    return out


def candidates(table: pd.DataFrame, options: LightcurveOptions) -> pd.DataFrame:
    """Return the variable sources, the least likely to be constant first.

    A candidate is either above ``eta_threshold`` and ``v_threshold``, or follows a template of an
    amplitude above ``amplitude_threshold``; it is less probable than ``false_alarm`` for a constant
    source, and was seen at ``min_snr`` in one epoch at least.
    """
    scattered = (table.eta > options.eta_threshold) & (table.v.abs() > options.v_threshold)
    shaped = table.template_amplitude.abs() > options.amplitude_threshold
    chosen = table[
        (scattered | shaped)
        & (table.log10_false_alarm < np.log10(options.false_alarm))
        & (table.max_snr >= options.min_snr)
    ]
    chosen = chosen.sort_values(["log10_false_alarm", "eta"], ascending=[True, False])
    chosen.insert(0, "rank", np.arange(1, len(chosen) + 1))
    return chosen
