"""Apply a calibration, and average as far as smearing allows.

The Measurement Set is read once: cross-correlations only, corrected, weights calibrated, channels
averaged into the output. The input is never touched, and no corrected column is written anywhere.
Two engines do the same: this package's own (`correct`), and CASA's mstransform, the reference
that it is tested against.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.figures import (
    AppliedAveraging,
    AppliedCalibration,
    ApplyFigures,
    CalibrateFigures,
    ConvertFigures,
    Weights,
)
from ..core.files import replacing, write_text
from ..core.layout import parse_group
from ..core.options import ApplyOptions
from ..core.programs import run_tool
from ..core.sidecar import Record, Sidecar, read_sidecar
from ..core.times import DAY_S
from ..ms.summary import summarise_ms
from ..telescope.smearing import Smearing, half_power_deg
from . import mstransform
from .correct import correct_ms
from .tables import KINDS, LEAST_COMMON_ANTENNAS, NO_SOLUTION

__all__ = ["Averaging", "apply_calibration", "choose_averaging", "choose_candidate"]

#: Rows of the output that are looked at together.
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Averaging:
    """How many channels are averaged, and what that costs at half power."""

    channels: int
    loss: float


@dataclass(frozen=True)
class Candidate:
    """A calibration that may be applied: its prefix, and the sidecar of its gain table."""

    prefix: Path
    sidecar: Record[CalibrateFigures]

    @property
    def group(self) -> str:
        """Group that it was solved on."""
        return self.sidecar.figures.group

    def table(self, kind: str) -> Path:
        """Return the path of one of its tables."""
        return self.prefix.with_name(f"{self.prefix.name}.{kind}")


# --- which calibration ---------------------------------------------------------------------------


def read_candidate(prefix: Path) -> Candidate:
    """Read a candidate; raise `DataError` when one of its sidecars is missing."""
    sidecars = [read_sidecar(f"{prefix}.{kind}", CalibrateFigures) for kind in KINDS]
    return Candidate(Path(prefix).absolute(), sidecars[-1])


def why_unusable(candidate: Candidate, tile: Mapping[str, Any]) -> str | None:
    """Return why a calibration cannot serve a tile, or None if it can.

    Parameters
    ----------
    candidate : Candidate
    tile : mapping
        ``dec_app_deg``, ``antennas`` (names) and ``freq_hz`` of the tile.
    """
    sidecar, solved = candidate.sidecar, candidate.sidecar.figures
    if sidecar.verdict == "fail":
        return f"it failed: {'; '.join(sidecar.reasons)}"
    if any((candidate.table(kind) / NO_SOLUTION).exists() for kind in KINDS):
        return "it holds no solution"
    apart = abs(solved.dec_app_deg - tile["dec_app_deg"])
    if apart > sidecar.parameters["strip_deg"]:
        return f"it is from another strip, {apart:.1f} deg away"
    low, high = sorted(solved.freq_hz)
    half_channel = (high - low) / max(solved.n_channels - 1, 1) / 2
    freq_hz = np.asarray(tile["freq_hz"])
    if freq_hz.min() < low - 1.1 * half_channel or freq_hz.max() > high + 1.1 * half_channel:
        return (
            f"it covers {low / 1e6:.1f} to {high / 1e6:.1f} MHz, "
            f"the data {freq_hz.min() / 1e6:.1f} to {freq_hz.max() / 1e6:.1f} MHz"
        )
    common = set(solved.antennas) & set(tile["antennas"])
    if len(common) < LEAST_COMMON_ANTENNAS * len(tile["antennas"]):
        return f"it has only {len(common)} of the {len(tile['antennas'])} antennas"
    return None


def choose_candidate(
    candidates: Sequence[Candidate], tile: Mapping[str, Any]
) -> tuple[Candidate | None, list[str]]:
    """Return the first usable candidate, and why those before it were passed over."""
    reasons: list[str] = []
    for candidate in candidates:
        reason = why_unusable(candidate, tile)
        if reason is None:
            return candidate, reasons
        reasons.append(f"{candidate.group}: {reason}")
    return None, reasons


# --- averaging ---------------------------------------------------------------------


def choose_averaging(
    uvw_m: np.ndarray, freq_hz: np.ndarray, dec_deg: float, limit: float, subbands: int = 16
) -> Averaging:
    """Choose the averaging that leaves the fewest visibilities and costs at most `limit`.

    Channels are averaged in numbers that divide a subband. The loss is the mean over baselines for
    a source at half power of the beam, to the east or to the north, whichever is worse; what the
    correlator's own averaging costs does not count. Integrations are not averaged.

    Parameters
    ----------
    uvw_m : (n, 3) array
        Baselines that are imaged, m.
    freq_hz : (n_chan,) array
        Channels, Hz.
    dec_deg : float
        Declination, deg.
    limit : float
        Largest loss.
    subbands : int
        Subbands in the band.
    """
    per_subband = max(len(freq_hz) // subbands, 1)
    width_hz = abs(freq_hz[1] - freq_hz[0]) if len(freq_hz) > 1 else 0.0
    centre_hz = float(np.mean(freq_hz))
    radius = np.deg2rad(half_power_deg(centre_hz))
    towards = np.array([[radius, 0, 0], [0, radius, 0]])  # east, north

    def loss(channels: int) -> float:
        smearing = Smearing(dec_deg, channels, 1, channels * width_hz, 0.0)
        return float(1 - smearing.response(towards, uvw_m, np.ones(len(uvw_m)), centre_hz).min())

    losses = {k: loss(k) for k in range(1, per_subband + 1) if per_subband % k == 0}
    most = max(k for k, cost in losses.items() if k == 1 or cost <= limit)
    return Averaging(most, losses[most])


# --- applying ---------------------------------------------------------------------


def apply_calibration(
    ms: Path, out: Path, prefixes: Sequence[Path], options: ApplyOptions
) -> Sidecar:
    """Write the calibrated, averaged Measurement Set, its sidecar and the record of the choice.

    Parameters
    ----------
    ms : Path
        Converted tile; not changed.
    out : Path
        ``<id>.cal.ms``; ``<id>.calibration.json`` is written beside it.
    prefixes : sequence of Path
        Calibrations in order of preference.
    options : ApplyOptions

    Returns
    -------
    Sidecar
        As written.

    Raises
    ------
    DataError
        If none of the calibrations can serve the tile.
    ToolError
        If CASA, where it is asked for, fails.
    """
    ms, out = Path(ms), Path(out)
    tile = read_sidecar(ms, ConvertFigures)
    candidates = [read_candidate(prefix) for prefix in prefixes]
    shape = _read_shape(ms, tile)
    chosen, reasons = choose_candidate(candidates, shape)
    if chosen is None:
        raise DataError(
            f"{ms}: no calibration can serve it ({' | '.join(reasons)}); "
            f"solve another calibrator, or widen calibration.borrow_days"
        )
    averaging = choose_averaging(
        shape["uvw_m"],
        shape["freq_hz"],
        tile.figures.phase_centre_dec_deg,
        options.max_smearing,
    )
    sidecar: Sidecar[ApplyFigures] = Sidecar(
        "apply",
        inputs=[ms, *(chosen.table(kind) for kind in KINDS)],
        parameters=options.model_dump() | {"candidates": [c.group for c in candidates]},
    )
    with replacing(out) as temporary:
        started = time.monotonic()
        _correct(ms, temporary, chosen, averaging.channels, options, sidecar)
        sidecar.timings_s["correct"] = time.monotonic() - started
        started = time.monotonic()
        sidecar.figures = _describe(temporary, tile, chosen, averaging)
        solved = chosen.sidecar.figures
        source = (solved.calibrator_ra_deg, solved.calibrator_dec_deg)
        sidecar.figures.visibilities = summarise_ms(temporary, source)
        sidecar.timings_s["summary"] = time.monotonic() - started
    _judge(sidecar, tile, chosen)
    applied = sidecar.figures.calibration
    record = {
        "target": parse_group(out),
        "candidates": [c.group for c in candidates],
        "calibrators": {c.group: c.sidecar.figures.calibrator for c in candidates},
        "chosen": chosen.group,
        "borrowed": applied.borrowed,
        "flux_anchor": applied.flux_anchor,
        "steady": applied.steady,
        "reasons": reasons,
    }
    choice = out.with_name(f"{record['target']}.calibration.json")
    write_text(choice, json.dumps(record, indent=1) + "\n")
    sidecar.write(out, [choice], stays=False)
    return sidecar


def _correct(
    ms: Path,
    out: Path,
    chosen: Candidate,
    channels: int,
    options: ApplyOptions,
    sidecar: Sidecar,
) -> None:
    use_delay = chosen.sidecar.parameters["delay"]
    if options.engine == "direct":
        correct_ms(ms, out, chosen.prefix, channels, use_delay=use_delay)
        return
    tables = [chosen.table(kind) for kind in KINDS if use_delay or kind != "kcal"]
    command = mstransform.command(ms, out, channels, tables)
    sidecar.commands.append(run_tool(command, timeout_s=options.timeout_s).command)


def _read_shape(ms: Path, tile: Record[ConvertFigures]) -> dict[str, Any]:
    """Return what the choice of calibration and averaging depends on."""
    from casacore.tables import table

    with table(os.fspath(ms), ack=False) as main:
        times = main.getcol("TIME")
        antenna1, antenna2 = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        middle = int(np.argmin(np.abs(times - times.mean())))
        uvw = main.getcol("UVW", middle, int((times == times[middle]).sum()))
    with table(f"{ms}::ANTENNA", ack=False) as antennas:
        names = antennas.getcol("NAME")
    with table(f"{ms}::SPECTRAL_WINDOW", ack=False) as windows:
        freq_hz = windows.getcell("CHAN_FREQ", 0)
    return {
        "uvw_m": uvw[np.any(uvw, axis=1)],
        "freq_hz": freq_hz,
        "antennas": [str(names[a]) for a in np.unique([antenna1, antenna2])],
        "dec_app_deg": tile.figures.dec_app_deg,
    }


def _describe(
    ms: Path, tile: Record[ConvertFigures], chosen: Candidate, averaging: Averaging
) -> ApplyFigures:
    """Return the figures of a calibrated set: pointing, weights, what was applied."""
    converted, solved = tile.figures, chosen.sidecar.figures
    weights, flagged = sum_weights(ms)
    apart_h = 24 * abs(solved.mjd - float(np.mean(converted.pointing.time_mjd)))
    return ApplyFigures(
        pointing=converted.pointing,
        dec_app_deg=converted.dec_app_deg,
        phase_centre_ra_deg=converted.phase_centre_ra_deg,
        phase_centre_dec_deg=converted.phase_centre_dec_deg,
        aberration_scale=converted.aberration_scale,
        weights=weights,
        flagged_fraction=flagged,
        averaging=AppliedAveraging(
            channels=averaging.channels,
            integrations=1,
            loss_at_half_power=round(averaging.loss, 5),
        ),
        calibration=AppliedCalibration(
            group=chosen.group,
            calibrator=solved.calibrator,
            flux_anchor=solved.flux_anchor,
            steady=solved.steady,
            apart_h=round(apart_h, 4),
            borrowed=apart_h > chosen.sidecar.parameters["validity_h"],
        ),
    )


def sum_weights(ms: Path) -> tuple[Weights, float]:
    """Return the summed weights of unflagged data by time and channel, and the flagged fraction.

    Parameters
    ----------
    ms : Path
        Calibrated set of cross-correlations.

    Returns
    -------
    Weights
    float
        Fraction of visibilities flagged.
    """
    from casacore.tables import table

    with table(f"{ms}::SPECTRAL_WINDOW", ack=False) as windows:
        freq_hz = windows.getcell("CHAN_FREQ", 0)
    with table(os.fspath(ms), ack=False) as main:
        unique, index = np.unique(main.getcol("TIME"), return_inverse=True)
        total = np.zeros((len(unique), len(freq_hz)))
        n_flagged = n_all = 0
        for start in range(0, len(index), ROWS_AT_ONCE):
            times = index[start : start + ROWS_AT_ONCE]
            flags = main.getcol("FLAG", start, len(times))
            weight = main.getcol("WEIGHT_SPECTRUM", start, len(times))
            weight[flags] = 0
            by_channel = weight.sum(axis=2)
            for k in np.unique(times):
                total[k] += by_channel[times == k].sum(axis=0)
            n_flagged += int(flags.sum())
            n_all += flags.size
    weights = Weights(
        freq_hz=freq_hz.tolist(),
        time_mjd=(unique / DAY_S).tolist(),
        weight=[[float(f"{w:.6g}") for w in row] for row in total],
    )
    return weights, n_flagged / max(n_all, 1)


def _judge(sidecar: Sidecar[ApplyFigures], tile: Record[ConvertFigures], chosen: Candidate) -> None:
    calibration = sidecar.figures.calibration
    if tile.verdict == "fail":
        sidecar.fail(f"the tile itself failed: {'; '.join(tile.reasons)}")
    if sidecar.figures.flagged_fraction == 1:
        sidecar.fail(f"nothing was corrected: all data are flagged after {chosen.group}")
    if not calibration.steady:
        sidecar.warn(
            f"the flux scale rests on {calibration.calibrator} "
            f"({calibration.flux_anchor}), which is not known to be steady"
        )
    if calibration.borrowed:
        sidecar.warn(
            f"calibration borrowed from {chosen.group}, {calibration.apart_h / 24:.1f} days away"
        )
