"""Solve delays, bandpasses and gains on a calibrator transit.

What is solved on is an averaged copy of the tile with the model of its field (`skymodel`). CASA
then solves, in this order: delays (K); phases of each time bin, with which the bandpass is solved
but which are not kept; the bandpass (B), normalised; gains (G) over the whole tile, which carry the
flux scale, and relative to them gains over short intervals, which follow what drifts. The gain
table holds the product of the two (`follow_drifts`). A solution is judged before anything uses it.
Where CASA finds none, the tables exist as marked failures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .calfigures import plot_calibration
from .catalogs import Calibrator, find_calibrator
from .config import CalibrationOptions, add_options, from_args
from .errors import DataError
from .external import run_tool
from .products import Sidecar, parse_group, read_sidecar, replacing, scratch
from .refant import choose_reference
from .skymodel import timeline_path

__all__ = ["Solution", "calibrate", "judge_solution", "read_solution"]

#: The tables of a calibration, in the order in which they are applied.
KINDS = ("kcal", "bcal", "gcal")
#: File in a table's folder that says that there is no solution.
NO_SOLUTION = "NO_SOLUTION.txt"
#: Channels averaged in quick mode.
QUICK_CHANNELS = 4

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
#: Flagged in all but this much, an antenna counts as absent.
ABSENT = 0.99


@dataclass(frozen=True)
class Solution:
    """A calibration table in memory.

    Attributes
    ----------
    antenna : (n,) int array
        Antenna of each row.
    time_mjd : (n,) array
        Time of each row, MJD.
    values : (n, n_chan, n_pol) array
        Complex gains, or delays in ns.
    flags : (n, n_chan, n_pol) bool array
    snr : (n, n_chan, n_pol) array
    """

    antenna: np.ndarray
    time_mjd: np.ndarray
    values: np.ndarray
    flags: np.ndarray
    snr: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """Antennas that are not flagged in (nearly) all."""
        return np.array(
            [a for a in np.unique(self.antenna) if self.flags[self.antenna == a].mean() < ABSENT]
        )

    @property
    def flagged_effective(self) -> float:
        """Flagged fraction of the antennas present; 1 when there are none."""
        rows = np.isin(self.antenna, self.present)
        return float(self.flags[rows].mean()) if rows.any() else 1.0


def read_solution(table: Path) -> Solution | None:
    """Read a calibration table with CASA; None where it holds no solution."""
    if not (table / "table.dat").exists():
        return None
    from casatools import table as casa_table

    reader = casa_table()
    reader.open(os.fspath(table))
    try:
        if reader.nrows() == 0:
            return None
        column = "FPARAM" if "FPARAM" in reader.colnames() else "CPARAM"
        values, flags, snr = (
            np.moveaxis(reader.getcol(name), -1, 0).swapaxes(1, 2)
            for name in (column, "FLAG", "SNR")
        )
        return Solution(
            reader.getcol("ANTENNA1"), reader.getcol("TIME") / 86400, values, flags, snr
        )
    finally:
        reader.close()


# --- judging ------------------------------------------------------------------------------------


def judge_solution(
    solutions: Mapping[str, Solution | None],
    sidecar: Sidecar,
    *,
    normalised: bool = True,
    subbands: int = 16,
    names: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Judge a calibration, and return its figures.

    Raw gains have random phases and amplitudes near 0.07: the scatter of G over antennas says
    nothing, so phases are judged on the bandpass, whose phases are near zero when it is good.

    Parameters
    ----------
    solutions : mapping
        ``kcal``, ``bcal``, ``gcal`` to solutions, None for one that was not found.
    sidecar : Sidecar
        Its verdict is lowered where a gate is missed.
    normalised : bool
        Whether the bandpass should have amplitudes near 1 (in quick mode it carries the scale).
    subbands : int
        Subbands in the band.
    names : mapping, optional
        Antenna names by number.
    """
    missing = [kind for kind in KINDS if solutions.get(kind) is None]
    if missing:
        sidecar.fail(f"CASA found no solution for {', '.join(missing)}")
        return {}
    delay, bandpass, gain = (solutions[kind] for kind in KINDS)
    figures: dict[str, Any] = {}
    for kind, solution in zip(KINDS, (delay, bandpass, gain), strict=True):
        good = ~solution.flags
        figures[f"{kind}_flagged"] = float(solution.flags.mean())
        figures[f"{kind}_flagged_effective"] = solution.flagged_effective
        if kind != "kcal":  # CASA gives delays none
            snr = solution.snr[good]
            figures[f"{kind}_median_snr"] = float(np.median(snr)) if good.any() else 0.0
    _gate(sidecar, "flagged fraction of the bandpass", figures["bcal_flagged_effective"],
          *FLAGGED_FRACTION)  # fmt: skip
    _gate(sidecar, "flagged fraction of the gains", figures["gcal_flagged_effective"],
          *FLAGGED_FRACTION)  # fmt: skip
    for kind, name in (("bcal", "bandpass"), ("gcal", "gains")):
        _gate(sidecar, f"median signal-to-noise ratio of the {name}", figures[f"{kind}_median_snr"],
              *MEDIAN_SNR, above=False)  # fmt: skip
    solved = np.intersect1d(bandpass.present, gain.present)
    figures["n_antennas"] = len(solved)
    if len(solved) < LEAST_ANTENNAS:
        sidecar.fail(f"only {len(solved)} antennas have solutions, fewer than {LEAST_ANTENNAS}")
    if len(solved):
        _judge_bandpass(bandpass, solved, sidecar, figures, subbands)
        low, high = BANDPASS_AMPLITUDE
        if normalised and not low <= figures["bandpass_amplitude_mean"] <= high:
            sidecar.warn(f"mean bandpass amplitude is {figures['bandpass_amplitude_mean']:.3g}")
        _judge_delays(delay, solved, sidecar, figures, names or {})
        good = ~gain.flags
        figures["gain_amplitude_median"] = float(np.median(np.abs(gain.values[good])))
    return figures


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
    bandpass: Solution, solved: np.ndarray, sidecar: Sidecar, figures: dict, subbands: int
) -> None:
    rows = np.isin(bandpass.antenna, solved)
    values, flags = bandpass.values[rows], bandpass.flags[rows]
    amplitude = np.abs(values[~flags])
    figures["bandpass_amplitude_mean"] = float(amplitude.mean())
    phase = np.rad2deg(np.angle(values[~flags]))
    figures["bandpass_phase_scatter_deg"] = float(np.std(phase))
    if figures["bandpass_phase_scatter_deg"] > PHASE_SCATTER_DEG:
        sidecar.warn(
            f"bandpass phases scatter by {figures['bandpass_phase_scatter_deg']:.0f} deg "
            f"(limit {PHASE_SCATTER_DEG:g})"
        )
    figures["bandpass_roughness"] = roughness(values, flags)
    by_channel = flags.mean(axis=(0, 2))
    poor = int((by_channel > CHANNEL_FLAGGED).sum())
    figures["channels_flagged"] = poor
    if len(by_channel) % subbands == 0:
        by_subband = by_channel.reshape(subbands, -1).mean(axis=1)
        absent = int((by_subband > SUBBAND_FLAGGED).sum())
        figures["subbands_flagged"] = absent
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
        limit = max(DELAY_SIGMA * 1.4826 * np.median(np.abs(off)), DELAY_LEAST_NS)
        for antenna, ns in zip(delay.antenna[good], off, strict=True):
            if abs(ns) > max(limit, abs(found.get(int(antenna), 0.0))):
                found[int(antenna)] = float(ns)
    return found


def _judge_delays(
    delay: Solution,
    solved: np.ndarray,
    sidecar: Sidecar,
    figures: dict,
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
    figures["delay_rms_ns"] = float(np.sqrt(np.mean(typical**2))) if len(typical) else None
    figures["delay_largest_ns"] = float(np.abs(delays).max())
    figures["delay_outliers_ns"] = {names.get(a, str(a)): ns for a, ns in outliers.items()}
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


# --- solving ------------------------------------------------------------------------------------


def solve(
    casa: Any, copy: Path, folder: Path, reference: Sequence[str], options: CalibrationOptions
) -> dict[str, Path]:
    """Solve on the averaged copy; return kind to table, for those that CASA wrote.

    Parameters
    ----------
    casa : module
        ``casatasks``.
    copy : Path
        The averaged copy, with ``MODEL_DATA``.
    folder : Path
        Where the tables are written.
    reference : sequence of str
        Reference antennas, best first.
    options : CalibrationOptions
    """
    common = {
        "vis": os.fspath(copy),
        "refant": ",".join(reference),
        "minsnr": options.min_snr,
        "minblperant": 4,
        "combine": "scan",
    }
    tables = {kind: folder / f"solved.{kind}" for kind in (*KINDS, "phase", "timeline")}
    path = {kind: os.fspath(table) for kind, table in tables.items()}
    quick = options.mode == "quick"
    delays = [path["kcal"]] if options.delay else []

    casa.gaincal(caltable=path["kcal"], gaintype="K", solint="inf", **common)
    if not tables["kcal"].exists():
        return {}
    casa.gaincal(
        caltable=path["phase"], gaintype="G", calmode="p", solint="int", gaintable=delays, **common
    )
    if not tables["phase"].exists():
        return {"kcal": tables["kcal"]}
    casa.bandpass(
        caltable=path["bcal"],
        bandtype="B",
        solint="inf",
        # Phase-only gains cannot carry the flux scale: in quick mode the bandpass does.
        solnorm=not quick,
        fillgaps=3,
        gaintable=[*delays, path["phase"]],
        **common,
    )
    if tables["bcal"].exists():
        before = [*delays, path["bcal"]]
        casa.gaincal(
            caltable=path["gcal"],
            gaintype="G",
            calmode="p" if quick else "ap",
            solint="inf",
            gaintable=before,
            **common,
        )
        if tables["gcal"].exists():
            casa.gaincal(
                caltable=path["timeline"],
                gaintype="G",
                calmode="ap",
                solint="int",
                gaintable=[*before, path["gcal"]],
                **common | {"vis": os.fspath(timeline_path(copy))},
            )
    return {kind: table for kind, table in tables.items() if table.exists()}


def smooth(timeline: Solution, interval_s: float) -> Solution:
    """Return gains averaged over an interval about each integration.

    Parameters
    ----------
    timeline : Solution
        One solution an antenna and integration.
    interval_s : float
        Length of the running mean, s.
    """
    values, snr = np.empty_like(timeline.values), np.empty_like(timeline.snr)
    good = ~timeline.flags
    for antenna in np.unique(timeline.antenna):
        rows = np.flatnonzero(timeline.antenna == antenna)
        apart_s = 86400 * np.abs(np.subtract.outer(*[timeline.time_mjd[rows]] * 2))
        near = (apart_s <= interval_s / 2).astype(float)
        count = np.tensordot(near, good[rows], 1)
        total = np.tensordot(near, np.where(good[rows], timeline.values[rows], 0), 1)
        values[rows] = total / np.maximum(count, 1)
        snr[rows] = timeline.snr[rows] * np.sqrt(np.maximum(count, 1))
    return Solution(timeline.antenna, timeline.time_mjd, values, timeline.flags, snr)


def follow_drifts(long: Solution, short: Solution, *, amplitudes: bool = True) -> Solution:
    """Return gains over short intervals: those of the whole tile times what they drift by.

    Each antenna's drift is about its mean, which is the long gain's: the short ones are solved on
    averages over subbands, whose bandpass is not that of single channels. What all antennas'
    amplitudes do together is left out: where the beam that the calibrator drifts through differs
    from its model, all of them seem to change.

    Parameters
    ----------
    long : Solution
        One gain an antenna.
    short : Solution
        Gains relative to `long`, several an antenna; where they are flagged, `long` stands alone.
    amplitudes : bool
        Whether amplitudes are followed too, or phases alone.
    """
    drift = np.where(short.flags, np.nan, short.values)
    with np.errstate(invalid="ignore"):  # what is flagged stays NaN
        for moment in np.unique(short.time_mjd):
            rows = short.time_mjd == moment
            drift[rows] /= _mean(np.abs(drift[rows])) if amplitudes else np.abs(drift[rows])
        for antenna in np.unique(short.antenna):
            rows = short.antenna == antenna
            mean = _mean(drift[rows])
            drift[rows] /= mean if amplitudes else mean / np.abs(mean)
    index = {a: n for n, a in enumerate(long.antenna)}
    rows = np.array([index[a] for a in short.antenna])
    return Solution(
        short.antenna,
        short.time_mjd,
        long.values[rows] * np.where(np.isfinite(drift), drift, 1),
        long.flags[rows],
        np.where(short.flags, long.snr[rows], short.snr),
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean along the first axis without NaN; NaN where there is nothing else."""
    good = np.isfinite(values)
    total = np.where(good, values, 0).sum(axis=0)
    return np.where(good.any(axis=0), total / np.maximum(good.sum(axis=0), 1), np.nan)


def _write_solution(table: Path, solution: Solution) -> None:
    """Put values, flags and signal-to-noise ratios into the rows of a CASA gain table."""
    from casatools import table as casa_table

    writer = casa_table()
    writer.open(os.fspath(table), nomodify=False)
    try:
        for name, values in (
            ("CPARAM", solution.values.astype(np.complex64)),
            ("FLAG", solution.flags),
            ("SNR", solution.snr.astype(np.float32)),
        ):
            writer.putcol(name, np.moveaxis(values.swapaxes(1, 2), 0, -1))
    finally:
        writer.close()


@contextmanager
def _replacing_all(prefix: Path) -> Iterator[dict[str, Path]]:
    """Give temporary names of the three tables; rename all when the block succeeds."""
    with ExitStack() as stack:
        yield {kind: stack.enter_context(replacing(f"{prefix}.{kind}")) for kind in KINDS}


def calibrate(
    ms: Path,
    prefix: Path,
    calibrator: Calibrator,
    options: CalibrationOptions,
    *,
    calibrators: Path | None = None,
    catalog: Path | None = None,
) -> Sidecar:
    """Solve a calibration and write ``prefix.kcal``, ``.bcal``, ``.gcal`` with their sidecars.

    A figure of all antennas, ``prefix.calibration.png``, is written beside them.

    Parameters
    ----------
    ms : Path
        Converted tile that holds the transit.
    prefix : Path
        Name of the tables without their kind.
    calibrator : Calibrator
    options : CalibrationOptions
    calibrators, catalog : Path, optional
        User's calibrator table (in which `calibrator` was found) and reference catalogue.

    Returns
    -------
    Sidecar
        As written; its verdict says whether the solution may be used.
    """
    from .casa import casa_session

    ms = Path(ms).absolute()
    tile = read_sidecar(ms)
    sidecar = Sidecar(
        "calibrate",
        inputs=[p for p in (ms, calibrators, catalog) if p is not None],
        parameters=options.model_dump() | {"calibrator": calibrator.name},
    )
    sidecar.qa |= {
        "group": parse_group(ms),
        "calibrator": calibrator.name,
        "calibrator_ra_deg": calibrator.ra_deg,
        "calibrator_dec_deg": calibrator.dec_deg,
        "flux_anchor": calibrator.anchor,
        "steady": calibrator.steady,
        "dec_app_deg": tile["qa"]["dec_app_deg"],
    }
    if not calibrator.steady:
        sidecar.warn(
            f"the flux scale rests on {calibrator.name} ({calibrator.anchor}), "
            f"which is not known to be steady"
        )
    with scratch("calibrate", _folder(prefix)) as folder:
        solved: dict[str, Path] = {}
        copy = folder / "copy.ms"
        if tile["verdict"] == "fail":
            sidecar.fail(f"the tile itself failed: {'; '.join(tile['reasons'])}")
        else:
            summary = _make_copy(ms, copy, sidecar, options, calibrators, catalog)
            _judge_field(summary, options, sidecar)
            figure = Path(f"{Path(prefix).absolute()}.calibration.png")
            solved = _solve_and_judge(casa_session, copy, folder, summary, sidecar, options, figure)
        with _replacing_all(Path(prefix)) as targets:
            for kind, target in targets.items():
                if kind in solved:
                    shutil.copytree(solved[kind], target)
                else:
                    target.mkdir()
                    (target / NO_SOLUTION).write_text("\n".join(sidecar.reasons) + "\n")
            for kind in KINDS:
                sidecar.write(f"{prefix}.{kind}", ("casatasks", "casatools", "casadata"))
    return sidecar


def _folder(prefix: Path) -> Path:
    folder = Path(prefix).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _make_copy(
    ms: Path,
    copy: Path,
    sidecar: Sidecar,
    options: CalibrationOptions,
    calibrators: Path | None,
    catalog: Path | None,
) -> dict[str, Any]:
    """Write the averaged copy in a process of its own, for python-casacore."""
    command = [
        *(sys.executable, "-m", "dsa110_contimg.skymodel", str(ms), str(copy)),
        *("--calibrator", sidecar.qa["calibrator"]),
        *("--uvmin-klambda", str(options.uvmin_klambda)),
    ]
    if calibrators is not None:
        command += ["--calibrators", str(calibrators)]
    if catalog is not None:
        command += ["--catalog", str(catalog)]
    if options.mode == "quick":
        command += ["--channel-average", str(QUICK_CHANNELS)]
    # The products are of small matrices, which threads of BLAS only slow down.
    result = run_tool(command, timeout_s=options.timeout_s, env={"OPENBLAS_NUM_THREADS": "1"})
    sidecar.timings_s["copy"] = result.seconds
    return json.loads(copy.with_name(copy.name + ".json").read_text())


def _judge_field(summary: dict, options: CalibrationOptions, sidecar: Sidecar) -> None:
    sidecar.qa |= {
        "mjd": summary["mid_mjd"],
        "model_sources": len(summary["sources"]),
        "calibrator_share": summary["share"],
        "calibrator_apparent_jy": summary["apparent_jy"],
        "antennas": list(summary["antennas"]),
        "freq_hz": summary["freq_hz"],
        "n_channels": summary["n_channels"],
    }
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


def _solve_and_judge(
    session: Any,
    copy: Path,
    folder: Path,
    summary: dict,
    sidecar: Sidecar,
    options: CalibrationOptions,
    figure: Path,
) -> dict[str, Path]:
    try:
        reference = choose_reference(summary["antennas"])
    except DataError as error:
        sidecar.fail(str(error))
        return {}
    sidecar.qa["refant"] = reference[0]
    started = time.monotonic()
    with session() as casa:
        solved = solve(casa, copy, folder, reference, options)
        sidecar.timings_s["solve"] = time.monotonic() - started
        solutions = {kind: read_solution(table) for kind, table in solved.items()}
        sidecar.qa |= judge_solution(
            {k: solutions.get(k) for k in KINDS},
            sidecar,
            normalised=options.mode != "quick",
            names=dict(enumerate(summary["names"])),
        )
        if all(solutions.get(k) is not None for k in KINDS):
            _judge_timeline(solutions.get("timeline"), sidecar)
            _judge_corrected(copy, {k: solutions[k] for k in KINDS}, options, sidecar)
            plot_calibration(
                figure,
                solutions,
                np.linspace(*summary["freq_hz"], summary["n_channels"]),
                f"{sidecar.qa['calibrator']}, {sidecar.qa['group']}: {sidecar.verdict}",
            )
            _use_short(solved, solutions, options, sidecar)
    return {kind: solved[kind] for kind in KINDS if kind in solved}


def _use_short(
    solved: dict[str, Path],
    solutions: Mapping[str, Solution | None],
    options: CalibrationOptions,
    sidecar: Sidecar,
) -> None:
    """Let the gains follow what drifts within the tile, where that can be seen."""
    timeline = solutions.get("timeline")
    sidecar.qa["gain_interval_s"] = None  # the whole tile
    if not options.gain_interval_s or timeline is None:
        return
    if timeline.flagged_effective > FLAGGED_FRACTION[0]:
        return
    short = smooth(timeline, options.gain_interval_s)
    snr = float(np.median(short.snr[~short.flags]))
    sidecar.qa["gain_short_median_snr"] = snr
    if snr < SHORT_SNR:
        return
    product = follow_drifts(solutions["gcal"], short, amplitudes=options.mode != "quick")
    _write_solution(solved["timeline"], product)
    solved["gcal"] = solved["timeline"]
    sidecar.qa["gain_interval_s"] = options.gain_interval_s


def _judge_timeline(timeline: Solution | None, sidecar: Sidecar) -> None:
    """Record how much gains move within the tile, from one solution an integration."""
    if timeline is None or not len(timeline.present):
        return
    values = np.where(timeline.flags, np.nan, timeline.values)
    phase, amplitude = np.rad2deg(np.angle(values)), np.abs(values)
    mine = [timeline.antenna == a for a in timeline.present]
    sidecar.qa["phase_drift_deg"] = float(np.median([np.nanstd(phase[m]) for m in mine]))
    # Relative, for subband averages have another bandpass than the channel at their centre.
    sidecar.qa["amplitude_drift"] = float(
        np.median([np.nanstd(amplitude[m]) / np.nanmean(amplitude[m]) for m in mine])
    )


def _judge_corrected(
    copy: Path, solutions: Mapping[str, Solution], options: CalibrationOptions, sidecar: Sidecar
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
    sidecar.qa["model_over_corrected"] = ratio
    _gate(sidecar, "model over corrected amplitude", max(ratio, 1 / ratio) if ratio > 0 else np.inf,
          *MODEL_OVER_CORRECTED)  # fmt: skip


def total_gain(
    solutions: Mapping[str, Solution], freq_hz: np.ndarray, *, use_delay: bool = True
) -> np.ndarray:
    """Return the product of delay, bandpass and gain, (n_antennas, n_chan, n_pol); NaN if flagged.

    CASA's delays turn the phase by ``2 pi tau (nu - nu_0)``, with nu_0 the centre of the band.

    Parameters
    ----------
    solutions : mapping
        ``kcal``, ``bcal``, ``gcal``; of several solutions in time the mean is taken.
    freq_hz : (n_chan,) array
        Channels of the bandpass, Hz.
    use_delay : bool
        Whether delays are part of it.
    """
    n_antennas = int(max(s.antenna.max() for s in solutions.values())) + 1
    n_pol = solutions["bcal"].values.shape[2]
    total = np.full((n_antennas, len(freq_hz), n_pol), np.nan, complex)
    for antenna in range(n_antennas):
        parts = {}
        for kind, solution in solutions.items():
            rows = solution.antenna == antenna
            values = np.where(solution.flags[rows], np.nan, solution.values[rows])
            parts[kind] = values.mean(axis=0) if rows.any() else np.full((1, n_pol), np.nan)
        total[antenna] = parts["bcal"] * parts["gcal"]
        if use_delay:
            turns = parts["kcal"].real * 1e-9 * (freq_hz - freq_hz.mean())[:, None]
            total[antenna] *= np.exp(2j * np.pi * turns)
    return total


# --- command line -------------------------------------------------------------------------------


def argparser() -> argparse.ArgumentParser:
    """Return the parser of ``calibrate``."""
    parser = argparse.ArgumentParser(
        prog="contimg calibrate",
        description="Solve delay, bandpass and gains on a calibrator transit.",
    )
    parser.add_argument("ms", type=Path, help="converted tile that holds the transit")
    parser.add_argument("prefix", type=Path, help="tables become PREFIX.kcal, .bcal, .gcal")
    parser.add_argument("--calibrator", required=True, help="name of the calibrator")
    parser.add_argument("--calibrators", type=Path, help="table of further calibrators (CSV)")
    parser.add_argument("--catalog", type=Path, help="reference catalogue (CSV): the neighbours")
    add_options(parser, CalibrationOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Run ``calibrate``."""
    calibrator = find_calibrator(args.calibrator, args.calibrators)
    sidecar = calibrate(
        args.ms,
        args.prefix,
        calibrator,
        from_args(args, CalibrationOptions),
        calibrators=args.calibrators and args.calibrators.absolute(),
        catalog=args.catalog and args.catalog.absolute(),
    )
    print(f"{args.prefix}: {sidecar.verdict}" + "".join(f"; {r}" for r in sidecar.reasons))
