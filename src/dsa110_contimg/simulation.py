"""Simulated observations: UVH5 files of a known sky, as the correlator writes them.

The measurement equation is that of the files: with ``r`` the antenna positions, ``s`` the apparent
direction of a source and ``s0`` that of the meridian at the pointing declination,

    V_ab = conj(g_a) g_b sum_s S_s A_s exp(2 pi i nu / c (r_b - r_a) . (s - s0)) + noise,

evaluated for every integration and channel. The sum factorises by antenna, so it is a product of
small matrices over the sources. What went in is written beside the data: sources, gains, RFI.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime as dt
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from . import beam, catalogs, telescope
from .catalogs import Calibrator
from .config import Fraction, NonNegative, Options, Positive, add_options, from_args
from .errors import ConfigError, DataError
from .products import group_id, write_text
from .telescope import C_M_S

__all__ = [
    "PRESETS",
    "Instrument",
    "SimulationOptions",
    "Sky",
    "Source",
    "Truth",
    "antenna_order",
    "apparent_directions",
    "meridian_icrs",
    "predict",
    "simulate",
    "transit_mjd",
    "write_group",
]

_MJD0_JD = 2400000.5
_SIDEREAL_DAY = 0.99726956632908
#: Antennas that the correlator has out of order: every baseline to them comes as (high, low).
_OUT_OF_ORDER = (115, 101)
#: Sources that never contribute more than this to any visibility are left out of the sum, Jy.
_PRUNE_JY = 1e-6


class SimulationOptions(Options):
    """A simulated season: instrument, sky, and what goes wrong."""

    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of all random numbers; the same options and seed give the same files."""
    calibrator: str = "3C48"
    """Calibrator whose transit the first tile of each night holds; empty for none."""
    ra_deg: Annotated[float, Field(ge=0, lt=360)] = 24.0
    """Centre of each night's first tile where there is no calibrator, ICRS, deg."""
    dec_deg: Annotated[float, Field(ge=-90, le=90)] | None = None
    """Apparent declination of the pointing, deg; that of the calibrator when absent."""
    date: str = "2026-02-03"
    """First night (UTC day)."""
    nights: Annotated[int, Field(ge=1)] = 1
    """Number of consecutive nights, all at the same sidereal time."""
    tiles: Annotated[int, Field(ge=1)] = 1
    """Contiguous tiles a night."""
    antennas: Annotated[int, Field(ge=3, le=96)] = 96
    """Antennas, taken evenly from arms and outriggers."""
    channels: Annotated[int, Field(ge=1, le=48)] = 48
    """Channels a subband; fewer are wider, the band stays."""
    integrations: Annotated[int, Field(ge=1)] = 24
    """Integrations a tile; fewer are longer, the tile stays 309 s."""
    sub_integrations: Annotated[int, Field(ge=1)] = 1
    """Instants averaged in an integration: 1 leaves time smearing out."""
    sources: Annotated[int, Field(ge=0)] = 100
    """Random sources in the strip."""
    min_flux_jy: Positive = 0.01
    """Faintest random source, Jy at 1.4 GHz."""
    max_flux_jy: Positive = 2.0
    """Brightest random source, Jy at 1.4 GHz."""
    half_width_deg: Positive = 1.5
    """Sources lie within this of the strip's declination and beyond its ends, deg."""
    neighbour_share: Fraction = 0.0
    """Flux of three neighbours of the calibrator together, as a share of its own."""
    variables: bool = True
    """Add an extreme scattering event and a flare, both on the last night but one."""
    noise: bool = True
    """Thermal noise and system temperature."""
    sefd_jy: Positive = telescope.SEFD_JY
    """System equivalent flux density, Jy."""
    gains: bool = True
    """Antenna gains, delays and bandpasses; without them a raw unit is a Jy."""
    gain_scatter: Fraction = 0.1
    """Scatter of the gain amplitudes about 0.07."""
    delay_ns: NonNegative = 2.0
    """Scatter of the delays, ns."""
    edge_loss: tuple[Fraction, Fraction] = (0.20, 0.33)
    """Least and greatest loss of amplitude at the edges of a subband."""
    night_scatter: NonNegative = 0.02
    """Scatter of the gains from night to night: fraction in amplitude, radians / 5 in phase."""
    drift_amplitude: NonNegative = 0.0
    """Scatter of the antennas' amplitude drifts, fraction an hour."""
    drift_phase_deg: NonNegative = 0.0
    """Scatter of the antennas' phase drifts, deg an hour."""
    rfi: bool = True
    """Interference: persistent and intermittent narrow band, broad-band burst, satellite."""
    dead_antennas: Annotated[int, Field(ge=0)] = 2
    """Dead antennas, alternately all zeros and noise without sky."""
    pointing_offset_deg: float = 0.0
    """How far north of the header's declination the dishes really point, deg."""
    last_integration: Literal["data", "nan", "zero"] = "data"
    """What the last integration of the last tile of a night holds."""
    gap_s: NonNegative = 0.0
    """Pause before the last tile of a night, s (restarts take 100 to 300)."""
    missing_subbands: Annotated[int, Field(ge=0, le=15)] = 0
    """Subbands, lowest frequencies first, that never arrive for the last tile of a night."""
    threads: Annotated[int, Field(ge=1)] = 2
    """Subbands made at the same time."""


#: A season for the demonstration, one small night for tests, one group as large as the real ones.
PRESETS = {
    "demo": SimulationOptions(
        nights=3,
        tiles=4,
        antennas=44,
        channels=6,
        integrations=12,
        sources=50,
        min_flux_jy=0.05,
        drift_amplitude=0.01,
        drift_phase_deg=3.0,
    ),
    "test": SimulationOptions(
        tiles=2,
        antennas=24,
        channels=4,
        integrations=8,
        sources=12,
        min_flux_jy=0.1,
        variables=False,
        dead_antennas=1,
    ),
    "full": SimulationOptions(variables=False),
}
#: Settings that suit a preset's data, for the configuration written beside them.
_PRESET_CONFIG = {
    "demo": {"imaging": {"size_px": 1920, "cell_arcsec": 6.0}},
    "test": {"imaging": {"size_px": 1536, "cell_arcsec": 6.0}},
    "full": {},
}


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
    channels: int = telescope.N_CHANNELS_SUBBAND
    integrations: int = telescope.N_INTEGRATIONS

    @classmethod
    def choose(cls, antennas: int = 96, channels: int = 48, integrations: int = 24) -> Instrument:
        """Return an instrument with fewer antennas, channels or integrations than the real one."""
        if telescope.N_CHANNELS_SUBBAND % channels:
            raise ConfigError(f"channels: must divide {telescope.N_CHANNELS_SUBBAND}: {channels}")
        return cls(antenna_order(antennas), channels, integrations)

    @cached_property
    def freq_hz(self) -> np.ndarray:
        """Channel centres, shape (16, channels), descending throughout, Hz."""
        fine = np.stack([telescope.subband_frequencies(sb) for sb in range(telescope.N_SUBBANDS)])
        return fine.reshape(telescope.N_SUBBANDS, self.channels, -1).mean(-1)

    @property
    def channel_width_hz(self) -> float:
        """Channel width, positive, Hz."""
        return telescope.CHANNEL_WIDTH_HZ * telescope.N_CHANNELS_SUBBAND / self.channels

    @property
    def integration_s(self) -> float:
        """Integration time, s."""
        return telescope.TILE_S / self.integrations

    @cached_property
    def local_m(self) -> np.ndarray:
        """Antenna positions (n_ant, 3): towards HA 0 on the equator, east, and the pole, m."""
        offset = telescope.stations().itrf_m[self.antennas] - reference_itrf()
        cos, sin = np.cos(telescope.LONGITUDE_RAD), np.sin(telescope.LONGITUDE_RAD)
        return offset @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])

    @cached_property
    def baselines(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions in `antennas` of each baseline's two antennas: (0,0) (0,1) (1,1) (0,2) ..."""
        second, first = np.tril_indices(len(self.antennas))
        return first, second

    def times_mjd(self, start_mjd: float) -> np.ndarray:
        """Centres of the integrations of a tile that starts at `start_mjd`."""
        return start_mjd + (np.arange(self.integrations) + 0.5) * self.integration_s / 86400

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
    return np.array([axis.to_value("m") for axis in telescope.location().geocentric])


def antenna_order(count: int = 96) -> np.ndarray:
    """Return `count` active antennas in the correlator's order, evenly from arms and outriggers."""
    table = telescope.stations()
    active = np.flatnonzero(table.active)
    arms = np.array(table.arms)[active]
    chosen: list[int] = []
    for arm in dict.fromkeys(arms):
        members = active[arms == arm]
        share = max(1, round(count * len(members) / len(active)))
        chosen += list(members[np.linspace(0, len(members) - 1, share).round().astype(int)])
    rest = [a for a in active if a not in chosen]
    chosen = (chosen + rest)[:count] if len(chosen) < count else chosen[-count:]
    head = [a for a in _OUT_OF_ORDER if a in active]
    body = [a for a in sorted(chosen) if a not in head]
    return np.array(head + body[len(body) + len(head) - count :])


# --------------------------------------------------------------------------------------------------
# Directions


def apparent_directions(ra_deg, dec_deg, mjd: float) -> tuple[np.ndarray, np.ndarray]:
    """Return hour angle and apparent declination, rad, of ICRS directions at the telescope.

    Precession, nutation, aberration (annual and diurnal), light deflection and polar motion are
    astropy's; no refraction.
    """
    from astropy.coordinates import HADec, SkyCoord

    sky = SkyCoord(np.atleast_1d(ra_deg), np.atleast_1d(dec_deg), unit="deg")
    seen = sky.transform_to(HADec(obstime=_time(mjd), location=telescope.location()))
    return seen.ha.rad, seen.dec.rad


def meridian_icrs(dec_app_deg: float, mjd) -> tuple[np.ndarray, np.ndarray]:
    """Return the ICRS directions, deg, of hour angle 0 at an apparent declination at some times."""
    import astropy.units as u
    from astropy.coordinates import ICRS, HADec

    frame = HADec(
        ha=np.zeros(np.shape(mjd)) * u.deg,
        dec=np.full(np.shape(mjd), dec_app_deg) * u.deg,
        obstime=_time(mjd),
        location=telescope.location(),
    )
    sky = frame.transform_to(ICRS())
    return sky.ra.deg, sky.dec.deg


def transit_mjd(ra_deg: float, dec_deg: float, day_mjd: float) -> float:
    """Return the first transit (apparent hour angle 0) of a direction after `day_mjd`."""
    mjd = day_mjd
    for n in range(4):
        ha = apparent_directions(ra_deg, dec_deg, mjd)[0][0]
        turns = (-ha / (2 * np.pi)) % 1.0 if n == 0 else -ha / (2 * np.pi)
        mjd += turns * _SIDEREAL_DAY
    return mjd


def _time(mjd):
    from astropy.time import Time

    telescope.location()  # sets the Earth-rotation data to those installed
    return Time(mjd, format="mjd", scale="utc")


def _cartesian(ha: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return unit vectors in the axes of `Instrument.local_m`."""
    return np.stack([np.cos(dec) * np.cos(ha), -np.cos(dec) * np.sin(ha), np.sin(dec)], -1)


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
    alpha: float = catalogs.DEFAULT_ALPHA
    kind: str = "constant"
    amplitude: float = 0.0
    peak_mjd: float = 0.0
    width_days: float = 1.0
    spectrum: Calibrator | None = None

    @classmethod
    def from_calibrator(cls, calibrator: Calibrator) -> Source:
        """Return a calibrator as a source; flux and spectral index are those at 1.4 GHz."""
        low, mid, high = calibrator.flux(catalogs.REFERENCE_HZ * np.array([0.99, 1.0, 1.01]))
        return cls(
            calibrator.name,
            calibrator.ra_deg,
            calibrator.dec_deg,
            float(mid),
            float(np.log(high / low) / np.log(1.01 / 0.99)),
            "calibrator",
            spectrum=calibrator,
        )

    def factor(self, mjd):
        """Return flux over quiescent flux at some time."""
        return 1 + self.amplitude * np.exp(-0.5 * ((mjd - self.peak_mjd) / self.width_days) ** 2)

    def flux(self, freq_hz, mjd: float):
        """Return the flux density, Jy, at frequencies in Hz and a time."""
        if self.spectrum is not None:
            return self.spectrum.flux(freq_hz) * self.factor(mjd)
        return catalogs.flux_at(self.flux_jy, self.alpha, freq_hz) * self.factor(mjd)


Sky = Sequence[Source]


def make_sky(options: SimulationOptions, plan: Plan) -> list[Source]:
    """Return the sources of a strip: the calibrator, random ones, and variable ones.

    The random ones follow N(>S) proportional to 1/S, and lie at least 3 arcmin from one another.
    """
    rng = np.random.default_rng([options.seed, 1])
    sky = [Source.from_calibrator(plan.calibrator)] if plan.calibrator else []
    ra, dec = meridian_icrs(plan.dec_app_deg, np.array(plan.starts[0]) + telescope.TILE_S / 172800)
    if plan.calibrator and options.neighbour_share:
        sky += _neighbours(sky[0], options.neighbour_share, rng)
    if options.variables:
        sky += _variables(options, plan, ra, dec)
    span = (ra[-1] - ra[0]) % 360
    margin = options.half_width_deg / np.cos(np.deg2rad(dec[0]))
    low, high = 1 / options.max_flux_jy, 1 / options.min_flux_jy
    for _ in range(options.sources):
        while True:
            position = (
                float((ra[0] + rng.uniform(-margin, span + margin)) % 360),
                float(dec[0] + rng.uniform(-1, 1) * options.half_width_deg),
            )
            if _clear(sky, position):
                break
        flux = float(1 / rng.uniform(low, high))
        alpha = float(np.clip(rng.normal(catalogs.DEFAULT_ALPHA, 0.2), -1.3, 0.3))
        sky.append(Source(catalogs.iau_name(*position), *position, flux, alpha))
    return sky


def _clear(sky: Sky, position: tuple[float, float]) -> bool:
    ra, dec = np.array([(s.ra_deg, s.dec_deg) for s in sky]).reshape(-1, 2).T
    return bool(np.all(beam.separation_rad(ra, dec, *position) > np.deg2rad(0.05)))


def _neighbours(centre: Source, share: float, rng: np.random.Generator) -> list[Source]:
    """Return three sources about the calibrator with a share of its flux."""
    found = []
    for angle, distance, part in zip(
        rng.uniform(0, 2 * np.pi) + 2 * np.pi / 3 * np.arange(3),
        (0.35, 0.6, 0.9),
        (0.5, 0.3, 0.2),
        strict=True,
    ):
        dec = centre.dec_deg + distance * np.sin(angle)
        ra = (centre.ra_deg + distance * np.cos(angle) / np.cos(np.deg2rad(dec))) % 360
        flux = centre.flux_jy * share * part
        found.append(Source(catalogs.iau_name(ra, dec), float(ra), float(dec), float(flux)))
    return found


def _variables(options: SimulationOptions, plan: Plan, ra, dec) -> list[Source]:
    """Return a deep dip and a weaker flare, away from the calibrator, both in well-seen places."""
    night = max(0, len(plan.starts) - 2)
    tile = len(ra) // 2
    peak = float(np.mean(plan.starts[night]))
    where = [(ra[tile] % 360, dec[tile] + 0.3), (ra[-1] % 360, dec[-1] - 0.35)]
    common = {"peak_mjd": peak, "width_days": 0.35}
    return [
        Source(
            catalogs.iau_name(*where[0]), *map(float, where[0]), 0.6, -0.4, "ese", -0.55, **common
        ),
        Source(
            catalogs.iau_name(*where[1]), *map(float, where[1]), 0.25, -0.2, "flare", 0.35, **common
        ),
    ]


# --------------------------------------------------------------------------------------------------
# Gains and interference


def make_gains(instrument: Instrument, options: SimulationOptions, night: int) -> np.ndarray:
    """Return the gains of a night, complex (n_ant, 16 * channels, 2), channels as in the files."""
    n_ant, freq = len(instrument.antennas), instrument.freq_hz
    if not options.gains:
        return np.ones((n_ant, freq.size, 2), complex)
    rng = np.random.default_rng([options.seed, 2])
    shape = (n_ant, 1, 1, 2)
    amplitude = 0.07 * np.clip(1 + options.gain_scatter * rng.standard_normal(shape), 0.5, 1.5)
    phase = rng.uniform(-np.pi, np.pi, shape)
    delay_s = 1e-9 * options.delay_ns * rng.standard_normal(shape)
    edge = rng.uniform(*options.edge_loss, (n_ant, telescope.N_SUBBANDS, 1, 2))
    ripple = (
        0.03 * rng.standard_normal(shape),
        rng.uniform(20e6, 90e6, shape),
        rng.uniform(0, 6, shape),
    )
    place = np.linspace(-1, 1, freq.shape[1]) if freq.shape[1] > 1 else np.zeros(1)
    offset = (freq - freq.mean())[None, :, :, None]
    bandpass = 1 - edge * np.abs(place[:, None]) ** 6
    bandpass = bandpass * (1 + ripple[0] * np.sin(2 * np.pi * offset / ripple[1] + ripple[2]))
    gains = amplitude * bandpass * np.exp(1j * (phase + 2 * np.pi * delay_s * offset))
    rng = np.random.default_rng([options.seed, 3, night])
    scatter = options.night_scatter * rng.standard_normal((2, *shape))
    return (gains * (1 + scatter[0]) * np.exp(5j * scatter[1])).reshape(n_ant, -1, 2)


def make_drift(options: SimulationOptions, night: int, n_ant: int, hours: np.ndarray) -> np.ndarray:
    """Return the factors on the gains, complex (n_time, n_ant), some hours into a night."""
    rng = np.random.default_rng([options.seed, 4, night])
    amplitude = options.drift_amplitude * rng.standard_normal(n_ant)
    phase = np.deg2rad(options.drift_phase_deg) * rng.standard_normal(n_ant)
    hours = np.asarray(hours)[:, None]
    return (1 + amplitude * hours) * np.exp(1j * phase * hours)


def dead_antennas(options: SimulationOptions, instrument: Instrument) -> dict[int, str]:
    """Return the dead antennas, number -> ``zeros`` or ``noise``; outriggers stay alive."""
    rng = np.random.default_rng([options.seed, 5])
    arms = np.array(telescope.stations().arms)[instrument.antennas]
    candidates = instrument.antennas[arms != "outrigger"]
    chosen = rng.choice(candidates, min(options.dead_antennas, len(candidates)), replace=False)
    return {int(a): ("zeros", "noise")[n % 2] for n, a in enumerate(chosen)}


@dataclass(frozen=True)
class Interference:
    """Interference of one tile.

    Attributes
    ----------
    power_jy : (n_time, n_chan) array
        Its strength in a cross-correlation before gains, Jy; 0 where there is none.
    voltage : (n_ant,) array
        Factor with which each antenna picks it up.
    direction : (3,) array
        Where it comes from, in the axes of `Instrument.local_m`.
    """

    power_jy: np.ndarray
    voltage: np.ndarray
    direction: np.ndarray


def make_rfi(instrument: Instrument, options: SimulationOptions, group: int) -> Interference:
    """Return the interference of a tile: four kinds, 8 to 80 times the noise of a visibility."""
    n_time, n_chan, n_ant = (
        instrument.integrations,
        instrument.freq_hz.size,
        len(instrument.antennas),
    )
    season = np.random.default_rng([options.seed, 6])
    rng = np.random.default_rng([options.seed, 7, group])
    power = np.zeros((n_time, n_chan))
    azimuth = season.uniform(0, 2 * np.pi)
    direction = np.array(
        [
            -np.sin(telescope.LATITUDE_RAD) * np.cos(azimuth),
            np.sin(azimuth),
            np.cos(telescope.LATITUDE_RAD) * np.cos(azimuth),
        ]
    )
    voltage = np.exp(0.2 * season.standard_normal(n_ant))
    if options.rfi:
        sigma = instrument.noise_jy(options.sefd_jy)
        fixed = season.choice(n_chan, 3, replace=False)
        power[:, fixed[:2]] += sigma * season.uniform(20, 80, 2)
        power[rng.random(n_time) < 0.3, fixed[2]] += sigma * 40
        when, width = rng.integers(n_time), max(1, n_chan // 6)
        start = rng.integers(n_chan - width + 1)
        power[when, start : start + width] += sigma * rng.uniform(8, 30)
        if rng.random() < 0.5:
            power += sigma * _satellite(n_time, n_chan, rng)
    return Interference(power, voltage, direction)


def _satellite(n_time: int, n_chan: int, rng: np.random.Generator) -> np.ndarray:
    """Return the track of a carrier that drifts through the band, rising and fading, 60 at most."""
    track = np.zeros((n_time, n_chan))
    times = np.arange(n_time)
    channel = rng.uniform(0, n_chan) + rng.uniform(-0.02, 0.02) * n_chan * (times - n_time / 2)
    strength = 60 * np.exp(-0.5 * ((times - rng.uniform(0, n_time)) / (n_time / 6)) ** 2)
    for k in np.flatnonzero(strength > 5):
        first = round(channel[k])
        track[k, max(first, 0) : max(first + max(1, n_chan // 256), 0)] = strength[k]
    return track


# --------------------------------------------------------------------------------------------------
# Visibilities


@dataclass(frozen=True)
class _Geometry:
    """Sources as a tile sees them, at each instant (n_time * sub_integrations)."""

    path_m: np.ndarray  # (n_instant, n_ant, n_source): r . (s - s0)
    sine: np.ndarray  # (n_instant, n_source): sine of the distance from the pointing
    sky: tuple[Source, ...]
    mjd: np.ndarray  # (n_instant,)


def _geometry(
    instrument: Instrument,
    sky: Sky,
    start_mjd: float,
    dec_app_deg: float,
    pointing_offset_deg: float,
    sub_integrations: int,
) -> _Geometry:
    step = instrument.integration_s / sub_integrations
    within = (np.arange(sub_integrations) - (sub_integrations - 1) / 2) * step
    centres = instrument.times_mjd(start_mjd)
    mjd = (centres[:, None] + within / 86400).ravel()
    # Inside an integration the correlator tracks at the sidereal rate; its beam stays put.
    tracked_ha = np.tile(within * telescope.EARTH_RATE_RAD_S, len(centres))
    dec = np.deg2rad(dec_app_deg)
    pointing = _cartesian(np.zeros(1), np.deg2rad([dec_app_deg + pointing_offset_deg]))[0]
    ra = np.array([s.ra_deg for s in sky])
    directions = np.stack(
        [_cartesian(*apparent_directions(ra, [s.dec_deg for s in sky], t)) for t in mjd]
    )
    chord2 = ((directions - pointing) ** 2).sum(-1)
    sine = np.where(chord2 > 2, 1e9, np.sqrt(chord2 * np.clip(1 - chord2 / 4, 0, None)))
    flux = np.array([s.flux(instrument.freq_hz.min(), mjd[0]) for s in sky])
    seen = beam.airy_from_sine(sine, instrument.freq_hz.min()).max(0) * flux > _PRUNE_JY
    centre = _cartesian(tracked_ha, np.full(len(mjd), dec))
    path = np.einsum("ad,tsd->tas", instrument.local_m, directions[:, seen] - centre[:, None])
    return _Geometry(
        path, sine[:, seen], tuple(s for s, ok in zip(sky, seen, strict=True) if ok), mjd
    )


def _phasors(path_m: np.ndarray, freq_hz: np.ndarray) -> np.ndarray:
    """Return exp(2 pi i nu path / c), complex64 (n_chan, *path.shape), by steps along channels.

    Frequencies are evenly spaced. Phases are reduced in double precision before they are cut.
    """

    def unit(turns):
        angle = (2 * np.pi * (turns - np.round(turns))).astype(np.float32)
        return np.cos(angle) + 1j * np.sin(angle)

    out = np.empty((len(freq_hz), *path_m.shape), np.complex64)
    out[0] = unit(path_m * (freq_hz[0] / C_M_S))
    if len(freq_hz) > 1:
        step = unit(path_m * ((freq_hz[1] - freq_hz[0]) / C_M_S))
        for c in range(1, len(freq_hz)):
            np.multiply(out[c - 1], step, out=out[c])
    return out


def _correlate(geometry: _Geometry, k: int, sub: int, freq_hz: np.ndarray, drift) -> np.ndarray:
    """Return the visibilities of one integration, (n_chan, n_ant, n_ant): first, second antenna."""
    total = 0
    for t in range(k * sub, (k + 1) * sub):
        seen = beam.airy_from_sine(geometry.sine[t], freq_hz[:, None])
        flux = np.array([s.flux(freq_hz, geometry.mjd[t]) for s in geometry.sky]).T
        phasors = _phasors(geometry.path_m[t], freq_hz) * drift[:, None]
        weighted = (flux * seen / sub).astype(np.float32)[:, None] * phasors.conj()
        total = total + weighted @ phasors.transpose(0, 2, 1)
    return total


def predict(
    instrument: Instrument,
    sky: Sky,
    start_mjd: float,
    dec_app_deg: float,
    *,
    subbands: Sequence[int] = range(telescope.N_SUBBANDS),
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
    geometry = _geometry(
        instrument, sky, start_mjd, dec_app_deg, pointing_offset_deg, sub_integrations
    )
    first, second = instrument.baselines
    drift = np.ones(len(instrument.antennas), np.complex64)
    return np.concatenate(
        [
            np.stack(
                [
                    _correlate(geometry, k, sub_integrations, instrument.freq_hz[sb], drift)[
                        :, first, second
                    ].T
                    for k in range(instrument.integrations)
                ]
            )
            for sb in subbands
        ],
        -1,
    )


@dataclass(frozen=True)
class _Tile:
    """All that a subband of a tile is made from."""

    instrument: Instrument
    options: SimulationOptions
    geometry: _Geometry
    gains: np.ndarray  # (n_ant, 16 * channels, 2)
    drift: np.ndarray  # (n_time, n_ant)
    rfi: Interference
    dec_app_deg: float
    number: int
    dead: dict[int, str] = field(default_factory=dict)
    last: str = "data"

    def subband(self, number: int) -> np.ndarray:
        """Return raw visibilities, complex64 (n_time, n_baseline, channels, 2)."""
        instrument, options = self.instrument, self.options
        freq = instrument.freq_hz[number]
        channels = slice(number * len(freq), (number + 1) * len(freq))
        first, second = instrument.baselines
        auto = first == second
        gains = self.gains[:, channels].astype(np.complex64)
        pair_gains = gains[first].conj() * gains[second]
        rng = np.random.default_rng([options.seed, 8, self.number, number])
        shape = (len(first), len(freq), 2)
        data = np.empty((instrument.integrations, *shape), np.complex64)
        if options.noise:
            noise_scale = (np.abs(pair_gains) * instrument.noise_jy(options.sefd_jy)).astype("f4")
        sky_gains = pair_gains * self._alive()[:, None, None]
        for k in range(instrument.integrations):
            sky = _correlate(self.geometry, k, options.sub_integrations, freq, self.drift[k])
            sky += self._interference(k, channels, freq)
            pairs = sky[:, first, second].T
            if options.noise:
                rng.standard_normal(dtype=np.float32, out=data[k].view(np.float32))
                data[k] *= noise_scale
                data[k, auto] = data[k, auto].real * np.float32(np.sqrt(2))
                data[k, auto] += options.sefd_jy * pair_gains[auto]
                data[k] += sky_gains * pairs[:, :, None]
            else:
                np.multiply(sky_gains, pairs[:, :, None], out=data[k])
            data[k].imag[auto] = 0
        self._spoil(data)
        return data

    def _alive(self) -> np.ndarray:
        """Return 0 for baselines of dead antennas, else 1."""
        alive = ~np.isin(self.instrument.antennas, list(self.dead))
        first, second = self.instrument.baselines
        return (alive[first] & alive[second]).astype(np.float32)

    def _interference(self, k: int, channels: slice, freq: np.ndarray) -> np.ndarray:
        power = self.rfi.power_jy[k, channels]
        if not power.any():
            return np.zeros(1, np.complex64)
        centre = _cartesian(np.zeros(1), np.deg2rad([self.dec_app_deg]))[0]
        path = self.instrument.local_m @ (self.rfi.direction - centre)
        voltage = self.rfi.voltage * _phasors(path, freq) * np.sqrt(power)[:, None]
        return (voltage.conj()[:, :, None] * voltage[:, None, :]).astype(np.complex64)

    def _spoil(self, data: np.ndarray) -> None:
        """Put in what no gain describes: antennas without data, an unfinished last integration."""
        silent = [a for a, kind in self.dead.items() if kind == "zeros"]
        if silent:
            absent = np.isin(self.instrument.antennas, silent)
            first, second = self.instrument.baselines
            data[:, absent[first] | absent[second]] = 0
        if self.last != "data":
            data[-1] = np.nan if self.last == "nan" else 0


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
    n_stations = len(telescope.stations().names)
    dec_rad = np.deg2rad(dec_app_deg)
    times_jd = _MJD0_JD + instrument.times_mjd(start_mjd)
    unfinished = path.with_name(path.name.replace(".hdf5", "_incomplete.hdf5"))
    with h5py.File(unfinished, "w") as file:
        header = file.create_group("Header")
        header["latitude"] = np.rad2deg(telescope.LATITUDE_RAD)
        header["longitude"] = np.rad2deg(telescope.LONGITUDE_RAD)
        header["altitude"] = telescope.HEIGHT_M
        header["telescope_name"] = np.bytes_(telescope.RAW_NAME)
        header["instrument"] = np.bytes_("DSA")
        header["object_name"] = np.bytes_("search")
        header["history"] = np.bytes_("simulated by dsa110-contimg")
        header["phase_type"] = np.bytes_("drift")
        header["phase_center_app_dec"] = dec_rad
        header["Nants_data"] = len(instrument.antennas)
        header["Nants_telescope"] = n_stations
        header["antenna_diameters"] = np.full(n_stations, telescope.DISH_DIAMETER_M)
        header["antenna_names"] = np.array([str(n + 1) for n in range(n_stations)], "S4")
        header["antenna_numbers"] = np.arange(n_stations)
        header["antenna_positions"] = telescope.stations().itrf_m - reference_itrf()
        header["Nbls"] = n_baseline
        header["Nblts"] = n_blt
        header["Nfreqs"] = n_chan
        header["Npols"] = n_pol
        header["Ntimes"] = n_time
        header["Nspws"] = 1
        header["spw_array"] = np.array([1])
        header["freq_array"] = instrument.freq_hz[subband][None]
        header["channel_width"] = instrument.channel_width_hz
        header["polarization_array"] = np.array(telescope.POLARIZATIONS)
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
        samples = np.full(data.shape, telescope.SAMPLES_PER_INTEGRATION, np.float32)
        samples[np.isnan(data.real)] = 0
        bulk = file.create_group("Data")
        for name, values in {
            "visdata": data,
            "flags": np.zeros(data.shape, bool),
            "nsamples": samples,
        }.items():
            _append(bulk, name, values.reshape(n_blt, 1, n_chan, n_pol))
    os.replace(unfinished, path)


def _append(group, name: str, values: np.ndarray) -> None:
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
    late = rng.integers(0, spread + 1, telescope.N_SUBBANDS)
    opened = dt.datetime(1858, 11, 17) + dt.timedelta(days=start_mjd, seconds=1.5)
    return [
        folder / f"{opened + dt.timedelta(seconds=int(s)):%Y-%m-%dT%H:%M:%S}_sb{n:02d}.hdf5"
        for n, s in enumerate(late)
    ]


def write_group(
    tile: _Tile, start_mjd: float, folder: Path, subbands: int = telescope.N_SUBBANDS
) -> list[Path]:
    """Make and write the first so many subbands of a tile; return their paths, sb00 first."""
    rng = np.random.default_rng([tile.options.seed, 9, tile.number])
    paths = file_names(folder, start_mjd, tile.number, rng)
    delays = np.zeros((len(telescope.stations().names), 2), int)
    delays[tile.instrument.antennas] = 2 * rng.integers(7700, 8200, (len(tile.gains), 2))
    text = " ".join(map(str, delays.ravel()))

    def make(number: int) -> None:
        data = tile.subband(number)
        write_uvh5(paths[number], tile.instrument, number, start_mjd, tile.dec_app_deg, data, text)

    with ThreadPoolExecutor(tile.options.threads) as pool:
        list(pool.map(make, range(subbands)))
    return paths[:subbands]


# --------------------------------------------------------------------------------------------------
# Season


@dataclass(frozen=True)
class Plan:
    """When and where to observe: the starts of each night's tiles, one pointing declination."""

    starts: tuple[tuple[float, ...], ...]
    dec_app_deg: float
    calibrator: Calibrator | None


def make_plan(options: SimulationOptions) -> Plan:
    """Return the plan of a season: contiguous tiles, the first about the calibrator's transit."""
    try:
        day = dt.date.fromisoformat(options.date)
    except ValueError:
        raise ConfigError(f"date: {options.date!r} is no YYYY-MM-DD") from None
    mjd = float((day - dt.date(1858, 11, 17)).days)
    if options.calibrator:
        calibrator = catalogs.find_calibrator(options.calibrator)
        ra, dec = calibrator.ra_deg, calibrator.dec_deg
    elif options.dec_deg is None:
        raise ConfigError("dec_deg: is needed where there is no calibrator")
    else:
        calibrator, ra, dec = None, options.ra_deg, options.dec_deg
    # The transit lies in the middle of its tile give or take, as it would by chance.
    transits = [transit_mjd(ra, dec, mjd)]
    transits += [
        transit_mjd(ra, dec, transits[0] + n * _SIDEREAL_DAY - 0.1)
        for n in range(1, options.nights)
    ]
    dec_app = options.dec_deg
    if dec_app is None:
        dec_app = round(float(np.rad2deg(apparent_directions(ra, dec, transits[0])[1][0])), 2)
    tile = telescope.TILE_S / 86400
    offsets = (np.arange(options.tiles) - 0.46) * tile
    if options.tiles > 1:
        offsets[-1] += options.gap_s / 86400
    starts = tuple(tuple(float(t) for t in transit + offsets) for transit in transits)
    return Plan(starts, dec_app, calibrator)


@dataclass(frozen=True)
class Truth:
    """What a simulation put in.

    Attributes
    ----------
    options : SimulationOptions
    sky : list of Source
    groups : dict
        Group id -> start (MJD), apparent declination, ICRS pointing at mid-tile, files.
    dead : dict
        Antenna number -> how it is dead.
    folder : Path
        Where it lies; `gains` and `rfi` read from there.
    """

    options: SimulationOptions
    sky: list[Source]
    groups: dict[str, dict]
    dead: dict[int, str]
    folder: Path

    @property
    def incoming(self) -> Path:
        """Folder of the UVH5 files."""
        return self.folder / "incoming"

    def gains(self, group: str) -> dict[str, np.ndarray]:
        """Return ``gains`` (n_ant, n_chan, 2) at mid-tile, ``antennas``, ``freq_hz``, ``drift``."""
        with np.load(self.folder / "truth" / f"{group}.gains.npz") as file:
            return dict(file)

    def rfi(self, group: str) -> np.ndarray:
        """Return the interference in a tile, Jy, (n_time, n_chan); 0 where there is none."""
        with np.load(self.folder / "truth" / f"{group}.rfi.npz") as file:
            return file["power_jy"]


def simulate(options: SimulationOptions, out: Path, progress: bool = False) -> Truth:
    """Simulate a season of observations.

    Parameters
    ----------
    options : SimulationOptions
        What to simulate; see `PRESETS`.
    out : Path
        Folder for ``incoming/``, ``truth/``, ``catalog.csv`` and ``config.yaml``. Files of the same
        simulation are kept.
    progress : bool
        Print a line for each group.

    Raises
    ------
    DataError
        If `out` holds another simulation.
    """
    out = Path(out).resolve()
    done = out / "truth" / "truth.json"
    if done.exists():
        truth = read_truth(out)
        if truth.options != options:
            raise DataError(f"{out}: holds another simulation; remove it or choose another folder")
        if all((out / f).exists() for group in truth.groups.values() for f in group["files"]):
            if progress:
                print(f"simulation in {out} is there already", flush=True)
            return truth
    instrument = Instrument.choose(options.antennas, options.channels, options.integrations)
    plan = make_plan(options)
    sky = make_sky(options, plan)
    dead = dead_antennas(options, instrument)
    for name in ("incoming", "truth"):
        (out / name).mkdir(parents=True, exist_ok=True)
    groups = {}
    tiles = [(n, start) for n, starts in enumerate(plan.starts) for start in starts]
    for number, (night, start) in enumerate(tiles):
        began = time.monotonic()
        tile = _make_tile(options, instrument, plan, sky, dead, night, number, start)
        missing = options.missing_subbands if start == plan.starts[night][-1] else 0
        files = write_group(tile, start, out / "incoming", telescope.N_SUBBANDS - missing)
        name = group_id(start)
        _write_group_truth(out / "truth", name, tile)
        ra, dec = meridian_icrs(plan.dec_app_deg, start + telescope.TILE_S / 172800)
        groups[name] = {
            "start_mjd": start,
            "dec_app_deg": plan.dec_app_deg,
            "ra_deg": float(ra),
            "dec_deg": float(dec),
            "calibrator": plan.calibrator.name
            if plan.calibrator and start in _firsts(plan)
            else None,
            "files": [str(f.relative_to(out)) for f in files],
        }
        if progress:
            seconds = time.monotonic() - began
            print(
                f"simulated group {number + 1} of {len(tiles)}: {name} ({seconds:.1f} s)",
                flush=True,
            )
    truth = Truth(options, sky, groups, dead, out)
    _write_season(truth)
    return truth


def _firsts(plan: Plan) -> Iterator[float]:
    return (starts[0] for starts in plan.starts)


def _make_tile(options, instrument, plan, sky, dead, night, number, start) -> _Tile:
    hours = (instrument.times_mjd(start) - plan.starts[night][0]) * 24
    last_of_night = start == plan.starts[night][-1]
    return _Tile(
        instrument=instrument,
        options=options,
        geometry=_geometry(
            instrument,
            sky,
            start,
            plan.dec_app_deg,
            options.pointing_offset_deg,
            options.sub_integrations,
        ),
        gains=make_gains(instrument, options, night),
        drift=make_drift(options, night, len(instrument.antennas), hours).astype(np.complex64),
        rfi=make_rfi(instrument, options, number),
        dec_app_deg=plan.dec_app_deg,
        number=number,
        dead=dead,
        last=options.last_integration if last_of_night else "data",
    )


def _write_group_truth(folder: Path, name: str, tile: _Tile) -> None:
    middle = tile.drift[len(tile.drift) // 2][:, None, None]
    np.savez(
        folder / f"{name}.gains.npz",
        gains=(tile.gains * middle).astype(np.complex64),
        drift=tile.drift,
        antennas=tile.instrument.antennas,
        freq_hz=tile.instrument.freq_hz.ravel(),
    )
    np.savez_compressed(
        folder / f"{name}.rfi.npz",
        power_jy=tile.rfi.power_jy.astype(np.float32),
        voltage=tile.rfi.voltage,
        freq_hz=tile.instrument.freq_hz.ravel(),
    )


_SOURCE_COLUMNS = (
    "name", "ra_deg", "dec_deg", "flux_jy", "alpha", "kind", "amplitude", "peak_mjd", "width_days",
)  # fmt: skip


def _write_season(truth: Truth) -> None:
    """Write catalogue, configuration and the truth about sources; ``truth.json`` comes last."""
    out = truth.folder
    _write_csv(out / "catalog.csv", _SOURCE_COLUMNS[:5], truth.sky)
    _write_csv(out / "truth" / "sources.csv", _SOURCE_COLUMNS, truth.sky)
    lines = ["group,mjd,name,flux_jy"]
    for name, group in truth.groups.items():
        mjd = group["start_mjd"] + telescope.TILE_S / 172800
        lines += [
            f"{name},{mjd:.6f},{s.name},{float(s.flux_jy * s.factor(mjd)):.6f}" for s in truth.sky
        ]
    write_text(out / "truth" / "fluxes.csv", "\n".join(lines) + "\n")
    write_text(out / "config.yaml", _config_text(truth))
    content = {
        "options": truth.options.model_dump(mode="json"),
        "dead_antennas": truth.dead,
        "groups": truth.groups,
    }
    write_text(out / "truth" / "truth.json", json.dumps(content, indent=1) + "\n")


def _write_csv(path: Path, columns: Sequence[str], sky: Sky) -> None:
    rows = [",".join(columns)]
    rows += [",".join(str(getattr(source, c)) for c in columns) for source in sky]
    write_text(path, "\n".join(rows) + "\n")


def _config_text(truth: Truth) -> str:
    import yaml

    preset = next((n for n, o in PRESETS.items() if o == truth.options), None)
    content = {
        "incoming": str(truth.incoming),
        "results": str(truth.folder / "results"),
        "catalog": str(truth.folder / "catalog.csv"),
    } | _PRESET_CONFIG.get(preset, {})
    return "# Written by the simulation, for its own data.\n" + yaml.safe_dump(
        content, sort_keys=False
    )


def read_truth(out: Path) -> Truth:
    """Read back what `simulate` wrote."""
    out = Path(out)
    content = json.loads((out / "truth" / "truth.json").read_text())
    options = SimulationOptions.model_validate(content["options"])
    known = {c.name: c for c in catalogs.flux_standards()}
    sky = []
    with (out / "truth" / "sources.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            text = {k: row.pop(k) for k in ("name", "kind")}
            source = Source(**text, **{k: float(v) for k, v in row.items()})
            if source.kind == "calibrator":
                spectrum = known.get(source.name) or catalogs.find_calibrator(source.name)
                source = dataclasses.replace(source, spectrum=spectrum)
            sky.append(source)
    dead = {int(k): v for k, v in content["dead_antennas"].items()}
    return Truth(options, sky, content["groups"], dead, out)


def argparser() -> argparse.ArgumentParser:
    """Return the parser of ``simulate``."""
    parser = argparse.ArgumentParser(
        prog="contimg simulate",
        description="Write UVH5 files of a known sky, as the correlator does, and the truth.",
    )
    parser.add_argument(
        "out", type=Path, help="folder for incoming/, truth/, catalog.csv, config.yaml"
    )
    parser.add_argument("--preset", choices=PRESETS, default="demo", help="(default: demo)")
    parser.add_argument("--progress", action="store_true", help="print a line for each group")
    add_options(parser, SimulationOptions)
    return parser


def main(args: argparse.Namespace) -> None:
    """Run ``simulate``; options override those of the preset."""
    given = from_args(args, SimulationOptions).model_dump(exclude_unset=True)
    simulate(PRESETS[args.preset].model_copy(update=given), args.out, args.progress)
