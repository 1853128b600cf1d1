"""``contimg purge``: remove what old nights no longer need."""

from __future__ import annotations

import argparse
import functools

from ..core.errors import ConfigError
from ..core.options import Config
from ..operations import archive, locking
from ..operations.retention import BULKY, LOGS, NightPurge, plan_purge, purge
from .configuration import at_home, config_options, read_config

__all__ = ["argparser", "main"]

_GB = 1e9


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg purge",
        description="Remove what the configuration's section 'retention' lets go of closed nights. "
        "Lists it, and what stays though it is old enough; deletes only with --yes.",
    )
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="raw files, too, as old as retention.raw_days says, of which 'contimg archive' "
        "verified a copy",
    )
    parser.add_argument(
        "--without-archive",
        action="store_true",
        help="with --raw: delete raw files though no archive is configured and no copy is known",
    )
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """List, or delete, what the policy lets go."""
    config = at_home(read_config(args))
    if args.raw and args.campaign:
        raise ConfigError("--raw: raw files are those of the results, not of a campaign")
    if args.raw:
        _check_raw(config, args.without_archive)
    rules = (*BULKY[:-1], *(["raw_days"] if args.raw else []), *LOGS)
    guard = None if args.without_archive else functools.partial(archive.archived, config)
    if not args.yes:
        plans = plan_purge(config, rules, guard)
        _list(plans)
        print(f"{_total(plans)} to remove (repeat with --yes)")
        return
    with locking.hold(config.results, "purge"):
        plans = plan_purge(config, rules, guard)
        _list(plans)
        purge(config, plans)
    print(f"{_total(plans)} removed")


def _check_raw(config: Config, without_archive: bool) -> None:
    """Raise `ConfigError` unless it is clear that raw files may go, and what is left of them."""
    if config.retention.raw_days is None:
        raise ConfigError("retention.raw_days is not set: raw files are kept for ever")
    if config.archive.target is None and not without_archive:
        raise ConfigError(
            "archive.target is not set: no copy of the raw files is known; set it and run "
            "'contimg archive', or repeat with --without-archive to lose them for good"
        )
    if config.archive.target is not None and without_archive:
        raise ConfigError(
            f"--without-archive: archive.target is set ({config.archive.target}); leave it out"
        )


def _list(plans: list[NightPurge]) -> None:
    for plan in plans:
        for removal in plan.removals:
            rule = f"retention.{removal.rule}"
            print(f"{removal.n_bytes / _GB:9.3f} GB  {removal.path}  ({rule})")
        for reason in dict.fromkeys(kept.reason for kept in plan.kept):
            print(f"    stays     {reason}")


def _total(plans: list[NightPurge]) -> str:
    removals = [removal for plan in plans for removal in plan.removals]
    n_bytes = sum(removal.n_bytes for removal in removals)
    return f"{len(removals)} files and folders, {n_bytes / _GB:.3f} GB,"
