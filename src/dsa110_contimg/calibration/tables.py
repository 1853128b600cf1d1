"""Calibration tables: what they hold, and the factors of antennas that CASA makes of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.times import DAY_S

__all__ = [
    "KINDS",
    "LEAST_COMMON_ANTENNAS",
    "NO_SOLUTION",
    "Calibration",
    "Solution",
    "SolutionCube",
    "read_cube",
    "read_solution",
    "total_gain",
]

#: The tables of a calibration, in the order in which they are applied.
KINDS = ("kcal", "bcal", "gcal")


#: Flagged in all but this much, an antenna counts as absent.
ABSENT = 0.99
#: A calibration must have this share of the antennas of what it is applied to.
LEAST_COMMON_ANTENNAS = 0.5
#: File in a table's folder that says that there is no solution.
NO_SOLUTION = "NO_SOLUTION.txt"


@dataclass(frozen=True)
class Solution:
    """A calibration table in memory, row by row.

    Attributes
    ----------
    antenna : (n,) int array
        Antenna of each row.
    time_s : (n,) array
        Time of each row, as in a Measurement Set (MJD seconds).
    values : (n, n_chan, n_pol) array
        Complex gains, or delays in ns.
    flags : (n, n_chan, n_pol) bool array
    snr : (n, n_chan, n_pol) array
    window : (n,) int array, optional
        Spectral window of each row.
    antennas : list of str, optional
        Names of all antennas.
    windows_hz : list of (n_chan,) array, optional
        Channels of all spectral windows.
    """

    antenna: np.ndarray
    time_s: np.ndarray
    values: np.ndarray
    flags: np.ndarray
    snr: np.ndarray
    window: np.ndarray | None = None
    antennas: Sequence[str] = ()
    windows_hz: Sequence[np.ndarray] = ()

    @property
    def time_mjd(self) -> np.ndarray:
        """Time of each row, MJD."""
        return self.time_s / DAY_S

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


@dataclass(frozen=True)
class SolutionCube:
    """A calibration table by time, antenna and channel.

    Attributes
    ----------
    antennas : (n_antennas,) list of str
        Names.
    time_s : (n_times,) array
        MJD seconds.
    freq_hz : (n_chan,) array
        Channels of all spectral windows, ascending; of gains and delays, one of each window.
    values : (n_times, n_antennas, n_chan, n_pol) masked array
        Complex gains, or delays in ns; masked where flagged, and for antennas without a row.
    snr : (n_times, n_antennas, n_chan, n_pol) masked array
    """

    antennas: list[str]
    time_s: np.ndarray
    freq_hz: np.ndarray
    values: np.ma.MaskedArray
    snr: np.ma.MaskedArray

    @classmethod
    def of(cls, solution: Solution) -> SolutionCube:
        """Sort the rows of a table that was read."""
        _, first, time = np.unique(
            np.round(solution.time_s, 3), return_index=True, return_inverse=True
        )
        sizes = [len(freq) for freq in solution.windows_hz]
        shape = (len(first), len(solution.antennas), sum(sizes), solution.values.shape[2])
        kind = complex if np.iscomplexobj(solution.values) else float
        values, snr = np.ma.masked_all(shape, kind), np.ma.masked_all(shape, float)
        for window, (start, size) in enumerate(zip(np.cumsum([0, *sizes]), sizes, strict=False)):
            rows = solution.window == window
            n = min(size, solution.values.shape[1])
            place = (time[rows], solution.antenna[rows], slice(start, start + n))
            flags = solution.flags[rows, :n]
            values[place] = np.ma.masked_array(solution.values[rows, :n], flags)
            snr[place] = np.ma.masked_array(solution.snr[rows, :n], flags)
        freq_hz = np.concatenate(solution.windows_hz)
        order = np.argsort(freq_hz, kind="stable")
        return cls(
            list(solution.antennas),
            solution.time_s[first],
            freq_hz[order],
            values[:, :, order],
            snr[:, :, order],
        )

    def only(self, names: Container[str]) -> SolutionCube:
        """Return the solutions of some antennas: tables of CASA have rows for absent ones too."""
        kept = [i for i, name in enumerate(self.antennas) if name in names]
        if not kept:
            return self
        return replace(
            self,
            antennas=[self.antennas[i] for i in kept],
            values=self.values[:, kept],
            snr=self.snr[:, kept],
        )

    def of_antennas(self, n_antennas: int) -> np.ndarray:
        """Return the values of the first antennas, NaN where there is none.

        Returns
        -------
        (n_times, n_antennas, n_chan, n_pol) array
        """
        values = self.values.filled(np.nan)[:, :n_antennas]
        lacking = [(0, 0), (0, n_antennas - values.shape[1]), (0, 0), (0, 0)]
        return np.pad(values, lacking, constant_values=np.nan)


def read_solution(path: str | os.PathLike) -> Solution | None:
    """Read one of CASA's calibration tables; None where it holds no solution.

    CASA reads it where that is loaded, for it cannot share a process with python-casacore.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        with (
            _open(path) as table,
            _open(path, "ANTENNA") as names,
            _open(path, "SPECTRAL_WINDOW") as windows,
        ):
            if not table.nrows():
                return None
            column = "FPARAM" if "FPARAM" in table.colnames() else "CPARAM"
            # CASA's arrays are transposed.
            by_row = np.transpose if "casatools" in sys.modules else np.asarray
            return Solution(
                antenna=table.getcol("ANTENNA1"),
                time_s=table.getcol("TIME"),
                values=by_row(table.getcol(column)),
                flags=by_row(table.getcol("FLAG")),
                snr=by_row(table.getcol("SNR")),
                window=table.getcol("SPECTRAL_WINDOW_ID"),
                antennas=list(names.getcol("NAME")),
                windows_hz=[windows.getcell("CHAN_FREQ", i) for i in range(windows.nrows())],
            )
    except RuntimeError as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{path}: no readable calibration table ({cause})") from None


@contextmanager
def _open(path: str | os.PathLike, subtable: str = "") -> Iterator[Any]:
    """Open a table, or one of its subtables, with whichever library this process has."""
    place = os.path.join(path, subtable) if subtable else os.fspath(path)
    if casa := sys.modules.get("casatools"):
        table = casa.table()
        table.open(place)
    else:
        from casacore import tables

        table = tables.table(place, ack=False)
    try:
        yield table
    finally:
        table.close()


def read_cube(path: str | os.PathLike) -> SolutionCube:
    """Read one of CASA's calibration tables, sorted.

    Raises
    ------
    DataError
        If it cannot be read or holds no solutions.
    """
    solution = read_solution(path)
    if solution is None:
        raise DataError(f"{path}: the table holds no solutions")
    return SolutionCube.of(solution)


@dataclass(frozen=True)
class Calibration:
    """What a calibration multiplies the voltages of antennas with.

    Attributes
    ----------
    delay_s : (n_antennas, n_pol) array
        Delays; NaN where none was found.
    delay_hz : float
        Frequency that they turn about.
    bandpass : (n_antennas, n_solved_channels, n_pol) complex array
        NaN where flagged.
    bandpass_hz : (n_solved_channels,) array
    gain : (n_times, n_antennas, n_pol) complex array
        NaN where flagged.
    gain_s : (n_times,) array
        Times of the gains, as in a Measurement Set (MJD seconds).
    """

    delay_s: np.ndarray
    delay_hz: float
    bandpass: np.ndarray
    bandpass_hz: np.ndarray
    gain: np.ndarray
    gain_s: np.ndarray

    @classmethod
    def read(cls, prefix: Path, n_antennas: int, use_delay: bool = True) -> Calibration:
        """Read ``<prefix>.kcal``, ``.bcal`` and ``.gcal``.

        Parameters
        ----------
        prefix : Path
            What the tables' names begin with.
        n_antennas : int
            Antennas of the data, which go by the same numbers.
        use_delay : bool
            Whether the delays are to be applied.
        """
        delay, bandpass, gain = (read_cube(f"{prefix}.{kind}") for kind in KINDS)
        delay_s = delay.of_antennas(n_antennas)[0, :, 0] * 1e-9
        return cls(
            delay_s if use_delay else np.zeros_like(delay_s),
            float(delay.freq_hz[0]),
            bandpass.of_antennas(n_antennas)[0],
            bandpass.freq_hz,
            gain.of_antennas(n_antennas)[:, :, 0],
            gain.time_s,
        )

    def at_frequencies(self, freq_hz: np.ndarray) -> np.ndarray:
        """Return delay and bandpass, (n_antennas, n_chan, n_pol) complex."""
        out = _interpolate(freq_hz, self.bandpass_hz, self.bandpass.swapaxes(0, 1)).swapaxes(0, 1)
        turns = self.delay_s[:, None] * (np.asarray(freq_hz) - self.delay_hz)[:, None]
        return out * np.exp(2j * np.pi * turns)

    def at_times(self, time_s: np.ndarray) -> np.ndarray:
        """Return gains, (n_times, n_antennas, n_pol) complex."""
        return _interpolate(time_s, self.gain_s, self.gain)

    @property
    def weight(self) -> np.ndarray:
        """What the bandpass multiplies an antenna's weights with: (n_antennas, n_pol).

        The mean of its power: filters weaken sky and noise alike, so that channels keep equal
        weights.
        """
        power = np.abs(self.bandpass) ** 2
        good = np.isfinite(power)
        return np.where(good, power, 0).sum(axis=1) / np.maximum(good.sum(axis=1), 1)


def _interpolate(x: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Interpolate complex values along the first axis, amplitude and phase; NaN are left out."""
    if len(x) == len(known) and np.allclose(x, known, rtol=0, atol=1e-3):
        complete = np.isfinite(values).all(axis=0) | ~np.isfinite(values).any(axis=0)
        if complete.all():
            return values
    out = np.full((len(x), *values.shape[1:]), np.nan, complex)
    for place in np.ndindex(values.shape[1:]):
        column = values[(slice(None), *place)]
        good = np.isfinite(column)
        if good.any():
            phase = np.unwrap(np.angle(column[good]))
            amplitude = np.interp(x, known[good], np.abs(column[good]))
            out[(slice(None), *place)] = amplitude * np.exp(1j * np.interp(x, known[good], phase))
    return out


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
