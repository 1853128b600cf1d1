"""Failures as states: what failed, why, how often, and whether it will be tried again.

A job that fails leaves one small record beside the products it would have made. The next runs try
it again as often as its cause deserves (`RETRIES`), then set it aside: a group, night or step in
quarantine is left out of the plan, so that the rest goes on without it. A record is void, and the
work is tried again, when anything it may have failed for has changed: the raw files, the
configuration, the code of its step, the programs it calls. ``contimg retry`` removes it by hand.

What only shows or adds to the science (`DECORATION`, `EXTRAS`) has records of its own: it is left
out, and nothing else with it. So has the workflow itself, where Snakemake ended without a failed
job (`WORKFLOW`); that is never set aside, for nothing could go on without it.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core import records
from ..core.code import run_hash
from ..core.errors import MARK, missing_module, trouble_in
from ..core.files import write_text
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import DAY_S

__all__ = [
    "APART",
    "DECORATION",
    "EXTRAS",
    "QUARANTINED",
    "RETRIED",
    "RETRIES",
    "TOOLS",
    "UNATTENDED",
    "WAITING",
    "WORKFLOW",
    "Failure",
    "classify",
    "clear",
    "describe",
    "failed",
    "fingerprint",
    "forget",
    "holds",
    "may_pass",
    "name_lost",
    "note",
    "note_workflow",
    "path_of",
    "read",
    "read_all",
    "retried",
]

#: How often a job is tried again, by the cause of its failure. ``transient``: disk, network, an
#: absent program; ``compute``: a program that crashed, hung, or ran out of memory; ``data``: the
#: input cannot be used; ``config``: a wrong option; ``bug``: an error nobody foresaw.
RETRIES = {"transient": 3, "compute": 2, "data": 0, "config": 0, "bug": 2}
#: A transient failure in quarantine is tried once more after this time, s; after a day of such
#: attempts, once a day.
RELEASE_S = 3600.0
#: How long a night stays open for a transient failure before it closes without what failed, s.
HOPE_S = DAY_S
#: Keys of the configuration that no job depends on, and those that name places and files: of these
#: what they hold counts.
UNATTENDED = {"release", "operations", "retention", "archive", "alerts"}
PLACES = {"incoming", "results", "catalog", "calibrators"}
#: Programs whose change voids a record.
TOOLS = ("wsclean", "aoflagger")

#: Rules whose products only show what was made: a night closes without them.
DECORATION = frozenset(
    ("tile_report", "calibration_report", "mosaic_view", "night_report", "candidate_plots", "index")
)
#: Rules of products that a configuration asks for beside the chain: the night goes on without them.
EXTRAS = frozenset(("night_blind", "field_apply", "field_image"))
#: Stands for the rule where Snakemake itself failed.
WORKFLOW = "workflow"
#: Rules with a record of their own, beside that of the chain.
APART = DECORATION | EXTRAS | {"calibrate", WORKFLOW}

#: The step in the command of a job.
_STEP = re.compile(r"workflow/scripts/(\w+)\.py\b")

#: Last words of a step that could not begin, for a module that it needs cannot be imported.
_TRACEBACK = "Traceback (most recent call last):"
_NOT_IMPORTED = re.compile(r"(?:ModuleNotFound|Import)Error: .*(?:named|from) '([\w.]+)'")

WAITING, QUARANTINED = "waiting", "quarantined"
#: State of an attempt that failed, after which the same run made another.
RETRIED = "retried"


@dataclass(frozen=True)
class Failure:
    """One failed piece of work.

    Attributes
    ----------
    rule : str
        Rule of the job.
    wildcards : dict of str to str
        Its ``group``, ``night``, ``hour``, ``field``, as far as it has them.
    cause : {"transient", "compute", "data", "config", "bug"}
        See `RETRIES`.
    state : {"waiting", "quarantined", "retried"}
        Whether it will be tried again by itself, or was within the same run.
    message : str
        What happened, in one line.
    log : str
        Path of the job's log.
    command : str
        What repeats the job.
    attempts : int
        How often it failed.
    first_utc, last_utc : str
        When it failed first and last.
    fingerprint : str
        Of all it may have failed for; see `fingerprint`.
    causes : dict of str to int
        How often it failed for which cause.
    """

    rule: str
    wildcards: dict[str, str]
    cause: str
    state: str
    message: str
    log: str
    command: str
    attempts: int
    first_utc: str
    last_utc: str
    fingerprint: str = field(default="", repr=False)
    causes: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def what(self) -> str:
        """The group, the night or the step that failed, for people."""
        return self.wildcards.get("group") or self.wildcards.get("night") or self.rule

    @property
    def is_lost(self) -> bool:
        """Whether no job can make it: nothing was tried, and nothing will be."""
        return self.quarantined and not self.attempts

    @property
    def quarantined(self) -> bool:
        """Whether it is set aside."""
        return self.state == QUARANTINED


def path_of(layout: Layout, rule: str, wildcards: Mapping[str, str]) -> Path:
    """Return where the record of a failure is.

    Of a group, a night, and all nights together each has one for the chain, and others for what
    the chain goes on without: a solution that cannot be made does not keep the group from becoming
    a tile with another one, and no picture keeps a night from closing.
    """
    name = "failure.json"
    if rule in APART:
        name = ".".join(filter(None, ["failure", rule, wildcards.get("field"), "json"]))
    if group := wildcards.get("group"):
        return layout.group(group) / name
    if night := wildcards.get("night"):
        return layout.night(night, name)
    return layout.results / name


def read(path: Path) -> Failure | None:
    """Return a record, or None where there is none that can be read: the work is simply tried."""
    return records.read_or_none(Failure, path)


def read_all(layout: Layout, nights: Iterable[str]) -> list[Failure]:
    """Return the failures of some nights and those of all nights together, in order of name.

    Parameters
    ----------
    layout : Layout
        Of the results folder.
    nights : iterable of str
        Nights to look into.
    """
    paths = sorted(layout.results.glob("failure*.json"))
    for night in sorted(nights):
        paths += sorted(layout.night(night).glob("failure*.json"))
        paths += sorted(layout.night(night, "groups").glob("*/failure*.json"))
    return [failure for path in paths if (failure := read(path))]


def fingerprint(config: Config, command: str, files: Iterable[str] = ()) -> str:
    """Return a hash of what a job may fail for.

    Parameters
    ----------
    config : Config
        The configuration.
    command : str
        What repeats the job: it names the step whose code counts, with all that this reaches.
    files : iterable of str
        Raw files of the group; name, size, time of modification and mode count.
    """
    options = config.model_dump_json(exclude=UNATTENDED | PLACES)
    digest = hashlib.blake2b(options.encode(), digest_size=12)
    step = _STEP.search(command)
    digest.update(run_hash(step[1] if step else None).encode())
    tools = (path for tool in TOOLS if (path := shutil.which(tool)))
    given = (str(path) for path in (config.catalog, config.calibrators) if path is not None)
    digest.update("\n".join(map(content_of, (*tools, *given))).encode())
    # The folder does not count: another host may see it elsewhere.
    raw = (describe(path).removeprefix(os.path.dirname(path)) for path in sorted(files))
    digest.update("\n".join(raw).encode())
    return digest.hexdigest()


def content_of(path: str) -> str:
    """Return a hash of what a file holds; empty where it cannot be read."""
    try:
        stat = os.stat(path)
        return _content(path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return ""


@functools.cache
def _content(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(path: str) -> str:
    """Return a line that changes when a file does: path, size, time of modification, mode."""
    try:
        stat = Path(path).stat()
        return f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_mode:o}"
    except OSError:
        return f"{path} absent"


def holds(failure: Failure, current: str, now: dt.datetime | None = None) -> bool:
    """Tell whether a failure still keeps its work from being tried.

    Parameters
    ----------
    failure : Failure
        The record.
    current : str
        `fingerprint` of the same work now.
    now : datetime, optional
        Time to judge by.
    """
    if not failure.quarantined or failure.fingerprint != current:
        return False
    if failure.cause != "transient":
        return True
    last = _moment(failure.last_utc)
    age_s = ((now or _now()) - last).total_seconds()
    since_s = (last - _moment(failure.first_utc)).total_seconds()
    # A clock that went back must not keep it away for longer.
    return 0 <= age_s < (RELEASE_S if since_s < DAY_S else DAY_S)


def may_pass(failure: Failure, now: dt.datetime | None = None) -> bool:
    """Tell whether a failure is transient and so young that its night should wait for it.

    Parameters
    ----------
    failure : Failure
        The record.
    now : datetime, optional
        Time to judge by.
    """
    age_s = ((now or _now()) - _moment(failure.first_utc)).total_seconds()
    return failure.cause == "transient" and age_s < HOPE_S


def note(layout: Layout, event: Mapping[str, Any], current: str) -> Failure:
    """Record one failed job; return its new state.

    Parameters
    ----------
    layout : Layout
        Of the results folder.
    event : mapping
        ``rule``, ``wildcards``, ``log``, ``command`` and ``attempt`` of the job, and why a cluster
        killed it (``kill``), from the logger.
    current : str
        `fingerprint` of the work.
    """
    failure = _counted(layout, _failure(event, current))
    # Each cause has its own patience; none is regained by failing for another one meanwhile.
    if any(n > RETRIES.get(cause, 0) for cause, n in failure.causes.items()):
        failure = replace(failure, state=QUARANTINED)
    return _write(layout, failure)


def note_workflow(layout: Layout, message: str, log: str, wildcards: Mapping[str, str]) -> Failure:
    """Record that Snakemake ended without a failed job; return the record.

    Parameters
    ----------
    layout : Layout
        Of the results folder.
    message : str
        What it said, in one line.
    log : str
        Where all that it said is.
    wildcards : mapping
        The ``night`` that it was to work on, if it was one alone.
    """
    trouble = trouble_in(message)
    now = f"{_now():%Y-%m-%dT%H:%M:%S+00:00}"
    cause = trouble.cause if trouble else "bug"
    failure = Failure(
        WORKFLOW, dict(wildcards), cause, WAITING, message, log, "", 1, now, now, "", {cause: 1}
    )
    return _write(layout, _counted(layout, failure))


def name_lost(layout: Layout, nights: Iterable[str], lost: Iterable[Failure]) -> None:
    """Keep the records of lost groups in line with those that there are.

    Parameters
    ----------
    layout : Layout
        Of the results folder.
    nights : iterable of str
        Nights to look into.
    lost : iterable of Failure
        What is lost, as the plan knows it.
    """
    now = {path_of(layout, f.rule, f.wildcards): f for f in lost if "group" in f.wildcards}
    for failure in read_all(layout, nights):
        path = path_of(layout, failure.rule, failure.wildcards)
        if failure.is_lost and path not in now:
            path.unlink(missing_ok=True)
    for path, failure in now.items():
        if not path.exists():
            _write(layout, failure)


def _counted(layout: Layout, failure: Failure) -> Failure:
    """Return a new failure with the attempts before it on the same things."""
    before = read(path_of(layout, failure.rule, failure.wildcards))
    if before is None or before.fingerprint != failure.fingerprint:
        return failure
    causes = Counter(before.causes or {before.cause: before.attempts})
    causes.update(failure.causes)
    attempts = before.attempts + failure.attempts
    return replace(failure, first_utc=before.first_utc, attempts=attempts, causes=dict(causes))


def _write(layout: Layout, failure: Failure) -> Failure:
    path = path_of(layout, failure.rule, failure.wildcards)
    write_text(path, json.dumps(asdict(failure), indent=1) + "\n")
    return failure


def _failure(event: Mapping[str, Any], current: str) -> Failure:
    if kill := event.get("kill"):
        cause, message = kill["cause"], kill["message"]
    else:
        cause, message = classify(event.get("log", ""))
    now = f"{_now():%Y-%m-%dT%H:%M:%S+00:00}"
    return Failure(
        rule=event["rule"],
        wildcards=dict(event["wildcards"]),
        cause=cause,
        state=WAITING,
        message=message,
        log=event.get("log", ""),
        command=event.get("command", ""),
        attempts=event.get("attempt", 1),
        first_utc=now,
        last_utc=now,
        fingerprint=current,
        causes={cause: event.get("attempt", 1)},
    )


def forget(layout: Layout, failure: Failure) -> None:
    """Let something be tried again: forget its failure.

    Of what is made of all nights together a record stays, without attempts, for the next tick to
    know that it has to be made.
    """
    if failure.wildcards:
        path_of(layout, failure.rule, failure.wildcards).unlink(missing_ok=True)
    else:
        _write(layout, replace(failure, state=WAITING, attempts=0, causes={}, fingerprint=""))


def clear(layout: Layout, event: Mapping[str, Any]) -> None:
    """Remove the record of a job that has succeeded now."""
    path = path_of(layout, event["rule"], event["wildcards"])
    if (failure := read(path)) and failure.rule == event["rule"]:
        path.unlink(missing_ok=True)


def failed(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the failed jobs among the events of a run, one for each record.

    A job that failed and succeeded when it was tried again has not failed. Of several in one place
    the one whose log tells a cause counts.
    """
    chosen: dict[Path, Mapping[str, Any]] = {}
    last = {_job(event): event for event in events}
    # In one order, whichever ended first: else two that fail side by side would take turns.
    for _, event in sorted(last.items()):
        if event["end"] != "failed":
            continue
        record = path_of(Layout(Path()), event["rule"], event["wildcards"])
        if record not in chosen or (_marked(event) and not _marked(chosen[record])):
            chosen[record] = event
    return list(chosen.values())


def retried(events: Sequence[Mapping[str, Any]]) -> list[Failure]:
    """Return the attempts of a run that failed and were followed by another; none is recorded."""
    last = {_job(event): index for index, event in enumerate(events)}
    return [
        replace(_failure(event, ""), state=RETRIED)
        for index, event in enumerate(events)
        if event["end"] == "failed" and index < last[_job(event)]
    ]


def _job(event: Mapping[str, Any]) -> tuple:
    return event["rule"], *sorted(event["wildcards"].items())


def _marked(event: Mapping[str, Any]) -> bool:
    return _mark(_lines(event.get("log", ""))) is not None


def classify(log: str) -> tuple[str, str]:
    """Return cause and message of a failed job, from its log.

    A step that fails writes both itself. A log without them is that of a step that was killed, that
    never began, or whose programs ended it with their own last words.
    """
    lines = _lines(log)
    if (mark := _mark(lines)) and mark.get("cause") in RETRIES:
        return mark["cause"], " ".join(str(mark.get("message", "")).split())
    words = [line.strip()[:200] for line in reversed(lines) if line.strip()]
    if words and _TRACEBACK in lines and (missing := _NOT_IMPORTED.match(words[0])):
        return missing_module(missing[1]), words[0]
    for line in words:
        if trouble := trouble_in(line):
            return trouble.cause, f"{trouble.what} ({line}); {trouble.remedy}"
    if words:
        killed = "killed, perhaps for lack of memory or time; its last words"
        return "compute", f"{killed}: {words[0]}"
    if log and os.path.exists(log):
        return "compute", "killed before it said a word, perhaps for lack of memory"
    return "transient", "the job left no log: it never began, or could not write"


def _lines(log: str) -> list[str]:
    try:
        return Path(log).read_text(errors="replace").splitlines()[-50:] if log else []
    except OSError:
        return []


def _mark(lines: Sequence[str]) -> dict | None:
    for line in reversed(lines):
        if line.startswith(MARK):
            try:
                return json.loads(line.removeprefix(MARK))
            except ValueError:
                return None
    return None


def _moment(utc: str) -> dt.datetime:
    """Return the moment that a record tells; the first of all, where it tells none."""
    try:
        moment = dt.datetime.fromisoformat(utc)
    except ValueError:
        return dt.datetime.fromtimestamp(0, dt.UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
