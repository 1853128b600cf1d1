"""What there is to do: inventory, calibration plan and epoch plan of one results folder.

A pure function of what lies on disk. It is called when the Snakefile is parsed, so it imports
nothing heavy; jobs on a cluster read the plan that was frozen for them instead of looking again.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from . import calplan, catalogs, epochs, ingest
from .config import Config
from .errors import ConfigError
from .products import Layout, code_hash, read_sidecar, sidecar_path, write_text

#: Environment variable that names a frozen inventory.
FROZEN = "CONTIMG_INVENTORY"
#: Environment variable that sets recorded choices of calibrations aside.
RECALIBRATE = "CONTIMG_RECALIBRATE"
#: Modules whose change alters no number: they are left out of the steps' code hashes.
PLUMBING = {"__init__", "casa", "cli", "config", "errors", "external", "products"}


@dataclass(frozen=True)
class Plan:
    """Everything the rules ask for.

    Attributes
    ----------
    inventory : ingest.Inventory
        Groups in the incoming folder and those already taken in, with states.
    groups : dict of str to ingest.Group
        Groups that are worked on (complete or degraded), by id.
    calibration : calplan.CalibrationPlan
        Which group calibrates, and which solutions serve which group.
    epochs : dict of str to epochs.NightPlan
        Tiles of each mosaic, by night.
    """

    inventory: ingest.Inventory
    groups: dict[str, ingest.Group]
    calibration: calplan.CalibrationPlan
    epochs: dict[str, epochs.NightPlan]

    @property
    def targets(self) -> list[str]:
        """Ids of the groups that have a calibration and become tiles."""
        return [group for group in self.groups if self.calibration.candidates.get(group)]


def make_plan(config: Config) -> Plan:
    """Plan the work, from the inventory that this process was handed or else from a new one.

    Parameters
    ----------
    config : Config
        The validated configuration.

    Raises
    ------
    ConfigError
        If the incoming folder, the catalogue or the calibrator table is missing.
    """
    layout = Layout(config.results)
    inventory = frozen_inventory()
    if inventory is None:
        check_paths(config)
        inventory = ingest.take_inventory(
            config.incoming, config.inventory, cache_path=layout.results / ".inventory-cache.json"
        )
    groups = {g.id: g for g in inventory.groups if g.state in ("complete", "degraded")}
    groups |= {g.id: g for g in _taken_in(layout) if g.id not in groups}
    groups = dict(sorted(groups.items()))
    calibrators = catalogs.flux_standards()
    if config.calibrators is not None:
        calibrators += catalogs.read_calibrators(config.calibrators)
    calibration = calplan.plan_calibration(
        list(groups.values()),
        calibrators,
        config.calibration,
        records={} if os.environ.get(RECALIBRATE) else _records(layout, groups),
        verdicts=_verdicts(layout, groups),
    )
    tiles = [group for group in groups if calibration.candidates.get(group)]
    return Plan(inventory, groups, calibration, epochs.plan_epochs(tiles, config.mosaic))


def prepare_jobs(source: Path) -> None:
    """Set what the programs that a workflow starts find in their environment.

    Jobs run ``python -m dsa110_contimg`` in whichever environment their rule has, so the package is
    on the path by its place, not by its installation.
    """
    modules = [str(source), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(modules))
    # `python` is the one that runs Snakemake, also when its environment was not activated.
    programs = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if (here := str(Path(sys.executable).parent)) not in programs:
        os.environ["PATH"] = os.pathsep.join([here, *programs])
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def inventory_path(layout: Layout) -> Path:
    """Return where the inventory of the latest run is."""
    return layout.results / "inventory.json"


def freeze_inventory(inventory: ingest.Inventory, layout: Layout) -> None:
    """Hand a run's inventory to its jobs.

    One look at the incoming folder serves the whole run: jobs on a cluster parse the workflow
    again, and would see what has arrived since.
    """
    path = inventory_path(layout).absolute()
    write_text(path, json.dumps(inventory.to_dict(), indent=1) + "\n")
    os.environ[FROZEN] = str(path)


def frozen_inventory() -> ingest.Inventory | None:
    """Return the inventory that this process was handed, if any."""
    path = os.environ.get(FROZEN)
    return ingest.Inventory.from_dict(json.loads(Path(path).read_text())) if path else None


def check_paths(config: Config) -> None:
    """Raise `ConfigError` for a configured path that is not there."""
    if not config.incoming.is_dir():
        raise ConfigError(
            f"incoming: there is no folder {config.incoming}; set 'incoming' to where the "
            f"correlator's files arrive, or run './contimg demo' first"
        )
    if config.catalog is None:
        raise ConfigError("catalog: no reference catalogue is configured; set 'catalog' to a CSV")
    for key in ("catalog", "calibrators"):
        path = getattr(config, key)
        if path is not None and not path.is_file():
            raise ConfigError(f"{key}: there is no file {path}")


def _taken_in(layout: Layout) -> list[ingest.Group]:
    """Return the groups that have a group file: they stay when their raw files are purged."""
    found = layout.results.glob("nights/*/groups/*/group_*.hdf5.json")
    entries = [json.loads(path.read_text())["qa"]["group"] for path in found]
    return ingest.Inventory.from_dict({"groups": entries, "rejected": []}).groups


def _records(layout: Layout, groups: dict) -> dict[str, dict]:
    """Return the recorded choice of calibration of each group that has one."""
    paths = {g: layout.group(g, "calibration.json") for g in groups}
    return {g: json.loads(p.read_text()) for g, p in paths.items() if p.is_file()}


def _verdicts(layout: Layout, groups: dict) -> dict[str, str]:
    """Return the verdict of each calibration solution that exists."""
    tables = {g: layout.group(g, "bcal") for g in groups}
    return {g: read_sidecar(t)["verdict"] for g, t in tables.items() if sidecar_path(t).is_file()}


@functools.cache
def step_hash(module: str) -> str:
    """Return a hash of the code that decides a step's numbers.

    It covers the step's module and all modules of this package that it imports, directly or not,
    but for `PLUMBING`.
    """
    return code_hash(*_closure(module))


def _closure(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= _imports(name) - seen - PLUMBING
    return seen


@functools.cache
def _imports(module: str) -> frozenset[str]:
    folder = Path(__file__).parent
    names: set[str] = set()
    for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names |= {node.module} if node.module else {alias.name for alias in node.names}
    return frozenset(name for name in names if (folder / f"{name}.py").is_file())
