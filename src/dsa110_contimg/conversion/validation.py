"""Checks of a Measurement Set that was just written, by other means than it was written with.

Directions come from astropy's horizontal frame, not from the code that rotated the data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from casacore import tables

from ..core.figures import Validation
from ..core.sidecar import Sidecar
from ..core.times import DAY_S
from ..telescope.dsa110 import location, stations

__all__ = ["validate"]

_COLUMNS = {
    "ANTENNA1",
    "ANTENNA2",
    "DATA",
    "EXPOSURE",
    "FIELD_ID",
    "FLAG",
    "INTERVAL",
    "SIGMA",
    "TIME",
    "UVW",
    "WEIGHT",
}
#: Most that uvw, directions, and antenna positions may be off by.
_UVW_M, _CENTRE_ARCSEC, _POSITION_M = 0.01, 0.1, 0.05
#: No baseline of the array is longer.
_LONGEST_M = 3210.0


def validate(ms: Path, sidecar: Sidecar) -> Validation:
    """Check a Measurement Set and lower the sidecar's verdict where it fails.

    Parameters
    ----------
    ms : Path
        Measurement Set.
    sidecar : Sidecar
        Receives the verdict.

    Returns
    -------
    Validation
        What was found.
    """
    with tables.table(str(ms), ack=False) as main:
        if missing := sorted(_COLUMNS - set(main.colnames())):
            sidecar.fail(f"Measurement Set: columns missing: {missing}")
            return Validation(missing_columns=missing)
        times = main.getcol("TIME")
        ant1, ant2 = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        uvw = main.getcol("UVW")
        fields = np.unique(main.getcol("FIELD_ID"))
        shape = main.getcell("DATA", 0).shape
    with tables.table(f"{ms}::SPECTRAL_WINDOW", ack=False) as window:
        n_windows = window.nrows()
        freq = window.getcell("CHAN_FREQ", 0)
        width = window.getcell("CHAN_WIDTH", 0)
    with tables.table(f"{ms}::ANTENNA", ack=False) as antenna:
        position = antenna.getcol("POSITION")
    with tables.table(f"{ms}::FIELD", ack=False) as field:
        centre = field.getcell("PHASE_DIR", 0)[0]
        same = all(
            np.array_equal(field.getcell(name, 0)[0], centre)
            for name in ("DELAY_DIR", "REFERENCE_DIR")
        )
    with tables.table(f"{ms}::POINTING", ack=False) as pointing:
        n_ant = len(position)
        directions = pointing.getcol("DIRECTION")[::n_ant, 0]
    moments = np.unique(times)
    n_bl = len(times) // len(moments)
    steps = np.diff(freq)
    found = Validation(
        n_rows=len(times),
        n_integrations=len(moments),
        n_baselines=n_bl,
        n_channels=shape[0],
        longest_baseline_m=np.linalg.norm(uvw, axis=1).max(),
    )

    def require(condition: bool, complaint: str) -> None:
        if not condition:
            sidecar.fail(f"Measurement Set: {complaint}")

    require(n_windows == 1 and len(freq) == shape[0], "not one spectral window of all channels")
    require(
        bool((steps > 0).all() and (width > 0).all() and np.allclose(steps, width[0], rtol=1e-3)),
        "channels do not ascend evenly",
    )
    rows = (len(moments), n_bl)
    regular = len(times) == len(moments) * n_bl and all(
        (column.reshape(rows) == column[:n_bl]).all() for column in (ant1, ant2)
    )
    require(regular and bool((ant1 <= ant2).all()), "rows are not times x baselines (ant1 <= ant2)")
    require(fields.tolist() == [0] and same, "not one phase centre")
    require(found.longest_baseline_m <= _LONGEST_M, "baselines longer than the array")
    if not regular:
        return found
    _check_geometry(
        moments,
        uvw.reshape(*rows, 3),
        ant1[:n_bl],
        ant2[:n_bl],
        position,
        centre,
        directions,
        found,
    )
    found.phase_centre_offset_arcsec = _offset_arcsec(centre, directions, moments)
    require(
        max(found.pointing_off_meridian_arcsec, found.pointing_altitude_change_arcsec)
        <= _CENTRE_ARCSEC,
        "POINTING leaves the meridian or its declination",
    )
    require(found.uvw_error_m <= _UVW_M, f"uvw differ by {found.uvw_error_m:.3f} m")
    require(
        found.phase_centre_offset_arcsec <= _CENTRE_ARCSEC,
        f"phase centre {found.phase_centre_offset_arcsec:.2f} arcsec from the middle pointing",
    )
    found.station_offset_m = _station_offset(position)
    if found.station_offset_m > _POSITION_M:
        sidecar.warn(
            f"antenna positions differ by up to {found.station_offset_m:.2f} m from the "
            "station table"
        )
    return found


def _enu(vectors: np.ndarray, latitude: float, longitude: float) -> np.ndarray:
    """Rotate Earth-fixed vectors (..., 3) to east, north, up."""
    sin_b, cos_b, sin_l, cos_l = (f(x) for x in (latitude, longitude) for f in (np.sin, np.cos))
    rotation = np.array(
        [
            [-sin_l, cos_l, 0],
            [-sin_b * cos_l, -sin_b * sin_l, cos_b],
            [cos_b * cos_l, cos_b * sin_l, sin_b],
        ]
    )
    return vectors @ rotation.T


def _horizontal(directions: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return unit vectors (east, north, up) of ICRS directions (N, 2) at times (N,), by astropy."""
    from astropy import units as u
    from astropy.coordinates import AltAz, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    with iers.conf.set_temp("auto_download", False):
        frame = AltAz(obstime=Time(times_s / DAY_S, format="mjd"), location=location())
        seen = SkyCoord(directions * u.rad, frame="icrs").transform_to(frame)
        north, east, up = seen.cartesian.xyz.value  # left-handed: x is north, y is east
    return np.stack([east, north, up], axis=-1)


def _check_geometry(
    moments: np.ndarray,
    uvw: np.ndarray,
    ant1: np.ndarray,
    ant2: np.ndarray,
    position: np.ndarray,
    centre: np.ndarray,
    pointing: np.ndarray,
    found: Validation,
) -> None:
    """Compute uvw and pointing of three integrations anew, and note what differs."""
    some = np.array([0, len(moments) // 2, len(moments) - 1])
    times = moments[some]
    site = location()
    antennas = _enu(position, site.lat.rad, site.lon.rad)
    baseline = antennas[ant1] - antennas[ant2]
    step = np.array([0, 1e-4])
    here, ahead, behind = (
        _horizontal(np.tile(centre + d, (3, 1)), times) for d in (0, step, -step)
    )
    north = ahead - behind
    north -= (north * here).sum(axis=-1, keepdims=True) * here
    north /= np.linalg.norm(north, axis=-1, keepdims=True)
    axes = np.stack([np.cross(north, here), north, here], axis=1)
    expected = np.einsum("tij,bj->tbi", axes, baseline)
    meridian = _horizontal(pointing[some], times)
    altitude = np.arctan2(meridian[:, 1], meridian[:, 2])
    found.uvw_error_m = np.abs(uvw[some] - expected).max()
    found.pointing_off_meridian_arcsec = np.degrees(np.abs(meridian[:, 0]).max()) * 3600
    found.pointing_altitude_change_arcsec = np.degrees(np.ptp(altitude)) * 3600


def _offset_arcsec(centre: np.ndarray, pointing: np.ndarray, moments: np.ndarray) -> float:
    """Return how far the phase centre is from where the array points at mid-tile, arcsec."""
    centre, pointing = (
        np.stack([np.cos(d) * np.cos(r), np.cos(d) * np.sin(r), np.sin(d)], axis=-1)
        for r, d in (centre, pointing.T)
    )
    phase = (moments - moments.mean()) / max(np.ptp(moments), 1.0)
    middle = np.polynomial.polynomial.polyfit(phase, pointing, min(2, len(phase) - 1))[0]
    offset = np.linalg.norm(middle / np.linalg.norm(middle) - centre)
    return float(np.degrees(offset) * 3600)


def _station_offset(position: np.ndarray) -> float:
    """Return the largest distance of an antenna from its place in the station table, m."""
    n = min(len(position), len(stations().itrf_m))
    present = np.linalg.norm(position[:n], axis=1) > 0
    return float(np.linalg.norm(position[:n] - stations().itrf_m[:n], axis=1)[present].max())
