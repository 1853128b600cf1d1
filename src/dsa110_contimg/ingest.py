"""From a folder of correlator files to groups, and from the files of a group to one virtual file.

`scan` reads headers only, each once: what it learned is kept in one cache file by path, size and
modification time. `group_files` is a pure function from those records to groups. `write_group_file`
makes the group file, a UVH5 whose bulk data stays in the correlator's files.

The Snakefile calls `take_inventory` whenever it is parsed, so this module imports nothing heavy.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import erfa
import h5py
import numpy as np

from .astrometry import Site, Sky, meridian_axes
from .config import InventoryOptions, add_options, from_args
from .errors import ConfigError, DataError
from .products import Sidecar, group_id, night_of, replacing, write_text
from .telescope import (
    HEIGHT_M,
    LATITUDE_RAD,
    LONGITUDE_RAD,
    N_SUBBANDS,
    RAW_NAME,
    TILE_S,
)

__all__ = [
    "Group",
    "Inventory",
    "SubbandFile",
    "group_files",
    "meridian_icrs",
    "read_header",
    "scan",
    "take_inventory",
    "write_group_file",
]

log = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)_sb(\d\d)\.hdf5")
_DAY_S = 86400.0
_JD0 = 2400000.5
_UNIX_EPOCH_MJD = 40587.0
#: The subbands of a group begin within this time of each other (their clocks agree exactly).
_SAME_START_S = 1.0
#: Two groups further apart than a tile and this have a gap between them.
_GAP_S = 5.0
#: A change of declination larger than this is a new pointing.
_SLEW_DEG = 0.1
_CACHE_VERSION = 1
#: Fewer new files than this are read in the calling process.
_POOL_FROM = 2000
#: Names under which this telescope's files go.
_TELESCOPES = {RAW_NAME, "OVRO-MMA", "DSA_110", "DSA-110", "DSA110"}


@dataclass(frozen=True, slots=True)
class SubbandFile:
    """What the name, the folder entry and the header of one file tell.

    Attributes
    ----------
    path : str
        Path as found.
    size, mtime_ns : int
        Bytes; nanoseconds since 1970.
    subband : int
        From the name; 0 is the highest in frequency.
    name_mjd : float
        Wall clock of the host that opened the file, from the name; not the time of the data.
    start_mjd : float or None
        UTC start of the data, from the header; None when the header could not be read.
    n_integrations, n_channels, n_baselines, n_polarizations : int
        Shape of the data.
    integration_s : float
        Integration time, s.
    dec_app_deg : float
        Apparent declination of the pointing, deg.
    top_hz, width_hz : float
        First channel centre and channel width, Hz.
    reason : str
        Why the file cannot be used; empty when it can.
    """

    path: str
    size: int
    mtime_ns: int
    subband: int
    name_mjd: float
    start_mjd: float | None = None
    n_integrations: int = 0
    n_channels: int = 0
    n_baselines: int = 0
    n_polarizations: int = 0
    integration_s: float = 0.0
    dec_app_deg: float = 0.0
    top_hz: float = 0.0
    width_hz: float = 0.0
    reason: str = ""


_COLUMNS = tuple(f.name for f in fields(SubbandFile))


@dataclass(frozen=True)
class Group:
    """One tile: the files that hold it and what they say of it.

    Attributes
    ----------
    id, night : str
        UTC start of the data, and its day.
    state : {"collecting", "complete", "degraded", "failed"}
        ``collecting`` waits for files; ``degraded`` has enough of them and waited long enough;
        ``failed`` waited and has too few.
    files : dict of int to str
        Subband to path.
    start_mjd, duration_s : float
        UTC start, MJD; length, s.
    n_integrations : int
        Integrations.
    dec_app_deg : float or None
        Apparent declination of the pointing, deg; None when no file can be read.
    ra_deg, dec_deg : float or None
        ICRS direction of the meridian at mid-tile, deg.
    reasons : list of str
        What is missing or odd.
    """

    id: str
    night: str
    state: str
    files: dict[int, str]
    start_mjd: float
    duration_s: float
    n_integrations: int
    dec_app_deg: float | None
    ra_deg: float | None
    dec_deg: float | None
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inventory:
    """All groups of a folder, in order of time, the files left out, and what happened between."""

    groups: list[Group] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Return what goes into JSON (subbands become strings, as JSON wants them)."""
        groups = [
            asdict(g) | {"files": {str(k): v for k, v in g.files.items()}} for g in self.groups
        ]
        return {"groups": groups, "rejected": self.rejected, "events": self.events}

    @classmethod
    def from_dict(cls, content: dict) -> Inventory:
        """Return the inventory that `to_dict` described."""
        groups = [
            Group(**(g | {"files": {int(k): v for k, v in g["files"].items()}}))
            for g in content["groups"]
        ]
        return cls(groups, list(content["rejected"]), list(content.get("events", [])))

    def group(self, identity: str) -> Group:
        """Return one group; raise `DataError` when there is none of that id."""
        for g in self.groups:
            if g.id == identity:
                return g
        raise DataError(f"group {identity} is not in the inventory; see 'contimg status'")


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
        raise DataError(_open_reason(str(error))) from None
    try:
        return _header_fields(handle)
    except (KeyError, OSError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise DataError(f"unreadable header ({_first_line(error)})") from None
    finally:
        handle.close()


def _access() -> h5py.h5p.PropFAID:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_file_locking(False, True)  # the correlator's disks are often network mounts
    return access


def _open_reason(message: str) -> str:
    if "truncated file" in message:
        return "truncated: shorter than its own superblock says"
    if "file signature not found" in message:
        return "no HDF5 file"
    return f"cannot be opened ({_first_line(message)})"


def _first_line(error: object) -> str:
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
    if abs((last - first) * _DAY_S - (n_times - 1) * integration) > integration:
        raise DataError("time_array does not match Ntimes and integration_time")
    return {
        "start_mjd": first - _JD0 - integration / 2 / _DAY_S,
        "n_integrations": n_times,
        "n_channels": n_freqs,
        "n_baselines": n_blts // n_times,
        "n_polarizations": n_pols,
        "integration_s": integration,
        "dec_app_deg": float(dec),
        "top_hz": top,
        "width_hz": width,
    }


def _examine(record: SubbandFile) -> SubbandFile:
    """Complete a record by the file's header."""
    if record.subband >= N_SUBBANDS:
        return replace(record, reason=f"subband {record.subband} does not exist")
    if record.size == 0:
        return replace(record, reason="empty file")
    try:
        return replace(record, **read_header(record.path))
    except DataError as error:
        return replace(record, reason=str(error))


# --- scanning ----------------------------------------------------------------------------------


def scan(
    incoming: str | os.PathLike, cache_path: str | os.PathLike | None = None
) -> list[SubbandFile]:
    """Record all ``*_sbNN.hdf5`` files of a folder.

    Parameters
    ----------
    incoming : path
        Folder. Files being written (``*_incomplete*``) and other names are passed over.
    cache_path : path, optional
        Where the records are kept. A file of the same path, size and modification time is not
        opened again.

    Raises
    ------
    ConfigError
        If the folder does not exist.
    """
    incoming = Path(incoming)
    known = _read_cache(cache_path) if cache_path else {}
    records: list[SubbandFile] = []
    new: list[int] = []
    try:
        entries = os.scandir(incoming)
    except OSError as error:
        raise ConfigError(
            f"{incoming}: the incoming folder cannot be read ({error.strerror}); "
            "set 'incoming' in the configuration"
        ) from None
    with entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None:
                continue
            try:
                stat = entry.stat()
                size, mtime_ns = stat.st_size, stat.st_mtime_ns
            except OSError:  # a broken link, or removed since
                size, mtime_ns = -1, 0
            record = known.get(entry.path)
            if record is None or record.size != size or record.mtime_ns != mtime_ns:
                record = _from_name(entry.path, size, mtime_ns, match)
                if not record.reason:
                    new.append(len(records))
            records.append(record)
    for index, record in zip(new, _examine_all([records[i] for i in new]), strict=True):
        records[index] = record
    if cache_path and (new or len(known) != len(records)):
        _write_cache(cache_path, records)
    return records


def _from_name(path: str, size: int, mtime_ns: int, match: re.Match) -> SubbandFile:
    reason = "" if size >= 0 else "broken link, or removed"
    try:
        moment = dt.datetime.fromisoformat(match[1] + "+00:00").timestamp()
    except ValueError:
        moment, reason = 0.0, "its name holds no date"
    mjd = _UNIX_EPOCH_MJD + moment / _DAY_S
    return SubbandFile(path, size, mtime_ns, int(match[2]), mjd, reason=reason)


def _examine_all(records: list[SubbandFile]) -> Iterable[SubbandFile]:
    if len(records) < _POOL_FROM:
        return map(_examine, records)
    log.info("reading %d headers", len(records))
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_examine, records, chunksize=200))


def _read_cache(path: str | os.PathLike) -> dict[str, SubbandFile]:
    """Return the kept records by path; none when there is no valid cache."""
    try:
        content = json.loads(Path(path).read_bytes())
        if content["version"] != _CACHE_VERSION or tuple(content["columns"]) != _COLUMNS:
            return {}
        records = map(SubbandFile, *(content["columns"][name] for name in _COLUMNS))
        return {r.path: r for r in records}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s: not a valid cache (%s); reading all headers again", path, error)
        return {}


def _write_cache(path: str | os.PathLike, records: Sequence[SubbandFile]) -> None:
    columns = {name: [getattr(r, name) for r in records] for name in _COLUMNS}
    write_text(path, json.dumps({"version": _CACHE_VERSION, "columns": columns}))


# --- grouping ----------------------------------------------------------------------------------


def group_files(records: Sequence[SubbandFile], options: InventoryOptions, now: float) -> Inventory:
    """Sort files into groups. A pure function.

    Files of one group have the same start of data. Files whose header cannot be read never count;
    they are listed, and named in the group (if any) that their name puts them nearest to.

    Parameters
    ----------
    records : sequence of SubbandFile
        From `scan`.
    options : InventoryOptions
        When a group is ready.
    now : float
        Time to judge by, seconds since 1970 (UTC).
    """
    usable, unusable, growing = [], [], []
    for record in records:
        if record.reason:
            unusable.append(record)
        elif options.settle_s and now - record.mtime_ns * 1e-9 < options.settle_s:
            growing.append(record)
        else:
            usable.append(record)
    clusters = _clusters(usable)
    rejected = [{"path": r.path, "reason": r.reason} for r in sorted(unusable, key=_by_path)]
    rejected += [
        {"path": r.path, "reason": "still being written"} for r in sorted(growing, key=_by_path)
    ]
    notes, names = _by_name(clusters, unusable + growing, options.name_tolerance_s)
    groups = [
        _group(cluster, notes.get(i, []), options, now, rejected)
        for i, cluster in enumerate(clusters)
    ]
    groups += [_nameless(cluster, options, now) for cluster in names]
    groups = _with_directions(sorted(groups, key=lambda g: g.start_mjd))
    return Inventory(groups, rejected, _events(groups))


def _by_path(record: SubbandFile) -> str:
    return record.path


def _clusters(records: list[SubbandFile]) -> list[list[SubbandFile]]:
    """Split files into runs that begin at the same time."""
    clusters: list[list[SubbandFile]] = []
    for record in sorted(records, key=lambda r: (r.start_mjd, r.subband, r.path)):
        if clusters and (record.start_mjd - clusters[-1][0].start_mjd) * _DAY_S < _SAME_START_S:
            clusters[-1].append(record)
        else:
            clusters.append([record])
    return clusters


def _by_name(
    clusters: list[list[SubbandFile]], records: list[SubbandFile], tolerance_s: float
) -> tuple[dict[int, list[SubbandFile]], list[list[SubbandFile]]]:
    """Put files without a usable header beside the groups that their names belong to.

    Returns
    -------
    notes : dict
        Cluster index to the unusable files that belong to it.
    others : list of list
        Files near no cluster, gathered among themselves; no gathering spans more than the
        tolerance, so neighbouring tiles cannot merge.
    """
    spans = [
        (min(r.name_mjd for r in cluster), max(r.name_mjd for r in cluster)) for cluster in clusters
    ]
    starts = np.array([s for s, _ in spans])
    order = np.argsort(starts)
    notes: dict[int, list[SubbandFile]] = {}
    others: list[list[SubbandFile]] = []
    for record in sorted(records, key=lambda r: (r.name_mjd, r.path)):
        if record.name_mjd == _UNIX_EPOCH_MJD or record.subband >= N_SUBBANDS:
            continue
        at = np.searchsorted(starts[order], record.name_mjd)
        near = [int(i) for i in order[max(0, at - 1) : at + 1]]
        distance, index = min(
            ((_distance_s(record.name_mjd, *spans[i]), i) for i in near),
            default=(np.inf, -1),
        )
        if distance <= tolerance_s:
            notes.setdefault(index, []).append(record)
        elif others and (record.name_mjd - others[-1][0].name_mjd) * _DAY_S <= tolerance_s:
            others[-1].append(record)
        else:
            others.append([record])
    return notes, others


def _distance_s(moment: float, start: float, end: float) -> float:
    return max(start - moment, moment - end, 0.0) * _DAY_S


def _shape(record: SubbandFile) -> tuple:
    return (
        round(record.start_mjd * _DAY_S, 2),
        record.n_integrations,
        record.n_channels,
        record.n_baselines,
        record.n_polarizations,
        round(record.dec_app_deg, 4),
    )


def _group(
    cluster: list[SubbandFile],
    unusable: list[SubbandFile],
    options: InventoryOptions,
    now: float,
    rejected: list[dict],
) -> Group:
    """Make a group of files that begin together; note in `rejected` the files it leaves out."""
    reasons: list[str] = []
    usual = Counter(map(_shape, cluster)).most_common(1)[0][0]
    chosen: dict[int, SubbandFile] = {}
    for record in sorted(cluster, key=lambda r: (r.mtime_ns, r.path)):
        if _shape(record) != usual:
            reason = "start, shape or declination differ from the group's other subbands"
            rejected.append({"path": record.path, "reason": reason})
            reasons.append(f"sb{record.subband:02d}: {Path(record.path).name}: {reason}")
            continue
        if (older := chosen.get(record.subband)) is not None:
            newer = Path(record.path).name
            rejected.append({"path": older.path, "reason": f"duplicate; {newer} is newer"})
            reasons.append(f"sb{record.subband:02d}: duplicate {Path(older.path).name} left out")
        chosen[record.subband] = record
    reasons += [
        f"sb{r.subband:02d}: {Path(r.path).name}: {r.reason or 'still being written'}"
        for r in unusable
        if r.subband not in chosen
    ]
    absent = sorted(set(range(N_SUBBANDS)) - set(chosen))
    if absent:
        reasons.append("absent: " + " ".join(f"sb{sb:02d}" for sb in absent))
    arrivals = [r.mtime_ns * 1e-9 for r in chosen.values()]
    late = [
        sb
        for sb, r in sorted(chosen.items())
        if r.mtime_ns * 1e-9 - min(arrivals) > max(options.wait_s, TILE_S)
    ]
    if late:
        reasons.append("late: " + " ".join(f"sb{sb:02d}" for sb in late))
    newest = max([*arrivals, *(r.mtime_ns * 1e-9 for r in unusable)])
    if not absent:
        state = "complete"
    elif now - newest < options.wait_s:
        state = "collecting"
    else:
        state = "degraded" if len(chosen) >= options.min_subbands else "failed"
    first = min(chosen.values(), key=lambda r: r.subband)
    identity = group_id(first.start_mjd)
    return Group(
        id=identity,
        night=night_of(identity),
        state=state,
        files={sb: r.path for sb, r in sorted(chosen.items())},
        start_mjd=first.start_mjd,
        duration_s=first.n_integrations * first.integration_s,
        n_integrations=first.n_integrations,
        dec_app_deg=first.dec_app_deg,
        ra_deg=None,
        dec_deg=None,
        reasons=reasons,
    )


def _nameless(cluster: list[SubbandFile], options: InventoryOptions, now: float) -> Group:
    """Make a group of files none of which can be read; its time is that of their names."""
    newest = max(r.mtime_ns * 1e-9 for r in cluster)
    start = min(r.name_mjd for r in cluster)
    reasons = ["no readable file; its time is that of the file names"]
    reasons += [f"sb{r.subband:02d}: {r.reason or 'still being written'}" for r in cluster]
    return Group(
        id=group_id(start),
        night=night_of(group_id(start)),
        state="collecting" if now - newest < options.wait_s else "failed",
        files={},
        start_mjd=start,
        duration_s=0.0,
        n_integrations=0,
        dec_app_deg=None,
        ra_deg=None,
        dec_deg=None,
        reasons=reasons,
    )


def meridian_icrs(mjd: np.ndarray, dec_app_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ICRS direction of hour angle 0 at an apparent declination.

    UT1 is taken as UTC and the pole as still, which errs by less than 15 arcsec: enough to choose
    calibrators and lay out mosaics. The conversion does it exactly.

    Parameters
    ----------
    mjd : array_like
        UTC, MJD.
    dec_app_deg : array_like
        Apparent declination, deg.

    Returns
    -------
    ra_deg, dec_deg : ndarray
        Degrees, RA in [0, 360).
    """
    azimuth, elevation = erfa.hd2ae(0.0, np.radians(dec_app_deg), LATITUDE_RAD)
    site = (0.0, LONGITUDE_RAD, LATITUDE_RAD, HEIGHT_M, 0.0, 0.0)
    weather = (0.0, 0.0, 0.0, 1.0)
    ra, dec = erfa.atoc13(
        "A", azimuth, np.pi / 2 - elevation, _JD0, np.asarray(mjd), *site, *weather
    )
    return np.degrees(ra) % 360.0, np.degrees(dec)


def _with_directions(groups: list[Group]) -> list[Group]:
    known = [i for i, g in enumerate(groups) if g.dec_app_deg is not None]
    if not known:
        return groups
    middle = np.array([groups[i].start_mjd + groups[i].duration_s / 2 / _DAY_S for i in known])
    ra, dec = meridian_icrs(middle, np.array([groups[i].dec_app_deg for i in known]))
    groups = list(groups)
    for i, ra_i, dec_i in zip(known, ra, dec, strict=True):
        groups[i] = replace(groups[i], ra_deg=float(ra_i), dec_deg=float(dec_i))
    return groups


def _events(groups: Sequence[Group]) -> list[dict]:
    """Return the gaps in time and the changes of declination between neighbouring groups."""
    events = []
    for before, after in itertools.pairwise(groups):
        end = before.start_mjd + before.duration_s / _DAY_S
        gap = (after.start_mjd - end) * _DAY_S
        pair = {"before": before.id, "after": after.id}
        if gap > _GAP_S and before.duration_s:
            events.append({"kind": "gap", **pair, "seconds": round(gap, 1)})
        if None in (before.dec_app_deg, after.dec_app_deg):
            continue
        slew = after.dec_app_deg - before.dec_app_deg
        if abs(slew) > _SLEW_DEG:
            events.append({"kind": "declination", **pair, "degrees": round(slew, 3)})
    return events


def take_inventory(
    incoming: str | os.PathLike,
    options: InventoryOptions,
    cache_path: str | os.PathLike | None = None,
    now: float | None = None,
) -> Inventory:
    """Scan a folder and group its files; see `scan` and `group_files`."""
    return group_files(scan(incoming, cache_path), options, time.time() if now is None else now)


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
        Already written.

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
    sidecar = Sidecar(step="group", inputs=list(files.values()))
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
    sidecar.qa = {
        # The plan keeps a group by this entry when its raw files have been purged.
        "group": _describe(files),
        "subbands": sorted(files),
        "absent_subbands": absent,
        "n_integrations": headers[reference]["Ntimes"],
        "n_baselines": headers[reference]["Nbls"],
        "dec_app_deg": np.degrees(headers[reference]["dec_app_rad"]),
    }
    sidecar.write(target, packages=("h5py", "astropy"))
    return sidecar


def _describe(files: dict[int, Path]) -> dict:
    """Return the inventory's entry of a group whose files were chosen."""
    stats = {path: path.stat() for path in files.values()}
    records = [
        _examine(_from_name(str(p), s.st_size, s.st_mtime_ns, _NAME.fullmatch(p.name)))
        for p, s in stats.items()
    ]
    decided = InventoryOptions(min_subbands=1, wait_s=0.0)
    (entry,) = group_files(records, decided, time.time()).to_dict()["groups"]
    return entry


def _by_subband(paths: Sequence[str | os.PathLike]) -> dict[int, Path]:
    files: dict[int, Path] = {}
    for path in map(Path, paths):
        match = _NAME.fullmatch(path.name)
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
    except (KeyError, OSError, RuntimeError) as error:
        raise DataError(f"{path}: unreadable header ({_first_line(error)})") from None
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
    n, n_pol = header["freq_array"].size, len(header["polarization_array"])
    shape = (len(header["time_array"]), n, n_pol)
    # An unwritten dataset takes no space and reads as its fill value.
    group.create_dataset("Absent/flags", shape, bool, chunks=True, fillvalue=True)
    for name, dtype in (("visdata", np.complex64), ("flags", bool), ("nsamples", np.float32)):
        layout = h5py.VirtualLayout((shape[0], N_SUBBANDS * n, n_pol), dtype)
        for sb in range(N_SUBBANDS):
            channels = slice(sb * n, (sb + 1) * n)
            if sb in files:
                place = _relative(files[sb], folder)
                source = h5py.VirtualSource(place, f"Data/{name}", (shape[0], 1, n, n_pol), dtype)
                layout[:, channels, :] = source[:, 0]
            elif name == "flags":
                layout[:, channels, :] = h5py.VirtualSource(".", "Absent/flags", shape, dtype)
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


# --- command line ------------------------------------------------------------------------------


def _inventory_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg inventory", description="List the groups in the incoming folder."
    )
    parser.add_argument("incoming", type=Path, help="folder with *_sbNN.hdf5")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--cache", type=Path, help="file to keep what the headers said")
    add_options(parser, InventoryOptions)
    return parser


def _inventory_main(args: argparse.Namespace) -> None:
    inventory = take_inventory(args.incoming, from_args(args, InventoryOptions), args.cache)
    if args.json:
        print(json.dumps(inventory.to_dict(), indent=1))
        return
    print(f"{'group':<16} {'state':<11} {'files':>5} {'ints':>5} {'dec':>7} {'ra':>8}  remarks")
    for g in inventory.groups:
        dec, ra = (f"{x:.2f}" if x is not None else "-" for x in (g.dec_app_deg, g.ra_deg))
        print(
            f"{g.id:<16} {g.state:<11} {len(g.files):>5} {g.n_integrations:>5} {dec:>7} {ra:>8}  "
            + "; ".join(g.reasons)
        )
    for event in inventory.events:
        amount = f"{event['seconds']} s" if event["kind"] == "gap" else f"{event['degrees']:+} deg"
        print(f"{event['kind']}: {amount} between {event['before']} and {event['after']}")
    for item in inventory.rejected:
        print(f"left out: {item['path']}: {item['reason']}")


def _group_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg group", description="Combine the subbands of a group into one virtual UVH5."
    )
    parser.add_argument("out", type=Path, help="group file to write, group_<id>.hdf5")
    parser.add_argument("files", nargs="+", type=Path, help="the subbands' files")
    return parser


def _group_main(args: argparse.Namespace) -> None:
    write_group_file(args.out, args.files)


PARSERS = {
    "inventory": (_inventory_parser, _inventory_main),
    "group": (_group_parser, _group_main),
}
