"""Records and sidecars that are damaged, after a power cut say: found, told, and made again.

What a plan reads it passes over when it is damaged. The holder of a results folder sets it aside,
``<name>.damaged``: then it is absent, and its rule makes it again; a night whose closing it told is
open again; of what was purged the folders still tell (`closing.read_purged`).
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import records
from ..core.figures import Figures
from ..core.files import write_text
from ..core.layout import Layout
from ..core.sidecar import parse_sidecar
from . import closing, failures

__all__ = ["ENDING", "Choice", "Damage", "find", "find_closed", "mend", "set_aside"]

#: What the name of a damaged file ends with once it was set aside.
ENDING = ".damaged"
#: Closed nights, from the last on, whose records are read for no other reason.
_NIGHTS_BACK = 31
#: Products with sidecars, as the ends of their names.
_PRODUCTS = re.compile(
    r"(\.hdf5|\.ms|\.[kbg]cal|\.image\.fits|photometry\.csv|blind\.csv|(mosaic|joint_.*)\.fits"
    r"|mosaic_\d\d\.fits|lightcurves\.parquet|index\.sqlite|candidates|qa\.json|\.html)\.json"
)


@dataclass(frozen=True)
class Choice:
    """Which calibration serves a group, ``<id>.calibration.json``; more is there for people."""

    candidates: list[str]
    chosen: str | None = None
    calibrators: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What the pages and the index read of ``qa.json``."""

    verdict: str
    tiles: list[dict[str, Any]]
    counts: dict[str, Any]


@dataclass(frozen=True)
class Damage:
    """A file that is there, and says nothing.

    Attributes
    ----------
    path : Path
        The file.
    reason : str
        Why, in a few words.
    lasts : bool
        Whether it is the file itself; otherwise the machine does not let us read it now.
    """

    path: Path
    reason: str
    lasts: bool = True


def find(layout: Layout, nights: Iterable[str]) -> list[Damage]:
    """Return what is damaged of some nights, and of all nights together; nothing is touched."""
    folders = [layout.results, layout.lightcurves()]
    for night in sorted(nights):
        folders += [layout.night(night), *sorted(layout.night(night, "groups").glob("*T*"))]
    paths = (path for folder in folders for path in sorted(folder.glob("[!.]*.json")))
    return list(filter(None, map(_look, paths)))


def find_closed(layout: Layout) -> list[Damage]:
    """Return which records of closed nights are damaged, and which of their products' sidecars.

    Empty ones are found in all nights. To cost nothing more for what is long past, others are
    looked for in the last ones, and where they have changed since the night was closed.
    """
    found = []
    nights = closing.nights_on_disk(layout)
    for night in nights:
        record = closing.path_of(layout, night)
        if (when := _size_and_time(record)) is None:
            continue
        late = when[0] == 0 or night in nights[-_NIGHTS_BACK:]
        found += [_look(record)] if late else []
        for name in ("qa.json", "photometry.csv.json", "mosaic.fits.json", "purged.json"):
            path = layout.night(night, name)
            now = _size_and_time(path)
            if now is not None and (now[0] == 0 or (now[1] > when[1] and not _is_purged(path))):
                found.append(_look(path))
    return list(filter(None, found))


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def mend(layout: Layout, damages: Iterable[Damage]) -> list[Damage]:
    """Set aside what is damaged; return what was. Only the holder of the results may call this."""
    done = []
    for damage in damages:
        if not damage.lasts:
            continue
        path = damage.path
        known = closing.read_purged(layout, path.parent.name) if _is_purged(path) else None
        os.replace(path, f"{path}{ENDING}")
        if known is not None:  # nobody makes this one again
            write_text(path, json.dumps(known, indent=1) + "\n")
        done.append(damage)
    return done


def set_aside(layout: Layout, nights: Iterable[str]) -> Iterator[Path]:
    """Yield what was set aside of some nights and of all nights together, by its former names."""
    places = [layout.results.glob(f"*{ENDING}"), layout.lightcurves().glob(f"*{ENDING}")]
    places += [layout.night(night).rglob(f"*.json{ENDING}") for night in sorted(nights)]
    for place in places:
        yield from (path.with_name(path.name.removesuffix(ENDING)) for path in sorted(place))


def _is_purged(path: Path) -> bool:
    return path.name == "purged.json"


def _look(path: Path) -> Damage | None:
    """Return what is wrong with a record or sidecar; None also for a file of another kind."""
    if (check := _check_of(path.name)) is None or (state := _size_and_time(path)) is None:
        return None
    return _checked(path, check, state)


@functools.cache
def _checked(path: Path, check: Callable[[Path], object], state: tuple[int, int]) -> Damage | None:
    """Check a file, once for each of its states."""
    try:
        check(path)
    except records.Damaged as damage:
        return Damage(path, str(damage), lasts=not isinstance(damage, records.Unreadable))
    return None


def _check_of(name: str) -> Callable[[Path], object] | None:
    for end, check in _RECORDS.items():
        if name.endswith(end) and (end[0] == "." or name == end):
            return check
    if name.startswith("failure"):
        return _FAILURE
    return _sidecar if _PRODUCTS.search(name) else None


_FAILURE = functools.partial(records.read, failures.Failure)
_RECORDS: dict[str, Callable[[Path], object]] = {
    "closed.json": functools.partial(records.read, closing.ClosedNight),
    "purged.json": functools.partial(records.read, dict[str, Any]),
    "qa.json": functools.partial(records.read, Verdict),
    ".calibration.json": functools.partial(records.read, Choice),
}


def _sidecar(path: Path) -> None:
    content = records.read(dict[str, Any], path)
    try:
        parse_sidecar(content, Figures)
    except (TypeError, ValueError):
        raise records.Damaged("not a valid sidecar") from None
