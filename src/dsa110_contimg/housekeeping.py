"""Room on the disk: what killed jobs left, what old nights no longer need, what new work will take.

Retention touches closed nights only, and of these only what the science products do not rest on any
more. What is removed is recorded first, in ``nights/<night>/purged.json``: the plan takes what was
made of a purged group as it is. A product that goes is renamed before it is deleted, so that an
interrupted purge leaves nothing that looks whole.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import closing, locking
from .config import Config, RetentionOptions
from .errors import ConfigError, DataError, MachineError, SpaceError, message_of
from .ingest import Group
from .launcher import config_options, read_config
from .products import HOST, Layout, beside, owner, read_sidecar, remove, sidecar_path, write_text

__all__ = [
    "Removal",
    "check_space",
    "daily",
    "free_space",
    "is_finished",
    "plan_purge",
    "probe",
    "purge",
    "remove_stale",
    "set_times_right",
    "stale",
]

#: Age at which a temporary is nobody's, whoever its name says is at work on it, s.
STALE_S = 86400.0
#: Free inodes below which a disk counts as full.
MIN_INODES = 1000
#: Maps of a tile that nothing is made from.
AIDS = ("psf", "model", "residual", "pbcor")
_GB = 1e9


# --- space ----------------------------------------------------------------------------------------


def free_space(path: Path) -> tuple[Path, int, int]:
    """Return the folder that exists of a path, and free and total bytes of its disk."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    usage = shutil.disk_usage(existing)
    return existing, usage.free, usage.total


def probe(folder: Path) -> None:
    """Write a small file in a folder, to see that it can be done.

    Raises
    ------
    MachineError
        If it cannot, with the reason and what to do.
    """
    path = beside(folder / "probe")
    try:
        try:
            with open(path, "wb") as file:
                file.write(bytes(4096))
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"{folder}: cannot write: {message_of(error)}") from error


def check_space(config: Config, groups: Iterable[Group] = ()) -> int:
    """See that there is room for work; return for how many groups.

    Parameters
    ----------
    config : Config
        ``operations.min_free_gb`` stays free; a group takes ``operations.space_factor`` times its
        raw files, less what exists of it already.
    groups : iterable of Group
        Groups that are to be made, in the order in which they are.

    Returns
    -------
    int
        Number of groups, from the first on, that there is room for.

    Raises
    ------
    SpaceError
        If there is no room for the first, or too little even without any.
    MachineError
        If nothing can be written.
    """
    path, free, _ = free_space(config.results)
    probe(path)
    options = config.operations
    reserve = options.min_free_gb * _GB
    inodes = os.statvfs(path)
    if inodes.f_files and inodes.f_favail < MIN_INODES:
        raise SpaceError(
            f"disk full: {inodes.f_favail} inodes free at {path}; remove files "
            f"('contimg clean', 'contimg purge')"
        )
    wanted, fitting = reserve, 0
    layout = Layout(config.results)
    for group in groups:
        raw = sum(map(_size, map(Path, group.files.values())))
        wanted += max(0.0, options.space_factor * raw - _size(layout.group(group.id)))
        if free < wanted:
            break
        fitting += 1
    if free < reserve or (fitting == 0 and wanted > reserve):
        raise SpaceError(
            f"disk full: {free / _GB:.3g} GB free at {path}, {wanted / _GB:.3g} GB wanted; free "
            f"space ('contimg clean', 'contimg purge') or lower operations.min_free_gb"
        )
    return fitting


def _size(path: Path) -> int:
    """Return the size of a file, or of all in a folder, bytes; 0 if there is none."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(_size(Path(entry.path)) for entry in os.scandir(path))
        return path.lstat().st_size if path.is_symlink() else path.stat().st_size
    except FileNotFoundError:
        return 0


# --- what killed jobs left ------------------------------------------------------------------------


def stale(
    config: Config, nights: Iterable[str] | None = None, now: float | None = None
) -> list[Path]:
    """Return temporaries that no job is at work on, and what was being deleted.

    They lie in the results folder, in the incoming one (raw files that were being deleted), in the
    system's folder of temporaries and in the scratch folder of the conversion.

    Parameters
    ----------
    config : Config
        The configuration.
    nights : iterable of str, optional
        Nights to look into; otherwise the whole results folder is searched.
    now : float, optional
        Time to judge by, seconds since 1970.
    """
    now = time.time() if now is None else now
    found = [*Path(tempfile.gettempdir()).glob(".tmp-*")]
    found += config.incoming.glob(".old-*")
    if config.conversion.scratch is not None:
        found += config.conversion.scratch.glob(".tmp-*")
    layout = Layout(config.results)
    folders, places = [layout.results], "**/"
    if nights is not None:
        folders, places = [layout.results, layout.results / "runs", layout.lightcurves()], ""
        for night in nights:
            folders += [layout.night(night), *layout.night(night, "groups").glob("*")]
    for folder in folders:
        for kind in (".tmp-*", ".old-*"):
            found += folder.glob(places + kind)
    return sorted(path for path in found if _is_stale(path, now))


def _is_stale(path: Path, now: float) -> bool:
    """Tell whether the process that a temporary's name tells is gone, or it is too old anyway."""
    if (who := owner(path)) is None:
        return False
    process, host = who
    if host == HOST and not Path(f"/proc/{process}").exists():
        return True
    return now - _newest(path) > STALE_S


def _newest(path: Path) -> float:
    """Return when anything in a temporary changed last; now, if it is gone meanwhile."""
    try:
        times = [path.lstat().st_mtime]
        if path.is_dir() and not path.is_symlink():
            times += [_newest(Path(entry.path)) for entry in os.scandir(path)]
        return max(times)
    except FileNotFoundError:
        return time.time()


def remove_stale(config: Config, nights: Iterable[str] | None = None) -> list[Path]:
    """Delete what `stale` finds, and return it."""
    found = stale(config, nights)
    for path in found:
        remove(path)
    return found


def set_times_right(config: Config, now: float | None = None) -> int:
    """Date products that a clock once ahead dated in the future to now; return how many there were.

    To Snakemake an input from the future is newer than all that is made of it. Whether there are
    any is told by the folder of the records of runs, to which every run writes when it ends.

    Parameters
    ----------
    config : Config
        The configuration.
    now : float, optional
        The present, seconds since 1970.
    """
    now = time.time() if now is None else now
    layout = Layout(config.results)
    records = layout.results / "runs"
    if not _is_ahead(records, now):
        return 0
    places = [records, layout.lightcurves()]
    for night in closing.nights_on_disk(layout):
        if (closed := closing.path_of(layout, night)).is_file() and not _is_ahead(closed, now):
            continue
        places.append(layout.night(night))
    paths = [path for path in layout.results.iterdir() if path.is_file()]
    for place in places:
        paths += [place, *place.rglob("*")]
    ahead = [path for path in paths if _is_ahead(path, now)]
    for path in ahead:
        os.utime(path, (now, now), follow_symlinks=False)
    return len(ahead)


def _is_ahead(path: Path, now: float) -> bool:
    try:
        return path.lstat().st_mtime > now + 1.0
    except FileNotFoundError:
        return False


# --- retention ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Removal:
    """Something that the policy lets go.

    Attributes
    ----------
    path : Path
        File or folder.
    n_bytes : int
        What it takes.
    night, group : str
        What it belongs to; empty where it belongs to none.
    rule : str
        Key of the policy that lets it go.
    """

    path: Path
    n_bytes: int
    night: str
    group: str
    rule: str


def plan_purge(config: Config, raw: bool = False, now: float | None = None) -> list[Removal]:
    """Return what the policy lets go; nothing is touched.

    Parameters
    ----------
    config : Config
        Section ``retention`` is the policy.
    raw : bool
        Whether raw files may go, if ``retention.raw_days`` says when.
    now : float, optional
        Time to judge by, seconds since 1970.
    """
    now = time.time() if now is None else now
    layout = Layout(config.results)
    found: list[Removal] = []
    for night in closing.closed_nights(layout):
        if (closed := closing.read(layout, night)) is None:
            continue
        age = (now - dt.datetime.fromisoformat(closed.closed_utc).timestamp()) / 86400
        done = _read_record(layout, night)["rules"]
        due = [
            rule
            for rule in ("ms_days", "calibrator_ms_days", "maps_days", "raw_days", "logs_days")
            if _is_due(config.retention, rule, age)
            and done.get(rule, "") < closed.closed_utc
            and (raw or rule != "raw_days")
            and (closed.solutions or rule != "calibrator_ms_days")
        ]
        if due:
            found += _night_removals(config, layout, closed, due)
    return [*found, *_run_removals(config, now)]


def _night_removals(
    config: Config, layout: Layout, closed: closing.ClosedNight, due: list[str]
) -> Iterator[Removal]:
    """Yield what may go of a night by the rules that are due."""
    night = closed.night
    calibrators = {solution["group"]["id"] for solution in closed.solutions}
    for group in sorted(closed.groups):
        # What a tile that was never made needs stays, whatever its age.
        if not is_finished(layout, group):
            continue
        ms_rule = "calibrator_ms_days" if group in calibrators else "ms_days"
        paths = {
            ms_rule: [layout.group(group, kind) for kind in ("ms", "hdf5")],
            "maps_days": [layout.group(group, f"{kind}.fits") for kind in AIDS],
            "raw_days": _raw_files(config, layout, group) if "raw_days" in due else [],
        }
        for rule in filter(paths.get, due):
            yield from _removals(paths[rule], night, group, rule)
    if "logs_days" in due:
        folders = (layout.results / "logs", layout.results / "benchmarks")
        logs = sorted(path for folder in folders for path in folder.glob(f"*/{night}"))
        yield from _removals(logs, night, "", "logs_days")


def _run_removals(config: Config, now: float) -> Iterator[Removal]:
    days = config.retention.runs_days
    if days is None:
        return
    oldest = f"{dt.datetime.fromtimestamp(now, dt.UTC) - dt.timedelta(days=days):%Y%m%dT%H%M%S}"
    paths = sorted((config.results / "runs").glob("[0-9]*.json"))
    yield from _removals((path for path in paths if path.name < oldest), "", "", "runs_days")


def is_finished(layout: Layout, group: str) -> bool:
    """Tell whether a group's image and photometry stand, with what is known of them."""
    products = (layout.group(group, kind) for kind in ("image.fits", "photometry.csv"))
    return all(path.is_file() and sidecar_path(path).is_file() for path in products)


def _is_due(policy: RetentionOptions, rule: str, age: float) -> bool:
    days = getattr(policy, rule)
    return days is not None and age > days


def _removals(paths: Iterable[Path], night: str, group: str, rule: str) -> Iterator[Removal]:
    for path in paths:
        if os.path.lexists(path):
            yield Removal(path, _size(path), night, group, rule)


def _raw_files(config: Config, layout: Layout, group: str) -> list[Path]:
    """Return a group's raw files that lie in the incoming folder."""
    try:
        record = read_sidecar(layout.group(group, "hdf5"))
    except DataError:
        return []
    incoming = config.incoming.resolve()
    paths = (Path(path) for path in record["qa"]["group"]["files"].values())
    return [path for path in paths if path.parent.resolve() == incoming]


def purge(config: Config, removals: Iterable[Removal]) -> int:
    """Remove what `plan_purge` found; return the bytes that were freed.

    The record of a night comes first, then all of a group is renamed out of the way, then it is
    deleted: whenever this ends, a product is whole, or known to be gone.
    """
    layout = Layout(config.results)
    freed = 0
    for night, of_night in itertools.groupby(removals, key=lambda removal: removal.night):
        removed = list(of_night)
        if night:
            _record(layout, night, removed)
        for _, of_group in itertools.groupby(removed, key=lambda removal: removal.group):
            aside = [_set_aside(removal.path) for removal in of_group]
            for path in filter(None, aside):
                remove(path)
        if night:
            _record(layout, night, removed, done=True)
        freed += sum(removal.n_bytes for removal in removed)
    return freed


def _set_aside(path: Path) -> Path | None:
    """Rename something that is to be deleted; None if it is gone already."""
    aside = beside(path, "old")
    with suppress(FileNotFoundError):
        os.replace(path, aside)
        return aside
    return None


def _read_record(layout: Layout, night: str) -> dict[str, Any]:
    try:
        return json.loads(layout.night(night, "purged.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"rules": {}, "groups": {}, "others": {}}


def _record(layout: Layout, night: str, removed: list[Removal], done: bool = False) -> None:
    """Add to the record of what was removed of a night.

    ``groups`` has a group's paths, ``others`` what belongs to no group, ``rules`` when all that a
    rule let go was gone.
    """
    record = _read_record(layout, night)
    now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
    for removal in removed:
        if done:
            record["rules"][removal.rule] = now
        else:
            groups = record["groups"]
            place = groups.setdefault(removal.group, {}) if removal.group else record["others"]
            entry = {"bytes": removal.n_bytes, "rule": removal.rule, "utc": now}
            place[str(removal.path)] = entry
    write_text(layout.night(night, "purged.json"), json.dumps(record, indent=1) + "\n")


def daily(config: Config) -> int:
    """Purge, if the policy is automatic and it was not done within a day; return bytes freed.

    Raw files stay: they go by hand only.
    """
    stamp = config.results / ".purged"
    with suppress(FileNotFoundError):
        if 0 <= time.time() - stamp.stat().st_mtime < 86400:
            return 0
    if not config.retention.automatic:
        return 0
    freed = purge(config, plan_purge(config))
    stamp.touch()
    return freed


# --- command line ---------------------------------------------------------------------------------


def _clean_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg clean",
        description="Remove what killed jobs left behind. Lists it; deletes only with --yes.",
    )
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    config_options(parser)
    return parser


def clean(args: argparse.Namespace) -> None:
    """List, or delete, what `stale` finds."""
    left = stale(read_config(args))
    for path in left:
        print(path)
        if args.yes:
            remove(path)
    verb = "removed" if args.yes else "to remove (repeat with --yes)"
    print(f"{len(left)} left-overs {verb}")


def _purge_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg purge",
        description="Remove what the configuration's section 'retention' lets go of closed nights. "
        "Lists it; deletes only with --yes.",
    )
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    parser.add_argument(
        "--raw", action="store_true", help="raw files, too, as old as retention.raw_days says"
    )
    config_options(parser)
    return parser


def purge_command(args: argparse.Namespace) -> None:
    """List, or delete, what the policy lets go."""
    config = read_config(args)
    if args.raw and config.retention.raw_days is None:
        raise ConfigError("retention.raw_days is not set: raw files are kept for ever")
    if not args.yes:
        removals = plan_purge(config, args.raw)
        _list(removals)
        print(f"{_total(removals)} to remove (repeat with --yes)")
        return
    with locking.hold(config.results, "purge"):
        removals = plan_purge(config, args.raw)
        _list(removals)
        purge(config, removals)
    print(f"{_total(removals)} removed")


def _list(removals: list[Removal]) -> None:
    for removal in removals:
        print(f"{removal.n_bytes / _GB:9.3f} GB  {removal.path}  (retention.{removal.rule})")


def _total(removals: list[Removal]) -> str:
    n_bytes = sum(removal.n_bytes for removal in removals)
    return f"{len(removals)} files and folders, {n_bytes / _GB:.3f} GB,"


PARSERS = {"clean": (_clean_parser, clean), "purge": (_purge_parser, purge_command)}
