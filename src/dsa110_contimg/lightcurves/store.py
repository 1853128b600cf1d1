"""What a light-curve update keeps for the next one, beside the product and hidden.

The nights' tables are the truth: the store holds nothing that they do not, and is made anew when
it is absent, unreadable or of other code. It is one SQLite file, so that an update is whole or did
not happen. Measurements lie in blobs by piece of sky and month: a night touches one month, a
piece of sky is read alone, and memory grows neither with the sky nor with the number of nights.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

__all__ = ["Night", "Store", "digest"]

#: Size of a piece of sky in right ascension and declination, deg.
CELL_DEG = (10, 5)
#: Length of a month, days.
MONTH_DAYS = 32
_TABLES = """
create table if not exists version (text text);
create table if not exists nights (path text primary key, key text, record text);
create table if not exists points (cell int, month int, content blob, primary key (cell, month));
create table if not exists results (kind text, name text, key text, content blob,
                                    primary key (kind, name));
"""


def digest(*parts: Any) -> str:
    """Return a short hash of values that have a stable representation."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Night:
    """A photometry table as read.

    Attributes
    ----------
    path : str
        Where it lies, relative to the light curves.
    key : str
        Hash of size and time of modification of table and sidecar.
    record : dict
        What is known of the epoch: ``epoch``, ``mjd``, ``rejected``, ...
    points : DataFrame, optional
        Its measurements; None when it comes from the store.
    """

    path: str
    key: str
    record: dict
    points: pd.DataFrame | None = None

    @property
    def month(self) -> int:
        """Month that its measurements are kept in."""
        return int(self.record["mjd"] // MONTH_DAYS)


class Store:
    """Measurements and interim results of light curves.

    Parameters
    ----------
    path : path or ":memory:"
        SQLite file; made if it is not there.
    version : str
        What else the results depend on; a store of another version is emptied.
    """

    def __init__(self, path: Path | str, version: str):
        try:
            self._open(path, version)
        except sqlite3.DatabaseError:
            self.close()
            Path(path).unlink(missing_ok=True)
            self._open(path, version)

    def _open(self, path: Path | str, version: str) -> None:
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._db.execute("pragma cache_size = -32000")
        self._db.execute("begin immediate")
        for statement in filter(str.strip, _TABLES.split(";")):
            self._db.execute(statement)
        if self._db.execute("select text from version").fetchall() != [(version,)]:
            for table in ("version", "nights", "points", "results"):
                self._db.execute(f"delete from {table}")
            self._db.execute("insert into version values (?)", (version,))

    def commit(self) -> None:
        """Make the update last. Without it, the store stays as it was."""
        self._db.execute("commit")
        self._db.execute("begin immediate")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # nights and measurements

    def nights(self) -> dict[str, Night]:
        """Return the nights that are held, by path."""
        rows = self._db.execute("select path, key, record from nights")
        return {path: Night(path, key, json.loads(record)) for path, key, record in rows}

    def replace(self, gone: Iterable[Night], new: Iterable[Night]) -> None:
        """Take nights out and put others in, month by month; `new` is in order of time."""
        gone = list(gone)
        self._db.executemany("delete from nights where path = ?", [(n.path,) for n in gone])
        lost: dict[int, set[str]] = {}
        for night in gone:
            lost.setdefault(night.month, set()).add(night.record["epoch"])
        for month, nights in itertools.groupby(new, key=lambda night: night.month):
            pending = []
            for night in nights:
                pending.append(night.points)
                values = night.path, night.key, json.dumps(night.record)
                self._db.execute("insert or replace into nights values (?, ?, ?)", values)
            self._write(month, lost.pop(month, set()), pending)
        for rest, epochs in lost.items():
            self._write(rest, epochs, [])

    def _write(self, month: int, lost: set[str], new: list[pd.DataFrame]) -> None:
        if not lost and not new:
            return
        cells = {}
        if new:
            added = pd.concat(new)
            cells = dict(tuple(added.groupby(cell_of(added))))
        query = "select cell from points where month = ?"
        held = {cell for (cell,) in self._db.execute(query, (month,))}
        for cell in (held if lost else set()) | set(cells):
            parts = [cells[cell]] if cell in cells else []
            if cell in held:
                old = self._read("cell = ? and month = ?", cell, month)
                parts.insert(0, old[~old.epoch.isin(lost)])
            points = pd.concat(parts)
            self._db.execute("delete from points where cell = ? and month = ?", (cell, month))
            if len(points):
                points = points.sort_values(["source_id", "mjd", "epoch"], ignore_index=True)
                values = int(cell), month, _pack(points)
                self._db.execute("insert into points values (?, ?, ?)", values)

    def cells(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yield each piece of sky with its measurements, sorted by source and time."""
        for (cell,) in self._db.execute("select distinct cell from points order by 1").fetchall():
            points = self._read("cell = ?", cell)
            yield cell, points.sort_values(["source_id", "mjd", "epoch"], ignore_index=True)

    def epochs(self, epochs: list[str], months: set[int]) -> pd.DataFrame:
        """Return the usable measurements of some epochs, with what a flux scale needs of them."""
        columns = ["source_id", "epoch", "flux_jy", "flux_err_jy"]
        found = [pd.DataFrame(columns=columns)]
        for month in sorted(months):
            part = self._read("month = ?", month, columns=[*columns, "used"])
            if len(part):
                found.append(part.loc[part.used & part.epoch.isin(epochs), columns])
        return pd.concat(found[1:] or found, ignore_index=True)

    def _read(self, where: str, *values: int, columns: list[str] | None = None) -> pd.DataFrame:
        query = f"select content from points where {where} order by cell, month"
        values = tuple(map(int, values))
        parts = [_unpack(blob, columns) for (blob,) in self._db.execute(query, values)]
        return pa.concat_tables(parts).to_pandas(use_threads=False) if parts else pd.DataFrame()

    # interim results

    def recall(self, kind: str, name: object, key: str) -> pd.DataFrame | None:
        """Return a result that was kept under the same key, or None."""
        query = "select content from results where kind = ? and name = ? and key = ?"
        row = self._db.execute(query, (kind, str(name), key)).fetchone()
        return _unpack(row[0]).to_pandas() if row else None

    def keep(self, kind: str, name: object, key: str, table: pd.DataFrame) -> None:
        """Keep a result in the place of what was kept under this kind and name."""
        values = kind, str(name), key, _pack(table)
        self._db.execute("insert or replace into results values (?, ?, ?, ?)", values)

    def forget(self, kind: str, names: Iterable[object]) -> None:
        """Drop the results of a kind but for those named."""
        kept = set(map(str, names))
        held = self._db.execute("select name from results where kind = ?", (kind,)).fetchall()
        gone = [(kind, name) for (name,) in held if name not in kept]
        self._db.executemany("delete from results where kind = ? and name = ?", gone)


def cell_of(points: pd.DataFrame) -> np.ndarray:
    """Return the pieces of sky that measurements belong to, in order of declination."""
    ra = (points.ra_deg.to_numpy() % 360 // CELL_DEG[0]).astype(int)
    dec = ((points.dec_deg.to_numpy() + 90) // CELL_DEG[1]).astype(int)
    return dec * (360 // CELL_DEG[0]) + ra


def _pack(table: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    content = pa.Table.from_pandas(table, nthreads=1)
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_stream(sink, content.schema, options=options) as writer:
        writer.write_table(content)
    return sink.getvalue().to_pybytes()


def _unpack(blob: bytes, columns: list[str] | None = None) -> pa.Table:
    options = pa.ipc.IpcReadOptions(use_threads=False)
    table = pa.ipc.open_stream(blob, options=options).read_all()
    return table.select(columns).replace_schema_metadata() if columns else table
