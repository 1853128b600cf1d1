"""Figures of a calibration: every antenna against frequency and time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.escape import plot_text
from ..core.files import replacing

if TYPE_CHECKING:
    from .tables import Solution

__all__ = ["plot_calibration"]


def plot_calibration(
    target: Path, solutions: Mapping[str, Solution], freq_hz: np.ndarray, title: str
) -> None:
    """Draw amplitude and phase of bandpass and of gains in time, an antenna a row.

    White is flagged. Rows of the two polarisations lie beside each other; antennas without
    solutions are left out.

    Parameters
    ----------
    target : Path
        PNG to write.
    solutions : mapping
        ``bcal``, and ``timeline`` (one gain an integration, relative to ``gcal``) where there is
        one.
    freq_hz : (n_chan,) array
        Channels of the bandpass, Hz.
    title : str
        What it is.
    """
    from matplotlib.figure import Figure

    bandpass = solutions["bcal"]
    present = bandpass.present
    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    rows = [np.flatnonzero(bandpass.antenna == a)[0] for a in present]
    values = np.where(bandpass.flags, np.nan, bandpass.values)[rows]
    span = (freq_hz[0] / 1e6, freq_hz[-1] / 1e6)
    _pair(axes[0], by_row(values), span, "frequency (MHz)", "bandpass")
    timeline = solutions.get("timeline")
    if timeline is not None and len(timeline.present):
        times = np.unique(timeline.time_mjd)
        values = np.stack([over_mean(at_times(timeline, a, times)) for a in present])
        minutes = (0.0, (times[-1] - times[0]) * 1440)
        _pair(axes[1], by_row(values), minutes, "time (min)", "gain over its mean")
    for axis in axes.flat:
        axis.set_yticks(np.arange(0, 2 * len(present), 2))
        axis.set_yticklabels(present + 1, fontsize=4)
    for axis in axes[:, 0]:
        axis.set_ylabel("antenna")
    figure.suptitle(plot_text(title))
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=110)


def by_row(values: np.ndarray) -> np.ndarray:
    """Return (n_antennas, n, n_pol) as (n_antennas * n_pol, n), polarisations side by side."""
    return np.moveaxis(values, 2, 1).reshape(-1, values.shape[1])


def at_times(solution: Solution, antenna: int, times_mjd: np.ndarray) -> np.ndarray:
    """Return an antenna's gains at some times, (n_times, n_pol); NaN where it has none."""
    out = np.full((len(times_mjd), solution.values.shape[2]), np.nan, complex)
    rows = solution.antenna == antenna
    values = np.where(solution.flags[rows], np.nan, solution.values[rows])[:, 0]
    out[np.searchsorted(times_mjd, solution.time_mjd[rows])] = values
    return out


def over_mean(gains: np.ndarray) -> np.ndarray:
    """Return gains (n_times, n_pol) over the mean of their amplitudes in time."""
    count = np.maximum(np.isfinite(gains).sum(axis=0), 1)
    return gains / (np.nansum(np.abs(gains), axis=0) / count + 1e-30)


def _pair(
    axes: np.ndarray, values: np.ndarray, span: tuple[float, float], label: str, name: str
) -> None:
    amplitude, phase = np.abs(values), np.rad2deg(np.angle(values))
    for axis, image, what in (
        (axes[0], amplitude, f"{name}: amplitude"),
        (axes[1], phase, f"{name}: phase (deg)"),
    ):
        good = image[np.isfinite(image)]
        low, high = np.percentile(good, (1, 99)) if len(good) else (0, 1)
        shown = axis.imshow(
            image,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            cmap="cividis",
            extent=(*span, -0.5, len(image) - 0.5),
            vmin=low,
            vmax=high if high > low else low + 1,
        )
        axis.figure.colorbar(shown, ax=axis)
        axis.set_title(what, fontsize=9)
        axis.set_xlabel(label)
