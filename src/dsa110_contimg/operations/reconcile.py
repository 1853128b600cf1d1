"""What a run waits for on a cluster, compared with what the controller knows.

Snakemake's plugin waits for ever for a job that the controller has forgotten, preempted a second
time, or never sees end, and drops all jobs from its list when the controller once does not answer.
So its method that looks after jobs is replaced by the one here (`attach`, called by the logger,
which every run has). Each wait has an end: a job that is given up is a transient failure, is not
submitted again by the same run, and the next run makes sure that it is gone.

Beside the logs of SLURM stands ``.jobs.json``: which groups and nights each job writes to. Of a job
that does not end (on a lost node, say) only these are held back (`slurm.settle`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import MachineError, ToolAbsent
from . import slurm
from .slurm import Kill

__all__ = ["WAIT", "Watch", "attach"]

#: Environment variable: ``operations.cluster_wait_s``.
WAIT = "CONTIMG_CLUSTER_WAIT_S"
#: Time between two looks at the jobs, s.
LOOK_S = 15.0
#: How long a job may be unknown to the controller, which may be starting again, s.
FORGOTTEN_S = 60.0
#: How long a node may take to confirm the end of a job, s.
COMPLETING_S = 600.0

#: States of a job that has ended badly.
_FAILED = (
    *("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)
#: States of a job that somebody keeps from going on.
_KEPT = (
    *("SUSPENDED", "STOPPED", "SIGNALING"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"),
)
#: Words in the reason why a job is pending that nothing but a person changes.
_HELD = ("held", "BadConstraints", "NeverSatisfied", "launch_failed")


@dataclass
class Watch:
    """What is known of the jobs that a run waits for.

    Attributes
    ----------
    wait_s : float
        How long a job may be kept from going on, and the controller be silent, s.
    since : dict of str to tuple
        Job to the trouble it is in, and since when.
    ran : set of str
        Jobs that were seen at work.
    answered : float
        When the controller answered last.
    """

    wait_s: float
    answered: float
    since: dict[str, tuple[str, float]] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)

    def judge(
        self, job: str, states: Mapping[str, tuple[str, str]] | None, now: float
    ) -> bool | Kill | None:
        """Say what has become of a job.

        Parameters
        ----------
        job : str
            Its id.
        states : mapping, optional
            State and reason of each job that the controller knows; None if it does not answer.
        now : float
            The present, on the clock that `answered` is of, s.

        Returns
        -------
        bool or Kill or None
            True if it succeeded, False if it failed, None if it is still to be waited for; why it
            is given up.
        """
        if states is None:
            silent_s = now - self.answered
            return Kill("transient", _SILENT) if silent_s > self.wait_s else None
        state, reason = states.get(job, ("", ""))
        if state == "COMPLETED":
            return True
        if state in _FAILED:
            return False
        if state in ("RUNNING", "COMPLETING", "SUSPENDED"):
            self.ran.add(job)
        trouble, most_s = self._trouble(job, state, reason)
        before, began = self.since.get(job, ("", now))
        if trouble != before:
            began = now
        self.since[job] = (trouble, began)
        if trouble and now - began >= most_s:
            return Kill("transient", f"given up (job {job}): {trouble}")
        return None

    def _trouble(self, job: str, state: str, reason: str) -> tuple[str, float]:
        """Return what is wrong with a job that has not ended, and how long that may last."""
        if not state:
            return "the controller has forgotten it", min(FORGOTTEN_S, self.wait_s)
        if state == "COMPLETING":
            return "its node does not confirm its end", min(COMPLETING_S, self.wait_s)
        if state in _KEPT:
            return f"it was kept from going on ({state.lower()})", self.wait_s
        if state == "PENDING" and job in self.ran:
            return "it was put back into the queue, and does not start again", self.wait_s
        if state == "PENDING" and any(word.lower() in reason.lower() for word in _HELD):
            return f"it is held in the queue ({reason})", self.wait_s
        return "", 0.0


_SILENT = "given up: the controller of the cluster does not answer"


def attach(executor: type) -> None:
    """Let an executor of Snakemake's plugin for SLURM look after its jobs with `check_active_jobs`.

    Parameters
    ----------
    executor : type
        The plugin's class; its interface is Snakemake's for all that run jobs elsewhere.
    """
    executor.check_active_jobs = check_active_jobs  # type: ignore[attr-defined]


async def check_active_jobs(self: Any, active_jobs: Sequence[Any]) -> AsyncIterator[Any]:
    """Report jobs that have ended, yield those that are still to be waited for."""
    now = time.monotonic()
    watch: Watch = self.__dict__.setdefault(
        "contimg_watch", Watch(float(os.environ.get(WAIT, "3600")), now)
    )
    self.next_seconds_between_status_checks = min(LOOK_S, watch.wait_s)
    if not active_jobs:
        return
    slurm.write_books(
        Path(self.slurm_logdir), {info.external_jobid: _names(info.job) for info in active_jobs}
    )
    states = await asyncio.to_thread(_states, active_jobs, self._submitted_job_clusters)
    if states is not None:
        watch.answered = now
    for info in active_jobs:
        fate = watch.judge(info.external_jobid, states, now)
        if states and info.external_jobid in states:
            slurm.last_states[info.external_jobid] = states[info.external_jobid][0]
        log = info.aux.get("slurm_logfile")
        if fate is None:
            yield info
        elif fate is True:
            self.report_job_success(info)
            if log is not None and not self.workflow.executor_settings.keep_successful_logs:
                Path(log).unlink(missing_ok=True)
        else:
            if fate:
                slurm.given_up[info.external_jobid] = fate
                await asyncio.to_thread(slurm.cancel, info.external_jobid)
                # It may be at work yet: this run must not submit it a second time.
                info.job.attempt = info.job.restart_times + 1
            self.report_job_error(info, aux_logs=[str(log)])


def _states(
    active_jobs: Sequence[Any], clusters: Iterable[str]
) -> dict[str, tuple[str, str]] | None:
    """Return what the controller says of jobs; those it has forgotten may stand in its accounts."""
    try:
        states = slurm.states(clusters)
        gone = [i.external_jobid for i in active_jobs if i.external_jobid not in states]
        return states | (slurm.accounted(gone) if gone else {})
    except (MachineError, ToolAbsent):
        return None


def _names(job: Any) -> list[str]:
    """Return the groups and nights that a job writes to; an empty name for all of them."""
    names = set()
    for each in job.jobs if job.is_group() else [job]:
        wildcards = dict(each.wildcards.items()) if each.wildcards else {}
        names.add(str(wildcards.get("group") or wildcards.get("night") or ""))
    return sorted(names)
