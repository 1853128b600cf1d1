"""Progress of a run, for people: which tile, which stage, how many of how many, time left.

Snakemake finds it by its name (``--logger contimg``); ``./contimg run`` uses it on a run, not on a
dry run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from logging import ERROR, LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase

from dsa110_contimg.operations import reconcile
from dsa110_contimg.operations.slurm import why_killed

__all__ = ["LogHandler"]

#: Environment variable that names the file to which each job that ended adds a line: JSON with
#: ``end`` ("done" or "failed"), ``rule``, ``wildcards``, ``log``, ``command``, ``attempt``, and
#: ``seconds``; where the cluster killed a job also ``kill``, its cause and message. Of what
#: Snakemake itself stumbles on there is a line with ``end`` ("error") and ``message``.
EVENTS = "CONTIMG_RUN_EVENTS"
#: Begin of a line in a log that is not for people.
FOR_PROGRAMS = "contimg-failure: "
#: Lines of a failed job's log that are shown.
TAIL_LINES = 12


class LogHandler(LogHandlerBase):
    """Print one line for each finished job, and what there is to know of each failed one."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.total = self.done = 0
        self.rule_totals: dict[str, int] = {}
        self.rule_done: Counter[str] = Counter()
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.running: dict[int, tuple[str, str, float]] = {}
        self.jobs: dict[int, dict] = {}
        self.failures: Counter[int] = Counter()
        self.bystanders: set[int] = set()
        self.started = time.monotonic()
        self.live = sys.stderr.isatty()
        if plugin := sys.modules.get("snakemake_executor_plugin_slurm"):
            reconcile.attach(plugin.Executor)

    def emit(self, record: LogRecord) -> None:
        """Handle one event of Snakemake."""
        event = getattr(record, "event", None)
        handler = getattr(self, f"_{event}", None) if event else None
        if handler is not None:
            handler(record)
        elif event is None and record.levelno >= ERROR:
            text = record.getMessage().strip()
            # A job that failed is told with the end of its log; its command is in the record.
            if text and not text.startswith("RuleException"):
                self._print(text)
                _tell({"end": "error", "message": text})

    # A handler for each event; what its record holds is Snakemake's to say.

    def _run_info(self, record: Any) -> None:
        self.rule_totals = dict(record.stats)
        self.total = self.rule_totals.pop("total", 0)
        self.started = time.monotonic()
        if self.total:
            self._print(f"{self.total} jobs to do")

    def _job_info(self, record: Any) -> None:
        wildcards = record.wildcards or {}
        what = wildcards.get("group") or "T".join(
            filter(None, (wildcards.get("night"), wildcards.get("hour")))
        )
        self.running[record.jobid] = (record.rule_name, what, time.monotonic())
        self.jobs[record.jobid] = {
            "rule": record.rule_name,
            "wildcards": {key: str(value) for key, value in wildcards.items()},
            "log": str(next(iter(record.log or []), "")),
            "command": _one_line(record.shellcmd),
        }
        self._status()

    def _job_finished(self, record: Any) -> None:
        rule, what, began = self.running.pop(record.job_id, ("", "", 0.0))
        if not rule:
            return
        took = time.monotonic() - began
        self.done += 1
        self.rule_done[rule] += 1
        self.seconds[rule].append(took)
        if rule == "all":
            return
        self._note("done", record.job_id, took)
        width = len(str(self.total))
        self._print(
            f"[{self.done:{width}}/{self.total}{self._time_left()}] {rule:<19}{what:<16}"
            f"{took:6.1f} s  ({self.rule_done[rule]} of {self.rule_totals.get(rule, '?')})"
        )

    def _job_error(self, record: Any) -> None:
        if record.jobid in self.bystanders:
            self.bystanders.discard(record.jobid)
            return
        job = (record.aux or {}).get("external_jobid")
        self._failed(record.jobid, record.rule_name, record.log or [], job)

    def _group_error(self, record: Any) -> None:
        """Of jobs that travelled to a cluster together, one failed: that which wrote last."""
        jobs = record.job_error_info
        failed = max(jobs, key=lambda job: max(map(_mtime, job["log"]), default=0.0))
        # Snakemake goes on to report each of them.
        self.bystanders |= {job["jobid"] for job in jobs}
        for job in jobs:
            if job is not failed:
                self.running.pop(job["jobid"], None)
        logs = [*failed["log"], *record.aux_logs]
        job = getattr(record, "external_jobid", None)
        self._failed(failed["jobid"], failed["rule_name"], logs, job)

    def _failed(self, jobid: int, rule: str, logs: list[str], job: str | None) -> None:
        """Tell of a failed job; `job` is its id on a cluster, whose own log is then the last."""
        rule, what, began = self.running.pop(jobid, (rule, "", 0.0))
        self.failures[jobid] += 1
        kill = why_killed(job, logs[-1] if logs else "") if job else None
        more = {"kill": asdict(kill)} if kill else {}
        self._note("failed", jobid, time.monotonic() - began if began else 0.0, **more)
        self._print(f"FAILED {rule} {what}".rstrip() + (f": {kill.message}" if kill else ""))
        for log in logs:
            path = Path(str(log))
            text = path.read_text(errors="replace") if path.is_file() else ""
            lines = [line for line in text.splitlines() if not line.startswith(FOR_PROGRAMS)]
            self._print("\n".join(f"    {line}" for line in [*lines[-TAIL_LINES:], f"log: {path}"]))

    def _note(self, end: str, jobid: int, seconds: float, **more: Any) -> None:
        """Tell the launcher, if it asked, that a job ended."""
        if jobid in self.jobs:
            attempt = self.failures[jobid] + (end == "done")
            event = {"end": end, "attempt": attempt, "seconds": round(seconds, 1)}
            _tell(event | self.jobs[jobid] | more)

    def _error(self, record: Any) -> None:
        text = record.getMessage().strip()
        self._print(text)
        _tell({"end": "error", "message": text})

    def _time_left(self) -> str:
        """Return the remaining time, from what jobs of each rule took so far."""
        elapsed = time.monotonic() - self.started
        spent = sum(map(sum, self.seconds.values()))
        if self.done < 3 or not spent:
            return ""
        overall = spent / self.done
        ahead = 0.0
        for rule, total in self.rule_totals.items():
            took = self.seconds.get(rule)
            ahead += (total - self.rule_done[rule]) * (sum(took) / len(took) if took else overall)
        minutes, seconds = divmod(round(ahead * elapsed / spent), 60)
        return f", {minutes}:{seconds:02} left"

    def _print(self, text: str) -> None:
        print(f"\r\x1b[K{text}" if self.live else text, file=sys.stderr, flush=True)
        self._status()

    def _status(self) -> None:
        """On a terminal, keep a last line that says what is running."""
        if self.live and self.running:
            now = ", ".join(f"{rule} {what}".strip() for rule, what, _ in self.running.values())
            print(f"\r\x1b[Krunning: {now[:100]}", end="", file=sys.stderr, flush=True)


def _tell(event: dict[str, Any]) -> None:
    """Add an event to the launcher's file, if it asked."""
    if EVENTS in os.environ:
        with open(os.environ[EVENTS], "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


def _mtime(path: str) -> float:
    """Return when a file was changed last; 0 if there is none."""
    try:
        return Path(str(path)).stat().st_mtime
    except OSError:
        return 0.0


def _one_line(command: str | None) -> str:
    """Return a job's command without what sends its output to the log."""
    return " ".join((command or "").split()).rsplit(" > ", 1)[0]
