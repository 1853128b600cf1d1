"""What all pages share: templates, words, numbers, tables."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.times import DAY_S

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "UNITS",
    "WORDS",
    "clock",
    "environment",
    "fixed",
    "is_number",
    "mjy",
    "percent",
    "read_table",
    "shown",
]

# --- words ----------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """Tell whether something is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def fixed(value: Any, digits: int = 2) -> str:
    """Format a number with fixed decimals; a dash for what is absent."""
    return f"{value:.{digits}f}" if is_number(value) else "–"


def mjy(value: Any) -> str:
    """Format a flux in Jy as mJy with three significant digits."""
    if not is_number(value):
        return "–"
    text = f"{1e3 * value:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


def percent(value: Any) -> str:
    """Format a fraction as a percentage."""
    return f"{100 * value:.1f} %" if is_number(value) else "–"


def hms(ra_deg: Any) -> str:
    """Format a right ascension as hours and minutes."""
    if not is_number(ra_deg):
        return "–"
    minutes = round(ra_deg % 360 * 4) % 1440
    return f"{minutes // 60:02d}h{minutes % 60:02d}m"


def short(value: Any) -> str:
    """Format anything for a table: four significant digits, no clutter."""
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if np.isfinite(value) else "–"
    return str(value)


def field(value: Any, name: str) -> str:
    """Format a value of a table as its column's name asks: positions keep their digits."""
    return fixed(value, 4) if name.endswith("_deg") else short(value)


#: Parts of keys -> words.
UNITS = {"jy": "Jy", "mjy": "mJy", "deg": "deg", "deg2": "deg²", "arcsec": "arcsec", "hz": "Hz"}


WORDS = {"kcal": "delay", "bcal": "bandpass", "gcal": "gain", "snr": "S/N", "ra": "RA"}


def words(name: str) -> str:
    """Turn a key into words: ``flux_err_jy`` becomes ``flux err (Jy)``, ``n_tiles`` ``tiles``."""
    parts = name.split("_")
    if parts[0] == "n" and len(parts) > 1:
        parts = parts[1:]
    unit = f" ({UNITS[parts.pop()]})" if len(parts) > 1 and parts[-1] in UNITS else ""
    return " ".join(WORDS.get(p, p) for p in parts) + unit


def clock(mjd: float) -> str:
    """Return the time of day (UTC) of an MJD."""
    seconds = round(mjd % 1 * DAY_S) % int(DAY_S)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def environment() -> Environment:
    """Return the Jinja environment of all pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("dsa110_contimg.reports", "data/templates"),
        autoescape=lambda name: bool(name and name.endswith(".j2")),
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    env.filters |= {f.__name__: f for f in (field, fixed, mjy, percent, hms, short, words)}
    env.filters["shell"] = shlex.quote
    return env


def shown(path: Path) -> str:
    """Return a path relative to the current folder where it lies below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV with numbers as floats."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            {k: v if k in ("source_id", "name") else _value(v) for k, v in row.items()}
            for row in csv.DictReader(stream)
        ]


def _value(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and "." not in text and "e" not in text else number
