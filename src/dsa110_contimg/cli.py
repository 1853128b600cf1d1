"""Command line: ``python -m dsa110_contimg <step> ...``.

Only the module of the step that is asked for is imported, for every job of the workflow pays its
start-up. Each step module offers ``argparser()`` and ``main(args)``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import threading
import traceback

from . import __version__
from .errors import MARK, Stopped, cause_of, message_of, status_of

#: step -> (module, what it does). Order is that of the chain.
STEPS = {
    "simulate": ("simulation", "write UVH5 files of a known sky, as the correlator does"),
    "inventory": ("ingest", "list the groups in the incoming folder and their states"),
    "group": ("ingest", "combine the subbands of a group into one virtual UVH5 file"),
    "convert": ("conversion", "convert a group to a flagged Measurement Set"),
    "calibrate": ("calibration", "solve delay, bandpass and gains on a calibrator transit"),
    "apply": ("apply", "apply a calibration and average"),
    "image": ("imaging", "image a calibrated tile"),
    "photometry": ("photometry", "measure every catalogued source in an image"),
    "mosaic": ("mosaic", "co-add tiles"),
    "joint": ("joint", "image a field from the visibilities of its tiles together"),
    "blind": ("blind", "search a mosaic for sources that the catalogue does not have"),
    "lightcurves": ("lightcurves", "combine the nights into light curves and rank variables"),
    "candidate-plots": ("candidateplots", "draw light curves and cut-outs of the candidates"),
    "qa": ("qa", "judge a night from the sidecars of its products"),
    "index": ("index", "build the SQLite index of all products from their sidecars"),
    "tile-report": ("tilereport", "write the page of a tile and its pictures"),
    "calibration-report": ("tilereport", "write the page of a calibration"),
    "mosaic-view": ("tilereport", "write the small copy of a mosaic that pages show"),
    "report": ("report", "write the report page of a night"),
}
#: Commands for people, in modules of their own.
COMMANDS = {
    "run": ("launcher", "run the workflow on what is in the incoming folder"),
    "tick": ("launcher", "what cron calls: run what is ready, then leave"),
    "retry": ("launcher", "let work that was set aside be tried again"),
    "status": ("monitoring", "say how things are: groups by state, ages, failures, disk"),
    "check": ("launcher", "check environment, configuration and disk"),
    "clean": ("housekeeping", "remove what killed jobs left behind (lists it first)"),
    "purge": ("housekeeping", "remove what old nights no longer need (lists it first)"),
    "catalog": ("references", "make a reference catalogue from a CSV or from a survey by name"),
    "export": ("vo", "write VOTables, ObsCore records, coverage maps, regions, source lists"),
    "lineage": ("index", "show what a product or a light-curve point was made from"),
    "recall": ("index", "show everything that was made with a calibration or raw file"),
    "demo": ("launcher", "simulate two nights and run the whole chain on them"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one step.

    Parameters
    ----------
    argv : list of str, optional
        Arguments without the program name; `sys.argv` when absent.

    Returns
    -------
    int
        Exit status: 0 done, 1 to 6 as in `dsa110_contimg.errors`, 130 interrupted, 143 terminated.
    """
    argv = sys.argv[1:] if argv is None else argv
    known = STEPS | COMMANDS
    if not argv or argv[0] not in known:
        return _overview(argv)
    name = argv[0]
    is_step = name in STEPS
    try:
        module = importlib.import_module(f".{known[name][0]}", __package__)
        parsers = getattr(module, "PARSERS", None)  # modules with several commands
        parser, run = parsers[name] if parsers else (module.argparser, module.main)
        args = parser().parse_args(argv[1:])
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
        )
        with _ending_in_order() if is_step else contextlib.nullcontext():
            return run(args) or 0
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130
    except (Exception, Stopped) as error:
        _tell(name, error, for_programs=is_step and not sys.stderr.isatty())
        return status_of(error)


def _tell(name: str, error: BaseException, for_programs: bool) -> None:
    """Say why a step failed: in one line for people, and in one for the launcher.

    A full disk may take the log, too: that is no reason for a second error.
    """
    cause, message = cause_of(error), message_of(error)
    with contextlib.suppress(OSError, ValueError):
        if cause == "bug":
            traceback.print_exception(error)
        print(f"contimg {name}: {message}", file=sys.stderr)
        if for_programs:
            told = {"cause": cause, "message": message, "status": status_of(error)}
            sys.stdout.flush()
            print(MARK + json.dumps(told), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _ending_in_order():
    """Let a step that is asked to end stop its programs and remove what it has not finished."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    me = os.getpid()

    def stop(number, frame):
        if os.getpid() == me:
            raise Stopped
        signal.signal(number, signal.SIG_DFL)  # a worker has nothing to put in order
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _overview(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="contimg",
        description="Continuum imaging of the DSA-110.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {n:<12} {text}" for n, (_, text) in COMMANDS.items())
        + "\n\nsteps of the chain (the workflow calls them; each has its own --help):\n"
        + "\n".join(f"  {n:<12} {text}" for n, (_, text) in STEPS.items()),
    )
    parser.add_argument("--version", action="version", version=f"contimg {__version__}")
    parser.add_argument("command", help="one of the commands or steps below")
    if not argv:
        parser.print_help()
        return 2
    args, _ = parser.parse_known_args(argv)
    import difflib

    close = difflib.get_close_matches(args.command, STEPS | COMMANDS, 1)
    hint = f"; did you mean {close[0]!r}?" if close else "; see contimg --help"
    print(f"contimg: no command {args.command!r}{hint}", file=sys.stderr)
    return 2
