"""Compare two results folders value for value.

    ./contimg exec python tools/compare_results.py BEFORE AFTER

Images, tables, calibration tables and Measurement Sets must hold equal values (not a number equals
itself), sidecars equal figures and verdicts. What tells the run rather than the sky is left out:
times, versions, paths, checksums of files that hold these. Each difference is a line; the exit
status is 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits

#: Cards, columns and keys that tell the run.
CARDS = {"DATE", "ORIGIN", "CHECKSUM", "DATASUM", "HISTORY", "COMMENT", "GITSHA", "PIPEVERS"}
COLUMNS = {"image_sha256", "image_version", "table"}
KEYS = {
    *("timings_s", "created_utc", "tools", "commands", "inputs", "schema", "image_sha256"),
    *("image_version", "parameters", "table", "folder", "path", "mtime", "mtime_ns"),
    *("steps", "timings", "seconds", "peak_memory_gb", "imager_peak_memory_gb"),
}
#: Files that are looked into, by the end of their names; pages, pictures and logs are not.
SUFFIXES = (".fits", ".csv", ".parquet", ".json")


def products(results: Path) -> set[Path]:
    """Return the products of a results folder, relative to it."""
    places = [results / "nights", results / "lightcurves"]
    files = (path for place in places for path in place.rglob("*"))
    found = {path for path in files if path.name.endswith(SUFFIXES) or _is_table(path)}
    inside = {path for path in found if any(_is_table(parent) for parent in path.parents)}
    hidden = {path for path in found if path.name.startswith(".")}
    names = {path.relative_to(results) for path in found - inside - hidden}
    return {name for name in names if name.name != "closed.json"}


def _is_table(path: Path) -> bool:
    return (path / "table.dat").is_file()


def differences(before: Path, after: Path) -> Iterator[str]:
    """Yield a line for each difference between two results folders.

    Parameters
    ----------
    before, after : Path
        Results folders.
    """
    one, other = products(before), products(after)
    yield from (f"{name}: only in {before}" for name in sorted(one - other))
    yield from (f"{name}: only in {after}" for name in sorted(other - one))
    for name in sorted(one & other):
        yield from (f"{name}: {text}" for text in _compare(before / name, after / name))


def _compare(one: Path, other: Path) -> Iterator[str]:
    if _is_table(one):
        return _casa_tables(one, other)
    readers = {".fits": _images, ".json": _records}
    return readers.get(one.suffix, _tables)(one, other)


def _images(one: Path, other: Path) -> Iterator[str]:
    with fits.open(one) as a, fits.open(other) as b:
        if len(a) != len(b):
            yield f"{len(a)} and {len(b)} units"
            return
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            cards = [{k: v for k, v in hdu.header.items() if k not in CARDS} for hdu in (x, y)]
            for key in sorted(set(cards[0]) | set(cards[1])):
                if not _same(cards[0].get(key), cards[1].get(key)):
                    yield f"[{number}] {key}: {cards[0].get(key)} and {cards[1].get(key)}"
            yield from (f"[{number}] {text}" for text in _arrays(x.data, y.data))


def _arrays(x: Any, y: Any) -> Iterator[str]:
    if x is None and y is None:
        return
    if x is None or y is None or x.shape != y.shape or x.dtype != y.dtype:
        yield "shape or type differ"
    elif not np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"):
        differ = (x != y) & ~((x != x) & (y != y))
        most = np.nanmax(np.abs(x[differ] - y[differ])) if x.dtype.kind in "fciu" else "text"
        yield f"{np.count_nonzero(differ)} values differ, by {most} at most"


def _tables(one: Path, other: Path) -> Iterator[str]:
    read = pd.read_csv if one.suffix == ".csv" else pd.read_parquet
    a, b = ({c: t[c] for c in t if c not in COLUMNS} for t in (read(one), read(other)))
    yield from (f"column {name} is in one only" for name in sorted(a.keys() ^ b.keys()))
    for name in a.keys() & b.keys():
        if not a[name].equals(b[name]):
            yield f"column {name} differs"


def _records(one: Path, other: Path) -> Iterator[str]:
    return _values("", *(json.loads(path.read_text(encoding="utf-8")) for path in (one, other)))


def _values(where: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted((a.keys() | b.keys()) - KEYS):
            if key not in a or key not in b:
                yield f"{where}.{key}: in one only"
            else:
                yield from _values(f"{where}.{key}", a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _values(f"{where}[{index}]", x, y)
    elif not _same(a, b):
        yield f"{where}: {a!r} and {b!r}"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


def _casa_tables(one: Path, other: Path) -> Iterator[str]:
    from casacore.tables import table

    with table(str(one), ack=False) as a, table(str(other), ack=False) as b:
        if a.nrows() != b.nrows() or a.colnames() != b.colnames():
            yield "rows or columns differ"
            return
        for name in a.colnames():
            for start in range(0, a.nrows(), 10_000):
                x, y = (_cells(t, name, start) for t in (a, b))
                if any(list(_arrays(p, q)) for p, q in zip(x, y, strict=True)):
                    yield f"column {name} differs"
                    break
        subtables = [n for n in a.fieldnames() if isinstance(a.getkeyword(n), str)]
        for name in subtables:
            if (one / name).is_dir() and name not in ("HISTORY", "SORTED_TABLE", "OBSERVATION"):
                found = _casa_tables(one / name, other / name)
                yield from (f"{name}: {text}" for text in found)


def _cells(table: Any, column: str, start: int) -> list[np.ndarray]:
    """Return some rows of a column; row by row where shapes vary, none of cells without a value."""
    try:
        return [np.asarray(table.getcol(column, start, 10_000))]
    except RuntimeError:
        rows = range(start, min(start + 10_000, table.nrows()))
        defined = [row for row in rows if table.iscelldefined(column, row)]
        return [np.asarray(table.getcell(column, row)) for row in defined]


def main() -> int:
    """Print the differences; return 1 if there is any."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="results folder")
    parser.add_argument("after", type=Path, help="results folder")
    args = parser.parse_args()
    count = 0
    for count, line in enumerate(differences(args.before, args.after), 1):  # noqa: B007
        print(line)
    compared = len(products(args.before) & products(args.after))
    print(f"{compared} products compared, {count} differences")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
