"""What a job costs before it begins: Snakemake parses the workflow once more on its node.

    ./contimg exec python benchmarks/job_start.py [--groups 100000]

Freezes a plan as a run does, of nights that are all open, and starts jobs as a cluster would, with
steps that do nothing; then one more time what starts them, for the tiles of one night. Prints a
Markdown table; wanted of a job is less than 2 s and 200 MB.
"""

import argparse
import datetime as dt
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from measure import ENVIRONMENT, ROOT, run

from dsa110_contimg.calibration.plan import CalibrationPlan
from dsa110_contimg.conversion.inventory import Group, Inventory
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.options import Config
from dsa110_contimg.core.times import DAY_S, group_id, night_mjd, night_of
from dsa110_contimg.mosaics.plan import NightPlan
from dsa110_contimg.operations import frozen, targets
from dsa110_contimg.operations.planning import Plan
from dsa110_contimg.telescope.dsa110 import TILE_S

FIRST = dt.date(2026, 1, 1)
#: Groups of a full day.
PER_NIGHT = 278


def make_plan(n_groups: int, incoming: Path) -> Plan:
    """Return a plan of full nights, each with a calibrator in its first group."""
    groups: dict[str, Group] = {}
    for number in range(n_groups):
        day, tile = divmod(number, PER_NIGHT)
        mjd = night_mjd(f"{FIRST + dt.timedelta(days=day)}") + tile * (TILE_S + 1) / DAY_S
        name = group_id(mjd)
        files = {s: f"{incoming}/{name}_sb{s:02}.hdf5" for s in range(16)}
        night = night_of(name)
        groups[name] = Group(name, night, "complete", files, mjd, TILE_S, 24, 33.3, 10.0, 33.2)
    tiles: dict[str, list[str]] = {}
    for name, group in groups.items():
        tiles.setdefault(group.night, []).append(name)
    ladder = {name: [tiles[night][0]] for night, names in tiles.items() for name in names}
    return Plan(
        inventory=Inventory(list(groups.values()), []),
        nights=tuple(tiles),
        groups=groups,
        calibration=CalibrationPlan({names[0]: "3C48" for names in tiles.values()}, ladder),
        epochs={night: NightPlan(names, {"00": names}) for night, names in tiles.items()},
    )


def freeze(plan: Plan, folder: Path, nights: set[str] | None = None) -> list[str]:
    """Freeze a plan as a run does; return the options that go with it."""
    config = Config(incoming=Path("incoming"), catalog=Path("catalog.csv"))
    layout = Layout(folder / "results")
    handed, inventory = frozen.folder_of(layout), frozen.inventory_path(layout)
    ENVIRONMENT.update(frozen.freeze(config, plan, handed, inventory, nights))
    return ["--snakefile", str(ROOT / "Snakefile"), *frozen.options(handed), "--cores", "2"]


def start(folder: Path, options: list[str], rule: str, **wildcards: str) -> None:
    """Start one job as a cluster does, and say what that took."""
    words = ",".join(f"{key}={value}" for key, value in wildcards.items())
    as_job = "--force --target-files-omit-workdir-adjustment --max-inventory-time 0 --no-hooks"
    as_job += " --nolock --ignore-incomplete --force-use-threads --mode subprocess"
    chosen = ["--target-jobs", f"{rule}:{words}", "--allowed-rules", rule]
    command = [sys.executable, "-m", "snakemake", *chosen, *options, *as_job.split()]
    say(f"a job of `{rule}`", run(command, cwd=folder)[0])


def say(what: str, used) -> None:
    print(f"| {what} | {used.seconds:.1f} | {used.cpu_s:.1f} | {used.peak_mb:.0f} |", flush=True)


def lay_out(folder: Path, plan: Plan) -> None:
    """Make what the jobs need, and steps that only make what they are asked for."""
    layout = Layout(folder / "results")
    (folder / "catalog.csv").touch()
    (folder / "bin").mkdir()
    stub = folder / "bin" / "python"
    source = ROOT / "tests" / "support" / "stub_step.py"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -S {source} "$@"\n')
    stub.chmod(0o755)
    places = (str(stub.parent), str(Path(sys.executable).parent), ENVIRONMENT["PATH"])
    ENVIRONMENT["PATH"] = os.pathsep.join(places)
    for night in plan.nights:
        layout.night(night).mkdir(parents=True)
        layout.night(night, "photometry.csv").touch()
    layout.night(plan.nights[0], "mosaic.fits").touch()
    (folder / "incoming").mkdir()
    for group in list(plan.groups.values())[:PER_NIGHT]:
        for path in group.files.values():
            Path(path).touch()


def main() -> None:
    """Freeze, start, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--groups", type=int, default=100_000, help="groups on open nights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = make_plan(args.groups, folder / "incoming")
        night = plan.nights[0]
        lay_out(folder, plan)
        began = time.perf_counter()
        options = freeze(plan, folder)
        took = time.perf_counter() - began
        print(f"{args.groups} groups on {len(plan.nights)} open nights, frozen in {took:.1f} s")
        print("\n| what | wall, s | processor, s | memory, MB |\n|---|---|---|---|")
        start(folder, options, "mosaic_view", night=night)
        start(folder, options, "lightcurves")
        options = freeze(plan, folder, frozen.needed_for(plan, night))
        mine = [group for group in plan.groups if night_of(group) == night]
        wanted = targets.tile_targets(plan, Layout(Path("results")), mine)
        command = [sys.executable, "-m", "snakemake", *wanted, *options, "--dry-run", "--quiet"]
        say("the tiles of one night, a dry run", run([*command, "all"], cwd=folder)[0])


if __name__ == "__main__":
    main()
