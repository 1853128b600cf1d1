"""``contimg run``: run the workflow on what is in the incoming folder."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError, EngineError, ToolError
from ..core.files import replacing
from ..core.layout import Layout
from ..core.options import Config
from ..core.times import NIGHT
from ..operations import slurm
from .configuration import at_home, read_config, take_ours
from .shared import (
    check_tools,
    engine_options,
    files_of,
    keep_failures,
    nights_of,
    on_cluster,
    say,
    say_plan,
    snakemake,
    snakemake_options,
    target,
)

if TYPE_CHECKING:
    from ..operations.planning import Plan

WORKFLOW_REPORT = "workflow-report.html"


class _RunParser(argparse.ArgumentParser):
    """Parser that leaves what follows ``--`` to Snakemake, but for what is the launcher's own."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        cut = args.index("--") if "--" in args else len(args)
        ours, others = take_ours(args[cut + 1 :])
        namespace, unknown = super().parse_known_args([*args[:cut], *ours], namespace)
        if unknown:
            self.error(f"no option {unknown[0]}; one of Snakemake's goes after --, see --help")
        namespace.snakemake = others
        return namespace


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = _RunParser(
        prog="contimg run",
        description="Run the workflow on what is in the incoming folder.",
        epilog="What follows -- goes to Snakemake: './contimg run -- --dry-run' lists what would "
        "be done, './contimg run -- --forcerun image' images everything again. Configuration, "
        "profile and cores mean the same before and after it.",
    )
    parser.add_argument(
        "targets",
        nargs="*",
        type=target,
        help="group ids (20260213T043210), nights (2026-02-13) or products; default: all that is "
        "new. With --campaign: what to make once more",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help=f"at the end, gather pages and statistics in one file, {WORKFLOW_REPORT} in the "
        "results folder; what could not be made is left out",
    )
    parser.add_argument(
        "--recalibrate",
        action="store_true",
        help="choose calibrations anew, also for groups that have one; what changes is remade",
    )
    engine_options(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Check, plan, and hand over to Snakemake."""
    from ..core import runs
    from ..operations import asked, leftovers, locking, planning, publish, release, space

    config = at_home(read_config(args, begin=True))
    check_tools(config)
    if args.recalibrate:
        os.environ[planning.RECALIBRATE] = "1"
    nights = nights_of(args.targets)
    if args.campaign and nights is None:
        nights = _campaign_nights(config, args.campaign)
    plan = planning.make_plan(config, nights)
    asked.check(args.targets, plan, config)
    say_plan(plan)
    if {"-n", "--dry-run", "--dryrun"} & set(args.snakemake):
        targets = _files(args, Layout(config.results))
        return snakemake(args, config, plan, *targets, *args.snakemake)
    with locking.hold(config.results, "run", partial(publish.watch, config)):
        leftovers.set_times_right(config)
        space.check_space(config)
        say(release.admit(config))
        if on_cluster(args):
            slurm.settle(config.results)
        planning.sound_plan(config, nights)
        with runs.recorded(config, "run", args.targets) as record:
            status = record["exit_status"] = _rounds(args, config, nights, record)
        if args.report:
            _report(args, config, planning.make_plan(config, nights))
        return status


def _campaign_nights(config: Config, name: str) -> list[str]:
    """Return the nights of a campaign, where none is named."""
    from ..operations import closing

    if nights := closing.nights_on_disk(Layout(config.results)):
        return nights
    raise ConfigError(f"--campaign {name}: it has no nights yet; name those to make once more")


def _files(args: argparse.Namespace, layout: Layout) -> list[str]:
    """Return the products that were asked for; none for all of the plan, as where nights were."""
    if all(re.fullmatch(NIGHT, name) for name in args.targets):
        return []
    return files_of(args.targets, layout)


def _report(args: argparse.Namespace, config: Config, plan: Plan) -> None:
    """Gather the pages that there are, and statistics of all jobs, in one file."""
    out = config.results / WORKFLOW_REPORT
    with replacing(out) as temporary:
        options = ("--report", str(temporary), "--quiet", "all")
        if status := snakemake(args, config, plan, *options):
            raise ToolError(f"{out}: snakemake --report ended with {status}; its message is above")
    print(f"report: {out}", flush=True)


def _rounds(
    args: argparse.Namespace, config: Config, nights: list[str] | None, record: dict[str, Any]
) -> int:
    """Run Snakemake until all is done, or what failed is set aside, or needs more than patience."""
    from ..operations import planning
    from ..operations.engine import Engine

    options = [*snakemake_options(args), *args.snakemake]
    plain = not (args.targets or args.snakemake)
    engine = Engine(config, options, cluster=on_cluster(args), watched=plain)
    targets = _files(args, engine.layout)
    while True:
        plan = planning.make_plan(config, nights)
        outcome = engine.make(plan, targets)
        keep_failures(record, outcome)
        if not outcome.status or outcome.stopped:
            return outcome.status
        after = planning.make_plan(config, nights)
        lost = after.calibration.candidates != plan.calibration.candidates
        if lost and not outcome.failed:
            print("a calibration failed its gate; the next in line serves in its place", flush=True)
        # Each round rules something out, or uses up one of a job's attempts: there is an end.
        again = [f for f in outcome.failed if not f.quarantined and f.cause != "transient"]
        less = (after.set_aside, after.spared) != (plan.set_aside, plan.spared)
        if outcome.status == EngineError.status or not (lost or again or less):
            return outcome.status
