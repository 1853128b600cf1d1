"""What a Measurement Set of one tile holds: field, times, channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from ..core.times import DAY_S

__all__ = ["Tile", "read_tile"]


@dataclass(frozen=True)
class Tile:
    """Description of a Measurement Set of one phase centre and one spectral window.

    Attributes
    ----------
    path : Path
        The Measurement Set.
    column : str
        Where the calibrated data are: ``CORRECTED_DATA`` if there is one, otherwise ``DATA``.
    ra_deg, dec_deg : float
        Phase centre, ICRS.
    name : str
        Name of the field.
    time_mjd : (n_time,) array
        Mid-times of the integrations, UTC.
    interval_s : (n_time,) array
        Their lengths.
    freq_hz, width_hz : (n_chan,) array
        Channel centres and widths.
    n_antennas : int
        Rows of the antenna table.
    """

    path: Path
    column: str
    ra_deg: float
    dec_deg: float
    name: str
    time_mjd: np.ndarray
    interval_s: np.ndarray
    freq_hz: np.ndarray
    width_hz: np.ndarray
    n_antennas: int

    @property
    def start_mjd(self) -> float:
        """Start of the first integration, MJD (UTC)."""
        return float(self.time_mjd[0] - self.interval_s[0] / 2 / DAY_S)

    @property
    def end_mjd(self) -> float:
        """End of the last integration, MJD (UTC)."""
        return float(self.time_mjd[-1] + self.interval_s[-1] / 2 / DAY_S)

    @property
    def bandwidth_hz(self) -> float:
        """Distance between the outer edges of the band, Hz."""
        low = np.argmin(self.freq_hz)
        high = np.argmax(self.freq_hz)
        edges = self.freq_hz[high] - self.freq_hz[low]
        return float(edges + (abs(self.width_hz[low]) + abs(self.width_hz[high])) / 2)


def read_tile(path: str | Path) -> Tile:
    """Read the description of a calibrated tile.

    Raises
    ------
    DataError
        If it is no Measurement Set, or holds more than one field or spectral window.
    """
    from casacore.tables import table

    path = Path(path)
    try:
        with table(str(path), ack=False) as main:
            columns = main.colnames()
            times, first = np.unique(main.getcol("TIME"), return_index=True)
            intervals = main.getcol("INTERVAL")[first]
        with table(f"{path}::FIELD", ack=False) as fields:
            directions = fields.getcol("PHASE_DIR").reshape(fields.nrows(), -1, 2)[:, 0]
            names = fields.getcol("NAME")
        with table(f"{path}::SPECTRAL_WINDOW", ack=False) as windows:
            n_windows = windows.nrows()
            freq_hz, width_hz = windows.getcell("CHAN_FREQ", 0), windows.getcell("CHAN_WIDTH", 0)
        with table(f"{path}::ANTENNA", ack=False) as antennas:
            n_antennas = antennas.nrows()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a usable Measurement Set ({reason}); remake it") from None
    if len(directions) != 1 or n_windows != 1:
        raise DataError(
            f"{path}: {len(directions)} fields and {n_windows} spectral windows where one of each "
            f"is needed; make it with the apply step"
        )
    if not len(times):
        raise DataError(f"{path}: the Measurement Set has no rows; remake it")
    ra, dec = np.rad2deg(directions[0])
    return Tile(
        path=path,
        column="CORRECTED_DATA" if "CORRECTED_DATA" in columns else "DATA",
        ra_deg=float(ra % 360),
        dec_deg=float(dec),
        name=names[0],
        time_mjd=times / DAY_S,
        interval_s=intervals,
        freq_hz=np.asarray(freq_hz, float),
        width_hz=np.asarray(width_hz, float),
        n_antennas=n_antennas,
    )
