"""Errors that end a step with one plain line, and the causes behind them.

A `ContimgError` is for what a user can act on: it names the file, the cause and the remedy, and the
command line prints it without a traceback. Troubles of the machine (a full disk, a file that may
not be read, too little memory) are recognised whatever raised them, for the libraries underneath
tell them in many ways. Anything else that escapes a step is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "MARK",
    "BusyError",
    "ConfigError",
    "ContimgError",
    "DataError",
    "EngineError",
    "MachineError",
    "SpaceError",
    "Stopped",
    "ToolAbsent",
    "ToolError",
    "ToolStopped",
    "ToolTimeout",
    "Trouble",
    "cause_of",
    "message_of",
    "missing_module",
    "status_of",
    "trouble_in",
]

#: Begin of the last line that a failed step writes, for programs: after it comes a JSON object
#: with ``cause``, ``message`` and ``status``.
MARK = "contimg-failure: "


class ContimgError(Exception):
    """A failure that a user can act on; the message is one line."""

    #: Exit status of the command line.
    status = 1
    #: What is to blame, see `cause_of`.
    cause = "data"


class ConfigError(ContimgError):
    """A wrong configuration: unknown key, wrong type, missing folder."""

    status = 2
    cause = "config"


class DataError(ContimgError):
    """An input file that cannot be used."""

    status = 3


class ToolError(ContimgError):
    """An external program that is absent, failed, hung or diverged."""

    status = 4
    cause = "compute"


class ToolAbsent(ToolError):
    """An external program that is not installed."""

    cause = "transient"


class ToolStopped(ToolError):
    """An external program that we stopped: it exceeded its time limit or was seen to diverge."""


class ToolTimeout(ToolStopped):
    """An external program that exceeded its time limit."""


class BusyError(ContimgError):
    """Another run holds the results folder."""

    status = 5
    cause = "transient"


class MachineError(ContimgError):
    """The machine lacks what the work needs: space on the disk, permission, memory."""

    status = 6
    cause = "transient"


class SpaceError(MachineError):
    """Too little space on the disk to begin."""


class EngineError(ContimgError):
    """Snakemake ended without a failed job: it could not tell what to do, or how."""

    status = 7
    cause = "bug"


class Stopped(BaseException):
    """Request to end (SIGTERM). No `Exception`: nothing but the command line handles it."""


@dataclass(frozen=True)
class Trouble:
    """A trouble of the machine.

    Attributes
    ----------
    cause : {"transient", "compute"}
        Whether it passes with the state of the machine, or belongs to the computation.
    what : str
        What it is.
    remedy : str
        What to do.
    pattern : str
        Regular expression, of lower case, for how programs and libraries put it.
    """

    cause: str
    what: str
    remedy: str
    pattern: str


_FULL = Trouble(
    "transient",
    "disk full",
    "free space (see 'contimg clean' and 'contimg purge'); the next run tries again",
    "no space left on device|not enough space on disk|disk( is)? full",
)
_QUOTA = Trouble(
    "transient",
    "disk quota exceeded",
    "free space or ask for a larger quota; the next run tries again",
    "disk quota exceeded|file too large",
)
_READ_ONLY = Trouble(
    "transient",
    "read-only file system",
    "make it writable (a disk with errors is mounted so, see 'dmesg'); the next run tries again",
    "read-only file system|readonly database",
)
_PERMISSION = Trouble(
    "transient",
    "permission denied",
    "check owner and mode of file and folder; the next run tries again",
    "permission denied|operation not permitted",
)
_IO = Trouble(
    "transient",
    "input/output error",
    "check the disk ('dmesg') or the file server; the next run tries again",
    "input/output error|disk i/o error|stale (nfs )?file handle|transport endpoint"
    "|remote i/o error|host is down",
)
_FILES = Trouble(
    "transient",
    "too many open files",
    "raise the limit ('ulimit -n'); the next run tries again",
    "too many open files",
)
_MEMORY = Trouble(
    "compute",
    "out of memory",
    "give the job more memory, or run fewer at once",
    "bad_alloc|cannot allocate memory|out of memory|unable to allocate|could not allocate"
    "|failed to map segment",
)
_KILLED = Trouble(
    "compute",
    "killed from outside",
    "most often for lack of memory: give the job more, or run fewer at once",
    "signal sigkill|process in the process pool was terminated abruptly",
)
#: What casacore, CFITSIO and WSClean say when they cannot write, whatever the reason.
_WRITE = Trouble(
    "transient",
    "cannot write",
    "check space, owner and mode of the folder; the next run tries again",
    "write error|error writing (to|data)|cannot be created|couldn't create the named file"
    "|unable to open database file",
)
#: In order of trust: the last says the least.
_TROUBLES = (
    _FULL,
    _QUOTA,
    _READ_ONLY,
    _PERMISSION,
    _IO,
    _FILES,
    _MEMORY,
    _KILLED,
    _WRITE,
)
_BY_NUMBER = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _QUOTA,
    errno.EFBIG: _QUOTA,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EIO: _IO,
    errno.ESTALE: _IO,
    errno.EREMOTEIO: _IO,
    errno.EHOSTDOWN: _IO,
    errno.ENOTCONN: _IO,
    errno.ETIMEDOUT: _IO,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
}
_VANISHED = Trouble(
    "transient", "no such file", "it may have been moved meanwhile; the next run tries again", "$^"
)
_NO_MODULE = Trouble(
    "transient", "a package is missing", "see 'contimg check'; the next run tries again", "$^"
)


def trouble_in(text: str) -> Trouble | None:
    """Return the trouble of the machine that a program's output tells of, if any."""
    lower = text.lower()
    return next((t for t in _TROUBLES if re.search(t.pattern, lower)), None)


def missing_module(name: str) -> str:
    """Return what is to blame for a module that cannot be imported: of this package it is a bug."""
    return "bug" if name.split(".")[0] == __name__.split(".")[0] else _NO_MODULE.cause


def cause_of(error: BaseException) -> str:
    """Return what is to blame for an exception.

    Parameters
    ----------
    error : BaseException
        As it escaped a step.

    Returns
    -------
    str
        ``transient``: the machine's state, which passes or is put right; ``compute``: a program
        crashed, hung, or ran out of memory; ``data``: the input cannot be used; ``config``: a
        wrong option; ``bug``: none of these.
    """
    if isinstance(error, Stopped):
        return "transient"
    if trouble := _trouble(error):
        return trouble.cause
    return error.cause if isinstance(error, ContimgError) else "bug"


def status_of(error: BaseException) -> int:
    """Return the exit status of an exception: that of its class, or 6 for the machine's."""
    if isinstance(error, ContimgError):
        return error.status
    if isinstance(error, Stopped):
        return 128 + 15  # as the shell tells of SIGTERM
    return MachineError.status if _trouble(error) else 1


def message_of(error: BaseException) -> str:
    """Return an exception as one line: the file, what happened, and what to do."""
    if isinstance(error, Stopped):
        return "stopped by SIGTERM (the run was cancelled, or its time was up)"
    text = " ".join(str(error).split())
    trouble = _trouble(error)
    if trouble is None:
        return text if isinstance(error, ContimgError) else f"{type(error).__name__}: {text}"
    if isinstance(error, MachineError):  # has its remedy
        return text
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {trouble.what}; {trouble.remedy}"
    if isinstance(error, ContimgError):
        named = trouble.what in text.lower()
        return f"{text}; {trouble.remedy}" if named else f"{text}; {trouble.what}: {trouble.remedy}"
    shown = f" ({text[:300]})" if text else ""
    return f"{trouble.what}{shown}; {trouble.remedy}"


def _trouble(error: BaseException) -> Trouble | None:
    """Return the trouble that an exception, or one that it was raised upon, tells of."""
    if trouble := next((t for link in _chain(error) if (t := _own_trouble(link))), None):
        return trouble
    # An absent file that a step foresaw is its own matter: a wrong path, a product to remake.
    return _VANISHED if isinstance(error, FileNotFoundError) else None


def _own_trouble(error: BaseException) -> Trouble | None:
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, ModuleNotFoundError):  # of our own modules it is a bug
        return _NO_MODULE if missing_module(error.name or "") == _NO_MODULE.cause else None
    if isinstance(error, OSError) and error.errno in _BY_NUMBER:
        return _BY_NUMBER[error.errno]
    return trouble_in(str(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those it was raised upon, also with ``from None``."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
