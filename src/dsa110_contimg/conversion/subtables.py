"""Subtables of a Measurement Set, complete for CASA, WSClean, AOFlagger, DP3 and pyuvdata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    seconds = geometry.sky.mjd_s
    half = group.integration_s / 2
    middle = float(seconds.mean())
    span = np.array([seconds[0] - half, seconds[-1] + half])
    n_ant = int(group.numbers.max()) + 1
    n_chan = len(geometry.freq_hz)
    width = np.full(n_chan, group.width_hz)
    centre = geometry.centre[np.newaxis]
    position = np.zeros((n_ant, 3))
    position[group.numbers] = group.positions_m + group.site.itrf_m
    diameter = np.full(n_ant, float(group.diameters_m.max()))
    names = [f"DSA-{number + 1:03d}" for number in range(n_ant)]

    _write(
        ms,
        "ANTENNA",
        n_ant,
        NAME=names,
        STATION=names,
        TYPE=["GROUND-BASED"] * n_ant,
        MOUNT=["ALT-AZ"] * n_ant,
        POSITION=position,
        OFFSET=np.zeros((n_ant, 3)),
        DISH_DIAMETER=diameter,
    )
    _write(
        ms,
        "FEED",
        n_ant,
        ANTENNA_ID=np.arange(n_ant),
        SPECTRAL_WINDOW_ID=np.full(n_ant, -1),
        TIME=np.full(n_ant, middle),
        INTERVAL=np.full(n_ant, _FOREVER_S),
        NUM_RECEPTORS=np.full(n_ant, 2),
        BEAM_ID=np.full(n_ant, -1),
        BEAM_OFFSET=np.zeros((n_ant, 2, 2)),
        POLARIZATION_TYPE=np.tile(["X", "Y"], (n_ant, 1)),
        POL_RESPONSE=np.tile(np.eye(2, dtype=np.complex64), (n_ant, 1, 1)),
        POSITION=np.zeros((n_ant, 3)),
        RECEPTOR_ANGLE=np.tile([0.0, np.pi / 2], (n_ant, 1)),
    )
    _write(
        ms,
        "SPECTRAL_WINDOW",
        1,
        NAME=["DSA-110"],
        NUM_CHAN=[n_chan],
        CHAN_FREQ=geometry.freq_hz[np.newaxis],
        CHAN_WIDTH=width[np.newaxis],
        EFFECTIVE_BW=width[np.newaxis],
        RESOLUTION=width[np.newaxis],
        REF_FREQUENCY=[geometry.freq_hz.mean()],
        TOTAL_BANDWIDTH=[width.sum()],
        MEAS_FREQ_REF=[_TOPO],
    )
    codes = [_STOKES[int(code)] for code in group.polarizations]
    _write(
        ms,
        "POLARIZATION",
        1,
        NUM_CORR=[len(codes)],
        CORR_TYPE=np.array([[code for code, _, _ in codes]]),
        CORR_PRODUCT=np.array([[[first, second] for _, first, second in codes]]),
    )
    _write(ms, "DATA_DESCRIPTION", 1, SPECTRAL_WINDOW_ID=[0], POLARIZATION_ID=[0])
    _write(
        ms,
        "FIELD",
        1,
        NAME=["tile"],
        TIME=[middle],
        NUM_POLY=[0],
        SOURCE_ID=[0],
        DELAY_DIR=centre[np.newaxis],
        PHASE_DIR=centre[np.newaxis],
        REFERENCE_DIR=centre[np.newaxis],
    )
    _write(
        ms,
        "OBSERVATION",
        1,
        TELESCOPE_NAME=[RAW_NAME],
        OBSERVER=["DSA-110"],
        PROJECT=["continuum"],
        SCHEDULE_TYPE=["drift"],
        TIME_RANGE=span[np.newaxis],
    )
    # Where pyuvdata looks for the array's position, before it asks the network.
    with tables.table(f"{ms}::OBSERVATION", readonly=False, ack=False) as observation:
        location = group.site.itrf_m
        observation.addcols(
            tables.makearrcoldesc("TELESCOPE_LOCATION", 0.0, shape=[3], valuetype="double")
        )
        observation.putcell("TELESCOPE_LOCATION", 0, location)
    _write(ms, "STATE", 1, SIG=[True], REF=[False], OBS_MODE=["OBSERVE_TARGET.ON_SOURCE"])
    _write(ms, "PROCESSOR", 1, TYPE=["CORRELATOR"], SUB_TYPE=["DSA-110"])
    _write(
        ms,
        "HISTORY",
        len(history),
        MESSAGE=history,
        APPLICATION=["dsa110-contimg"] * len(history),
        ORIGIN=["convert"] * len(history),
        PRIORITY=["INFO"] * len(history),
        TIME=np.full(len(history), middle),
        OBSERVATION_ID=np.zeros(len(history), int),
        OBJECT_ID=np.zeros(len(history), int),
        APP_PARAMS=np.full((len(history), 1), ""),
        CLI_COMMAND=np.full((len(history), 1), ""),
    )
    _write_source(ms, middle, centre[0])
    _write_pointing(ms, group, geometry, n_ant)
    with tables.table(f"{ms}::FIELD", readonly=False, ack=False) as field:
        for name in ("DELAY_DIR", "PHASE_DIR", "REFERENCE_DIR"):
            field.putcolkeyword(
                name, "MEASINFO", field.getcolkeyword(name, "MEASINFO") | {"Ref": "ICRS"}
            )


def _write(ms: Path, subtable: str, n_rows: int, **columns: object) -> None:
    """Make a subtable anew and fill it."""
    description = tables.required_ms_desc(subtable)
    tables.default_ms_subtable(
        subtable, str(ms / subtable), description, tables.makedminfo(description)
    ).close()
    with tables.table(f"{ms}::{subtable}", readonly=False, ack=False) as table:
        table.addrows(n_rows)
        for name, values in columns.items():
            table.putcol(name, _plain(values))


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
        source.putcolkeyword(
            "DIRECTION", "MEASINFO", source.getcolkeyword("DIRECTION", "MEASINFO") | {"Ref": "ICRS"}
        )
    with tables.table(str(ms), readonly=False, ack=False) as main:
        main.putkeyword("SOURCE", f"Table: {path}")


def _write_pointing(ms: Path, group: GroupFile, geometry: Geometry, n_ant: int) -> None:
    """Write where each antenna points, each integration: the meridian, ICRS."""
    n_rows = n_ant * len(geometry.sky.mjd_s)
    times = np.repeat(geometry.sky.mjd_s, n_ant)
    direction = np.repeat(geometry.pointing, n_ant, axis=0)[:, np.newaxis, :]
    _write(ms, "POINTING", 0)
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
        for name in ("DIRECTION", "TARGET"):
            pointing.putcolkeyword(
                name, "MEASINFO", pointing.getcolkeyword(name, "MEASINFO") | {"Ref": "ICRS"}
            )
