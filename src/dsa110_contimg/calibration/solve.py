"""Solve delays, bandpasses and gains on a calibrator transit.

What is solved on is an averaged copy of the tile with the model of its field (`working_copy`). CASA
then solves, in this order: delays (K); phases of each time bin, with which the bandpass is solved
but which are not kept; the bandpass (B), normalised; gains (G) over the whole tile, which carry the
flux scale, and relative to them gains over short intervals, which follow what drifts. The gain
table holds the product of the two (`follow_drifts`). A solution is judged before anything uses it.
Where CASA finds none, the tables exist as marked failures.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..catalogs.calibrators import Calibrator
from ..core.errors import DataError
from ..core.figures import CalibrateFigures, ConvertFigures
from ..core.files import put_in_place, remove, replacing, scratch
from ..core.layout import parse_group
from ..core.options import CalibrationOptions
from ..core.programs import program, run_tool
from ..core.sidecar import Sidecar, read_sidecar
from ..core.times import DAY_S
from .judge import (
    FLAGGED_FRACTION,
    SHORT_SNR,
    judge_corrected,
    judge_field,
    judge_solution,
    judge_timeline,
)
from .plots import plot_calibration
from .reference_antenna import choose_reference
from .tables import KINDS, NO_SOLUTION, Solution, read_solution
from .working_copy import timeline_path

__all__ = ["calibrate"]

#: Channels averaged in quick mode.
QUICK_CHANNELS = 4


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
        apart_s = DAY_S * np.abs(np.subtract.outer(*[timeline.time_mjd[rows]] * 2))
        near = (apart_s <= interval_s / 2).astype(float)
        count = np.tensordot(near, good[rows], 1)
        total = np.tensordot(near, np.where(good[rows], timeline.values[rows], 0), 1)
        values[rows] = total / np.maximum(count, 1)
        snr[rows] = timeline.snr[rows] * np.sqrt(np.maximum(count, 1))
    return replace(timeline, values=values, snr=snr)


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
    return replace(
        short,
        values=long.values[rows] * np.where(np.isfinite(drift), drift, 1),
        flags=long.flags[rows],
        snr=np.where(short.flags, long.snr[rows], short.snr),
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
    from ..core.casa import casa_session

    ms = Path(ms).absolute()
    tile = read_sidecar(ms, ConvertFigures)
    sidecar = Sidecar(
        "calibrate",
        inputs=[p for p in (ms, calibrators, catalog) if p is not None],
        parameters=options.model_dump() | {"calibrator": calibrator.name},
        figures=CalibrateFigures(
            group=parse_group(ms),
            calibrator=calibrator.name,
            calibrator_ra_deg=calibrator.ra_deg,
            calibrator_dec_deg=calibrator.dec_deg,
            flux_anchor=calibrator.anchor,
            steady=calibrator.steady,
            dec_app_deg=tile.figures.dec_app_deg,
        ),
    )
    if not calibrator.steady:
        sidecar.warn(
            f"the flux scale rests on {calibrator.name} ({calibrator.anchor}), "
            f"which is not known to be steady"
        )
    with scratch("calibrate", Path(prefix).parent) as folder:
        solved: dict[str, Path] = {}
        copy, drawn = folder / "copy.ms", folder / "calibration.png"
        if tile.verdict == "fail":
            sidecar.fail(f"the tile itself failed: {'; '.join(tile.reasons)}")
        else:
            summary = _make_copy(ms, copy, sidecar, options, calibrators, catalog)
            judge_field(summary, options, sidecar)
            solved = _solve_and_judge(casa_session, copy, folder, summary, sidecar, options, drawn)
        with _replacing_all(Path(prefix)) as targets:
            for kind, target in targets.items():
                if kind in solved:
                    shutil.copytree(solved[kind], target)
                else:
                    target.mkdir()
                    (target / NO_SOLUTION).write_text("\n".join(sidecar.reasons) + "\n")
        figure = Path(f"{prefix}.calibration.png")
        remove(figure)
        if drawn.exists():
            put_in_place({drawn: figure})
    for kind in KINDS:
        drawn_too = [figure] if kind == "bcal" and figure.exists() else []
        sidecar.write(f"{prefix}.{kind}", drawn_too)
    return sidecar


def _make_copy(
    ms: Path,
    copy: Path,
    sidecar: Sidecar[CalibrateFigures],
    options: CalibrationOptions,
    calibrators: Path | None,
    catalog: Path | None,
) -> dict[str, Any]:
    """Write the averaged copy in a process of its own, for python-casacore."""
    command = program(
        "dsa110_contimg.calibration.working_copy",
        ms=ms,
        out=copy,
        calibrator=sidecar.figures.calibrator,
        calibrators_table=calibrators,
        catalog=catalog,
        uvmin_klambda=options.uvmin_klambda,
        channel_average=QUICK_CHANNELS if options.mode == "quick" else 1,
    )
    # The products are of small matrices, which threads of BLAS only slow down.
    result = run_tool(command, timeout_s=options.timeout_s, env={"OPENBLAS_NUM_THREADS": "1"})
    sidecar.timings_s["copy"] = result.seconds
    return json.loads(copy.with_name(copy.name + ".json").read_text())


def _solve_and_judge(
    session: Any,
    copy: Path,
    folder: Path,
    summary: dict,
    sidecar: Sidecar[CalibrateFigures],
    options: CalibrationOptions,
    figure: Path,
) -> dict[str, Path]:
    try:
        reference = choose_reference(summary["antennas"])
    except DataError as error:
        sidecar.fail(str(error))
        return {}
    sidecar.figures.refant = reference[0]
    started = time.monotonic()
    with session() as casa:
        solved = solve(casa, copy, folder, reference, options)
        sidecar.timings_s["solve"] = time.monotonic() - started
        read = {kind: read_solution(table) for kind, table in solved.items()}
        solutions = {kind: solution for kind, solution in read.items() if solution is not None}
        judge_solution(
            {k: solutions[k] for k in KINDS if k in solutions},
            sidecar,
            normalised=options.mode != "quick",
            names=dict(enumerate(summary["names"])),
        )
        if all(k in solutions for k in KINDS):
            low, high = summary["freq_hz"]
            figures = sidecar.figures
            judge_timeline(solutions.get("timeline"), sidecar)
            judge_corrected(copy, {k: solutions[k] for k in KINDS}, options, sidecar)
            plot_calibration(
                figure,
                solutions,
                np.linspace(low, high, summary["n_channels"]),
                f"{figures.calibrator}, {figures.group}: {sidecar.verdict}",
            )
            _use_short(solved, solutions, options, sidecar)
    return {kind: solved[kind] for kind in KINDS if kind in solved}


def _use_short(
    solved: dict[str, Path],
    solutions: Mapping[str, Solution],
    options: CalibrationOptions,
    sidecar: Sidecar[CalibrateFigures],
) -> None:
    """Let the gains follow what drifts within the tile, where that can be seen."""
    timeline = solutions.get("timeline")
    sidecar.figures.gain_interval_s = None  # the whole tile
    if not options.gain_interval_s or timeline is None:
        return
    if timeline.flagged_effective > FLAGGED_FRACTION[0]:
        return
    short = smooth(timeline, options.gain_interval_s)
    snr = float(np.median(short.snr[~short.flags]))
    sidecar.figures.gain_short_median_snr = snr
    if snr < SHORT_SNR:
        return
    product = follow_drifts(solutions["gcal"], short, amplitudes=options.mode != "quick")
    _write_solution(solved["timeline"], product)
    solved["gcal"] = solved["timeline"]
    sidecar.figures.gain_interval_s = options.gain_interval_s
