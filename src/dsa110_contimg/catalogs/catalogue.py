"""Source catalogues.

Fluxes are in Jy at 1.4 GHz, with a spectral index alpha, S proportional to nu^alpha.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..core import tables
from ..core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DEFAULT_ALPHA",
    "REFERENCE_HZ",
    "UNITS",
    "check_header",
    "flux_at",
    "iau_name",
    "read_catalog",
    "read_csv",
]

#: Frequency of catalogue fluxes, Hz.
REFERENCE_HZ = 1.4e9


#: Units of a catalogue's columns.
UNITS = {
    "ra_deg": "deg",
    "dec_deg": "deg",
    "flux_jy": "Jy",
    "flux_err_jy": "Jy",
    "flux_survey_jy": "Jy",
    "flux_survey_err_jy": "Jy",
    "freq_survey_hz": "Hz",
}


#: Spectral index of a source for which none is known (mean of the NVSS population).
DEFAULT_ALPHA = -0.7


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV with ``name`` as text and comments after ``#``.

    Raises
    ------
    DataError
        If the file is absent or is no CSV.
    """
    import pandas as pd

    try:
        return tables.read_csv(path, skipinitialspace=True, comment="#")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({str(error).strip()})") from None


def read_catalog(path: str | os.PathLike) -> pd.DataFrame:
    """Read a reference catalogue.

    Parameters
    ----------
    path : path
        CSV or Parquet with ``name,ra_deg,dec_deg,flux_jy[,alpha][,survey]``: ICRS, flux in Jy at
        1.4 GHz. Absent names become IAU names, absent spectral indices -0.7. Other columns stay.

    Returns
    -------
    pandas.DataFrame
        One row a source, columns ``name, ra_deg, dec_deg, flux_jy, alpha`` first.

    Raises
    ------
    DataError
        For a missing column, values that are no numbers or out of range, units that are or look
        wrong, names that occur twice, or fluxes of more than one survey.
    """
    import pandas as pd

    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file; set 'catalog' to a CSV table")
    if path.suffix == ".parquet":
        _check_stated_units(path)
        table = pd.read_parquet(path)
    else:
        table = read_csv(path)
    _check_columns(path, table.columns)
    if "alpha" not in table.columns:
        table["alpha"] = DEFAULT_ALPHA
    for column in ("ra_deg", "dec_deg", "flux_jy", "alpha"):
        values = pd.to_numeric(table[column], errors="coerce").astype(float)
        if column == "alpha":
            values = values.where(table[column].notna(), DEFAULT_ALPHA)
        table[column] = values
    _check_range(path, table, "ra_deg", 0, 360)
    _check_range(path, table, "dec_deg", -90, 90)
    _check_range(path, table, "flux_jy", 0, 1e5)
    _check_range(path, table, "alpha", -5, 5)
    _check_units(path, table)
    surveys = sorted(table["survey"].dropna().astype(str).unique()) if "survey" in table else []
    if len(surveys) > 1:
        raise DataError(
            f"{path}: fluxes of {' and '.join(surveys)} must not be mixed in one statistic; "
            "make one catalogue a survey"
        )
    names = table["name"] if "name" in table else pd.Series("", table.index)
    table["name"] = names.astype(object).where(names.notna(), "").astype(str)
    _check_names(path, table["name"])
    unnamed = table["name"].str.strip() == ""
    table.loc[unnamed, "name"] = [
        iau_name(ra, dec)
        for ra, dec in zip(table.ra_deg[unnamed], table.dec_deg[unnamed], strict=True)
    ]
    twice = table["name"][table["name"].duplicated()]
    if len(twice):
        raise DataError(f"{path}: name {twice.iloc[0]!r} occurs more than once")
    first = ["name", "ra_deg", "dec_deg", "flux_jy", "alpha"]
    return table[first + [c for c in table.columns if c not in first]].reset_index(drop=True)


def check_header(path: Path) -> None:
    """Read the first line of a CSV that is no comment; raise `DataError` if a column is missing."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        lines = (line for line in file if line.strip() and not line.startswith("#"))
        _check_columns(path, next(csv.reader(lines, skipinitialspace=True), []))


def _check_columns(path: Path, columns: Iterable[str]) -> None:
    columns = set(columns)
    absent = [c for c in ("ra_deg", "dec_deg", "flux_jy") if c not in columns]
    if absent:
        hint = " (flux_mjy is there: divide by 1000)" if "flux_mjy" in columns else ""
        raise DataError(f"{path}: column {', '.join(absent)} is missing{hint}")


def _check_range(path: Path, table: pd.DataFrame, column: str, low: float, high: float) -> None:
    wrong = ~table[column].between(low, high)
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        raise DataError(
            f"{path}: {column} must be a number from {low:g} to {high:g}; "
            f"in {wrong.sum()} row(s) it is not, first in data row {row + 1}"
        )


#: What no CSV, page or VOTable can carry; a line break and a tabulator they can.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def _check_names(path: Path, names: pd.Series) -> None:
    if (damaged := next(filter(_CONTROL.search, names), None)) is not None:
        raise DataError(f"{path}: name {damaged!r} holds a control character; remove it")


def _check_stated_units(path: Path) -> None:
    """Refuse a Parquet file whose metadata states other units."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from None
    for column in schema:
        stated = (column.metadata or {}).get(b"unit", b"").decode()
        wanted = UNITS.get(column.name, "")
        if stated and wanted and stated != wanted:
            raise DataError(f"{path}: {column.name} is in {stated}; it must be in {wanted}")


def _check_units(path: Path, table: pd.DataFrame) -> None:
    """Refuse radians and mJy, where a list is long enough to tell."""
    if len(table) < 10:
        return
    if table.ra_deg.max() <= 2 * math.pi and table.dec_deg.abs().max() <= math.pi / 2:
        raise DataError(f"{path}: ra_deg and dec_deg look like radians; they must be degrees")
    if table.flux_jy.median() > 3:
        raise DataError(
            f"{path}: flux_jy looks like mJy (median {table.flux_jy.median():g}); it must be Jy"
        )


def flux_at(flux_jy: ArrayLike, alpha: ArrayLike, freq_hz: ArrayLike) -> Any:
    """Return catalogue fluxes, Jy at 1.4 GHz with spectral index alpha, at another frequency."""
    return np.asarray(flux_jy) * (np.asarray(freq_hz) / REFERENCE_HZ) ** np.asarray(alpha)


def iau_name(ra_deg: float, dec_deg: float) -> str:
    """Return ``JHHMMSS.s+DDMMSS`` of a position, truncated as the IAU wants it.

    A microsecond of time and an arc-microsecond are granted for binary rounding.
    """
    tenths = int(ra_deg % 360 / 15 * 36000 + 1e-5) % 864000
    seconds = int(abs(dec_deg) * 3600 + 1e-6)
    hours, rest = divmod(tenths, 36000)
    minutes, rest = divmod(rest, 600)
    degrees, arc = divmod(seconds, 3600)
    sign = "-" if dec_deg < 0 else "+"
    return (
        f"J{hours:02d}{minutes:02d}{rest // 10:02d}.{rest % 10}"
        f"{sign}{degrees:02d}{arc // 60:02d}{arc % 60:02d}"
    )
