"""``contimg watch``: look from outside, and tell."""

from __future__ import annotations

import argparse

from ..operations.publish import publish
from .configuration import config_options, read_config

__all__ = ["argparser", "main"]


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg watch",
        description="Write metrics and tell alerts, as ticks do of themselves, and also that no "
        "tick runs any more. Nothing is made. Start it every few minutes by a timer of its own, on "
        "this machine or, where the results are shared, on another.",
    )
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Look and tell."""
    publish(read_config(args), by_run=False)
