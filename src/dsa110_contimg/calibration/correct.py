"""Correct visibilities by an antenna-based calibration and average channels, streamed.

What is written is ``V / (J1 conj(J2))`` with the factors of `solutions`, the mean over unflagged
channels. Weights are the recorded ones times ``|G1 G2|^2`` and the mean power of the two bandpasses
(CASA's ``calwt``), summed over what was averaged. What either antenna has no solution for is
flagged.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ms.blocks import CASACORE, in_order
from ..ms.main_table import add_weight_spectrum, create_main, sigma
from .tables import Calibration

__all__ = ["Averaged", "Corrector", "correct_ms"]

#: Rows that are corrected together: what of them is at work fits into a processor's cache.
_BLOCK_ROWS = 128
#: Rows read and written together.
_CHUNK_ROWS = 512
#: Columns that are copied as they are.
_COPIED = (
    *("TIME", "TIME_CENTROID", "INTERVAL", "EXPOSURE", "UVW", "ANTENNA1", "ANTENNA2"),
    *("ARRAY_ID", "DATA_DESC_ID", "FIELD_ID", "OBSERVATION_ID", "PROCESSOR_ID"),
    *("SCAN_NUMBER", "STATE_ID"),
)


@dataclass(frozen=True)
class Averaged:
    """Corrected, averaged rows: (n_rows, n_averages, n_pol) each."""

    data: np.ndarray
    flags: np.ndarray
    weights: np.ndarray


class Corrector:
    """Corrects rows of one Measurement Set.

    Parameters
    ----------
    calibration : Calibration
        What is applied.
    freq_hz : (n_chan,) array
        Channels of the data.
    time_s : (n_times,) array
        Times of the data.
    channels : int
        Channels to average; divides n_chan.
    """

    def __init__(
        self, calibration: Calibration, freq_hz: np.ndarray, time_s: np.ndarray, channels: int
    ):
        gains = calibration.at_times(time_s)
        with np.errstate(invalid="ignore", divide="ignore"):
            by_channel, by_time = 1 / calibration.at_frequencies(freq_hz), 1 / gains
        # Neither NaN nor the inverse of zero is a solution.
        solved = np.isfinite(by_time)
        usable = np.isfinite(by_channel) & np.all(solved, axis=0)[:, None]
        self._first = np.where(usable, by_channel, 0).astype(np.complex64)
        self._second = self._first.conj()
        self._unusable = ~usable
        self._gain = np.where(solved, by_time, 0)
        self._weight = np.where(solved, np.abs(gains) ** 2 * calibration.weight, 0)
        n_pol = by_channel.shape[2]
        # Sums over channels as products with these: matrix products are far faster than sums along
        # an axis between others.
        self._sum = np.tile(np.eye(n_pol, dtype=np.float32), (channels, 1))
        self._sum_complex = np.tile(np.eye(2 * n_pol, dtype=np.float32), (channels, 1))

    def correct(
        self,
        data: np.ndarray,
        flags: np.ndarray,
        weights: np.ndarray,
        when: np.ndarray,
        antenna1: np.ndarray,
        antenna2: np.ndarray,
    ) -> Averaged:
        """Correct and average rows.

        Parameters
        ----------
        data : (n_rows, n_chan, n_pol) complex64
            Recorded visibilities.
        flags : (n_rows, n_chan, n_pol) bool
            What not to use.
        weights : (n_rows, n_pol) or (n_rows, n_chan, n_pol) float32
            Recorded weights.
        when, antenna1, antenna2 : (n_rows,) int
            Index of the time; antenna numbers.
        """
        parts = [
            self._block(
                *(x[start : start + _BLOCK_ROWS] for x in (data, flags, weights)),
                *(x[start : start + _BLOCK_ROWS] for x in (when, antenna1, antenna2)),
            )
            for start in range(0, len(data), _BLOCK_ROWS)
        ]
        return Averaged(*map(np.concatenate, zip(*parts, strict=True)))

    def _block(
        self,
        data: np.ndarray,
        flags: np.ndarray,
        weights: np.ndarray,
        when: np.ndarray,
        antenna1: np.ndarray,
        antenna2: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n_rows, _, n_pol = data.shape
        bad = flags | self._unusable[antenna1] | self._unusable[antenna2]
        corrected = self._first[antenna1]
        corrected *= self._second[antenna2]
        corrected *= data
        share = np.logical_not(bad).astype(np.float32)
        if weights.ndim == 3:
            share *= weights
            corrected *= weights
            weights = np.ones((n_rows, n_pol), np.float32)
        corrected[bad] = 0
        total = corrected.view(np.float32).reshape(-1, len(self._sum_complex)) @ self._sum_complex
        total = total.view(np.complex64).reshape(n_rows, -1, n_pol)
        share = (share.reshape(-1, len(self._sum)) @ self._sum).reshape(n_rows, -1, n_pol)
        gain = self._gain[when, antenna1] * self._gain[when, antenna2].conj()
        scale = weights * self._weight[when, antenna1] * self._weight[when, antenna2]
        empty = share == 0
        mean = total / np.where(empty, 1, share)
        mean *= gain.astype(np.complex64)[:, None]
        return mean, empty, share * scale.astype(np.float32)[:, None]


def correct_ms(ms: Path, out: Path, prefix: Path, channels: int, *, use_delay: bool) -> None:
    """Write a calibrated, averaged copy of a Measurement Set, without autocorrelations.

    Parameters
    ----------
    ms, out : Path
        Recorded set; what to write.
    prefix : Path
        Of the calibration's tables.
    channels : int
        Channels to average.
    use_delay : bool
        Whether delays are applied.
    """
    from casacore.tables import table

    with (
        table(os.fspath(ms), ack=False) as main,
        table(f"{ms}::SPECTRAL_WINDOW", ack=False) as windows,
        table(f"{ms}::ANTENNA", ack=False) as antennas,
    ):
        freq_hz = windows.getcell("CHAN_FREQ", 0)
        calibration = Calibration.read(prefix, antennas.nrows(), use_delay)
        one, two = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        time_s, when = np.unique(main.getcol("TIME"), return_inverse=True)
        corrector = Corrector(calibration, freq_hz, time_s, channels)
        cross = one != two
        n_pol = main.getcell("DATA", 0).shape[1]
        create_main(out, len(freq_hz) // channels, n_pol, "Jy")
        with table(os.fspath(out), readonly=False, ack=False) as new:
            add_weight_spectrum(new, len(freq_hz) // channels, n_pol)
            new.addrows(int(cross.sum()))
            for name in _COPIED:
                new.putcol(name, main.getcol(name)[cross])

            def work(first: int) -> Averaged:
                rows = slice(first, min(first + _CHUNK_ROWS, len(one)))
                kept = cross[rows]
                columns = _read(main, rows, kept)
                indices = (x[rows][kept] for x in (when, one, two))
                return corrector.correct(*columns, *indices)

            start = 0
            for averaged in in_order(work, range(0, len(one), _CHUNK_ROWS)):
                with CASACORE:
                    _put(new, start, averaged)
                start += len(averaged.data)
    _copy_subtables(ms, out, channels)


def _read(main: Any, rows: slice, kept: np.ndarray) -> list[np.ndarray]:
    """Return data, flags and weights of the rows that are kept."""
    weights = "WEIGHT_SPECTRUM" if "WEIGHT_SPECTRUM" in main.colnames() else "WEIGHT"
    with CASACORE:
        columns: list[np.ndarray] = [
            main.getcol(name, rows.start, rows.stop - rows.start)
            for name in ("DATA", "FLAG", weights)
        ]
    return [column[kept] for column in columns]


def _put(new: Any, start: int, averaged: Averaged) -> None:
    n_rows = len(averaged.data)
    good = ~averaged.flags
    mean = averaged.weights.sum(axis=1) / np.maximum(good.sum(axis=1), 1)
    for name, values in (
        ("DATA", averaged.data),
        ("FLAG", averaged.flags),
        ("WEIGHT_SPECTRUM", averaged.weights),
        ("WEIGHT", mean.astype(np.float32)),
        ("SIGMA", sigma(mean.astype(np.float32))),
    ):
        new.putcol(name, values, start, n_rows)


def _copy_subtables(ms: Path, out: Path, channels: int) -> None:
    """Copy all subtables; put averaged channels into the spectral window, a line into history."""
    from casacore.tables import table

    with table(os.fspath(ms), ack=False) as main:
        names = [name for name, value in main.getkeywords().items() if _is_table(value)]
    with table(os.fspath(out), readonly=False, ack=False) as new:
        for name in names:
            shutil.rmtree(out / name, ignore_errors=True)
            shutil.copytree(ms / name, out / name)
            new.putkeyword(name, f"Table: {out / name}")
    with table(f"{out}::SPECTRAL_WINDOW", readonly=False, ack=False) as windows:
        freq_hz = windows.getcell("CHAN_FREQ", 0).reshape(-1, channels).mean(axis=1)
        windows.putcell("NUM_CHAN", 0, len(freq_hz))
        windows.putcell("CHAN_FREQ", 0, freq_hz)
        for name in ("CHAN_WIDTH", "EFFECTIVE_BW", "RESOLUTION"):
            width = windows.getcell(name, 0).reshape(-1, channels).sum(axis=1)
            windows.putcell(name, 0, width)


def _is_table(value: object) -> bool:
    return isinstance(value, str) and value.startswith("Table: ")
