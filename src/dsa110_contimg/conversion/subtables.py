"""Subtables of a Measurement Set, complete for CASA, WSClean, AOFlagger, DP3 and pyuvdata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from casacore import tables

from ..telescope.dsa110 import RAW_NAME

if TYPE_CHECKING:
    from .geometry import Geometry, GroupFile

__all__ = ["write_subtables"]

#: AIPS codes of polarizations to those of casacore's Stokes, and the receptors they come from.
_STOKES = {-5: (9, 0, 0), -6: (12, 1, 1), -7: (10, 0, 1), -8: (11, 1, 0)}
_TOPO = 5  # casacore's code of the topocentric frequency frame
_FOREVER_S = 1e30


def write_subtables(ms: Path, group: GroupFile, geometry: Geometry, history: list[str]) -> None:
    """Write all subtables of a Measurement Set whose main table is written.

    The telescope goes by the name that the correlator writes, the only one in CASA's table of
    observatories.

    Parameters
    ----------
    ms : Path
        Measurement Set.
    group, geometry : GroupFile, Geometry
        What it holds.
    history : list of str
        What was done.
    """
    for name, columns in _contents(group, geometry, history).items():
        _write(ms, name, columns)
    # Where pyuvdata looks for the array's position, before it asks the network.
    with tables.table(f"{ms}::OBSERVATION", readonly=False, ack=False) as observation:
        observation.addcols(
            tables.makearrcoldesc("TELESCOPE_LOCATION", 0.0, shape=[3], valuetype="double")
        )
        observation.putcell("TELESCOPE_LOCATION", 0, group.site.itrf_m)
    _write_source(ms, float(geometry.sky.mjd_s.mean()), geometry.centre)
    _write_pointing(ms, group, geometry)
    _say_icrs(f"{ms}::FIELD", "DELAY_DIR", "PHASE_DIR", "REFERENCE_DIR")


def _contents(
    group: GroupFile, geometry: Geometry, history: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the columns of the subtables whose rows are written at once, by subtable."""
    seconds, half = geometry.sky.mjd_s, group.integration_s / 2
    middle = float(seconds.mean())
    centre = geometry.centre[np.newaxis]
    n_history = len(history)
    return {
        **_antennas(group, middle),
        **_band(group, geometry),
        "DATA_DESCRIPTION": {"SPECTRAL_WINDOW_ID": [0], "POLARIZATION_ID": [0]},
        "FIELD": {
            "NAME": ["tile"],
            "TIME": [middle],
            "NUM_POLY": [0],
            "SOURCE_ID": [0],
            "DELAY_DIR": centre[np.newaxis],
            "PHASE_DIR": centre[np.newaxis],
            "REFERENCE_DIR": centre[np.newaxis],
        },
        "OBSERVATION": {
            "TELESCOPE_NAME": [RAW_NAME],
            "OBSERVER": ["DSA-110"],
            "PROJECT": ["continuum"],
            "SCHEDULE_TYPE": ["drift"],
            "TIME_RANGE": np.array([[seconds[0] - half, seconds[-1] + half]]),
        },
        "STATE": {"SIG": [True], "REF": [False], "OBS_MODE": ["OBSERVE_TARGET.ON_SOURCE"]},
        "PROCESSOR": {"TYPE": ["CORRELATOR"], "SUB_TYPE": ["DSA-110"]},
        "HISTORY": {
            "MESSAGE": history,
            "APPLICATION": ["dsa110-contimg"] * n_history,
            "ORIGIN": ["convert"] * n_history,
            "PRIORITY": ["INFO"] * n_history,
            "TIME": np.full(n_history, middle),
            "OBSERVATION_ID": np.zeros(n_history, int),
            "OBJECT_ID": np.zeros(n_history, int),
            "APP_PARAMS": np.full((n_history, 1), ""),
            "CLI_COMMAND": np.full((n_history, 1), ""),
        },
    }


def _antennas(group: GroupFile, middle_s: float) -> dict[str, dict[str, Any]]:
    """Return the subtables with a row an antenna; rows go by antenna number."""
    n = _n_antennas(group)
    position = np.zeros((n, 3))
    position[group.numbers] = group.positions_m + group.site.itrf_m
    names = [f"DSA-{number + 1:03d}" for number in range(n)]
    return {
        "ANTENNA": {
            "NAME": names,
            "STATION": names,
            "TYPE": ["GROUND-BASED"] * n,
            "MOUNT": ["ALT-AZ"] * n,
            "POSITION": position,
            "OFFSET": np.zeros((n, 3)),
            "DISH_DIAMETER": np.full(n, float(group.diameters_m.max())),
        },
        "FEED": {
            "ANTENNA_ID": np.arange(n),
            "SPECTRAL_WINDOW_ID": np.full(n, -1),
            "TIME": np.full(n, middle_s),
            "INTERVAL": np.full(n, _FOREVER_S),
            "NUM_RECEPTORS": np.full(n, 2),
            "BEAM_ID": np.full(n, -1),
            "BEAM_OFFSET": np.zeros((n, 2, 2)),
            "POLARIZATION_TYPE": np.tile(["X", "Y"], (n, 1)),
            "POL_RESPONSE": np.tile(np.eye(2, dtype=np.complex64), (n, 1, 1)),
            "POSITION": np.zeros((n, 3)),
            "RECEPTOR_ANGLE": np.tile([0.0, np.pi / 2], (n, 1)),
        },
    }


def _n_antennas(group: GroupFile) -> int:
    return int(group.numbers.max()) + 1


def _band(group: GroupFile, geometry: Geometry) -> dict[str, dict[str, Any]]:
    """Return the subtables of channels and polarizations."""
    width = np.full(len(geometry.freq_hz), group.width_hz)
    codes = [_STOKES[int(code)] for code in group.polarizations]
    return {
        "SPECTRAL_WINDOW": {
            "NAME": ["DSA-110"],
            "NUM_CHAN": [len(width)],
            "CHAN_FREQ": geometry.freq_hz[np.newaxis],
            "CHAN_WIDTH": width[np.newaxis],
            "EFFECTIVE_BW": width[np.newaxis],
            "RESOLUTION": width[np.newaxis],
            "REF_FREQUENCY": [geometry.freq_hz.mean()],
            "TOTAL_BANDWIDTH": [width.sum()],
            "MEAS_FREQ_REF": [_TOPO],
        },
        "POLARIZATION": {
            "NUM_CORR": [len(codes)],
            "CORR_TYPE": np.array([[code for code, _, _ in codes]]),
            "CORR_PRODUCT": np.array([[[first, second] for _, first, second in codes]]),
        },
    }


def _write(ms: Path, subtable: str, columns: Mapping[str, Any]) -> None:
    """Make a subtable anew and fill it; no columns, no rows."""
    description = tables.required_ms_desc(subtable)
    tables.default_ms_subtable(
        subtable, str(ms / subtable), description, tables.makedminfo(description)
    ).close()
    with tables.table(f"{ms}::{subtable}", readonly=False, ack=False) as table:
        table.addrows(len(next(iter(columns.values()), ())))
        for name, values in columns.items():
            table.putcol(name, _plain(values))


def _say_icrs(table: str, *columns: str) -> None:
    """Name the frame of columns with directions: ICRS."""
    with tables.table(table, readonly=False, ack=False) as opened:
        for name in columns:
            info = opened.getcolkeyword(name, "MEASINFO") | {"Ref": "ICRS"}
            opened.putcolkeyword(name, "MEASINFO", info)


def _plain(values: object) -> object:
    """Return values in the types that casacore's columns have."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "i":
        return values.astype(np.int32)
    return values


def _write_source(ms: Path, middle_s: float, centre: np.ndarray) -> None:
    """Write the one source; the subtable is optional and has to be linked."""
    path = str(ms / "SOURCE")
    description = tables.required_ms_desc("SOURCE")
    tables.default_ms_subtable("SOURCE", path, description, tables.makedminfo(description)).close()
    with tables.table(path, readonly=False, ack=False) as source:
        source.addrows(1)
        for name, value in {
            "SOURCE_ID": 0,
            "NAME": "tile",
            "TIME": middle_s,
            "INTERVAL": _FOREVER_S,
            "SPECTRAL_WINDOW_ID": -1,
            "NUM_LINES": 0,
            "DIRECTION": centre,
            "PROPER_MOTION": np.zeros(2),
        }.items():
            source.putcell(name, 0, value)
    _say_icrs(path, "DIRECTION")
    with tables.table(str(ms), readonly=False, ack=False) as main:
        main.putkeyword("SOURCE", f"Table: {path}")


def _write_pointing(ms: Path, group: GroupFile, geometry: Geometry) -> None:
    """Write where each antenna points, each integration: the meridian, ICRS."""
    n_ant = _n_antennas(group)
    n_rows = n_ant * len(geometry.sky.mjd_s)
    times = np.repeat(geometry.sky.mjd_s, n_ant)
    direction = np.repeat(geometry.pointing, n_ant, axis=0)[:, np.newaxis, :]
    _write(ms, "POINTING", {})
    with tables.table(f"{ms}::POINTING", readonly=False, ack=False) as pointing:
        # The first row sets the shape of the variable columns; the others then take it at once.
        pointing.addrows(1)
        pointing.putcell("DIRECTION", 0, direction[0])
        pointing.putcell("TARGET", 0, direction[0])
        pointing.addrows(n_rows - 1)
        for name, values in {
            "DIRECTION": direction,
            "TARGET": direction,
            "ANTENNA_ID": np.tile(np.arange(n_ant), len(geometry.sky.mjd_s)),
            "TIME": times,
            "TIME_ORIGIN": times,
            "INTERVAL": np.full(n_rows, group.integration_s),
            "NAME": ["meridian"] * n_rows,
            "NUM_POLY": np.zeros(n_rows, int),
            "TRACKING": np.zeros(n_rows, bool),
        }.items():
            pointing.putcol(name, _plain(values))
    _say_icrs(f"{ms}::POINTING", "DIRECTION", "TARGET")
