"""Summary of calibrated visibilities: amplitude and phase by channel, time, length and antenna.

Calibrated data are temporary, so what people look at later is summed up while they exist: medians
and percentiles of a regular sample of the rows, which small numbers in the sidecar can hold.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.figures import ByAntenna, ByFrequency, ByLength, ByTime, Visibilities
from ..core.times import DAY_S
from ..telescope.dsa110 import C_M_S, CORRELATIONS

__all__ = ["summarise", "summarise_ms"]

#: Visibilities in the sample, about; medians of thousands are good to a percent.
SAMPLE = 200_000
#: Bins in baseline length, equally spaced in its logarithm.
LENGTH_BINS = 24
#: Phases refer to a source that is nearer to the phase centre than this.
FIELD_DEG = 1.5
#: Percentiles between which the middle 68 % lie.
LOW, HIGH = 16, 84


def summarise(
    data: np.ndarray, bins: np.ndarray, n_bins: int, polarizations: Sequence[str]
) -> dict[str, Any]:
    """Return percentiles of amplitude and phase in bins.

    Parameters
    ----------
    data : (n, n_pol) complex array
        Visibilities, Jy; NaN where flagged.
    bins : (n,) int array
        Bin of each.
    n_bins : int
        Number of bins.
    polarizations : sequence of str
        Their names.

    Returns
    -------
    dict
        ``amplitude_jy`` and ``phase_deg``, each with ``low`` and ``high`` (16th and 84th
        percentile of all polarisations) and the median of each polarisation; lists of `n_bins`,
        None for a bin without data. Phases are taken about their circular mean, so that a median
        near 180 deg is not torn.
    """
    columns = ("low", *polarizations, "high")
    out: dict[str, Any] = {
        quantity: {name: [None] * n_bins for name in columns}
        for quantity in ("amplitude_jy", "phase_deg")
    }
    amplitude = np.abs(data)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = np.where(amplitude > 0, data / amplitude, 1)
    phase = np.angle(unit)
    good = np.isfinite(amplitude)
    order = np.argsort(bins, kind="stable")
    edges = np.searchsorted(bins, np.arange(n_bins + 1), sorter=order)
    for b in range(n_bins):
        rows = order[edges[b] : edges[b + 1]]
        kept = good[rows]
        if not kept.any():
            continue
        mean = np.angle(unit[rows][kept].mean())
        turned = np.degrees((phase[rows] - mean + np.pi) % (2 * np.pi) - np.pi + mean)
        for quantity, values in (("amplitude_jy", amplitude[rows]), ("phase_deg", turned)):
            row = out[quantity]
            row["low"][b], row["high"][b] = _percentiles(values[kept], LOW, HIGH)
            for p, name in enumerate(polarizations):
                if kept[:, p].any():
                    (row[name][b],) = _percentiles(values[kept[:, p], p], 50)
    return out


def _percentiles(values: np.ndarray, *percents: float) -> list[float]:
    """Return percentiles to four digits; in a fraction of the time that `np.percentile` takes."""
    ordered = np.sort(values)
    out = []
    for percent in percents:
        place = percent / 100 * (len(ordered) - 1)
        low, part = int(place), place % 1
        high = min(low + 1, len(ordered) - 1)
        out.append(float(f"{ordered[low] * (1 - part) + ordered[high] * part:.4g}"))
    return out


def length_edges(length_m: np.ndarray) -> np.ndarray:
    """Return the edges of the bins in baseline length, m."""
    low, high = length_m.min(), length_m.max()
    return np.geomspace(max(low, 1.0), max(high, 1.001 * low, 1.001), LENGTH_BINS + 1)


def turn_towards(
    uvw_m: np.ndarray, freq_hz: np.ndarray, centre: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """Return what visibilities are multiplied with to move their phase centre.

    Parameters
    ----------
    uvw_m : (3, n) array
        Baselines as in a Measurement Set, m: second minus first antenna.
    freq_hz : (n_chan,) array
        Channels, Hz.
    centre, direction : (2,) array
        Old and new phase centre, right ascension and declination, rad.

    Returns
    -------
    (n_chan, n) complex64 array
    """
    (ra0, dec0), (ra, dec) = centre, direction
    l = np.cos(dec) * np.sin(ra - ra0)  # noqa: E741
    m = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra - ra0)
    n = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0)
    path_m = uvw_m[0] * l + uvw_m[1] * m + uvw_m[2] * (n - 1)
    return np.exp(-2j * np.pi / C_M_S * np.outer(freq_hz, path_m)).astype(np.complex64)


def summarise_ms(ms: Path, towards_deg: Sequence[float] | None = None) -> Visibilities:
    """Summarise a calibrated Measurement Set of cross-correlations.

    Parameters
    ----------
    ms : Path
        One spectral window.
    towards_deg : pair of float, optional
        Where phases refer to, ICRS, deg: a source that outshines the field. The phase centre, when
        absent or more than `FIELD_DEG` away.

    Returns
    -------
    Visibilities
        The percentiles of `summarise` by frequency, time, length and antenna.
    """
    from casacore.tables import table

    def column(name: str, part: str = "", step: int = 1) -> Any:
        with table(os.fspath(Path(ms) / part), ack=False) as reader:
            return reader.getcol(name, rowincr=step)

    freq_hz = column("CHAN_FREQ", "SPECTRAL_WINDOW")[0]
    names = column("NAME", "ANTENNA")
    codes = column("CORR_TYPE", "POLARIZATION")[0]
    polarizations = [CORRELATIONS.get(int(code), str(code)) for code in codes]

    times = column("TIME")
    n_pol, n_chan = len(polarizations), len(freq_hz)
    centre = column("PHASE_DIR", "FIELD")[0, 0]
    towards = None if towards_deg is None else np.deg2rad(towards_deg)
    if towards is not None and _apart_deg(centre, towards) > FIELD_DEG:
        towards = towards_deg = None
    step = _step(len(times), SAMPLE // (n_pol * n_chan), len(times) // len(np.unique(times)))
    sample = partial(column, step=step)
    data = sample("DATA").astype(np.complex64)
    data[sample("FLAG")] = np.nan
    data = data.swapaxes(0, 1)  # (n_chan, n_row, n_pol)
    antenna1, antenna2 = sample("ANTENNA1"), sample("ANTENNA2")
    uvw_m = sample("UVW").T
    length = np.hypot(*uvw_m[:2])
    if towards is not None:
        data *= turn_towards(uvw_m, freq_hz, centre, towards)[..., None]
    unique, time_index = np.unique(times, return_inverse=True)
    time_index = time_index[::step]
    edges = length_edges(length)
    used = np.unique([antenna1, antenna2])

    def by(rows: np.ndarray, n_bins: int, values: np.ndarray = data) -> dict[str, Any]:
        flat = values.reshape(-1, n_pol)
        return summarise(flat, np.tile(rows, n_chan), n_bins, polarizations)

    channels = np.repeat(np.arange(n_chan), len(time_index))
    both = np.concatenate([data, data.conj()], axis=1)  # the phase as each antenna has it
    lengths = np.clip(np.digitize(length, edges) - 1, 0, LENGTH_BINS - 1)
    ends = np.searchsorted(used, np.concatenate([antenna1, antenna2]))
    return Visibilities(
        polarizations=polarizations,
        towards_deg=None if towards_deg is None else list(towards_deg),
        n_sampled=len(time_index) * n_chan * n_pol,
        frequency=ByFrequency(
            freq_hz=freq_hz.tolist(),
            **summarise(data.reshape(-1, n_pol), channels, n_chan, polarizations),
        ),
        time=ByTime(time_mjd=(unique / DAY_S).tolist(), **by(time_index, len(unique))),
        length=ByLength(
            length_m=np.round(np.sqrt(edges[1:] * edges[:-1]), 1).tolist(),
            **by(lengths, LENGTH_BINS),
        ),
        antenna=ByAntenna(names=[str(names[a]) for a in used], **by(ends, len(used), both)),
    )


def _apart_deg(one: np.ndarray, two: np.ndarray) -> float:
    (ra, dec), (ra2, dec2) = one, two
    half = np.sin((dec - dec2) / 2) ** 2 + np.cos(dec) * np.cos(dec2) * np.sin((ra - ra2) / 2) ** 2
    return float(np.rad2deg(2 * np.arcsin(np.sqrt(half))))


def _step(n_rows: int, wanted: int, n_baselines: int) -> int:
    """Return a step through the rows that takes all baselines in turn: no divisor in common."""
    step = max(1, n_rows // max(wanted, 1))
    while step > 1 and np.gcd(step, n_baselines) > 1:
        step += 1
    return step
