"""The lock outlives a killed holder through its forked header readers: it dies with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.night import Operations, raw_groups

#: A tick whose header readers never end.
TICK = """
import sys, time
from dsa110_contimg import cli
from dsa110_contimg.conversion import inventory
def _examine(record):
    time.sleep(600)
_examine.__module__, inventory._examine = inventory.__name__, _examine
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def night(tmp_path):
    """Return a folder with so many files that their headers are read by several processes."""
    made = Operations.make(tmp_path / "work")
    raw_groups(made.incoming, 1)
    for minute in range(130):
        for subband in range(16):
            day, rest = divmod(minute, 60)
            name = f"2026-03-{day + 1:02}T00:{rest:02}:00_sb{subband:02}.hdf5"
            (made.incoming / name).write_bytes(b"no such file")
    return made


def children(pid):
    """Return the processes below one, by what the kernel says."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found[1:]


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, what):
    for _ in range(600):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen")


def test_the_next_tick_begins_at_once_and_no_reader_is_left(night):
    command = [sys.executable, "-c", TICK, *night.command("tick")[3:]]
    tick = subprocess.Popen(command, cwd=night.path, env=night.env, start_new_session=True)
    wait_for(lambda: len(children(tick.pid)) > 1, "reading of headers")
    time.sleep(0.5)  # all of them
    readers = children(tick.pid)
    os.kill(tick.pid, signal.SIGKILL)
    tick.wait()
    status, output = night.call("tick")
    assert status in (0, 1) and "is at work on this results folder" not in output, output
    assert f"'contimg tick' (process {tick.pid} on " in output
    assert "did not end: it was killed; this run goes on" in output
    wait_for(lambda: not any(map(lives, readers)), "end of the readers")
