"""Light curves: all nights on one flux scale, measures of variability, ranked candidates.

Epochs differ in flux scale by more than sources vary. So each epoch's scale is fitted to the
ensemble of steady sources before anything is compared, variable ones clipped, and what the fit
cannot tell stays in the errors as a systematic floor. Every measurement is kept, detected or not.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import optimize, special, stats

from . import ese
from .config import LightcurveOptions, add_options, from_args
from .errors import DataError
from .products import Sidecar, read_sidecar, replacing

__all__ = ["DICTIONARY", "EpochScale", "epoch_scale", "pair_metrics", "variability"]

#: Columns of ``lightcurves.parquet``: type, unit, name in the VAST pipeline's tables, meaning.
DICTIONARY: dict[str, tuple[str, str, str, str]] = {
    "source_id": ("string", "", "source", "identity: the catalogue's name, the same in all nights"),
    "name": ("string", "", "name", "IAU name of the catalogue position, JHHMMSS.s+DDMMSS"),
    "ra_deg": ("double", "deg", "ra", "catalogue right ascension, ICRS"),
    "dec_deg": ("double", "deg", "dec", "catalogue declination, ICRS"),
    "mjd": ("double", "d", "time", "mean time of the measurement, UTC"),
    "epoch": ("string", "", "epoch", "night, or group of a tile"),
    "flux_jy": ("double", "Jy", "flux_peak", "flux on the common scale"),
    "flux_err_jy": ("double", "Jy", "flux_peak_err", "its error, systematic floor included"),
    "flux_raw_jy": ("double", "Jy", "", "flux as measured; flux_jy = flux_raw_jy / flux_scale"),
    "flux_raw_err_jy": ("double", "Jy", "", "its statistical error"),
    "flux_scale": ("double", "", "", "flux scale of the epoch relative to the ensemble (FLUXSCL)"),
    "flux_scale_err": ("double", "", "", "its error"),
    "local_rms_jy": ("double", "Jy", "local_rms", "noise around the source, common scale"),
    "snr": ("double", "", "snr", "flux_raw_jy / flux_raw_err_jy"),
    "upper_limit_jy": ("double", "Jy", "", "upper limit, common scale; blank for a detection"),
    "catalog_flux_jy": ("double", "Jy", "", "catalogue flux at the image's frequency"),
    "pb": ("double", "", "", "primary beam, or relative sensitivity of a mosaic"),
    "forced": ("bool", "", "forced", "measured at a known position (always true)"),
    "used": ("bool", "", "", "enters the statistics"),
    "flags": ("string", "", "flag", "words of the photometry, and 'rejected' for a failed epoch"),
    "image": ("string", "", "image", "image that was measured, from the folder of this table"),
    "image_sha256": ("string", "", "", "its checksum: which version made this point"),
}

#: Sources above this signal-to-noise ratio (median over epochs) tell the flux scale.
REFERENCE_SNR = 10.0
#: Fewest of them for an epoch's scale to be fitted.
REFERENCE_N = 3
#: A source less likely to be steady than this does not tell the flux scale.
STEADY_P = 1e-3
#: Flags of measurements that do not count.
UNUSED_FLAGS = ("edge", "blank", "rejected")
#: Least |Vs| of a significant pair: the VAST pipeline's default.
SIGNIFICANT_VS = 4.3
#: Beyond this many measurements of a source, pairs are formed of the faintest and brightest only.
PAIRS_MOST = 200


# --- epochs on one scale --------------------------------------------------------------------------


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
    n_candidates : int
        Reference sources before variable ones were clipped.
    """

    scale: np.ndarray
    error: np.ndarray
    n_reference: np.ndarray
    systematic: float
    steady: np.ndarray
    n_candidates: int


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
    told = n_reference >= REFERENCE_N
    if told.any():
        b = b - np.median(b[told])
    with np.errstate(divide="ignore"):
        b_error = 1 / np.sqrt(weight.sum(0))
    return EpochScale(
        np.where(told, np.exp(b), 1.0),
        np.where(told, np.exp(b) * b_error, 0.0),
        n_reference,
        float(systematic),
        steady,
        int(candidate.sum()),
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


def _residual(y, b, known, sigma, systematic) -> np.ndarray:
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


# --- variability ----------------------------------------------------------------------------------


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
    first, second = np.triu_indices(flux.size, 1)
    difference = np.abs(flux[first] - flux[second])
    vs = difference / np.hypot(error[first], error[second])
    with np.errstate(divide="ignore"):
        m = 2 * difference / np.abs(flux[first] + flux[second])
    significant = vs >= SIGNIFICANT_VS
    if not significant.any():
        return float(vs.max()), 0.0, 0.0
    best = np.argmax(np.where(significant, m, -1))
    return float(vs.max()), float(vs[best]), float(m[best])


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


def match_templates(curves: pd.DataFrame, measures: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Add the best template of each source to its measures of variability.

    Returns
    -------
    measures : DataFrame
        With ``template`` (``ese`` or ``flare``), ``template_score``, ``template_amplitude`` (of
        the flux), ``template_mjd``, ``template_width_days``; ``log10_false_alarm`` becomes that of
        the better of two tests, twice the smaller probability. Unchanged with too few epochs.
    trials : float
        Independent templates that the bank counts for; 0 if there are too few epochs.
    """
    used = curves[curves["used"]]
    epochs = used.groupby("epoch").mjd.median().sort_values()
    if len(epochs) < ese.LEAST_EPOCHS:
        blank = dict.fromkeys(("score", "amplitude", "mjd", "width_days"), np.nan)
        return measures.assign(template="", **{f"template_{k}": v for k, v in blank.items()}), 0.0
    row = pd.Index(measures.source_id).get_indexer(used.source_id)
    column = epochs.index.get_indexer(used.epoch)
    flux, error = (np.full((len(measures), len(epochs)), np.nan) for _ in range(2))
    flux[row, column], error[row, column] = used.flux_jy, used.flux_err_jy
    templates = ese.bank(epochs.to_numpy())
    steady = (measures.log10_false_alarm > np.log10(STEADY_P)).to_numpy()
    complete = np.isfinite(flux).sum(1) >= ese.LEAST_EPOCHS
    chosen = steady & complete
    rng = np.random.default_rng(len(epochs))  # the same answer for the same table
    trials = ese.effective_trials(flux[chosen], error[chosen], templates, rng)
    best, which, amplitude = ese.score(flux, error, templates)
    told = best > 0
    matched = measures.assign(
        template=np.where(told, templates.kind[which], ""),
        template_score=np.where(told, best, np.nan),
        template_amplitude=np.where(told, amplitude, np.nan),
        template_mjd=np.where(told, templates.centre_mjd[which], np.nan),
        template_width_days=np.where(told, templates.width_days[which], np.nan),
    )
    by_template = np.where(told, ese.log10_false_alarm(best, trials), 0.0)
    both = np.fmin(matched.log10_false_alarm, by_template) + np.log10(2)
    matched["log10_false_alarm"] = np.where(
        complete, np.minimum(both, 0), matched.log10_false_alarm
    )
    return matched, trials


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


# --- tables ---------------------------------------------------------------------------------------


def read_epochs(paths: Iterable[Path], folder: Path) -> tuple[pd.DataFrame, list[dict]]:
    """Read photometry tables and their sidecars.

    Returns
    -------
    table : DataFrame
        All rows, with ``epoch``, ``image`` (relative to `folder`), ``image_sha256``; rows of an
        epoch whose photometry failed carry the flag ``rejected``.
    epochs : list of dict
        One entry an epoch, in order of time.

    Raises
    ------
    DataError
        If a table cannot be read, or two tables are of one epoch.
    """
    tables, epochs = [], []
    for path in paths:
        try:
            part = pd.read_csv(path, dtype={"source_id": str, "name": str, "group_or_epoch": str})
            part["flags"] = part["flags"].astype(object).fillna("").astype(str)
            record = read_sidecar(path)
            failed = record["verdict"] == "fail"
            if failed:
                part["flags"] = (part["flags"] + "|rejected").str.strip("|")
            names = part.image.unique()
            part["epoch"] = part.group_or_epoch
        except FileNotFoundError:
            raise DataError(f"{path}: no such table") from None
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"{path}: not a photometry table ({error}); remake it") from None
        if not len(part):
            continue
        part["image"] = _relative(Path(path).parent / names[0], folder)
        part["image_sha256"] = record.get("qa", {}).get("image_sha256") or ""
        offset = record.get("qa", {}).get("astrometry") or {}
        epochs.append(
            {
                "epoch": part.epoch.iloc[0],
                "mjd": float(part.mjd.median()),
                "table": _relative(path, folder),
                "rejected": failed,
                "RAOFF_arcsec": offset.get("ra_offset_arcsec"),
                "DECOFF_arcsec": offset.get("dec_offset_arcsec"),
                "offset_error_arcsec": offset.get("error_arcsec"),
            }
        )
        tables.append(part)
    if not tables:
        raise DataError("no photometry table has a row; nothing to make light curves from")
    names = [e["epoch"] for e in epochs]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise DataError(f"epoch {sorted(twice)[0]} is in more than one photometry table; give one")
    epochs.sort(key=lambda e: e["mjd"])
    return pd.concat(tables, ignore_index=True), epochs


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def common_scale(
    table: pd.DataFrame, epochs: list[dict], options: LightcurveOptions
) -> tuple[pd.DataFrame, EpochScale]:
    """Bring all epochs to one flux scale; returns the light curves and what was fitted.

    `epochs` gain ``FLUXSCL``, ``FLUXSCL_error`` and ``n_reference``.
    """
    blocked = (
        table["flags"].str.split("|").map(lambda words: not set(words).isdisjoint(UNUSED_FLAGS))
    )
    used = np.isfinite(table.flux_jy) & (table.flux_err_jy > 0) & ~blocked
    source, sources = pd.factorize(table.source_id, sort=True)
    order = {e["epoch"]: i for i, e in enumerate(epochs)}
    column = table.epoch.map(order).to_numpy()
    flux, error = (np.full((len(sources), len(epochs)), np.nan) for _ in range(2))
    flux[source[used], column[used]] = table.flux_jy[used]
    error[source[used], column[used]] = table.flux_err_jy[used]
    fitted = epoch_scale(flux, error, options.systematic_floor)
    for i, entry in enumerate(epochs):
        entry["FLUXSCL"], entry["FLUXSCL_error"] = float(fitted.scale[i]), float(fitted.error[i])
        entry["n_reference"] = int(fitted.n_reference[i])
    scale, scale_error = fitted.scale[column], fitted.error[column]
    corrected = table.flux_jy / scale
    relative = np.hypot(scale_error / scale, fitted.systematic)
    curves = table.assign(
        flux_raw_jy=table.flux_jy,
        flux_raw_err_jy=table.flux_err_jy,
        flux_scale=scale,
        flux_scale_err=scale_error,
        flux_jy=corrected,
        flux_err_jy=np.hypot(table.flux_err_jy / scale, corrected * relative),
        local_rms_jy=table.local_rms_jy / scale,
        upper_limit_jy=table.upper_limit_jy / scale,
        forced=True,
        used=used,
    )
    return curves.sort_values(["source_id", "mjd"], ignore_index=True), fitted


def write_curves(curves: pd.DataFrame, target: Path) -> None:
    """Write ``lightcurves.parquet``; units and meanings are in the metadata of its columns."""
    types = {"string": pa.string(), "double": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema(
        [
            pa.field(name, types[kind], metadata={"unit": unit, "vast_name": vast, "meaning": text})
            for name, (kind, unit, vast, text) in DICTIONARY.items()
        ],
        metadata={"dictionary": json.dumps({k: v[3] for k, v in DICTIONARY.items()})},
    )
    with replacing(target) as temporary:
        rows = pa.Table.from_pandas(curves[list(DICTIONARY)], schema, preserve_index=False)
        pq.write_table(rows.replace_schema_metadata(schema.metadata), temporary)


def argparser() -> argparse.ArgumentParser:
    """Return the parser of ``lightcurves``."""
    parser = argparse.ArgumentParser(prog="contimg lightcurves", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="OUTDIR")
    parser.add_argument("tables", type=Path, nargs="+", metavar="PHOTOMETRY.csv")
    add_options(parser, LightcurveOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Combine photometry tables and write light curves, variability and candidates."""
    options: LightcurveOptions = from_args(args, LightcurveOptions)
    started = time.monotonic()
    args.folder.mkdir(parents=True, exist_ok=True)
    table, epochs = read_epochs(args.tables, args.folder)
    curves, fitted = common_scale(table, epochs, options)
    measures, trials = match_templates(curves, variability(curves))
    ranked = candidates(measures, options)
    target = args.folder / "lightcurves.parquet"
    sidecar = Sidecar(
        "lightcurves",
        inputs=args.tables,
        parameters=options.model_dump(),
        qa={
            "n_epochs": len(epochs),
            "n_sources": len(measures),
            "n_measurements": len(curves),
            "n_candidates": len(ranked),
            "n_reference": fitted.n_candidates,
            "n_steady": int(fitted.steady.sum()),
            "systematic": fitted.systematic,
            "template_trials": trials,
            "epochs": epochs,
        },
    )
    if not (fitted.n_reference >= REFERENCE_N).all():
        sidecar.warn(
            f"an epoch has fewer than {REFERENCE_N} steady sources above {REFERENCE_SNR:g} sigma: "
            "its flux scale is taken as it is"
        )
    if fitted.n_candidates and fitted.steady.sum() < fitted.n_candidates / 2:
        sidecar.warn("more than half of the reference sources seem variable: is an epoch bad?")
    write_curves(curves, target)
    for name, content in (("variability.csv", measures), ("candidates.csv", ranked)):
        with replacing(args.folder / name) as temporary:
            content.to_csv(temporary, index=False, float_format="%.7g")
    sidecar.timings_s = {"total": time.monotonic() - started}
    sidecar.write(target, ("numpy", "pandas", "pyarrow", "scipy"))
    print(f"{len(epochs)} epochs, {len(measures)} sources, {len(ranked)} candidates")
