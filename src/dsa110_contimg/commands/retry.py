"""``contimg retry``: let work that was set aside be tried again."""

from __future__ import annotations

import argparse
import re

from ..core.errors import ConfigError
from ..core.layout import Layout
from ..core.times import GROUP_ID, NIGHT
from ..operations import failures
from .configuration import at_home, config_options, read_config
from .shared import nights_of


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg retry",
        description="Let work that was set aside be tried again by the next run or tick. Closed "
        "nights that hold some of it are opened again.",
    )
    parser.add_argument(
        "targets",
        nargs="+",
        help="group ids (20260213T043210), nights (2026-02-13), steps over all nights "
        "(lightcurves), or 'all'",
    )
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Remove records of failures."""
    from ..operations import closing, locking

    config = at_home(read_config(args))
    layout = Layout(config.results)
    everything = "all" in args.targets
    dated = [t for t in args.targets if re.fullmatch(f"{GROUP_ID}|{NIGHT}", t)]
    nights = closing.nights_on_disk(layout) if everything else nights_of(dated) or ()
    found = 0
    with locking.hold(config.results, "retry"):
        known = failures.read_all(layout, nights)
        steps = {f.what for f in known if not f.wildcards}
        for target in args.targets:
            if target not in {"all", *dated, *steps}:
                raise ConfigError(
                    f"retry: {target!r} is neither a group nor a night nor 'all', nor a step over "
                    f"all nights that failed"
                )
        for failure in known:
            night = failure.wildcards.get("night", "")
            if everything or {failure.what, night} & set(args.targets):
                found += 1
                failures.forget(layout, failure)
                again = night and closing.reopen(layout, night)
                print(
                    f"{failure.rule} {failure.what}" + (f"; {night} is open again" if again else "")
                )
    print(f"{found} failures forgotten; the next run or tick tries again")
    return 0
