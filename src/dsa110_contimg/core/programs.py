"""Run external programs: time limit, own process group, watched log."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ContimgError, ToolAbsent, ToolError, ToolStopped, ToolTimeout, trouble_in

__all__ = [
    "ToolResult",
    "die_with_parent",
    "find_tool",
    "program",
    "run_as_program",
    "run_tool",
]

#: In front of a command: the kernel kills the program when the thread that started it is gone. A
#: killed step would leave an imager at work that writes where the next attempt does.
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


#: prctl(2): the signal that a process gets when the thread that forked it is gone.
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process, a forked worker, when its parent is gone.

    Without it workers of a killed process wait for ever for what it would have given them.

    Parameters
    ----------
    parent : int
        Process that forked this one; should it be gone already, this one ends at once.
    """
    with contextlib.suppress(AttributeError, OSError):  # not on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


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
    ToolAbsent
        If it is not installed, with the way to install it.
    """
    path = shutil.which(name)
    if path is None:
        raise ToolAbsent(
            f"{name} is not installed; install it with 'apt-get install {name}' "
            f"(or from conda) or './contimg setup', then run again"
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
    reached, when `watch` finds trouble, or when this process is interrupted. When this process is
    killed, the kernel kills the program, too.

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
        If the program is absent (`ToolAbsent`) or fails; `ToolStopped` if `watch` stopped it,
        `ToolTimeout` if the limit did.
    """
    name = Path(command[0]).name
    find_tool(command[0])  # says how to install it
    print("$ " + shlex.join(command), flush=True)
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=30)
    process = subprocess.Popen(
        [*_DIE_WITH_PARENT, *command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    output = process.stdout
    assert output is not None  # for it is a pipe
    expired = threading.Event()
    trouble: str | None = None

    def expire() -> None:
        expired.set()
        _kill_group(process)

    timer = threading.Timer(timeout_s, expire)
    timer.start()
    try:
        for line in output:
            print(line, end="", flush=True)
            tail.append(line.rstrip())
            if watch is not None and trouble is None and (trouble := watch(line)) is not None:
                _kill_group(process)
        status = process.wait()
    finally:
        timer.cancel()
        _kill_group(process)
        output.close()
    seconds = time.monotonic() - started
    if trouble is not None:
        raise ToolStopped(f"{name} was stopped: {trouble}")
    if expired.is_set():
        raise ToolTimeout(f"{name} was stopped after its time limit of {timeout_s:.0f} s")
    if status != 0:
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise ToolError(f"{name} failed ({how}): {_last_words(tail)}")
    return ToolResult(list(command), seconds, list(tail))


def _last_words(tail: Sequence[str]) -> str:
    """Return the line that says most of a failure: one that tells a known trouble, or the last."""
    lines = [line.strip(" +>") for line in reversed(tail)]
    words = [line for line in lines if any(map(str.isalpha, line))]
    return next((line for line in words if trouble_in(line)), next(iter(words), "no output"))


def _kill_group(process: subprocess.Popen) -> None:
    """Kill what is left of the program's process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def program(module: str, **arguments: Any) -> list[str]:
    """Return the command that runs a module of this package in a process of its own.

    CASA and python-casacore cannot share one. The module calls `run_as_program`.

    Parameters
    ----------
    module : str
        Full dotted name.
    **arguments
        Of its function, as JSON takes them; paths become text.
    """
    return [sys.executable, "-m", module, json.dumps(arguments, default=os.fspath)]


def run_as_program(function: Callable[..., None]) -> None:
    """Call a function with the arguments that `program` put on the command line.

    An error that a user can act on becomes the last line of the output, and the exit status.
    """
    try:
        function(**json.loads(sys.argv[1]))
    except ContimgError as error:
        print(error, flush=True)
        sys.exit(error.status)
