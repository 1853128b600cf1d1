"""Which troubles a snapshot shows, and whom they are told: pure functions.

Alerts are told once when they begin, once when they end, and again after a day if they last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..core.options import AlertsOptions
from ..core.times import duration, unix_of_utc
from .failures import WORKFLOW

__all__ = ["SEVERITIES", "Alert", "Telling", "advance", "evaluate", "telling"]

_HOUR_S = 3600.0


#: Severities, the least first.
SEVERITIES = ("info", "warning", "critical")


#: A clock that differs by more is told, s.
CLOCK_S = 60.0


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
    if why := state.get("archive"):
        found["archive"] = Alert("warning", f"nothing is archived: {why}", 900)
    now = unix_of_utc(state["time_utc"])
    data_age = state["last_data"]["age_s"] if state["last_data"] else None
    if options.silence_min and data_age is not None and data_age > options.silence_min * 60:
        found["silence"] = Alert("warning", f"no new data for {duration(data_age)}")
    age = state["calibration_age_at_last_data_s"]
    if options.stale_calibration_h and age is not None and age > options.stale_calibration_h * 3600:
        group = state["last_calibration"]["group"]
        message = f"the last good calibration ({group}) is {duration(age)} older than the last data"
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
        began = now - unix_of_utc(running["since_utc"])
        product = state["last_product"]
        idle = min(began, product["age_s"]) if product else began
        silent = now - unix_of_utc(running["seen_utc"])
        who = f"'{running['command']}' (process {running['pid']} on {running['host']})"
        if silent > options.stuck_min * 60:
            found["stuck"] = Alert("critical", f"{who} has been silent for {duration(silent)}")
        elif idle > options.stuck_min * 60:
            message = f"{who} is at work and has finished no product for {duration(idle)}"
            found["stuck"] = Alert("critical", message)
    if options.absent_min and not state["by_run"] and not state["running"]:
        last = state["last_tick"]
        if last is None or last["age_s"] > options.absent_min * 60:
            message = f"no tick for {duration(last['age_s'])}" if last else "there was no tick yet"
            found["absent"] = Alert("critical", f"{message}: see the timer, or the crontab")
    if options.late_h:
        for night, late_s in state["nights"]["overdue"].items():
            message = f"{night} could have been closed {duration(late_s)} ago"
            found[f"late {night}"] = Alert("warning", message, options.late_h * _HOUR_S)
    if options.slow and state["queue"] > 0 and state["realtime_ratio"] < options.slow:
        message = (
            f"{state['queue']} tiles wait, and {state['realtime_ratio']:.2f} hours of data were "
            f"done in the last hour"
        )
        found["slow"] = Alert("info", message, _HOUR_S)
    for name, why in state["held_back"]:
        message = f"{name or 'what is made of all nights'} is held back: {why}"
        found[f"held back {name or 'all'}"] = Alert("warning", message)
    if illegible := state["illegible"]:
        message = (
            f"{len(illegible)} records or sidecars were damaged ({illegible[0]['path']}); a power "
            f"cut, or the disk?"
        )
        found["illegible"] = Alert("warning", message)
    for failure in state["failures"]:
        if failure["rule"] == WORKFLOW:
            message = f"Snakemake itself fails: {failure['message']} (log: {failure['log']})"
            scope = failure["wildcards"].get("night", "of all nights")
            found[f"workflow {scope}"] = Alert("critical", message)
        if failure["state"] == "quarantined":
            message = f"{failure['rule']} {failure['what']} was set aside: {failure['message']}"
            if failure.get("attempts", 1):
                message += f"; 'contimg retry {failure['what']}' tries again"
            found[f"set aside {failure['rule']} {failure['what']}"] = Alert("warning", message)
    if damaged := state["damaged"]:
        message = (
            f"{len(damaged)} products are not as they were made ({damaged[0]}): 'contimg verify' "
            "says which, and what makes them again"
        )
        found["damaged"] = Alert("critical", message)
    ahead = [r["path"] for r in state["rejected"] if "ahead of the clock" in r["reason"]]
    if data_age is not None and data_age < -CLOCK_S:
        message = f"the last data end {duration(-data_age)} from now: set the clocks"
        found["clock"] = Alert("warning", message)
    elif ahead:
        message = f"{len(ahead)} raw files are dated in the future ({ahead[0]}): set the clocks"
        found["clock"] = Alert("warning", message)
    elif state["last_tick"] and state["last_tick"]["age_s"] < -CLOCK_S:
        message = f"the clock went back by {duration(-state['last_tick']['age_s'])}"
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
