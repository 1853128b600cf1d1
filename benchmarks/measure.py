"""What the benchmarks share: a program timed from outside, and the words for the machine."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: The package of this tree, and one thread for BLAS, as jobs have it.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENBLAS_NUM_THREADS": "1"}


class Usage(NamedTuple):
    """What a program took: wall and processor time, s, and its largest memory, MB."""

    seconds: float
    cpu_s: float
    peak_mb: float


def run(command: list[object], cwd: Path | None = None) -> tuple[Usage, str]:
    """Run a program; return what it took and what it printed.

    A program begins as a copy of this process, whose memory counts: make large data elsewhere. The
    memory is that of the largest process, the time that of all.
    """
    words = list(map(str, command))
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        started = time.monotonic()
        process = subprocess.Popen(words, cwd=cwd, env=ENVIRONMENT, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        output.seek(0)
        printed = output.read()
    if status:
        what, code = " ".join(words)[:200], os.waitstatus_to_exitcode(status)
        raise SystemExit(f"{what}\nended with {code}: {printed[-4000:]}")
    return Usage(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024), printed


def step(*arguments: object) -> Usage:
    """Run a step of the package, as a job does; return what it took."""
    return run([sys.executable, "-m", "dsa110_contimg", *arguments])[0]


def heading(command: str) -> str:
    """Return the command, the day and the machine, to begin a page with."""
    machine = f"{os.cpu_count()} cores ({platform.machine()})"
    return f"`{command}` on {dt.date.today():%d %B %Y}: {machine}"
