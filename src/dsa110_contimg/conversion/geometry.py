"""A group file, and where its baselines and the sky are: uvw, phase centre, times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from ..core.errors import DataError
from ..telescope import dsa110
from ..telescope.astrometry import Site, Sky, meridian_axes

__all__ = ["Geometry", "GroupFile", "read_group"]

# --- the group ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupFile:
    """What a group file says, beside the visibilities.

    Attributes
    ----------
    path : Path
        The group file.
    sources : dict of int to Path
        Subband to file.
    jd : (T,) float
        Centres of the integrations, JD (UTC).
    integration_s : float
        Integration time, s.
    dec_app : float
        Apparent declination of the pointing, rad.
    ant1, ant2 : (B,) int
        Antenna numbers of the baselines, in the correlator's order.
    numbers, positions_m, diameters_m : (A,), (A, 3), (A,)
        Antennas; Earth-fixed positions relative to the site.
    site : Site
        Reference position.
    freq_hz : (C,) float
        Channel centres, descending.
    width_hz : float
        Channel width.
    polarizations : (P,) int
        AIPS codes.
    """

    path: Path
    sources: dict[int, Path]
    jd: np.ndarray
    integration_s: float
    dec_app: float
    ant1: np.ndarray
    ant2: np.ndarray
    numbers: np.ndarray
    positions_m: np.ndarray
    diameters_m: np.ndarray
    site: Site
    freq_hz: np.ndarray
    width_hz: float
    polarizations: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Baselines, channels, polarizations: the shape of one integration."""
        return len(self.ant1), len(self.freq_hz), len(self.polarizations)

    @property
    def n_bytes(self) -> int:
        """Bytes of all visibilities."""
        return 8 * len(self.jd) * int(np.prod(self.shape))


def read_group(path: Path) -> GroupFile:
    """Read a group file.

    Raises
    ------
    DataError
        If it is no group file, or a file it refers to has gone or changed.
    """
    if not path.exists():
        raise DataError(f"{path}: group file is missing; make it with the group step")
    try:
        with h5py.File(path, "r", locking=False) as file:
            sources = _sources(path, file["Sources"])
            header = file["Header"]
            n_times, n_bl = int(header["Ntimes"][()]), int(header["Nbls"][()])
            return GroupFile(
                path=path,
                sources=sources,
                jd=header["time_array"][::n_bl],
                integration_s=float(header["integration_time"][0]),
                dec_app=float(header["phase_center_app_dec"][0]),
                ant1=header["ant_1_array"][:n_bl],
                ant2=header["ant_2_array"][:n_bl],
                numbers=header["antenna_numbers"][()],
                positions_m=header["antenna_positions"][()],
                diameters_m=_diameters(header, n_times),
                site=Site(
                    np.radians(header["latitude"][()]),
                    np.radians(header["longitude"][()]),
                    float(header["altitude"][()]),
                ),
                freq_hz=header["freq_array"][()],
                width_hz=float(header["channel_width"][0]),
                polarizations=header["polarization_array"][()],
            )
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: no group file ({reason}); make it with the group step") from None


def _diameters(header: h5py.Group, n_times: int) -> np.ndarray:
    n_antennas = len(header["antenna_numbers"])
    if "antenna_diameters" in header:
        return np.broadcast_to(header["antenna_diameters"][()], n_antennas)
    return np.full(n_antennas, dsa110.DISH_DIAMETER_M)


def _sources(group: Path, sources: h5py.Group) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for sb, near, far, size in zip(
        sources["subband"][()].tolist(),
        sources["path"][()],
        sources["absolute_path"][()],
        sources["size"][()].tolist(),
        strict=True,
    ):
        path = group.parent / near.decode()
        if not path.exists():
            path = Path(far.decode())
        if not path.exists():
            raise DataError(
                f"{path}: source file has gone since {group.name} was made; "
                "bring it back, or make the group again"
            )
        if path.stat().st_size != size:
            raise DataError(
                f"{path}: has {path.stat().st_size} bytes, had {size} when {group.name} was made; "
                "make the group again"
            )
        found[sb] = path.resolve()
    return found


# --- geometry ----------------------------------------------------------------------------------


class Geometry:
    """Where everything is and points, in the order of the rows to be written.

    Parameters
    ----------
    group : GroupFile
        The group.

    Attributes
    ----------
    sky : Sky
        The times and the site.
    pointing : (T, 2) float
        ICRS direction of hour angle 0 and the apparent declination, each integration, rad.
    centre : (2,) float
        ICRS phase centre of the Measurement Set: the same at mid-tile, rad.
    row : (B,) int
        Row within an integration of the raw data that each baseline comes from.
    reversed : (B,) bool
        Baselines that the correlator wrote as (high, low).
    ant1, ant2 : (B,) int
        Antenna numbers, ant1 <= ant2.
    freq_hz : (C,) float
        Channel centres, ascending.
    """

    def __init__(self, group: GroupFile):
        self.group = group
        self.sky = Sky(group.jd, group.site)
        self.pointing = self.sky.meridian_icrs(group.dec_app)
        self.centre = Sky(group.jd.mean(), group.site).meridian_icrs(group.dec_app)[0]
        low, high = np.minimum(group.ant1, group.ant2), np.maximum(group.ant1, group.ant2)
        self.row = np.lexsort((high, low))
        self.reversed = (group.ant1 > group.ant2)[self.row]
        self.ant1, self.ant2 = low[self.row], high[self.row]
        self.freq_hz = group.freq_hz[::-1]

    @cached_property
    def uvw(self) -> np.ndarray:
        """Baselines pos2 - pos1 seen from the phase centre: (T, B, 3), m."""
        return self._baselines(self.sky.axes(*self.centre))

    @cached_property
    def delay_s(self) -> np.ndarray:
        """Delay of (ant1, ant2) for the phase centre less that for the raw one: (T, B), s."""
        raw = self._baselines(meridian_axes(np.array([self.group.dec_app])))
        return (self.uvw[..., 2] - raw[..., 2]) / dsa110.C_M_S

    @property
    def aberration_scale(self) -> float:
        """How many times larger the field appears than it is, by the Earth's motion.

        The uvw coordinates are physical baselines, so an image's offsets from its centre are these
        apparent ones: up to 1e-4 too large or too small, 0.7 arcsec at 2 deg.
        """
        return float(self.sky.scale(*self.centre).mean())

    def _baselines(self, axes: np.ndarray) -> np.ndarray:
        antennas = self.sky.antenna_uvw(self.group.positions_m, axes)
        row = {number: i for i, number in enumerate(self.group.numbers)}
        first, second = ([row[n] for n in ants] for ants in (self.ant1, self.ant2))
        return antennas[:, second] - antennas[:, first]
