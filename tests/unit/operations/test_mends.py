"""Snakemake ends when it is asked to, whatever it is at."""

import subprocess
import sys

#: A scheduler that is asked to end while it holds its lock, as it does when it looks for jobs.
PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
from snakemake.scheduling.job_scheduler import JobScheduler
from dsa110_contimg.operations import mends

if sys.argv[1] == "mended":
    mends.mend(Path("rules"))
scheduler = JobScheduler.__new__(JobScheduler)
scheduler._lock, scheduler._open_jobs = threading.Lock(), threading.Semaphore(0)
signal.signal(signal.SIGTERM, scheduler.exit_gracefully)
with scheduler._lock:
    os.kill(os.getpid(), signal.SIGTERM)
scheduler._open_jobs.acquire()
print(scheduler._user_kill)
"""


def ask(how):
    command = [sys.executable, "-c", PROGRAM, how]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout


def test_snakemake_ends_though_it_is_asked_while_it_holds_its_lock():
    assert ask("mended") == "graceful\n"


def test_it_would_not_without_the_mend():
    """When it does, in a later release, the mend can go."""
    try:
        said = ask("as it is")
    except subprocess.TimeoutExpired:
        return
    raise AssertionError(f"Snakemake ends by itself now ({said!r}): remove the mend")
