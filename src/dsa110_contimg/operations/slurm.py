"""What a run on a SLURM cluster needs beside Snakemake's plugin.

It must know its own jobs, and why the cluster killed one. Snakemake gives every job of a run one
name, which the plugin makes of a prefix and a random part. The prefix has the id of the results
folder, so that a later run can tell the jobs of a killed one, also from another machine.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..core.errors import MachineError, ToolAbsent
from .locking import identity

__all__ = ["Kill", "cancel_orphans", "job_prefix", "options", "serves", "why_killed"]

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


def options(results: Path) -> list[str]:
    """Return the options of Snakemake that are a matter of the results folder, not of the site."""
    logs = (results / "logs" / "slurm").absolute()
    return ["--slurm-jobname-prefix", job_prefix(results), "--slurm-logdir", str(logs)]


def cancel_orphans(results: Path) -> list[str]:
    """Cancel the jobs that a killed run left on the cluster, and wait for their end.

    Only the holder of the results folder may call this, and only while it has no jobs of its own.
    Returns the ids of the jobs.

    Raises
    ------
    MachineError
        If the cluster does not answer, or the jobs do not end: a run beside them would make the
        same products twice.
    """
    found = _at_work(results)
    if found:
        _call("scancel", *found)
    end = time.monotonic() + CANCEL_S
    while left := _at_work(results):
        if time.monotonic() > end:
            raise MachineError(
                f"{results}: jobs of a killed run do not end on the cluster: {', '.join(left)}; "
                f"see 'scontrol show job {left[0]}', and ask the cluster's administrator"
            )
        time.sleep(1.0)
    return found


def _at_work(results: Path) -> list[str]:
    """Return the ids of the jobs of a results folder that have not ended."""
    lines = _call("squeue", "--me", "--noheader", f"--states={AT_WORK}", "--format=%i %j")
    prefix = job_prefix(results) + "_"
    jobs = (line.split(maxsplit=1) for line in lines.splitlines())
    return [job for job, name in jobs if name.startswith(prefix)]


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
    try:
        text = Path(log).read_text(errors="replace")[-20000:]
    except OSError:
        text = ""
    facts = _facts(job)
    state = facts.get("JobState", "")
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
