"""Times as this project uses them: MJD (UTC), group ids, nights."""

from __future__ import annotations

import datetime as dt
import functools
import time

from .errors import DataError

__all__ = [
    "DAY_S",
    "GROUP_ID",
    "MJD_ZERO_JD",
    "NIGHT",
    "clock_of",
    "duration",
    "group_id",
    "group_mjd",
    "group_prefix",
    "mjd_of_unix",
    "name_of_unix",
    "night_mjd",
    "night_of",
    "night_of_mjd",
    "unix_of_mjd",
    "unix_of_utc",
    "utc_now",
    "utc_of_mjd",
    "utc_of_unix",
]

#: Seconds of a day.
DAY_S = 86400.0
#: Julian date of MJD 0.
MJD_ZERO_JD = 2400000.5
#: Regular expressions of the two identities; Snakemake constrains its wildcards with them.
GROUP_ID = r"\d{8}T\d{6}"
NIGHT = r"\d{4}-\d{2}-\d{2}"

_MJD_ZERO = dt.datetime(1858, 11, 17, tzinfo=dt.UTC)
_UNIX_EPOCH_MJD = 40587.0
_NAME = "%Y%m%dT%H%M%S"


# --- moments --------------------------------------------------------------------------------------


def unix_of_mjd(mjd: float) -> float:
    """Return the Unix time of an MJD (UTC)."""
    return (mjd - _UNIX_EPOCH_MJD) * DAY_S


def mjd_of_unix(moment: float) -> float:
    """Return the MJD (UTC) of a Unix time."""
    return _UNIX_EPOCH_MJD + moment / DAY_S


def utc_of_mjd(mjd: float) -> dt.datetime:
    """Return an MJD (UTC) as date and time."""
    return _MJD_ZERO + dt.timedelta(days=mjd)


def utc_of_unix(moment: float) -> str:
    """Return a Unix time as text (UTC, ISO 8601)."""
    return f"{dt.datetime.fromtimestamp(moment, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def utc_now() -> str:
    """Return the present as such a text."""
    return utc_of_unix(time.time())


def unix_of_utc(utc: str) -> float:
    """Return the Unix time of such a text."""
    return dt.datetime.fromisoformat(utc).timestamp()


def name_of_unix(moment: float) -> str:
    """Return a Unix time as it stands in the names of groups and runs, ``YYYYMMDDTHHMMSS``."""
    return f"{dt.datetime.fromtimestamp(moment, dt.UTC):{_NAME}}"


def duration(seconds: float) -> str:
    """Return a span of time in seconds as people say it."""
    for unit, size in (("d", DAY_S), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# --- groups and nights ----------------------------------------------------------------------------


def group_id(start_mjd: float) -> str:
    """Return the identity of a group, ``YYYYMMDDTHHMMSS``.

    Parameters
    ----------
    start_mjd : float
        UTC start of the data (half an integration before the first ``time_array`` entry), MJD.
        Seconds are truncated; a millisecond is granted for the rounding of Julian dates.
    """
    moment = _MJD_ZERO + dt.timedelta(days=start_mjd, milliseconds=1)
    return moment.strftime(_NAME)


def group_mjd(group: str) -> float:
    """Return the start of a group, MJD (UTC), to the second of its name."""
    try:
        moment = dt.datetime.strptime(group, _NAME).replace(tzinfo=dt.UTC)
    except ValueError:
        raise DataError(f"{group!r} is no group id (YYYYMMDDTHHMMSS)") from None
    return (moment - _MJD_ZERO) / dt.timedelta(days=1)


def night_of(group: str) -> str:
    """Return the night (UTC day, ``YYYY-MM-DD``) of a group."""
    return f"{group[:4]}-{group[4:6]}-{group[6:8]}"


def clock_of(group: str) -> str:
    """Return the time of day (UTC, ``HH:MM:SS``) at which a group begins."""
    return f"{group[9:11]}:{group[11:13]}:{group[13:15]}"


def group_prefix(night: str) -> str:
    """Return what the ids of a night's groups begin with, ``YYYYMMDDT``."""
    return night.replace("-", "") + "T"


@functools.cache
def night_mjd(night: str) -> float:
    """Return the start of a night, MJD (UTC)."""
    return float((dt.date.fromisoformat(night) - _MJD_ZERO.date()).days)


def night_of_mjd(mjd: float) -> str:
    """Return the night of an MJD (UTC)."""
    return f"{utc_of_mjd(int(mjd)):%Y-%m-%d}"
