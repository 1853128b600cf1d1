"""Files of the correlator (UVH5): what their headers say, and the group file made of them.

The group file is a UVH5 of all channels whose bulk data stays in the correlator's files.
"""

from __future__ import annotations

import os

import h5py
import numpy as np

from ..core.errors import DataError
from ..core.times import DAY_S, MJD_ZERO_JD
from ..telescope.dsa110 import RAW_NAME

__all__ = ["antenna_set", "first_line", "read_header"]

#: Names under which this telescope's files go.
_TELESCOPES = {RAW_NAME, "OVRO-MMA", "DSA_110", "DSA-110", "DSA110"}


#: No antenna has a higher number.
_MOST_ANTENNAS = 4095


# --- headers -----------------------------------------------------------------------------------


def read_header(path: str | os.PathLike) -> dict:
    """Read what grouping needs from one file's header.

    The low-level interface of h5py is used, for it is three times faster and a folder may hold
    100,000 files.

    Returns
    -------
    dict
        Fields of `SubbandFile`.

    Raises
    ------
    DataError
        If this is no whole UVH5 file of this telescope; the message names the reason alone.
    """
    try:
        handle = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, _access())
    except OSError as error:
        raise DataError(_open_reason(error)) from None
    try:
        return _header_fields(handle)
    except (KeyError, OSError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise DataError(f"unreadable header ({first_line(error)})") from None
    finally:
        handle.close()


def _access() -> h5py.h5p.PropFAID:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_file_locking(False, True)  # the correlator's disks are often network mounts
    return access


def _open_reason(error: OSError) -> str:
    if error.errno:
        return f"cannot be opened ({os.strerror(error.errno)})"
    message = str(error)
    if "truncated file" in message:
        return "truncated: shorter than its own superblock says"
    if "file signature not found" in message:
        return "no HDF5 file"
    return f"cannot be opened ({first_line(message)})"


def first_line(error: object) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().strip("'\"").split("\n")[0][:120]


def _value(handle: h5py.h5f.FileID, name: str, last: bool = False) -> float:
    """Return the first (or last) element of a numeric dataset as float."""
    dataset = h5py.h5d.open(handle, name.encode())
    space = dataset.get_space()
    shape = space.get_simple_extent_dims()
    if 0 in shape:
        raise ValueError(f"{name} is empty")
    out = np.empty(1, np.float64)
    if shape:
        start = tuple(n - 1 if last else 0 for n in shape)
        space.select_hyperslab(start, (1,) * len(shape))
        dataset.read(h5py.h5s.create_simple((1,)), space, out)
    else:
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, out.reshape(()))
    return float(out[0])


def _text(handle: h5py.h5f.FileID, name: str) -> str:
    dataset = h5py.Dataset(h5py.h5d.open(handle, name.encode()))
    value = dataset[()]
    return value.decode("utf8", "replace") if isinstance(value, bytes) else str(value)


def _declination(handle: h5py.h5f.FileID) -> float:
    """Return the apparent declination, rad, from the items that may hold it, best first."""
    for name in ("extra_keywords/phase_center_dec", "phase_center_app_dec", "phase_center_dec"):
        try:
            return _value(handle, f"Header/{name}")
        except KeyError:
            continue
    raise KeyError("no declination in the header")


def _antennas(handle: h5py.h5f.FileID, n_baselines: int) -> str:
    """Return the set of antennas of the first integration; see `antenna_set`."""
    numbers = np.empty((2, n_baselines), np.int32)
    for row, name in zip(numbers, ("ant_1_array", "ant_2_array"), strict=True):
        dataset = h5py.h5d.open(handle, f"Header/{name}".encode())
        space = dataset.get_space()
        space.select_hyperslab((0,), (n_baselines,))
        dataset.read(h5py.h5s.create_simple((n_baselines,)), space, row)
    return antenna_set(numbers)


def antenna_set(numbers: np.ndarray) -> str:
    """Return antenna numbers as the hexadecimal number with those bits set.

    Raises
    ------
    DataError
        If a number is negative or absurdly large.
    """
    present = np.unique(numbers)
    if present[0] < 0 or present[-1] > _MOST_ANTENNAS:
        raise DataError(f"antenna numbers from {present[0]} to {present[-1]}")
    return f"{sum(1 << int(n) for n in present):x}"


def _header_fields(handle: h5py.h5f.FileID) -> dict:
    name = _text(handle, "Header/telescope_name")
    if name not in _TELESCOPES:
        raise DataError(f"of another telescope ({name!r})")
    n_blts, n_times, n_freqs, n_pols = (
        int(_value(handle, f"Header/{item}")) for item in ("Nblts", "Ntimes", "Nfreqs", "Npols")
    )
    shape = (n_blts, 1, n_freqs, n_pols)
    for item in ("visdata", "flags", "nsamples"):
        found = h5py.h5d.open(handle, f"Data/{item}".encode()).shape
        if found != shape:
            raise DataError(f"Data/{item} has shape {found}, its header says {shape}")
    if n_times < 1 or n_blts % n_times:
        raise DataError(f"{n_blts} rows are no whole number of {n_times} integrations")
    integration = _value(handle, "Header/integration_time")
    first, last = (_value(handle, "Header/time_array", last) for last in (False, True))
    dec = np.degrees(_declination(handle))
    top = _value(handle, "Header/freq_array")
    width = abs(_value(handle, "Header/channel_width"))
    numbers = np.array([integration, first, last, dec, top, width])
    if not np.isfinite(numbers).all() or not 0 < integration < 3600 or abs(dec) > 90 or width == 0:
        raise DataError("header values out of range")
    if abs((last - first) * DAY_S - (n_times - 1) * integration) > integration:
        raise DataError("time_array does not match Ntimes and integration_time")
    return {
        "start_mjd": first - MJD_ZERO_JD - integration / 2 / DAY_S,
        "n_integrations": n_times,
        "n_channels": n_freqs,
        "n_baselines": n_blts // n_times,
        "n_polarizations": n_pols,
        "integration_s": integration,
        "antennas": _antennas(handle, n_blts // n_times),
        "dec_app_deg": float(dec),
        "top_hz": top,
        "width_hz": width,
    }
