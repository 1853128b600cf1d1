"""Small correlator files for the tests of ingest and conversion, made without the package's code.

The sky is put in with astropy's horizontal coordinates alone (no hour angles, no sidereal time, no
uvw), so that what the converter makes of it is judged by an independent computation.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS, AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers

from dsa110_contimg.telescope import dsa110

C_M_S = 299792458.0
#: Some near antennas, the outriggers with the longest baseline between them, and the two whose
#: baselines the correlator writes the other way round, in an order that is not sorted.
ANTENNAS = (0, 30, 101, 45, 70, 115, 90, 104, 105)


@dataclass
class RawGroup:
    """What to write. Times are JD (UTC) of the first integration's centre."""

    jd0: float
    dec_app_deg: float
    antennas: tuple[int, ...] = ANTENNAS
    n_times: int = 24
    n_chan: int = 48
    subbands: tuple[int, ...] = tuple(range(16))
    sources: list = field(default_factory=list)  # (ra_deg, dec_deg, flux)
    noise: float = 0.0
    seed: int = 1

    @property
    def location(self) -> EarthLocation:
        return EarthLocation.from_geodetic(
            dsa110.LONGITUDE_RAD * u.rad,
            dsa110.LATITUDE_RAD * u.rad,
            dsa110.HEIGHT_M * u.m,
        )

    @property
    def times(self) -> np.ndarray:
        return self.jd0 + np.arange(self.n_times) * dsa110.INTEGRATION_S / 86400

    @property
    def itrf(self) -> np.ndarray:
        """Antenna positions relative to the reference position, m."""
        centre = np.array([c.to_value(u.m) for c in self.location.geocentric])
        return dsa110.stations().itrf_m - centre

    @property
    def baselines(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower-triangular in the order of the antennas, autos included."""
        pairs = [
            (self.antennas[j], self.antennas[i])
            for i in range(len(self.antennas))
            for j in range(i + 1)
        ]
        return tuple(np.array(pairs).T)

    def frequencies(self, subband: int) -> np.ndarray:
        """Channel centres, descending; fewer channels of a subband are wider ones."""
        width = 11.71875e6 / self.n_chan
        top = dsa110.TOP_CHANNEL_HZ + 250e6 / 8192 * 4 - width / 2
        return top - width * (subband * self.n_chan + np.arange(self.n_chan))


def enu(vectors: np.ndarray, location: EarthLocation) -> np.ndarray:
    """Rotate Earth-fixed vectors to east, north, up."""
    lat, lon = location.lat.rad, location.lon.rad
    east = [-np.sin(lon), np.cos(lon), 0]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    up = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    return vectors @ np.array([east, north, up]).T


def directions(ra_deg, dec_deg, jd, location) -> np.ndarray:
    """ENU unit vectors of an ICRS direction at some times, shape (times, 3), by astropy."""
    with iers.conf.set_temp("auto_download", False):
        frame = AltAz(obstime=Time(jd, format="jd", scale="utc"), location=location)
        horizontal = SkyCoord(ra_deg, dec_deg, unit="deg").transform_to(frame)
    alt, az = horizontal.alt.rad, horizontal.az.rad
    return np.stack([np.cos(alt) * np.sin(az), np.cos(alt) * np.cos(az), np.sin(alt)], axis=-1)


def meridian_icrs(jd: float, dec_app_deg: float, location: EarthLocation) -> tuple[float, float]:
    """ICRS direction (deg) of the meridian at an apparent declination, by astropy."""
    with iers.conf.set_temp("auto_download", False):
        offset = dec_app_deg - location.lat.deg
        north = offset > 0
        frame = AltAz(
            az=(0 if north else 180) * u.deg,
            alt=(90 - abs(offset)) * u.deg,
            obstime=Time(jd, format="jd", scale="utc"),
            location=location,
        )
        icrs = SkyCoord(frame).transform_to(ICRS())
    return float(icrs.ra.deg), float(icrs.dec.deg)


def visibilities(group: RawGroup, subband: int) -> np.ndarray:
    """Raw visibilities, shape (times, baselines, channels): V = S exp(2 pi i nu/c b.(s - s0))."""
    a1, a2 = group.baselines
    antennas = enu(group.itrf, group.location)
    baseline = antennas[a2] - antennas[a1]
    offset = np.radians(group.dec_app_deg) - group.location.lat.rad
    s0 = np.array([0.0, np.sin(offset), np.cos(offset)])
    freq = group.frequencies(subband)
    vis = np.zeros((group.n_times, len(a1), len(freq)), complex)
    for ra, dec, flux in group.sources:
        s = directions(ra, dec, group.times, group.location)
        delay = (s - s0) @ baseline.T / C_M_S
        vis += flux * np.exp(2j * np.pi * delay[..., None] * freq)
    if group.noise:
        rng = np.random.default_rng([group.seed, subband])
        vis += group.noise * (rng.normal(size=vis.shape) + 1j * rng.normal(size=vis.shape))
    return vis


def meridian_uvw(group: RawGroup) -> np.ndarray:
    """uvw at hour angle 0 and the apparent declination, shape (baselines, 3), m."""
    a1, a2 = group.baselines
    antennas = enu(group.itrf, group.location)
    e, n, up = (antennas[a2] - antennas[a1]).T
    offset = np.radians(group.dec_app_deg) - group.location.lat.rad
    return np.stack(
        [e, n * np.cos(offset) - up * np.sin(offset), n * np.sin(offset) + up * np.cos(offset)], -1
    )


def file_name(jd0: float, subband: int, jitter_s: float = 0.0) -> str:
    moment = dt.datetime(2000, 1, 1, 12) + dt.timedelta(days=jd0 - 2451545.0, seconds=jitter_s)
    return f"{moment:%Y-%m-%dT%H:%M:%S}_sb{subband:02d}.hdf5"


def write_subband(path: Path, group: RawGroup, subband: int) -> Path:
    """Write one file as the correlator's writer does."""
    a1, a2 = group.baselines
    n_bl, n_pol = len(a1), 2
    n_blt = n_bl * group.n_times
    vis = visibilities(group, subband).reshape(n_blt, 1, group.n_chan, 1)
    vis = np.repeat(vis, n_pol, axis=3).astype(np.complex64)
    with h5py.File(path, "w") as f:
        h = f.create_group("Header")
        h["latitude"] = np.degrees(dsa110.LATITUDE_RAD)
        h["longitude"] = np.degrees(dsa110.LONGITUDE_RAD)
        h["altitude"] = dsa110.HEIGHT_M
        h["telescope_name"] = np.bytes_("OVRO_MMA")
        h["instrument"] = np.bytes_("DSA")
        h["object_name"] = np.bytes_("search")
        h["history"] = np.bytes_("written by the tests")
        h["phase_type"] = np.bytes_("drift")
        h["phase_center_app_dec"] = np.radians(group.dec_app_deg)
        extra = h.create_group("extra_keywords")
        extra["phase_center_dec"] = np.radians(group.dec_app_deg)
        extra["ha_phase_center"] = 0.0
        extra["phase_center_epoch"] = "HADEC"
        extra["applied_delays_ns"] = np.bytes_(" ".join(["15400 15500"] * 117))
        h["Nants_data"] = len(group.antennas)
        h["Nants_telescope"] = 117
        h["antenna_numbers"] = np.arange(117)
        h["antenna_names"] = np.array([str(i + 1) for i in range(117)], "S4")
        h["antenna_diameters"] = np.full(117, 4.65)
        h["antenna_positions"] = group.itrf
        h["ant_1_array"] = np.tile(a1, group.n_times)
        h["ant_2_array"] = np.tile(a2, group.n_times)
        h["Nbls"] = n_bl
        h["Nblts"] = n_blt
        h["Ntimes"] = group.n_times
        h["Nfreqs"] = group.n_chan
        h["Npols"] = n_pol
        h["Nspws"] = 1
        h["spw_array"] = np.array([1])
        h["freq_array"] = group.frequencies(subband)[np.newaxis]
        h["channel_width"] = 11.71875e6 / group.n_chan
        h["polarization_array"] = np.array([-5, -6])
        h["time_array"] = np.repeat(group.times, n_bl)
        h["integration_time"] = np.full(n_blt, dsa110.INTEGRATION_S)
        h["uvw_array"] = np.tile(meridian_uvw(group), (group.n_times, 1)).astype(np.float32)
        data = f.create_group("Data")
        _append(data, "visdata", vis)
        _append(data, "flags", np.zeros(vis.shape, bool))
        _append(data, "nsamples", np.full(vis.shape, 96, np.float32))
    return path


def _append(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Create a dataset empty, then let it grow: its chunks are then as small as in real files."""
    rest = values.shape[1:]
    dataset = group.create_dataset(name, (0, *rest), values.dtype, maxshape=(None, *rest))
    dataset.resize(len(values), axis=0)
    dataset[:] = values


def write_group(folder: Path, group: RawGroup) -> list[Path]:
    """Write all subbands of a group; names differ by a second or two, as they do."""
    folder.mkdir(parents=True, exist_ok=True)
    start = group.jd0 - dsa110.INTEGRATION_S / 2 / 86400
    return [
        write_subband(folder / file_name(start, sb, jitter_s=sb % 3), group, sb)
        for sb in group.subbands
    ]


def link_many(sources: Path, folder: Path, jd0: float, n_files: int) -> None:
    """Give the files of a folder many names: groups one after the other, hard links."""
    folder.mkdir()
    files = sorted(sources.iterdir())
    for i in range(n_files):
        source = files[i % len(files)]
        jd = jd0 + (i // len(files)) * dsa110.TILE_S / 86400
        os.link(source, folder / file_name(jd, int(source.name[-7:-5])))
