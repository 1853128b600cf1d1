"""Bounded everything, jobs reaped: a run that is asked to end does so, and however it ends nothing
of it is left at work on its machine.
"""

import ast
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from dsa110_contimg.core import places
from dsa110_contimg.core.options import OperationsOptions
from support.night import Operations, raw_groups

#: Calls that wait for somebody else, and must say for how long.
WAITING = (
    "run",
    "call",
    "check_output",
    "check_call",
    "urlopen",
    "SMTP",
    "SMTP_SSL",
    "communicate",
)


class Impatient(Operations):
    """A working folder whose runs wait for jobs at work for two seconds."""

    def command(self, *arguments, **options):
        values = {"close_after_s": 0, "min_free_gb": 0.1, "end_s": 2}
        known = {k: v for k, v in values.items() if k in OperationsOptions.model_fields}
        config = ["incoming=incoming", "inventory={wait_s: 0}", f"operations={json.dumps(known)}"]
        return [sys.executable, "-m", "dsa110_contimg", *arguments, "--config", *config]


@pytest.fixture
def night(tmp_path):
    made = Impatient.make(tmp_path / "work")
    raw_groups(made.incoming, 1)
    return made


def wait_for(condition, what, seconds=60):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {seconds} s")


def left(night, own):
    """Return the processes that stand in the working folder, but for one's own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            here = os.readlink(folder / "cwd")
            dead = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if here.startswith(str(night.path)) and not dead and int(folder.name) != own:
            found.append((folder / "cmdline").read_bytes())
    return found


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_run_ends_and_leaves_nothing_at_work(night, number):
    """Jobs take ten minutes; only the tick itself is told."""
    tick = night.start("tick", STUB_SECONDS="600")
    wait_for(lambda: any(kind == "begin" for kind, _ in night.ledger()), "work")
    os.kill(tick.pid, signal.Signals[number])
    wait_for(lambda: tick.poll() is not None, "end of the tick")
    wait_for(lambda: not left(night, tick.pid), "end of its jobs")
    tick.communicate(timeout=60)
    assert not list(night.results.rglob("failure*.json")), "being ended is no failure"
    assert night.call("tick")[0] == 0


def test_each_wait_for_another_program_has_an_end():
    endless = []
    for path in places.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value
            module = getattr(owner, "id", getattr(owner, "attr", ""))
            outside = module in ("subprocess", "request", "smtplib")
            named = {word.arg for word in node.keywords}
            if outside and node.func.attr in WAITING and "timeout" not in named:
                endless.append(f"{path.name}:{node.lineno}")
    assert not endless
