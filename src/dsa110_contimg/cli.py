"""Command line for people: ``contimg <command>``, or ``python -m dsa110_contimg <command>``.

Each module of `commands` offers ``argparser()`` and ``main(args)``; only the one that is asked for
is imported. The steps of the chain are programs of their own, ``workflow/scripts/<step>.py``.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys

from . import __version__
from .core import credentials
from .core.steps import guarded

#: What each command does; its module has its name.
COMMANDS = {
    "run": "run the workflow on what is in the incoming folder",
    "tick": "what cron calls: run what is ready, then leave",
    "retry": "let work that was set aside be tried again",
    "status": "say how things are: groups by state, ages, failures, disk",
    "watch": "look at it from outside and tell: also that nothing runs",
    "check": "check environment, configuration and disk",
    "clean": "remove what killed jobs left behind (lists it first)",
    "archive": "copy closed nights to a second place (lists them first)",
    "purge": "remove what old nights no longer need (lists it first)",
    "inventory": "list the groups in the incoming folder and their states",
    "report": "write the pages over all nights",
    "catalog": "make a reference catalogue from a CSV or from a survey by name",
    "verify": "check that products are what they were when they were made",
    "outdated": "list what the present release would make differently",
    "export": "write VOTables, ObsCore records, coverage maps, regions",
    "upgrade": "say what another release changes; try it on a night; accept it",
    "lineage": "show what a product or a light-curve point was made from",
    "recall": "show everything that was made with a calibration or raw file",
    "simulate": "write UVH5 files of a known sky, as the correlator does",
    "demo": "simulate nights and run the whole chain on them",
}


#: What the shell script `contimg` does itself.
LAUNCHERS = {
    "setup": "install what is needed; --profile NAME: for a cluster, too; --test: for the tests",
    "test": "run the tests",
    "exec": "run a program in the environment",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : list of str, optional
        Arguments without the program name; `sys.argv` when absent.

    Returns
    -------
    int
        Exit status: 0 done, 1 to 6 as in `dsa110_contimg.core.errors`, 130 interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    credentials.take()
    if not argv or argv[0] not in COMMANDS:
        return _overview(argv)
    name, *arguments = argv

    def work() -> int | None:
        command = importlib.import_module(f".commands.{name}", __package__)
        parser = command.argparser()
        parser.allow_abbrev = False  # what the launcher's shell part looks for is written in full
        status: int | None = command.main(parser.parse_args(arguments))
        return status

    return guarded(name, work, for_programs=False)


def _overview(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="contimg",
        description="Continuum imaging of the DSA-110.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands (each has its own --help):\n"
        + "\n".join(f"  {name:<12} {text}" for name, text in (LAUNCHERS | COMMANDS).items())
        + "\n\nThe steps of the chain are programs of their own, workflow/scripts/<step>.py; the "
        "log\nof a job begins with the line that repeats it.",
    )
    parser.add_argument("--version", action="version", version=f"contimg {__version__}")
    parser.add_argument("command", help="one of the commands below")
    if not argv:
        parser.print_help()
        return 2
    args, _ = parser.parse_known_args(argv)
    close = difflib.get_close_matches(args.command, COMMANDS, 1)
    hint = f"; did you mean {close[0]!r}?" if close else "; see contimg --help"
    print(f"contimg: no command {args.command!r}{hint}", file=sys.stderr)
    return 2
