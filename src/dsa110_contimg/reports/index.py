"""SQLite index of all products, derived from their sidecars and tables.

The index answers questions ("which measurements of this source", "what was made with this
calibration"); nothing reads it to decide what to do. It is built from what lies on disk, under a
temporary name, and put in place when it is whole. Where there is an index already, only nights
whose files changed are read again, in one transaction: readers never see half of it, what it costs
does not grow with the nights before, and the rows come out the same.

Every column is described once, in `TABLES`: the statements that create the tables, the table
``columns`` inside the index, and the documentation all come from there. Columns that are figures of
merit are described by the models of these: all single figures of a calibration, an image or a
mosaic have one.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.figures import FIGURES, Description, describe
from ..core.files import replacing
from ..core.runs import read_runs
from ..core.sidecar import Record
from ..core.times import NIGHT, group_mjd, group_prefix, night_of, utc_now
from .judge import (
    judge_night,
    load_group,
    read_failures,
    read_record,
    read_verdict,
    seconds_of,
)

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "build_index",
    "lineage",
    "measurement_product",
    "open_index",
    "recall",
]

log = logging.getLogger(__name__)

#: Raised whenever tables or columns change: an index of another version is made anew.
SCHEMA_VERSION = 4


@dataclass(frozen=True)
class Column:
    """One column: declaration for SQLite, unit and meaning for people."""

    name: str
    declaration: str
    unit: str
    meaning: str


#: Type of a figure -> type of its column.
_TYPES = {bool: "INTEGER", int: "INTEGER", float: "REAL", str: "TEXT"}


def _columns(text: str) -> list[Column]:
    """Return the columns that lines of text describe.

    A line is ``name | declaration | unit | meaning``; or ``name = step.figure``; or ``* = step``
    for all its other figures that are single values.
    """
    columns: list[Column] = []
    named = {"group"}  # which is ``group_id`` here
    for line in text.strip().splitlines():
        name, _, origin = (part.strip() for part in line.partition(" = "))
        step, _, figure = origin.partition(".")
        if not origin:
            columns.append(Column(*(cell.strip() for cell in line.split("|"))))
        elif figure:
            (known,) = (d for d in describe(FIGURES[step]) if d.name == figure)
            columns.append(_column(name, known))
            named.add(figure)
        else:
            others = (d for d in describe(FIGURES[step]) if d.is_single and d.name not in named)
            columns += [_column(d.name, d) for d in others if "." not in d.name]
    return columns


def _column(name: str, figure: Description) -> Column:
    meaning = figure.meaning[0].lower() + figure.meaning[1:].rstrip(".")
    return Column(name, _TYPES[figure.kind], figure.unit, meaning)


#: Table -> (what a row is, columns, indices).
TABLES: dict[str, tuple[str, list[Column], list[str]]] = {
    "meta": (
        "facts about the index itself",
        _columns("""
            key   | TEXT PRIMARY KEY | | schema_version, created_utc, results
            value | TEXT NOT NULL    | | its value
        """),
        [],
    ),
    "columns": (
        "this documentation",
        _columns("""
            table_name  | TEXT NOT NULL | | table
            column_name | TEXT NOT NULL | | column; empty for the table itself
            unit        | TEXT NOT NULL | | unit, empty where there is none
            meaning     | TEXT NOT NULL | | what it holds
        """),
        [],
    ),
    "qa": (
        "one night with its verdict",
        _columns("""
            night            | TEXT PRIMARY KEY | | UTC day, YYYY-MM-DD
            verdict          | TEXT NOT NULL    | | clean, degraded or failed
            summary          | TEXT NOT NULL    | | the night in one sentence
            reasons          | TEXT NOT NULL    | | JSON list: why it is not clean
            n_groups         | INTEGER NOT NULL | | groups known
            n_usable         | INTEGER NOT NULL | | tiles that passed, with or without warning
            flux_ratio       | REAL             | | median of measured over catalogue flux
            flux_ratio_error | REAL             | | standard error of that median
            completeness     | REAL | | share detected of the sources expected above 10 sigma
            real_time_factor | REAL             | | time observed over time spent, median tile
        """),
        [],
    ),
    "folders": (
        "the state of the files that a night's rows were made from",
        _columns("""
            night       | TEXT PRIMARY KEY | | UTC day, YYYY-MM-DD; "lightcurves" for those
            fingerprint | TEXT NOT NULL    | | hash of names, sizes and times of its files
            n_measurements | INTEGER NOT NULL | | measurements on that night
        """),
        [],
    ),
    "groups": (
        "one 309 s group of subband files",
        _columns("""
            group_id         | TEXT PRIMARY KEY | | UTC start, YYYYMMDDTHHMMSS
            night            | TEXT NOT NULL REFERENCES qa(night) | | night it belongs to
            start_mjd        | REAL NOT NULL | d   | UTC start
            state            | TEXT NOT NULL |     | pass, warn, fail, missing (no image) or waiting
            stage            | TEXT NOT NULL |     | last stage of the chain that was reached
            reasons          | TEXT NOT NULL |     | JSON list: why the state is not pass
            ra_deg           = convert.phase_centre_ra_deg
            dec_deg          = convert.phase_centre_dec_deg
            n_subbands       | INTEGER       |     | subbands present, of 16
            flagged_fraction = convert.flags.flagged_fraction_effective
        """),
        ["night", "start_mjd"],
    ),
    "calibrations": (
        "the solutions from one calibrator transit",
        _columns("""
            group_id   | TEXT PRIMARY KEY REFERENCES groups(group_id) | | group they were solved on
            calibrator = calibrate.calibrator
            start_mjd  | REAL NOT NULL | d | UTC start of that group
            verdict    | TEXT NOT NULL |   | pass, warn, fail; absent: only its users are left
            reasons    | TEXT NOT NULL |   | JSON list: why it is not pass
            figures    | TEXT NOT NULL |   | JSON: figures of merit
            * = calibrate
        """),
        ["start_mjd"],
    ),
    "images": (
        "the image of one tile",
        _columns("""
            group_id          | TEXT PRIMARY KEY REFERENCES groups(group_id) | | its group
            path              | TEXT NOT NULL |        | below the results folder
            verdict           | TEXT NOT NULL |        | pass, warn or fail
            calibration_id    | TEXT REFERENCES calibrations(group_id) | | calibration applied
            borrowed          | INTEGER NOT NULL |     | 1: of another night or strip
            rms_jy            = image.rms_jy
            thermal_jy        = image.thermal_rms_jy
            peak_jy           = image.peak_jy
            dynamic_range     = image.dynamic_range
            beam_major_arcsec = image.beam_major_arcsec
            beam_minor_arcsec = image.beam_minor_arcsec
            beam_pa_deg       = image.beam_pa_deg
            flux_ratio        | REAL |                 | median of measured over catalogue flux
            created_utc       | TEXT |                 | when it was made
            * = image
        """),
        ["calibration_id"],
    ),
    "mosaics": (
        "a mosaic of an hour or a night",
        _columns("""
            mosaic_id   | TEXT PRIMARY KEY | | <night>/mosaic or <night>/mosaic_<HH>
            night       | TEXT NOT NULL REFERENCES qa(night) | | its night
            path        | TEXT NOT NULL | | below the results folder
            verdict     | TEXT NOT NULL | | pass, warn or fail
            reasons     | TEXT NOT NULL | | JSON list: why it is not pass
            n_inputs    | INTEGER NOT NULL | | images that it was made from
            figures     | TEXT NOT NULL | | JSON: figures of merit
            created_utc | TEXT          | | when it was made
            * = mosaic
        """),
        ["night"],
    ),
    "sources": (
        "a catalogue source that was measured at least once",
        _columns("""
            source_id | TEXT PRIMARY KEY |     | as in the reference catalogue
            name      | TEXT NOT NULL    |     | IAU style name
            ra_deg    | REAL NOT NULL    | deg | ICRS
            dec_deg   | REAL NOT NULL    | deg | ICRS
            n_meas    | INTEGER          |     | measurements in the statistics
            eta       | REAL             |     | weighted reduced chi2 about the weighted mean
            v         | REAL             |     | standard deviation over mean
            wavg_flux_jy | REAL          | Jy  | weighted mean flux
            log10_false_alarm | REAL     |     | log10 of the probability that it is constant
        """),
        ["name", "dec_deg, ra_deg", "eta"],
    ),
    "measurements": (
        "one flux of one source in one image, detected or not; either group_id or mosaic_id is set",
        _columns("""
            source_id       | TEXT NOT NULL REFERENCES sources(source_id) | | source
            group_id        | TEXT REFERENCES images(group_id) | | tile it was measured on
            mosaic_id       | TEXT REFERENCES mosaics(mosaic_id) | | or mosaic
            mjd             | REAL | d  | UTC, mean time of the data
            flux_jy         | REAL | Jy | corrected for the primary beam
            flux_err_jy     | REAL | Jy | standard error
            local_rms_jy    | REAL | Jy | local noise, corrected for the primary beam
            snr             | REAL |    | flux over its error
            upper_limit_jy  | REAL | Jy | where not detected
            catalog_flux_jy | REAL | Jy | of the catalogue, at the frequency of the image
            pb              | REAL |    | primary beam response
            flags           | TEXT |    | words; empty for a good measurement
        """),
        ["source_id, mjd", "group_id", "mosaic_id"],
    ),
    "candidates": (
        "a source that passes the thresholds for variability",
        _columns("""
            source_id | TEXT PRIMARY KEY REFERENCES sources(source_id) | | source
            rank      | INTEGER NOT NULL | | 1 is the most variable
            figures   | TEXT NOT NULL    | | JSON: its row of candidates.csv
        """),
        [],
    ),
    "products": (
        "anything that has a sidecar",
        _columns("""
            path        | TEXT PRIMARY KEY | | below the results folder
            night       | TEXT          | | its night; none for light curves
            group_id    | TEXT          | | its group, if any
            step        | TEXT          | | step that made it
            verdict     | TEXT          | | pass, warn or fail
            created_utc | TEXT          | | when it was made
            seconds     | REAL          | | time it took, s
            reasons     | TEXT NOT NULL | | JSON list
            qa          | TEXT NOT NULL | | JSON: figures of merit; long lists are in the sidecar
            parameters  | TEXT NOT NULL | | JSON: options
            tools       | TEXT NOT NULL | | JSON: versions
            commands    | TEXT NOT NULL | | JSON: external programs as run
        """),
        ["step, verdict", "group_id"],
    ),
    "runs": (
        "a run of the workflow that had something to do",
        _columns("""
            run_id        | TEXT PRIMARY KEY | | UTC start, YYYYMMDDTHHMMSS.ffffff
            command       | TEXT NOT NULL    | | run or tick
            targets       | TEXT NOT NULL    | | JSON list: what was asked for; empty: everything
            started_utc   | TEXT NOT NULL    | | when it began
            ended_utc     | TEXT    | | when it ended; none: at work when indexed, or killed
            exit_status   | INTEGER | | 0: every job succeeded; none: as above, or an error
            jobs_done     | INTEGER | | jobs that succeeded
            jobs_failed   | INTEGER | | jobs that failed
            config_sha256 | TEXT NOT NULL    | | hash of the whole configuration
            git_commit    | TEXT             | | commit of the code; none if it was installed
            versions      | TEXT NOT NULL    | | JSON: Python and packages that ran it
        """),
        ["started_utc"],
    ),
    "failures": (
        "a job that failed and has not succeeded since",
        _columns("""
            failure_id | TEXT PRIMARY KEY | | path of its record, below the results folder
            night      | TEXT REFERENCES qa(night) | | its night; none for all nights together
            group_id   | TEXT REFERENCES groups(group_id) | | its group, if any
            hour       | TEXT             | | its hour, of a mosaic
            rule       | TEXT NOT NULL    | | rule of the job
            cause      | TEXT NOT NULL    | | data, compute, transient, config or bug
            state      | TEXT NOT NULL    | | waiting (to be tried again) or quarantined (set aside)
            message    | TEXT NOT NULL    | | what happened, in one line
            log        | TEXT             | | log of the job
            command    | TEXT             | | what repeats it
            attempts   | INTEGER NOT NULL | | runs in which it failed
            first_utc  | TEXT             | | when it failed first
            last_utc   | TEXT             | | when it failed last
        """),
        ["night", "group_id"],
    ),
    "inputs": (
        "what a product was made from",
        _columns("""
            product    | TEXT NOT NULL REFERENCES products(path) | | product
            input      | TEXT NOT NULL | | path below results, incoming/<raw file>, or as given
            size_bytes | INTEGER       | B | size when it was read
            mtime_utc  | TEXT          |   | modification time when it was read
            sha256     | TEXT          |   | checksum, of small files
        """),
        ["product", "input"],
    ),
}


def statements() -> list[str]:
    """Return the SQL that creates the tables, with their documentation as comments."""
    out = []
    for table, (what, columns, _) in TABLES.items():
        width = max(len(c.name) for c in columns)
        lines = []
        for i, c in enumerate(columns):
            comma = "," if i < len(columns) - 1 else ""
            unit = f" ({c.unit})" if c.unit else ""
            lines.append(f"  {c.name:<{width}} {c.declaration}{comma} -- {c.meaning}{unit}")
        body = "\n".join(lines)
        out.append(f"CREATE TABLE {table} ( -- {what}\n{body}\n)")
    return out


def index_statements() -> list[str]:
    """Return the SQL that creates the indices; run after the rows are in, when it is fastest."""
    return [
        f"CREATE INDEX {table}_{re.sub(r', *', '_', columns)} ON {table} ({columns})"
        for table, (_, _, indices) in TABLES.items()
        for columns in indices
    ]


# --- reading --------------------------------------------------------------------------------------


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def below(path: str) -> str:
    """Return a path as the index knows it: below the results folder, whatever stood before.

    Sidecars hold paths as the step was given them, relative or absolute, and results may have moved
    since. Raw files are ``incoming/<name>``. Other paths come back as they are.
    """
    match = re.search(rf"(?:^|/)(nights/{NIGHT}/.+|lightcurves/[^/]+)$", path)
    raw = re.search(r"(?:^|/)([^/]+_sb\d\d\.hdf5)$", path)
    return match[1] if match else f"incoming/{raw[1]}" if raw else path


#: Longest list or table of a sidecar's figures that the index repeats.
LONGEST = 16


def brief(value: Any) -> Any:
    """Return figures of merit without long lists and tables, most of what a sidecar holds."""
    if isinstance(value, Mapping):
        return {k: brief(v) for k, v in value.items() if not _is_long(v)}
    return value


def _is_long(value: Any) -> bool:
    return isinstance(value, list | dict) and len(value) > LONGEST


def _products(db: sqlite3.Connection, place: str, records: Iterable[Record | None]) -> None:
    """Insert the rows of products and of what they were made from.

    Parameters
    ----------
    db : sqlite3.Connection
        Index.
    place : str
        Folder that they lie in, below the results folder.
    records : iterable of Record or None
        Their sidecars; None is passed over.
    """
    night = re.match(rf"nights/({NIGHT})", place)
    group = re.match(rf"nights/{NIGHT}/groups/([^/]+)", place)
    for record in filter(None, records):
        path = f"{place}/{record.product}"
        seconds = seconds_of(record)
        row = {
            "path": path,
            "night": night and night[1],
            "group_id": group and group[1],
            "step": record.step,
            "verdict": record.verdict,
            "created_utc": record.created_utc,
            "seconds": round(sum(seconds), 3) if seconds else None,
            "reasons": _json(record.reasons),
            "qa": _json(brief(record.figures.plain())),
            "parameters": _json(record.parameters),
            "tools": _json(record.tools),
            "commands": _json(record.commands),
        }
        _insert(db, "products", [row])
        _insert(
            db,
            "inputs",
            (
                {
                    "product": path,
                    "input": below(entry.path),
                    "size_bytes": entry.size_bytes,
                    "mtime_utc": entry.mtime_utc,
                    "sha256": entry.sha256,
                }
                for entry in record.inputs
            ),
        )


def _sidecars(folder: Path) -> Iterator[Record]:
    """Yield the sidecars of science products in a folder; what else is JSON there is none."""
    for path in sorted(folder.glob("*.json")):
        if (record := read_record(path.with_suffix(""))) and record.step in FIGURES:
            yield record


def _failure(db: sqlite3.Connection, path: str, record: Mapping[str, Any]) -> None:
    """Insert the record of a failed job; `path` is below the results folder."""
    night = re.match(rf"nights/({NIGHT})/", path)
    group = re.match(rf"nights/{NIGHT}/groups/([^/]+)/", path)
    names = ("rule", "cause", "state", "message", "log", "command", "first_utc", "last_utc")
    row = {name: record.get(name, "") for name in names}
    row |= {"failure_id": path, "attempts": record.get("attempts", 1)}
    row |= {"night": night and night[1], "group_id": group and group[1]}
    _insert(db, "failures", [row | {"hour": (record.get("wildcards") or {}).get("hour")}])


def _float(text: str | None) -> float | None:
    """Return a number; None for blanks and NaN, which SQLite would not keep apart."""
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if number == number else None


_NUMBERS = (
    "mjd",
    "flux_jy",
    "flux_err_jy",
    "local_rms_jy",
    "snr",
    "upper_limit_jy",
    "catalog_flux_jy",
    "pb",
)


def _measurements(
    path: Path, group: str | None, mosaic: str | None, known: set[str]
) -> Iterator[tuple[dict | None, dict]]:
    """Yield (row of the source if it is new, row of the measurement) of a photometry table."""
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            source = row["source_id"]
            new = None
            if source not in known:
                known.add(source)
                new = {
                    "source_id": source,
                    "name": row.get("name") or source,
                    "ra_deg": _float(row["ra_deg"]),
                    "dec_deg": _float(row["dec_deg"]),
                }
            yield (
                new,
                {
                    "source_id": source,
                    "group_id": group,
                    "mosaic_id": mosaic,
                    "flags": row.get("flags") or "",
                }
                | {name: _float(row.get(name)) for name in _NUMBERS},
            )


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# --- writing --------------------------------------------------------------------------------------


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows, ten thousand at a time; absent columns stay null."""
    names = [c.name for c in TABLES[table][1]]
    sql = f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})"
    db.executemany(sql, (tuple(row.get(n) for n in names) for row in rows))


def build_index(results: Path, out: Path, rebuild: bool = False) -> dict[str, int]:
    """Build the index, or bring it up to date.

    Parameters
    ----------
    results : Path
        Results folder.
    out : Path
        ``index.sqlite``; replaced when the new one is whole.
    rebuild : bool
        Read every night again, whatever `out` holds.

    Returns
    -------
    dict
        Number of rows of the main tables.

    Raises
    ------
    DataError
        If the folder is absent.
    """
    results, out = Path(results), Path(out)
    if not results.is_dir():
        raise DataError(f"{results}: no such folder; give the results folder")
    states = _fingerprints(results)
    old = {} if rebuild else _indexed(out)
    if old:
        with closing(sqlite3.connect(out, isolation_level=None)) as db:
            return _update(db, results, states, old)
    with replacing(out.resolve()) as temporary, closing(sqlite3.connect(temporary)) as db:
        return _create(db, results, states)


#: Memory for pages of an index that is brought up to date, kB.
_CACHE_KB = 200_000


def _create(db: sqlite3.Connection, results: Path, states: Mapping[str, str]) -> dict[str, int]:
    """Fill an empty index; return the number of rows of its tables."""
    # The file is thrown away unless it is finished: no journal, no waiting for the disk.
    db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
    for sql in statements():
        db.execute(sql)
    _document(db)
    _fill(db, results, states, sorted(states))
    for sql in index_statements():
        db.execute(sql)
    db.execute("ANALYZE")
    db.commit()
    broken = db.execute("PRAGMA foreign_key_check").fetchmany(3)
    if broken:
        raise DataError(f"{results}: rows without their parent: {broken}; this is a bug")
    return _counts(db)


def _update(
    db: sqlite3.Connection, results: Path, states: Mapping[str, str], old: Mapping[str, str]
) -> dict[str, int]:
    """Bring an index up to date in one transaction; return the number of rows of its tables."""
    changed = sorted(n for n in states if states[n] != old.get(n))
    gone = sorted(set(old) - set(states))
    db.execute("PRAGMA foreign_keys = ON")
    db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
    db.execute("BEGIN IMMEDIATE")
    try:
        db.execute("PRAGMA defer_foreign_keys = ON")  # parents and children come in any order
        for night in (*changed, *gone):
            _forget(db, night)
        _fill(db, results, states, changed)
        if gone or any(night in old for night in changed):
            db.execute(_FORGET_SOURCES)
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    return _counts(db)


def _counts(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of rows of the main tables, without reading the largest ones."""
    tables = ("groups", "calibrations", "images", "mosaics", "sources", "candidates", "failures")
    rows = {t: db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}
    (total,) = db.execute("SELECT coalesce(sum(n_measurements), 0) FROM folders").fetchone()
    return rows | {"measurements": total}


#: Sources whose measurements are all gone; needs the index on measurements to be quick.
_FORGET_SOURCES = """
DELETE FROM sources WHERE NOT EXISTS
  (SELECT 1 FROM measurements WHERE measurements.source_id = sources.source_id)
"""


def _nights(results: Path) -> list[Path]:
    folders = (results / "nights").glob("*")
    return sorted(p for p in folders if re.fullmatch(NIGHT, p.name))


#: Sidecars of what people look at: they say nothing that the index holds.
_DECORATION = (".html.json", ".view.fits.json", "candidates.json")


def _fingerprints(results: Path) -> dict[str, str]:
    """Return a hash of the state of the files behind each night, and behind the light curves.

    Products are renamed into their place, which changes the time of their folder: of a group, that
    time is enough. Of a closed night, only the files of the night itself are looked at.
    """
    out = {}
    for folder in (*_nights(results), results / "lightcurves"):
        if not folder.is_dir():
            continue
        state = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((".json", ".csv")) and not entry.name.startswith("."):
                    if entry.name.endswith(_DECORATION):
                        continue
                    stat = entry.stat()
                    state.append((entry.name, stat.st_size, stat.st_mtime_ns))
        if not (folder / "closed.json").exists() and (folder / "groups").is_dir():
            with os.scandir(folder / "groups") as entries:
                state += [(e.name, 0, e.stat().st_mtime_ns) for e in entries if e.is_dir()]
        out[folder.name] = hashlib.sha256(repr(sorted(state)).encode()).hexdigest()[:16]
    return out


def _indexed(out: Path) -> dict[str, str]:
    """Return the fingerprints that an index was made from; none where it cannot be built upon.

    It is opened to be written, so that what a killed update left is taken back.
    """
    if not out.exists():
        return {}
    try:
        with closing(sqlite3.connect(out)) as db:
            (version,) = db.execute(
                "SELECT value FROM meta WHERE key = 'schema_version'"
            ).fetchone()
            if int(version) != SCHEMA_VERSION:
                return {}
            return dict(db.execute("SELECT night, fingerprint FROM folders").fetchall())
    except (sqlite3.DatabaseError, TypeError):
        return {}


def _forget(db: sqlite3.Connection, night: str) -> None:
    """Delete the rows of a night."""
    group, mosaic = group_prefix(night) + "*", night + "/*"
    products = "SELECT path FROM products WHERE night IS ?"
    own = None if night == "lightcurves" else night
    db.execute(f"DELETE FROM inputs WHERE product IN ({products})", [own])
    db.execute("DELETE FROM products WHERE night IS ?", [own])
    db.execute("DELETE FROM failures WHERE night = ?", [night])
    db.execute("DELETE FROM measurements WHERE group_id GLOB ?", [group])
    db.execute("DELETE FROM measurements WHERE mosaic_id GLOB ?", [mosaic])
    for table in ("images", "calibrations", "groups"):
        db.execute(f"DELETE FROM {table} WHERE group_id GLOB ?", [group])
    for table in ("mosaics", "qa", "folders"):
        db.execute(f"DELETE FROM {table} WHERE night = ?", [night])


def _runs(db: sqlite3.Connection, results: Path) -> None:
    """Replace the rows of all runs: few, and each is written twice."""
    db.execute("DELETE FROM runs")
    rows = (
        r | {"targets": _json(r["targets"]), "versions": _json(r["versions"])}
        for r in read_runs(results)
    )
    _insert(db, "runs", rows)


def _facts(db: sqlite3.Connection, results: Path) -> None:
    facts = {
        "schema_version": SCHEMA_VERSION,
        "created_utc": utc_now(),
        "results": results.resolve(),
    }
    db.execute("DELETE FROM meta")
    _insert(db, "meta", ({"key": k, "value": str(v)} for k, v in facts.items()))


def _document(db: sqlite3.Connection) -> None:
    """Fill the table that says what the columns are."""
    for table, (what, columns, _) in TABLES.items():
        rows = (
            {"table_name": table, "column_name": c.name, "unit": c.unit, "meaning": c.meaning}
            for c in (Column("", "", "", what), *columns)
        )
        _insert(db, "columns", rows)


def _fill(
    db: sqlite3.Connection, results: Path, states: Mapping[str, str], changed: list[str]
) -> None:
    """Insert the rows of some nights, and all that is few or depends on all nights."""
    known = {row[0] for row in db.execute("SELECT source_id FROM sources")}
    measured = {}
    for night in changed:
        if night == "lightcurves":
            _products(db, night, _sidecars(results / night))
        else:
            measured[night] = _night(db, results / "nights" / night, known)
    _insert(
        db,
        "folders",
        (
            {"night": n, "fingerprint": states[n], "n_measurements": measured.get(n, 0)}
            for n in changed
        ),
    )
    _absent_calibrations(db)
    if changed:
        _variability(db, results / "lightcurves")
    _runs(db, results)
    db.execute("DELETE FROM failures WHERE night IS NULL")
    for name, failure in read_failures(results).items():
        _failure(db, name, failure)
    _facts(db, results)


def _judged(folder: Path) -> dict:
    """Return the verdict on a night; made now where there is none that knows all of its groups."""
    judged = read_verdict(folder)
    groups = {path.name for path in (folder / "groups").glob("*T*")}
    if judged and groups <= {tile["group"] for tile in judged["tiles"]}:
        return judged
    return judge_night(folder)


def _night(db: sqlite3.Connection, folder: Path, known: set[str]) -> int:
    """Insert everything of a night; `known` are the sources that have a row already.

    Returns the number of measurements.
    """
    measured = 0
    night, judged = folder.name, _judged(folder)
    counts, scale = judged["counts"], judged["flux_scale"]
    _insert(
        db,
        "qa",
        [
            {
                "night": night,
                "verdict": judged["verdict"],
                "summary": judged["summary"],
                "reasons": _json(judged["reasons"]),
                "n_groups": counts["groups"],
                "n_usable": counts["pass"] + counts["warn"],
                "flux_ratio": scale["median_ratio"],
                "flux_ratio_error": scale["median_error"],
                "completeness": scale["completeness"],
                "real_time_factor": judged["timings"]["real_time_factor"],
            }
        ],
    )
    _insert(
        db,
        "groups",
        (
            t | {"group_id": t["group"], "night": night, "reasons": _json(t["reasons"])}
            for t in judged["tiles"]
        ),
    )
    _insert(
        db,
        "calibrations",
        (
            c["figures"]
            | c
            | {
                "group_id": c["group"],
                "reasons": _json(c["reasons"]),
                "figures": _json(c["figures"]),
            }
            for c in judged["calibrations"]
        ),
    )
    for tile in judged["tiles"]:
        group = tile["group"]
        files = load_group(folder / "groups" / group)
        if "image.fits" in files.products:
            measured += _image(db, folder, tile, files.products["image.fits"], known)
        place = f"nights/{night}/groups/{group}"
        for kind, failure in files.failures.items():
            _failure(db, f"{place}/{kind}.json", failure)
        _products(db, place, (files.products[kind] for kind in sorted(files.products)))
    for name, failure in read_failures(folder).items():
        _failure(db, f"nights/{night}/{name}", failure)
    for record in _sidecars(folder):
        _products(db, f"nights/{night}", [record])
        name = record.product
        if not re.fullmatch(r"mosaic(_\d\d)?\.fits", name):
            continue
        mosaic = f"{night}/{name.removesuffix('.fits')}"
        _insert(
            db,
            "mosaics",
            [
                record.figures.single()
                | {
                    "mosaic_id": mosaic,
                    "night": night,
                    "path": f"nights/{night}/{name}",
                    "verdict": record.verdict,
                    "reasons": _json(record.reasons),
                    "n_inputs": len(record.inputs),
                    "figures": _json(record.figures.plain()),
                    "created_utc": record.created_utc,
                }
            ],
        )
        if name == "mosaic.fits" and (folder / "photometry.csv").exists():
            table = _measurements(folder / "photometry.csv", None, mosaic, known)
            measured += _photometry(db, table)
    return measured


def _absent_calibrations(db: sqlite3.Connection) -> None:
    """Give calibrations that tiles use, but whose night is not there, a row that says so."""
    for table, column in (("calibrations", "verdict"), ("groups", "state"), ("qa", "verdict")):
        db.execute(f"DELETE FROM {table} WHERE {column} = 'absent'")
    used = db.execute(
        "SELECT DISTINCT calibration_id FROM images WHERE calibration_id NOT NULL"
        " AND calibration_id NOT IN"
        " (SELECT group_id FROM calibrations)"
    ).fetchall()
    for (group,) in used:
        night, start = night_of(group), group_mjd(group)
        db.execute(
            "INSERT OR IGNORE INTO qa (night, verdict, summary, reasons, n_groups, n_usable)"
            " VALUES (?, 'absent', '', '[]', 0, 0)",
            [night],
        )
        db.execute(
            "INSERT OR IGNORE INTO groups (group_id, night, start_mjd, state, stage, reasons)"
            " VALUES (?, ?, ?, 'absent', '', '[]')",
            [group, night, start],
        )
        row = {"group_id": group, "start_mjd": start, "verdict": "absent"}
        _insert(db, "calibrations", [row | {"reasons": "[]", "figures": "{}"}])


def _image(db: sqlite3.Connection, folder: Path, tile: dict, image: Record, known: set[str]) -> int:
    """Insert the image of a tile and the measurements on it; return how many these are."""
    group = tile["group"]
    _insert(
        db,
        "images",
        [
            tile
            | image.figures.single()
            | {
                "group_id": group,
                "path": f"nights/{folder.name}/groups/{group}/{group}.image.fits",
                "verdict": image.verdict,
                "calibration_id": tile["calibration"],
                "borrowed": int(tile["borrowed"]),
                "flux_ratio": tile["flux_scale"]["median_ratio"],
                "created_utc": image.created_utc,
            }
        ],
    )
    table = folder / "groups" / group / f"{group}.photometry.csv"
    return _photometry(db, _measurements(table, group, None, known)) if table.exists() else 0


def _photometry(db: sqlite3.Connection, rows: Iterator[tuple[dict | None, dict]]) -> int:
    """Insert measurements and the sources that are new; return the number of measurements."""
    new: list[dict] = []
    n = 0

    def measurements() -> Iterator[dict]:
        nonlocal n
        for n, (source, measurement) in enumerate(rows, 1):  # noqa: B007
            if source:
                new.append(source)
            yield measurement

    _insert(db, "measurements", measurements())
    _insert(db, "sources", new)
    return n


def _variability(db: sqlite3.Connection, folder: Path) -> None:
    """Add the statistics of the light curves to their sources, and the candidates."""
    db.execute("DELETE FROM candidates")
    numbers = ("n_meas", "eta", "v", "wavg_flux_jy", "log10_false_alarm")
    blank = ", ".join(f"{n} = NULL" for n in numbers)
    db.execute(f"UPDATE sources SET {blank} WHERE n_meas IS NOT NULL")
    names = (*numbers, "ra_deg", "dec_deg")
    for row in _read_csv(folder / "variability.csv"):
        given: dict[str, Any] = {n: v for n in names if (v := _float(row.get(n))) is not None}
        given |= {"name": row["name"]} if row.get("name") else {}
        if given:
            db.execute(
                f"UPDATE sources SET {', '.join(f'{n} = ?' for n in given)} WHERE source_id = ?",
                [*given.values(), row["source_id"]],
            )
    known = {row[0] for row in db.execute("SELECT source_id FROM sources")}
    candidates = [r for r in _read_csv(folder / "candidates.csv") if r["source_id"] in known]
    _insert(
        db,
        "candidates",
        (
            {"source_id": r["source_id"], "rank": i, "figures": _json(r)}
            for i, r in enumerate(candidates, 1)
        ),
    )


# --- questions ------------------------------------------------------------------------------------


def open_index(path: Path) -> sqlite3.Connection:
    """Open an index read-only; one of another schema, or damaged, is made anew first.

    Raises
    ------
    DataError
        If it is absent, or cannot be made anew: it does not lie in a results folder.
    """
    if not Path(path).exists():
        raise DataError(
            f"{path}: no index; make it with: python workflow/scripts/index.py RESULTS {path}"
        )
    whole = Path(path).resolve()
    if trouble := _trouble(whole):
        if not (whole.parent / "nights").is_dir():
            raise DataError(f"{path}: {trouble}; make it again")
        try:
            build_index(whole.parent, whole, rebuild=True)
        except sqlite3.Error as error:
            raise DataError(f"{path}: {trouble}, and it cannot be made anew: {error}") from None
        log.warning("%s: %s; made anew", path, trouble)
    # Not read-only: what an update that was killed left is taken back first.
    db = sqlite3.connect(f"{whole.as_uri()}?mode=rw", uri=True)
    db.execute("PRAGMA query_only = ON")
    db.row_factory = sqlite3.Row
    return db


def _trouble(path: Path) -> str | None:
    """Return why an index cannot be read by this release; None if it can."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        try:
            found = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        except sqlite3.DatabaseError as error:
            return f"no readable index ({error})"
    if found is None or found[0] != str(SCHEMA_VERSION):
        return f"schema {found and found[0]}, not {SCHEMA_VERSION}"
    return None


_UP = """
WITH RECURSIVE chain(path, depth) AS (
  SELECT ?, 0
  UNION
  SELECT inputs.input, chain.depth + 1 FROM inputs JOIN chain ON inputs.product = chain.path
)
SELECT chain.path, min(chain.depth) AS depth, products.step, products.verdict, products.created_utc
FROM chain LEFT JOIN products ON products.path = chain.path
GROUP BY chain.path ORDER BY depth, chain.path
"""
_DOWN = """
WITH RECURSIVE chain(path, depth) AS (
  SELECT ?, 0
  UNION
  SELECT inputs.product, chain.depth + 1 FROM inputs JOIN chain ON inputs.input = chain.path
)
SELECT chain.path, min(chain.depth) AS depth, products.step, products.verdict, products.created_utc
FROM chain LEFT JOIN products ON products.path = chain.path
GROUP BY chain.path ORDER BY depth, chain.path
"""


def lineage(db: sqlite3.Connection, product: str) -> list[dict]:
    """Return everything a product was made from, directly or not, down to the raw files.

    Parameters
    ----------
    db : sqlite3.Connection
        As `open_index` gives it.
    product : str
        Path of a product, in any form.

    Returns
    -------
    list of dict
        ``path``, ``depth`` (0 is the product itself), ``step``, ``verdict``, ``created_utc``.
    """
    return [dict(row) for row in db.execute(_UP, [_known(db, product)])]


def recall(db: sqlite3.Connection, path: str) -> list[dict]:
    """Return everything that was made with a file (raw file, table, image), directly or not."""
    return [dict(row) for row in db.execute(_DOWN, [_known(db, path)])]


def _known(db: sqlite3.Connection, path: str) -> str:
    """Return a path as the index has it; a bare name will do where it is the only one."""
    path = below(path)
    for column, table in (("path", "products"), ("input", "inputs")):
        if db.execute(f"SELECT 1 FROM {table} WHERE {column} = ? LIMIT 1", [path]).fetchone():
            return path
    found = db.execute(
        "SELECT path FROM (SELECT path FROM products UNION SELECT input FROM inputs)"
        " WHERE substr(path, -length(?1)) = ?1 ORDER BY path LIMIT 2",
        [f"/{path}"],
    ).fetchall()
    if len(found) == 1:
        return found[0][0]
    what = "more than one product has that name" if found else "no product and no input"
    raise DataError(f"{path}: {what}; give its path below the results folder")


def measurement_product(db: sqlite3.Connection, source: str, epoch: str) -> str:
    """Return the photometry table that holds a measurement.

    Parameters
    ----------
    db : sqlite3.Connection
        Index.
    source : str
        ``source_id`` or name.
    epoch : str
        Group id, night, or MJD (the nearest measurement within a minute).
    """
    rows = db.execute(
        "SELECT m.group_id, m.mosaic_id, m.mjd FROM measurements m JOIN sources s"
        " ON s.source_id = m.source_id WHERE s.source_id = ?1 OR s.name = ?1 ORDER BY m.mjd",
        [source],
    ).fetchall()
    if not rows:
        raise DataError(f"{source}: no such source in the index")
    for row in rows:
        night = (row["mosaic_id"] or "").split("/")[0]
        near = (mjd := _float(epoch)) is not None and row["mjd"] is not None
        if epoch in (row["group_id"], night) or (near and abs(row["mjd"] - mjd) < 1 / 1440):
            if row["group_id"]:
                group = row["group_id"]
                return f"nights/{night_of(group)}/groups/{group}/{group}.photometry.csv"
            return f"nights/{night}/photometry.csv"
    raise DataError(f"{source}: no measurement at {epoch}; give a group id, a night or an MJD")
