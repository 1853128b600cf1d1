"""A snapshot as metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..core.times import unix_of_utc
from .alerts import SEVERITIES, Alert

__all__ = ["metrics"]

#: Values of a metric, each with its labels; None is left out.
Samples = Iterable[tuple[dict[str, str], float | None]]


def metrics(state: Mapping[str, Any], alerts: Mapping[str, Alert]) -> str:
    """Return a snapshot in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    for name, text, samples in _gauges(state, alerts):
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            gauge = Gauge(f"contimg_{name}", text, list(known[0][0]), registry=registry)
            for labels, value in known:
                (gauge.labels(**labels) if labels else gauge).set(value)
    return generate_latest(registry).decode()


def _last_run(state: Mapping[str, Any]) -> float | None:
    if state["by_run"]:
        return unix_of_utc(state["time_utc"])
    seen = [unix_of_utc(state["last_tick"]["time_utc"])] if state["last_tick"] else []
    seen += [unix_of_utc(state["running"]["seen_utc"])] if state["running"] else []
    return max(seen, default=None)


def _gauges(
    state: Mapping[str, Any], alerts: Mapping[str, Alert]
) -> Iterator[tuple[str, str, Samples]]:
    """Yield name, meaning and values of each metric."""

    def moment(name: str) -> Samples:
        return [({}, unix_of_utc(state[name]["time_utc"]) if state[name] else None)]

    groups = state["groups"].items()
    failures = Counter((f["state"], f["cause"]) for f in state["failures"])
    jobs = state["jobs_last_hour"].items()
    yield "groups", "Groups of open nights by state.", [({"state": s}, n) for s, n in groups]
    yield "queue_tiles", "Tiles still to be made.", [({}, state["queue"])]
    yield "nights_open", "Nights that are worked on.", [({}, len(state["nights"]["open"]))]
    yield "nights_closed", "Nights that are done.", [({}, state["nights"]["closed"])]
    yield (
        "night_overdue_seconds",
        "Time since an open night could have been closed.",
        [({"night": night}, s) for night, s in state["nights"]["overdue"].items()],
    )
    yield (
        "night_close_seconds",
        "Time from the end of a night's day until it was closed.",
        [({"night": night}, s) for night, s in state["nights"]["close_s"].items()],
    )
    yield "last_data_timestamp_seconds", "End of the last data.", moment("last_data")
    yield (
        "last_calibration_timestamp_seconds",
        "End of the data of the last good calibration.",
        moment("last_calibration"),
    )
    yield "last_product_timestamp_seconds", "When a product was made.", moment("last_product")
    yield (
        "last_run_timestamp_seconds",
        "When a tick or run was last seen alive.",
        [({}, _last_run(state))],
    )
    yield (
        "snapshot_timestamp_seconds",
        "When these metrics were taken.",
        [({}, unix_of_utc(state["time_utc"]))],
    )
    yield (
        "failures",
        "Jobs that failed and have not succeeded since.",
        [({"state": s, "cause": c}, n) for (s, c), n in sorted(failures.items())],
    )
    for size in ("free", "total"):
        sizes = [({"path": disk["path"]}, disk[f"{size}_bytes"]) for disk in state["disks"]]
        yield f"disk_{size}_bytes", f"Bytes of the disk: {size}.", sizes
    yield "tiles_last_hour", "Tiles made within an hour.", [({}, state["tiles_last_hour"])]
    yield "realtime_ratio", "Data done in an hour, in hours.", [({}, state["realtime_ratio"])]
    yield (
        "jobs_last_hour",
        "Jobs of runs that ended within an hour.",
        [({"end": end}, n) for end, n in jobs],
    )
    yield "rejected_files", "Raw files left out.", [({}, len(state["rejected"]))]
    running = state["running"]
    yield "running", "Whether a run is at work.", [({}, int(running is not None))]
    if running:
        began = unix_of_utc(running["since_utc"])
        yield "run_start_timestamp_seconds", "When the run at work began.", [({}, began)]
        ends = [({"end": end}, running[f"jobs_{end}"]) for end in ("done", "failed")]
        yield "run_jobs", "Jobs of the run at work that have ended.", ends
    yield (
        "alert",
        "Troubles that there are, as severity: 1 info, 2 warning, 3 critical.",
        [
            ({"name": name}, SEVERITIES.index(alert.severity) + 1)
            for name, alert in sorted(alerts.items())
        ],
    )
