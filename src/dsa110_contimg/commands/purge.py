"""``contimg purge``: remove what old nights no longer need."""

from __future__ import annotations

import argparse

from ..core.errors import ConfigError
from ..operations import locking
from ..operations.retention import Removal, plan_purge, purge
from .configuration import at_home, config_options, read_config

__all__ = ["argparser", "main"]

_GB = 1e9


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg purge",
        description="Remove what the configuration's section 'retention' lets go of closed nights. "
        "Lists it; deletes only with --yes.",
    )
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    parser.add_argument(
        "--raw", action="store_true", help="raw files, too, as old as retention.raw_days says"
    )
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """List, or delete, what the policy lets go."""
    config = at_home(read_config(args))
    if args.raw and config.retention.raw_days is None:
        raise ConfigError("retention.raw_days is not set: raw files are kept for ever")
    if not args.yes:
        removals = plan_purge(config, args.raw)
        _list(removals)
        print(f"{_total(removals)} to remove (repeat with --yes)")
        return
    with locking.hold(config.results, "purge"):
        removals = plan_purge(config, args.raw)
        _list(removals)
        purge(config, removals)
    print(f"{_total(removals)} removed")


def _list(removals: list[Removal]) -> None:
    for removal in removals:
        print(f"{removal.n_bytes / _GB:9.3f} GB  {removal.path}  (retention.{removal.rule})")


def _total(removals: list[Removal]) -> str:
    n_bytes = sum(removal.n_bytes for removal in removals)
    return f"{len(removals)} files and folders, {n_bytes / _GB:.3f} GB,"
