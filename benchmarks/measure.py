"""What the benchmarks share: a program timed from outside, the words for the machine, reports."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: Where reports go, which git ignores; and the pages of the documentation made from some of them.
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "development" / "benchmarks"
#: The package of this tree, and one thread for BLAS, as jobs have it.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OPENBLAS_NUM_THREADS": "1"}


class Usage(NamedTuple):
    """What a program took: wall and processor time, s, and its largest memory, MB."""

    seconds: float
    cpu_s: float
    peak_mb: float


def run(command: list[object], cwd: Path | None = None) -> tuple[Usage, str]:
    """Run a program; return what it took and what it printed.

    Memory is that of its largest process, time that of all of them.
    """
    # To Linux a program has used all that its parent had when it began, so a small one begins it.
    words = list(map(str, command))
    with (
        tempfile.TemporaryFile("w+", errors="replace") as output,
        tempfile.NamedTemporaryFile("r") as figures,
    ):
        between = [sys.executable, __file__, figures.name, *words]
        code = subprocess.call(between, cwd=cwd, env=ENVIRONMENT, stdout=output, stderr=output)
        output.seek(0)
        printed = output.read()
        if code:
            what = " ".join(words)[:200]
            raise SystemExit(f"{what}\nended with {code}: {printed[-4000:]}")
        return Usage(*json.load(figures)), printed


def step(name: str, *arguments: object) -> Usage:
    """Run a step, as a job does; return what it took."""
    script = ROOT / "workflow" / "scripts" / f"{name}.py"
    return run([sys.executable, script, *arguments])[0]


def contimg(*arguments: object, cwd: Path | None = None) -> tuple[Usage, str]:
    """Run a command of ``contimg``; return what it took and what it printed."""
    return run([sys.executable, "-m", "dsa110_contimg", *arguments], cwd)


def add_page_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be asked for the page of the documentation, too."""
    parser.add_argument(
        "--page", action="store_true", help=f"write the page in {PAGES.relative_to(ROOT)}, too"
    )


def keep(name: str, text: str, page: bool) -> None:
    """Write a report to the folder of results, and on request as page of the documentation."""
    for folder in (RESULTS, *([PAGES] if page else [])):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def heading(command: str) -> str:
    """Return the command, the day and the machine, to begin a page with."""
    machine = f"{os.cpu_count()} cores ({platform.machine()})"
    return f"`{command}` on {dt.date.today():%d %B %Y}: {machine}"


def main(figures: str, *command: str) -> int:
    """Run a program, and write what it took to a file; return its exit status."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    usage = Usage(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
    Path(figures).write_text(json.dumps(usage))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
