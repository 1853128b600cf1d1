"""One run at a time on a results folder, and none of the dead.

The lock is the kernel's: it dies with its holder, also when that is killed. A holder that was
killed may leave jobs behind that still write; they carry the results folder in their environment,
and the next holder ends them before it starts its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ..core.errors import BusyError, MachineError

__all__ = ["HELD", "held", "hold", "holder", "kill_orphans"]

#: Environment variable of a run and its jobs: the results folder they work on.
HELD = "CONTIMG_HOLDS"


@contextlib.contextmanager
def hold(results: Path, command: str) -> Iterator[None]:
    """Hold a results folder; end what a killed predecessor left running.

    Parameters
    ----------
    results : path
        The results folder; made if it is absent.
    command : str
        What holds it, for those who find it held.

    Raises
    ------
    BusyError
        If another run holds it.
    MachineError
        If the folder cannot be written to.
    """
    with _open(results) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{results}: {_holder(file)} is at work on this results folder; nothing done"
            ) from None
        file.seek(0)
        file.truncate()
        me = {"command": command, "pid": os.getpid(), "host": socket.gethostname()}
        file.write(json.dumps(me) + "\n")
        file.flush()
        kill_orphans(results)
        os.environ[HELD] = str(results.absolute())
        try:
            yield
        finally:
            del os.environ[HELD]
            with contextlib.suppress(OSError):  # a full disk took the name before, too
                file.truncate(0)


def held(results: Path) -> bool:
    """Tell whether this process works for the holder of a results folder."""
    return os.environ.get(HELD) == str(results.absolute())


def _open(results: Path) -> TextIO:
    path = results / ".lock"
    try:
        results.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise MachineError(
            f"{results}: cannot write to the results folder ({error.strerror}); check its owner, "
            f"its file system and the space on it"
        ) from None


def _holder(file: TextIO) -> str:
    """Name the holder that a lock file tells of."""
    file.seek(0)
    try:
        who = json.loads(file.read())
        return f"'contimg {who['command']}' (process {who['pid']} on {who['host']})"
    except (ValueError, KeyError, TypeError):
        return "another run"


def holder(results: Path) -> dict[str, Any] | None:
    """Return who holds a results folder: ``command``, ``pid``, ``host``, ``since``; None if nobody.

    The lock itself is not tried: even that would turn away a run that begins at this moment. A
    holder on another machine is believed.
    """
    path = results / ".lock"
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        here = who["host"] == socket.gethostname()
        if here and not Path(f"/proc/{who['pid']}").exists():
            return None
        return who | {"since": path.stat().st_mtime}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def kill_orphans(results: Path) -> int:
    """End processes that work for a dead holder of a results folder; return how many.

    Only the present holder may call this: whoever else carries the mark works for nobody.
    """
    mark = f"{HELD}={results.absolute()}".encode()
    killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed
