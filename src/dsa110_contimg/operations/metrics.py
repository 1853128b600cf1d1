"""A snapshot as metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.times import unix_of_utc
from .alerts import SEVERITIES, Alert

__all__ = ["metrics"]

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
        return [({}, unix_of_utc(state[name]["time_utc"]) if state[name] else None)]

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
        [({}, unix_of_utc(state["time_utc"]))],
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
