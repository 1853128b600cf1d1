"""What the commands that call Snakemake share: options, targets, what is said of a plan."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import ConfigError, ToolTimeout
from ..core.files import scratch
from ..core.layout import Layout
from ..core.options import Config
from ..core.places import repository
from ..core.programs import find_tool
from ..core.times import GROUP_ID, NIGHT, night_mjd, night_of
from ..operations import failures, slurm
from .configuration import config_options

if TYPE_CHECKING:
    from ..operations.engine import Outcome
    from ..operations.planning import Plan

__all__ = [
    "check_tools",
    "engine_options",
    "files_of",
    "keep_failures",
    "nights_of",
    "on_cluster",
    "say",
    "say_plan",
    "snakemake",
    "snakemake_options",
    "target",
]


#: Time limit of a call of Snakemake that makes no product, s.
SNAKEMAKE_S = 3600


#: What becomes of a failure, by its state.
FATES = {
    failures.RETRIED: "tried again at once",
    failures.WAITING: "tried again",
    failures.QUARANTINED: "set aside",
}


def snakemake_options(args: argparse.Namespace) -> list[str]:
    """Return the options that hand the user's cores and profile to Snakemake."""
    options = ["--cores", args.cores] if args.cores else []
    if args.profile:
        options += ["--workflow-profile", str(args.profile)]
    return options


def _profile(name: str) -> Path:
    """Return the folder of the profile that was asked for: a path, or a name of one of ours."""
    ours = repository() / "profiles"
    for path in (ours / name, Path(name).absolute()):
        if path.is_dir():
            return path
    raise ConfigError(f"--profile: there is no folder {name}, nor {name} in {ours}")


def on_cluster(args: argparse.Namespace) -> bool:
    """Tell whether the profile that was asked for runs jobs on a cluster."""
    return args.profile is not None and slurm.serves(args.profile)


def snakemake(args: argparse.Namespace, config: Config, plan: Plan, *extra: str) -> int:
    """Run Snakemake for something that makes no product; return its exit status.

    It is handed the plan privately: another run may be at work.
    """
    from ..operations import engine, frozen

    sys.stdout.flush()
    with scratch("snakemake") as folder:
        places = frozen.freeze(config, plan, folder, folder / "inventory" / "inventory.json")
        options = [*snakemake_options(args), *frozen.options(folder)]
        command = [*engine.snakemake(), *extra, *options]
        try:
            return subprocess.call(command, env=os.environ | places, timeout=SNAKEMAKE_S)
        except subprocess.TimeoutExpired:
            raise ToolTimeout(
                f"snakemake was stopped after its time limit of {SNAKEMAKE_S} s"
            ) from None


def engine_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that go to Snakemake."""
    parser.add_argument("--cores", default=None, help="cores to use (default: all)")
    parser.add_argument(
        "--profile",
        type=_profile,
        default=None,
        metavar="NAME",
        help="where jobs run: 'slurm' for a cluster, or a folder with a Snakemake profile "
        "(default: this machine)",
    )
    config_options(parser)


def nights_of(names: list[str]) -> list[str] | None:
    """Return the nights that targets are of; None if one is of all nights."""
    nights = set()
    for name in names:
        if re.fullmatch(GROUP_ID, name):
            nights.add(night_of(name))
        elif found := re.search(rf"(?:^|/nights/)({NIGHT})(?:/|$)", name):
            nights.add(found[1])
        else:
            return None
    for night in nights:
        _check_date(night)
    return sorted(nights) or None


def _check_date(night: str) -> None:
    try:
        night_mjd(night)
    except ValueError:
        raise ConfigError(f"{night}: there is no such day") from None


def keep_failures(record: dict[str, Any], outcome: Outcome) -> None:
    """Say what failed and what becomes of it, and keep it in the record of the run."""
    for failure in (*outcome.retried, *outcome.failed):
        record["failures"].append(
            {key: getattr(failure, key) for key in ("rule", "what", "cause", "state", "message")}
            | {"attempts": failure.attempts}
        )
        attempt = f"attempt {failure.attempts}, {FATES[failure.state]}"
        print(f"{failure.rule} {failure.what}: {failure.message} ({failure.cause}; {attempt})")
    sys.stdout.flush()


def target(name: str) -> str:
    """Return a target that the user named: a group or night as it is, the full path of a file."""
    if re.fullmatch(f"{GROUP_ID}|{NIGHT}", name):
        return name
    folder, file = os.path.split(name)
    return os.path.join(os.path.realpath(folder), file)


def files_of(names: list[str], layout: Layout) -> list[str]:
    """Return the products that targets stand for, by the names that the engine knows them by."""
    files = []
    for name in names:
        if re.fullmatch(GROUP_ID, name):
            files.append(str(layout.group(name, "photometry.csv")))
        elif re.fullmatch(NIGHT, name):
            files.append(str(layout.night(name, "report.html")))
        else:
            files.append(os.path.relpath(name))
    return files


def say(line: str | None) -> None:
    """Print a line at once, if there is one."""
    if line:
        print(line, flush=True)


def say_plan(plan: Plan) -> None:
    """Print what the inventory holds, and what will not be worked on and why."""
    states = Counter(group.state for group in plan.inventory.groups)
    print(
        f"{len(plan.groups)} groups on {len({g.night for g in plan.groups.values()})} nights ("
        + ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
        + f"); calibrators: {', '.join(sorted(set(plan.calibration.transits.values()))) or 'none'}"
    )
    for file in plan.inventory.rejected:
        print(f"left out: {file['path']}: {file['reason']}")
    for group, reason in plan.calibration.refused.items():
        print(f"not imaged: {group}: {reason}")
    left_out = plan.set_aside | {what for _, what in plan.spared}
    for failure in plan.failures:
        if failure.quarantined and (failure.what in left_out or failure.is_lost):
            again = (
                f"; repeat it with 'contimg retry {failure.what}'" if not failure.is_lost else ""
            )
            print(f"set aside: {failure.what}: {failure.rule}: {failure.message}{again}")
    for night, tiles in plan.kept.items():
        print(
            f"kept as it is: {night}: its mosaic holds {', '.join(tiles)}, which cannot be had now"
        )
    sys.stdout.flush()


def check_tools(config: Config) -> None:
    """Raise `ToolError` if a program that the configuration needs is not installed."""
    if config.imaging.engine == "wsclean":
        find_tool("wsclean")
    if config.flagging.engine == "aoflagger":
        find_tool("aoflagger")
