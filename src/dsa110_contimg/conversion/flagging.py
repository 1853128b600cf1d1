"""Flags on the raw visibilities: bad samples, interference, dead antennas.

The conversion calls `flag_ms` on its temporary Measurement Set, so that flags travel in the product
of the step that made them. Order:

1. samples that hold no data (zeros, NaN), autocorrelations, amplitudes beyond reason;
2. the engine: AOFlagger with a strategy for 24-integration tiles, or CASA's tfcrop and rflag;
3. an upper-sided clip at several robust standard deviations of each baseline, then extension;
4. antennas with next to nothing left.

Only flags are written (and zeros in place of NaN, which some tools do not mask). The set is
streamed in blocks; memory does not grow with its length.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.figures import FlagStatistics
from ..core.files import scratch
from ..core.options import FlaggingOptions
from ..core.programs import find_tool, program, run_as_program, run_tool
from ..core.robust import MAD_TO_SIGMA
from ..core.sidecar import Sidecar
from ..core.tools import program_version, versions
from ..ms.blocks import CASACORE, in_order
from ..telescope.dsa110 import CORRELATIONS, N_SUBBANDS

__all__ = [
    "flag_bad_samples",
    "flag_high_amplitudes",
    "flag_ms",
    "flag_statistics",
    "strategy_path",
]

#: Effective flagged fraction above which a tile is suspect, above which it is not used, and the
#: least fraction of data that must remain for anything to be done with it.
WARN_FRACTION, FAIL_FRACTION, LEAST_REMAINING = 0.3, 0.5, 0.1
#: Samples that estimate the spread of a baseline; more do not sharpen a 7 sigma limit.
SPREAD_SAMPLES = 4096
#: Baselines of each antenna, and integrations, that its passband is measured on.
PASSBAND_BASELINES, PASSBAND_INTEGRATIONS = 24, 6
#: Rows, and baselines, that are worked on together. Memory of a few MB is used again and again;
#: more would be returned to the system, and cleared anew, each time.
BLOCK_ROWS, BLOCK_BASELINES = 512, 64
#: Lower edges of the baseline-length bins of the statistics, m.
LENGTH_BINS_M = (0.0, 50.0, 200.0, 500.0, 1000.0, 1500.0)
#: Most blocks of channels in the statistics by antenna and frequency.
CHANNEL_BLOCKS = 48


def strategy_path() -> Path:
    """Return the AOFlagger strategy of this package."""
    return Path(str(resources.files(__package__).joinpath("data/dsa110.lua")))


def flag_bad_samples(
    data: np.ndarray, auto: np.ndarray, clip_amplitude: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find samples that cannot be astronomical.

    Parameters
    ----------
    data : (n_rows, n_chan, n_pol) complex
        Raw visibilities.
    auto : (n_rows,) bool
        Rows that are autocorrelations; they are flagged whole.
    clip_amplitude : float
        Cross-correlation amplitude above which a sample is flagged, raw units.

    Returns
    -------
    bad, not_finite : (n_rows, n_chan, n_pol) bool
        All bad samples, and those of them that are NaN or infinite.
    """
    power = data.real**2 + data.imag**2
    not_finite = ~np.isfinite(power)
    # Written so that a NaN counts as bad, whichever way it compares.
    bad = ~((power > 0) & (power <= clip_amplitude**2))
    bad |= auto[:, None, None]
    return bad, not_finite


def flag_high_amplitudes(data: np.ndarray, flags: np.ndarray, sigma: float) -> np.ndarray:
    """Find samples far above what is usual on their baseline.

    Location and spread are median and median absolute deviation over the unflagged samples of one
    baseline and polarisation, so that neither antenna gains nor a strong calibrator move the limit.

    Parameters
    ----------
    data : (n_times, n_baselines, n_chan, n_pol) complex
        Raw visibilities.
    flags : (n_times, n_baselines, n_chan, n_pol) bool
        Samples to leave out.
    sigma : float
        Limit in robust standard deviations; only the upper side is clipped.

    Returns
    -------
    (n_times, n_baselines, n_chan, n_pol) bool
        Newly found samples.
    """
    n_times, _, n_chan, _ = data.shape
    amplitude = np.abs(data)
    stride = max(1, n_times * n_chan // SPREAD_SAMPLES)
    sample = amplitude[:, :, ::stride].copy()
    sample[flags[:, :, ::stride]] = np.nan
    sample = sample.transpose(1, 3, 0, 2).reshape(data.shape[1], data.shape[3], -1)
    sample.sort(axis=-1)  # NaN go to the end
    n_good = np.isfinite(sample).sum(axis=-1)
    centre = _sorted_median(sample, n_good)
    deviation = np.abs(sample - centre[..., None])
    deviation.sort(axis=-1)
    limit = centre + sigma * MAD_TO_SIGMA * _sorted_median(deviation, n_good)
    return (amplitude > limit[None, :, None, :]) & ~flags


def _sorted_median(values: np.ndarray, n_good: np.ndarray) -> np.ndarray:
    """Return the (upper) median of the first `n_good` of sorted values along the last axis."""
    index = np.minimum(n_good // 2, values.shape[-1] - 1)
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def extend_flags(flags: np.ndarray) -> np.ndarray:
    """Extend flags to the other polarisation and into single-sample gaps in frequency and time.

    Parameters
    ----------
    flags : (n_times, n_baselines, n_chan, n_pol) bool
        Flags found so far.

    Returns
    -------
    (n_times, n_baselines, n_chan, n_pol) bool
        Extended flags.
    """
    either = np.any(flags, axis=-1)
    filled = either.copy()
    filled[:, :, 1:-1] |= either[:, :, :-2] & either[:, :, 2:]
    filled[1:-1] |= either[:-2] & either[2:]
    return np.broadcast_to(filled[..., None], flags.shape).copy()


def find_dead_antennas(
    flagged: np.ndarray, antenna1: np.ndarray, antenna2: np.ndarray, limit: float
) -> list[int]:
    """Return the antennas of which more than a fraction is flagged on their typical baseline.

    The median over an antenna's baselines is taken, so that its dead partners do not count against
    it; channels without any data (absent subbands) are left out.

    Parameters
    ----------
    flagged : (n_baselines, n_chan) float
        Flagged fraction over times and polarisations.
    antenna1, antenna2 : (n_baselines,) int
        Antenna numbers.
    limit : float
        Fraction above which an antenna is dead.
    """
    cross = antenna1 != antenna2
    present = (flagged[cross] < 1).any(axis=0)
    if not present.any():
        return sorted(set(antenna1[cross]) | set(antenna2[cross]))
    fraction = flagged[:, present].mean(axis=1)
    dead = []
    for antenna in np.unique([antenna1, antenna2]):
        mine = cross & ((antenna1 == antenna) | (antenna2 == antenna))
        if mine.any() and np.median(fraction[mine]) > limit:
            dead.append(int(antenna))
    return dead


def _percent_in_blocks(fraction: np.ndarray) -> list[int]:
    """Return the flagged percentage in blocks of channels of a (rows, n_chan, n_pol) array."""
    by_channel = fraction.mean(axis=(0, 2))
    blocks = np.array_split(by_channel, min(CHANNEL_BLOCKS, len(by_channel)))
    return [round(100 * float(block.mean())) for block in blocks]


def flag_statistics(
    count: np.ndarray,
    n_times: int,
    antenna1: np.ndarray,
    antenna2: np.ndarray,
    length_m: np.ndarray,
    names: list[str],
    polarizations: list[str],
) -> FlagStatistics:
    """Summarise flags of the cross-correlations.

    Raw fractions are of everything recorded; effective ones leave out antennas without any data and
    channels without any data (absent subbands), and say what interference cost.

    Parameters
    ----------
    count : (n_baselines, n_chan, n_pol) int
        Flagged integrations.
    n_times : int
        Integrations.
    antenna1, antenna2 : (n_baselines,) int
        Antenna numbers.
    length_m : (n_baselines,) float
        Baseline lengths, m.
    names : list of str
        Antenna names by number.
    polarizations : list of str
        Names of the polarisations.

    Returns
    -------
    FlagStatistics
        ``percent_by_antenna_block`` has up to `CHANNEL_BLOCKS` blocks of channels.
    """
    cross = antenna1 != antenna2
    fraction = count[cross] / n_times
    a1, a2, length = antenna1[cross], antenna2[cross], length_m[cross]
    numbers = np.unique([a1, a2])
    present = [n for n in numbers if (fraction[(a1 == n) | (a2 == n)] < 1).any()]
    channels = (fraction < 1).any(axis=(0, 2))
    rows = np.isin(a1, present) & np.isin(a2, present)
    fraction_present = fraction[rows]
    effective = fraction_present[:, channels]
    a1, a2, length = a1[rows], a2[rows], length[rows]
    by_channel = np.ones(count.shape[1])
    if rows.any():
        by_channel = fraction_present.mean(axis=(0, 2))
    edges = [*LENGTH_BINS_M, np.inf]
    bins = {
        f"{low:.0f}-{high:.0f} m" if np.isfinite(high) else f">{low:.0f} m": (length >= low)
        & (length < high)
        for low, high in itertools.pairwise(edges)
    }
    return FlagStatistics(
        flagged_fraction=_rounded(fraction.mean()),
        flagged_fraction_effective=_rounded(effective.mean()) if effective.size else 1.0,
        absent_antennas=[names[n] for n in numbers if n not in present],
        absent_channels=int((~channels).sum()),
        by_antenna={names[n]: _rounded(effective[(a1 == n) | (a2 == n)].mean()) for n in present},
        by_channel=[_rounded(f) for f in by_channel],
        percent_by_antenna_block={
            names[n]: _percent_in_blocks(fraction_present[(a1 == n) | (a2 == n)]) for n in present
        },
        by_baseline_length={
            label: _rounded(effective[chosen].mean())
            for label, chosen in bins.items()
            if chosen.any()
        },
        by_polarization={
            name: _rounded(effective[..., p].mean()) if effective.size else 1.0
            for p, name in enumerate(polarizations)
        },
    )


def _rounded(fraction: float) -> float:
    return round(float(fraction), 5)


def judge_flags(statistics: FlagStatistics, sidecar: Sidecar) -> None:
    """Set the verdict of a tile from its flag statistics."""
    effective = statistics.flagged_fraction_effective
    if 1 - statistics.flagged_fraction < LEAST_REMAINING:
        sidecar.fail(f"only {1 - statistics.flagged_fraction:.1%} of the data is left unflagged")
    elif effective > FAIL_FRACTION:
        sidecar.fail(f"{effective:.0%} of the data of the antennas present is flagged")
    elif effective > WARN_FRACTION:
        sidecar.warn(f"{effective:.0%} of the data of the antennas present is flagged")


@dataclass(frozen=True)
class _Grid:
    """Shape of a Measurement Set whose rows are times x baselines."""

    n_times: int
    antenna1: np.ndarray
    antenna2: np.ndarray
    length_m: np.ndarray
    n_chan: int
    n_pol: int

    @property
    def n_baselines(self) -> int:
        return len(self.antenna1)

    @property
    def antennas(self) -> np.ndarray:
        return np.unique([self.antenna1, self.antenna2])

    @property
    def auto(self) -> np.ndarray:
        return self.antenna1 == self.antenna2


def _grid_of(table: Any, ms: Path) -> _Grid:
    if table.nrows() == 0:
        raise DataError(f"{ms}: holds no rows; convert the group again")
    times = table.getcol("TIME")
    n_times = len(np.unique(times))
    antenna1, antenna2 = table.getcol("ANTENNA1"), table.getcol("ANTENNA2")
    n_baselines = len(times) // n_times
    regular = n_baselines * n_times == len(times) and all(
        (column.reshape(n_times, n_baselines) == column[:n_baselines]).all()
        for column in (antenna1, antenna2)
    )
    if not regular:
        raise DataError(f"{ms}: rows are not times x baselines; convert it with this package")
    n_chan, n_pol = table.getcell("DATA", 0).shape
    uvw = table.getcol("UVW", 0, n_baselines)
    return _Grid(
        n_times,
        antenna1[:n_baselines],
        antenna2[:n_baselines],
        np.linalg.norm(uvw, axis=1),
        n_chan,
        n_pol,
    )


def passband_shape(amplitude: np.ndarray, subbands: int = N_SUBBANDS) -> np.ndarray:
    """Return the amplitude that all subbands have in common against channel, 1 at its largest.

    Each subband is divided by its median; the median over subbands is what they share. Interference
    is in a few subbands, so it has no part in it.

    Parameters
    ----------
    amplitude : (n_chan,) array
        Typical amplitude of each channel; NaN or 0 where there is no data.
    subbands : int
        Subbands in the band; where they do not divide the channels, the shape is flat.
    """
    if len(amplitude) % subbands or len(amplitude) // subbands < 3:
        return np.ones(len(amplitude))
    by_subband = np.where(amplitude > 0, amplitude, np.nan).reshape(subbands, -1)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # subbands without data
        shape = np.nanmedian(by_subband / np.nanmedian(by_subband, axis=1)[:, None], axis=0)
    if not np.isfinite(shape).all():
        return np.ones(len(amplitude))
    return np.tile(shape / shape.max(), subbands)


def antenna_passbands(amplitudes: np.ndarray) -> np.ndarray:
    """Return factors of each antenna, (n_antennas, n_chan); a baseline has the product of two.

    The shape that all subbands and antennas have in common, of which each antenna gets the root,
    times how the antenna differs from the typical one. Interference reaches all antennas, so it
    cancels in that ratio.

    Parameters
    ----------
    amplitudes : (n_antennas, n_chan) array
        Typical amplitude on each antenna's baselines; NaN where it has no data.
    """
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # antennas and channels without data
        typical = np.nanmedian(amplitudes, axis=0)
        ratio = amplitudes / typical
        ratio /= np.nanmedian(ratio, axis=1)[:, None]
    ratio[~(ratio > 0)] = 1.0
    return np.sqrt(passband_shape(typical)) * np.clip(ratio, 0.2, 5.0)


def _antenna_amplitudes(data: np.ndarray, bad: np.ndarray, grid: _Grid) -> np.ndarray:
    """Return the median amplitude on some baselines of each antenna, (n_antennas, n_chan)."""
    out = np.full((len(grid.antennas), grid.n_chan), np.nan)
    for n, antenna in enumerate(grid.antennas):
        rows = np.flatnonzero(
            ((grid.antenna1 == antenna) | (grid.antenna2 == antenna)) & ~grid.auto
        )
        rows = rows[:: max(1, len(rows) // PASSBAND_BASELINES)]
        amplitude = np.abs(data[rows])
        amplitude[bad[rows]] = np.nan
        amplitude = np.moveaxis(amplitude, 1, 0).reshape(grid.n_chan, -1)
        amplitude.sort(axis=-1)
        if amplitude.shape[1]:
            out[n] = _sorted_median(amplitude, np.isfinite(amplitude).sum(axis=-1))
    return out


def write_passband(path: Path, names: list[str], passbands: np.ndarray) -> None:
    """Write passbands for AOFlagger: antenna, polarisation, channel, factor of the amplitude.

    AOFlagger divides a baseline by the factors of its two antennas.

    Parameters
    ----------
    path : Path
        Text file.
    names : list of str
        Antenna names.
    passbands : (n_antennas, n_chan) array
        As of `antenna_passbands`.
    """
    lines = [
        f"{name} {polarization} {channel} {value:.5f}\n"
        for name, passband in zip(names, passbands, strict=True)
        for polarization in "XY"
        for channel, value in enumerate(passband)
    ]
    path.write_text("".join(lines), encoding="utf-8")


def _flag_bad(table: Any, grid: _Grid, options: FlaggingOptions) -> int:
    """Flag bad samples, some rows at a time; return how many were not finite."""
    n_rows = grid.n_times * grid.n_baselines
    auto = np.tile(grid.auto, grid.n_times)

    def work(start: int) -> int:
        size = min(BLOCK_ROWS, n_rows - start)
        with CASACORE:
            data = table.getcol("DATA", start, size)
            before = table.getcol("FLAG", start, size)
        bad, not_finite = flag_bad_samples(data, auto[start : start + size], options.clip_amplitude)
        flags = before | bad
        n_not_finite = int(not_finite.sum())
        data[not_finite] = 0
        with CASACORE:
            if n_not_finite:
                table.putcol("DATA", data, start, size)
            if (flags != before).any():
                table.putcol("FLAG", flags, start, size)
        return n_not_finite

    return sum(in_order(work, range(0, n_rows, BLOCK_ROWS)))


def _typical_amplitudes(table: Any, grid: _Grid) -> np.ndarray:
    """Return typical amplitudes over some integrations, (n_antennas, n_chan)."""

    def work(k: int) -> np.ndarray:
        start = k * grid.n_baselines
        with CASACORE:
            data = table.getcol("DATA", start, grid.n_baselines)
            flags = table.getcol("FLAG", start, grid.n_baselines)
        return _antenna_amplitudes(data, flags, grid)

    looked_at = np.linspace(0, grid.n_times - 1, PASSBAND_INTEGRATIONS).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # antennas without data
        return np.nanmean(list(in_order(work, looked_at)), axis=0)


def _baseline_blocks(grid: _Grid) -> Iterator[slice]:
    for first in range(0, grid.n_baselines, BLOCK_BASELINES):
        yield slice(first, min(first + BLOCK_BASELINES, grid.n_baselines))


def _read_block(table: Any, column: str, grid: _Grid, block: slice) -> np.ndarray:
    """Return (n_times, n_block, n_chan, n_pol) of a column."""
    size = block.stop - block.start
    with CASACORE:
        return np.stack(
            [
                table.getcol(column, k * grid.n_baselines + block.start, size)
                for k in range(grid.n_times)
            ]
        )


def _write_flags(table: Any, grid: _Grid, block: slice, flags: np.ndarray) -> None:
    with CASACORE:
        for k, values in enumerate(flags):
            start = k * grid.n_baselines + block.start
            table.putcol("FLAG", values, start, block.stop - block.start)


def _clip_and_count(table: Any, grid: _Grid, options: FlaggingOptions) -> np.ndarray:
    """Clip, extend, and return (n_baselines, n_chan, n_pol) counts of flagged integrations."""

    def work(block: slice) -> np.ndarray:
        before = _read_block(table, "FLAG", grid, block)
        flags = before
        if options.engine != "none":
            data = _read_block(table, "DATA", grid, block)
            flags = before | flag_high_amplitudes(data, before, options.mad_sigma)
        if options.extend:
            flags = extend_flags(flags)
        if (flags != before).any():
            _write_flags(table, grid, block, flags)
        return flags.sum(axis=0, dtype=np.uint16)

    return np.concatenate(list(in_order(work, _baseline_blocks(grid))))


def _flag_antennas(table: Any, grid: _Grid, dead: list[int], count: np.ndarray) -> None:
    rows = np.isin(grid.antenna1, dead) | np.isin(grid.antenna2, dead)
    if not rows.any():
        return
    for k in range(grid.n_times):
        flags = table.getcol("FLAG", k * grid.n_baselines, grid.n_baselines)
        flags[rows] = True
        table.putcol("FLAG", flags, k * grid.n_baselines, grid.n_baselines)
    count[rows] = grid.n_times


def aoflagger_command(ms: Path, strategy: Path, passband: Path, threads: int) -> list[str]:
    """Return the AOFlagger command line for a Measurement Set."""
    return [
        "aoflagger",
        "-direct-read",  # reads while it works, and needs no memory for the whole set
        *("-j", str(threads)),
        *("-strategy", os.fspath(strategy)),
        *("-preamble", f"passband_file = {json.dumps(os.fspath(passband))}"),
        *("-column", "DATA"),
        os.fspath(ms),
    ]


def _run_engine(
    ms: Path,
    options: FlaggingOptions,
    names: list[str],
    amplitudes: np.ndarray,
    sidecar: Sidecar,
) -> None:
    if options.engine == "none":
        return
    with scratch("flag") as folder:
        if options.engine == "aoflagger":
            find_tool("aoflagger")
            sidecar.tools["aoflagger"] = program_version("aoflagger")
            passband = folder / "passband.txt"
            write_passband(passband, names, antenna_passbands(amplitudes))
            threads = len(os.sched_getaffinity(0))
            command = aoflagger_command(ms, strategy_path(), passband, threads)
        else:
            # CASA cannot live in a process that holds python-casacore.
            command = program("dsa110_contimg.conversion.flagging", ms=ms.absolute())
            sidecar.tools |= versions("casa")
        result = run_tool(command, timeout_s=options.timeout_s)
    sidecar.commands.append(result.command)


def flag_ms(ms: Path, options: FlaggingOptions, sidecar: Sidecar) -> FlagStatistics:
    """Flag a Measurement Set that is still being made.

    Parameters
    ----------
    ms : Path
        Measurement Set whose rows are times x baselines; its ``FLAG`` column is changed.
    options : FlaggingOptions
        What to do.
    sidecar : Sidecar
        Receives commands, timings, and the verdict.

    Returns
    -------
    FlagStatistics
        As of `flag_statistics`, and what was found on the way.

    Raises
    ------
    DataError
        If the rows are not times x baselines.
    ToolError
        If the engine is absent, fails or exceeds its time limit.
    """
    from casacore.tables import table as open_table

    ms = Path(ms)
    started = time.monotonic()
    with open_table(os.fspath(ms), readonly=False, ack=False) as table:
        grid = _grid_of(table, ms)
        n_not_finite = _flag_bad(table, grid, options)
        amplitudes = _typical_amplitudes(table, grid)
    with open_table(f"{ms}::ANTENNA", ack=False) as antennas:
        names = [str(name) for name in antennas.getcol("NAME")]
    sidecar.timings_s["flag_bad"] = time.monotonic() - started

    started = time.monotonic()
    _run_engine(ms, options, [names[a] for a in grid.antennas], amplitudes, sidecar)
    sidecar.timings_s["flag_engine"] = time.monotonic() - started

    started = time.monotonic()
    with open_table(os.fspath(ms), readonly=False, ack=False) as table:
        count = _clip_and_count(table, grid, options)
        fraction = count.mean(axis=2) / grid.n_times
        dead = find_dead_antennas(
            fraction, grid.antenna1, grid.antenna2, options.dead_antenna_fraction
        )
        _flag_antennas(table, grid, dead, count)
    sidecar.timings_s["flag_clip"] = time.monotonic() - started

    statistics = flag_statistics(
        count,
        grid.n_times,
        grid.antenna1,
        grid.antenna2,
        grid.length_m,
        names,
        _polarization_names(ms, grid.n_pol),
    )
    statistics.dead_antennas = [names[n] for n in dead]
    statistics.not_finite = n_not_finite
    judge_flags(statistics, sidecar)
    return statistics


def _polarization_names(ms: Path, n_pol: int) -> list[str]:
    from casacore.tables import table as open_table

    with open_table(f"{ms}::POLARIZATION", ack=False) as polarization:
        types = polarization.getcell("CORR_TYPE", 0)
    return [CORRELATIONS.get(int(code), str(code)) for code in types[:n_pol]]


def _casa_engine(ms: str) -> None:
    """Run tfcrop, then rflag, on the DATA of a Measurement Set (own process: CASA)."""
    from ..core.casa import casa_session

    commands = [
        "mode='tfcrop' datacolumn='DATA' timecutoff=4.0 freqcutoff=4.0 timefit='line' "
        "freqfit='poly' maxnpieces=5 winsize=3 extendflags=False",
        "mode='rflag' datacolumn='DATA' timedevscale=5.0 freqdevscale=5.0 extendflags=False",
    ]
    with casa_session() as casa:
        casa.flagdata(vis=ms, mode="list", inpfile=commands, action="apply", flagbackup=False)


if __name__ == "__main__":
    run_as_program(_casa_engine)
