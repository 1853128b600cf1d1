"""What every step script does: read its arguments, end in order, and tell why it failed.

A script is thin: ``argparser()`` gives its arguments, ``main(args)`` makes one call into the
package. It imports what it calls within ``main``, so that a package that cannot be imported is told
like any other failure, and ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .errors import MARK, Stopped, cause_of, message_of, status_of
from .files import read_lines

__all__ = ["FROM_FILE", "guarded", "parser", "run"]

#: What comes before the name of a file with further arguments, a line each: a command line ends at
#: 128 kB, as the shell of a job has it.
FROM_FILE = "--arguments-from"

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def parser(step: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a step's parser, without arguments yet; its help begins with `doc`."""
    return argparse.ArgumentParser(
        prog=step, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def run(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], Any],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a step.

    Parameters
    ----------
    parser : ArgumentParser
        As `parser` returns it, with the step's arguments.
    main : callable
        Does the work, given the arguments.
    argv : sequence of str, optional
        Arguments without the program name; `sys.argv` when absent. Two of them, `FROM_FILE` and a
        name, stand for the lines of a file.

    Returns
    -------
    int
        Exit status: 0 done, 1 to 6 as in `errors`, 130 interrupted, 143 terminated.
    """
    words = _with_files(parser, sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)

    def work() -> None:
        from .config import resolved
        from .provenance import calling

        if argv is None:  # what repeats it, in the log
            print("$ " + shlex.join(["python", *sys.argv]), flush=True)
        with _ending_in_order(), calling([parser.prog, *words], resolved(args)):
            main(args)

    return guarded(parser.prog, work, for_programs=not sys.stderr.isatty())


def _with_files(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Return arguments with the lines of files in the place of their names."""
    words: list[str] = []
    given = iter(argv)
    for word in given:
        if word != FROM_FILE:
            words.append(word)
            continue
        try:
            words += read_lines(next(given, ""))
        except OSError as error:
            parser.error(f"{FROM_FILE}: {error.filename}: {error.strerror}")
    return words


def guarded(name: str, work: Callable[[], int | None], for_programs: bool) -> int:
    """Do some work; say why it failed, if it does; return the exit status.

    Parameters
    ----------
    name : str
        Of the step or command.
    work : callable
        Returns an exit status, or nothing for 0.
    for_programs : bool
        Whether a failure is told in a line for the launcher, too.
    """
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT, force=True)
    try:
        return work() or 0
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130
    except (Exception, Stopped) as error:
        _tell(name, error, for_programs)
        return status_of(error)


def _tell(name: str, error: BaseException, for_programs: bool) -> None:
    """Say why something failed: in one line for people, and in one for the launcher.

    A full disk may take the log, too: that is no reason for a second error.
    """
    cause, message = cause_of(error), message_of(error)
    with contextlib.suppress(OSError, ValueError):
        if cause == "bug":
            traceback.print_exception(error)
        print(f"contimg {name}: {message}", file=sys.stderr)
        if for_programs:
            mark = {"cause": cause, "message": message, "status": status_of(error)}
            sys.stdout.flush()
            print(MARK + json.dumps(mark), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a step that is asked to end stop its programs and remove what it has not finished."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    me = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() == me:
            raise Stopped
        signal.signal(number, signal.SIG_DFL)  # a worker has nothing to put in order
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
