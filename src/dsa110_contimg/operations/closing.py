"""Nights that are done.

A night is closed when its UTC day is over, nothing of it is still arriving, and all its products
stand. What is to be known of it later is then in one file, ``nights/<night>/closed.json``: the plan
leaves its groups alone, so that what a run costs does not grow with the history. Its calibrations
still serve other nights, and its measurements go into the light curves. Data that arrive late
re-open it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..conversion.inventory import Group
from ..core import records
from ..core.files import write_text
from ..core.layout import Layout
from ..core.times import NIGHT, night_mjd, unix_of_mjd, utc_now
from ..telescope.dsa110 import TILE_S
from .failures import describe
from .standing import TILE_PRODUCTS, stand

__all__ = [
    "READY",
    "ClosedNight",
    "closed_nights",
    "is_news",
    "is_over",
    "nights_on_disk",
    "open_nights",
    "path_of",
    "purged_groups",
    "read",
    "read_purged",
    "reopen",
    "summary",
    "write",
]

#: States of a group that is worked on.
READY = ("complete", "degraded")
#: Maps of a tile that nothing is made from: they may be purged.
_AIDS = ("psf.fits", "model.fits", "residual.fits", "pbcor.fits")


@dataclass(frozen=True)
class ClosedNight:
    """What is kept of a closed night.

    Attributes
    ----------
    night : str
        UTC day.
    closed_utc : str
        When it was closed.
    groups : dict of str to str
        Group id to a digest of what there was of it.
    solutions : list of dict
        Calibrations: ``group`` (the inventory's entry), ``calibrator`` and ``verdict``.
    refused : list of dict
        Inventory's entries of groups that no calibration could serve.
    quarantined : list of str
        Groups that were set aside.
    tiles : int
        Tiles that were made.
    """

    night: str
    closed_utc: str
    groups: dict[str, str]
    solutions: list[dict] = field(default_factory=list)
    refused: list[dict] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    tiles: int = 0

    def __post_init__(self) -> None:
        for solution in self.solutions:
            group = solution.get("group")
            if not (isinstance(group, dict) and "id" in group and "verdict" in solution):
                raise ValueError("a solution without group or verdict")


def path_of(layout: Layout, night: str) -> Path:
    """Return where the record of a closed night is."""
    return layout.night(night, "closed.json")


def nights_on_disk(layout: Layout) -> list[str]:
    """Return the nights that have a folder, in order of time."""
    try:
        names = [path.name for path in (layout.results / "nights").iterdir()]
    except FileNotFoundError:
        return []
    return sorted(name for name in names if re.fullmatch(NIGHT, name))


def closed_nights(layout: Layout) -> list[str]:
    """Return the closed nights, in order of time."""
    return [night for night in nights_on_disk(layout) if _is_closed(layout, night)]


def open_nights(layout: Layout) -> list[str]:
    """Return the nights with a folder that are not closed, in order of time."""
    return [night for night in nights_on_disk(layout) if not _is_closed(layout, night)]


def _is_closed(layout: Layout, night: str) -> bool:
    """Tell whether a night has a record of its closing; an empty one is none."""
    try:
        return os.stat(path_of(layout, night)).st_size > 0
    except OSError:
        return False


def read(layout: Layout, night: str) -> ClosedNight | None:
    """Return what is kept of a night; None if it is open, or its record cannot be read."""
    return records.read_or_none(ClosedNight, path_of(layout, night))


def write(layout: Layout, closed: ClosedNight) -> None:
    """Close a night."""
    text = json.dumps(asdict(closed), indent=1) + "\n"
    write_text(path_of(layout, closed.night), text)


def reopen(layout: Layout, night: str) -> bool:
    """Open a night again; tell whether it was closed."""
    path = path_of(layout, night)
    was_closed = path.is_file()
    path.unlink(missing_ok=True)
    return was_closed


def is_over(night: str, now: float, grace_s: float) -> bool:
    """Tell whether a night's UTC day is over, and its last tile had time to arrive.

    Parameters
    ----------
    night : str
        UTC day.
    now : float
        Time to judge by, seconds since 1970.
    grace_s : float
        How long after the end of the day's last tile its files may take to arrive, s.
    """
    return now >= unix_of_mjd(night_mjd(night) + 1) + TILE_S + grace_s


def digest(group: Group, kind: str) -> str:
    """Return number and digest of a group's files.

    Parameters
    ----------
    group : Group
        The group.
    kind : {"made", "none", "tile"}
        What counts. Of a group that was made: names, sizes and times of modification, so that a
        better copy is told from the one that was used. Of one that was not, the mode too: a file
        may only have lacked permission. ``tile``, of earlier releases: names alone. The folder
        counts for none of them: raw files may move.
    """
    if kind == "made" and group.stamp:
        text = f"{group.state}\n{group.stamp}"
    else:
        paths = group.files.values()
        found = [os.path.basename(path) if kind == "tile" else _describe(path) for path in paths]
        text = "\n".join([group.state, *sorted(found)])
    return f"{len(group.files)}:{kind}:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def _describe(path: str) -> str:
    return describe(path).removeprefix(os.path.dirname(path))


def summary(
    night: str,
    groups: Iterable[Group],
    made: Iterable[str],
    solutions: list[dict],
    refused: Mapping[str, Any],
    quarantined: Iterable[str],
) -> ClosedNight:
    """Return what is to be kept of a night.

    Parameters
    ----------
    night : str
        UTC day.
    groups : iterable of Group
        All groups of the night.
    made : iterable of str
        Those that became tiles.
    solutions : list of dict
        See `ClosedNight`.
    refused : mapping
        Ids of groups that no calibration could serve.
    quarantined : iterable of str
        Groups that were set aside.
    """
    made = set(made)
    groups = list(groups)
    return ClosedNight(
        night=night,
        closed_utc=utc_now(),
        groups={g.id: digest(g, "made" if g.id in made else "none") for g in groups},
        solutions=solutions,
        refused=[asdict(g) for g in groups if g.id in refused],
        quarantined=sorted(quarantined),
        tiles=len(made),
    )


def read_purged(layout: Layout, night: str) -> dict[str, dict[str, Any]]:
    """Return what is known to be purged of a night, ``nights/<night>/purged.json``.

    ``groups`` has, by group, the paths that went, each with ``bytes``, ``rule`` and ``utc``;
    ``others`` what belonged to no group; ``rules`` when all that a rule let go was gone. Where the
    record is damaged, the folders tell: of a tile that stands while what it was made from does not,
    that was purged.
    """
    known: dict[str, dict[str, Any]] = {"rules": {}, "groups": {}, "others": {}}
    try:
        found = records.read(dict[str, Any], layout.night(night, "purged.json")) or {}
        records.parse(dict[str, dict[str, Any]], {key: found.get(key, {}) for key in known})
        return known | found
    except records.Damaged:
        return known | {"groups": dict(_purged_by_absence(layout, night))}


def _purged_by_absence(layout: Layout, night: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield tiles that stand, and what they lack of all that comes before them."""
    entry = {"bytes": 0, "rule": "", "utc": ""}
    for folder in sorted(layout.night(night, "groups").glob("*T*")):
        group = folder.name
        if stand(layout.group(group, kind) for kind in TILE_PRODUCTS):
            before = (layout.group(group, kind) for kind in ("hdf5", "ms", *_AIDS))
            if gone := [path for path in before if not path.exists()]:
                yield group, {str(path): entry for path in gone}


def purged_groups(layout: Layout, night: str) -> set[str]:
    """Return the groups of a night whose data were purged; what was made of them stays."""
    return set(read_purged(layout, night)["groups"])


def is_news(closed: ClosedNight, group: Group) -> bool:
    """Tell whether a group in the incoming folder is more than a closed night knows.

    One that has lost raw files is none: they are purged when they have served.
    """
    known = closed.groups.get(group.id)
    if known is None:
        return True
    number, _, kind = known.partition(":")
    if group.state not in READY or len(group.files) < int(number):
        return False
    return known != digest(group, kind.partition(":")[0])
