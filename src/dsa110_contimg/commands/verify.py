"""``contimg verify``: check that products are what they were when they were made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from ..core.layout import Layout
from ..operations import verify
from .configuration import config_options, read_config

__all__ = ["argparser", "main"]


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg verify",
        description="Hold every product against the checksum of its making, and name what is "
        "damaged, missing, or vouched for by no sidecar. With --deep, make products again from "
        "what they were made from, in a scratch folder, and compare value by value.",
    )
    parser.add_argument(
        "products",
        nargs="*",
        metavar="PRODUCT",
        help="files, groups or nights; default: all",
    )
    parser.add_argument("--deep", action="store_true", help="make again and compare")
    parser.add_argument(
        "--night", action="append", metavar="NIGHT", help="only of this night (can be repeated)"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="only so many, taken at random")
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Check; return 1 if something is damaged or differs."""
    layout = Layout(read_config(args).results)
    damaged = _scrub(args, layout)
    if args.deep:
        damaged += _deep(args, layout)
    return int(damaged > 0)


def _scrub(args: argparse.Namespace, layout: Layout) -> int:
    """Hold products against their checksums; return how many are damaged."""
    whole = not (args.products or args.night or args.sample)
    found, before = verify.Findings(), verify.damaged_before(layout)
    checked: set[str] = set()
    for part in verify.scrub(layout, _places(args, layout), _say):
        for damage in part.damaged:
            print(damage)
        checked |= part.checked & before
        found.add(part)
    if whole:
        configurations = verify.check_configurations(layout)
        found.add(configurations)
        for damage in configurations.damaged:
            print(damage)
    for name in found.unknown:
        print(f"{name}: no sidecar vouches for it")
    verify.keep(layout, found, whole, checked)
    print(_summary(found), flush=True)
    return len(found.damaged)


def _places(args: argparse.Namespace, layout: Layout) -> Iterator[verify.Place]:
    if args.products:
        return verify.chosen(layout, args.products)
    if args.sample:
        return verify.sampled(layout, args.sample, args.night)
    return verify.places(layout, args.night)


def _summary(found: verify.Findings) -> str:
    words = [f"{found.n_products} products, {found.n_bytes / 1e9:.2f} GB"]
    words.append(f"{len(found.damaged)} damaged")
    if found.n_without:
        words.append(f"no sum recorded of {found.n_without} (made by an older release)")
    if found.unknown:
        words.append(f"{len(found.unknown)} files unknown")
    return ", ".join(words)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _deep(args: argparse.Namespace, layout: Layout) -> int:
    """Make products again; return how many differ."""
    from ..operations import remake

    count = {"equal": 0, "rounding": 0, "differs": 0, "impossible": 0}
    for result in remake.check(layout, _places(args, layout), _say):
        count[result.state] += 1
        print(result, flush=True)
    print(
        "{equal} equal, {rounding} equal to rounding, {differs} differ, "
        "{impossible} cannot be made again".format_map(count)
    )
    return count["differs"]
