"""Commands for people: run, tick, status, check, clean, demo.

They decide what Snakemake is asked for and say what came of it; the work itself is that of the
rules.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from . import __version__
from .config import Config, load_config
from .errors import ConfigError, ContimgError, ToolError
from .external import find_tool
from .products import GROUP_ID, NIGHT, Layout, replacing

REPO = Path(__file__).resolve().parents[2]
DEMO_FOLDER = Path("demo")
WORKFLOW_REPORT = "workflow-report.html"


def _config_options(parser: argparse.ArgumentParser) -> None:
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
            line = " ".join(str(error).split())
            raise ConfigError(f"{path}: not valid YAML: {line}") from None
    for item in args.config:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--config: {item!r} is not KEY=VALUE")
        _merge(values, {key: yaml.safe_load(value)})
    return load_config(values)


def _merge(values: dict, more: dict) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def _snakemake(args: argparse.Namespace, *extra: str) -> int:
    """Run Snakemake with the user's configuration; return its exit status."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPO / "Snakefile")]
    command += extra
    if args.configfile:
        command += ["--configfile", str(args.configfile)]
    if args.config:
        command += ["--config", *args.config]
    sys.stdout.flush()
    return subprocess.call(command)


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
    parser.add_argument("--cores", default=None, help="cores to use (default: all)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="when every job has succeeded, gather pages and statistics in one file, "
        f"{WORKFLOW_REPORT} in the results folder",
    )
    parser.add_argument(
        "--recalibrate",
        action="store_true",
        help="choose calibrations anew, also for groups that have one; what changes is remade",
    )
    _config_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Check, plan, and hand over to Snakemake."""
    from . import planning, runs

    config = read_config(args)
    check_tools(config)
    if args.recalibrate:
        os.environ[planning.RECALIBRATE] = "1"
    plan = planning.make_plan(config)
    _say_plan(plan)
    if {"-n", "--dry-run", "--dryrun"} & set(args.snakemake):
        return _rounds(args, config, plan)
    with runs.recorded(config, "run", args.targets) as record:
        status = record["exit_status"] = _rounds(args, config, plan, "--logger", "contimg")
    return _report(args, config) if args.report and not status else status


def _report(args: argparse.Namespace, config: Config) -> int:
    """Gather pages and statistics of all jobs in one file; return Snakemake's exit status."""
    out = config.results / WORKFLOW_REPORT
    targets = _targets(args.targets, Layout(config.results))
    with replacing(out) as temporary:
        if status := _snakemake(args, *targets, "--report", str(temporary), "--quiet", "all"):
            raise ToolError(f"{out}: snakemake --report ended with {status}; its message is above")
    print(f"report: {out}", flush=True)
    return 0


def _rounds(args: argparse.Namespace, config: Config, plan, *logger: str) -> int:
    """Run Snakemake until no further calibration fails its gate."""
    from . import planning

    while True:
        status = _snakemake(
            args,
            *_targets(args.targets, Layout(config.results)),
            *(("--cores", args.cores) if args.cores else ()),
            *logger,
            *args.snakemake,
        )
        before, plan = plan, planning.make_plan(config)
        if not status or plan.calibration.candidates == before.calibration.candidates:
            return status
        # Each round rules out a solution, so there is an end.
        print("a calibration failed its gate; the next in line serves in its place", flush=True)


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


def _say_plan(plan) -> None:
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
        description="What cron calls: run what is ready and not done, then leave. Exit status 0: "
        "nothing failed, or another tick is at work; 1: some job failed; 2 to 4: could not run.",
    )
    parser.add_argument("--cores", default=None, help="cores to use (default: all)")
    _config_options(parser)
    return parser


def tick(args: argparse.Namespace) -> int:
    """Run what is ready under a lock that dies with its holder."""
    from . import runs

    config = read_config(args)
    check_tools(config)
    config.results.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(open(config.results / ".tick.lock", "w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another tick is at work on {config.results}; nothing done")
            return 0
        # Only the holder of the lock may clear what a killed predecessor left behind.
        _snakemake(args, "--unlock", "--quiet", "all")
        with runs.recorded(config, "tick", []) as record:
            record["exit_status"] = _snakemake(
                args,
                *(("--cores", args.cores) if args.cores else ()),
                *("--keep-going", "--rerun-incomplete", "--logger", "contimg"),
            )
        return record["exit_status"]


# status


def _status_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg status", description="List groups by night and state."
    )
    _config_options(parser)
    return parser


#: State of a group's work: the last of these products that exists.
STAGES = {
    "hdf5": "grouped",
    "ms": "converted",
    "image.fits": "imaged",
    "photometry.csv": "measured",
}


def status(args: argparse.Namespace) -> int:
    """Print one line for each group."""
    from . import planning

    config = read_config(args)
    plan = planning.make_plan(config)
    layout = Layout(config.results)
    for group in plan.inventory.groups:
        done = [name for kind, name in STAGES.items() if layout.group(group.id, kind).exists()]
        notes = list(group.reasons)
        if name := plan.calibration.transits.get(group.id):
            notes.append(f"transit of {name}")
        if reason := plan.calibration.refused.get(group.id):
            notes.append(reason)
        dec = "" if group.dec_app_deg is None else f"{group.dec_app_deg:+.2f}"
        print(
            f"{group.night}  {group.id}  {group.state:<10} {len(group.files):2} subbands  "
            f"dec {dec:>6}  {done[-1] if done else '-':<10} {'; '.join(notes)}"
        )
    for file in plan.inventory.rejected:
        print(f"left out: {file['path']}: {file['reason']}")
    return 0


# check


def _check_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg check", description="Check environment, configuration and disk."
    )
    _config_options(parser)
    return parser


#: Free space below which a check warns, in bytes.
LOW_SPACE = 20e9


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
        item("disk", lambda: _free_space(config.results))
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


def _free_space(path: Path) -> str:
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < LOW_SPACE:
        raise ConfigError(f"only {free / 1e9:.0f} GB free at {existing}; make room")
    return f"{free / 1e9:.0f} GB free at {existing}"


# clean


def _clean_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contimg clean",
        description="Remove what killed jobs left behind. Lists it; deletes only with --yes.",
    )
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    _config_options(parser)
    return parser


def clean(args: argparse.Namespace) -> int:
    """List, or delete, temporary files and folders below the results folder."""
    config = read_config(args)
    left = sorted(
        path
        for pattern in (".tmp-*", ".old-*")
        for path in config.results.rglob(pattern)
        if not _alive(path)
    )
    for path in left:
        print(path)
        if args.yes:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    verb = "removed" if args.yes else "to remove (repeat with --yes)"
    print(f"{len(left)} left-overs {verb}")
    return 0


def _alive(path: Path) -> bool:
    """Tell whether the process that a temporary name carries still runs."""
    match = re.match(r"\.(?:tmp|old)-(\d+)-", path.name)
    return bool(match) and Path(f"/proc/{match[1]}").exists()


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
    args.configfile, args.targets, args.snakemake, args.recalibrate = None, [], [], False
    args.config, args.report = [], False
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
    nights = sorted(path.name for path in layout.night("").iterdir())
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
    "status": (_status_parser, status),
    "check": (_check_parser, check),
    "clean": (_clean_parser, clean),
    "demo": (_demo_parser, demo),
}
