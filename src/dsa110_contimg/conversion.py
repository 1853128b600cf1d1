"""From a group file to a flagged Measurement Set.

Every integration of the raw data is phased to its own centre, the meridian at the apparent
declination. Conversion rotates all of them to one centre, the ICRS direction of the meridian at
mid-tile, phases and uvw together. Coordinates are those of pyuvdata and astropy (precession,
nutation, annual and diurnal aberration, polar motion).

Two writers make the same Measurement Set. ``direct`` streams the correlator's files into the table,
one integration at a time. ``pyuvdata`` holds the whole tile in memory; it is the reference that
``direct`` is tested against.

Conventions: rows in order of time, antenna 1, antenna 2 with antenna 1 <= antenna 2,
autocorrelations kept; channels ascending in one spectral window; ``UVW`` and the sign of phases as
pyuvdata writes them (``UVW`` = position 1 - position 2); antenna id = the correlator's zero-based
number.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from casacore import tables
from pyuvdata import UVData, utils
from pyuvdata.utils.io import ms as ms_io

from . import __version__
from .config import ConversionOptions, FlaggingOptions, add_options, from_args
from .errors import DataError
from .products import Sidecar, replacing
from .telescope import C_M_S, N_SUBBANDS, RAW_NAME

__all__ = ["Geometry", "convert", "read_geometry"]

log = logging.getLogger(__name__)

_DAY_S = 86400.0
_JD0 = 2400000.5
#: Longest baseline that the telescope can have, with some margin, m.
_LONGEST_M = 3210.0
#: Largest difference from the station table that counts as agreement, m.
_POSITION_TOLERANCE_M = 0.05
#: Bytes of one tile of the DATA column, about.
_TILE_BYTES = 1 << 20


# --- geometry ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """Where everything is and points, in the order of the rows to be written.

    Attributes
    ----------
    jd : (T,) float
        Centres of the integrations, JD (UTC).
    pointing : (T, 2) float
        ICRS direction of (LST, dec_app) of each integration, rad.
    centre : (2,) float
        ICRS phase centre of the Measurement Set, rad.
    row : (B,) int
        Row within an integration of the raw data that each baseline comes from.
    reversed : (B,) bool
        Baselines that the correlator wrote as (high, low).
    ant1, ant2 : (B,) int
        Antenna numbers, ant1 <= ant2.
    uvw : (T, B, 3) float
        pos2 - pos1 seen from the phase centre, m.
    delta_w : (T, B) float
        w for the phase centre less w for the raw phase centre, of (ant1, ant2), m.
    freq_hz : (C,) float
        Channel centres, ascending.
    """

    jd: np.ndarray
    pointing: np.ndarray
    centre: np.ndarray
    row: np.ndarray
    reversed: np.ndarray
    ant1: np.ndarray
    ant2: np.ndarray
    uvw: np.ndarray
    delta_w: np.ndarray
    freq_hz: np.ndarray


@contextmanager
def offline() -> Iterator[None]:
    """Take Earth orientation from the installed tables, never from the network."""
    from astropy.utils import iers

    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("iers_degraded_accuracy", "warn"),
    ):
        yield


def read_metadata(group: Path) -> UVData:
    """Return a group file's metadata.

    Raises
    ------
    DataError
        If it is not a group file.
    """
    if not group.exists():
        raise DataError(f"{group}: group file is missing; make it with 'contimg group'")
    try:
        with h5py.File(group, "r", locking=False) as file:
            if "Sources" not in file:
                raise DataError(f"{group}: not a group file; make it with 'contimg group'")
        with offline():
            return UVData.from_file(str(group), file_type="uvh5", read_data=False, run_check=False)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{group}: unreadable ({str(error).splitlines()[0]}); make it again"
        ) from None


def read_geometry(uvd: UVData) -> Geometry:
    """Compute all directions and uvw coordinates of a group.

    Parameters
    ----------
    uvd : UVData
        Metadata of the group file, rows in the correlator's order.
    """
    n_times = uvd.Ntimes
    n_bl = uvd.Nblts // n_times
    raw1, raw2 = uvd.ant_1_array[:n_bl], uvd.ant_2_array[:n_bl]
    low, high = np.minimum(raw1, raw2), np.maximum(raw1, raw2)
    order = np.lexsort((high, low))
    jd = uvd.time_array[::n_bl]
    lst = uvd.lst_array[::n_bl]
    dec = uvd.phase_center_app_dec[::n_bl]
    site = uvd.telescope.location
    with offline():
        ra, de = utils.phasing.transform_app_to_icrs(
            time_array=jd, app_ra=lst, app_dec=dec, telescope_loc=site
        )
        middle = np.array([jd.mean()])
        centre = np.concatenate(
            utils.phasing.transform_app_to_icrs(
                time_array=middle,
                app_ra=utils.get_lst_for_time(middle, telescope_loc=site),
                app_dec=dec[:1],
                telescope_loc=site,
            )
        )
        app_ra, app_dec = utils.phasing.calc_app_coords(
            lon_coord=centre[0], lat_coord=centre[1], time_array=jd, telescope_loc=site
        )
        angle = utils.phasing.calc_frame_pos_angle(
            time_array=jd, app_ra=app_ra, app_dec=app_dec, telescope_loc=site, ref_frame="icrs"
        )
    ant1, ant2 = low[order], high[order]

    def uvw(right_ascension: np.ndarray, declination: np.ndarray, pa: np.ndarray) -> np.ndarray:
        return utils.phasing.calc_uvw(
            app_ra=np.repeat(right_ascension, n_bl),
            app_dec=np.repeat(declination, n_bl),
            frame_pa=np.repeat(pa, n_bl),
            lst_array=np.repeat(lst, n_bl),
            use_ant_pos=True,
            antenna_positions=uvd.telescope.antenna_positions,
            antenna_numbers=uvd.telescope.antenna_numbers,
            ant_1_array=np.tile(ant1, n_times),
            ant_2_array=np.tile(ant2, n_times),
            telescope_lat=site.lat.rad,
            telescope_lon=site.lon.rad,
        ).reshape(n_times, n_bl, 3)

    new = uvw(app_ra, app_dec, angle)
    old = uvw(lst, dec, np.zeros(n_times))
    return Geometry(
        jd=jd,
        pointing=np.stack([ra % (2 * np.pi), de], axis=-1),
        centre=np.array([centre[0] % (2 * np.pi), centre[1]]),
        row=order,
        reversed=(raw1 > raw2)[order],
        ant1=ant1,
        ant2=ant2,
        uvw=new,
        delta_w=new[..., 2] - old[..., 2],
        freq_hz=np.sort(uvd.freq_array),
    )


# --- the subbands' files -----------------------------------------------------------------------


def read_sources(group: Path) -> dict[int, Path]:
    """Return the subband files of a group.

    Raises
    ------
    DataError
        If one has gone or changed since the group file was made.
    """
    with h5py.File(group, "r", locking=False) as file:
        sources = file["Sources"]
        subbands = sources["subband"][()].tolist()
        relative = [group.parent / p.decode() for p in sources["path"][()]]
        absolute = [Path(p.decode()) for p in sources["absolute_path"][()]]
        sizes = sources["size"][()].tolist()
    found: dict[int, Path] = {}
    for sb, near, far, size in zip(subbands, relative, absolute, sizes, strict=True):
        path = near if near.exists() else far
        if not path.exists():
            raise DataError(
                f"{far}: source file has gone since {group.name} was made; "
                "bring it back, or make the group again"
            )
        if path.stat().st_size != size:
            raise DataError(
                f"{path}: has {path.stat().st_size} bytes, had {size} when {group.name} was made; "
                "make the group again"
            )
        found[sb] = path
    return found


def rotate(
    vis: np.ndarray,
    flags: np.ndarray,
    nsamples: np.ndarray,
    phase: np.ndarray,
    conjugate: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Rotate visibilities, flag and zero what holds no data.

    Parameters
    ----------
    vis, flags, nsamples : (rows, channels, polarizations)
        As read.
    phase : (rows, channels) float
        Turns to take off.
    conjugate : (rows,) bool
        Rows to conjugate after the rotation.

    Returns
    -------
    vis, flags
        New visibilities (complex64), zero where not finite; and flags, set also where visibilities
        are zero or not finite, or have no samples.
    """
    turns = phase - np.rint(phase)
    angle = turns.astype(np.float32) * np.float32(-2 * np.pi)
    phasor = np.empty(phase.shape, np.complex64)
    phasor.real = np.cos(angle)
    phasor.imag = np.sin(angle)
    vis = vis * phasor[..., np.newaxis]
    vis.imag *= np.where(conjugate, np.float32(-1), np.float32(1))[:, np.newaxis, np.newaxis]
    finite = np.isfinite(vis)
    if not finite.all():
        vis[~finite] = 0
    return vis, flags | (vis == 0) | (nsamples == 0)


# --- writing -----------------------------------------------------------------------------------


def create_main(ms: Path, n_chan: int, n_pol: int) -> None:
    """Create an empty Measurement Set whose data columns are stored in tiles of whole rows."""
    description = tables.required_ms_desc("MAIN")
    shape = [n_chan, n_pol]
    columns = [
        tables.makearrcoldesc("DATA", 0j, 2, shape, valuetype="complex", comment="The data column"),
        tables.makearrcoldesc(
            "FLAG", False, 2, shape, valuetype="boolean", comment="The data flags"
        ),
        tables.makearrcoldesc("WEIGHT", 0.0, 1, [n_pol], valuetype="float"),
        tables.makearrcoldesc("SIGMA", 0.0, 1, [n_pol], valuetype="float"),
        tables.makearrcoldesc("UVW", 0.0, 1, [3], valuetype="double"),
    ]
    for column in columns:
        name, new = column["name"], column["desc"]
        new["keywords"] = description.get(name, {}).get("keywords", {})
        new["option"] = 5  # direct, fixed shape
        description[name] = new
    rows = max(1, _TILE_BYTES // (8 * n_chan * n_pol))
    tiles = {
        "DATA": [n_pol, n_chan, rows],
        "FLAG": [n_pol, n_chan, 8 * rows],  # stored as bits
        "WEIGHT": [n_pol, 65536],
        "SIGMA": [n_pol, 65536],
        "UVW": [3, 65536],
    }
    groups = {}
    for name, tile in tiles.items():
        description[name].update(
            dataManagerType="TiledColumnStMan", dataManagerGroup=f"Tiled{name}"
        )
        groups[f"Tiled{name}"] = {"DEFAULTTILESHAPE": np.array(tile, np.int32)}
    for name in (
        "ARRAY_ID",
        "DATA_DESC_ID",
        "EXPOSURE",
        "FEED1",
        "FEED2",
        "FIELD_ID",
        "FLAG_ROW",
        "INTERVAL",
        "OBSERVATION_ID",
        "PROCESSOR_ID",
        "SCAN_NUMBER",
        "STATE_ID",
        "TIME",
        "TIME_CENTROID",
    ):
        description[name].update(dataManagerType="IncrementalStMan", dataManagerGroup="Constant")
    with tables.default_ms(str(ms), description, tables.makedminfo(description, groups)) as main:
        main.putcolkeyword("DATA", "QuantumUnits", "uncalib")
        main.putkeyword("pyuvdata_flip_conj", True)


def write_direct(group: Path, ms: Path, uvd: UVData, geometry: Geometry) -> None:
    """Stream the subbands into a Measurement Set, one integration at a time.

    A thread reads and rotates the next integration while this one goes into the table.
    """
    sources = read_sources(group)
    n_bl, n_pol, n_chan = len(geometry.row), uvd.Npols, len(geometry.freq_hz)
    n_times = len(geometry.jd)
    create_main(ms, n_chan, n_pol)
    with (
        _Subbands(sources, geometry, n_pol) as reader,
        ThreadPoolExecutor(1) as pool,
        tables.table(str(ms), readonly=False, ack=False) as main,
    ):
        main.addrows(n_bl * n_times)
        _write_rows(main, uvd, geometry)
        coming = pool.submit(reader.read, 0)
        for k in range(n_times):
            block = coming.result()
            if k + 1 < n_times:
                coming = pool.submit(reader.read, k + 1)
            _write_block(main, block, k * n_bl)


@dataclass
class _Block:
    """One integration, in the order of the rows and channels to be written."""

    vis: np.ndarray
    flags: np.ndarray
    nsamples: np.ndarray


class _Subbands:
    """The open files of a group."""

    def __init__(self, sources: dict[int, Path], geometry: Geometry, n_pol: int):
        self.geometry = geometry
        self.n_pol = n_pol
        self.paths = sources
        self.files = {sb: h5py.File(path, "r", locking=False) for sb, path in sources.items()}

    def __enter__(self) -> _Subbands:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()

    def read(self, k: int) -> _Block:
        """Return integration `k`, rotated to the phase centre."""
        g = self.geometry
        n_bl, n_chan = len(g.row), len(g.freq_hz)
        shape = (n_bl, n_chan, self.n_pol)
        block = _Block(
            np.zeros(shape, np.complex64), np.ones(shape, bool), np.zeros(shape, np.float32)
        )
        n = n_chan // N_SUBBANDS
        # Of a baseline that was recorded as (high, low), w has the other sign; the Measurement
        # Set's convention conjugates what is recorded as (low, high).
        delay = np.where(g.reversed, -g.delta_w[k], g.delta_w[k]) / C_M_S
        rows = slice(k * n_bl, (k + 1) * n_bl)
        for sb, file in self.files.items():
            channels = slice(n_chan - (sb + 1) * n, n_chan - sb * n)
            try:
                raw = [
                    file[f"Data/{name}"][rows, 0][g.row, ::-1]
                    for name in ("visdata", "flags", "nsamples")
                ]
            except OSError as error:
                raise DataError(f"{self.paths[sb]}: cannot be read ({error})") from None
            vis, flags = rotate(*raw, np.outer(delay, g.freq_hz[channels]), ~g.reversed)
            block.vis[:, channels], block.flags[:, channels] = vis, flags
            block.nsamples[:, channels] = raw[2]
        return block


def row_weights(nsamples: np.ndarray, flags: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return one weight a row and polarization, and whether it holds for all channels.

    Parameters
    ----------
    nsamples, flags : (rows, channels, polarizations)
        Number of samples averaged; flags.

    Returns
    -------
    weights : (rows, polarizations) float32
        Median over the channels that have samples; 0 where none has.
    constant : bool
        Whether no unflagged sample has another number.
    """
    weights = nsamples.max(axis=1)
    constant = bool(((nsamples == weights[:, np.newaxis]) | flags).all())
    if not constant:
        valid = np.where(nsamples > 0, nsamples, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # rows without samples
            weights = np.nan_to_num(np.nanmedian(valid, axis=1)).astype(np.float32)
    return weights, constant


def _write_block(main: tables.table, block: _Block, start: int) -> None:
    n = len(block.vis)
    main.putcol("DATA", block.vis, start, n)
    main.putcol("FLAG", block.flags, start, n)
    weights, _ = row_weights(block.nsamples, block.flags)
    main.putcol("WEIGHT", weights, start, n)
    sigma = np.divide(1, np.sqrt(weights), out=np.zeros_like(weights), where=weights > 0)
    main.putcol("SIGMA", sigma, start, n)


def _write_rows(main: tables.table, uvd: UVData, geometry: Geometry) -> None:
    """Write the columns that hold no data."""
    n_times, n_bl = geometry.delta_w.shape
    seconds = np.repeat(_mjd_seconds(geometry.jd), n_bl)
    main.putcol("TIME", seconds)
    main.putcol("TIME_CENTROID", seconds)
    exposure = np.repeat(uvd.integration_time[::n_bl], n_bl)
    main.putcol("EXPOSURE", exposure)
    main.putcol("INTERVAL", exposure)
    main.putcol("ANTENNA1", np.tile(geometry.ant1, n_times).astype(np.int32))
    main.putcol("ANTENNA2", np.tile(geometry.ant2, n_times).astype(np.int32))
    main.putcol("UVW", -geometry.uvw.reshape(-1, 3))
    main.putcol("SCAN_NUMBER", np.ones(n_times * n_bl, np.int32))


def _mjd_seconds(jd: np.ndarray) -> np.ndarray:
    from astropy.time import Time

    return Time(jd, format="jd", scale="utc").mjd * _DAY_S


def write_pyuvdata(group: Path, ms: Path, geometry: Geometry) -> None:
    """Write a Measurement Set with pyuvdata alone: read, phase, write_ms."""
    with offline():
        uvd = UVData.from_file(str(group), file_type="uvh5", run_check=False)
        bad = ~np.isfinite(uvd.data_array)
        uvd.data_array[bad] = 0
        uvd.flag_array |= (uvd.data_array == 0) | (uvd.nsample_array == 0)
        uvd.phase(
            lon=geometry.centre[0],
            lat=geometry.centre[1],
            phase_frame="icrs",
            cat_type="sidereal",
            cat_name="tile",
        )
        uvd.reorder_blts(order="time", minor_order="baseline", conj_convention="ant1<ant2")
        uvd.reorder_freqs(channel_order="freq")
        uvd.extra_keywords = {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Writing in the MS file that the units")
            uvd.write_ms(str(ms), run_check=False)
    weights, constant = row_weights(uvd.nsample_array, uvd.flag_array)
    with tables.table(str(ms), readonly=False, ack=False) as main:
        main.putcol("WEIGHT", weights)
        sigma = np.divide(1, np.sqrt(weights), out=np.zeros_like(weights), where=weights > 0)
        main.putcol("SIGMA", sigma)
        if constant:
            main.removecols("WEIGHT_SPECTRUM")


# --- subtables ---------------------------------------------------------------------------------


def write_subtables(ms: Path, uvd: UVData, geometry: Geometry, history: list[str]) -> None:
    """Write all subtables; pyuvdata's functions write those that need nothing of this telescope."""
    telescope = uvd.telescope
    numbers = np.asarray(telescope.antenna_numbers)
    ms_io.write_ms_antenna(
        str(ms),
        antenna_numbers=numbers,
        antenna_names=[f"DSA-{n + 1:03d}" for n in numbers],
        antenna_positions=telescope.antenna_positions,
        antenna_diameters=telescope.antenna_diameters,
        antenna_mount=["ALT-AZ"] * len(numbers),
        telescope_location=telescope._location.xyz(),
        telescope_frame="itrs",
    )
    ms_io.write_ms_observation(
        str(ms),
        telescope_name=RAW_NAME,
        telescope_location=telescope._location.xyz(),
        observer="DSA-110",
    )
    centre = {
        "cat_name": "tile",
        "cat_type": "sidereal",
        "cat_lon": geometry.centre[0],
        "cat_lat": geometry.centre[1],
        "cat_frame": "icrs",
        "cat_epoch": 2000.0,
    }
    middle = float(_mjd_seconds(geometry.jd).mean())
    ms_io.write_ms_field(str(ms), phase_center_catalog={0: centre}, time_val=middle)
    ms_io.write_ms_source(str(ms), phase_center_catalog={0: centre}, time_default=middle)
    width = np.full(len(geometry.freq_hz), float(np.mean(uvd.channel_width)))
    ms_io.write_ms_spectral_window(
        str(ms),
        freq_array=geometry.freq_hz,
        channel_width=width,
        spw_array=np.array([0]),
        id_array=np.zeros(len(width), int),
    )
    ms_io.write_ms_data_description(str(ms), uvobj=uvd)
    ms_io.write_ms_polarization(str(ms), pol_order=slice(None), uvobj=uvd)
    ms_io.write_ms_feed(
        str(ms),
        nfeeds=2,
        nspws=1,
        feed_array=np.tile(["x", "y"], (len(numbers), 1)),
        feed_angle=np.tile([0.0, np.pi / 2], (len(numbers), 1)),
        antenna_numbers=numbers,
        time_val=middle,
    )
    ms_io.write_ms_history(str(ms), history="\n".join(history))
    _write_pointing(ms, uvd, geometry)
    _complete_subtables(ms, uvd, geometry)


def _write_pointing(ms: Path, uvd: UVData, geometry: Geometry) -> None:
    """Write where each antenna points, each integration: the meridian, ICRS."""
    n_ant = int(np.max(uvd.telescope.antenna_numbers)) + 1
    n_times = len(geometry.jd)
    times = np.repeat(_mjd_seconds(geometry.jd), n_ant)
    direction = np.repeat(geometry.pointing, n_ant, axis=0)[:, np.newaxis, :]
    with tables.table(f"{ms}::POINTING", readonly=False, ack=False) as pointing:
        # The first row sets the shape of the variable columns; the others then take it at once.
        pointing.addrows(1)
        pointing.putcell("DIRECTION", 0, direction[0])
        pointing.putcell("TARGET", 0, direction[0])
        pointing.addrows(n_ant * n_times - 1)
        pointing.putcol("DIRECTION", direction)
        pointing.putcol("TARGET", direction)
        pointing.putcol("ANTENNA_ID", np.tile(np.arange(n_ant, dtype=np.int32), n_times))
        pointing.putcol("TIME", times)
        pointing.putcol("TIME_ORIGIN", times)
        pointing.putcol("INTERVAL", np.full(len(times), float(uvd.integration_time[0])))
        pointing.putcol("NAME", ["meridian"] * len(times))
        pointing.putcol("NUM_POLY", np.zeros(len(times), np.int32))
        pointing.putcol("TRACKING", np.zeros(len(times), bool))


def _complete_subtables(ms: Path, uvd: UVData, geometry: Geometry) -> None:
    """Fill what pyuvdata leaves empty and CASA looks for."""
    half = float(uvd.integration_time[0]) / 2
    span = _mjd_seconds(geometry.jd)[[0, -1]] + [-half, half]
    with tables.table(f"{ms}::OBSERVATION", readonly=False, ack=False) as observation:
        observation.putcell("TIME_RANGE", 0, span)
        observation.putcell("PROJECT", 0, "continuum")
        observation.putcell("SCHEDULE_TYPE", 0, "drift")
    with tables.table(f"{ms}::STATE", readonly=False, ack=False) as state:
        state.addrows(1)
        state.putcell("SIG", 0, True)
        state.putcell("OBS_MODE", 0, "OBSERVE_TARGET.ON_SOURCE")
    with tables.table(f"{ms}::PROCESSOR", readonly=False, ack=False) as processor:
        processor.addrows(1)
        processor.putcell("TYPE", 0, "CORRELATOR")
    with tables.table(f"{ms}::FEED", readonly=False, ack=False) as feed:
        n = feed.nrows()
        feed.putcol("POL_RESPONSE", np.tile(np.eye(2, dtype=np.complex64), (n, 1, 1)))
    with tables.table(f"{ms}::SOURCE", readonly=False, ack=False) as source:
        source.putcell("CODE", 0, "")
    with tables.table(str(ms), readonly=False, ack=False) as main:
        zeros = np.zeros(main.nrows(), np.int32)
        for name in ("FIELD_ID", "STATE_ID", "OBSERVATION_ID", "PROCESSOR_ID", "ARRAY_ID"):
            main.putcol(name, zeros)


# --- the step ----------------------------------------------------------------------------------


def convert(
    group: Path, target: Path, options: ConversionOptions, flagging: FlaggingOptions
) -> Sidecar:
    """Convert a group file to a flagged Measurement Set.

    Parameters
    ----------
    group : Path
        Group file, from `ingest.write_group_file`.
    target : Path
        Measurement Set to write.
    options, flagging : ConversionOptions, FlaggingOptions
        See there.

    Returns
    -------
    Sidecar
        Already written.

    Raises
    ------
    DataError
        If the group or one of its files cannot be used.
    ToolError
        If the flagging engine fails.
    """
    started = time.monotonic()
    uvd = read_metadata(group)
    sources = read_sources(group)
    geometry = read_geometry(uvd)
    writer = options.writer
    if writer == "auto":
        writer = "direct" if len(sources) > 2 else "pyuvdata"
    sidecar = Sidecar(
        step="convert",
        inputs=[group, *sources.values()],
        parameters=options.model_dump(mode="json") | {"flagging": flagging.model_dump(mode="json")},
    )
    sidecar.timings_s["metadata"] = time.monotonic() - started
    with replacing(target) as temporary:
        started = time.monotonic()
        if writer == "direct":
            write_direct(group, temporary, uvd, geometry)
        else:
            write_pyuvdata(group, temporary, geometry)
            _clear_subtables(temporary)
        write_subtables(temporary, uvd, geometry, _history(group, sources, geometry, writer))
        sidecar.timings_s["write"] = time.monotonic() - started
        from .flagging import flag_ms

        flags = flag_ms(temporary, flagging, sidecar)
        sidecar.qa = _qa(uvd, geometry, sources, writer) | {"flags": flags}
    sidecar.write(target, packages=("pyuvdata", "python-casacore", "astropy", "h5py", "numpy"))
    return sidecar


def _clear_subtables(ms: Path) -> None:
    """Empty the subtables that pyuvdata wrote; `write_subtables` writes them for both writers."""
    for name in ("DATA_DESCRIPTION", "FEED", "POINTING", "POLARIZATION"):
        shutil.rmtree(ms / name)
        tables.default_ms_subtable(name, str(ms / name)).close()


def _history(group: Path, sources: dict[int, Path], geometry: Geometry, writer: str) -> list[str]:
    ra, dec = np.degrees(geometry.centre)
    return [
        f"dsa110-contimg {__version__}: converted from {group.name} by the {writer} writer",
        "subbands: " + " ".join(f"{sb:02d}={path.name}" for sb, path in sources.items()),
        f"each integration rotated from hour angle 0 at the apparent declination to ICRS {ra:.7f} "
        f"{dec:+.7f} deg, phases and uvw together",
        "channels reversed to ascend; baselines conjugated to antenna1 <= antenna2; zeros and NaN "
        "flagged; weights are the number of samples averaged",
    ]


def _qa(uvd: UVData, geometry: Geometry, sources: dict[int, Path], writer: str) -> dict:
    ra, dec = np.degrees(geometry.centre)
    return {
        "writer": writer,
        "subbands": sorted(sources),
        "n_rows": int(geometry.delta_w.size),
        "n_channels": len(geometry.freq_hz),
        "phase_centre_ra_deg": float(ra),
        "phase_centre_dec_deg": float(dec),
        "dec_app_deg": float(np.degrees(uvd.phase_center_app_dec[0])),
        "pointing": {
            "time_mjd": (geometry.jd - _JD0).tolist(),
            "ra_deg": np.degrees(geometry.pointing[:, 0]).tolist(),
            "dec_deg": np.degrees(geometry.pointing[:, 1]).tolist(),
        },
    }


def argparser() -> argparse.ArgumentParser:
    """Return the parser of ``convert``."""
    parser = argparse.ArgumentParser(
        prog="contimg convert", description="Convert a group to a flagged Measurement Set."
    )
    parser.add_argument("group", type=Path, help="group file, from 'contimg group'")
    parser.add_argument("ms", type=Path, help="Measurement Set to write")
    add_options(parser, ConversionOptions)
    add_options(parser, FlaggingOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Run ``convert``."""
    convert(
        args.group,
        args.ms,
        from_args(args, ConversionOptions),
        from_args(args, FlaggingOptions),
    )
