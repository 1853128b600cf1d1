"""``contimg upgrade``: what another release changes, a night of it to try, and its acceptance."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from ..core.errors import ConfigError, ToolError, ToolTimeout
from ..core.options import Config
from ..core.times import DAY_S, duration
from .configuration import at_home, config_options, read_config

__all__ = ["argparser", "main"]

#: Time limit of a night that is made again, s.
NIGHT_S = 2 * DAY_S


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg upgrade",
        description="Say in what the present release decides numbers differently from the one that "
        "the results folder was worked on with. With operations.upgrades: canary, ticks wait until "
        "a night that it made again (--canary) was accepted (--accept). Going back to an older "
        "release is the same.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--canary",
        nargs="?",
        const="",
        metavar="NIGHT",
        help="make a closed night again in a folder of its own, and compare it with the published "
        "one (default: the last that has its raw files and a calibration)",
    )
    what.add_argument("--accept", action="store_true", help="let the present release go on")
    parser.add_argument("--cores", default=None, help="cores to use (default: all)")
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Say, try, or accept."""
    from ..operations import release

    start = Path.cwd()
    config = at_home(read_config(args))
    if args.canary is not None:
        _try(args, config, start)
        return
    now, before = release.present(), release.recorded(config.results)
    print(f"results: {before.name if before else 'new'}; present release: {now.name}")
    differ = release.differences(before, now) if before else []
    for line in differ:
        print(f"  {line}")
    if args.accept:
        _accept(config, bool(differ))
    elif not differ:
        print("nothing that decides numbers differs")
    elif config.operations.upgrades == "automatic":
        print("the next tick goes on with it (operations.upgrades is automatic)")
    else:
        print("ticks wait: 'contimg upgrade --canary', then 'contimg upgrade --accept'")


def _try(args: argparse.Namespace, config: Config, start: Path) -> None:
    """Make a night again, and show how it differs; `start` is where options count from."""
    from ..operations import canary, release

    now = release.present()
    night = canary.choose(config, args.canary or None)
    folder = canary.folder_of(config, now)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"making {night} with release {now.name} in {folder}", flush=True)
    options = ["--configfile", str(args.configfile)] if args.configfile else []
    options += ["--cores", args.cores] if args.cores else []
    options += ["--config", *args.config, f"results={folder.absolute()}"]
    command = [sys.executable, "-m", "dsa110_contimg", "run", night, *options]
    try:
        status = subprocess.call(command, cwd=start, timeout=NIGHT_S)
    except subprocess.TimeoutExpired:
        raise ToolTimeout(f"{night}: was not made again within {duration(NIGHT_S)}") from None
    if status:
        raise ToolError(f"{night}: could not be made again (status {status}); see the lines above")
    for line in canary.table(canary.examine(config, now, night)):
        print(line)
    print("'contimg upgrade --accept' lets this release go on")


def _accept(config: Config, differs: bool) -> None:
    """Let the present release go on, if a night that it made again was compared."""
    from ..operations import canary, locking, release

    now = release.present()
    if not differs:
        print("nothing to accept: nothing that decides numbers differs")
        return
    found = canary.load(config, now)
    if found is None and not release.was_at_work(config.results, now):
        raise ConfigError(
            f"release {now.name} made no night again yet: 'contimg upgrade --canary' first"
        )
    with locking.hold(config.results, "upgrade"):
        release.accept(config, asdict(found) if found else None)
    print(f"accepted: release {now.name} goes on")
