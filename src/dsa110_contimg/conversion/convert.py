"""From a group file to a flagged Measurement Set.

Every integration of the raw data is phased to its own centre, the meridian at the apparent
declination. Conversion rotates all of them to one centre, the ICRS direction of the meridian at
mid-tile, phases and uvw together.

Two writers make the same Measurement Set. ``direct`` streams the correlator's files into the table:
worker processes read and rotate one subband of one integration at a time into shared memory, while
this process writes. ``pyuvdata`` (read, phase, write_ms) holds the whole tile in memory; it is the
reference that ``direct`` is tested against.

Conventions: rows in order of time, antenna 1, antenna 2 with antenna 1 <= antenna 2,
autocorrelations kept; channels ascending in one spectral window; ``UVW`` and the sign of phases as
pyuvdata writes them (``UVW`` = position 1 - position 2); antenna id = the correlator's zero-based
number.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from casacore import tables

from .. import __version__
from ..core.errors import DataError
from ..core.figures import ConvertFigures, Pointing
from ..core.files import begin_to_disk, replacing, scratch
from ..core.options import ConversionOptions, FlaggingOptions
from ..core.programs import die_with_parent
from ..core.sidecar import Sidecar
from ..core.times import MJD_ZERO_JD
from ..ms.main_table import add_weight_spectrum, create_main, sigma
from ..telescope import dsa110
from .flagging import flag_ms
from .geometry import Geometry, GroupFile, read_group
from .subtables import write_subtables
from .validation import validate

__all__ = ["convert", "row_weights"]

log = logging.getLogger(__name__)


#: Integrations in memory at a time.
_BUFFERS = 3


#: Below this many bytes of visibilities one process is faster than several.
_POOL_FROM_BYTES = 64_000_000


#: Free space asked for, as a multiple of the Measurement Set's size.
_SPACE_MARGIN = 1.1


# --- the direct writer -------------------------------------------------------------------------


class _Buffer:
    """One integration in shared memory, in the order of the rows and channels to be written.

    Attributes
    ----------
    vis, flags : (B, C, P)
        Rotated visibilities and flags. Absent subbands stay zero and flagged.
    samples : (subbands, B, P) float
        Number of samples averaged, of the subband's first channel; 0 for absent subbands.
    uneven : (subbands,) bool
        Subbands in which that number differs between channels.
    nsamples : (B, C, P) float
        The number of samples, in those subbands alone.
    """

    def __init__(self, shape: tuple[int, int, int]):
        n_bl, _, n_pol = shape
        self.vis = _shared(np.complex64, shape)
        self.flags = _shared(np.bool_, shape)
        self.flags[:] = True
        self.samples = _shared(np.float32, (dsa110.N_SUBBANDS, n_bl, n_pol))
        self.uneven = _shared(np.bool_, (dsa110.N_SUBBANDS,))
        self.nsamples = _shared(np.float32, shape)  # takes no memory until it is written to

    def weights(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return weights (B, P), and those of all samples (B, C, P) if channels differ."""
        weights = self.samples.max(axis=0)
        even = ((self.samples == weights) | (self.samples == 0)).all()
        if even and not self.uneven.any():
            return weights, None
        n = self.vis.shape[1] // dsa110.N_SUBBANDS
        for subband in np.flatnonzero(~self.uneven):
            channels = _channels(int(subband), n)
            self.nsamples[:, channels] = self.samples[subband][:, np.newaxis]
        weights, constant = row_weights(self.nsamples, self.flags)
        return weights, None if constant else self.nsamples


def _shared(dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Return a zeroed array that forked processes share."""
    n = int(np.prod(shape))
    memory = mmap.mmap(-1, n * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, n).reshape(shape)


def _channels(subband: int, n: int) -> slice:
    """Return where a subband of `n` channels is when channels ascend."""
    return slice((dsa110.N_SUBBANDS - 1 - subband) * n, (dsa110.N_SUBBANDS - subband) * n)


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


class _Reader:
    """Reads and rotates subbands into buffers.

    Its working arrays are kept from call to call: giving the memory back and faulting it in again
    would take longer than the arithmetic.
    """

    def __init__(self, group: GroupFile, geometry: Geometry, buffers: list[_Buffer]):
        self.sources = group.sources
        self.row = geometry.row
        self.reversed = np.flatnonzero(geometry.reversed)
        self.delay_s = geometry.delay_s
        self.freq_hz = group.freq_hz
        self.buffers = buffers
        self.files: dict[int, h5py.File] = {}
        n_bl, n_chan, n_pol = group.shape
        self.n = n_chan // dsa110.N_SUBBANDS
        # One polarization after the other, as the files' chunks hold them: HDF5 then copies runs of
        # channels instead of single values, six times faster. As many axes as in the files, for
        # HDF5 is slow between arrays of different rank.
        self.raw: dict[str, np.ndarray] = {
            name: np.empty((n_pol, n_bl, 1, self.n, 1), dtype)
            for name, dtype in (
                ("visdata", np.complex64),
                ("flags", np.bool_),
                ("nsamples", np.float32),
            )
        }
        shape = (n_bl, self.n)
        self.vis = np.empty(shape, np.complex64)
        self.turns = np.empty(shape)
        self.whole = np.empty(shape)
        self.angle = np.empty(shape, np.float32)
        self.phasor = np.empty(shape, np.complex64)

    def fill(self, subband: int, k: int) -> None:
        """Put one subband of integration `k` into its buffer."""
        self._read(subband, k)
        buffer = self.buffers[k % len(self.buffers)]
        channels = _channels(subband, self.n)
        vis = buffer.vis[:, channels][:, ::-1]
        self._rotate(self.delay_s[k], self.freq_hz[subband * self.n : (subband + 1) * self.n], vis)
        raw, flags, nsamples = self.raw.values()
        least, most = nsamples.min(), nsamples.max()
        whole = (
            np.isfinite(raw.sum())  # one value that is not makes the sum so
            and np.count_nonzero(raw) == raw.size
            and not flags.any()
            and least > 0
        )
        flags, nsamples = (np.moveaxis(x[:, :, 0, :, 0], 0, -1) for x in (flags, nsamples))
        if whole:
            buffer.flags[:, channels] = False
        else:
            finite = np.isfinite(vis)
            vis[~finite] = 0
            nsamples = np.where(nsamples > 0, nsamples, 0)  # also where it is NaN
            bad = (vis == 0) | (flags | (nsamples == 0))[self.row]
            buffer.flags[:, channels][:, ::-1] = bad
        buffer.samples[subband] = nsamples[self.row, 0]
        uneven = least != most and bool((nsamples != nsamples[:, :1]).any())
        buffer.uneven[subband] = uneven
        if uneven:
            buffer.nsamples[:, channels][:, ::-1] = nsamples[self.row]

    def _read(self, subband: int, k: int) -> None:
        path = self.sources[subband]
        rows = slice(k * len(self.row), (k + 1) * len(self.row))
        try:
            if subband not in self.files:
                self.files[subband] = h5py.File(path, "r", locking=False)
            for name, arrays in self.raw.items():
                dataset = self.files[subband]["Data"][name]
                for p, array in enumerate(arrays):
                    dataset.read_direct(array, np.s_[rows, :, :, p : p + 1])
        except (OSError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path}: cannot be read ({reason})") from None

    def _rotate(self, delay_s: np.ndarray, freq_hz: np.ndarray, out: np.ndarray) -> None:
        """Write the visibilities read, sorted, conjugated and rotated by a delay, to `out`.

        The Measurement Set's convention conjugates what is recorded as (low, high): that is what
        the rotation by exp(-2 pi i nu tau) becomes here. Those recorded as (high, low) are
        conjugates already, and their tau has the other sign.
        """
        np.multiply(delay_s[:, np.newaxis], freq_hz, out=self.turns)
        np.rint(self.turns, out=self.whole)
        np.subtract(self.turns, self.whole, out=self.angle, casting="same_kind")
        self.angle *= np.float32(2 * np.pi)
        np.cos(self.angle, out=self.phasor.real)
        np.sin(self.angle, out=self.phasor.imag)
        for p, raw in enumerate(self.raw["visdata"][:, :, 0, :, 0]):
            np.take(raw, self.row, axis=0, out=self.vis, mode="clip")  # the mode without a copy
            np.conjugate(self.vis, out=self.vis)
            self.vis[self.reversed] = self.vis[self.reversed].conj()
            np.multiply(self.vis, self.phasor, out=out[..., p])

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()


#: The reader of a worker process, set when the process is forked.
_reader: _Reader


def _start_worker(reader: _Reader, parent: int) -> None:
    global _reader
    die_with_parent(parent)
    _reader = reader


def _fill(subband: int, k: int) -> None:
    _reader.fill(subband, k)


def _integrations(group: GroupFile, geometry: Geometry, workers: int) -> Iterator[_Buffer]:
    """Yield the integrations in order; each is valid until the next is asked for."""
    n_times = len(group.jd)
    if workers == 0:
        buffer = _Buffer(group.shape)
        reader = _Reader(group, geometry, [buffer])
        try:
            for k in range(n_times):
                for subband in group.sources:
                    reader.fill(subband, k)
                yield buffer
        finally:
            reader.close()
        return
    buffers = [_Buffer(group.shape) for _ in range(min(_BUFFERS, n_times))]
    reader = _Reader(group, geometry, buffers)
    # Forked, for the workers inherit geometry and buffers; no HDF5 file is open here.
    context = multiprocessing.get_context("fork")
    start = (reader, os.getpid())
    with ProcessPoolExecutor(workers, context, _start_worker, start) as pool:

        def submit(k: int) -> list[Future]:
            return [pool.submit(_fill, subband, k) for subband in group.sources]

        try:
            pending = {k: submit(k) for k in range(len(buffers))}
            for k in range(n_times):
                for future in pending.pop(k):
                    future.result()
                yield buffers[k % len(buffers)]
                if k + len(buffers) < n_times:
                    pending[k + len(buffers)] = submit(k + len(buffers))
        finally:
            pool.shutdown(cancel_futures=True)


def write_direct(group: GroupFile, ms: Path, geometry: Geometry, workers: int) -> None:
    """Stream the subbands into a Measurement Set, one integration at a time."""
    n_bl, n_chan, n_pol = group.shape
    integrations = _integrations(
        group, geometry, workers if group.n_bytes > _POOL_FROM_BYTES else 0
    )
    first = next(integrations)  # starts the workers before casacore opens anything
    create_main(ms, n_chan, n_pol, "uncalib")
    with tables.table(str(ms), readonly=False, ack=False) as main:
        main.addrows(n_bl * len(group.jd))
        _write_rows(main, group, geometry)
        for k, buffer in enumerate(_chain(first, integrations)):
            _write_integration(main, buffer, k * n_bl)


def _chain(first: _Buffer, rest: Iterator[_Buffer]) -> Iterator[_Buffer]:
    yield first
    yield from rest


def _write_rows(main: tables.table, group: GroupFile, geometry: Geometry) -> None:
    """Write the columns that hold no data."""
    n_times, n_bl = geometry.uvw.shape[:2]
    seconds = np.repeat(geometry.sky.mjd_s, n_bl)
    main.putcol("TIME", seconds)
    main.putcol("TIME_CENTROID", seconds)
    exposure = np.full(n_times * n_bl, group.integration_s)
    main.putcol("EXPOSURE", exposure)
    main.putcol("INTERVAL", exposure)
    main.putcol("ANTENNA1", np.tile(geometry.ant1, n_times).astype(np.int32))
    main.putcol("ANTENNA2", np.tile(geometry.ant2, n_times).astype(np.int32))
    main.putcol("UVW", -geometry.uvw.reshape(-1, 3))
    main.putcol("SCAN_NUMBER", np.ones(n_times * n_bl, np.int32))
    zeros = np.zeros(n_times * n_bl, np.int32)
    for name in ("FIELD_ID", "STATE_ID", "OBSERVATION_ID", "PROCESSOR_ID", "ARRAY_ID"):
        main.putcol(name, zeros)


def _write_integration(main: tables.table, buffer: _Buffer, start: int) -> None:
    n = len(buffer.vis)
    main.putcol("DATA", buffer.vis, start, n)
    main.putcol("FLAG", buffer.flags, start, n)
    weights, spectrum = buffer.weights()
    main.putcol("WEIGHT", weights, start, n)
    main.putcol("SIGMA", sigma(weights), start, n)
    if spectrum is not None and "WEIGHT_SPECTRUM" not in main.colnames():
        _begin_weight_spectrum(main, buffer.vis.shape, start)
    if "WEIGHT_SPECTRUM" in main.colnames():
        if spectrum is None:
            spectrum = np.repeat(weights[:, np.newaxis], buffer.vis.shape[1], axis=1)
        main.putcol("WEIGHT_SPECTRUM", spectrum, start, n)


def _begin_weight_spectrum(main: tables.table, shape: tuple[int, int, int], n_before: int) -> None:
    """Add the column when the first integration needs it; those before have constant weights."""
    n_bl, n_chan, n_pol = shape
    add_weight_spectrum(main, n_chan, n_pol)
    for start in range(0, n_before, n_bl):
        weights = main.getcol("WEIGHT", start, n_bl)[:, np.newaxis]
        main.putcol("WEIGHT_SPECTRUM", np.repeat(weights, n_chan, axis=1), start, n_bl)


# --- the reference writer ----------------------------------------------------------------------


def write_pyuvdata(group: GroupFile, ms: Path, geometry: Geometry) -> None:
    """Write a Measurement Set with pyuvdata: read, phase, write_ms."""
    from astropy.utils import iers
    from pyuvdata import UVData, utils

    with iers.conf.set_temp("auto_download", False):
        try:
            uvd = UVData.from_file(str(group.path), file_type="uvh5", run_check=False)
        except (OSError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{group.path}: pyuvdata cannot read it ({reason})") from None
        finite = np.isfinite(uvd.data_array)
        uvd.data_array[~finite] = 0
        uvd.nsample_array = np.nan_to_num(uvd.nsample_array)
        uvd.flag_array |= (uvd.data_array == 0) | (uvd.nsample_array <= 0)
        uvd.phase(
            lon=geometry.centre[0],
            lat=geometry.centre[1],
            phase_frame="icrs",
            cat_type="sidereal",
            cat_name="tile",
        )
        # pyuvdata measures the position angle half a degree south of the phase centre, which turns
        # the field by up to 1e-4 rad at high declination. Take it at the centre.
        uvd.phase_center_frame_pa = utils.phasing.calc_frame_pos_angle(
            time_array=uvd.time_array,
            app_ra=uvd.phase_center_app_ra,
            app_dec=uvd.phase_center_app_dec,
            telescope_loc=uvd.telescope.location,
            ref_frame="icrs",
            offset_pos=1e-5,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recalculating uvw_array without adjusting")
            uvd.set_uvws_from_antenna_positions(update_vis=False)
        uvd.reorder_blts(order="time", minor_order="baseline", conj_convention="ant1<ant2")
        uvd.reorder_freqs(channel_order="freq")
        uvd.extra_keywords = {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Writing in the MS file that the units")
            warnings.filterwarnings("ignore", message="'where' used without 'out'")  # SIGMA: below
            uvd.write_ms(str(ms), run_check=False)
    weights, constant = row_weights(uvd.nsample_array, uvd.flag_array)
    with tables.table(str(ms), readonly=False, ack=False) as main:
        main.putcol("WEIGHT", weights)
        main.putcol("SIGMA", sigma(weights))
        if constant:
            main.removecols("WEIGHT_SPECTRUM")
        zeros = np.zeros(main.nrows(), np.int32)
        for name in ("STATE_ID", "OBSERVATION_ID", "PROCESSOR_ID", "ARRAY_ID"):
            main.putcol(name, zeros)
    # The subtables are this package's for both writers; these four pyuvdata would add rows to.
    for name in ("DATA_DESCRIPTION", "FEED", "POINTING", "POLARIZATION"):
        shutil.rmtree(ms / name)
        tables.default_ms_subtable(name, str(ms / name)).close()


# --- the step ----------------------------------------------------------------------------------


def convert(
    group: Path, target: Path, options: ConversionOptions, flagging: FlaggingOptions
) -> Sidecar:
    """Convert a group file to a flagged Measurement Set.

    Parameters
    ----------
    group : Path
        Group file, from `uvh5.write_group_file`.
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
        If the group or one of its files cannot be used, or there is not enough space.
    ToolError
        If the flagging engine fails.
    """
    group, target = Path(group), Path(target)
    content = read_group(group)
    writer = options.writer
    if writer == "auto":
        writer = "direct" if len(content.sources) > 2 else "pyuvdata"
    sidecar: Sidecar[ConvertFigures] = Sidecar(
        "convert",
        inputs=[group, *content.sources.values()],
        parameters=options.model_dump(mode="json") | {"flagging": flagging.model_dump(mode="json")},
    )
    with replacing(target) as temporary, _workplace(temporary, options, content.n_bytes) as ms:
        with _timed(sidecar, "geometry"):
            geometry = Geometry(content)
            geometry.delay_s  # noqa: B018 (computed here, to be timed here)
        with _timed(sidecar, "write"):
            if writer == "direct":
                write_direct(content, ms, geometry, options.workers)
            else:
                write_pyuvdata(content, ms, geometry)
            write_subtables(ms, content, geometry, _history(content, geometry, writer))
        # The disk has nothing to do while flags are sought; only these are left for the end.
        begin_to_disk(ms)
        sidecar.figures = _figures(content, geometry, writer)
        with _timed(sidecar, "validate"):
            sidecar.figures.validation = validate(ms, sidecar)
        sidecar.figures.flags = flag_ms(ms, flagging, sidecar)
    sidecar.write(target)
    return sidecar


@contextmanager
def _timed(sidecar: Sidecar, part: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    sidecar.timings_s[part] = time.monotonic() - started


@contextmanager
def _workplace(temporary: Path, options: ConversionOptions, n_bytes: int) -> Iterator[Path]:
    """Give the path to build the Measurement Set at, and bring it to `temporary` afterwards."""
    needed = int(n_bytes * _SPACE_MARGIN)
    _check_space(temporary.parent, needed)
    if options.scratch is None:
        yield temporary
        return
    folder = options.scratch
    if not folder.is_dir():
        raise DataError(f"{folder}: scratch folder does not exist; create it or unset 'scratch'")
    _check_space(folder, needed)
    with scratch("convert", folder) as work:
        yield work / "data.ms"
        shutil.copytree(work / "data.ms", temporary)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder}: {free / 1e9:.2f} GB free, the Measurement Set needs {needed / 1e9:.2f} GB; "
            "make room or choose another folder"
        )


def _history(group: GroupFile, geometry: Geometry, writer: str) -> list[str]:
    ra, dec = np.degrees(geometry.centre)
    return [
        f"dsa110-contimg {__version__}: converted from {group.path.name} by the {writer} writer",
        "subbands: " + " ".join(path.name for path in group.sources.values()),
        f"each integration rotated from hour angle 0 at the apparent declination to ICRS {ra:.7f} "
        f"{dec:+.7f} deg, phases and uvw together",
        "channels reversed to ascend; baselines conjugated to antenna1 <= antenna2; zeros and NaN "
        "flagged; weights are the number of samples averaged",
    ]


def _figures(
    group: GroupFile, geometry: Geometry, writer: Literal["direct", "pyuvdata"]
) -> ConvertFigures:
    ra, dec = np.degrees(geometry.centre)
    return ConvertFigures(
        writer=writer,
        subbands=sorted(group.sources),
        phase_centre_ra_deg=ra,
        phase_centre_dec_deg=dec,
        dec_app_deg=np.degrees(group.dec_app),
        aberration_scale=geometry.aberration_scale,
        pointing=Pointing(
            time_mjd=(group.jd - MJD_ZERO_JD).tolist(),
            ra_deg=np.degrees(geometry.pointing[:, 0]).tolist(),
            dec_deg=np.degrees(geometry.pointing[:, 1]).tolist(),
        ),
    )
