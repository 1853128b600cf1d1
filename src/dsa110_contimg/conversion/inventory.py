"""From a folder of correlator files to groups.

`scan` reads headers only, each once: what it learned is kept in one cache file by path, size and
modification time. `group_files` is a pure function from those records to groups.

The Snakefile calls `take_inventory` whenever it is parsed, so this module imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import erfa
import numpy as np

from ..core.errors import ConfigError, DataError, trouble_in
from ..core.files import write_text
from ..core.options import InventoryOptions
from ..core.programs import die_with_parent
from ..core.records import parse
from ..core.times import DAY_S, group_id, mjd_of_unix, night_of, unix_of_utc
from ..telescope.dsa110 import HEIGHT_M, LATITUDE_RAD, LONGITUDE_RAD, N_SUBBANDS, TILE_S

__all__ = [
    "FILE_NAME",
    "Group",
    "Inventory",
    "SubbandFile",
    "entry_of",
    "group_files",
    "meridian_icrs",
    "scan",
    "take_inventory",
]

log = logging.getLogger(__name__)

#: Names of whole files; those being written end with ``_incomplete.hdf5``.
FILE_NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)_sb(\d\d)\.hdf5")

#: The subbands of a group begin within this time of each other (their clocks agree exactly).
_SAME_START_S = 1.0
#: Two groups further apart than a tile and this have a gap between them.
_GAP_S = 5.0
#: A change of declination larger than this is a new pointing.
_SLEW_DEG = 0.1
#: A file that is dated later than this does not count yet, s; the reason why begins so.
_CLOCK_S, _AHEAD = 1.0, "dated ahead of the clock"
_CACHE_VERSION = 2
#: Seconds since 1970 that no clock reaches.
_FOREVER_S = 1e12
#: Fewer new files than this are read in the calling process.
_POOL_FROM = 2000


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
    antennas : str
        Set of antennas, see `uvh5.antenna_set`.
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
    antennas: str = ""
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
    antennas : str
        Set of antennas, see `uvh5.antenna_set`; empty where it is not known.
    top_hz, width_hz : float
        Highest channel centre of the whole band, and channel width, Hz; 0 where not known.
    n_channels : int
        Channels of the whole band, those of absent subbands too.
    stamp : str
        What changes when a file does: a hash of the names, sizes and times of modification of all;
        the folder does not count. Empty in what earlier releases wrote.
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
    antennas: str = ""
    top_hz: float = 0.0
    width_hz: float = 0.0
    n_channels: int = 0
    stamp: str = ""


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
        """Return the inventory that `to_dict` described; raise `Damaged` if it is none."""
        return parse(cls, content)


# --- scanning ----------------------------------------------------------------------------------


def _examine(record: SubbandFile) -> SubbandFile:
    """Complete a record by the file's header."""
    if record.subband >= N_SUBBANDS:
        return replace(record, reason=f"subband {record.subband} does not exist")
    if record.size == 0:
        return replace(record, reason="empty file")
    from .uvh5 import read_header  # late, for h5py: what is known already is not read again

    try:
        return replace(record, **read_header(record.path))
    except DataError as error:
        return replace(record, reason=str(error))


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
    return _records(_listing(incoming), cache_path)


def _listing(incoming: str | os.PathLike) -> list[tuple[str, int, int]]:
    """Return path, size and modification time of every subband file, in order of path."""
    incoming = Path(incoming)
    try:
        entries = os.scandir(incoming)
    except OSError as error:
        raise ConfigError(
            f"{incoming}: the incoming folder cannot be read ({error.strerror}); "
            "set 'incoming' in the configuration"
        ) from None
    found = []
    with entries:
        for entry in entries:
            if FILE_NAME.fullmatch(entry.name) is None:
                continue
            try:
                stat = entry.stat()
                found.append((entry.path, stat.st_size, stat.st_mtime_ns))
            except OSError:  # a broken link, or removed since
                found.append((entry.path, -1, 0))
    return sorted(found)


def _records(
    listing: Sequence[tuple[str, int, int]], cache_path: str | os.PathLike | None
) -> list[SubbandFile]:
    known = _read_cache(cache_path) if cache_path else {}
    records: list[SubbandFile] = []
    new: list[int] = []
    for path, size, mtime_ns in listing:
        record = known.get(path)
        if (
            record is None
            or (record.size, record.mtime_ns) != (size, mtime_ns)
            # What lacked permission or met a bad disk may be readable now, though it is the same.
            or trouble_in(record.reason) is not None
        ):
            record = _from_name(path, size, mtime_ns)
            if not record.reason:
                new.append(len(records))
        records.append(record)
    for index, record in zip(new, _examine_all([records[i] for i in new]), strict=True):
        records[index] = record
    if cache_path and (new or len(known) != len(records)):
        _write_cache(cache_path, records)
    return records


def _from_name(path: str, size: int, mtime_ns: int) -> SubbandFile:
    match = FILE_NAME.fullmatch(os.path.basename(path))
    if match is None:
        raise DataError(f"{path}: not the name of a subband's file, <start>_sbNN.hdf5")
    reason = "" if size >= 0 else "broken link, or removed"
    try:
        moment = unix_of_utc(match[1] + "+00:00")
    except ValueError:
        moment, reason = 0.0, "its name holds no date"
    mjd = mjd_of_unix(moment)
    return SubbandFile(path, size, mtime_ns, int(match[2]), mjd, reason=reason)


def _examine_all(records: list[SubbandFile]) -> Iterable[SubbandFile]:
    if len(records) < _POOL_FROM:
        return map(_examine, records)
    log.info("reading %d headers", len(records))
    # Forked, so that the parent is this process, with which the workers have to die.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(None, context, die_with_parent, (os.getpid(),)) as pool:
        return list(pool.map(_examine, records, chunksize=200))


def _read_cache(path: str | os.PathLike) -> dict[str, SubbandFile]:
    """Return the kept records by path; none when there is no valid cache."""
    try:
        content = json.loads(Path(path).read_bytes())
        if content["version"] != _CACHE_VERSION or tuple(content["columns"]) != _COLUMNS:
            return {}
        kinds: dict[str, Any] = get_type_hints(SubbandFile)
        columns = [parse(list[kinds[name]], content["columns"][name]) for name in _COLUMNS]  # type: ignore[valid-type]
        return {row[0]: SubbandFile(*row) for row in zip(*columns, strict=True)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
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
        elif (ahead_s := record.mtime_ns * 1e-9 - now) > _CLOCK_S:
            # What is made of it would look older than itself, and be made again and again.
            reason = f"{_AHEAD} by {ahead_s:.0f} s; set the clocks"
            unusable.append(replace(record, reason=reason))
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


def _start(record: SubbandFile) -> float:
    """Return when the data of a file that can be used begin, MJD."""
    assert record.start_mjd is not None
    return record.start_mjd


def _clusters(records: list[SubbandFile]) -> list[list[SubbandFile]]:
    """Split files into runs that begin at the same time."""
    clusters: list[list[SubbandFile]] = []
    for record in sorted(records, key=lambda r: (r.start_mjd, r.subband, r.path)):
        if clusters and (_start(record) - _start(clusters[-1][0])) * DAY_S < _SAME_START_S:
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
        if record.name_mjd == mjd_of_unix(0.0) or record.subband >= N_SUBBANDS:
            continue
        at = np.searchsorted(starts[order], record.name_mjd)
        near = [int(i) for i in order[max(0, at - 1) : at + 1]]
        distance, index = min(
            ((_distance_s(record.name_mjd, *spans[i]), i) for i in near),
            default=(np.inf, -1),
        )
        if distance <= tolerance_s:
            notes.setdefault(index, []).append(record)
        elif others and (record.name_mjd - others[-1][0].name_mjd) * DAY_S <= tolerance_s:
            others[-1].append(record)
        else:
            others.append([record])
    return notes, others


def _distance_s(moment: float, start: float, end: float) -> float:
    return max(start - moment, moment - end, 0.0) * DAY_S


def _shape(record: SubbandFile) -> tuple:
    return (
        round(_start(record) * DAY_S, 2),
        record.n_integrations,
        record.n_channels,
        record.n_baselines,
        record.n_polarizations,
        record.antennas,
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
    shapes = [_shape(record) for record in cluster]
    usual = Counter(shapes).most_common(1)[0][0]
    chosen: dict[int, SubbandFile] = {}
    by_age = sorted(
        zip(cluster, shapes, strict=True), key=lambda pair: (pair[0].mtime_ns, pair[0].path)
    )
    for record, shape in by_age:
        if shape != usual:
            reason = "start, shape, antennas or declination differ from the group's others"
            rejected.append({"path": record.path, "reason": reason})
            reasons.append(f"sb{record.subband:02d}: {os.path.basename(record.path)}: {reason}")
            continue
        if (older := chosen.get(record.subband)) is not None:
            newer = os.path.basename(record.path)
            rejected.append({"path": older.path, "reason": f"duplicate; {newer} is newer"})
            reasons.append(
                f"sb{record.subband:02d}: duplicate {os.path.basename(older.path)} left out"
            )
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
    identity = group_id(_start(first))
    return Group(
        id=identity,
        night=night_of(identity),
        state=state,
        files={sb: r.path for sb, r in sorted(chosen.items())},
        start_mjd=_start(first),
        duration_s=first.n_integrations * first.integration_s,
        n_integrations=first.n_integrations,
        dec_app_deg=first.dec_app_deg,
        ra_deg=None,
        dec_deg=None,
        reasons=reasons,
        antennas=first.antennas,
        top_hz=first.top_hz + first.subband * first.n_channels * first.width_hz,
        width_hz=first.width_hz,
        n_channels=N_SUBBANDS * first.n_channels,
        stamp=_stamp(chosen.values()),
    )


def _stamp(records: Iterable[SubbandFile]) -> str:
    """Return a hash of names, sizes and times (microseconds, which all file systems keep)."""
    lines = (f"{os.path.basename(r.path)} {r.size} {r.mtime_ns // 1000}" for r in records)
    return hashlib.blake2b("\n".join(sorted(lines)).encode(), digest_size=8).hexdigest()


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
        "A", azimuth, np.pi / 2 - elevation, erfa.DJM0, np.asarray(mjd), *site, *weather
    )
    return np.degrees(ra) % 360.0, np.degrees(dec)


def _with_directions(groups: list[Group]) -> list[Group]:
    known = [i for i, g in enumerate(groups) if g.dec_app_deg is not None]
    if not known:
        return groups
    middle = np.array([groups[i].start_mjd + groups[i].duration_s / 2 / DAY_S for i in known])
    ra, dec = meridian_icrs(middle, np.array([groups[i].dec_app_deg for i in known]))
    groups = list(groups)
    for i, ra_i, dec_i in zip(known, ra, dec, strict=True):
        groups[i] = replace(groups[i], ra_deg=float(ra_i), dec_deg=float(dec_i))
    return groups


def _events(groups: Sequence[Group]) -> list[dict]:
    """Return the gaps in time and the changes of declination between neighbouring groups."""
    events = []
    for before, after in itertools.pairwise(groups):
        end = before.start_mjd + before.duration_s / DAY_S
        gap = (after.start_mjd - end) * DAY_S
        pair = {"before": before.id, "after": after.id}
        if gap > _GAP_S and before.duration_s:
            events.append({"kind": "gap", **pair, "seconds": round(gap, 1)})
        if before.dec_app_deg is None or after.dec_app_deg is None:
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
    """Scan a folder and group its files; see `scan` and `group_files`.

    With a cache, the inventory itself is kept beside it (``<cache>.groups``) for as long as the
    folder stays as it is and no group's waiting time runs out: to look again costs one listing.
    """
    now = time.time() if now is None else now
    listing = _listing(incoming)
    if cache_path is None:
        return group_files(_records(listing, None), options, now)
    kept_path = Path(f"{cache_path}.groups")
    key = _digest(listing, options)
    if (kept := _read_kept(kept_path, key, now)) is not None:
        return kept
    inventory = group_files(_records(listing, cache_path), options, now)
    until = _valid_until(inventory, listing, options)
    if until > now:
        content = {"key": key, "from": now, "until": until, "inventory": inventory.to_dict()}
        write_text(kept_path, json.dumps(content))
    return inventory


def _digest(listing: Sequence[tuple[str, int, int]], options: InventoryOptions) -> str:
    """Return what identifies a folder's state, the options, and the code that judges them."""
    digest = hashlib.blake2b(options.model_dump_json().encode())
    for source in (Path(__file__), Path(__file__).with_name("uvh5.py")):
        digest.update(source.read_bytes())
    digest.update("\n".join(f"{path} {size} {mtime}" for path, size, mtime in listing).encode())
    return digest.hexdigest()


def _read_kept(path: Path, key: str, now: float) -> Inventory | None:
    """Return the kept inventory if it is that of this folder at this time."""
    try:
        content = json.loads(path.read_bytes())
        if content["key"] == key and content["from"] <= now < content["until"]:
            return Inventory.from_dict(content["inventory"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: not a valid cache (%s); grouping again", path, error)
    return None


def _valid_until(
    inventory: Inventory, listing: Sequence[tuple[str, int, int]], options: InventoryOptions
) -> float:
    """Return until when (seconds since 1970) an inventory stays right if no file changes."""
    mtimes = {path: mtime_ns * 1e-9 for path, _, mtime_ns in listing}
    reasons = [r["reason"] for r in inventory.rejected]
    passing = ("still being written", _AHEAD)
    if any(reason.startswith(passing) or trouble_in(reason) for reason in reasons):
        return 0.0
    waiting = (g for g in inventory.groups if g.state == "collecting")
    arrivals = (max((mtimes[f] for f in g.files.values()), default=0.0) for g in waiting)
    return min((last + options.wait_s for last in arrivals), default=_FOREVER_S)


def entry_of(paths: Sequence[Path]) -> Group:
    """Return the inventory's entry of a group, given its files."""
    records = []
    for path in paths:
        stat = path.stat()
        records.append(_examine(_from_name(str(path), stat.st_size, stat.st_mtime_ns)))
    decided = InventoryOptions(min_subbands=1, wait_s=0.0)
    (group,) = group_files(records, decided, time.time()).groups
    return group
