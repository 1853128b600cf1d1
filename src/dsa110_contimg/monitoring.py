"""How the pipeline is: a snapshot, metrics for Prometheus, and alerts by webhook and mail.

A snapshot looks at open nights only; closed ones cost one listing. Alerts are told once when they
begin, once when they end, and again after a day if they last; what was told is kept in
``results/.alerts.json``. Nothing here stops the work: what cannot be delivered is logged, and tried
again by the next tick.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import fcntl
import http.client
import json
import logging
import os
import smtplib
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from . import closing, housekeeping, locking, planning
from .config import AlertsOptions, Config
from .errors import DataError, cause_of, message_of
from .launcher import config_options, read_config
from .planning import Plan
from .products import Layout, group_mjd, read_sidecar, sidecar_path, write_text
from .telescope import TILE_S

__all__ = ["Alert", "advance", "evaluate", "metrics", "publish", "render", "snapshot", "telling"]

log = logging.getLogger(__name__)

#: Severities, the least first.
SEVERITIES = ("info", "warning", "critical")
#: Time limit of one delivery, s.
DELIVERY_S = 10.0
#: Environment variable with the password of ``alerts.mail_user``.
PASSWORD = "CONTIMG_MAIL_PASSWORD"
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
#: A clock that differs by more is told, s.
CLOCK_S = 60.0
#: Closed nights, from the last on, in which a calibration is looked for.
NIGHTS_BACK = 31
_HOUR_S = 3600.0
_UNIX_EPOCH_MJD = 40587.0


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
        ones, number of closed ones;
        ``last_data``, ``last_calibration``, ``last_tick``, ``last_product``: ``time_utc`` and
        ``age_s`` (and ``group``), or None; ``calibration_age_at_last_data_s``; ``failures``;
        ``running``: who else holds the results folder; ``disks``; ``tiles_last_hour`` and
        ``realtime_ratio``; ``jobs_last_hour``; ``rejected``: raw files left out; ``trouble``: why
        there is no more than this, else None.
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
    return _empty(config, now) | {
        "nights": {"open": list(plan.nights), "closed": len(closed)},
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
            for f in plan.failures
        ],
        "tiles_last_hour": tiles,
        "realtime_ratio": round(tiles * TILE_S / _HOUR_S, 3),
        "jobs_last_hour": _jobs(config.results, now),
        "rejected": list(plan.inventory.rejected),
    }


def _empty(config: Config, now: float) -> dict[str, Any]:
    """Return a snapshot without anything that needs a plan."""
    return {
        "schema": 1,
        "time_utc": _utc(now),
        "host": socket.gethostname(),
        "results": str(config.results.absolute()),
        "trouble": None,
        "nights": {"open": [], "closed": 0},
        "groups": dict.fromkeys(STATES, 0),
        "group_list": [],
        "queue": 0,
        "last_data": None,
        "last_calibration": None,
        "calibration_age_at_last_data_s": None,
        "last_product": None,
        "last_tick": _event(("", tick) if (tick := _load(config).get("last_tick")) else None, now),
        "running": _running(config.results),
        "failures": [],
        "disks": _disks(config),
        "tiles_last_hour": 0,
        "realtime_ratio": 0.0,
        "jobs_last_hour": {"done": 0, "failed": 0},
        "rejected": [],
    }


def _groups(plan: Plan, layout: Layout) -> list[dict[str, Any]]:
    """Return state, remarks and times of each group of the nights that are worked on."""
    known = {g.id: g for g in plan.inventory.groups if g.night in plan.nights} | plan.groups
    failing = {f.what: f for f in plan.failures if f.rule != "calibrate"}
    unsolved = {f.what: f for f in plan.failures if f.rule == "calibrate"}
    found = []
    for name, group in sorted(known.items()):
        times = {s: t for kind, s in STAGES.items() if (t := _mtime(layout.group(name, kind)))}
        notes = list(group.reasons)
        if calibrator := plan.calibration.transits.get(name):
            notes.append(f"transit of {calibrator}")
        if refused := plan.calibration.refused.get(name):
            notes.append(refused)
        for failure in (failing.get(name), unsolved.get(name)):
            if failure is not None:
                notes.append(f"{failure.rule}: {failure.message}")
        if name in plan.set_aside:
            state = "quarantined"
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


def _last_product(plan: Plan, layout: Layout, closed: Collection[str]) -> float | None:
    """Return when a product was made last: then its folder changed."""
    folders = [layout.lightcurves(), layout.results / "index.sqlite"]
    for night in (*plan.nights, *sorted(closed)[-1:]):
        folders.append(layout.night(night))
    folders += [layout.group(group) for group in plan.groups]
    return max(filter(None, map(_mtime, folders)), default=None)


def _unix(mjd: float) -> float:
    return (mjd - _UNIX_EPOCH_MJD) * 86400


def _last_data(plan: Plan, layout: Layout, closed: Collection[str]) -> tuple[str, float] | None:
    """Return the last group that there are data of, and when they end."""
    groups = {g.id: g for g in plan.inventory.groups if g.files} | plan.groups
    ends = [(g.id, _unix(g.start_mjd) + g.duration_s) for g in groups.values()]
    for night in sorted(closed, reverse=True)[:1]:
        if record := closing.read(layout, night):
            ends += [(name, _unix(group_mjd(name)) + TILE_S) for name in record.groups]
    return max(ends, key=lambda end: end[1], default=None)


def _last_calibration(
    plan: Plan, layout: Layout, closed: Collection[str]
) -> tuple[str, float] | None:
    """Return the last group that a good calibration was solved on, and when its data end."""
    solved = []
    for name in plan.calibration.transits:
        table = layout.group(name, "bcal")
        with contextlib.suppress(DataError):
            if sidecar_path(table).is_file() and read_sidecar(table)["verdict"] != "fail":
                solved.append(name)
    for night in sorted(closed, reverse=True)[:NIGHTS_BACK]:
        if solved:
            break
        if record := closing.read(layout, night):
            solved += [s["group"]["id"] for s in record.solutions if s["verdict"] != "fail"]
    return max(((name, _unix(group_mjd(name)) + TILE_S) for name in solved), default=None)


def _event(event: tuple[str, float] | None, now: float) -> dict[str, Any] | None:
    if event is None:
        return None
    name, moment = event
    told = {"time_utc": _utc(moment), "age_s": round(now - moment)}
    return {"group": name} | told if name else told


def _utc(moment: float) -> str:
    return f"{dt.datetime.fromtimestamp(moment, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _seconds(utc: str) -> float:
    return dt.datetime.fromisoformat(utc).timestamp()


def _running(results: Path) -> dict[str, Any] | None:
    """Return who else holds the results folder: ``command``, ``pid``, ``host``, ``since_utc``."""
    who = None if locking.held(results) else locking.holder(results)
    if who is None:
        return None
    return {key: who[key] for key in ("command", "pid", "host")} | {"since_utc": _utc(who["since"])}


def _disks(config: Config) -> list[dict[str, Any]]:
    """Return free and total space of the disks of results and raw files."""
    found: dict[int, dict[str, Any]] = {}
    for path in (config.results, config.incoming):
        existing, free, total = housekeeping.free_space(path)
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
    oldest = f"{dt.datetime.fromtimestamp(now - 86400, dt.UTC):%Y%m%dT%H%M%S}"
    for name in names:
        if not name[:1].isdigit():
            continue
        if name < oldest:
            break
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads((results / "runs" / name).read_text(encoding="utf-8"))
            if record["ended_utc"] and 0 <= now - _seconds(record["ended_utc"]) < _HOUR_S:
                jobs["done"] += record["jobs_done"] or 0
                jobs["failed"] += record["jobs_failed"] or 0
    return jobs


def render(state: Mapping[str, Any]) -> list[str]:
    """Return a snapshot as lines for people."""

    def when(name: str, what: str) -> str:
        event = state[name]
        if event is None:
            return f"{what}: none"
        group = f" ({event['group']})" if "group" in event else ""
        return f"{what}: {_span(event['age_s'])} ago{group}"

    nights = state["nights"]
    counts = ", ".join(f"{n} {name}" for name, n in state["groups"].items() if n) or "no groups"
    running = state["running"]
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
        f"at work: {running['command']} since {running['since_utc']}"
        if running
        else "at work: nothing",
    ]
    for disk in state["disks"]:
        free, total = disk["free_bytes"], disk["total_bytes"]
        share = free / total if total else 0.0
        lines.append(f"disk of {disk['path']}: {free / 1e9:.1f} GB free ({share:.0%})")
    for failure in state["failures"]:
        lines.append(
            f"{failure['state']}: {failure['rule']} {failure['what']}: {failure['message']} "
            f"({failure['cause']}, {failure['attempts']} attempts; log: {failure['log']})"
        )
    return lines


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# --- metrics --------------------------------------------------------------------------------------


def metrics(state: Mapping[str, Any], alerts: Mapping[str, Alert]) -> str:
    """Return a snapshot in Prometheus' text format."""
    lines: list[str] = []

    def gauge(name: str, text: str, samples: Iterable[tuple[dict[str, str], float | None]]) -> None:
        lines.append(f"# HELP contimg_{name} {text}")
        lines.append(f"# TYPE contimg_{name} gauge")
        for labels, value in samples:
            if value is None:
                continue
            inner = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
            lines.append(f"contimg_{name}{f'{{{inner}}}' if inner else ''} {value}")

    def moment(name: str) -> list[tuple[dict[str, str], float | None]]:
        return [({}, _seconds(state[name]["time_utc"]) if state[name] else None)]

    groups = state["groups"].items()
    failures = Counter((f["state"], f["cause"]) for f in state["failures"])
    jobs = state["jobs_last_hour"].items()
    gauge("groups", "Groups of open nights by state.", [({"state": s}, n) for s, n in groups])
    gauge("queue_tiles", "Tiles still to be made.", [({}, state["queue"])])
    gauge("nights_open", "Nights that are worked on.", [({}, len(state["nights"]["open"]))])
    gauge("nights_closed", "Nights that are done.", [({}, state["nights"]["closed"])])
    gauge("last_data_timestamp_seconds", "End of the last data.", moment("last_data"))
    gauge(
        "last_calibration_timestamp_seconds",
        "End of the data of the last good calibration.",
        moment("last_calibration"),
    )
    gauge("last_product_timestamp_seconds", "When a product was made.", moment("last_product"))
    gauge(
        "snapshot_timestamp_seconds",
        "When these metrics were taken.",
        [({}, _seconds(state["time_utc"]))],
    )
    gauge(
        "failures",
        "Jobs that failed and have not succeeded since.",
        [({"state": s, "cause": c}, n) for (s, c), n in sorted(failures.items())],
    )
    for size in ("free", "total"):
        sizes = [({"path": disk["path"]}, disk[f"{size}_bytes"]) for disk in state["disks"]]
        gauge(f"disk_{size}_bytes", f"Bytes of the disk: {size}.", sizes)
    gauge("tiles_last_hour", "Tiles made within an hour.", [({}, state["tiles_last_hour"])])
    gauge("realtime_ratio", "Data done in an hour, in hours.", [({}, state["realtime_ratio"])])
    gauge(
        "jobs_last_hour",
        "Jobs of runs that ended within an hour.",
        [({"end": end}, n) for end, n in jobs],
    )
    gauge("rejected_files", "Raw files left out.", [({}, len(state["rejected"]))])
    gauge("running", "Whether a run is at work.", [({}, int(state["running"] is not None))])
    gauge(
        "alert",
        "Troubles that there are, as severity: 1 info, 2 warning, 3 critical.",
        [
            ({"name": name}, SEVERITIES.index(alert.severity) + 1)
            for name, alert in sorted(alerts.items())
        ],
    )
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


# --- alerts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alert:
    """A trouble that people should know of.

    Attributes
    ----------
    severity : {"info", "warning", "critical"}
        How urgent it is.
    message : str
        One line.
    hold_s : float
        How long it must have lasted before it is told, s.
    """

    severity: str
    message: str
    hold_s: float = 0.0


def evaluate(state: Mapping[str, Any], options: AlertsOptions) -> dict[str, Alert]:
    """Return the troubles that a snapshot shows, by name. A pure function."""
    found: dict[str, Alert] = {}
    if state["trouble"]:
        found["trouble"] = Alert("critical", f"nothing can be done: {state['trouble']}", 300)
    now = _seconds(state["time_utc"])
    data_age = state["last_data"]["age_s"] if state["last_data"] else None
    if options.silence_min and data_age is not None and data_age > options.silence_min * 60:
        found["silence"] = Alert("warning", f"no new data for {_span(data_age)}")
    age = state["calibration_age_at_last_data_s"]
    if options.stale_calibration_h and age is not None and age > options.stale_calibration_h * 3600:
        group = state["last_calibration"]["group"]
        message = f"the last good calibration ({group}) is {_span(age)} older than the last data"
        found["calibration"] = Alert("warning", message, 1800)
    if options.backlog and state["queue"] > options.backlog:
        found["backlog"] = Alert("warning", f"{state['queue']} tiles wait to be made", 900)
    done, failed = (state["jobs_last_hour"][end] for end in ("done", "failed"))
    if options.failure_rate and failed > 1 and failed / (done + failed) > options.failure_rate:
        message = f"{failed} of the {done + failed} jobs of the last hour failed"
        found["failures"] = Alert("warning", message, 600)
    for disk in state["disks"]:
        share = disk["free_bytes"] / disk["total_bytes"] if disk["total_bytes"] else 0.0
        if options.disk_free and share < options.disk_free:
            message = f"{disk['path']}: {disk['free_bytes'] / 1e9:.1f} GB free ({share:.0%})"
            found[f"disk {disk['path']}"] = Alert("critical", message, 300)
    if options.stuck_min and (running := state["running"]):
        began = now - _seconds(running["since_utc"])
        product = state["last_product"]
        idle = min(began, product["age_s"]) if product else began
        if idle > options.stuck_min * 60:
            command = running["command"]
            message = f"'{command}' is at work and has finished no product for {_span(idle)}"
            found["stuck"] = Alert("critical", message)
    if options.slow and state["queue"] > 0 and state["realtime_ratio"] < options.slow:
        message = (
            f"{state['queue']} tiles wait, and {state['realtime_ratio']:.2f} hours of data were "
            f"done in the last hour"
        )
        found["slow"] = Alert("info", message, _HOUR_S)
    for failure in state["failures"]:
        if failure["state"] == "quarantined":
            message = (
                f"{failure['rule']} {failure['what']} was set aside: {failure['message']}; "
                f"'contimg retry {failure['what']}' tries again"
            )
            found[f"set aside {failure['rule']} {failure['what']}"] = Alert("warning", message)
    ahead = [r["path"] for r in state["rejected"] if "ahead of the clock" in r["reason"]]
    if data_age is not None and data_age < -CLOCK_S:
        message = f"the last data end {_span(-data_age)} from now: set the clocks"
        found["clock"] = Alert("warning", message)
    elif ahead:
        message = f"{len(ahead)} raw files are dated in the future ({ahead[0]}): set the clocks"
        found["clock"] = Alert("warning", message)
    elif state["last_tick"] and state["last_tick"]["age_s"] < -CLOCK_S:
        message = f"the clock went back by {_span(-state['last_tick']['age_s'])}"
        found["clock"] = Alert("warning", message)
    return found


@dataclass(frozen=True)
class Telling:
    """What one channel is told: troubles that begin or last, and those that ended."""

    firing: dict[str, dict[str, Any]]
    ended: dict[str, dict[str, Any]]

    def __bool__(self) -> bool:
        return bool(self.firing or self.ended)


def advance(
    known: Mapping[str, Mapping[str, Any]], alerts: Mapping[str, Alert], now: float
) -> dict[str, dict[str, Any]]:
    """Return the state of all troubles, given the former one and those there are now.

    An entry has ``severity``, ``message``, ``since``, ``hold_s``, ``ended`` (None while it lasts)
    and ``told``: when each channel was told. One that ended stays until those who were told of it
    are told of its end.
    """
    after: dict[str, dict[str, Any]] = {}
    for name, alert in alerts.items():
        before = known.get(name, {})
        lasted = before and before["ended"] is None
        after[name] = asdict(alert) | {
            # A clock that went back must not put an alert off.
            "since": min(before["since"], now) if lasted else now,
            "ended": None,
            "told": dict(before.get("told", {})),
        }
    for name, before in known.items():
        if name not in alerts and before["told"]:
            after[name] = dict(before) | {"ended": before["ended"] or now}
    return after


def telling(
    entries: Mapping[str, Mapping[str, Any]], channel: str, options: AlertsOptions, now: float
) -> Telling:
    """Return what a channel is to be told now."""
    least = SEVERITIES.index(options.min_severity)
    told = Telling({}, {})
    for name, entry in entries.items():
        last = entry["told"].get(channel)
        if entry["ended"] is not None:
            if last is not None:
                told.ended[name] = dict(entry)
            continue
        is_due = now - entry["since"] >= entry["hold_s"]
        if last is not None:
            is_due = not 0 <= now - last < options.repeat_h * _HOUR_S
        if is_due and SEVERITIES.index(entry["severity"]) >= least:
            told.firing[name] = dict(entry)
    return told


def publish(
    config: Config,
    state: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    trouble: str | None = None,
) -> None:
    """Write metrics and tell alerts; never raises for what goes wrong there.

    Of several processes that publish at once one does it.

    Parameters
    ----------
    config : Config
        The configuration.
    state : mapping, optional
        A snapshot; taken now, if it is not given.
    plan : Plan, optional
        The present plan, for the snapshot; made if it is not given.
    trouble : str, optional
        What kept a tick from working.
    """
    try:
        with _alone(config.results) as alone:
            if alone:
                state = _look(config, plan) if state is None else dict(state)
                state["trouble"] = state["trouble"] or trouble
                _publish(config, state)
    except Exception:  # the work must go on, whatever happens to those who watch it
        log.exception("metrics and alerts were not published")


def _look(config: Config, plan: Plan | None) -> dict[str, Any]:
    """Take a snapshot; an empty one that tells the trouble, if none can be taken."""
    try:
        return snapshot(config, plan)
    except Exception as error:
        log.warning("no snapshot: %s", message_of(error), exc_info=cause_of(error) == "bug")
        return _empty(config, time.time()) | {"trouble": message_of(error)}


@contextlib.contextmanager
def _alone(results: Path) -> Iterator[bool]:
    try:
        file = open(results / ".alerts.lock", "w")  # noqa: SIM115
    except OSError:  # a full disk is just what must be told
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _publish(config: Config, state: Mapping[str, Any]) -> None:
    options, now = config.alerts, _seconds(state["time_utc"])
    alerts = evaluate(state, options)
    try:
        write_text(options.metrics or config.results / "metrics.prom", metrics(state, alerts))
    except OSError as error:
        log.warning("metrics were not written: %s", error)
    entries = advance(_load(config).get("alerts", {}), alerts, now)
    channels = {}
    if options.webhook:
        channels["webhook"] = _post
    if options.mail_to:
        channels["mail"] = _mail
    for channel, send in channels.items():
        if not (told := telling(entries, channel, options, now)):
            continue
        try:
            send(options, state, told)
        except (OSError, ValueError, smtplib.SMTPException, http.client.HTTPException) as error:
            log.warning("alerts were not told by %s: %s", channel, error)
            continue
        for name in told.firing:
            entries[name]["told"][channel] = now
        for name in told.ended:
            del entries[name]["told"][channel]
    for entry in entries.values():  # what is not configured any more needs no telling
        entry["told"] = {c: t for c, t in entry["told"].items() if c in channels}
    kept = {n: e for n, e in entries.items() if e["ended"] is None or e["told"]}
    _save(config, {"version": 1, "last_tick": now, "alerts": kept})


def _state_paths(config: Config) -> tuple[Path, Path]:
    """Return where the state of the alerts is, and where it goes when the results are not writable.

    Without a second place a full disk would be told by every tick.
    """
    name = str(config.results.absolute()).strip("/").replace("/", "_")
    spare = Path(tempfile.gettempdir()) / f"contimg-alerts-{os.getuid()}-{name}.json"
    return config.results / ".alerts.json", spare


def _load(config: Config) -> dict[str, Any]:
    found = []
    for path in _state_paths(config):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if path.stat().st_uid == os.getuid():
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["version"] == 1:
                    found.append((path.stat().st_mtime, content))
    return max(found, key=lambda item: item[0], default=(0.0, {}))[1]


def _save(config: Config, content: Mapping[str, Any]) -> None:
    path, spare = _state_paths(config)
    text = json.dumps(content, indent=1) + "\n"
    try:
        write_text(path, text)
        spare.unlink(missing_ok=True)
    except OSError:
        write_text(spare, text)


def _lines(told: Telling) -> list[str]:
    firing = sorted(told.firing.values(), key=lambda e: -SEVERITIES.index(e["severity"]))
    return [
        *(f"[{e['severity']}] {e['message']} (since {_utc(e['since'])})" for e in firing),
        *(f"[over] {e['message']} (until {_utc(e['ended'])})" for e in told.ended.values()),
    ]


def _title(state: Mapping[str, Any]) -> str:
    return f"contimg on {state['host']}, {state['results']}"


def _post(options: AlertsOptions, state: Mapping[str, Any], told: Telling) -> None:
    """Post to the webhook; raise OSError or ValueError if it is not taken."""
    if not options.webhook.startswith(("http://", "https://")):
        raise ValueError(f"alerts.webhook: {options.webhook!r} is no http or https address")
    entries = [
        {
            "name": name,
            "status": status,
            "severity": entry["severity"],
            "message": entry["message"],
            "since_utc": _utc(entry["since"]),
        }
        for status, group in (("firing", told.firing), ("ended", told.ended))
        for name, entry in group.items()
    ]
    content = {"text": "\n".join([f"{_title(state)}:", *_lines(told)]), "alerts": entries}
    request = urllib.request.Request(
        options.webhook,
        json.dumps(content).encode(),
        {"Content-Type": "application/json", "User-Agent": "contimg"},
    )
    with urllib.request.urlopen(request, timeout=DELIVERY_S) as answer:
        answer.read()


def _mail(options: AlertsOptions, state: Mapping[str, Any], told: Telling) -> None:
    """Send mail; raise OSError or SMTPException if it is not taken."""
    lines = _lines(told)
    message = EmailMessage()
    message["From"] = options.mail_from
    message["To"] = ", ".join(options.mail_to)
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    message["Subject"] = f"contimg: {lines[0][:120]}{more}"
    message.set_content("\n".join([_title(state), "", *lines, "", *render(state)]) + "\n")
    host, _, port = options.mail_host.partition(":")
    with smtplib.SMTP(host, int(port or 0), timeout=DELIVERY_S) as server:
        server.ehlo()
        if server.has_extn("starttls"):
            server.starttls()
        if options.mail_user:
            server.login(options.mail_user, os.environ.get(PASSWORD, ""))
        server.send_message(message)


# --- command line ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg status",
        description="Say how things are: what there is to do and what was done, the age of the "
        "last data and of the last calibration, failures, disk; then each group of open nights.",
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    config_options(parser)
    return parser


def status(args: argparse.Namespace) -> None:
    """Print a snapshot."""
    state = snapshot(read_config(args))
    if args.json:
        print(json.dumps(state, indent=1))
        return
    print("\n".join(render(state)))
    for group in state["group_list"]:
        dec = "" if group["dec_app_deg"] is None else f"{group['dec_app_deg']:+.2f}"
        print(
            f"{group['night']}  {group['id']}  {group['state']:<11} "
            f"{group['subbands']:2} subbands  dec {dec:>6}  {'; '.join(group['notes'])}".rstrip()
        )
    for file in state["rejected"]:
        print(f"left out: {file['path']}: {file['reason']}")


PARSERS = {"status": (_parser, status)}
