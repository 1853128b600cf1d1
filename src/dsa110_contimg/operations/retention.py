"""What old nights no longer need.

Retention touches closed nights only, and of these only what the science products do not rest on any
more. Of a group nothing goes unless it passed: a tile that failed, or of which a sidecar cannot be
read, stays as it is and is named. What is removed is recorded first, in
``nights/<night>/purged.json``: the plan takes what was made of a purged group as it is. A product
that goes is renamed before it is deleted, so that an interrupted purge leaves nothing that looks
whole.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.figures import GroupFigures
from ..core.files import beside, remove, write_text
from ..core.layout import Layout
from ..core.options import Config, RetentionOptions
from ..core.sidecar import Input, Record, read_sidecar
from ..core.times import DAY_S, name_of_unix, unix_of_utc, utc_now
from . import closing
from .space import size_of

__all__ = [
    "AIDS",
    "BULKY",
    "LOGS",
    "Kept",
    "NightPurge",
    "Removal",
    "daily",
    "plan_purge",
    "purge",
]

#: Maps of a tile that nothing is made from.
AIDS = ("psf", "model", "residual", "pbcor")
#: Products of a tile that must have passed before anything of it goes, and those among them that
#: must be there.
JUDGED = ("hdf5", "ms", "image.fits", "photometry.csv")
SCIENCE = ("image.fits", "photometry.csv")
#: Rules for what is bulky, and for what runs leave.
BULKY = ("ms_days", "calibrator_ms_days", "maps_days", "raw_days")
LOGS = ("logs_days", "runs_days")
#: Records of runs that are kept at most, however young they are.
MOST_RUNS = 10_000

#: Tells why a raw file must stay; None if it may go.
Guard = Callable[[str, Path], str | None]


# --- retention ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Removal:
    """Something that the policy lets go.

    Attributes
    ----------
    path : Path
        File or folder.
    n_bytes : int
        What it takes.
    group : str
        What it belongs to; empty where it belongs to none.
    rule : str
        Key of the policy that lets it go.
    """

    path: Path
    n_bytes: int
    group: str
    rule: str


@dataclass(frozen=True)
class Kept:
    """A group that is old enough, of which something stays all the same.

    Attributes
    ----------
    group : str
        The group.
    rule : str
        Key of the policy.
    reason : str
        Why, in one line.
    """

    group: str
    rule: str
    reason: str


@dataclass(frozen=True)
class NightPurge:
    """What is to be done to a night.

    Attributes
    ----------
    night : str
        The night; empty for what belongs to none.
    rules : tuple of str
        Rules that it was judged by.
    removals : list of Removal
        What goes.
    kept : list of Kept
        What stays, and why.
    """

    night: str
    rules: tuple[str, ...]
    removals: list[Removal]
    kept: list[Kept]


def plan_purge(
    config: Config,
    rules: Iterable[str] = (*BULKY[:-1], *LOGS),
    guard: Guard | None = None,
    now: float | None = None,
    again: bool = True,
) -> list[NightPurge]:
    """Return what the policy lets go, and what stays though it is old enough; nothing is touched.

    Parameters
    ----------
    config : Config
        Section ``retention`` is the policy.
    rules : iterable of str
        Its keys to judge by; ``raw_days``, for raw files, must be asked for.
    guard : callable, optional
        Given a night and a raw file of it, returns why the file must stay, or None.
    now : float, optional
        Time to judge by, seconds since 1970.
    again : bool
        Whether groups are judged again that an earlier purge kept.
    """
    now = time.time() if now is None else now
    layout = Layout(config.results)
    judge = _Judge(config, layout, guard)
    rules = [rule for rule in rules if getattr(config.retention, rule) is not None]
    found: list[NightPurge] = []
    for night in closing.closed_nights(layout):
        try:
            found += _of_night(judge, night, rules, now, again)
        except DataError as error:
            found.append(NightPurge(night, (), [], [Kept("", "", str(error))]))
    if "runs_days" in rules:
        found.append(NightPurge("", ("runs_days",), list(_run_removals(config, now)), []))
    return [plan for plan in found if plan.rules or plan.kept]


def _of_night(
    judge: _Judge, night: str, rules: Iterable[str], now: float, again: bool
) -> Iterator[NightPurge]:
    """Yield what is to be done to a night, if anything is due."""
    closed = closing.read(judge.layout, night)
    if closed is None:
        raise DataError(f"{closing.path_of(judge.layout, night)}: cannot be read; nothing goes")
    age = (now - unix_of_utc(closed.closed_utc)) / DAY_S
    old_enough = [rule for rule in rules if _is_due(judge.policy, rule, age)]
    if not old_enough:
        return
    record = _read_record(judge.layout, night)
    due = {
        rule: groups
        for rule in old_enough
        if closed.solutions or rule != "calibrator_ms_days"
        if (groups := _groups_due(closed, record, rule, again)) is not None
    }
    if due:
        removals, kept = judge.night(closed, due)
        yield NightPurge(night, tuple(due), removals, kept)


def _groups_due(
    closed: closing.ClosedNight, record: Mapping[str, Any], rule: str, again: bool
) -> list[str] | None:
    """Return the groups of a night to judge by a rule; None if it was applied already.

    What a purge kept is looked at again by those who ask for it: most of it stays for ever.
    """
    if record["rules"].get(rule, "") < closed.closed_utc:
        return sorted(closed.groups)
    kept = [group for group, why in record["kept"].items() if rule in why]
    return kept if again and kept else None


class _Judge:
    """Tells of groups what may go of them."""

    def __init__(self, config: Config, layout: Layout, guard: Guard | None):
        self.policy = config.retention
        self.layout = layout
        self.incoming = config.incoming.resolve()
        self.guard = guard

    def night(
        self, closed: closing.ClosedNight, due: Mapping[str, list[str]]
    ) -> tuple[list[Removal], list[Kept]]:
        """Return what goes of a night by the rules that are due, and what stays."""
        calibrators = {solution["group"]["id"] for solution in closed.solutions}
        removals: list[Removal] = []
        kept: list[Kept] = []
        for group in sorted({g for groups in due.values() for g in groups}):
            ms_rule = "calibrator_ms_days" if group in calibrators else "ms_days"
            bulky = (ms_rule, "maps_days", "raw_days")
            rules = [rule for rule in bulky if group in due.get(rule, ())]
            if not rules:
                continue
            try:
                records = self._passed(group)
            except DataError as error:
                kept += [Kept(group, rule, str(error)) for rule in rules]
                continue
            for rule in rules:
                paths = self._paths(closed.night, group, rule, records, kept)
                removals += _removals(paths, group, rule)
        if "logs_days" in due:
            removals += _removals(self._logs(closed.night), "", "logs_days")
        return removals, kept

    def _passed(self, group: str) -> dict[str, Record]:
        """Return the sidecars of a group by the kind of the product.

        Raises
        ------
        DataError
            If image or measurements are absent, a sidecar cannot be read, or something failed.
        """
        records = {}
        for kind in JUDGED:
            product = self.layout.group(group, kind)
            if kind in SCIENCE and not product.is_file():
                raise DataError(f"{product}: there is none")
            record = (
                read_sidecar(product, GroupFigures) if kind == "hdf5" else read_sidecar(product)
            )
            if record.verdict == "fail":
                raise DataError(f"{product}: failed ({'; '.join(record.reasons)})")
            records[kind] = record
        return records

    def _paths(
        self, night: str, group: str, rule: str, records: Mapping[str, Record], kept: list[Kept]
    ) -> list[Path]:
        """Return what a rule lets go of a group that passed; add what it does not to `kept`."""
        if rule == "maps_days":
            return [self.layout.group(group, f"{kind}.fits") for kind in AIDS]
        if rule != "raw_days":
            return [self.layout.group(group, kind) for kind in ("ms", "hdf5")]
        made_of = [entry for kind in ("hdf5", "ms") for entry in records[kind].inputs]
        files = [Path(path) for path in records["hdf5"].figures.group["files"].values()]
        going = []
        for path in files:
            if path.parent.resolve() != self.incoming or not path.exists():
                continue
            reason = _unused(path, made_of) or (self.guard(night, path) if self.guard else None)
            if reason:
                kept.append(Kept(group, rule, f"{path}: {reason}"))
            else:
                going.append(path)
        return going

    def _logs(self, night: str) -> list[Path]:
        folders = (self.layout.results / "logs", self.layout.results / "benchmarks")
        return sorted(path for folder in folders for path in folder.glob(f"*/{night}"))


def _unused(path: Path, made_of: Iterable[Input]) -> str | None:
    """Return why a raw file is not the one that its tile was made from; None if it is."""
    known = [entry for entry in made_of if Path(entry.path).name == path.name]
    if not known:
        return "nothing says that it was used"
    if all(_is_as_recorded(path, entry) for entry in known):
        return None
    return "its size or time is not that of the file that was used: this copy never was"


def _is_as_recorded(path: Path, entry: Input) -> bool:
    """Tell whether a file has the size and the time of modification of a record of it."""
    stat = path.stat()
    if entry.mtime_utc is None or stat.st_size != entry.size_bytes:
        return False
    # Records have microseconds.
    return abs(stat.st_mtime - unix_of_utc(entry.mtime_utc)) < 2e-6


def _run_removals(config: Config, now: float) -> Iterator[Removal]:
    oldest = name_of_unix(now - (config.retention.runs_days or 0) * DAY_S)
    paths = sorted((config.results / "runs").glob("[0-9]*.json"))
    too_many = paths[: max(0, len(paths) - MOST_RUNS)]
    old = itertools.takewhile(lambda path: path.name < oldest, paths[len(too_many) :])
    yield from _removals([*too_many, *old], "", "runs_days")


def _is_due(policy: RetentionOptions, rule: str, age: float) -> bool:
    days = getattr(policy, rule)
    return days is not None and age > days


def _removals(paths: Iterable[Path], group: str, rule: str) -> Iterator[Removal]:
    for path in paths:
        if os.path.lexists(path):
            yield Removal(path, size_of(path), group, rule)


def purge(config: Config, plans: Iterable[NightPurge]) -> int:
    """Remove what `plan_purge` found; return the bytes that were freed.

    The record of a night comes first, then all of a group is renamed out of the way, then it is
    deleted: whenever this ends, a product is whole, or known to be gone.
    """
    layout = Layout(config.results)
    freed = 0
    for plan in plans:
        if plan.night and plan.removals:
            _record(layout, plan)
        for _, of_group in itertools.groupby(plan.removals, key=lambda removal: removal.group):
            aside = [_set_aside(removal.path) for removal in of_group]
            for path in filter(None, aside):
                remove(path)
        if plan.night and plan.rules:
            _record(layout, plan, done=True)
        freed += sum(removal.n_bytes for removal in plan.removals)
    return freed


def _set_aside(path: Path) -> Path | None:
    """Rename something that is to be deleted; None if it is gone already."""
    aside = beside(path, "old")
    with suppress(FileNotFoundError):
        os.replace(path, aside)
        return aside
    return None


def _read_record(layout: Layout, night: str) -> dict[str, Any]:
    path = layout.night(night, "purged.json")
    record: dict[str, Any] = {"rules": {}, "groups": {}, "others": {}, "kept": {}}
    try:
        return record | json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return record
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); nothing goes") from None


def _record(layout: Layout, plan: NightPurge, done: bool = False) -> None:
    """Add to the record of what was removed of a night.

    ``groups`` has a group's paths, ``others`` what belongs to no group, ``rules`` when all that a
    rule let go was gone, ``kept`` why a rule does not let go of a group.
    """
    record = _read_record(layout, plan.night)
    now = utc_now()
    if done:
        record["rules"] |= dict.fromkeys(plan.rules, now)
        for group, reasons in record["kept"].items():
            left = {rule: why for rule, why in reasons.items() if rule not in plan.rules}
            record["kept"][group] = left
        for kept in plan.kept:
            record["kept"].setdefault(kept.group, {})[kept.rule] = kept.reason
        record["kept"] = {group: reasons for group, reasons in record["kept"].items() if reasons}
    else:
        for removal in plan.removals:
            groups = record["groups"]
            place = groups.setdefault(removal.group, {}) if removal.group else record["others"]
            entry = {"bytes": removal.n_bytes, "rule": removal.rule, "utc": now}
            place[str(removal.path)] = entry
    path = layout.night(plan.night, "purged.json")
    write_text(path, json.dumps(record, indent=1) + "\n")


def daily(config: Config) -> int:
    """Purge, if it was not done within a day; return bytes freed.

    Logs and records of runs go by themselves, so that they do not grow for ever; Measurement Sets
    and maps if ``retention.automatic`` says so; raw files by hand only.
    """
    stamp = config.results / ".purged"
    with suppress(FileNotFoundError):
        if 0 <= time.time() - stamp.stat().st_mtime < DAY_S:
            return 0
    bulky = BULKY[:-1] if config.retention.automatic else ()
    freed = purge(config, plan_purge(config, (*bulky, *LOGS), again=False))
    stamp.touch()
    return freed
