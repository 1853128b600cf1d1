"""The correlator, modelled: visibilities of a known sky, and the UVH5 files they are written to.

With ``r`` the antenna positions, ``s`` the apparent direction of a source and ``s0`` that of the
meridian at the pointing declination, the visibility of antennas a and b is

    V_ab = sum_s S_s A_s exp(2 pi i nu / c (r_b - r_a) . (s - s0)),

for every integration and channel. The sum factorises by antenna, so it is a product of small
matrices over the sources.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..catalogs import catalogue
from ..catalogs.calibrators import Calibrator
from ..core.errors import ConfigError
from ..core.times import DAY_S, MJD_ZERO_JD, utc_of_mjd
from ..telescope import beam, dsa110
from ..telescope.astrometry import hour_angle_vector
from ..telescope.phasors import phasors

if TYPE_CHECKING:
    import h5py
    from astropy.time import Time

__all__ = [
    "SIDEREAL_DAY",
    "Instrument",
    "Sky",
    "Source",
    "Tracks",
    "antenna_order",
    "apparent_directions",
    "correlate",
    "file_names",
    "meridian_icrs",
    "predict",
    "reference_itrf",
    "trace",
    "transit_mjd",
    "write_uvh5",
]

SIDEREAL_DAY = 0.99726956632908
#: Antennas that the correlator has out of order: every baseline to them comes as (high, low).
_OUT_OF_ORDER = (115, 101)
#: Sources that never contribute more than this to any visibility are left out of the sum, Jy.
_PRUNE_JY = 1e-6


# --------------------------------------------------------------------------------------------------
# Instrument


@dataclass(frozen=True)
class Instrument:
    """What is correlated: antennas, channels, integrations.

    Attributes
    ----------
    antennas : (n_ant,) int array
        Antenna numbers, zero-based, in the correlator's order.
    channels : int
        Channels a subband.
    integrations : int
        Integrations a tile.
    """

    antennas: np.ndarray
    channels: int = dsa110.N_CHANNELS_SUBBAND
    integrations: int = dsa110.N_INTEGRATIONS

    @classmethod
    def choose(cls, antennas: int = 96, channels: int = 48, integrations: int = 24) -> Instrument:
        """Return an instrument with fewer antennas, channels or integrations than the real one."""
        if dsa110.N_CHANNELS_SUBBAND % channels:
            raise ConfigError(f"channels: must divide {dsa110.N_CHANNELS_SUBBAND}: {channels}")
        return cls(antenna_order(antennas), channels, integrations)

    @cached_property
    def freq_hz(self) -> np.ndarray:
        """Channel centres, shape (16, channels), descending throughout, Hz."""
        fine = np.stack([dsa110.subband_frequencies(sb) for sb in range(dsa110.N_SUBBANDS)])
        return fine.reshape(dsa110.N_SUBBANDS, self.channels, -1).mean(-1)

    @property
    def channel_width_hz(self) -> float:
        """Channel width, positive, Hz."""
        return dsa110.CHANNEL_WIDTH_HZ * dsa110.N_CHANNELS_SUBBAND / self.channels

    @property
    def integration_s(self) -> float:
        """Integration time, s."""
        return dsa110.TILE_S / self.integrations

    @cached_property
    def local_m(self) -> np.ndarray:
        """Antenna positions (n_ant, 3): towards HA 0 on the equator, east, and the pole, m."""
        offset = dsa110.stations().itrf_m[self.antennas] - reference_itrf()
        cos, sin = np.cos(dsa110.LONGITUDE_RAD), np.sin(dsa110.LONGITUDE_RAD)
        return offset @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])

    @cached_property
    def baselines(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions in `antennas` of each baseline's two antennas: (0,0) (0,1) (1,1) (0,2) ..."""
        second, first = np.tril_indices(len(self.antennas))
        return first, second

    def times_mjd(self, start_mjd: float) -> np.ndarray:
        """Centres of the integrations of a tile that starts at `start_mjd`."""
        return start_mjd + (np.arange(self.integrations) + 0.5) * self.integration_s / DAY_S

    def uvw_m(self, dec_rad: float) -> np.ndarray:
        """Second minus first antenna (n_baseline, 3) in uvw towards HA 0 at a declination, m."""
        first, second = self.baselines
        x, y, z = (self.local_m[second] - self.local_m[first]).T
        cos, sin = np.cos(dec_rad), np.sin(dec_rad)
        return np.stack([y, cos * z - sin * x, cos * x + sin * z], -1)

    def noise_jy(self, sefd_jy: float) -> float:
        """Rms of real and of imaginary part of a visibility of one polarisation, Jy."""
        return sefd_jy / np.sqrt(2 * self.channel_width_hz * self.integration_s)


def reference_itrf() -> np.ndarray:
    """Return the geocentric position of the reference point, m."""
    return np.array([axis.to_value("m") for axis in dsa110.location().geocentric])


def antenna_order(count: int = 96) -> np.ndarray:
    """Return `count` active antennas in the correlator's order, evenly from arms and outriggers."""
    table = dsa110.stations()
    active = np.flatnonzero(table.active)
    arms = np.array(table.arms)[active]
    chosen: list[int] = []
    for arm in dict.fromkeys(arms):
        members = active[arms == arm]
        share = max(1, round(count * len(members) / len(active)))
        chosen += members[np.linspace(0, len(members) - 1, share).round().astype(int)].tolist()
    rest = [a for a in active.tolist() if a not in chosen]
    chosen = (chosen + rest)[:count] if len(chosen) < count else chosen[-count:]
    head = [a for a in _OUT_OF_ORDER if a in active]
    body = [a for a in sorted(chosen) if a not in head]
    return np.array(head + body[len(body) + len(head) - count :])


# --------------------------------------------------------------------------------------------------
# Directions


def apparent_directions(
    ra_deg: ArrayLike, dec_deg: ArrayLike, mjd: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return hour angle and apparent declination, rad, of ICRS directions at the telescope.

    Precession, nutation, aberration (annual and diurnal), light deflection and polar motion are
    astropy's; no refraction.
    """
    from astropy.coordinates import HADec, SkyCoord

    sky = SkyCoord(np.atleast_1d(ra_deg), np.atleast_1d(dec_deg), unit="deg")
    seen = sky.transform_to(HADec(obstime=_time(mjd), location=dsa110.location()))
    return seen.ha.rad, seen.dec.rad


def meridian_icrs(dec_app_deg: float, mjd: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the ICRS directions, deg, of hour angle 0 at an apparent declination at some times."""
    import astropy.units as u
    from astropy.coordinates import ICRS, HADec

    frame = HADec(
        ha=np.zeros(np.shape(mjd)) * u.deg,
        dec=np.full(np.shape(mjd), dec_app_deg) * u.deg,
        obstime=_time(mjd),
        location=dsa110.location(),
    )
    sky = frame.transform_to(ICRS())
    return sky.ra.deg, sky.dec.deg


def transit_mjd(ra_deg: float, dec_deg: float, day_mjd: float) -> float:
    """Return the first transit (apparent hour angle 0) of a direction after `day_mjd`."""
    mjd = day_mjd
    for n in range(4):
        ha = apparent_directions(ra_deg, dec_deg, mjd)[0][0]
        turns = (-ha / (2 * np.pi)) % 1.0 if n == 0 else -ha / (2 * np.pi)
        mjd += turns * SIDEREAL_DAY
    return mjd


def _time(mjd: ArrayLike) -> Time:
    from astropy.time import Time

    dsa110.location()  # sets the Earth-rotation data to those installed
    return Time(mjd, format="mjd", scale="utc")


# --------------------------------------------------------------------------------------------------
# Sky


@dataclass(frozen=True)
class Source:
    """A point source, unpolarised.

    Attributes
    ----------
    name, ra_deg, dec_deg
        Name and ICRS position, deg.
    flux_jy, alpha : float
        Quiescent flux at 1.4 GHz, Jy, and spectral index.
    kind : str
        ``constant``, ``ese``, ``flare`` or ``calibrator``.
    amplitude, peak_mjd, width_days : float
        Light curve ``1 + amplitude exp(-((t - peak) / width)^2 / 2)``.
    spectrum : Calibrator, optional
        Used in place of the power law.
    """

    name: str
    ra_deg: float
    dec_deg: float
    flux_jy: float
    alpha: float = catalogue.DEFAULT_ALPHA
    kind: str = "constant"
    amplitude: float = 0.0
    peak_mjd: float = 0.0
    width_days: float = 1.0
    spectrum: Calibrator | None = None

    @classmethod
    def from_calibrator(cls, calibrator: Calibrator) -> Source:
        """Return a calibrator as a source; flux and spectral index are those at 1.4 GHz."""
        low, mid, high = calibrator.flux(catalogue.REFERENCE_HZ * np.array([0.99, 1.0, 1.01]))
        return cls(
            calibrator.name,
            calibrator.ra_deg,
            calibrator.dec_deg,
            float(mid),
            float(np.log(high / low) / np.log(1.01 / 0.99)),
            "calibrator",
            spectrum=calibrator,
        )

    def factor(self, mjd: float) -> float:
        """Return flux over quiescent flux at some time."""
        return 1 + self.amplitude * np.exp(-0.5 * ((mjd - self.peak_mjd) / self.width_days) ** 2)

    def flux(self, freq_hz: ArrayLike, mjd: float) -> Any:
        """Return the flux density, Jy, at frequencies in Hz and a time."""
        if self.spectrum is not None:
            return self.spectrum.flux(freq_hz) * self.factor(mjd)
        return catalogue.flux_at(self.flux_jy, self.alpha, freq_hz) * self.factor(mjd)


Sky = Sequence[Source]


# --------------------------------------------------------------------------------------------------
# Visibilities


@dataclass(frozen=True)
class Tracks:
    """Sources as a tile sees them, at each instant (n_time * sub_integrations)."""

    path_m: np.ndarray  # (n_instant, n_ant, n_source): r . (s - s0)
    sine: np.ndarray  # (n_instant, n_source): sine of the distance from the pointing
    sky: tuple[Source, ...]
    mjd: np.ndarray  # (n_instant,)


def trace(
    instrument: Instrument,
    sky: Sky,
    start_mjd: float,
    dec_app_deg: float,
    pointing_offset_deg: float,
    sub_integrations: int,
) -> Tracks:
    """Return where a tile's sources are at each instant, those left out that nothing sees.

    Parameters as for `predict`.
    """
    step = instrument.integration_s / sub_integrations
    within = (np.arange(sub_integrations) - (sub_integrations - 1) / 2) * step
    centres = instrument.times_mjd(start_mjd)
    mjd = (centres[:, None] + within / DAY_S).ravel()
    # Inside an integration the correlator tracks at the sidereal rate; its beam stays put.
    tracked_ha = np.tile(within * dsa110.EARTH_RATE_RAD_S, len(centres))
    dec = np.deg2rad(dec_app_deg)
    pointing = hour_angle_vector(np.zeros(1), np.deg2rad([dec_app_deg + pointing_offset_deg]))[0]
    ra = np.array([s.ra_deg for s in sky])
    directions = np.stack(
        [hour_angle_vector(*apparent_directions(ra, [s.dec_deg for s in sky], t)) for t in mjd]
    )
    chord2 = ((directions - pointing) ** 2).sum(-1)
    sine = np.where(chord2 > 2, 1e9, np.sqrt(chord2 * np.clip(1 - chord2 / 4, 0, None)))
    flux = np.array([s.flux(instrument.freq_hz.min(), mjd[0]) for s in sky])
    ends = np.array([instrument.freq_hz.min(), instrument.freq_hz.max()])[:, None, None]
    seen = beam.airy_from_sine(sine, ends).max((0, 1)) * flux > _PRUNE_JY
    centre = hour_angle_vector(tracked_ha, np.full(len(mjd), dec))
    path = np.einsum("ad,tsd->tas", instrument.local_m, directions[:, seen] - centre[:, None])
    return Tracks(path, sine[:, seen], tuple(s for s, ok in zip(sky, seen, strict=True) if ok), mjd)


def correlate(
    tracks: Tracks, k: int, sub: int, freq_hz: np.ndarray, drift: np.ndarray
) -> np.ndarray:
    """Return the visibilities of one integration, (n_chan, n_ant, n_ant): first, second antenna."""
    total = np.zeros((), np.complex64)
    for t in range(k * sub, (k + 1) * sub):
        seen = beam.airy_from_sine(tracks.sine[t], freq_hz[:, None])
        flux = np.array([s.flux(freq_hz, tracks.mjd[t]) for s in tracks.sky]).T
        voltage = phasors(tracks.path_m[t], freq_hz) * drift[:, None]
        weighted = (flux * seen / sub).astype(np.float32)[:, None] * voltage.conj()
        total = total + weighted @ voltage.transpose(0, 2, 1)
    return total


def predict(
    instrument: Instrument,
    sky: Sky,
    start_mjd: float,
    dec_app_deg: float,
    *,
    subbands: Sequence[int] = range(dsa110.N_SUBBANDS),
    pointing_offset_deg: float = 0.0,
    sub_integrations: int = 1,
) -> np.ndarray:
    """Return noiseless, gainless visibilities of a tile, as the files order them.

    Parameters
    ----------
    instrument : Instrument
        Antennas, channels, integrations.
    sky : sequence of Source
        Point sources.
    start_mjd, dec_app_deg : float
        Start of the tile (UTC) and apparent declination of its pointing, deg.
    subbands : sequence of int
        Which subbands.
    pointing_offset_deg : float
        How far north of `dec_app_deg` the dishes point, deg.
    sub_integrations : int
        Instants averaged in each integration.

    Returns
    -------
    complex64 (n_time, n_baseline, n_subband * channels)
        Jy; both polarisations alike.
    """
    tracks = trace(instrument, sky, start_mjd, dec_app_deg, pointing_offset_deg, sub_integrations)
    first, second = instrument.baselines
    drift = np.ones(len(instrument.antennas), np.complex64)
    return np.concatenate(
        [
            np.stack(
                [
                    correlate(tracks, k, sub_integrations, instrument.freq_hz[sb], drift)[
                        :, first, second
                    ].T
                    for k in range(instrument.integrations)
                ]
            )
            for sb in subbands
        ],
        -1,
    )


# --------------------------------------------------------------------------------------------------
# Files


def write_uvh5(
    path: Path,
    instrument: Instrument,
    subband: int,
    start_mjd: float,
    dec_app_deg: float,
    data: np.ndarray,
    applied_delays_ns: str,
) -> None:
    """Write one subband of one tile as the correlator does, under ``..._incomplete.hdf5`` at first.

    Parameters
    ----------
    path : Path
        Name of the finished file.
    instrument : Instrument
        Antennas, channels, integrations.
    subband : int
        0 (highest) to 15.
    start_mjd, dec_app_deg : float
        Start of the data (UTC), apparent declination of the pointing, deg.
    data : (n_time, n_baseline, channels, 2) complex64 array
        Raw visibilities.
    applied_delays_ns : str
        Two integers for each of the 117 inputs.
    """
    import h5py

    first, second = instrument.baselines
    n_time, n_baseline, n_chan, n_pol = data.shape
    n_blt = n_time * n_baseline
    n_stations = len(dsa110.stations().names)
    dec_rad = np.deg2rad(dec_app_deg)
    times_jd = MJD_ZERO_JD + instrument.times_mjd(start_mjd)
    unfinished = path.with_name(path.name.replace(".hdf5", "_incomplete.hdf5"))
    with h5py.File(unfinished, "w") as file:
        header = file.create_group("Header")
        header["latitude"] = np.rad2deg(dsa110.LATITUDE_RAD)
        header["longitude"] = np.rad2deg(dsa110.LONGITUDE_RAD)
        header["altitude"] = dsa110.HEIGHT_M
        header["telescope_name"] = np.bytes_(dsa110.RAW_NAME)
        header["instrument"] = np.bytes_("DSA")
        header["object_name"] = np.bytes_("search")
        header["history"] = np.bytes_("simulated by dsa110-contimg")
        header["phase_type"] = np.bytes_("drift")
        header["phase_center_app_dec"] = dec_rad
        header["Nants_data"] = len(instrument.antennas)
        header["Nants_telescope"] = n_stations
        header["antenna_diameters"] = np.full(n_stations, dsa110.DISH_DIAMETER_M)
        header["antenna_names"] = np.array([str(n + 1) for n in range(n_stations)], "S4")
        header["antenna_numbers"] = np.arange(n_stations)
        header["antenna_positions"] = dsa110.stations().itrf_m - reference_itrf()
        header["Nbls"] = n_baseline
        header["Nblts"] = n_blt
        header["Nfreqs"] = n_chan
        header["Npols"] = n_pol
        header["Ntimes"] = n_time
        header["Nspws"] = 1
        header["spw_array"] = np.array([1])
        header["freq_array"] = instrument.freq_hz[subband][None]
        header["channel_width"] = instrument.channel_width_hz
        header["polarization_array"] = np.array(dsa110.POLARIZATIONS)
        extra = header.create_group("extra_keywords")
        extra["phase_center_dec"] = dec_rad
        extra["ha_phase_center"] = 0.0
        extra["phase_center_epoch"] = "HADEC"
        extra["fs_table"] = np.bytes_("fringestopping_table.npz")
        extra["applied_delays_ns"] = np.bytes_(applied_delays_ns)
        for name, values in {
            "ant_1_array": np.tile(instrument.antennas[first], n_time),
            "ant_2_array": np.tile(instrument.antennas[second], n_time),
            "uvw_array": np.tile(instrument.uvw_m(dec_rad).astype(np.float32), (n_time, 1)),
            "time_array": np.repeat(times_jd, n_baseline),
            "integration_time": np.full(n_blt, instrument.integration_s),
        }.items():
            _append(header, name, values)
        samples = np.full(data.shape, dsa110.SAMPLES_PER_INTEGRATION, np.float32)
        samples[np.isnan(data.real)] = 0
        bulk = file.create_group("Data")
        for name, values in {
            "visdata": data,
            "flags": np.zeros(data.shape, bool),
            "nsamples": samples,
        }.items():
            _append(bulk, name, values.reshape(n_blt, 1, n_chan, n_pol))
    os.replace(unfinished, path)


def _append(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Write a dataset that begins empty and grows, which gives it the correlator's small chunks."""
    shape = values.shape[1:]
    dataset = group.create_dataset(
        name, (0, *shape), maxshape=(None, *shape), dtype=values.dtype, chunks=True
    )
    dataset.resize(len(values), axis=0)
    dataset[:] = values


def file_names(folder: Path, start_mjd: float, group: int, rng: np.random.Generator) -> list[Path]:
    """Return the names of a group's files, each with the clock of its own host.

    Within a group they differ by seconds as a rule, now and then by 17 s, rarely by more than a
    minute.
    """
    spread = {5: 17, 11: 72}.get(group % 16, int(rng.integers(0, 3)))
    late = rng.integers(0, spread + 1, dsa110.N_SUBBANDS)
    opened = utc_of_mjd(start_mjd) + dt.timedelta(seconds=1.5)
    return [
        folder / f"{opened + dt.timedelta(seconds=int(s)):%Y-%m-%dT%H:%M:%S}_sb{n:02d}.hdf5"
        for n, s in enumerate(late)
    ]
