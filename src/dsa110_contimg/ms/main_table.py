"""The main table of the Measurement Sets that are made here: its columns, and how they are stored.

Data, flags and weights are stored in tiles of a few whole rows. Most tools read rows in order and
touch each tile once; AOFlagger takes one baseline after the other, a row of each integration, and
would read whole tiles for it: with tiles of a megabyte it takes half as long again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from casacore import tables

__all__ = ["add_weight_spectrum", "create_main", "sigma"]

_TILE_BYTES = 1 << 17
#: Columns that hardly change from row to row.
_CONSTANT = (
    "ARRAY_ID",
    "DATA_DESC_ID",
    "EXPOSURE",
    "FEED1",
    "FEED2",
    "FIELD_ID",
    "FLAG_ROW",
    "INTERVAL",
    "OBSERVATION_ID",
    "PROCESSOR_ID",
    "SCAN_NUMBER",
    "STATE_ID",
    "TIME",
    "TIME_CENTROID",
)


def create_main(ms: Path, n_chan: int, n_pol: int, unit: str) -> None:
    """Create an empty Measurement Set.

    Parameters
    ----------
    ms : Path
        Where.
    n_chan, n_pol : int
        Shape of a row.
    unit : str
        Unit of the data: ``uncalib`` or ``Jy``.
    """
    description = tables.required_ms_desc("MAIN")
    shape = [n_chan, n_pol]
    for column in (
        tables.makearrcoldesc("DATA", 0j, 2, shape, valuetype="complex"),
        tables.makearrcoldesc("FLAG", False, 2, shape, valuetype="boolean"),
        tables.makearrcoldesc("WEIGHT", 0.0, 1, [n_pol], valuetype="float"),
        tables.makearrcoldesc("SIGMA", 0.0, 1, [n_pol], valuetype="float"),
        tables.makearrcoldesc("UVW", 0.0, 1, [3], valuetype="double"),
    ):
        name, new = column["name"], column["desc"]
        new["keywords"] = description.get(name, {}).get("keywords", {})
        description[name] = new
    rows = max(1, _TILE_BYTES // (8 * n_chan * n_pol))
    tiles = {
        "DATA": [n_pol, n_chan, rows],
        "FLAG": [n_pol, n_chan, 8 * rows],  # stored as bits
        "WEIGHT": [n_pol, 65536],
        "SIGMA": [n_pol, 65536],
        "UVW": [3, 65536],
    }
    groups = {}
    for name, tile in tiles.items():
        description[name].update(
            dataManagerType="TiledColumnStMan", dataManagerGroup=f"Tiled{name}"
        )
        groups[f"Tiled{name}"] = {"DEFAULTTILESHAPE": np.array(tile, np.int32)}
    for name in _CONSTANT:
        description[name].update(dataManagerType="IncrementalStMan", dataManagerGroup="Constant")
    with tables.default_ms(str(ms), description, tables.makedminfo(description, groups)) as main:
        main.putcolkeyword("DATA", "QuantumUnits", unit)
        main.putkeyword("pyuvdata_flip_conj", True)


def add_weight_spectrum(main: tables.table, n_chan: int, n_pol: int) -> None:
    """Add the column for weights of single channels."""
    column = tables.makearrcoldesc("WEIGHT_SPECTRUM", 0.0, 2, [n_chan, n_pol], valuetype="float")
    rows = max(1, _TILE_BYTES // (4 * n_chan * n_pol))
    manager = {
        "TYPE": "TiledColumnStMan",
        "NAME": "TiledWeightSpectrum",
        "SPEC": {"DEFAULTTILESHAPE": np.array([n_pol, n_chan, rows], np.int32)},
    }
    main.addcols(tables.maketabdesc(column), manager)


def sigma(weights: np.ndarray) -> np.ndarray:
    """Return the standard deviations that go with weights; 0 where there is none."""
    return np.power(weights, -0.5, where=weights > 0, out=np.zeros_like(weights))
