"""Calibration tables: what they hold, and the factors of antennas that CASA makes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.times import DAY_S

__all__ = ["Solution", "Solutions", "read_solution", "read_table"]

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
            reader.getcol("ANTENNA1"), reader.getcol("TIME") / DAY_S, values, flags, snr
        )
    finally:
        reader.close()


@dataclass(frozen=True)
class Solutions:
    """Solutions of one calibration.

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
    def read(cls, prefix: Path, n_antennas: int, use_delay: bool = True) -> Solutions:
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
        _, delay, delay_hz = read_table(f"{prefix}.kcal", "FPARAM", n_antennas)
        _, bandpass, bandpass_hz = read_table(f"{prefix}.bcal", "CPARAM", n_antennas)
        gain_s, gain, _ = read_table(f"{prefix}.gcal", "CPARAM", n_antennas)
        return cls(
            delay[0, :, 0] * 1e-9 if use_delay else np.zeros_like(delay[0, :, 0]),
            float(delay_hz[0]),
            bandpass[0],
            bandpass_hz,
            gain[:, :, 0],
            gain_s,
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


def read_table(
    path: str | os.PathLike, column: str, n_antennas: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read one of CASA's calibration tables.

    Parameters
    ----------
    path : path
        The table.
    column : {"CPARAM", "FPARAM"}
        What it holds: complex factors, or delays in ns.
    n_antennas : int
        Antennas of the data.

    Returns
    -------
    time_s : (n_times,) array
        MJD seconds.
    values : (n_times, n_antennas, n_chan, n_pol) array
        NaN where flagged, and for antennas without a row.
    freq_hz : (n_chan,) array
    """
    from casacore.tables import table

    with table(os.fspath(path), ack=False) as solutions:
        times, index = np.unique(solutions.getcol("TIME"), return_inverse=True)
        antenna = solutions.getcol("ANTENNA1")
        values, flags = solutions.getcol(column), solutions.getcol("FLAG")
    with table(f"{path}::SPECTRAL_WINDOW", ack=False) as windows:
        freq_hz = windows.getcell("CHAN_FREQ", 0)
    known = antenna < n_antennas
    kind = complex if np.iscomplexobj(values) else float
    out = np.full((len(times), n_antennas, *values.shape[1:]), np.nan, kind)
    out[index[known], antenna[known]] = np.where(flags, np.nan, values)[known]
    return times, out, freq_hz


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
