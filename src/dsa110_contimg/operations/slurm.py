"""What a run on a SLURM cluster needs beside Snakemake's plugin.

It must know its own jobs, and why the cluster killed one. Snakemake gives every job of a run one
name, which the plugin makes of a prefix and a random part. The prefix has the id of the results
folder, so that a later run can tell the jobs of a killed one, also from another machine.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import ConfigError, MachineError, ToolAbsent
from ..core.files import write_text
from ..core.places import repository
from .locking import identity

__all__ = [
    "Kill",
    "accounted",
    "cancel",
    "given_up",
    "job_prefix",
    "last_states",
    "lingering",
    "options",
    "serves",
    "settle",
    "states",
    "why_killed",
    "write_books",
]

#: Longest wait for an answer of the controller, s.
TIMEOUT_S = 60.0
#: Longest wait for cancelled jobs to end, s. Beyond it a node has most likely been lost.
CANCEL_S = 120.0
#: States of a job that may still write.
AT_WORK = "PENDING,RUNNING,SUSPENDED,CONFIGURING,COMPLETING,STOPPED,REQUEUED,RESIZING,SIGNALING"


def serves(profile: str | Path) -> bool:
    """Tell whether the jobs of a profile go to SLURM.

    Parameters
    ----------
    profile : path
        Folder with a ``profile.yaml`` or ``config.yaml``, or such a file.
    """
    profile = Path(profile)
    paths = [profile, profile / "profile.yaml", profile / "config.yaml"]
    path = next((p for p in paths if p.is_file()), None)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    return isinstance(content, dict) and content.get("executor") == "slurm"


def job_prefix(results: Path) -> str:
    """Return what the names of all jobs of a results folder begin with, wherever it is mounted."""
    return f"contimg-{identity(results)}"


def _folder(results: Path) -> Path:
    """Return where SLURM keeps what jobs print."""
    return (results / "logs" / "slurm").absolute()


def options(results: Path) -> list[str]:
    """Return the options of Snakemake that are a matter of the results folder, not of the site.

    Raises
    ------
    ConfigError
        For names that Snakemake does not hand to the shells of its jobs as they are.
    """
    for path in (results.absolute(), repository()):
        if wrong := {"'", "\\"} & set(str(path)):
            raise ConfigError(
                f"{path}: on a cluster no name of results or clone may hold {min(wrong)}; rename it"
            )
    return [
        *("--slurm-jobname-prefix", job_prefix(results)),
        *("--slurm-logdir", str(_folder(results))),
    ]


# --- jobs of killed runs --------------------------------------------------------------------------


def settle(results: Path) -> dict[str, str]:
    """Cancel the jobs that a killed run left on the cluster, and wait for their end.

    Only the holder of the results folder may call this, and only while it has no jobs of its own.

    Returns
    -------
    dict of str to str
        Groups and nights that a job may still write to, for it does not end, and why; the empty
        name stands for what is made of all nights. A run beside it must leave these alone.

    Raises
    ------
    MachineError
        If the cluster does not answer, or a job does not end that nothing is known of.
    """
    books = _read_books(_folder(results))
    found = _at_work(results)
    if found:
        cancel(*found)
    end = time.monotonic() + CANCEL_S
    while left := _at_work(results):
        if all(job in books and books[job]["lingers"] for job in left):
            break  # it was waited for before
        if time.monotonic() > end:
            break
        time.sleep(1.0)
    if unknown := [job for job in left if job not in books]:
        raise MachineError(
            f"{results}: jobs of a killed run do not end on the cluster: {', '.join(unknown)}; "
            f"see 'scontrol show job {unknown[0]}', and ask the cluster's administrator"
        )
    if books:
        kept = {job: books[job] | {"lingers": left[job]} for job in left}
        _write_books(_folder(results), kept)
    return dict(lingering(results))


def lingering(results: Path) -> list[tuple[str, str]]:
    """Return the groups and nights that are held back for jobs that do not end, and why."""
    return [
        (
            name,
            f"job {job} does not end on the cluster ({entry['lingers'].lower()})",
        )
        for job, entry in sorted(_read_books(_folder(results)).items())
        if entry["lingers"]
        for name in entry["names"]
    ]


def write_books(folder: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Note what the jobs of a run write to.

    Parameters
    ----------
    folder : path
        Where SLURM keeps what jobs print.
    names : mapping
        Job to groups and nights.
    """
    books = _read_books(folder)
    if missing := {job: {"names": list(names[job]), "lingers": ""} for job in names.keys() - books}:
        _write_books(folder, books | missing)


def _read_books(folder: Path) -> dict[str, dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError, TypeError):
        books = json.loads((folder / ".jobs.json").read_text(encoding="utf-8"))
        if all({"names", "lingers"} <= entry.keys() for entry in books.values()):
            return dict(books)
    return {}


def _write_books(folder: Path, books: Mapping[str, Mapping[str, Any]]) -> None:
    write_text(folder / ".jobs.json", json.dumps(books, indent=1) + "\n")


def _at_work(results: Path) -> dict[str, str]:
    """Return the jobs of a results folder that have not ended, and their states."""
    lines = _call("squeue", "--me", "--noheader", f"--states={AT_WORK}", "--format=%i %T %j")
    prefix = job_prefix(results) + "_"
    jobs = (line.split(maxsplit=2) for line in lines.splitlines())
    return {job: state for job, state, name in jobs if name.startswith(prefix)}


# --- asking the controller ------------------------------------------------------------------------


def states(clusters: Iterable[str] = ()) -> dict[str, tuple[str, str]]:
    """Return state and reason of all jobs of this user that the controller remembers, by id."""
    more = [f"--clusters={','.join(clusters)}"] if clusters else []
    command = ("squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T|%r")
    rows = (line.split("|") for line in _call(*command, *more).splitlines())
    return {row[0].strip(): (row[1], row[2]) for row in rows if len(row) == 3}


def accounted(jobs: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return what the accounting database says of jobs, if there is one."""
    if "accounting_storage/none" in _call("scontrol", "show", "config"):
        return {}  # where there is none, sacct waits for ever
    command = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobIDRaw,State")
    rows = (line.split("|") for line in _call(*command, f"--jobs={','.join(jobs)}").splitlines())
    # CANCELLED is followed by who did so.
    return {row[0]: (row[1].split()[0], "") for row in rows if len(row) == 2 and row[1]}


def cancel(*jobs: str) -> None:
    """Cancel jobs; those that have ended meanwhile are no trouble."""
    with contextlib.suppress(MachineError):
        _call("scancel", *jobs)


def _call(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise ToolAbsent(
            f"{command[0]} is not installed, but the profile is one for SLURM; run this on a login "
            f"node of the cluster, or leave --profile out"
        ) from None
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"SLURM does not answer: {command[0]} took {TIMEOUT_S:g} s; the next run tries again"
        ) from None
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise MachineError(
            f"SLURM does not answer: {command[0]}: {reason}; the next run tries again"
        )
    return done.stdout


@dataclass(frozen=True)
class Kill:
    """Why the cluster, not the job itself, ended a job.

    Attributes
    ----------
    cause : {"transient", "compute"}
        As of a `dsa110_contimg.failures.Failure`.
    message : str
        In one line.
    """

    cause: str
    message: str


#: What SLURM calls the end of a job, what its own processes write into the job's log, and what that
#: means. A step that fails by itself leaves none of these.
_KILLS = (
    (
        "OUT_OF_MEMORY",
        r"oom[-_ ]kill|exceeded (?:job )?memory limit",
        "compute",
        "it exceeded its memory{memory}; see mem_mb in the profile",
    ),
    (
        "TIMEOUT|DEADLINE",
        r"DUE TO TIME LIMIT",
        "compute",
        "it exceeded its time{time}; see runtime in the profile",
    ),
    ("NODE_FAIL|BOOT_FAIL", r"DUE TO NODE FAILURE", "transient", "its node failed"),
    ("PREEMPTED", r"DUE TO PREEMPTION", "transient", "it gave way to a job of higher priority"),
    ("CANCELLED", r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED", "transient", "it was cancelled"),
)


#: Jobs that this process waited for and gave up, and why; see `reconcile`.
given_up: dict[str, Kill] = {}
#: Jobs that this process saw end, and their states: the controller may forget them at any time.
last_states: dict[str, str] = {}


def why_killed(job: str, log: str | Path) -> Kill | None:
    """Return why the cluster ended a job; None if the job failed by itself.

    Parameters
    ----------
    job : str
        Its id.
    log : path
        What SLURM kept of its output. It tells more than the controller, for which a job that was
        killed for its memory may just have failed.
    """
    if job in given_up:
        return given_up[job]
    try:
        text = Path(log).read_text(errors="replace")[-20000:]
    except OSError:
        text = ""
    facts = _facts(job)
    state = facts.get("JobState") or last_states.get(job, "")
    for states, words, cause, message in _KILLS:
        if re.fullmatch(states, state) or re.search(words, text, re.IGNORECASE):
            memory = facts.get("MinMemoryNode") or facts.get("MinMemoryCPU")
            limit = facts.get("TimeLimit")
            message = message.format(
                memory=f" of {memory}B" if memory else "", time=f" of {limit}" if limit else ""
            )
            return Kill(cause, f"killed by the cluster (job {job}): {message}")
    return None


def _facts(job: str) -> dict[str, str]:
    """Return what the controller knows of a job; empty if it does not answer."""
    try:
        words = _call("scontrol", "show", "job", "--oneliner", job).split()
    except (MachineError, ToolAbsent):
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)
