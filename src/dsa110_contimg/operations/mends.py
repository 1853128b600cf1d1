"""What is mended of Snakemake where it runs this workflow.

Published products stay until their successors are whole. Snakemake deletes what a job is to make
before the job begins, and again when it fails, for it cannot know what a half-written file is.
Steps of ours write beside a product and rename: what has its name is whole. Snakemake's own way to
keep an output, `update()`, copies it first, and what is put back is new to it: that it was to be
remade would be forgotten.

Who is asked to end ends. Snakemake's handler of SIGTERM takes a lock that the thread which it
interrupts may hold: then it waits for itself, for ever.
"""

from __future__ import annotations

import _thread
import functools
from pathlib import Path
from typing import Any

__all__ = ["mend"]


def mend(rules: Path) -> None:
    """Mend Snakemake in this process.

    Parameters
    ----------
    rules : path
        Folder of the rules; those of another workflow, whose module this is, keep their ways.
    """
    from snakemake.jobs import Job
    from snakemake.scheduling.job_scheduler import JobScheduler

    if getattr(Job, "is_mended", False):
        return
    _keep_outputs(Job, rules)
    _end_when_asked(JobScheduler)
    Job.is_mended = True


def _keep_outputs(kind: Any, rules: Path) -> None:
    """Let nothing be deleted that the rules in a folder make, before or after a job.

    A job that fails leaves the mark of one that was begun: what it was to make is made again by
    the next run (``--rerun-incomplete``), whatever the times of the files say, and the records of
    the options that its products were made with stay.
    """
    remove_existing_output, postprocess = kind.remove_existing_output, kind.postprocess

    def is_ours(job: Any) -> bool:
        return str(job.rule.basedir.get_path_or_uri(secret_free=True)) == str(rules)

    async def remove_logs(job: Any) -> None:
        if not is_ours(job):
            await remove_existing_output(job)
            return
        for log in job.log:
            await log.remove(remove_non_empty_dir=False)

    async def keep_if_failed(job: Any, *args: Any, error: bool = False, **options: Any) -> None:
        if not (error and is_ours(job)):
            await postprocess(job, *args, error=error, **options)
            return
        await job.dag.handle_log(job)
        # In a chain on a cluster also those that succeeded: their options were not recorded.
        job.dag.workflow.persistence.started(job)

    kind.remove_existing_output, kind.postprocess = remove_logs, keep_if_failed


def _end_when_asked(kind: Any) -> None:
    """Let the handler of SIGTERM take its lock in a thread of its own, which can wait for it."""
    exit_gracefully = kind.exit_gracefully

    @functools.wraps(exit_gracefully)
    def ask(scheduler: Any, *_: Any) -> None:
        # Not `threading`: in a handler, its locks may be held, too.
        _thread.start_new_thread(exit_gracefully, (scheduler,))

    kind.exit_gracefully = ask
