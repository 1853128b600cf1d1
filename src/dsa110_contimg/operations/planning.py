"""What there is to do: inventory, calibration plan and epoch plan of one results folder.

A pure function of what lies on disk. It is called when the Snakefile is parsed, so it imports
nothing heavy; jobs on a cluster read the plan that was frozen for them (`frozen`).
Closed nights are left alone: what a plan costs does not grow with the history.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeGuard

from ..calibration import plan as calibration_plan
from ..calibration.field_share import FieldShares
from ..catalogs import calibrators, catalogue
from ..conversion.inventory import Group, Inventory, take_inventory
from ..core.errors import ConfigError
from ..core.figures import GroupFigures
from ..core.layout import Layout
from ..core.options import Config
from ..core.sidecar import read_sidecar, sidecar_path
from ..core.times import night_mjd
from ..mosaics import plan as mosaic_plan
from . import closing, failures
from .failures import Failure

#: Environment variable that names an inventory that was taken already.
FROZEN = "CONTIMG_INVENTORY"


#: Environment variable that sets recorded choices of calibrations aside.
RECALIBRATE = "CONTIMG_RECALIBRATE"


@dataclass(frozen=True)
class Plan:
    """Everything the rules ask for.

    Attributes
    ----------
    inventory : Inventory
        Groups in the incoming folder, with states.
    nights : tuple of str
        Nights that are worked on: the open ones, or those that were asked for.
    groups : dict of str to Group
        Groups that are worked on (complete or degraded), by id.
    calibration : CalibrationPlan
        Which group calibrates, and which solutions serve which group.
    epochs : dict of str to NightPlan
        Tiles of each mosaic, by night.
    joint : dict
        By night and field, the tiles of a field that is imaged from its visibilities.
    optional : tuple of str
        Tables of a night that the configuration asks for, beside its photometry.
    measured : tuple of str
        Other nights, closed ones above all, with measurements: these go into the light curves as
        they are.
    settled : frozenset of str
        Tiles of open nights that are taken as they are, for what they were made from was purged.
    failures : tuple of failures.Failure
        What failed in these nights and has not succeeded since.
    set_aside : frozenset of str
        Groups, nights and steps over all nights that are in quarantine.
    """

    inventory: Inventory
    nights: tuple[str, ...]
    groups: dict[str, Group]
    calibration: calibration_plan.CalibrationPlan
    epochs: dict[str, mosaic_plan.NightPlan]
    joint: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()
    failures: tuple[Failure, ...] = ()
    set_aside: frozenset[str] = frozenset()

    @property
    def targets(self) -> list[str]:
        """Ids of the groups that have a calibration and become tiles."""
        return [group for group in self.groups if self.calibration.candidates.get(group)]

    @property
    def measured_nights(self) -> list[str]:
        """Nights whose measurements make the light curves."""
        return sorted({*self.measured, *self.epochs})


def make_plan(config: Config, nights: Collection[str] | None = None) -> Plan:
    """Plan the work, from the inventory that this process was handed or else from a new one.

    Parameters
    ----------
    config : Config
        The validated configuration.
    nights : collection of str, optional
        Nights to work on, closed ones too; otherwise all open ones.

    Raises
    ------
    ConfigError
        If the incoming folder, the catalogue or the calibrator table is missing.
    """
    layout = Layout(config.results)
    inventory = _given()
    if inventory is None:
        check_paths(config)
        inventory = take_inventory(
            config.incoming, config.inventory, cache_path=layout.results / ".inventory-cache.json"
        )
    closed = set(closing.closed_nights(layout))
    news = _news(inventory, layout, closed)
    arrived = {g.night for g in inventory.groups}
    active = ({*closing.nights_on_disk(layout), *arrived} - closed) | news
    chosen = active if nights is None else set(nights)
    if nights is None:
        chosen |= _revived(layout, closed - chosen, active, config)
    outside = _solutions_elsewhere(layout, closed - chosen, active - chosen, chosen, config)
    return _plan(config, layout, inventory, chosen, outside)


def _plan(
    config: Config,
    layout: Layout,
    inventory: Inventory,
    nights: set[str],
    outside: dict[str, tuple[Group, str]],
) -> Plan:
    """Plan the work of some nights, given the calibrations of others."""
    groups = _groups(layout, inventory, nights)
    known = failures.read_all(layout, nights)
    holding = [
        f
        for f in known
        if f.quarantined and failures.holds(f, fingerprint(config, groups, f.wildcards, f.command))
    ]
    unsolvable = {f.wildcards["group"] for f in holding if f.rule == "calibrate"}
    set_aside = {f.what for f in holding if f.rule != "calibrate"}
    settled = frozenset(g for night in nights for g in closing.purged_groups(layout, night))
    tiles = [g for g in sorted(settled) if layout.group(g, "photometry.csv").is_file()]
    # What was solved on a group still serves when its data were purged.
    purged = {i: g for i, g in groups.items() if i in settled}
    lent = outside | {i: (purged[i], verdict) for i, verdict in _verdicts(layout, purged).items()}
    groups = {i: g for i, g in groups.items() if i not in settled and i not in set_aside}
    verdicts = _verdicts(layout, groups) | {g: verdict for g, (_, verdict) in lent.items()}
    plan = calibration_plan.plan_calibration(
        _pointed([*groups.values(), *(group for group, _ in lent.values())]),
        calibrators.all_calibrators(config.calibrators),
        config.calibration,
        records={} if os.environ.get(RECALIBRATE) else _records(layout, groups),
        verdicts=verdicts | dict.fromkeys(unsolvable, "fail"),
        share=_shares(config),
    )
    # Other nights' calibrations serve; nothing is done to them.
    calibration = replace(
        plan,
        transits={g: name for g, name in plan.transits.items() if g in groups},
        candidates={g: ladder for g, ladder in plan.candidates.items() if g in groups},
        refused={g: reason for g, reason in plan.refused.items() if g in groups},
    )
    tiles += [group for group in groups if calibration.candidates.get(group)]
    mosaics = mosaic_plan.plan_epochs(tiles, config.mosaic)
    others = (night for night in closing.nights_on_disk(layout) if night not in nights)
    return Plan(
        inventory=inventory,
        nights=tuple(sorted(nights)),
        groups=groups,
        calibration=calibration,
        epochs={night: mosaic for night, mosaic in mosaics.items() if night not in set_aside},
        joint=mosaic_plan.plan_joint(_seen(groups, calibration), config.joint.fields),
        optional=("blind.csv",) if config.blind.enabled else (),
        measured=tuple(n for n in others if layout.night(n, "photometry.csv").is_file()),
        settled=settled,
        failures=tuple(known),
        set_aside=frozenset(set_aside),
    )


def _seen(
    groups: dict[str, Group], calibration: calibration_plan.CalibrationPlan
) -> dict[str, tuple[float, float]]:
    """Return where the groups that become tiles look, of those with visibilities."""
    mine = (g for i, g in groups.items() if calibration.candidates.get(i))
    return {g.id: (g.ra_deg, g.dec_deg) for g in _pointed(mine)}


def _pointed(groups: Iterable[Group]) -> list[calibration_plan.GroupLike]:
    """Return the groups of which it is known where they look: all that can be worked on."""

    def known(group: Group) -> TypeGuard[calibration_plan.GroupLike]:
        return group.dec_deg is not None

    return [group for group in groups if known(group)]


def _shares(config: Config) -> FieldShares | None:
    """Return what tells the calibrators' shares of their fields, from the catalogue."""
    kept = Layout(config.results).results / ".calibrator-shares.json"
    return FieldShares(config.catalog, kept) if config.catalog else None


def _groups(layout: Layout, inventory: Inventory, nights: Collection[str]) -> dict[str, Group]:
    """Return the groups of some nights that are worked on, in order of time.

    Late subbands join a group that was taken in without them; raw files that are purged leave none.
    """
    found = {g.id: g for g in inventory.groups if g.state in closing.READY and g.night in nights}
    for group in _taken_in(layout, nights):
        if group.id not in found or len(group.files) > len(found[group.id].files):
            found[group.id] = group
    return dict(sorted(found.items()))


def fingerprint(
    config: Config, groups: Mapping[str, Group], wildcards: Mapping[str, str], command: str
) -> str:
    """Return what a job may fail for; see `failures.fingerprint`."""
    group = groups.get(wildcards.get("group", ""))
    return failures.fingerprint(config, command, group.files.values() if group else ())


def _news(inventory: Inventory, layout: Layout, closed: Collection[str]) -> set[str]:
    """Return the closed nights of which more has arrived than was known when they were closed."""
    news: set[str] = set()
    records: dict[str, closing.ClosedNight | None] = {}
    for group in inventory.groups:
        if group.night not in closed or group.night in news:
            continue
        if group.night not in records:
            records[group.night] = closing.read(layout, group.night)
        record = records[group.night]
        if record is None or closing.is_news(record, group):
            news.add(group.night)
    return news


def _solutions_elsewhere(
    layout: Layout,
    closed: Collection[str],
    others: Collection[str],
    nights: Collection[str],
    config: Config,
) -> dict[str, tuple[Group, str]]:
    """Return the calibrations of nights that are not worked on: group and verdict, by id.

    Only nights near enough to lend one to `nights` are looked into.
    """
    near = functools.partial(_near, days=config.calibration.borrow_days + 1, nights=nights)
    found: dict[str, tuple[Group, str]] = {}
    for night in filter(near, closed):
        record = closing.read(layout, night)
        for solution in record.solutions if record else ():
            (group,) = _from_dicts([solution["group"]])
            found[group.id] = (group, solution["verdict"])
    for night in filter(near, others):
        groups = {g.id: g for g in _taken_in(layout, [night])}
        verdicts = _verdicts(layout, groups)
        found |= {g: (groups[g], verdict) for g, verdict in verdicts.items()}
    return found


def _near(night: str, days: float, nights: Collection[str]) -> bool:
    mjd = night_mjd(night)
    return any(abs(night_mjd(other) - mjd) <= days for other in nights)


def _revived(
    layout: Layout, closed: Collection[str], active: Collection[str], config: Config
) -> set[str]:
    """Return the closed nights with groups that a calibration of an open night can serve now."""
    reach = config.calibration.borrow_days + 1
    refused: list[Group] = []
    for night in closed:
        if _near(night, reach, active) and (record := closing.read(layout, night)):
            refused += _from_dicts(record.refused)
    if not refused:
        return set()
    solved = _solutions_elsewhere(layout, (), active, active, config)
    usable = {i for i, (_, verdict) in solved.items() if verdict != "fail"}
    plan = calibration_plan.plan_calibration(
        _pointed([*refused, *(solved[i][0] for i in usable)]),
        calibrators.all_calibrators(config.calibrators),
        config.calibration,
        verdicts={i: verdict for i, (_, verdict) in solved.items()},
        share=_shares(config),
    )
    return {group.night for group in refused if usable & {*plan.candidates.get(group.id, ())}}


def prepare_jobs(source: Path) -> None:
    """Set what the programs that a workflow starts find in their environment.

    Jobs run ``python workflow/scripts/<step>.py`` in whichever environment their rule has, so the
    package is on the path by its place, not by its installation.
    """
    modules = [str(source), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(modules))
    # `python` is the one that runs Snakemake, also when its environment was not activated.
    programs = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if (here := str(Path(sys.executable).parent)) not in programs:
        os.environ["PATH"] = os.pathsep.join([here, *programs])
    os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def excluding(groups: Collection[str]) -> str:
    """Return a regular expression that keeps what follows it from matching some group ids."""
    return f"(?!{'|'.join(sorted(groups))})" if groups else ""


def _given() -> Inventory | None:
    """Return the inventory that this process was handed, if any."""
    path = os.environ.get(FROZEN)
    if not path:
        return None
    return Inventory.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def check_paths(config: Config) -> None:
    """Raise `ConfigError` for a configured path that is not there, or dated in the future."""
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
        if path is not None and path.suffix == ".csv":
            catalogue.check_header(path)
        if path is not None and (ahead_s := path.stat().st_mtime - time.time()) > 1:
            # Snakemake refuses what is made from it now, for it looks older.
            raise ConfigError(
                f"{key}: {path} is dated {ahead_s:.0f} s ahead of the clock; set the clock right, "
                f"or 'touch {path}'"
            )


def _taken_in(layout: Layout, nights: Iterable[str]) -> list[Group]:
    """Return the groups of some nights that have a group file."""
    entries = []
    for night in nights:
        for path in layout.night(night, "groups").glob("*/group_*.hdf5.json"):
            record = read_sidecar(path.with_suffix(""), GroupFigures)
            entries.append(record.figures.group)
    return _from_dicts(entries)


def _from_dicts(entries: list[dict]) -> list[Group]:
    return Inventory.from_dict({"groups": entries, "rejected": []}).groups


def _records(layout: Layout, groups: dict) -> dict[str, dict]:
    """Return the recorded choice of calibration of each group that has one."""
    paths = {g: layout.group(g, "calibration.json") for g in groups}
    return {g: json.loads(p.read_text()) for g, p in paths.items() if p.is_file()}


def _verdicts(layout: Layout, groups: dict) -> dict[str, str]:
    """Return the verdict of each calibration solution that exists."""
    tables = {g: layout.group(g, "bcal") for g in groups}
    return {g: read_sidecar(t).verdict for g, t in tables.items() if sidecar_path(t).is_file()}


def summary(plan: Plan, layout: Layout, night: str) -> closing.ClosedNight:
    """Return what is to be kept of a night whose products all stand."""
    arrived = {g.id: g for g in plan.inventory.groups if g.night == night}
    groups = {g.id: g for g in _taken_in(layout, [night])} | arrived
    verdicts = _verdicts(layout, groups)
    return closing.summary(
        night,
        groups.values(),
        made=[g for g in groups if layout.group(g, "photometry.csv").is_file()],
        solutions=[{"group": asdict(groups[g]), "verdict": v} for g, v in verdicts.items()],
        refused=plan.calibration.refused,
        quarantined=plan.set_aside & groups.keys(),
    )
