"""Records of the runs of the workflow: when, on what, with what, and how they ended.

One small file for each run, ``results/runs/<UTC start>.json``. It is written when the run
begins, without an end, and again when it ends: a record without an end is a run that is at work or
was killed. A run that had nothing to do leaves none.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from .files import scratch, write_text
from .options import Config
from .provenance import announce, commit
from .records import read_or_none
from .times import utc_now, utc_of_unix

__all__ = ["EVENTS", "events", "read_events", "read_runs", "recorded"]

#: Environment variable that names the file to which the logger adds a line for each job that ended:
#: JSON with `end` ("done" or "failed"), `rule`, `wildcards`, `log`, `command`, `seconds`.
EVENTS = "CONTIMG_RUN_EVENTS"
#: What a record must tell.
NEEDED = {"run_id", "command", "targets", "started_utc", "config_sha256", "versions"}
#: Python distributions whose versions are recorded; those of other tools are in the sidecars.
PACKAGES = ("snakemake", "casatasks", "python-casacore", "pyuvdata", "astropy")


@contextmanager
def recorded(config: Config, command: str, targets: list[str]) -> Iterator[dict[str, Any]]:
    """Record a run.

    Parameters
    ----------
    config : Config
        Its configuration; it is kept, and its hash recorded.
    command : str
        ``run`` or ``tick``.
    targets : list of str
        What was asked for; empty for everything.

    Yields
    ------
    dict
        The record; the caller sets ``exit_status``, and may add to ``failures``. A run that stops
        with an error keeps None.
    """
    start = dt.datetime.now(dt.UTC)
    record: dict[str, Any] = {
        "run_id": f"{start:%Y%m%dT%H%M%S.%f}",
        "command": command,
        "targets": targets,
        "started_utc": utc_of_unix(start.timestamp()),
        "ended_utc": None,
        "exit_status": None,
        "jobs_done": None,
        "jobs_failed": None,
        "failures": [],
        "config_sha256": None,
        "git_commit": commit(),
        "versions": _versions(),
    }
    path = config.results / "runs" / f"{record['run_id']}.json"
    with (
        announce(config, record["run_id"]) as record["config_sha256"],
        scratch("events") as folder,
    ):
        _write(path, record)
        reported = folder / "events"
        reported.touch()
        os.environ[EVENTS] = str(reported)
        try:
            yield record
        finally:
            del os.environ[EVENTS]
            ended = Counter(event["end"] for event in read_events(reported))
            record["jobs_done"], record["jobs_failed"] = ended["done"], ended["failed"]
            record["ended_utc"] = utc_now()
            if record["exit_status"] == 0 and not ended:
                path.unlink()
            else:
                _write(path, record)


def events() -> list[dict[str, Any]]:
    """Return what the logger told of the jobs of the present run, in order of their ends."""
    return read_events(Path(os.environ[EVENTS]))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return what the logger wrote into a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_runs(results: Path) -> list[dict[str, Any]]:
    """Return the records of all runs, the oldest first; damaged ones are passed over."""
    paths = sorted((Path(results) / "runs").glob("[0-9]*.json"))
    found = (read_or_none(dict[str, Any], path) for path in paths)
    return [record for record in found if record and record.keys() >= NEEDED]


def _write(path: Path, record: dict[str, Any]) -> None:
    write_text(path, json.dumps(record, indent=1) + "\n")


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0], "dsa110-contimg": __version__}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # what is not installed has no version
            versions[name] = metadata.version(name)
    return versions
