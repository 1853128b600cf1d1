"""How the pipeline is, as a snapshot.

A snapshot looks at open nights only; closed ones cost one listing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.layout import Layout
from ..core.options import Config
from ..core.sidecar import read_sidecar, sidecar_path
from ..core.times import (
    DAY_S,
    duration,
    group_mjd,
    name_of_unix,
    night_mjd,
    unix_of_mjd,
    unix_of_utc,
    utc_of_unix,
)
from ..telescope.dsa110 import TILE_S
from . import archive, closing, damage, failures, locking, planning, slurm, space
from .alert_state import load
from .planning import Plan
from .verify import damaged_before

__all__ = ["HEARTBEAT", "empty", "render", "snapshot"]

log = logging.getLogger(__name__)


#: State of a group's work by the last of these products that exists.
STAGES = {
    "photometry.csv": "measured",
    "image.fits": "imaged",
    "ms": "converted",
    "hdf5": "grouped",
}


#: States of groups that still have to be worked on.
QUEUED = ("ready", "grouped", "converted", "imaged", "waiting")


STATES = ("collecting", "incomplete", *QUEUED, "measured", "refused", "quarantined")


#: Damaged products that are listed.
MOST_DAMAGED = 10


#: File in the results folder by which a run at work shows how it is.
HEARTBEAT = ".heartbeat"


#: Closed nights, from the last on, of which it is told how long they took to close.
NIGHTS_TOLD = 7


#: Closed nights, from the last on, in which a calibration is looked for.
NIGHTS_BACK = 31


_HOUR_S = 3600.0


# --- snapshot -------------------------------------------------------------------------------------


def snapshot(config: Config, plan: Plan | None = None, now: float | None = None) -> dict[str, Any]:
    """Return the state of the pipeline, as JSON takes it.

    Parameters
    ----------
    config : Config
        The configuration.
    plan : Plan, optional
        The present plan; made if it is not given.
    now : float, optional
        Time to judge by, seconds since 1970.

    Returns
    -------
    dict
        ``schema``, ``time_utc``, ``host``, ``results``; ``groups``: number of groups of open nights
        by state; ``group_list``: these groups; ``queue``: tiles still to be made; ``nights``: open
        ones, number of closed ones, ``overdue``: seconds since an open one could have been closed,
        ``close_s``: seconds from the end of its day until each of the last ones was closed;
        ``last_data``, ``last_calibration``, ``last_tick``, ``last_product``: ``time_utc`` and
        ``age_s`` (and ``group``), or None; ``calibration_age_at_last_data_s``; ``failures``;
        ``archive``: why the last attempt to archive failed, or None;
        ``running``: who else holds the results folder, and what it does;
        ``held_back``: what a job on a cluster that does not end may write to; ``disks``;
        ``tiles_last_hour`` and ``realtime_ratio``; ``jobs_last_hour``; ``kept``: nights whose
        mosaics stay as they are, with the tiles that cannot be had; ``illegible``: records and
        sidecars that say nothing, with ``path`` and ``reason``; ``rejected``: raw files left out;
        ``damaged``: products that ``contimg verify`` found not to be as they were made;
        ``trouble``: why there is no more than this, else None.
    """
    now = time.time() if now is None else now
    layout = Layout(config.results)
    plan = planning.make_plan(config) if plan is None else plan
    groups = _groups(plan, layout)
    closed = closing.closed_nights(layout)
    measured = [g["measured"] for g in groups if g["measured"]]
    measured += _recently_closed(layout, closed, now)
    tiles = sum(0 <= now - moment < _HOUR_S for moment in measured)
    last_data = _last_data(plan, layout, closed)
    last_calibration = _last_calibration(plan, layout, closed)
    last_product = _last_product(plan, layout, closed)
    states = Counter(g["state"] for g in groups)
    listed = ("id", "night", "state", "subbands", "dec_app_deg", "notes")
    return empty(config, now) | {
        "nights": {
            "open": list(plan.nights),
            "closed": len(closed),
            "overdue": _overdue(plan, config, now),
            "close_s": _close_times(layout, closed),
        },
        "groups": {state: states[state] for state in STATES},
        "group_list": [{key: g[key] for key in listed} for g in groups],
        "queue": sum(states[state] for state in QUEUED),
        "last_data": _event(last_data, now),
        "last_calibration": _event(last_calibration, now),
        "calibration_age_at_last_data_s": (
            round(last_data[1] - last_calibration[1]) if last_data and last_calibration else None
        ),
        "last_product": _event(("", last_product) if last_product else None, now),
        "failures": [
            {key: value for key, value in asdict(f).items() if key != "fingerprint"}
            | {"what": f.what}
            for f in (*plan.failures, *_lately_failed(layout, closed, plan, now))
        ],
        "kept": plan.kept,
        "illegible": _illegible(layout, plan.nights),
        "tiles_last_hour": tiles,
        "realtime_ratio": round(tiles * TILE_S / _HOUR_S, 3),
        "jobs_last_hour": _jobs(config.results, now),
        "rejected": list(plan.inventory.rejected),
    }


def empty(config: Config, now: float) -> dict[str, Any]:
    """Return a snapshot without anything that needs a plan."""
    return {
        "schema": 1,
        "time_utc": utc_of_unix(now),
        "host": socket.gethostname(),
        "results": str(config.results.absolute()),
        "trouble": None,
        "archive": archive.trouble(config.results),
        "by_run": False,
        "nights": {"open": [], "closed": 0, "overdue": {}, "close_s": {}},
        "groups": dict.fromkeys(STATES, 0),
        "group_list": [],
        "queue": 0,
        "last_data": None,
        "last_calibration": None,
        "calibration_age_at_last_data_s": None,
        "last_product": None,
        "last_tick": _event(("", tick) if (tick := load(config).get("last_tick")) else None, now),
        "running": _running(config.results),
        "held_back": [list(pair) for pair in slurm.lingering(config.results)],
        "failures": [],
        "kept": {},
        "illegible": [],
        "disks": _disks(config),
        "tiles_last_hour": 0,
        "realtime_ratio": 0.0,
        "jobs_last_hour": {"done": 0, "failed": 0},
        "rejected": [],
        "damaged": sorted(damaged_before(Layout(config.results))),
    }


def _groups(plan: Plan, layout: Layout) -> list[dict[str, Any]]:
    """Return state, remarks and times of each group of the nights that are worked on."""
    known = {g.id: g for g in plan.inventory.groups if g.night in plan.nights} | plan.groups
    failing = {f.what: f for f in plan.failures if f.rule not in failures.APART}
    apart = [f for f in plan.failures if f.rule in failures.APART]
    found = []
    for name, group in sorted(known.items()):
        times = {s: t for kind, s in STAGES.items() if (t := _mtime(layout.group(name, kind)))}
        notes = list(group.reasons)
        if calibrator := plan.calibration.transits.get(name):
            notes.append(f"transit of {calibrator}")
        if refused := plan.calibration.refused.get(name):
            notes.append(refused)
        for failure in (failing.get(name), *(f for f in apart if f.what == name)):
            if failure is not None:
                notes.append(f"{failure.rule}: {failure.message}")
        if name in plan.set_aside:
            state = "quarantined"
        elif name in plan.settled and "measured" in times:
            state = "measured"
        elif name in failing:
            state = "waiting"
        elif group.state == "collecting":
            state = "collecting"
        elif group.state == "failed" and name not in plan.groups:
            state = "incomplete"
        elif refused and "measured" not in times:
            state = "refused"
        else:
            state = next(iter(times), "ready")
        found.append(
            {
                "id": name,
                "night": group.night,
                "state": state,
                "subbands": len(group.files),
                "dec_app_deg": group.dec_app_deg,
                "notes": notes,
                "measured": times.get("measured"),
            }
        )
    return found


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _recently_closed(layout: Layout, closed: Collection[str], now: float) -> list[float]:
    """Return when the tiles were measured of nights that were closed within the last hour."""
    times = []
    for night in sorted(closed)[-NIGHTS_BACK:]:
        moment = _mtime(layout.night(night, "closed.json"))
        if moment is not None and now - moment < _HOUR_S:
            tables = layout.night(night, "groups").glob("*/*.photometry.csv")
            times += [t for path in tables if (t := _mtime(path))]
    return times


def _lately_failed(
    layout: Layout, closed: Collection[str], plan: Plan, now: float
) -> list[failures.Failure]:
    """Return what failed in nights that were closed within a day: till then it is told."""
    lately = [
        night
        for night in sorted(closed)[-NIGHTS_BACK:]
        if night not in plan.nights
        and (moment := _mtime(layout.night(night, "closed.json"))) is not None
        and now - moment < DAY_S
    ]
    return [f for f in failures.read_all(layout, lately) if f.wildcards]


def _illegible(layout: Layout, nights: Collection[str]) -> list[dict[str, str]]:
    """Return the files that say nothing any more, and those that were set aside for it."""
    found = {d.path: d.reason for d in damage.find(layout, nights)}
    aside = {path: "set aside" for path in damage.set_aside(layout, nights) if path not in found}
    return [{"path": str(p), "reason": why} for p, why in sorted((found | aside).items())]


def _last_product(plan: Plan, layout: Layout, closed: Collection[str]) -> float | None:
    """Return when a product was made last: then its folder changed."""
    folders = [layout.lightcurves(), layout.results / "index.sqlite"]
    for night in (*plan.nights, *sorted(closed)[-1:]):
        folders.append(layout.night(night))
    folders += [layout.group(group) for group in plan.groups]
    return max(filter(None, map(_mtime, folders)), default=None)


def _last_data(plan: Plan, layout: Layout, closed: Collection[str]) -> tuple[str, float] | None:
    """Return the last group that there are data of, and when they end."""
    groups = {g.id: g for g in plan.inventory.groups if g.files} | plan.groups
    ends = [(g.id, unix_of_mjd(g.start_mjd) + g.duration_s) for g in groups.values()]
    for night in sorted(closed, reverse=True)[:1]:
        if record := closing.read(layout, night):
            ends += [(name, unix_of_mjd(group_mjd(name)) + TILE_S) for name in record.groups]
    return max(ends, key=lambda end: end[1], default=None)


def _last_calibration(
    plan: Plan, layout: Layout, closed: Collection[str]
) -> tuple[str, float] | None:
    """Return the last group that a good calibration was solved on, and when its data end."""
    solved = []
    for name in plan.calibration.transits:
        table = layout.group(name, "bcal")
        with contextlib.suppress(DataError):
            if sidecar_path(table).is_file() and read_sidecar(table).verdict != "fail":
                solved.append(name)
    for night in sorted(closed, reverse=True)[:NIGHTS_BACK]:
        if solved:
            break
        if record := closing.read(layout, night):
            solved += [s["group"]["id"] for s in record.solutions if s["verdict"] != "fail"]
    return max(((name, unix_of_mjd(group_mjd(name)) + TILE_S) for name in solved), default=None)


def _event(event: tuple[str, float] | None, now: float) -> dict[str, Any] | None:
    if event is None:
        return None
    name, moment = event
    when = {"time_utc": utc_of_unix(moment), "age_s": round(now - moment)}
    return {"group": name} | when if name else when


def _running(results: Path) -> dict[str, Any] | None:
    """Return who else holds the results folder, since when, and when it was last seen alive."""
    who = None if locking.held(results) else locking.holder(results)
    if who is None:
        return None
    found = {key: who[key] for key in ("command", "pid", "host")} | {
        "since_utc": utc_of_unix(who["since"]),
        "seen_utc": utc_of_unix(who["seen"]),
        "phase": None,
        "jobs_done": None,
        "jobs_failed": None,
    }
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        beat = json.loads((results / HEARTBEAT).read_text(encoding="utf-8"))
        if beat["run"]["hold"] == who["hold"]:
            found |= {key: beat[key] for key in ("phase", "jobs_done", "jobs_failed")}
    return found


def _overdue(plan: Plan, config: Config, now: float) -> dict[str, int]:
    """Return how long open nights have been over, with all that could still arrive, s."""
    grace_s = TILE_S + config.operations.close_after_s
    over = {night: now - _end(night) - grace_s for night in plan.nights}
    return {night: round(s) for night, s in over.items() if s > 0}


def _close_times(layout: Layout, closed: Collection[str]) -> dict[str, int]:
    """Return how long after the end of its day each of the last nights was closed, s."""
    found = {}
    for night in sorted(closed)[-NIGHTS_TOLD:]:
        if (moment := _mtime(layout.night(night, "closed.json"))) is not None:
            found[night] = round(moment - _end(night))
    return found


def _end(night: str) -> float:
    return unix_of_mjd(night_mjd(night) + 1)


def _disks(config: Config) -> list[dict[str, Any]]:
    """Return free and total space of the disks of results and raw files."""
    found: dict[int, dict[str, Any]] = {}
    for path in (config.results, config.incoming):
        existing, free, total = space.free_space(path)
        found.setdefault(
            existing.stat().st_dev,
            {"path": str(existing), "free_bytes": free, "total_bytes": total},
        )
    return list(found.values())


def _jobs(results: Path, now: float) -> dict[str, int]:
    """Return how many jobs succeeded and failed in runs that ended within the last hour."""
    jobs = {"done": 0, "failed": 0}
    try:
        names = sorted((e.name for e in os.scandir(results / "runs")), reverse=True)
    except FileNotFoundError:
        return jobs
    oldest = name_of_unix(now - DAY_S)
    for name in names:
        if not name[:1].isdigit():
            continue
        if name < oldest:
            break
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((results / "runs" / name).read_text(encoding="utf-8"))
            if record["ended_utc"] and 0 <= now - unix_of_utc(record["ended_utc"]) < _HOUR_S:
                jobs["done"] += record["jobs_done"] or 0
                jobs["failed"] += record["jobs_failed"] or 0
    return jobs


def _at_work(state: Mapping[str, Any]) -> str:
    if (running := state["running"]) is None:
        return "at work: nothing"
    seen_s = unix_of_utc(state["time_utc"]) - unix_of_utc(running["seen_utc"])
    line = (
        f"at work: {running['command']} (process {running['pid']} on {running['host']}) since "
        f"{running['since_utc']}, seen {duration(max(0.0, seen_s))} ago"
    )
    if running["phase"]:
        jobs = f"{running['jobs_done']} jobs done, {running['jobs_failed']} failed"
        line += f": {running['phase']}; {jobs}"
    return line


def render(state: Mapping[str, Any]) -> list[str]:
    """Return a snapshot as lines for people."""

    def when(name: str, what: str) -> str:
        event = state[name]
        if event is None:
            return f"{what}: none"
        group = f" ({event['group']})" if "group" in event else ""
        return f"{what}: {duration(event['age_s'])} ago{group}"

    nights = state["nights"]
    counts = ", ".join(f"{n} {name}" for name, n in state["groups"].items() if n) or "no groups"
    lines = [
        f"{len(nights['open'])} open nights ({counts}), {nights['closed']} closed",
        f"to be made: {state['queue']} tiles; in the last hour {state['tiles_last_hour']} made, "
        f"{state['realtime_ratio']:.2f} of real time",
        "; ".join(
            [
                when("last_data", "last data"),
                when("last_calibration", "last calibration"),
                when("last_tick", "last tick"),
            ]
        ),
        _at_work(state),
    ]
    for disk in state["disks"]:
        free, total = disk["free_bytes"], disk["total_bytes"]
        share = free / total if total else 0.0
        lines.append(f"disk of {disk['path']}: {free / 1e9:.1f} GB free ({share:.0%})")
    for path in state["damaged"][:MOST_DAMAGED]:
        lines.append(f"damaged: {path}; 'contimg verify {path}' says how and what remakes it")
    lines += [f"held back: {name or 'all nights'}: {why}" for name, why in state["held_back"]]
    for failure in state["failures"]:
        lines.append(
            f"{failure['state']}: {failure['rule']} {failure['what']}: {failure['message']} "
            f"({failure['cause']}, {failure['attempts']} attempts; log: {failure['log'] or 'none'})"
        )
    for night, tiles in state.get("kept", {}).items():
        lines.append(f"kept: {night}: its mosaic holds {', '.join(tiles)}, which cannot be had now")
    for file in state["illegible"]:
        lines.append(f"damaged: {file['path']}: {file['reason']}; the next tick makes it again")
    return lines
