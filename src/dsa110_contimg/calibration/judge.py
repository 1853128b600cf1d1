"""Is this calibration good? Gates on its tables, and the verdict that follows from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..core.figures import CalibrateFigures
from ..core.options import CalibrationOptions
from ..core.robust import MAD_TO_SIGMA, mad
from ..core.sidecar import Sidecar
from .tables import KINDS, Solution, total_gain

__all__ = [
    "FLAGGED_FRACTION",
    "SHORT_SNR",
    "judge_corrected",
    "judge_field",
    "judge_solution",
    "judge_timeline",
]

#: Gates: (warn, fail).
FLAGGED_FRACTION = (0.2, 0.5)


MEDIAN_SNR = (10.0, 3.0)


CHANNEL_FLAGGED, SUBBAND_FLAGGED = 0.5, 0.8


PHASE_SCATTER_DEG = 30.0


BANDPASS_AMPLITUDE = (0.1, 10.0)


LEAST_ANTENNAS = 10


DELAY_LIMIT_NS, DELAY_OUTLIERS = 500.0, 0.1


#: A delay this far from the typical one, in robust standard deviations and in ns, is an outlier.
DELAY_SIGMA, DELAY_LEAST_NS = 10.0, 5.0


#: Gains over short intervals are used if their median signal-to-noise ratio reaches this.
SHORT_SNR = 10.0


MODEL_OVER_CORRECTED = (1.5, 5.0)


# --- judging ------------------------------------------------------------------------------------


def judge_solution(
    solutions: Mapping[str, Solution],
    sidecar: Sidecar[CalibrateFigures],
    *,
    normalised: bool = True,
    subbands: int = 16,
    names: Mapping[int, str] | None = None,
) -> None:
    """Judge a calibration, and note its figures.

    Raw gains have random phases and amplitudes near 0.07: the scatter of G over antennas says
    nothing, so phases are judged on the bandpass, whose phases are near zero when it is good.

    Parameters
    ----------
    solutions : mapping
        ``kcal``, ``bcal``, ``gcal`` to solutions, those that were found.
    sidecar : Sidecar
        Receives the figures; its verdict is lowered where a gate is missed.
    normalised : bool
        Whether the bandpass should have amplitudes near 1 (in quick mode it carries the scale).
    subbands : int
        Subbands in the band.
    names : mapping, optional
        Antenna names by number.
    """
    missing = [kind for kind in KINDS if kind not in solutions]
    if missing:
        sidecar.fail(f"CASA found no solution for {', '.join(missing)}")
        return
    delay, bandpass, gain = (solutions[kind] for kind in KINDS)
    figures = sidecar.figures
    for kind, solution in zip(KINDS, (delay, bandpass, gain), strict=True):
        good = ~solution.flags
        setattr(figures, f"{kind}_flagged", solution.flags.mean())
        setattr(figures, f"{kind}_flagged_effective", solution.flagged_effective)
        if kind != "kcal":  # CASA gives delays none
            snr = solution.snr[good]
            setattr(figures, f"{kind}_median_snr", np.median(snr) if good.any() else 0.0)
    _gate(sidecar, "flagged fraction of the bandpass", figures.bcal_flagged_effective,
          *FLAGGED_FRACTION)  # fmt: skip
    _gate(sidecar, "flagged fraction of the gains", figures.gcal_flagged_effective,
          *FLAGGED_FRACTION)  # fmt: skip
    for snr, name in ((figures.bcal_median_snr, "bandpass"), (figures.gcal_median_snr, "gains")):
        _gate(sidecar, f"median signal-to-noise ratio of the {name}", snr, *MEDIAN_SNR, above=False)
    solved = np.intersect1d(bandpass.present, gain.present)
    figures.n_antennas = len(solved)
    if len(solved) < LEAST_ANTENNAS:
        sidecar.fail(f"only {len(solved)} antennas have solutions, fewer than {LEAST_ANTENNAS}")
    if len(solved):
        _judge_bandpass(bandpass, solved, sidecar, subbands)
        low, high = BANDPASS_AMPLITUDE
        if normalised and not low <= figures.bandpass_amplitude_mean <= high:
            sidecar.warn(f"mean bandpass amplitude is {figures.bandpass_amplitude_mean:.3g}")
        _judge_delays(delay, solved, sidecar, names or {})
        good = ~gain.flags
        figures.gain_amplitude_median = np.median(np.abs(gain.values[good]))


def _gate(
    sidecar: Sidecar, name: str, value: float, warn: float, fail: float, above: bool = True
) -> None:
    def beyond(limit: float) -> bool:
        return value > limit if above else value < limit

    if beyond(fail):
        sidecar.fail(f"{name} is {value:.3g} (limit {fail:g})")
    elif beyond(warn):
        sidecar.warn(f"{name} is {value:.3g} (limit {warn:g})")


def _judge_bandpass(
    bandpass: Solution, solved: np.ndarray, sidecar: Sidecar[CalibrateFigures], subbands: int
) -> None:
    figures = sidecar.figures
    rows = np.isin(bandpass.antenna, solved)
    values, flags = bandpass.values[rows], bandpass.flags[rows]
    amplitude = np.abs(values[~flags])
    figures.bandpass_amplitude_mean = amplitude.mean()
    phase = np.rad2deg(np.angle(values[~flags]))
    figures.bandpass_phase_scatter_deg = np.std(phase)
    if figures.bandpass_phase_scatter_deg > PHASE_SCATTER_DEG:
        sidecar.warn(
            f"bandpass phases scatter by {figures.bandpass_phase_scatter_deg:.0f} deg "
            f"(limit {PHASE_SCATTER_DEG:g})"
        )
    figures.bandpass_roughness = roughness(values, flags)
    by_channel = flags.mean(axis=(0, 2))
    figures.channels_flagged = int((by_channel > CHANNEL_FLAGGED).sum())
    if len(by_channel) % subbands == 0:
        by_subband = by_channel.reshape(subbands, -1).mean(axis=1)
        absent = int((by_subband > SUBBAND_FLAGGED).sum())
        figures.subbands_flagged = absent
        if absent:
            sidecar.warn(f"{absent} of {subbands} subbands have no bandpass")


def find_delay_outliers(delay: Solution, antennas: np.ndarray) -> dict[int, float]:
    """Return the antennas whose delay is far from the others', with the one furthest off, ns.

    A cable or a clock that went wrong moves one antenna by tens of ns where the rest scatters by
    two. Compared are the delays of one polarisation with their median.

    Parameters
    ----------
    delay : Solution
        Delays, ns.
    antennas : (n,) int array
        Antennas that count: CASA gives a dead one a delay of noise.
    """
    found: dict[int, float] = {}
    rows = np.isin(delay.antenna, antennas)
    for pol in range(delay.values.shape[2]):
        good = rows & ~delay.flags[:, 0, pol]
        values = delay.values[good, 0, pol].real
        if not len(values):
            continue
        off = values - np.median(values)
        limit = max(DELAY_SIGMA * MAD_TO_SIGMA * mad(off, 0), DELAY_LEAST_NS)
        for antenna, ns in zip(delay.antenna[good], off, strict=True):
            if abs(ns) > max(limit, abs(found.get(int(antenna), 0.0))):
                found[int(antenna)] = float(ns)
    return found


def _judge_delays(
    delay: Solution,
    solved: np.ndarray,
    sidecar: Sidecar[CalibrateFigures],
    names: Mapping[int, str],
) -> None:
    # CASA gives a dead antenna a delay of noise; the bandpass is what flags it.
    mine = np.isin(delay.antenna, solved)
    delays = delay.values[~delay.flags & mine[:, None, None]].real
    if not len(delays):
        return
    outliers = find_delay_outliers(delay, solved)
    usual = mine & ~np.isin(delay.antenna, list(outliers))
    typical = delay.values[~delay.flags & usual[:, None, None]].real
    figures = sidecar.figures
    figures.delay_rms_ns = float(np.sqrt(np.mean(typical**2))) if len(typical) else None
    figures.delay_largest_ns = np.abs(delays).max()
    figures.delay_outliers_ns = {names.get(a, str(a)): ns for a, ns in outliers.items()}
    beyond = float((np.abs(delays) > DELAY_LIMIT_NS).mean())
    share = max(len(outliers) / len(solved), beyond)
    said = ", ".join(f"{names.get(a, a)} {ns:+.0f} ns" for a, ns in sorted(outliers.items()))
    if share > DELAY_OUTLIERS:
        sidecar.fail(f"{share:.0%} of the delays are far from the others ({said})")
    elif outliers:
        sidecar.warn(f"delays far from the others: {said}")
    elif beyond:
        sidecar.warn(f"{beyond:.1%} of the delays exceed {DELAY_LIMIT_NS:g} ns")


def roughness(values: np.ndarray, flags: np.ndarray) -> float:
    """Return the robust rms of a bandpass about a smooth curve, as a fraction of its amplitude.

    The second difference of three adjacent channels cancels any straight line; divided by
    the root of 6 it has the rms of one channel. The median is blind to subband edges.
    """
    if values.shape[1] < 3:
        return 0.0
    second = values[:, :-2] - 2 * values[:, 1:-1] + values[:, 2:]
    scale = np.abs(values[:, 1:-1])
    good = ~(flags[:, :-2] | flags[:, 1:-1] | flags[:, 2:]) & (scale > 0)
    if not good.any():
        return 0.0
    # For complex noise the modulus is Rayleigh distributed, with median sqrt(ln 4) sigma.
    return float(
        np.median(np.abs(second[good]) / scale[good]) / np.sqrt(np.log(4)) * np.sqrt(2) / np.sqrt(6)
    )


def judge_field(
    summary: dict, options: CalibrationOptions, sidecar: Sidecar[CalibrateFigures]
) -> None:
    """Record where and when a tile was solved on, and warn where little of the flux is modelled."""
    figures = sidecar.figures
    figures.mjd = summary["mid_mjd"]
    figures.model_sources = len(summary["sources"])
    figures.calibrator_share = summary["share"]
    figures.calibrator_apparent_jy = summary["apparent_jy"]
    figures.antennas = list(summary["antennas"])
    figures.freq_hz = summary["freq_hz"]
    figures.n_channels = summary["n_channels"]
    if summary["apparent_jy"] < options.min_flux_jy / 2:  # the mean over the tile, not at transit
        sidecar.fail(
            f"the calibrator's apparent flux is {summary['apparent_jy']:.3g} Jy: "
            f"it does not transit in this tile"
        )
    if summary["share"] < options.min_field_share:
        sidecar.fail(
            f"the calibrator has {summary['share']:.0%} of the field's apparent flux, "
            f"less than {options.min_field_share:.0%}"
        )


def judge_timeline(timeline: Solution | None, sidecar: Sidecar[CalibrateFigures]) -> None:
    """Record how much gains move within the tile, from one solution an integration."""
    if timeline is None or not len(timeline.present):
        return
    values = np.where(timeline.flags, np.nan, timeline.values)
    phase, amplitude = np.rad2deg(np.angle(values)), np.abs(values)
    mine = [timeline.antenna == a for a in timeline.present]
    sidecar.figures.phase_drift_deg = np.median([np.nanstd(phase[m]) for m in mine])
    # Relative, for subband averages have another bandpass than the channel at their centre.
    sidecar.figures.amplitude_drift = float(
        np.median([np.nanstd(amplitude[m]) / np.nanmean(amplitude[m]) for m in mine])
    )


def judge_corrected(
    copy: Path,
    solutions: Mapping[str, Solution],
    options: CalibrationOptions,
    sidecar: Sidecar[CalibrateFigures],
) -> None:
    """Compare corrected data with the model on the copy: amplitudes must agree."""
    from casatools import table as casa_table

    reader = casa_table()
    reader.open(os.fspath(copy))
    try:
        n = reader.nrows()
        rows = {"startrow": 0, "nrow": min(n, 5000)}
        antenna1, antenna2 = reader.getcol("ANTENNA1", **rows), reader.getcol("ANTENNA2", **rows)
        data, model, flags = (
            np.moveaxis(reader.getcol(name, **rows), -1, 0).swapaxes(1, 2)
            for name in ("DATA", "MODEL_DATA", "FLAG")
        )
        reader.close()
        reader.open(os.fspath(copy / "SPECTRAL_WINDOW"))
        freq_hz = reader.getcol("CHAN_FREQ")[:, 0]
    finally:
        reader.close()
    gain = total_gain(solutions, freq_hz, use_delay=options.delay)
    pair = gain[antenna1] * gain[antenna2].conj()
    good = ~flags & np.isfinite(pair) & (np.abs(pair) > 0)
    if not good.any():
        sidecar.fail("no visibility of the calibrator is left after calibration")
        return
    corrected = data[good] / pair[good]
    ratio = float(np.sum(np.abs(model[good]) ** 2) / np.sum((corrected * model[good].conj()).real))
    sidecar.figures.model_over_corrected = ratio
    _gate(sidecar, "model over corrected amplitude", max(ratio, 1 / ratio) if ratio > 0 else np.inf,
          *MODEL_OVER_CORRECTED)  # fmt: skip
