"""Run external programs: time limit, own process group, watched log."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import ToolError, ToolStopped

__all__ = ["ToolResult", "find_tool", "run_tool"]


@dataclass(frozen=True)
class ToolResult:
    """What a finished program leaves: the command, its wall time and its last lines."""

    command: list[str]
    seconds: float
    tail: list[str]


def find_tool(name: str) -> str:
    """Return the path of a program.

    Raises
    ------
    ToolError
        If it is not installed, with the way to install it.
    """
    path = shutil.which(name)
    if path is None:
        raise ToolError(
            f"{name} is not installed; install it with 'apt-get install {name}' "
            f"(or from conda), then run again"
        )
    return path


def run_tool(
    command: list[str],
    *,
    timeout_s: float,
    cwd: str | os.PathLike | None = None,
    env: Mapping[str, str] | None = None,
    watch: Callable[[str], str | None] | None = None,
) -> ToolResult:
    """Run a program to its end, echoing its output to this process's standard output.

    The program gets its own process group, and the whole group is killed when the time limit is
    reached, when `watch` finds trouble, or when this process is interrupted.

    Parameters
    ----------
    command : list of str
        Program and arguments.
    timeout_s : float
        Wall-clock limit, seconds.
    cwd : path, optional
        Working directory.
    env : mapping, optional
        Variables on top of the environment.
    watch : callable, optional
        Called with each output line; a returned string is the reason to stop the program.

    Raises
    ------
    ToolError
        If the program is absent or fails; `ToolStopped` if `watch` or the limit stopped it.
    """
    name = Path(command[0]).name
    print("$ " + shlex.join(command), flush=True)
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=30)
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        find_tool(name)  # says how to install it
        raise
    expired = threading.Event()
    trouble: str | None = None

    def expire() -> None:
        expired.set()
        _kill_group(process)

    timer = threading.Timer(timeout_s, expire)
    timer.start()
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            tail.append(line.rstrip())
            if watch is not None and trouble is None and (trouble := watch(line)) is not None:
                _kill_group(process)
        status = process.wait()
    finally:
        timer.cancel()
        _kill_group(process)
    seconds = time.monotonic() - started
    if trouble is not None:
        raise ToolStopped(f"{name} was stopped: {trouble}")
    if expired.is_set():
        raise ToolStopped(f"{name} was stopped after its time limit of {timeout_s:.0f} s")
    if status != 0:
        last = next((text for text in reversed(tail) if text.strip()), "no output")
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise ToolError(f"{name} failed ({how}): {last.strip()}")
    return ToolResult(list(command), seconds, list(tail))


def _kill_group(process: subprocess.Popen) -> None:
    """Kill what is left of the program's process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
