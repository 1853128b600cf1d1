"""What old nights no longer need.

Retention touches closed nights only, and of these only what the science products do not rest on any
more. What is removed is recorded first, in ``nights/<night>/purged.json``: the plan takes what was
made of a purged group as it is. A product that goes is renamed before it is deleted, so that an
interrupted purge leaves nothing that looks whole.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.figures import GroupFigures
from ..core.files import beside, remove, write_text
from ..core.layout import Layout
from ..core.options import Config, RetentionOptions
from ..core.sidecar import read_sidecar, sidecar_path
from ..core.times import DAY_S, name_of_unix, unix_of_utc, utc_now
from . import closing
from .space import size_of

__all__ = ["Removal", "daily", "is_finished", "plan_purge", "purge"]

#: Maps of a tile that nothing is made from.
AIDS = ("psf", "model", "residual", "pbcor")


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
        age = (now - unix_of_utc(closed.closed_utc)) / DAY_S
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
    oldest = name_of_unix(now - days * DAY_S)
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
            yield Removal(path, size_of(path), night, group, rule)


def _raw_files(config: Config, layout: Layout, group: str) -> list[Path]:
    """Return a group's raw files that lie in the incoming folder."""
    try:
        group_file = read_sidecar(layout.group(group, "hdf5"), GroupFigures)
    except DataError:
        return []
    incoming = config.incoming.resolve()
    paths = (Path(path) for path in group_file.figures.group["files"].values())
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
    now = utc_now()
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
        if 0 <= time.time() - stamp.stat().st_mtime < DAY_S:
            return 0
    if not config.retention.automatic:
        return 0
    freed = purge(config, plan_purge(config))
    stamp.touch()
    return freed
