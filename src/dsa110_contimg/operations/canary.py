"""A night that another release makes again, in a folder of its own, beside what was published."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core.errors import DataError
from ..core.figures import GroupFigures
from ..core.files import write_text
from ..core.layout import Layout
from ..core.options import Config
from ..core.sidecar import read_sidecar
from ..core.times import utc_now
from ..reports import compare
from . import closing
from .release import Release

__all__ = ["Found", "Row", "choose", "examine", "folder_of", "load", "raw_missing", "table"]

#: A source counts as seen from this signal-to-noise ratio on.
SEEN_SNR = 5.0
#: Products of a night whose values are compared, by the end of their names.
SUFFIXES = (".fits", ".csv")


@dataclass(frozen=True)
class Row:
    """How one table of fluxes compares with the published one.

    Attributes
    ----------
    table : str
        Its path below the results folder.
    sources : int
        Sources seen in both.
    median_ratio, largest_change : float or None
        Median of new over published flux; largest deviation of that from 1.
    lost, gained : int
        Sources seen in the published one only, and in the new one only.
    """

    table: str
    sources: int
    median_ratio: float | None
    largest_change: float | None
    lost: int
    gained: int


@dataclass(frozen=True)
class Found:
    """What a night that was made again showed.

    Attributes
    ----------
    key : str
        Of the release that made it, see `Release.key`.
    version, night, utc : str
        That release, the night, when it was compared.
    rows : list of Row
        Tables of fluxes.
    equal : int
        Products that hold the same values.
    differ : list of str
        What differs, a line each: the first of each product.
    """

    key: str
    version: str
    night: str
    utc: str
    rows: list[Row]
    equal: int
    differ: list[str]


def folder_of(config: Config, release: Release) -> Path:
    """Return the results folder in which a release makes a night again."""
    return config.results / "campaigns" / f"canary-{release.version}-{release.key}"


# --- which night ----------------------------------------------------------------------------------


def raw_missing(config: Config, night: str) -> list[str]:
    """Return the raw files that a closed night was made from and that are gone."""
    missing = []
    for record in sorted(Layout(config.results).night(night, "groups").glob("*/group_*.json")):
        group = read_sidecar(record.with_suffix(""), GroupFigures).figures.group
        names = (Path(path).name for path in group["files"].values())
        missing += [name for name in names if not (config.incoming / name).is_file()]
    return missing


def choose(config: Config, asked: str | None = None) -> str:
    """Return the night to make again: the one that is asked for, or the last that can be.

    Raises
    ------
    DataError
        If it cannot be made again, or none can.
    """
    layout = Layout(config.results)
    if asked is None:
        for night in reversed(closing.closed_nights(layout)):
            if not _why_not(config, layout, night):
                return night
        raise DataError(
            f"{config.results}: no closed night has its raw files and a calibration of its own; "
            f"bring the raw files of one back to {config.incoming}"
        )
    if reason := _why_not(config, layout, asked):
        raise DataError(f"{asked}: {reason}")
    return asked


def _why_not(config: Config, layout: Layout, night: str) -> str | None:
    """Return why a night cannot be made again; None if it can."""
    closed = closing.read(layout, night)
    if closed is None:
        return "is no closed night"
    if not closed.tiles:
        return "has no tiles"
    if not any(solution["verdict"] != "fail" for solution in closed.solutions):
        return "has no calibration of its own; another night served it"
    if missing := raw_missing(config, night):
        return f"{len(missing)} raw files are gone ({missing[0]}); choose another night"
    return None


# --- what differs ---------------------------------------------------------------------------------


def examine(config: Config, release: Release, night: str) -> Found:
    """Compare a night that a release made again with the published one, and keep what was found.

    Raises
    ------
    DataError
        If tables of the night are absent.
    """
    folder = folder_of(config, release)
    published, made = (Layout(results).night(night) for results in (config.results, folder))
    tables = sorted(p.relative_to(published) for p in published.rglob("*photometry.csv"))
    absent = [str(name) for name in tables if not (made / name).is_file()]
    if absent or not tables:
        raise DataError(f"{made}: {', '.join(absent) or 'photometry'} was not made; see its logs")
    rows = [_row(name, published, made) for name in tables]
    equal, differ = 0, []
    for name in _products(published, made):
        first = next(_differences(published / name, made / name), None)
        equal += first is None
        differ += [f"{name}: {first}"] if first else []
    found = Found(release.key, release.version, night, utc_now(), rows, equal, differ)
    write_text(folder / "canary.json", json.dumps(asdict(found), indent=1) + "\n")
    return found


def _products(published: Path, made: Path) -> Iterator[Path]:
    """Yield the images and tables that there are of both."""
    for path in sorted(published.rglob("*")):
        name = path.relative_to(published)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.name.endswith(SUFFIXES) and not hidden and (made / name).is_file():
            yield name


def _differences(one: Path, other: Path) -> Iterator[str]:
    if filecmp.cmp(one, other, shallow=False):
        return
    try:
        yield from (difference.text for difference in compare.compare(one, other))
    except (OSError, ValueError) as error:
        yield f"cannot be read: {error}"


def _row(name: Path, published: Path, made: Path) -> Row:
    before, after = (pd.read_csv(folder / name) for folder in (published, made))
    both = before.merge(after, on="source_id", how="outer", suffixes=("", "_new"))
    seen, seen_now = both.snr >= SEEN_SNR, both.snr_new >= SEEN_SNR
    ratio = (both.flux_jy_new / both.flux_jy)[seen & seen_now]
    change = np.abs(ratio - 1.0)
    return Row(
        table=str(name),
        sources=len(ratio),
        median_ratio=float(ratio.median()) if len(ratio) else None,
        largest_change=float(change.max()) if len(ratio) else None,
        lost=int((seen & ~seen_now).sum()),
        gained=int((~seen & seen_now).sum()),
    )


def load(config: Config, release: Release) -> Found | None:
    """Return what was found with a release; None if it made no night again."""
    try:
        path = folder_of(config, release) / "canary.json"
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = Found(**content | {"rows": [Row(**row) for row in content["rows"]]})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.key == release.key else None


def table(found: Found, most: int = 20) -> Iterator[str]:
    """Yield what was found, as lines for people: tables that changed most, and what differs."""
    yield f"{'table':<60} {'sources':>7} {'median':>8} {'largest':>8} {'lost':>5} {'gained':>6}"
    rows = sorted(found.rows, key=_change, reverse=True)
    for row in rows[:most]:
        ratio, change = (
            "-" if value is None else f"{value:.4f}"
            for value in (row.median_ratio, row.largest_change)
        )
        yield (
            f"{row.table:<60} {row.sources:>7} {ratio:>8} {change:>8} {row.lost:>5} {row.gained:>6}"
        )
    if len(rows) > most:
        yield f"{len(rows) - most} more tables, which changed less"
    yield f"{found.equal} images and tables hold the same values, {len(found.differ)} do not"
    yield from (f"  {line}" for line in found.differ[:most])
    if len(found.differ) > most:
        yield f"  {len(found.differ) - most} more, in canary.json"


def _change(row: Row) -> tuple[int, float]:
    return row.lost + row.gained, row.largest_change or 0.0
