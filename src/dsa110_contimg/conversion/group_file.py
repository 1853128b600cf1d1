"""The group file: one valid UVH5 file of all subbands, whose bulk data stay where they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import erfa
import h5py
import numpy as np

from ..core.errors import DataError
from ..core.figures import GroupFigures
from ..core.files import replacing
from ..core.sidecar import Sidecar
from ..telescope.astrometry import Site, Sky, meridian_axes
from ..telescope.dsa110 import N_SUBBANDS, RAW_NAME
from .inventory import FILE_NAME, entry_of
from .uvh5 import first_line, read_header

__all__ = ["make_group", "write_group_file"]

# --- the group file ----------------------------------------------------------------------------

#: Header items that must be the same in all subbands of a group, beside the declination.
_SHARED = (
    "ant_1_array",
    "ant_2_array",
    "time_array",
    "integration_time",
    "antenna_numbers",
    "antenna_names",
    "antenna_positions",
    "polarization_array",
    "latitude",
    "longitude",
    "altitude",
)


#: The correlator stores uvw in single precision; more than this is another declination or layout.
_UVW_TOLERANCE_M = 0.1


#: Header items of a subband that the group file replaces.
_REPLACED = {"freq_array", "channel_width", "Nfreqs", "uvw_array", "phase_type", "object_name"}


def write_group_file(target: str | os.PathLike, paths: Sequence[str | os.PathLike]) -> Sidecar:
    """Write the group file: one UVH5 of all channels that refers to the subbands' data.

    Channels descend, as in the correlator's files. Absent subbands read as zeros, flagged, without
    samples. The label of the phase centre is set right: fixed in azimuth and elevation (pyuvdata's
    ``driftscan``), on the meridian at the apparent declination, where the correlator's files claim
    ``drift``, the zenith. uvw coordinates are computed anew in double precision.

    Parameters
    ----------
    target : path
        Group file to write. The subbands are referred to by paths relative to its folder.
    paths : sequence of path
        Files of one group, in any order; the names end with ``_sbNN.hdf5``.

    Returns
    -------
    Sidecar
        To be written by the caller.

    Raises
    ------
    DataError
        If a file is unusable or does not belong with the others; the message names it.
    """
    target = Path(target)
    files = _by_subband(paths)
    headers = {sb: _full_header(path) for sb, path in files.items()}
    reference = min(headers)
    for sb, header in headers.items():
        _check_same(files[reference], headers[reference], files[sb], header)
    frequencies, width = _frequency_plan(files, headers)
    sidecar: Sidecar[GroupFigures] = Sidecar("group", inputs=list(files.values()))
    absent = sorted(set(range(N_SUBBANDS)) - set(files))
    if absent:
        sidecar.warn("absent: " + " ".join(f"sb{sb:02d}" for sb in absent))
    with replacing(target) as temporary:
        folder = Path(os.path.realpath(temporary.parent))
        with h5py.File(temporary, "w", libver="latest") as group:
            try:
                _write_header(group, headers[reference], frequencies, width)
            except DataError as error:
                raise DataError(f"{files[reference]}: {error}") from None
            _write_virtual(group, files, headers[reference], folder)
            _write_sources(group, files, folder)
    sidecar.figures = GroupFigures(
        subbands=sorted(files),
        absent_subbands=absent,
        n_integrations=headers[reference]["Ntimes"],
        n_baselines=headers[reference]["Nbls"],
        dec_app_deg=np.degrees(headers[reference]["dec_app_rad"]),
    )
    return sidecar


def _by_subband(paths: Sequence[str | os.PathLike]) -> dict[int, Path]:
    files: dict[int, Path] = {}
    for path in map(Path, paths):
        match = FILE_NAME.fullmatch(path.name)
        if match is None or int(match[2]) >= N_SUBBANDS:
            raise DataError(f"{path}: not a subband's file name (YYYY-MM-DDTHH:MM:SS_sbNN.hdf5)")
        if (other := files.setdefault(int(match[2]), path)) is not path:
            raise DataError(f"{path}: same subband as {other.name}; give one of them")
    if not files:
        raise DataError("no subband files were given")
    return dict(sorted(files.items()))


def _full_header(path: Path) -> dict:
    """Return the whole header of a subband file, checked in itself."""
    if not path.exists():
        raise DataError(f"{path}: source file is gone; take the inventory again")
    try:
        summary = read_header(path)
        with h5py.File(path, "r", locking=False) as file:
            header = {
                name: item[()]
                for name, item in file["Header"].items()
                if isinstance(item, h5py.Dataset)
            }
            extra = file["Header"].get("extra_keywords", {})
            header["extra_keywords"] = {name: item[()] for name, item in extra.items()}
            data = file["Data"]
            kinds = {name: data[name].dtype for name in ("visdata", "flags", "nsamples")}
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (KeyError, OSError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: unreadable header ({first_line(error)})") from None
    missing = [name for name in (*_SHARED, "uvw_array", "freq_array") if name not in header]
    if missing:
        raise DataError(f"{path}: the header lacks {', '.join(missing)}")
    for name, kind in (("visdata", "c"), ("flags", "b"), ("nsamples", "f")):
        if kinds[name].kind != kind:
            raise DataError(f"{path}: Data/{name} has type {kinds[name]}")
    n_blts = summary["n_baselines"] * summary["n_integrations"]
    shapes = {
        **dict.fromkeys(
            ("ant_1_array", "ant_2_array", "time_array", "integration_time"), (n_blts,)
        ),
        "uvw_array": (n_blts, 3),
        "freq_array": (1, summary["n_channels"]),
        "polarization_array": (summary["n_polarizations"],),
        "antenna_positions": (len(np.atleast_1d(header["antenna_numbers"])), 3),
    }
    for name, shape in shapes.items():
        if np.shape(header[name]) != shape:
            raise DataError(f"{path}: {name} has shape {np.shape(header[name])}, not {shape}")
        if not np.isfinite(np.asarray(header[name], float)).all():
            raise DataError(f"{path}: {name} is not finite")
    return header | {
        "Ntimes": summary["n_integrations"],
        "Nbls": summary["n_baselines"],
        "dec_app_rad": np.radians(summary["dec_app_deg"]),
        "telescope_name": np.bytes_(RAW_NAME),
    }


def _check_same(path0: Path, header0: dict, path: Path, header: dict) -> None:
    for name in (*_SHARED, "dec_app_rad"):
        if not np.array_equal(header0[name], header[name]):
            raise DataError(f"{path}: {name} differs from that of {path0.name}; not one group")


def _frequency_plan(files: dict[int, Path], headers: dict[int, dict]) -> tuple[np.ndarray, float]:
    """Return all channel centres (Hz, descending) and their width, also of absent subbands."""
    first = min(headers)
    n = headers[first]["freq_array"].size
    width = float(np.mean(np.abs(headers[first]["channel_width"])))
    top = headers[first]["freq_array"][0, 0] + first * n * width
    plan = top - width * np.arange(N_SUBBANDS * n)
    for sb, header in headers.items():
        freq = header["freq_array"][0]
        if freq.size != n or not np.allclose(
            freq, plan[sb * n : (sb + 1) * n], rtol=0, atol=0.01 * width
        ):
            raise DataError(
                f"{files[sb]}: its channels ({freq[0] / 1e6:.3f} MHz and on) are not those of "
                f"sb{sb:02d}, {plan[sb * n] / 1e6:.3f} MHz and {n - 1} below"
            )
        plan[sb * n : (sb + 1) * n] = freq
    return plan, width


def _write_header(group: h5py.File, header: dict, freq: np.ndarray, width: float) -> None:
    """Write the header of the group file (UVH5 1.2)."""
    n_bl, n_times, n_chan = header["Nbls"], header["Ntimes"], len(freq)
    times = header["time_array"].reshape(n_times, n_bl)
    if (times != times[:, :1]).any():
        raise DataError("time_array is not ordered by time, then baseline")
    site = Site(
        np.radians(float(header["latitude"])),
        np.radians(float(header["longitude"])),
        float(header["altitude"]),
    )
    sky = Sky(times[:, 0], site)
    lst = np.repeat(sky.lst, n_bl)
    azimuth, elevation = erfa.hd2ae(0.0, header["dec_app_rad"], site.latitude)
    dec = np.full(lst.shape, header["dec_app_rad"])
    uvw = _meridian_uvw(header, sky)
    out = group.create_group("Header")
    derived = _REPLACED | {"extra_keywords", "dec_app_rad", "phase_center_app_dec"}
    for name, value in header.items():
        if name not in derived:
            out[name] = value
    extra = out.create_group("extra_keywords")
    for name, value in header["extra_keywords"].items():
        extra[name] = value
    for name, value in {
        "version": np.bytes_("1.2"),
        "vis_units": np.bytes_("uncalib"),
        "history": header.get("history", np.bytes_("")),
        "instrument": header.get("instrument", np.bytes_("DSA")),
        "Nfreqs": n_chan,
        "Nblts": n_bl * n_times,
        "Npols": len(header["polarization_array"]),
        "Nspws": 1,
        "spw_array": np.array([1]),
        "Nants_data": len(np.unique([header["ant_1_array"], header["ant_2_array"]])),
        "Nants_telescope": len(header["antenna_numbers"]),
        "freq_array": freq,
        "channel_width": np.full(n_chan, width),
        "flex_spw_id_array": np.ones(n_chan, int),
        "uvw_array": uvw,
        "lst_array": lst,
        "blt_order": np.bytes_("time"),
        "blts_are_rectangular": True,
        "time_axis_faster_than_bls": False,
        "mount_type": np.array(["alt-az"] * len(header["antenna_numbers"]), "S"),
        "Nphase": 1,
        "phase_center_id_array": np.zeros(lst.shape, int),
        "phase_center_app_ra": lst,
        "phase_center_app_dec": dec,
        "phase_center_frame_pa": np.zeros(lst.shape),
    }.items():
        if name in out:
            del out[name]
        out[name] = value
    centre = out.create_group("phase_center_catalog/0")
    for name, value in {
        "cat_name": np.bytes_("meridian"),
        "cat_type": np.bytes_("driftscan"),
        "cat_frame": np.bytes_("altaz"),
        "cat_lon": float(azimuth),
        "cat_lat": float(elevation),
        "info_source": np.bytes_("correlator header"),
    }.items():
        centre[name] = value


def _meridian_uvw(header: dict, sky: Sky) -> np.ndarray:
    """Return uvw (rows, 3), m, at hour angle 0, and check those of the file against it."""
    numbers = np.atleast_1d(header["antenna_numbers"])
    order = np.argsort(numbers)
    index = []
    for name in ("ant_1_array", "ant_2_array"):
        at = np.searchsorted(numbers, header[name], sorter=order).clip(max=len(numbers) - 1)
        if (numbers[order[at]] != header[name]).any():
            raise DataError(f"{name} holds numbers that antenna_numbers does not")
        index.append(order[at])
    antennas = sky.antenna_uvw(
        header["antenna_positions"], meridian_axes(np.array([header["dec_app_rad"]]))
    )[0]
    uvw = antennas[index[1]] - antennas[index[0]]
    worst = np.abs(header["uvw_array"] - uvw).max()
    if worst > _UVW_TOLERANCE_M:
        raise DataError(
            f"uvw_array is up to {worst:.2f} m from what the antenna positions give at hour angle "
            "0 and the declination of the header"
        )
    return uvw


def _write_virtual(group: h5py.File, files: dict[int, Path], header: dict, folder: Path) -> None:
    """Map the subbands' data; with as many axes as theirs, for HDF5 is slow between ranks."""
    n, n_pol = header["freq_array"].size, len(header["polarization_array"])
    shape = (len(header["time_array"]), 1, n, n_pol)
    # An unwritten dataset takes no space and reads as its fill value.
    group.create_dataset("Absent/flags", shape, bool, chunks=True, fillvalue=True)
    for name, dtype in (("visdata", np.complex64), ("flags", bool), ("nsamples", np.float32)):
        layout = h5py.VirtualLayout((shape[0], 1, N_SUBBANDS * n, n_pol), dtype)
        for sb in range(N_SUBBANDS):
            channels = slice(sb * n, (sb + 1) * n)
            if sb in files:
                place = _relative(files[sb], folder).replace("%", "%%")  # HDF5 counts with %b
                layout[:, :, channels] = h5py.VirtualSource(place, f"Data/{name}", shape, dtype)
            elif name == "flags":
                layout[:, :, channels] = h5py.VirtualSource(".", "Absent/flags", shape, dtype)
        group.create_virtual_dataset(f"Data/{name}", layout)


def _write_sources(group: h5py.File, files: dict[int, Path], folder: Path) -> None:
    """Record the subbands, for readers to find out that a file has gone or changed since."""
    stats = [path.stat() for path in files.values()]
    sources = group.create_group("Sources")
    sources["subband"] = np.array(list(files))
    sources["path"] = [_relative(path, folder) for path in files.values()]
    sources["absolute_path"] = [os.path.abspath(path) for path in files.values()]
    sources["size"] = np.array([s.st_size for s in stats])
    sources["mtime_ns"] = np.array([s.st_mtime_ns for s in stats])


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(os.path.realpath(path.parent), folder) + "/" + path.name


def make_group(target: Path, paths: Sequence[Path]) -> None:
    """Write a group file and its sidecar; see `write_group_file`.

    The sidecar holds the inventory's entry of the group, for the plan keeps a group by it when its
    raw files have been purged.
    """
    sidecar = write_group_file(target, paths)
    sidecar.figures.group = asdict(entry_of(paths))
    sidecar.write(target)
