"""Compare products value for value, whatever they are.

Images, tables, calibration tables and Measurement Sets must hold equal values (not a number equals
itself), sidecars equal figures and verdicts, pages equal words and pictures. What tells the run
rather than the sky is left out: times, versions, paths, checksums of files that hold these.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..core.checksums import files_in

__all__ = ["Difference", "compare", "folders", "products"]

#: Cards, columns and keys that tell the run.
CARDS = {"DATE", "ORIGIN", "CHECKSUM", "DATASUM", "HISTORY", "COMMENT", "GITSHA", "PIPEVERS"}
COLUMNS = {"image_sha256", "image_version", "table"}
KEYS = {
    *("timings_s", "created_utc", "tools", "commands", "inputs", "schema", "image_sha256"),
    *("image_version", "parameters", "table", "folder", "path", "mtime", "mtime_ns"),
    *("steps", "timings", "seconds", "peak_memory_gb", "imager_peak_memory_gb"),
    *("outputs", "provenance", "sha256"),
}
#: Of the index, what tells the run; of group files, where raw files lie and when they were written.
INDEX_TABLES = {"meta", "folders", "failures", "runs"}
INDEX_COLUMNS = {"seconds", "created_utc", "parameters", "tools", "commands", "mtime_utc", "sha256"}
GROUP_DATASETS = {"Sources/path", "Sources/absolute_path", "Sources/mtime_ns"}
#: On pages: dates with or without a time of day, times that something took, releases and commits.
_PAGE_TIMES = re.compile(
    r"git commit</th><td><code>[^<]*"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?( UTC|Z)?"
    r"|\d+(\.\d+)?\s*(s|min|h|GB|MB)\b"
)
#: Files of a results folder that are compared, by the end of their names.
SUFFIXES = (".fits", ".csv", ".parquet", ".json")


@dataclass(frozen=True)
class Difference:
    """Something that two products do not have in common.

    Attributes
    ----------
    text : str
        What, in one line.
    relative : float
        Largest difference over the largest value; infinite where it is not one of numbers.
    """

    text: str
    relative: float = math.inf

    def within(self, place: Any) -> Difference:
        """Return the same with its place in front."""
        return Difference(f"{place}{self.text}", self.relative)


def products(results: Path) -> set[Path]:
    """Return the science products of a results folder, relative to it."""
    places = [results / "nights", results / "lightcurves"]
    files = (path for place in places for path in place.rglob("*"))
    found = {path for path in files if path.name.endswith(SUFFIXES) or _is_table(path)}
    inside = {path for path in found if any(_is_table(parent) for parent in path.parents)}
    hidden = {path for path in found if path.name.startswith(".")}
    names = {path.relative_to(results) for path in found - inside - hidden}
    return {name for name in names if name.name != "closed.json"}


def folders(before: Path, after: Path) -> Iterator[Difference]:
    """Yield the differences between two results folders."""
    one, other = products(before), products(after)
    yield from (Difference(f"{name}: only in {before}") for name in sorted(one - other))
    yield from (Difference(f"{name}: only in {after}") for name in sorted(other - one))
    for name in sorted(one & other):
        yield from (found.within(f"{name}: ") for found in compare(before / name, after / name))


def compare(one: Path, other: Path) -> Iterator[Difference]:
    """Yield the differences between two products of one kind.

    Raises
    ------
    Exception
        Whatever the reader of that kind raises, if one of them is damaged.
    """
    if _is_table(one):
        return _casa_tables(one, other)
    if one.is_dir():
        return _folders(one, other)
    readers = {
        **{".fits": _images, ".json": _records, ".csv": _tables, ".parquet": _tables},
        **{".hdf5": _groups, ".html": _pages, ".sqlite": _databases},
    }
    return readers.get(one.suffix, _bytes)(one, other)


def _is_table(path: Path) -> bool:
    return (path / "table.dat").is_file()


# --- by kind --------------------------------------------------------------------------------------


def _bytes(one: Path, other: Path) -> Iterator[Difference]:
    if one.read_bytes() != other.read_bytes():
        yield Difference("bytes differ")


def _folders(one: Path, other: Path) -> Iterator[Difference]:
    names = [{p.relative_to(top) for p in files_in(top)} for top in (one, other)]
    yield from (Difference(f"{name}: in one only") for name in sorted(names[0] ^ names[1]))
    for name in sorted(names[0] & names[1]):
        yield from (found.within(f"{name}: ") for found in compare(one / name, other / name))


def _images(one: Path, other: Path) -> Iterator[Difference]:
    from astropy.io import fits

    with fits.open(one) as a, fits.open(other) as b:
        if len(a) != len(b):
            yield Difference(f"{len(a)} and {len(b)} units")
            return
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            cards = [{k: v for k, v in hdu.header.items() if k not in CARDS} for hdu in (x, y)]
            for found in (*_values("", *cards), *_arrays(x.data, y.data)):
                yield found.within(f"[{number}] ")


def _arrays(x: Any, y: Any) -> Iterator[Difference]:
    if x is None and y is None:
        return
    if x is None or y is None or x.shape != y.shape or x.dtype != y.dtype:
        yield Difference("shape or type differ")
    elif not np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"):
        differ = (x != y) & ~((x != x) & (y != y))
        count = np.count_nonzero(differ)
        if x.dtype.kind not in "fciu":
            yield Difference(f"{count} values differ")
            return
        kind = complex if x.dtype.kind == "c" else float
        a, b = x[differ].astype(kind), y[differ].astype(kind)
        most, largest = np.max(np.abs(a - b)), np.nanmax(np.abs(x))
        relative = float(most / largest) if largest and np.isfinite(most) else math.inf
        yield Difference(f"{count} values differ, by {most:.3g} at most", relative)


def _tables(one: Path, other: Path) -> Iterator[Difference]:
    read = pd.read_csv if one.suffix == ".csv" else pd.read_parquet
    a, b = ({c: t[c] for c in t if c not in COLUMNS} for t in (read(one), read(other)))
    for name in sorted(a.keys() ^ b.keys()):
        yield Difference(f"column {name} is in one only")
    for name in sorted(a.keys() & b.keys()):
        if a[name].equals(b[name]):
            continue
        found = None
        if a[name].dtype == b[name].dtype and a[name].dtype.kind in "fiu":
            found = next(_arrays(a[name].to_numpy(), b[name].to_numpy()), None)
        yield (found or Difference("differs")).within(f"column {name}: ")


def _records(one: Path, other: Path) -> Iterator[Difference]:
    return _values("", *(json.loads(path.read_text(encoding="utf-8")) for path in (one, other)))


def _values(where: str, a: Any, b: Any) -> Iterator[Difference]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted((a.keys() | b.keys()) - KEYS):
            if key not in a or key not in b:
                yield Difference(f"{where}.{key}: in one only")
            else:
                yield from _values(f"{where}.{key}", a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _values(f"{where}[{index}]", x, y)
    elif not _same(a, b):
        relative = math.inf
        if isinstance(a, float) and isinstance(b, float) and (largest := max(abs(a), abs(b))):
            relative = abs(a - b) / largest
        yield Difference(f"{where}: {a!r} and {b!r}", relative)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and bool(a == b)


def _casa_tables(one: Path, other: Path) -> Iterator[Difference]:
    from casacore.tables import table

    with table(str(one), ack=False) as a, table(str(other), ack=False) as b:
        if a.nrows() != b.nrows() or a.colnames() != b.colnames():
            yield Difference("rows or columns differ")
            return
        for name in a.colnames():
            for start in range(0, a.nrows(), 10_000):
                x, y = (_cells(t, name, start) for t in (a, b))
                pairs = zip(x, y, strict=True) if len(x) == len(y) else ()
                found = [d for p, q in pairs for d in _arrays(p, q)]
                if len(x) != len(y):
                    found = [Difference("cells without a value differ")]
                if found:
                    yield max(found, key=lambda d: d.relative).within(f"column {name}: ")
                    break
        subtables = [n for n in a.fieldnames() if isinstance(a.getkeyword(n), str)]
        for name in subtables:
            if (one / name).is_dir() and name not in ("HISTORY", "SORTED_TABLE", "OBSERVATION"):
                for difference in _casa_tables(one / name, other / name):
                    yield difference.within(f"{name}: ")


def _cells(table: Any, column: str, start: int) -> list[np.ndarray]:
    """Return some rows of a column; row by row where shapes vary, none of cells without a value."""
    try:
        return [np.asarray(table.getcol(column, start, 10_000))]
    except RuntimeError:
        rows = range(start, min(start + 10_000, table.nrows()))
        defined = [row for row in rows if table.iscelldefined(column, row)]
        return [np.asarray(table.getcell(column, row)) for row in defined]


def _groups(one: Path, other: Path) -> Iterator[Difference]:
    """Compare group files; the raw data that these point to are not read."""
    import h5py

    with h5py.File(one) as a, h5py.File(other) as b:
        names: list[set[str]] = [set(), set()]
        a.visit(names[0].add)
        b.visit(names[1].add)
        yield from (Difference(f"{name}: in one only") for name in sorted(names[0] ^ names[1]))
        for name in sorted(names[0] & names[1] - GROUP_DATASETS):
            x, y = a[name], b[name]
            if not isinstance(x, h5py.Dataset):
                continue
            if x.is_virtual:
                same = [(v.vspace.get_select_bounds(), v.dset_name) for v in x.virtual_sources()]
                differ = same != [
                    (v.vspace.get_select_bounds(), v.dset_name) for v in y.virtual_sources()
                ]
                if differ or x.shape != y.shape or x.dtype != y.dtype:
                    yield Difference(f"{name}: made of other parts")
            else:
                found = _arrays(np.asarray(x[()]), np.asarray(y[()]))
                yield from (difference.within(f"{name}: ") for difference in found)


def _pages(one: Path, other: Path) -> Iterator[Difference]:
    a, b = (_PAGE_TIMES.sub("", p.read_text(encoding="utf-8")).splitlines() for p in (one, other))
    if len(a) != len(b):
        yield Difference(f"{len(a)} and {len(b)} lines")
        return
    for number, (x, y) in enumerate(zip(a, b, strict=True), 1):
        if x != y:
            yield Difference(f"line {number}: {x.strip()[:60]!r} and {y.strip()[:60]!r}")


def _databases(one: Path, other: Path) -> Iterator[Difference]:
    with closing(_connect(one)) as a, closing(_connect(other)) as b:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        names = [[name for (name,) in db.execute(tables)] for db in (a, b)]
        if names[0] != names[1]:
            yield Difference("tables differ")
            return
        for name in (n for n in names[0] if n not in INDEX_TABLES and not n.startswith("sqlite_")):
            columns = [row[1] for row in a.execute(f'PRAGMA table_info("{name}")')]
            wanted = ", ".join(f'"{c}"' for c in columns if c not in INDEX_COLUMNS)
            # Rows have no order of their own, nor may they all fit into memory.
            query = f'SELECT {wanted} FROM "{name}" ORDER BY {wanted}'
            rows = enumerate(zip(a.execute(query), b.execute(query), strict=False), 1)
            counts = [db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for db in (a, b)]
            if counts[0] != counts[1]:
                yield Difference(f"{name}: {counts[0]} and {counts[1]} rows")
            elif differ := next((n for n, (x, y) in rows if x != y), None):
                yield Difference(f"{name}: row {differ} of {counts[0]} differs")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
