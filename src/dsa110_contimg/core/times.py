"""Times as this project uses them: MJD (UTC), group ids, nights."""

from __future__ import annotations

import datetime as dt

from .errors import DataError

__all__ = [
    "GROUP_ID",
    "NIGHT",
    "duration",
    "group_id",
    "group_mjd",
    "night_of",
    "unix_of_mjd",
    "unix_of_utc",
    "utc_of_unix",
]

_UNIX_EPOCH_MJD = 40587.0


def unix_of_mjd(mjd: float) -> float:
    """Return the Unix time of an MJD (UTC)."""
    return (mjd - _UNIX_EPOCH_MJD) * 86400


def utc_of_unix(moment: float) -> str:
    """Return a Unix time as text (UTC, ISO 8601)."""
    return f"{dt.datetime.fromtimestamp(moment, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def unix_of_utc(utc: str) -> float:
    """Return the Unix time of such a text."""
    return dt.datetime.fromisoformat(utc).timestamp()


def duration(seconds: float) -> str:
    """Return a span of time in seconds as people say it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


#: Regular expressions of the two identities; Snakemake constrains its wildcards with them.
GROUP_ID = r"\d{8}T\d{6}"


NIGHT = r"\d{4}-\d{2}-\d{2}"


_MJD_EPOCH = dt.datetime(1858, 11, 17, tzinfo=dt.UTC)


def group_id(start_mjd: float) -> str:
    """Return the identity of a group, ``YYYYMMDDTHHMMSS``.

    Parameters
    ----------
    start_mjd : float
        UTC start of the data (half an integration before the first ``time_array`` entry), MJD.
        Seconds are truncated; a millisecond is granted for the rounding of Julian dates.
    """
    moment = _MJD_EPOCH + dt.timedelta(days=start_mjd, milliseconds=1)
    return moment.strftime("%Y%m%dT%H%M%S")


def group_mjd(group: str) -> float:
    """Return the start of a group, MJD (UTC), to the second of its name."""
    try:
        moment = dt.datetime.strptime(group, "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError:
        raise DataError(f"{group!r} is no group id (YYYYMMDDTHHMMSS)") from None
    return (moment - _MJD_EPOCH) / dt.timedelta(days=1)


def night_of(group: str) -> str:
    """Return the night (UTC day, ``YYYY-MM-DD``) of a group."""
    return f"{group[:4]}-{group[4:6]}-{group[6:8]}"
