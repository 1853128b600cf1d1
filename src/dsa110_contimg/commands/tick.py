"""``contimg tick``: what cron calls."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError, MachineError, message_of
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import night_of
from ..operations import failures
from .configuration import at_home, read_config
from .shared import (
    check_tools,
    engine_options,
    keep_failures,
    on_cluster,
    say,
    say_plan,
    snakemake_options,
)

if TYPE_CHECKING:
    from ..operations.engine import Engine
    from ..operations.planning import Plan


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg tick",
        description="What cron calls: run what is ready and not done, close nights that are over, "
        "leave. Exit status 0: nothing failed; 1: some job failed, and is tried again or set "
        "aside; 2 to 4 and 6: could not run; 5: another run is at work on the results folder.",
    )
    engine_options(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Run what is ready; hold the results folder with a lock that dies with its holder."""
    from ..core import runs
    from ..operations import (
        archive,
        closing,
        leftovers,
        locking,
        planning,
        publish,
        records,
        release,
        retention,
        space,
    )
    from ..operations.engine import Engine

    config = at_home(read_config(args))
    check_tools(config)
    engine = Engine(
        config,
        [*snakemake_options(args), "--keep-going", "--rerun-incomplete"],
        deadline=time.monotonic() + config.operations.budget_s,
        cluster=on_cluster(args),
    )
    plan = trouble = None
    try:
        with locking.hold(config.results, "tick", partial(publish.watch, config)):
            say(release.admit(config))
            leftovers.remove_stale(config, closing.open_nights(engine.layout))
            leftovers.set_times_right(config)
            retention.daily(config)  # first, for it may make the room that is wanted
            records.daily(config)
            space.check_space(config)
            engine.settle()  # before the record: a cluster that is away would gather those
            plan = planning.make_plan(config)
            with runs.recorded(config, "tick", []) as record:
                record["exit_status"], plan = _tick(engine, plan, record)
        archive.daily(config)  # not holding the folder: data that arrive meanwhile are worked on
        return record["exit_status"]
    except (ConfigError, MachineError, OSError) as error:
        trouble = message_of(error)
        raise
    finally:
        # Also a tick that finds the folder held tells how things are: a run that hangs may not.
        publish.publish(config, plan=plan, trouble=trouble)


def _tick(engine: Engine, plan: Plan, record: dict[str, Any]) -> tuple[int, Plan]:
    """Make the tiles that can be made, then close the nights that can be closed.

    Returns
    -------
    status : int
        0 when nothing failed.
    plan : Plan
        What there is to do now.
    """
    from ..operations import frozen, planning, space

    held = engine.settle()
    for name, why in held.items():
        print(f"held back: {name or 'what is made of all nights'}: {why}", flush=True)
    work = _missing(plan, engine.layout, held)
    if work:
        say_plan(plan)
    status, waiting = 0, set()
    for night, missing in work.items():
        room = space.check_space(engine.config, [plan.groups[g] for g in missing])
        if room < len(missing):
            print(f"{night}: the disk has room for {room} of {len(missing)} tiles", flush=True)
        targets = [path for group in list(missing)[:room] for path in missing[group]]
        outcome = engine.make(plan, targets, frozen.needed_for(plan, night))
        keep_failures(record, outcome)
        status = status or outcome.status
        waiting |= {f.wildcards.get("night") for f in outcome.failed if not f.quarantined}
        if outcome.stopped or engine.out_of_time or room < len(missing):
            return status, planning.make_plan(engine.config)
    if work:
        plan = planning.make_plan(engine.config)
    held = engine.settle()  # also what was given up meanwhile
    waiting |= set(plan.nights) if "" in held else {night_of(n) if "T" in n else n for n in held}
    over = [
        night
        for night in plan.nights
        if night not in waiting and _can_close(plan, night, engine.config)
    ]
    if not over:
        return status, plan
    status = _close(engine, plan, over, record) or status
    return status, planning.make_plan(engine.config)


def _missing(plan: Plan, layout: Layout, held: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Return the products of tiles that are not there, by night and group; none of those held."""
    from ..operations import targets

    found: dict[str, dict[str, list[str]]] = {}
    for group in plan.groups.keys() - held:
        wanted = targets.tile_targets(plan, layout, [group])
        if missing := [path for path in wanted if not os.path.exists(path)]:
            found.setdefault(night_of(group), {})[group] = missing
    return found


def _can_close(plan: Plan, night: str, config: Config) -> bool:
    """Tell whether a night is over, all of it has arrived, and no failure of it may yet pass."""
    from ..operations import closing

    collecting = any(g.night == night and g.state == "collecting" for g in plan.inventory.groups)
    hoping = any(f.wildcards.get("night") == night and failures.may_pass(f) for f in plan.failures)
    return (
        not collecting
        and not hoping
        and closing.is_over(night, time.time(), config.operations.close_after_s)
    )


def _close(engine: Engine, plan: Plan, nights: list[str], record: dict[str, Any]) -> int:
    """Make what the nights that are over still lack, and all that rests on them; close them."""
    from ..operations import closing, planning

    config, layout = engine.config, engine.layout
    if any(not f.wildcards and f.what in plan.set_aside for f in plan.failures):
        return 0  # without light curves and index no night can be completed
    status = 0
    while nights:
        print(f"closing {', '.join(nights)}", flush=True)
        plan = planning.make_plan(config, nights)
        outcome = engine.make(plan, [])
        keep_failures(record, outcome)
        if not outcome.status:
            for night in nights:
                closing.write(layout, planning.summary(plan, layout, night))
                _clear_up(layout, night)
            return status
        status = outcome.status
        failed = {f.wildcards.get("night") for f in outcome.failed}
        if outcome.stopped or not failed or None in failed:
            return status
        # Those that did not fail are complete by now, unless they rest on one that did.
        nights = [night for night in nights if night not in failed]
    return status


def _clear_up(layout: Layout, night: str) -> None:
    """Remove calibrated data of a run that was killed between the image and its own clearing up."""
    for left in layout.night(night, "groups").glob("*/*.cal.ms"):
        shutil.rmtree(left)
