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
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from ..calibration import plan as calibration_plan
from ..calibration.field_share import FieldShares
from ..catalogs import calibrators, catalogue
from ..conversion.inventory import Group, Inventory, take_inventory
from ..core import records
from ..core.errors import ConfigError, DataError
from ..core.figures import GroupFigures, MosaicFigures
from ..core.layout import Layout
from ..core.options import Config
from ..core.sidecar import Record, read_sidecar
from ..core.times import night_mjd, night_of, utc_now
from ..mosaics import plan as mosaic_plan
from . import closing, damage, failures
from .failures import Failure
from .standing import NIGHT_PRODUCTS, SOLUTIONS, TILE_PRODUCTS, lacks, night_stands, stand

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
    judged : tuple of str
        Those of them with a verdict.
    settled : frozenset of str
        Tiles of the nights that are worked on which are taken as they are, for what they were made
        from is gone, or they could not be made anew.
    solved : frozenset of str
        Calibrators' groups whose solutions are taken as they are, for they could not be made anew.
    failures : tuple of failures.Failure
        What failed in these nights and has not succeeded since, and what cannot be made again.
    set_aside : frozenset of str
        Groups, nights and steps over all nights that are left out.
    spared : frozenset of (str, str)
        Rule, and group, night or step, of what is left out and the chain goes on without.
    kept : dict of str to list of str
        Nights whose mosaics stay as they are, for they hold tiles that cannot be had now: these.
    """

    inventory: Inventory
    nights: tuple[str, ...]
    groups: dict[str, Group]
    calibration: calibration_plan.CalibrationPlan
    epochs: dict[str, mosaic_plan.NightPlan]
    joint: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()
    solved: frozenset[str] = frozenset()
    failures: tuple[Failure, ...] = ()
    set_aside: frozenset[str] = frozenset()
    spared: frozenset[tuple[str, str]] = frozenset()
    kept: dict[str, list[str]] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        """Ids of the groups that have a calibration and become tiles."""
        return [group for group in self.groups if self.calibration.candidates.get(group)]

    @property
    def measured_nights(self) -> list[str]:
        """Nights whose measurements make the light curves."""
        return sorted({*self.measured, *self.epochs})

    @property
    def judged_nights(self) -> list[str]:
        """Those of them with a verdict, or that get one."""
        return sorted({*self.judged, *self.epochs})


def sound_plan(config: Config, nights: Collection[str] | None = None) -> Plan:
    """Plan the work after what is damaged was set aside, and say what was.

    Only the holder of the results folder may call this; for the rest as `make_plan`.
    """
    layout = Layout(config.results)
    damages = damage.find_closed(layout)
    while True:
        for mended in damage.mend(layout, damages):
            print(f"damaged: {mended.path}: {mended.reason}; set aside, to be made again")
        plan = make_plan(config, nights)
        damages = [d for d in damage.find(layout, plan.nights) if d.lasts]
        if not damages:
            failures.name_lost(layout, plan.nights, [f for f in plan.failures if f.is_lost])
            return plan


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
    broken: set[str] = set()
    if nights is None:
        chosen |= _revived(layout, closed - chosen, active, config)
        broken = {night for night in closed - chosen if _is_broken(layout, night)}

    def plan_for(chosen: set[str]) -> Plan:
        outside = _solutions_elsewhere(layout, closed - chosen, active - chosen, chosen, config)
        return _plan(config, layout, inventory, chosen, outside)

    plan = plan_for(chosen | broken)
    if hopeless := broken - plan.epochs.keys():
        plan = plan_for((chosen | broken) - hopeless)
        lost = (_lost_night(layout, night) for night in sorted(hopeless))
        plan = replace(plan, failures=(*plan.failures, *lost))
    return plan


def _is_broken(layout: Layout, night: str) -> bool:
    """Tell whether a closed night lacks products that others rest on, and no failure tells why."""
    absent = lacks(layout, night)
    if not absent or layout.night(night, "failure.json").exists():
        return False
    if len(absent) <= 2 * len(NIGHT_PRODUCTS):
        return True
    closed = closing.read(layout, night)  # it may have had no tile, and so none of them
    return bool(closed and closed.tiles)


def _lost_night(layout: Layout, night: str) -> failures.Failure:
    """Return the failure of a closed night that lacks products which nothing can make again."""
    absent = ", ".join(lacks(layout, night))
    return _lost(
        "night",
        {"night": night},
        f"{layout.night(night)}: {absent} missing, and what it was made from is gone; put it back "
        f"from a copy",
    )


def _lost(rule: str, wildcards: dict[str, str], message: str) -> failures.Failure:
    """Return the failure of what no job can make: nothing was tried, and nothing will be."""
    now = utc_now()
    return failures.Failure(
        rule, wildcards, "data", failures.QUARANTINED, message, "", "", 0, now, now
    )


def _plan(
    config: Config,
    layout: Layout,
    inventory: Inventory,
    nights: set[str],
    outside: dict[str, tuple[Group, str]],
) -> Plan:
    """Plan the work of some nights, given the calibrations of others."""
    groups = _groups(layout, inventory, nights)
    known = [f for f in failures.read_all(layout, nights) if not f.is_lost]
    held = _Held.of(
        f for f in known if failures.holds(f, fingerprint(config, groups, f.wildcards, f.command))
    )
    solved = {g for g in held.solutions if stand(layout.group(g, kind) for kind in SOLUTIONS)}
    purged = {g for night in nights for g in closing.purged_groups(layout, night)}
    gone = _gone(layout, inventory, groups, nights)
    # A tile that stands is taken as it is, whatever became of an attempt to make it anew.
    settled = purged | {g for g in held.work | gone.keys() if _is_tile(layout, g)}
    set_aside = (held.work | gone.keys()) - settled
    # What was solved on a group still serves when nothing more is done to it.
    idle = {i: g for i, g in groups.items() if i in settled}
    lent = outside | {i: (idle[i], verdict) for i, verdict in _verdicts(layout, idle).items()}
    groups = {i: g for i, g in groups.items() if i not in settled and i not in set_aside}
    choices = _choices(layout, groups)
    verdicts = _verdicts(layout, groups) | {g: verdict for g, (_, verdict) in lent.items()}
    plan = calibration_plan.plan_calibration(
        _pointed([*groups.values(), *(group for group, _ in lent.values())]),
        calibrators.all_calibrators(config.calibrators),
        config.calibration,
        records={} if os.environ.get(RECALIBRATE) else choices,
        verdicts=verdicts | dict.fromkeys(held.solutions - solved, "fail"),
        share=_shares(config),
    )
    # Those whose solutions failed to be made anew and are gone: no verdict on the tiles they made.
    bereft = {g for g in plan.refused if choices.get(g, {}).get("chosen") in held.solutions}
    settled |= {g for g in bereft if _is_tile(layout, g)}
    groups = {i: g for i, g in groups.items() if i not in settled}
    # Other nights' calibrations serve; nothing is done to them.
    calibration = replace(
        plan,
        transits={g: name for g, name in plan.transits.items() if g in groups},
        candidates={g: ladder for g, ladder in plan.candidates.items() if g in groups},
        refused={g: reason for g, reason in plan.refused.items() if g in groups},
    )
    tiles = [g for g in sorted(settled) if _is_tile(layout, g)]
    tiles += [group for group in groups if calibration.candidates.get(group)]
    mosaics = mosaic_plan.plan_epochs(tiles, config.mosaic)
    kept = _kept(layout, nights, set(tiles), set_aside | bereft)
    epochs = {n: m for n, m in mosaics.items() if n not in set_aside and n not in kept}
    waiting = {n for n in nights if n not in set_aside and n not in kept}
    others = (n for n in closing.nights_on_disk(layout) if n not in waiting)
    measured = [n for n in others if stand([layout.night(n, "photometry.csv")])]
    joint = mosaic_plan.plan_joint(_seen(groups, calibration), config.joint.fields)
    poorer = functools.partial(_is_poorer, set_aside | settled)
    return Plan(
        inventory=inventory,
        nights=tuple(sorted(nights)),
        groups=groups,
        calibration=calibration,
        epochs=epochs,
        joint={
            night: {
                name: seen
                for name, seen in fields.items()
                if not held.fields & {(what, name) for what in (night, *seen)}
                and not poorer(layout.night(night, f"joint_{name}.fits"), seen)
            }
            for night, fields in joint.items()
        },
        optional=("blind.csv",) if config.blind.enabled else (),
        measured=tuple(measured),
        judged=tuple(n for n in measured if layout.night(n, "qa.json").is_file()),
        settled=frozenset(settled),
        solved=frozenset(solved),
        failures=(
            *known,
            *(
                _lost("group", {"group": g, "night": night_of(g)}, why)
                for g, why in sorted(gone.items())
                if g in set_aside
            ),
        ),
        set_aside=frozenset(set_aside),
        spared=frozenset(held.apart),
        kept=kept,
    )


@dataclass(frozen=True)
class _Held:
    """What failures keep from being tried.

    Attributes
    ----------
    work : set of str
        Groups, nights and steps over all nights.
    solutions : set of str
        Calibrators' groups.
    apart : set of (str, str)
        Rule, and group, night or step, of what the chain goes on without.
    fields : set of (str, str)
        Night or group, and field that is imaged jointly.
    """

    work: set[str]
    solutions: set[str]
    apart: set[tuple[str, str]]
    fields: set[tuple[str, str]]

    @classmethod
    def of(cls, held: Iterable[failures.Failure]) -> _Held:
        made = cls(set(), set(), set(), set())
        for f in held:
            if f.rule not in failures.APART:
                made.work.add(f.what)
                continue
            made.apart.add((f.rule, f.what))
            if f.rule == "calibrate":
                made.solutions.add(f.what)
            if name := f.wildcards.get("field"):
                made.fields.add((f.what, name))
        return made


def _is_tile(layout: Layout, group: str) -> bool:
    return stand(layout.group(group, kind) for kind in TILE_PRODUCTS)


def _gone(
    layout: Layout, inventory: Inventory, groups: Mapping[str, Group], nights: Collection[str]
) -> dict[str, str]:
    """Return the groups that lack something and cannot be made again, and why."""
    arrived = {g.id for g in inventory.groups}
    found = {}
    for night in nights:
        for folder in layout.night(night, "groups").glob("*T*"):
            group = folder.name
            if group in arrived and group in groups:
                continue
            needed = [layout.group(group, kind) for kind in ("hdf5", "ms")]
            entry = groups.get(group)
            if entry is not None and (
                stand(needed) or all(map(os.path.exists, entry.files.values()))
            ):
                continue
            lost = [path.name for path in needed if not stand([path])]
            if len(lost) < len(needed) or _is_tile(layout, group):
                found[group] = (
                    f"{folder}: {', '.join(lost)} (or a sidecar) missing or damaged, and the raw "
                    f"files are gone; put them back"
                )
    return found


def _kept(
    layout: Layout, nights: Collection[str], tiles: set[str], failing: set[str]
) -> dict[str, list[str]]:
    """Return the nights whose mosaics hold tiles that failures would take from them: these.

    What was published is not replaced by less because something else failed.
    """
    found = {}
    for night in nights:
        mosaic = layout.night(night, "mosaic.fits")
        if night_stands(layout, night) and (lost := (_tiles_in(mosaic) - tiles) & failing):
            found[night] = sorted(lost)
    return found


def _is_poorer(failing: Collection[str], product: Path, tiles: Collection[str]) -> bool:
    """Tell whether a product that stands would lose tiles of those that failed or are gone."""
    return stand([product]) and not _tiles_in(product).isdisjoint(set(failing) - set(tiles))


def _tiles_in(mosaic: Path) -> set[str]:
    """Return the tiles that were added to a mosaic."""
    try:
        record: Record = read_sidecar(mosaic)
    except DataError:
        return set()
    names = (Path(source.path).name for source in record.inputs)
    tiles = {name.partition(".")[0] for name in names if name.endswith(".image.fits")}
    if isinstance(record.figures, MosaicFigures):
        tiles -= {left.tile for left in record.figures.left_out}
    return tiles


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
            for group in _from_dicts([solution["group"]]):
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
    """Return the groups of some nights that have a group file, with a sidecar that can be read."""
    entries = []
    for night in nights:
        for path in layout.night(night, "groups").glob("*/group_*.hdf5.json"):
            with suppress(DataError, OSError):
                entries.append(read_sidecar(path.with_suffix(""), GroupFigures).figures.group)
    return _from_dicts(entries)


def _from_dicts(entries: Iterable[Any]) -> list[Group]:
    """Return groups from the inventory's entries; what is none is passed over."""
    found = []
    for entry in entries:
        with suppress(records.Damaged):
            found.append(records.parse(Group, entry))
    return found


def _choices(layout: Layout, groups: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the recorded choice of calibration of each group that has one."""
    paths = {g: layout.group(g, "calibration.json") for g in groups}
    found = {g: records.read_or_none(damage.Choice, path) for g, path in paths.items()}
    return {g: asdict(choice) for g, choice in found.items() if choice}


def _verdicts(layout: Layout, groups: Iterable[str]) -> dict[str, str]:
    """Return the verdict of each calibration solution that exists."""
    found: dict[str, str] = {}
    for group in groups:
        with suppress(DataError, OSError):
            found[group] = read_sidecar(layout.group(group, "bcal")).verdict
    return found


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
