"""``contimg archive``: copy closed nights to a second place."""

from __future__ import annotations

import argparse
import time

from ..core.errors import DataError
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import duration
from .configuration import at_home, config_options, read_config

__all__ = ["argparser", "main"]

_GB = 1e9


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg archive",
        description="Copy raw files (and products, if the configuration says so) of closed nights "
        "to 'archive.target', and read the copies back. Lists what there is to do; copies only "
        "with --yes. What was interrupted goes on where it was.",
    )
    parser.add_argument("--yes", action="store_true", help="copy what is listed")
    parser.add_argument(
        "--night", action="append", metavar="NIGHT", help="this night only (may be repeated)"
    )
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """List, or copy, what is not in the archive."""
    from ..operations import archive

    config = at_home(read_config(args))
    nights = _nights(config, args.night)
    if not args.yes:
        n_files = n_bytes = 0
        for night in nights:
            items = archive.pending(config, night)
            size = sum(item.size for item in items)
            if items:
                print(f"{night}: {len(items)} files, {size / _GB:.3f} GB")
            n_files, n_bytes = n_files + len(items), n_bytes + size
        print(f"{n_files} files, {n_bytes / _GB:.3f} GB, to archive (repeat with --yes)")
        return
    started, n_files, n_bytes = time.monotonic(), 0, 0
    with archive.hold(config):
        for done in archive.archive(config, nights):
            n_files, n_bytes = n_files + done.files, n_bytes + done.n_bytes
            rate = n_bytes / max(1e-3, time.monotonic() - started)
            print(
                f"{done.night}: {done.files} files copied and read back; "
                f"{done.files_left} to go, {duration(done.bytes_left / max(1.0, rate))}",
                flush=True,
            )
    print(f"{n_files} files, {n_bytes / _GB:.3f} GB, archived")


def _nights(config: Config, asked: list[str] | None) -> list[str]:
    """Return the closed nights that were asked for, or all."""
    from ..operations import closing

    closed = closing.closed_nights(Layout(config.results))
    for night in asked or ():
        if night not in closed:
            raise DataError(f"--night: {night} is no closed night of {config.results}")
    return sorted(set(asked)) if asked else closed
