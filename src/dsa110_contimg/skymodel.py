"""Model visibilities of a calibrator's field, and the averaged copy of the data that is solved on.

The telescope does not track: while a calibrator is solved on, it and its neighbours drift through
the beam. Each source is attenuated by the Airy beam of each integration and channel. Data and model
are then turned to the calibrator, where its visibilities are constant, and averaged together; what
is left of the neighbours averages alike in both, so nothing is lost but the size.

The copy is made by python-casacore, the solving by CASA, and the two do not share a process: this
module is also a program, ``python -m dsa110_contimg.skymodel``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import catalogs
from .beam import TileBeam, separation_rad
from .errors import DataError
from .products import read_sidecar, write_text
from .telescope import C_M_S, RAW_NAME

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FieldModel", "direction_offsets", "field_model", "predict", "write_working_copy"]

#: Neighbours are modelled when their mean apparent flux exceeds this share of the calibrator's ...
LEAST_SHARE = 5e-4
#: ... the brightest so many of them.
MOST_SOURCES = 100
#: Neighbours further from the phase centre are not looked for, deg (second null of the beam).
SEARCH_RADIUS_DEG = 6.0
#: Threads of the prediction.
N_THREADS = min(4, len(os.sched_getaffinity(0)))
#: Pairs of channels that measure the noise of a visibility in each integration.
NOISE_SAMPLES = 96
#: Longest time that data are averaged before solving, s: gains hardly move in it ...
BIN_S = 160.0
#: ... which a second copy shows, with every integration and one channel a subband.


@dataclass(frozen=True)
class FieldModel:
    """Point sources of a calibrator's field; the calibrator is the first.

    Attributes
    ----------
    names : list of str
    ra_deg, dec_deg : (n_source,) array
        ICRS, deg.
    flux_jy : (n_source, n_chan) array
        Flux densities before the beam, Jy.
    share : float
        Share of the calibrator in the apparent flux of all catalogued sources of the field.
    apparent_jy : float
        Mean apparent flux of the calibrator over the tile, Jy.
    """

    names: list[str]
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    flux_jy: np.ndarray
    share: float
    apparent_jy: float


def field_model(
    calibrator: catalogs.Calibrator, catalog: pd.DataFrame | None, beam: TileBeam
) -> FieldModel:
    """Choose the sources of a calibrator's field.

    Parameters
    ----------
    calibrator : Calibrator
        Its flux comes from its own spectrum, never from the catalogue.
    catalog : DataFrame or None
        As of `catalogs.read_catalog`; without one the calibrator stands alone.
    beam : TileBeam
        Pointings and channels of the tile.
    """
    own = calibrator.flux(beam.freq_hz)
    own_apparent = _mean_apparent(beam, calibrator.ra_deg, calibrator.dec_deg, own[None])[0]
    names, ra, dec, flux = [calibrator.name], [calibrator.ra_deg], [calibrator.dec_deg], [own]
    share = 1.0
    if catalog is not None and len(catalog):
        table = catalog[_near(catalog, beam, calibrator)]
        fluxes = catalogs.flux_at(
            table.flux_jy.to_numpy()[:, None], table.alpha.to_numpy()[:, None], beam.freq_hz
        )
        apparent = _mean_apparent(beam, table.ra_deg.to_numpy(), table.dec_deg.to_numpy(), fluxes)
        share = float(own_apparent / (own_apparent + apparent.sum()))
        for i in np.argsort(-apparent)[:MOST_SOURCES]:
            if apparent[i] < LEAST_SHARE * own_apparent:
                break
            row = table.iloc[i]
            names.append(str(row["name"]))
            ra.append(row.ra_deg)
            dec.append(row.dec_deg)
            flux.append(fluxes[i])
    return FieldModel(
        names, np.array(ra), np.array(dec), np.array(flux), share, float(own_apparent)
    )


def _near(catalog: pd.DataFrame, beam: TileBeam, calibrator: catalogs.Calibrator) -> np.ndarray:
    """Return which catalogue rows lie in the field and are not the calibrator itself."""
    ra, dec = catalog.ra_deg.to_numpy(), catalog.dec_deg.to_numpy()
    middle = len(beam.ra_deg) // 2
    off_centre = separation_rad(beam.ra_deg[middle], beam.dec_deg[middle], ra, dec)
    off_calibrator = separation_rad(calibrator.ra_deg, calibrator.dec_deg, ra, dec)
    return (off_centre < math.radians(SEARCH_RADIUS_DEG)) & (
        off_calibrator > math.radians(catalogs.SAME_SOURCE_ARCSEC / 3600)
    )


def _mean_apparent(beam: TileBeam, ra_deg, dec_deg, flux_jy: np.ndarray) -> np.ndarray:
    """Return fluxes averaged over channels times the beam averaged over the tile, Jy."""
    return np.atleast_1d(beam.response(ra_deg, dec_deg)) * flux_jy.mean(axis=1)


def direction_offsets(ra_deg, dec_deg, ra0_deg: float, dec0_deg: float, mjd: float) -> np.ndarray:
    """Return ``(l, m, n - 1)`` of ICRS directions about a phase centre, shape ``(n, 3)``.

    Baselines are apparent, so offsets are formed between apparent directions and then turned to the
    ICRS north of the phase centre, as the uvw axes are. Aberration and precession change an offset
    by up to 1e-4 of itself: 0.4 arcsec at 1 deg, several degrees of phase on the longest baselines.

    Parameters
    ----------
    ra_deg, dec_deg : (n,) array
        ICRS directions, deg.
    ra0_deg, dec0_deg : float
        Phase centre, ICRS, deg.
    mjd : float
        Time, UTC (the hundredth of a second to TT does not matter here).
    """
    import erfa

    step = 1e-4  # rad; finds the ICRS north in the apparent frame
    ra = np.deg2rad(np.concatenate([[ra0_deg, ra0_deg], np.atleast_1d(ra_deg)]))
    dec = np.deg2rad(np.concatenate([[dec0_deg, dec0_deg], np.atleast_1d(dec_deg)]))
    dec[1] -= step  # southwards: always a legal declination for this telescope
    cirs_ra, cirs_dec, _ = erfa.atci13(ra, dec, 0.0, 0.0, 0.0, 0.0, erfa.DJM0, mjd)
    d_ra = cirs_ra - cirs_ra[0]
    east = np.cos(cirs_dec) * np.sin(d_ra)
    north = np.sin(cirs_dec) * np.cos(cirs_dec[0]) - np.cos(cirs_dec) * np.sin(
        cirs_dec[0]
    ) * np.cos(d_ra)
    towards = np.sin(cirs_dec) * np.sin(cirs_dec[0]) + np.cos(cirs_dec) * np.cos(
        cirs_dec[0]
    ) * np.cos(d_ra)
    angle = np.arctan2(-east[1], -north[1])  # position angle of ICRS north
    cos, sin = np.cos(angle), np.sin(angle)
    offsets = np.stack([east * cos - north * sin, east * sin + north * cos, towards - 1], axis=-1)
    return offsets[2:]


def antenna_uvw(
    uvw_m: np.ndarray, antenna1: np.ndarray, antenna2: np.ndarray, n_antennas: int
) -> np.ndarray:
    """Return uvw of antennas, (n_antennas, 3), such that a baseline's is second minus first.

    The common origin is arbitrary. Antennas in no baseline get zeros.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import lsqr

    cross = np.flatnonzero(antenna1 != antenna2)
    rows = np.repeat(np.arange(len(cross)), 2)
    columns = np.stack([antenna1[cross], antenna2[cross]], axis=1).ravel()
    design = csr_matrix(
        (np.tile([-1.0, 1.0], len(cross)), (rows, columns)), (len(cross), n_antennas)
    )
    return np.stack(
        [lsqr(design, uvw_m[cross, i], atol=1e-14, btol=1e-14)[0] for i in range(3)], axis=1
    )


def phasors(path_m: np.ndarray, freq_hz: np.ndarray) -> np.ndarray:
    """Return ``exp(2 pi i nu path / c)``, complex64, shape ``(n_chan, *path.shape)``.

    Parameters
    ----------
    path_m : array
        Path lengths, m.
    freq_hz : (n_chan,) array
        Evenly spaced frequencies, Hz. The phase of every 32nd channel is computed in double
        precision, those between by multiplication.
    """
    stride = 32
    out = np.empty((len(freq_hz), *path_m.shape), np.complex64)
    step_hz = freq_hz[1] - freq_hz[0] if len(freq_hz) > 1 else 0.0
    steps = _unit(path_m * (step_hz / C_M_S))
    for first in range(0, len(freq_hz), stride):
        out[first] = _unit(path_m * (freq_hz[first] / C_M_S))
        for c in range(first + 1, min(first + stride, len(freq_hz))):
            np.multiply(out[c - 1], steps, out=out[c])
    return out


def _unit(turns: np.ndarray) -> np.ndarray:
    angle = (2 * np.pi * (turns - np.round(turns))).astype(np.float32)
    return np.cos(angle) + 1j * np.sin(angle)


def predict(
    uvw_m: np.ndarray, offsets: np.ndarray, amplitude_jy: np.ndarray, freq_hz: np.ndarray
) -> np.ndarray:
    """Return model visibilities of all antenna pairs at one instant.

    The sum over point sources ``sum_s A_s exp(2 pi i nu / c (U_b - U_a) . offset_s)`` factorises
    into a product of antenna by source matrices for each channel. The sign is that of Measurement
    Sets, where ``UVW`` points from antenna 2 to antenna 1.

    Parameters
    ----------
    uvw_m : (n_antennas, 3) array
        As of `antenna_uvw`, m.
    offsets : (n_source, 3) array
        ``l, m, n`` relative to the direction that the data are turned to.
    amplitude_jy : (n_source, n_chan) array
        Apparent fluxes, Jy.
    freq_hz : (n_chan,) array
        Evenly spaced frequencies, Hz.

    Returns
    -------
    (n_chan, n_antennas, n_antennas) complex64
        Jy; first antenna, second antenna.
    """
    waves = phasors(uvw_m @ offsets.T, freq_hz)
    weighted = waves.conj() * amplitude_jy.T.astype(np.float32)[:, None, :]
    out = np.empty((len(freq_hz), len(uvw_m), len(uvw_m)), np.complex64)

    def multiply(part: slice) -> None:
        np.matmul(weighted[part], waves[part].transpose(0, 2, 1), out=out[part])

    # The matrices are small: threads share channels, not one product.
    edges = np.linspace(0, len(freq_hz), N_THREADS + 1).astype(int)
    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(multiply, (slice(a, b) for a, b in itertools.pairwise(edges))))
    return out


@dataclass(frozen=True)
class _Tile:
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


def _open_tile(table: Any, ms: Path, uvmin_klambda: float) -> _Tile:
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
    return _Tile(
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


def _bins(tile: _Tile, bin_s: float) -> list[slice]:
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
    table: Any, tile: _Tile, model: FieldModel, beam: TileBeam
) -> Iterator[tuple[_Sums, np.ndarray]]:
    """Yield each integration, turned to the calibrator, with its model and its noise."""
    mjd = tile.times_s.mean() / 86400
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
    table: Any, tile: _Tile, model: FieldModel, beam: TileBeam, fine: int, coarse: int
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
        typical = _nanmedian(np.stack(variances, axis=1))
        bins.append(total.merge_channels(fine).average(typical))
    return bins, timeline


def timeline_path(copy: Path) -> Path:
    """Return the name of the copy that has every integration."""
    return copy.with_name(f"{copy.stem}.timeline{copy.suffix}")


def write_working_copy(
    ms: Path,
    out: Path,
    calibrator: catalogs.Calibrator,
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
        tile = _open_tile(table, ms, uvmin_klambda)
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
        "mid_mjd": float(tile.times_s.mean() / 86400),
        "n_bins": len(bins),
        "flagged_fraction": float(flagged.mean()),
    }


def _pointings(ms: Path, tile: _Tile) -> TileBeam:
    """Return the beam at the integrations of a tile, from the pointing in its sidecar."""
    pointing = read_sidecar(ms)["qa"].get("pointing")
    if pointing is None:
        raise DataError(f"{ms}: its sidecar holds no pointing; convert it again")
    mjd = tile.times_s / 86400
    weights = {
        "freq_hz": tile.freq_hz,
        "time_mjd": mjd,
        "weight": np.ones((len(mjd), len(tile.freq_hz))),
    }
    return TileBeam.from_qa({"pointing": pointing, "weights": weights})


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


def _write_ms(ms: Path, out: Path, tile: _Tile, freq_hz: np.ndarray, bins: list[_Averaged]) -> None:
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


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dsa110_contimg.skymodel",
        description="Write the averaged copy of a calibrator tile that is solved on.",
    )
    parser.add_argument("ms", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--calibrator", required=True)
    parser.add_argument("--calibrators", type=Path)
    parser.add_argument("--catalog", type=Path)
    parser.add_argument("--uvmin-klambda", type=float, default=1.0)
    parser.add_argument("--channel-average", type=int, default=1)
    args = parser.parse_args()
    summary = write_working_copy(
        args.ms,
        args.out,
        catalogs.find_calibrator(args.calibrator, args.calibrators),
        catalogs.read_catalog(args.catalog) if args.catalog else None,
        uvmin_klambda=args.uvmin_klambda,
        channel_average=args.channel_average,
    )
    write_text(f"{args.out}.json", json.dumps(summary, indent=1))


if __name__ == "__main__":
    import sys

    from .errors import ContimgError

    try:
        _main()
    except ContimgError as error:
        print(error)
        sys.exit(error.status)
