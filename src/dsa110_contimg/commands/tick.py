"""``contimg tick``: what cron calls."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError, EngineError, MachineError, message_of
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import night_of
from ..operations import damage, failures
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
    from ..operations.failures import Failure
    from ..operations.planning import Plan


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg tick",
        description="What cron calls: run what is ready and not done, close nights that are over, "
        "leave. Exit status 0: nothing failed; 1: some job failed, and is tried again or set "
        "aside; 2 to 4 and 6: could not run; 5: another run is at work on the results folder; "
        "7: Snakemake itself failed, not a job.",
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
        notes,
        planning,
        publish,
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
            leftovers.remove_stale(config, closing.open_nights(engine.layout))
            leftovers.set_times_right(config)
            retention.daily(config)  # first, for it may make the room that is wanted
            notes.daily(config)
            space.check_space(config)
            say(release.admit(config))
            engine.settle()  # before the record: a cluster that is away would gather those
            plan = planning.sound_plan(config)
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
    from ..operations import planning, space

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
        outcome = engine.make(plan, targets, night)
        keep_failures(record, outcome)
        status = max(status, outcome.status)
        waiting |= {f.wildcards.get("night") for f in outcome.failed if _holds_up(f)}
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
        return max(status, _restore(engine, plan, record)), plan
    status = max(status, _close(engine, plan, over, record))
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


def _holds_up(failure: Failure) -> bool:
    """Tell whether a night waits for a failure: science rests on it, and it is tried again."""
    return not failure.quarantined and failure.rule not in failures.DECORATION


def _can_close(plan: Plan, night: str, config: Config) -> bool:
    """Tell whether a night is over, all of it has arrived, and no failure of it may yet pass."""
    from ..operations import closing

    collecting = any(g.night == night and g.state == "collecting" for g in plan.inventory.groups)
    hoping = any(
        f.wildcards.get("night") == night
        and f.rule not in failures.DECORATION
        and failures.may_pass(f)
        for f in plan.failures
    )
    return (
        not collecting
        and not hoping
        and closing.is_over(night, time.time(), config.operations.close_after_s)
    )


def _close(engine: Engine, plan: Plan, nights: list[str], record: dict[str, Any]) -> int:
    """Make what the nights that are over still lack, and all that rests on them; close them.

    A night that fails holds up no other. Where what is to be shown of them fails, it is tried again
    at once, then left out. Without light curves nights get all that is their own, and stay open.
    """
    from ..operations import closing, planning, targets

    config, layout = engine.config, engine.layout
    status = 0
    while nights:
        plan = planning.make_plan(config, nights)
        wanted: list[str] = []
        if without := "lightcurves" in plan.set_aside:
            own = targets.all_targets(plan, layout)
            wanted = [path for path in own if not os.path.exists(path)]
            if not wanted:
                return status
        print(f"closing {', '.join(nights)}", flush=True)
        outcome = engine.make(plan, wanted, nights[0] if len(nights) == 1 else "")
        keep_failures(record, outcome)
        status = max(status, outcome.status)
        if outcome.stopped:
            return status
        if outcome.status == EngineError.status:
            return max(status, _close_apart(engine, plan, nights, record))
        held = {
            f.wildcards.get("night") for f in outcome.failed if f.rule not in failures.DECORATION
        }
        if None in held:
            return status
        if held:
            # Those that did not fail are complete by now, unless they rest on one that did.
            nights = [night for night in nights if night not in held]
        elif not outcome.failed:  # else again, until it is made or left out
            if not without:
                for night in nights:
                    closing.write(layout, planning.summary(plan, layout, night))
                    _clear_up(layout, night)
            return status
    return status


def _close_apart(engine: Engine, plan: Plan, nights: list[str], record: dict[str, Any]) -> int:
    """Close nights one by one, of which some keep Snakemake from working on all of them."""
    if len(nights) == 1:
        return 0
    failures.clear(engine.layout, {"rule": failures.WORKFLOW, "wildcards": {}})
    return max(_close(engine, plan, [night], record) for night in nights)


def _restore(engine: Engine, plan: Plan, record: dict[str, Any]) -> int:
    """Make products of all nights together that are not there, or failed and may be tried again."""
    from ..operations import planning, targets

    lost = plan.measured and any(map(_is_lost, targets.science_targets(plan, engine.layout)))
    left_out = plan.set_aside | {what for _, what in plan.spared}
    again = any(not f.wildcards and f.what not in left_out for f in plan.failures)
    if not (lost or again):
        return 0
    plan = planning.make_plan(engine.config, [])
    if not (wanted := targets.science_targets(plan, engine.layout)):
        return 0
    outcome = engine.make(plan, wanted)
    keep_failures(record, outcome)
    return outcome.status


def _is_lost(path: str) -> bool:
    """Tell whether a product is not there; sidecars that releases before did not write may lack."""
    if os.path.exists(path):
        return False
    return not path.endswith(".json") or os.path.exists(path + damage.ENDING)


def _clear_up(layout: Layout, night: str) -> None:
    """Remove what a closed night needs no more.

    Calibrated data are left by a run that was killed between the image and its own clearing up;
    damaged files were kept for people to look at, until their successors stand.
    """
    for left in layout.night(night, "groups").glob("*/*.cal.ms"):
        shutil.rmtree(left)
    for path in damage.set_aside(layout, [night]):
        if path.exists():
            path.with_name(path.name + damage.ENDING).unlink()
