"""One run at a time on a results folder, and none of the dead.

The lock is the kernel's: it dies with its holder, also when that is killed. Beside it the file
``.lock`` names the holder, and a watcher, a process of the holder's own, touches it at every beat:
a machine that the kernel's lock does not reach sees by that who is at work. When the holder is
gone, however it went, the watcher ends the jobs that it left on this machine. They carry the id of
the results folder and that of the hold in their environment; should the watcher have been killed,
too, the next holder ends them before it starts its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from ..core.errors import BusyError, MachineError
from ..core.files import write_text
from ..core.times import duration, utc_of_unix

__all__ = [
    "HELD",
    "LEASE_S",
    "held",
    "hold",
    "holder",
    "identity",
    "kill_jobs",
    "kill_orphans",
    "say",
]

#: Environment variable of a run and its jobs: ``<id of the results folder>/<id of the hold>``.
HELD = "CONTIMG_HOLDS"
#: Time between two signs of life, s.
BEAT_S = 20.0
#: Time without a sign of life after which a holder on another machine is taken for dead, s.
LEASE_S = 300.0
#: Longest wait for the watcher's end, s. It may hang in what a network file system does not answer.
PATIENCE_S = 5.0

#: Lock files that this process has open: a forked process must not keep the lock of a dead holder.
_locks: set[TextIO] = set()


def _close_locks() -> None:
    for file in _locks:
        file.close()
    _locks.clear()


os.register_at_fork(after_in_child=_close_locks)


@contextlib.contextmanager
def hold(
    results: Path, command: str, look: Callable[[dict[str, str]], None] | None = None
) -> Iterator[None]:
    """Hold a results folder; end what a killed predecessor left running.

    Parameters
    ----------
    results : path
        The results folder; made if it is absent.
    command : str
        What holds it, for those who find it held.
    look : callable, optional
        What the watcher calls again and again while the folder is held, with what was told it
        (`say`). It takes its time itself, must not raise, and is ended with the hold.

    Raises
    ------
    BusyError
        If another run holds it.
    MachineError
        If the folder cannot be written to, or its file system has no locks.
    """
    with _open(results) as file:
        if before := _take(file, results):
            print(f"{_told(before, file)} did not end: it was killed; this run goes on", flush=True)
        me = _myself(command)
        _write(file, me)
        folder = _made_identity(results)
        kill_orphans(results)
        os.environ[HELD] = f"{folder}/{me['hold']}"
        global _watcher
        _watcher = _Watcher(file, me, look)
        try:
            yield
        finally:
            _watcher.stop()
            _watcher = None
            del os.environ[HELD]
            _locks.discard(file)
            with contextlib.suppress(OSError):  # a full disk took the name before, too
                if _read(file).get("hold") == me["hold"]:
                    file.truncate(0)


def held(results: Path) -> bool:
    """Tell whether this process works for the holder of a results folder."""
    folder = os.environ.get(HELD, "").partition("/")[0]
    return bool(folder) and folder == identity(results)


def say(**facts: str) -> None:
    """Tell the watcher of this process's hold what it should know; nothing without one."""
    if _watcher is not None:
        _watcher.say(facts)


# --- the lock -------------------------------------------------------------------------------------


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


def _take(file: TextIO, results: Path) -> dict[str, Any]:
    """Take the lock, or say who has it; return whom it names that did not come to let it go."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(
            f"{results}: {_told(_read(file), file)} is at work on this results folder; nothing done"
        ) from None
    except OSError as error:
        raise MachineError(
            f"{results}: its file system has no locks ({error.strerror}); mount it with them (NFS "
            f"version 4, Lustre with -o flock), or put the results elsewhere"
        ) from None
    _locks.add(file)
    who = _read(file)
    silent_s = abs(time.time() - os.fstat(file.fileno()).st_mtime)
    if who and who["host"] != socket.gethostname() and silent_s < LEASE_S:
        _locks.discard(file)
        raise BusyError(
            f"{results}: {_told(who, file)} was at work on this results folder {silent_s:.0f} s "
            f"ago; nothing done. If it was killed, this machine takes over {LEASE_S / 60:.0f} min "
            f"after its last sign of life; if it works, locks of this file system do not reach "
            f"from machine to machine"
        )
    return who


def _myself(command: str) -> dict[str, Any]:
    pid = os.getpid()
    return {
        "command": command,
        "pid": pid,
        "started": _started(pid),
        "host": socket.gethostname(),
        "boot": _boot(),
        "since": time.time(),
        "hold": uuid.uuid4().hex[:12],
    }


def _write(file: TextIO, who: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(who) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _read(file: TextIO) -> dict[str, Any]:
    """Return whom a lock file names; nothing for one that names nobody."""
    file.seek(0)
    return _parse(file.read())


def _parse(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, TypeError):
        who = json.loads(text)
        if {"command", "pid", "host"} <= who.keys():
            return dict(who)
    return {}


def _told(who: dict[str, Any], file: TextIO) -> str:
    if not who:
        return "another run"
    since = f" since {utc_of_unix(who['since'])}" if "since" in who else ""
    silent_s = time.time() - os.fstat(file.fileno()).st_mtime
    silent = f", silent for {duration(silent_s)}" if silent_s > LEASE_S else ""
    return f"'contimg {who['command']}' (process {who['pid']} on {who['host']}{since}{silent})"


def _boot() -> str:
    """Return what differs from one start of a machine to the next."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Return when a process began, in ticks since the start of the machine; None if it is gone.

    A process number is given again; number and time are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def holder(results: Path) -> dict[str, Any] | None:
    """Return who holds a results folder; None if nobody does.

    ``command``, ``pid``, ``host``, ``since`` and ``seen``, its last sign of life, in seconds since
    1970. The lock itself is not tried: even that would turn away a run that begins at this moment.
    A holder on another machine is believed while there are signs of life.
    """
    path = results / ".lock"
    try:
        who = _parse(path.read_text(encoding="utf-8"))
        seen = path.stat().st_mtime
    except OSError:
        return None
    if not who:
        return None
    if who["host"] != socket.gethostname():
        alive = abs(time.time() - seen) < LEASE_S
    else:
        began = _started(who["pid"])
        alive = began is not None and who.get("started", began) == began
        alive = alive and who.get("boot", _boot()) == _boot()
    return {"since": seen} | who | {"seen": seen} if alive else None


# --- whose jobs -----------------------------------------------------------------------------------


def identity(results: Path) -> str | None:
    """Return the id of a results folder, the same wherever it is mounted; None if it has none yet.

    A copy of the folder has none: it would take the jobs of the original for its own.
    """
    try:
        content = json.loads((results / ".id").read_text(encoding="utf-8"))
        return str(content["id"]) if content["inode"] == results.stat().st_ino else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _made_identity(results: Path) -> str:
    """Return the id of a results folder; make it if there is none. Only the holder may do so."""
    if (known := identity(results)) is None:
        known = uuid.uuid4().hex[:12]
        content = {"id": known, "inode": results.stat().st_ino}
        write_text(results / ".id", json.dumps(content) + "\n")
    return known


def kill_orphans(results: Path) -> int:
    """End processes that work for a dead holder of a results folder; return how many.

    Only the present holder may call this: whoever else carries the mark works for nobody.
    """
    return _kill(f"{HELD}={identity(results)}/")


def kill_jobs() -> int:
    """End all processes that work for this process's hold; return how many."""
    return _kill(f"{HELD}={os.environ[HELD]}")


def _kill(mark: str) -> int:
    """End the processes of this machine whose environment has a variable that begins so."""
    killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid in (os.getpid(), os.getppid()):
            continue
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            if any(variable.startswith(mark.encode()) for variable in variables):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed


# --- the watcher ----------------------------------------------------------------------------------


class _Watcher:
    """A process beside a holder that shows its life, and clears up behind it.

    Parameters
    ----------
    file : file
        The lock file.
    me : dict
        What it holds.
    look : callable, optional
        See `hold`.
    """

    def __init__(
        self,
        file: TextIO,
        me: dict[str, Any],
        look: Callable[[dict[str, str]], None] | None = None,
    ) -> None:
        path = Path(file.name).absolute()
        ours, self.end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.end)
            try:
                _watch(ours, path, me, look)
            finally:
                os._exit(1)
        os.close(ours)
        os.register_at_fork(after_in_child=self._let_go)

    def _let_go(self) -> None:
        """Let go of the pipe, the end of which tells the watcher of the holder's."""
        if self.end >= 0:
            os.close(self.end)
            self.end = -1

    def say(self, facts: dict[str, str]) -> None:
        """Send the watcher some facts; if it is gone, nobody is told."""
        with contextlib.suppress(OSError):
            os.write(self.end, json.dumps(facts).encode() + b"\n")

    def stop(self) -> None:
        """End the watcher, which ends what the holder left running."""
        self._let_go()
        until = time.monotonic() + PATIENCE_S
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                break
            time.sleep(0.005)


#: Of the hold of this process.
_watcher: _Watcher | None = None


def _watch(
    pipe: int, lock: Path, me: dict[str, Any], look: Callable[[dict[str, str]], None] | None
) -> None:
    """Be the watcher, until the holder lets go of the other end of the pipe."""
    os.setsid()  # what is sent to the holder's group is not for us
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # What this process sees is what somebody else would, not the holder.
    mark = os.environ.pop(HELD)
    facts: dict[str, str] = {}

    def attend() -> None:
        while True:
            if not select.select([pipe], [], [], BEAT_S)[0]:
                _beat(lock, me)
            elif words := os.read(pipe, 65536):
                for line in words.splitlines():
                    facts.update(json.loads(line))
            else:
                break
        _kill(f"{HELD}={mark}")
        os._exit(0)

    if look is None:
        attend()
    threading.Thread(target=attend, daemon=True).start()
    while look is not None:
        look(facts)


def _beat(lock: Path, me: dict[str, Any]) -> None:
    """Show that the holder lives; end it, if another machine saw no sign of life and took over."""
    with contextlib.suppress(OSError):
        if _parse(lock.read_text(encoding="utf-8")).get("hold") == me["hold"]:
            os.utime(lock)
        else:
            os.write(2, f"contimg: {lock}: another run has taken over; this one ends\n".encode())
            os.kill(me["pid"], signal.SIGKILL)
