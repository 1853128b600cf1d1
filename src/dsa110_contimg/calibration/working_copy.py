"""The averaged copy of a calibrator tile that is solved on, with the model of its field.

The telescope does not track: while a calibrator is solved on, it and its neighbours drift through
the beam. Each source is attenuated by the Airy beam of each integration and channel. Data and model
are then turned to the calibrator, where its visibilities are constant, and averaged together; what
is left of the neighbours averages alike in both, so nothing is lost but the size.

The copy is made by python-casacore, the solving by CASA, and the two do not share a process: this
module is also a program (`core.programs.program`).
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalogs import calibrators, catalogue
from ..core.errors import DataError
from ..core.figures import ConvertFigures
from ..core.files import write_text
from ..core.programs import run_as_program
from ..core.sidecar import read_sidecar
from ..core.times import DAY_S
from ..telescope.beam import TileBeam
from ..telescope.dsa110 import C_M_S, RAW_NAME
from ..telescope.phasors import phasors
from .field_model import FieldModel, antenna_uvw, direction_offsets, field_model, predict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["timeline_path", "write_working_copy"]

#: Pairs of channels that measure the noise of a visibility in each integration.
NOISE_SAMPLES = 96


#: Longest time that data are averaged before solving, s: gains hardly move in it ...
BIN_S = 160.0


@dataclass(frozen=True)
class _Sampling:
    """What of a Measurement Set does not change from integration to integration."""

    antennas: np.ndarray  # ids of those in use
    first: np.ndarray  # positions in `antennas`, of the selected rows of an integration
    second: np.ndarray
    rows: np.ndarray
    n_baselines: int
    times_s: np.ndarray
    integration_s: float
    freq_hz: np.ndarray
    uvw_m: np.ndarray  # (n_times, n_antennas, 3)
    phase_centre_deg: tuple[float, float]


def _read_sampling(table: Any, ms: Path, uvmin_klambda: float) -> _Sampling:
    from casacore.tables import table as open_table

    times = table.getcol("TIME")
    unique = np.unique(times)
    n_baselines = len(times) // len(unique)
    antenna1 = table.getcol("ANTENNA1", 0, n_baselines)
    antenna2 = table.getcol("ANTENNA2", 0, n_baselines)
    with open_table(f"{ms}::SPECTRAL_WINDOW", ack=False) as spw:
        if spw.nrows() != 1:
            raise DataError(f"{ms}: has {spw.nrows()} spectral windows; convert it again")
        freq_hz = spw.getcell("CHAN_FREQ", 0)
    with open_table(f"{ms}::FIELD", ack=False) as fields:
        centre = np.rad2deg(fields.getcell("PHASE_DIR", 0).ravel())
    uvw = table.getcol("UVW").reshape(len(unique), n_baselines, 3)
    length = np.hypot(uvw[..., 0], uvw[..., 1]).mean(axis=0)
    wanted = (antenna1 != antenna2) & (length * freq_hz.mean() / C_M_S >= uvmin_klambda * 1000)
    if not wanted.any():
        raise DataError(
            f"{ms}: no baseline is longer than {uvmin_klambda:g} klambda; lower uvmin_klambda"
        )
    antennas, positions = np.unique([antenna1, antenna2], return_inverse=True)
    first, second = positions.reshape(2, -1)
    return _Sampling(
        antennas,
        first[wanted],
        second[wanted],
        np.flatnonzero(wanted),
        n_baselines,
        unique,
        float(table.getcell("INTERVAL", 0)),
        freq_hz,
        np.stack([antenna_uvw(u, first, second, len(antennas)) for u in uvw]),
        (centre[0] % 360, centre[1]),
    )


def _bins(tile: _Sampling, bin_s: float) -> list[slice]:
    size = max(1, int(bin_s / tile.integration_s + 1e-6))
    count = math.ceil(len(tile.times_s) / size)
    edges = np.linspace(0, len(tile.times_s), count + 1).round().astype(int)
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _noise_variance(data: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the variance of real and imaginary part, (n_rows, n_pol), from adjacent channels.

    The squared modulus of a difference is exponential with mean 4 variances; its median is ln 2
    times that, and insensitive to interference. NaN where nothing is unflagged.
    """
    if data.shape[1] < 2:
        return np.full(data.shape[::2], np.nan)
    step = max(1, data.shape[1] // NOISE_SAMPLES)
    first, second = slice(0, -1, step), slice(1, None, step)
    difference = data[:, second] - data[:, first]
    power = difference.real**2 + difference.imag**2
    power[~(good[:, second] & good[:, first])] = np.nan
    return _nanmedian(power) / (4 * math.log(2))


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Return the median along axis 1, ignoring NaN; NaN where all are."""
    ordered = np.sort(values, axis=1)
    count = np.isfinite(values).sum(axis=1, keepdims=True)
    lower, upper = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[1] - 1)
    middle = [np.take_along_axis(ordered, index, axis=1)[:, 0] for index in (lower, upper)]
    return (middle[0] + middle[1]) / 2


@dataclass(frozen=True)
class _Sums:
    """Sums of unflagged samples, turned to the calibrator; shapes ``(n_rows, n_chan, n_pol)``."""

    time_s: float
    exposure_s: float
    data: np.ndarray
    model: np.ndarray
    count: np.ndarray

    def __add__(self, other: _Sums) -> _Sums:
        exposure_s = self.exposure_s + other.exposure_s
        time_s = self.time_s * self.exposure_s + other.time_s * other.exposure_s
        return _Sums(
            time_s / exposure_s,
            exposure_s,
            self.data + other.data,
            self.model + other.model,
            self.count + other.count,
        )

    def merge_channels(self, size: int) -> _Sums:
        """Return sums over groups of adjacent channels."""
        if size == 1:
            return self

        def merged(values: np.ndarray) -> np.ndarray:
            return values.reshape(len(values), -1, size, values.shape[-1]).sum(axis=2)

        return replace(
            self, data=merged(self.data), model=merged(self.model), count=merged(self.count)
        )

    def average(self, variance: np.ndarray) -> _Averaged:
        """Return the averages; `variance` is that of one sample, (n_rows, n_pol)."""
        flags = self.count == 0
        scale = 1 / np.maximum(self.count, 1)
        typical = self.count.sum(axis=1) / np.maximum((~flags).sum(axis=1), 1)
        return _Averaged(
            self.time_s,
            self.exposure_s,
            self.data * scale,
            self.model * scale,
            flags,
            _weights(typical, variance),
        )


@dataclass(frozen=True)
class _Averaged:
    """What a time bin of a copy holds."""

    time_s: float
    exposure_s: float
    data: np.ndarray  # (n_rows, n_chan, n_pol)
    model: np.ndarray
    flags: np.ndarray
    weight: np.ndarray  # (n_rows, n_pol)


def _turned(
    table: Any, tile: _Sampling, model: FieldModel, beam: TileBeam
) -> Iterator[tuple[_Sums, np.ndarray]]:
    """Yield each integration, turned to the calibrator, with its model and its noise."""
    mjd = tile.times_s.mean() / DAY_S
    offsets = direction_offsets(model.ra_deg, model.dec_deg, *tile.phase_centre_deg, mjd)
    seen = np.stack([beam.samples(r, d) for r, d in zip(model.ra_deg, model.dec_deg, strict=True)])
    for k, time_s in enumerate(tile.times_s):
        uvw = tile.uvw_m[k]
        start = k * tile.n_baselines
        data = table.getcol("DATA", start, tile.n_baselines)[tile.rows]
        good = ~table.getcol("FLAG", start, tile.n_baselines)[tile.rows]
        variance = _noise_variance(data, good)
        turn = phasors(uvw @ offsets[0], tile.freq_hz).T  # (n_antennas, n_chan)
        data *= (turn[tile.first] * turn[tile.second].conj())[..., None]
        data *= good
        vis = predict(uvw, offsets - offsets[0], model.flux_jy * seen[:, k], tile.freq_hz)
        vis = vis[:, tile.first, tile.second].T[..., None]
        yield _Sums(time_s, tile.integration_s, data, vis * good, good.astype(np.float32)), variance


def _weights(count: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return inverse variances of averaged samples; 0 where the noise could not be measured."""
    known = np.isfinite(variance) & (variance > 0)
    if not known.any():  # noiseless data: all alike
        return count.astype(np.float32)
    return np.where(known, count / np.where(known, variance, 1), 0).astype(np.float32)


def _merged(freq_hz: np.ndarray, wanted: int) -> int:
    """Return how many channels are averaged: `wanted` where that divides a subband."""
    per_subband = len(freq_hz) // 16
    return wanted if per_subband and per_subband % wanted == 0 else 1


def _subband(freq_hz: np.ndarray) -> int:
    """Return the channels of a subband; 1 where the band is not made of 16 subbands."""
    return len(freq_hz) // 16 if len(freq_hz) % 16 == 0 else 1


def _average(
    table: Any, tile: _Sampling, model: FieldModel, beam: TileBeam, fine: int, coarse: int
) -> tuple[list[_Averaged], list[_Averaged]]:
    """Return the bins of the two copies, channels merged by `fine` and by `coarse`."""
    bins: list[_Averaged] = []
    timeline: list[_Averaged] = []
    samples = _turned(table, tile, model, beam)
    for chosen in _bins(tile, BIN_S):
        total: _Sums | None = None
        variances = []
        for sums, variance in itertools.islice(samples, chosen.stop - chosen.start):
            total = sums if total is None else total + sums
            timeline.append(sums.merge_channels(coarse).average(variance))
            variances.append(variance)
        assert total is not None  # a bin has an integration
        typical = _nanmedian(np.stack(variances, axis=1))
        bins.append(total.merge_channels(fine).average(typical))
    return bins, timeline


def timeline_path(copy: Path) -> Path:
    """Return the name of the copy that has every integration."""
    return copy.with_name(f"{copy.stem}.timeline{copy.suffix}")


def write_working_copy(
    ms: Path,
    out: Path,
    calibrator: calibrators.Calibrator,
    catalog: pd.DataFrame | None,
    *,
    uvmin_klambda: float,
    channel_average: int = 1,
) -> dict[str, Any]:
    """Write the averaged copies of a Measurement Set that are solved on, with their model.

    The first, `out`, is averaged in time and is what is solved on. The second,
    `timeline_path(out)`, has every integration but few channels, and shows how gains move in time.
    Both hold cross-correlations above the uv limit, ``DATA`` and ``MODEL_DATA`` turned to the
    calibrator, and weights that are inverse variances. The input is not touched.

    Parameters
    ----------
    ms : Path
        Converted tile with its sidecar (which has the pointing of each integration).
    out : Path
        The copy.
    calibrator : Calibrator
    catalog : DataFrame or None
        Neighbours.
    uvmin_klambda : float
        Shortest baseline at band centre, kilo-wavelengths.
    channel_average : int
        Channels averaged in the first copy, where it divides a subband.

    Returns
    -------
    dict
        What calibration needs to know of it: model, antennas, flagged fractions, noise.
    """
    from casacore.tables import table as open_table

    with open_table(os.fspath(ms), ack=False) as table:
        tile = _read_sampling(table, ms, uvmin_klambda)
        beam = _pointings(ms, tile)
        model = field_model(calibrator, catalog, beam)
        sizes = _merged(tile.freq_hz, channel_average), _subband(tile.freq_hz)
        bins, timeline = _average(table, tile, model, beam, *sizes)
    _write_ms(ms, out, tile, tile.freq_hz.reshape(-1, sizes[0]).mean(axis=1), bins)
    _write_ms(
        ms, timeline_path(out), tile, tile.freq_hz.reshape(-1, sizes[1]).mean(axis=1), timeline
    )
    freq_hz = tile.freq_hz.reshape(-1, sizes[0]).mean(axis=1)
    flagged = np.mean([b.flags.mean(axis=(1, 2)) for b in bins], axis=0)
    with open_table(f"{ms}::ANTENNA", ack=False) as antennas:
        names = antennas.getcol("NAME")
    return {
        "sources": model.names,
        "share": model.share,
        "apparent_jy": model.apparent_jy,
        "antennas": {
            str(names[a]): float(np.median(flagged[(tile.first == n) | (tile.second == n)]))
            for n, a in enumerate(tile.antennas)
            if ((tile.first == n) | (tile.second == n)).any()
        },
        "names": [str(name) for name in names],
        "freq_hz": [float(freq_hz[0]), float(freq_hz[-1])],
        "n_channels": len(freq_hz),
        "mid_mjd": float(tile.times_s.mean() / DAY_S),
        "n_bins": len(bins),
        "flagged_fraction": float(flagged.mean()),
    }


def _pointings(ms: Path, tile: _Sampling) -> TileBeam:
    """Return the beam at the integrations of a tile, from the pointing in its sidecar."""
    pointing = read_sidecar(ms, ConvertFigures).figures.pointing
    mjd = tile.times_s / DAY_S
    weight = np.ones((len(mjd), len(tile.freq_hz)))
    return TileBeam.from_pointing(pointing, mjd, tile.freq_hz, weight)


#: Subtables that solving needs.
_SUBTABLES = (
    "ANTENNA",
    "DATA_DESCRIPTION",
    "FEED",
    "FIELD",
    "OBSERVATION",
    "POLARIZATION",
    "SPECTRAL_WINDOW",
)


def _write_ms(
    ms: Path, out: Path, tile: _Sampling, freq_hz: np.ndarray, bins: list[_Averaged]
) -> None:
    from casacore import tables

    n_rows, (n_chan, n_pol) = len(tile.rows), bins[0].data.shape[1:]
    shape = [n_chan, n_pol]
    columns = tables.maketabdesc(
        [
            tables.makearrcoldesc(name, 0j, valuetype="complex", ndim=2, shape=shape, options=5)
            for name in ("DATA", "MODEL_DATA")
        ]
    )
    description = tables.required_ms_desc()
    description.update(columns)
    with tables.default_ms(os.fspath(out), description) as table:
        table.addrows(n_rows * len(bins))
        n_all = n_rows * len(bins)
        uvw = [
            tile.uvw_m[k][tile.second] - tile.uvw_m[k][tile.first]
            for k in np.linspace(0, len(tile.times_s) - 1, len(bins)).round().astype(int)
        ]
        whole = {
            "ANTENNA1": np.tile(tile.antennas[tile.first], len(bins)),
            "ANTENNA2": np.tile(tile.antennas[tile.second], len(bins)),
            "TIME": np.repeat([b.time_s for b in bins], n_rows),
            "TIME_CENTROID": np.repeat([b.time_s for b in bins], n_rows),
            "EXPOSURE": np.repeat([b.exposure_s for b in bins], n_rows),
            "INTERVAL": np.repeat([b.exposure_s for b in bins], n_rows),
            "UVW": np.concatenate(uvw),
            "WEIGHT": np.concatenate([b.weight for b in bins]),
            "SIGMA": 1 / np.sqrt(np.maximum(np.concatenate([b.weight for b in bins]), 1e-30)),
            "SCAN_NUMBER": np.ones(n_all, int),
            "FLAG_ROW": np.concatenate([b.flags.all(axis=(1, 2)) for b in bins]),
        }
        for name, values in whole.items():
            table.putcol(name, values)
        for i, b in enumerate(bins):
            table.putcol("DATA", b.data, i * n_rows, n_rows)
            table.putcol("MODEL_DATA", b.model, i * n_rows, n_rows)
            table.putcol("FLAG", b.flags, i * n_rows, n_rows)
    for name in _SUBTABLES:
        _copy_subtable(ms, out, name)
    _relabel(out, freq_hz)


def _copy_subtable(ms: Path, out: Path, name: str) -> None:
    from casacore.tables import table as open_table

    with (
        open_table(f"{ms}::{name}", ack=False) as source,
        open_table(f"{out}::{name}", readonly=False, ack=False) as target,
    ):
        extra = set(target.colnames()) - set(source.colnames())
        target.addrows(source.nrows())
        for column in target.colnames():
            if column in extra:
                continue
            for row in range(source.nrows()):
                if source.iscelldefined(column, row):
                    target.putcell(column, row, source.getcell(column, row))


def _relabel(out: Path, freq_hz: np.ndarray) -> None:
    """Set the channels and the telescope's name."""
    from casacore.tables import table as open_table

    with open_table(f"{out}::SPECTRAL_WINDOW", readonly=False, ack=False) as spw:
        width = np.full(len(freq_hz), abs(spw.getcell("TOTAL_BANDWIDTH", 0)) / len(freq_hz))
        spw.putcell("NUM_CHAN", 0, len(freq_hz))
        spw.putcell("CHAN_FREQ", 0, freq_hz)
        for column in ("CHAN_WIDTH", "EFFECTIVE_BW", "RESOLUTION"):
            spw.putcell(column, 0, width)
    with open_table(f"{out}::OBSERVATION", readonly=False, ack=False) as observation:
        observation.putcell("TELESCOPE_NAME", 0, RAW_NAME)  # the only one that CASA knows


def _main(
    ms: str,
    out: str,
    calibrator: str,
    calibrators_table: str | None,
    catalog: str | None,
    **options: Any,
) -> None:
    """Write a working copy and what it is, ``<out>.json``, in a process of its own."""
    summary = write_working_copy(
        Path(ms),
        Path(out),
        calibrators.find_calibrator(calibrator, calibrators_table),
        catalogue.read_catalog(catalog) if catalog else None,
        **options,
    )
    write_text(f"{out}.json", json.dumps(summary, indent=1))


if __name__ == "__main__":
    run_as_program(_main)
