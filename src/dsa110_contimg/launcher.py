"""Commands for people: run, tick, retry, check, demo.

They decide what Snakemake is asked for and say what came of it; the work itself is that of the
rules.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from . import __version__, failures, slurm
from .config import REPO, Config, load_config
from .errors import ConfigError, ContimgError, MachineError, ToolError, message_of
from .external import find_tool
from .products import GROUP_ID, NIGHT, Layout, night_of, replacing

if TYPE_CHECKING:
    from .engine import Engine, Outcome
    from .planning import Plan

DEMO_FOLDER = Path("demo")
WORKFLOW_REPORT = "workflow-report.html"
#: What becomes of a failure, by its state.
FATES = {
    failures.RETRIED: "tried again at once",
    failures.WAITING: "tried again",
    failures.QUARANTINED: "set aside",
}


def config_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that `read_config` reads."""
    parser.add_argument(
        "--configfile",
        type=Path,
        metavar="FILE",
        help="configuration on top of the repository's config/config.yaml",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="single values on top of that, e.g. incoming=/data/incoming results=/data/results",
    )


def read_config(args: argparse.Namespace) -> Config:
    """Return the validated configuration that Snakemake will see, too."""
    values: dict[str, Any] = {}
    for path in filter(None, (REPO / "config/config.yaml", args.configfile)):
        try:
            with open(path, encoding="utf-8") as file:
                _merge(values, yaml.safe_load(file) or {})
        except FileNotFoundError:
            raise ConfigError(f"--configfile: there is no file {path}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {_in_line(error)}") from None
    for item in args.config:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--config: {item!r} is not KEY=VALUE")
        try:
            _merge(values, {key: yaml.safe_load(value)})
        except yaml.YAMLError as error:
            raise ConfigError(f"--config: {item!r}: not valid YAML: {_in_line(error)}") from None
    return load_config(values)


def _in_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def _merge(values: dict, more: dict) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _snakemake_options(args: argparse.Namespace) -> list[str]:
    """Return the options that hand the user's configuration, cores and profile to Snakemake."""
    options = ["--cores", args.cores] if args.cores else []
    if profile := _profile(args):
        options += ["--workflow-profile", str(profile)]
    if args.configfile:
        options += ["--configfile", str(args.configfile)]
    if args.config:
        options += ["--config", *args.config]
    return options


def _profile(args: argparse.Namespace) -> Path | None:
    """Return the folder of the profile that was asked for: a path, or a name of one of ours."""
    if not args.profile:
        return None
    for path in (REPO / "profiles" / args.profile, Path(args.profile)):
        if path.is_dir():
            return path
    raise ConfigError(
        f"--profile: there is no folder {args.profile}, nor {args.profile} in {REPO / 'profiles'}"
    )


def _on_cluster(args: argparse.Namespace) -> bool:
    profile = _profile(args)
    return profile is not None and slurm.serves(profile)


def _snakemake(args: argparse.Namespace, *extra: str) -> int:
    """Run Snakemake for something that makes no product; return its exit status."""
    from .engine import SNAKEMAKE

    sys.stdout.flush()
    return subprocess.call([*SNAKEMAKE, *extra, *_snakemake_options(args)])


def _engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cores", default=None, help="cores to use (default: all)")
    parser.add_argument(
        "--profile",
        default=None,
        metavar="NAME",
        help="where jobs run: 'slurm' for a cluster, or a folder with a Snakemake profile "
        "(default: this machine)",
    )
    config_options(parser)


# run


class _RunParser(argparse.ArgumentParser):
    """Parser that leaves what follows ``--`` to Snakemake."""

    def parse_args(self, args, namespace=None):
        args = list(args)
        cut = args.index("--") if "--" in args else len(args)
        namespace = super().parse_args(args[:cut], namespace)
        namespace.snakemake = args[cut + 1 :]
        return namespace


def _run_parser() -> argparse.ArgumentParser:
    parser = _RunParser(
        prog="contimg run",
        description="Run the workflow on what is in the incoming folder.",
        epilog="What follows -- goes to Snakemake as it is: './contimg run -- --dry-run' lists "
        "what would be done, './contimg run -- --forcerun image' images everything again.",
    )
    parser.add_argument(
        "targets",
        nargs="*",
        help="group ids (20260213T043210), nights (2026-02-13) or files; default: everything",
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
    _engine_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Check, plan, and hand over to Snakemake."""
    from . import housekeeping, locking, planning, runs

    config = read_config(args)
    check_tools(config)
    if args.recalibrate:
        os.environ[planning.RECALIBRATE] = "1"
    nights = _nights(args.targets)
    plan = planning.make_plan(config, nights)
    _say_plan(plan)
    if {"-n", "--dry-run", "--dryrun"} & set(args.snakemake):
        os.environ[planning.FROZEN] = str(planning.freeze(plan, Layout(config.results)))
        return _snakemake(args, *_targets(args.targets, Layout(config.results)), *args.snakemake)
    with locking.hold(config.results, "run"):
        housekeeping.set_times_right(config)
        housekeeping.check_space(config)
        if _on_cluster(args):
            slurm.cancel_orphans(config.results)
        with runs.recorded(config, "run", args.targets) as record:
            status = record["exit_status"] = _rounds(args, config, nights, record)
        if args.report:
            _report(args, config)
        return status


def _nights(names: list[str]) -> list[str] | None:
    """Return the nights that targets are of; None if they are not all groups and nights."""
    nights = set()
    for name in names:
        if not re.fullmatch(f"{GROUP_ID}|{NIGHT}", name):
            return None
        nights.add(name if re.fullmatch(NIGHT, name) else night_of(name))
    return sorted(nights) or None


def _report(args: argparse.Namespace, config: Config) -> None:
    """Gather the pages that there are, and statistics of all jobs, in one file."""
    out = config.results / WORKFLOW_REPORT
    with replacing(out) as temporary:
        if status := _snakemake(args, "--report", str(temporary), "--quiet", "all"):
            raise ToolError(f"{out}: snakemake --report ended with {status}; its message is above")
    print(f"report: {out}", flush=True)


def _rounds(
    args: argparse.Namespace, config: Config, nights: list[str] | None, record: dict[str, Any]
) -> int:
    """Run Snakemake until all is done, or what failed is set aside, or needs more than patience."""
    from . import planning
    from .engine import Engine

    options = [*_snakemake_options(args), *args.snakemake]
    engine = Engine(config, options, cluster=_on_cluster(args))
    targets = _targets(args.targets, engine.layout)
    while True:
        plan = planning.make_plan(config, nights)
        outcome = engine.make(plan, targets)
        _keep(record, outcome)
        if not outcome.status or outcome.stopped:
            return outcome.status
        after = planning.make_plan(config, nights)
        lost = after.calibration.candidates != plan.calibration.candidates
        if lost and not outcome.failed:
            print("a calibration failed its gate; the next in line serves in its place", flush=True)
        # Each round rules something out, or uses up one of a job's attempts: there is an end.
        again = [f for f in outcome.failed if not f.quarantined and f.cause != "transient"]
        if not (lost or again or after.set_aside != plan.set_aside):
            return outcome.status


def _keep(record: dict[str, Any], outcome: Outcome) -> None:
    """Say what failed and what becomes of it, and keep it in the record of the run."""
    for failure in (*outcome.retried, *outcome.failed):
        record["failures"].append(
            {key: getattr(failure, key) for key in ("rule", "what", "cause", "state", "message")}
            | {"attempts": failure.attempts}
        )
        attempt = f"attempt {failure.attempts}, {FATES[failure.state]}"
        print(f"{failure.rule} {failure.what}: {failure.message} ({failure.cause}; {attempt})")
    sys.stdout.flush()


def _targets(names: list[str], layout: Layout) -> list[str]:
    files = []
    for name in names:
        if re.fullmatch(GROUP_ID, name):
            files.append(str(layout.group(name, "photometry.csv")))
        elif re.fullmatch(NIGHT, name):
            files.append(str(layout.night(name, "report.html")))
        else:
            files.append(name)
    return files


def _say_plan(plan: Plan) -> None:
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
    for failure in plan.failures:
        if failure.what in plan.set_aside:
            print(
                f"set aside: {failure.what}: {failure.rule}: {failure.message}; repeat it with "
                f"'contimg retry {failure.what}'"
            )
    sys.stdout.flush()


def check_tools(config: Config) -> None:
    """Raise `ToolError` if a program that the configuration needs is not installed."""
    if config.imaging.engine == "wsclean":
        find_tool("wsclean")
    if config.flagging.engine == "aoflagger":
        find_tool("aoflagger")


# tick


def _tick_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg tick",
        description="What cron calls: run what is ready and not done, close nights that are over, "
        "leave. Exit status 0: nothing failed; 1: some job failed, and is tried again or set "
        "aside; 2 to 4 and 6: could not run; 5: another run is at work on the results folder.",
    )
    _engine_options(parser)
    return parser


def tick(args: argparse.Namespace) -> int:
    """Run what is ready; hold the results folder with a lock that dies with its holder."""
    from . import closing, housekeeping, locking, monitoring, planning, runs
    from .engine import Engine

    config = read_config(args)
    check_tools(config)
    engine = Engine(
        config,
        [*_snakemake_options(args), "--keep-going", "--rerun-incomplete"],
        deadline=time.monotonic() + config.operations.budget_s,
        cluster=_on_cluster(args),
    )
    plan = trouble = None
    try:
        with locking.hold(config.results, "tick"):
            housekeeping.remove_stale(config, closing.open_nights(engine.layout))
            housekeeping.set_times_right(config)
            housekeeping.daily(config)  # first, for it may make the room that is wanted
            housekeeping.check_space(config)
            if engine.cluster:  # before the record: a cluster that is away would gather those
                slurm.cancel_orphans(config.results)
            plan = planning.make_plan(config)
            with runs.recorded(config, "tick", []) as record:
                record["exit_status"], plan = _tick(engine, plan, record)
            return record["exit_status"]
    except (MachineError, OSError) as error:
        trouble = message_of(error)
        raise
    finally:
        # Also a tick that finds the folder held tells how things are: nobody else can tell of a run
        # that does not end.
        monitoring.publish(config, plan=plan, trouble=trouble)


def _tick(engine: Engine, plan: Plan, record: dict[str, Any]) -> tuple[int, Plan]:
    """Make the tiles that can be made, then close the nights that can be closed.

    Returns
    -------
    status : int
        0 when nothing failed.
    plan : Plan
        What there is to do now.
    """
    from . import housekeeping, planning

    work = _missing(plan, engine.layout)
    if work:
        _say_plan(plan)
    status, waiting = 0, set()
    for night, missing in work.items():
        room = housekeeping.check_space(engine.config, [plan.groups[g] for g in missing])
        if room < len(missing):
            print(f"{night}: the disk has room for {room} of {len(missing)} tiles", flush=True)
        targets = [path for group in list(missing)[:room] for path in missing[group]]
        outcome = engine.make(plan, targets)
        _keep(record, outcome)
        status = status or outcome.status
        waiting |= {f.wildcards.get("night") for f in outcome.failed if not f.quarantined}
        if outcome.stopped or engine.out_of_time or room < len(missing):
            return status, planning.make_plan(engine.config)
    if work:
        plan = planning.make_plan(engine.config)
    over = [
        night
        for night in plan.nights
        if night not in waiting and _can_close(plan, night, engine.config)
    ]
    if not over:
        return status, plan
    status = _close(engine, plan, over, record) or status
    return status, planning.make_plan(engine.config)


def _missing(plan: Plan, layout: Layout) -> dict[str, dict[str, list[str]]]:
    """Return the products of tiles that are not there, by night and group."""
    from . import planning

    found: dict[str, dict[str, list[str]]] = {}
    for group in plan.groups:
        targets = planning.tile_targets(plan, layout, [group])
        if missing := [path for path in targets if not os.path.exists(path)]:
            found.setdefault(night_of(group), {})[group] = missing
    return found


def _can_close(plan: Plan, night: str, config: Config) -> bool:
    """Tell whether a night is over, all of it has arrived, and no failure of it may yet pass."""
    from . import closing

    collecting = any(g.night == night and g.state == "collecting" for g in plan.inventory.groups)
    hoping = any(f.wildcards.get("night") == night and failures.may_pass(f) for f in plan.failures)
    return (
        not collecting
        and not hoping
        and closing.is_over(night, time.time(), config.operations.close_after_s)
    )


def _close(engine: Engine, plan: Plan, nights: list[str], record: dict[str, Any]) -> int:
    """Make what the nights that are over still lack, and all that rests on them; close them."""
    from . import closing, planning

    config, layout = engine.config, engine.layout
    if any(not f.wildcards and f.what in plan.set_aside for f in plan.failures):
        return 0  # without light curves and index no night can be completed
    status = 0
    while nights:
        print(f"closing {', '.join(nights)}", flush=True)
        plan = planning.make_plan(config, nights)
        outcome = engine.make(plan, [])
        _keep(record, outcome)
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


# retry


def _retry_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg retry",
        description="Let work that was set aside be tried again by the next run or tick. Closed "
        "nights that hold some of it are opened again.",
    )
    parser.add_argument(
        "targets", nargs="+", help="group ids (20260213T043210), nights (2026-02-13), or 'all'"
    )
    config_options(parser)
    return parser


def retry(args: argparse.Namespace) -> int:
    """Remove records of failures."""
    from . import closing, locking

    config = read_config(args)
    layout = Layout(config.results)
    everything = "all" in args.targets
    wrong = [t for t in args.targets if not re.fullmatch(f"all|{GROUP_ID}|{NIGHT}", t)]
    if wrong:
        raise ConfigError(f"retry: {wrong[0]!r} is neither a group nor a night nor 'all'")
    nights = closing.nights_on_disk(layout) if everything else _nights(args.targets)
    found = 0
    with locking.hold(config.results, "retry"):
        for failure in failures.read_all(layout, nights or ()):
            night = failure.wildcards.get("night", "")
            if everything or {failure.what, night} & set(args.targets):
                found += 1
                failures.path_of(layout, failure.rule, failure.wildcards).unlink()
                again = night and closing.reopen(layout, night)
                print(
                    f"{failure.rule} {failure.what}" + (f"; {night} is open again" if again else "")
                )
    print(f"{found} failures forgotten; the next run or tick tries again")
    return 0


# check


def _check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg check", description="Check environment, configuration and disk."
    )
    config_options(parser)
    return parser


def check(args: argparse.Namespace) -> int:
    """Print one line for each thing a run needs; return 1 if one is missing."""
    from . import planning

    problems = 0

    def item(name: str, probe) -> None:
        nonlocal problems
        try:
            print(f"ok       {name}: {probe()}")
        except ContimgError as error:
            problems += 1
            print(f"MISSING  {name}: {error}")

    print(f"contimg {__version__}, Python {sys.version.split()[0]}")
    item("wsclean", lambda: _first_line("wsclean", "--version"))
    item("aoflagger", lambda: _first_line("aoflagger", "--version"))
    for package in ("snakemake", "casatasks", "casadata", "python-casacore", "pyuvdata", "astropy"):
        item(package, lambda package=package: _version(package))
    try:
        config = read_config(args)
        item("configuration", lambda: planning.check_paths(config) or "valid, paths exist")
        item("disk", lambda: _free_space(config))
    except ContimgError as error:
        problems += 1
        print(f"MISSING  configuration: {error}")
    return int(problems > 0)


def _first_line(tool: str, *options: str) -> str:
    output = subprocess.run(
        [find_tool(tool), *options], capture_output=True, text=True, timeout=60, check=False
    )
    lines = (output.stdout + output.stderr).strip().splitlines()
    if not lines:
        raise ToolError(f"{tool} prints nothing; reinstall it")
    return lines[0]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ToolError("not installed; start through ./contimg, which installs it") from None


def _free_space(config: Config) -> str:
    from . import housekeeping

    housekeeping.check_space(config)
    path, free, _ = housekeeping.free_space(config.results)
    return f"{free / 1e9:.0f} GB free at {path}"


# demo


def _demo_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg demo",
        description="Simulate nights of raw correlator files of a known sky in ./demo, and run the "
        "whole chain on them: calibration, images, mosaics, light curves, report.",
    )
    parser.add_argument("--cores", default=None, help="cores to use (default: all)")
    return parser


def demo(args: argparse.Namespace) -> int:
    """Simulate, run, and say where to look."""
    from . import closing

    args = _run_parser().parse_args(["--cores", args.cores] if args.cores else [])
    incoming, catalog = DEMO_FOLDER / "incoming", DEMO_FOLDER / "catalog.csv"
    config = read_config(args)
    # A configuration that points at real data keeps its results folder free of simulated ones.
    results = config.results if config.incoming == incoming else DEMO_FOLDER / "results"
    check_tools(config)
    if not (DEMO_FOLDER / "truth" / "truth.json").is_file():
        print(f"simulating raw files in {incoming}", flush=True)
        step = ["simulate", str(DEMO_FOLDER), "--preset", "demo", "--progress"]
        if status := subprocess.call([sys.executable, "-m", "dsa110_contimg", *step]):
            return status
    args.config = [f"incoming={incoming}", f"results={results}", f"catalog={catalog}"]
    if status := run(args):
        return status
    layout = Layout(results)
    nights = closing.nights_on_disk(layout)
    print("\nDone. Where to look:")
    for night in nights:
        print(f"  {layout.night(night, 'report.html')}  report of the night")
    print(f"  {layout.night(nights[-1], 'mosaic.fits')}  the night's mosaic")
    print(f"  {layout.lightcurves('lightcurves.parquet')}  light curves of all sources")
    print(f"  {layout.lightcurves('candidates.csv')}  variable sources, most significant first")
    print(f"  {DEMO_FOLDER / 'truth' / 'sources.csv'}  the sky that went in")
    _say_winner(layout)
    return 0


def _say_winner(layout: Layout) -> None:
    lines = layout.lightcurves("candidates.csv").read_text().splitlines()
    if len(lines) > 1:
        row = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
        print(f"Top candidate: {row.get('name', row)}")


PARSERS = {
    "run": (_run_parser, run),
    "tick": (_tick_parser, tick),
    "retry": (_retry_parser, retry),
    "check": (_check_parser, check),
    "demo": (_demo_parser, demo),
}
