"""Simulated seasons: a sky, gains, noise and interference, written as the correlator writes them.

A raw visibility is ``conj(g_a) g_b V_ab`` plus noise and interference, with ``V_ab`` from
`correlator`. What went in is written beside the data: sources, gains, interference.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..catalogs import calibrators, catalogue
from ..catalogs.calibrators import Calibrator
from ..core.errors import ConfigError, DataError
from ..core.files import write_text
from ..core.options import Fraction, NonNegative, Options, Positive
from ..core.times import DAY_S, group_id, night_mjd
from ..telescope import beam, dsa110
from ..telescope.astrometry import hour_angle_vector
from ..telescope.phasors import phasors
from .correlator import (
    SIDEREAL_DAY,
    Instrument,
    Sky,
    Source,
    Tracks,
    apparent_directions,
    correlate,
    file_names,
    meridian_icrs,
    trace,
    transit_mjd,
    write_uvh5,
)

__all__ = [
    "PRESETS",
    "SimulationOptions",
    "Truth",
    "make_schedule",
    "make_sky",
    "read_truth",
    "simulate",
]


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
    sefd_jy: Positive = dsa110.SEFD_JY
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
        antennas=32,
        channels=4,
        integrations=8,
        sources=16,
        min_flux_jy=0.3,
        half_width_deg=1.2,
        variables=False,
        dead_antennas=1,
    ),
    "full": SimulationOptions(variables=False),
}
#: Images of the smaller presets: their sources lie within 1.5 deg of the strip.
_SMALL_IMAGING = {"size_px": 1920, "cell_arcsec": 6.0}


# --------------------------------------------------------------------------------------------------
# Sky


def make_sky(options: SimulationOptions, schedule: Schedule) -> list[Source]:
    """Return the sources of a strip: the calibrator, random ones, and variable ones.

    The random ones follow N(>S) proportional to 1/S, and lie at least 3 arcmin from one another.
    """
    rng = np.random.default_rng([options.seed, 1])
    sky = [Source.from_calibrator(schedule.calibrator)] if schedule.calibrator else []
    middles = np.array(schedule.starts[0]) + dsa110.TILE_S / 172800
    ra, dec = meridian_icrs(schedule.dec_app_deg, middles)
    if schedule.calibrator and options.neighbour_share:
        sky += _neighbours(sky[0], options.neighbour_share, rng)
    if options.variables:
        sky += _variables(options, schedule, ra, dec)
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
        alpha = float(np.clip(rng.normal(catalogue.DEFAULT_ALPHA, 0.2), -1.3, 0.3))
        sky.append(Source(catalogue.iau_name(*position), *position, flux, alpha))
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
        found.append(Source(catalogue.iau_name(ra, dec), float(ra), float(dec), float(flux)))
    return found


def _variables(
    options: SimulationOptions, schedule: Schedule, ra: np.ndarray, dec: np.ndarray
) -> list[Source]:
    """Return a deep dip and a weaker flare, away from the calibrator, both in well-seen places."""
    night = max(0, len(schedule.starts) - 2)
    tile = len(ra) // 2
    peak = float(np.mean(schedule.starts[night]))
    dip = float(ra[tile] % 360), float(dec[tile] + 0.3)
    flare = float(ra[-1] % 360), float(dec[-1] - 0.35)
    return [
        Source(catalogue.iau_name(*dip), *dip, 0.6, -0.4, "ese", -0.55, peak, 0.35),
        Source(catalogue.iau_name(*flare), *flare, 0.25, -0.2, "flare", 0.35, peak, 0.35),
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
    edge = rng.uniform(*options.edge_loss, (n_ant, dsa110.N_SUBBANDS, 1, 2))
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
    arms = np.array(dsa110.stations().arms)[instrument.antennas]
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
            -np.sin(dsa110.LATITUDE_RAD) * np.cos(azimuth),
            np.sin(azimuth),
            np.cos(dsa110.LATITUDE_RAD) * np.cos(azimuth),
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
# Tiles


@dataclass(frozen=True)
class _Observation:
    """All that a subband of a tile is made from."""

    instrument: Instrument
    options: SimulationOptions
    tracks: Tracks
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
            sky = correlate(self.tracks, k, options.sub_integrations, freq, self.drift[k])
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
        centre = hour_angle_vector(np.zeros(1), np.deg2rad([self.dec_app_deg]))[0]
        path = self.instrument.local_m @ (self.rfi.direction - centre)
        voltage = self.rfi.voltage * phasors(path, freq) * np.sqrt(power)[:, None]
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


def write_group(
    tile: _Observation, start_mjd: float, folder: Path, subbands: int = dsa110.N_SUBBANDS
) -> list[Path]:
    """Make and write the first so many subbands of a tile; return their paths, sb00 first."""
    rng = np.random.default_rng([tile.options.seed, 9, tile.number])
    paths = file_names(folder, start_mjd, tile.number, rng)
    delays = np.zeros((len(dsa110.stations().names), 2), int)
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
class Schedule:
    """When and where to observe: the starts of each night's tiles, one pointing declination."""

    starts: tuple[tuple[float, ...], ...]
    dec_app_deg: float
    calibrator: Calibrator | None


def make_schedule(options: SimulationOptions) -> Schedule:
    """Return when a season observes: contiguous tiles, the first about the transit."""
    try:
        mjd = night_mjd(options.date)
    except ValueError:
        raise ConfigError(f"date: {options.date!r} is no YYYY-MM-DD") from None
    if options.calibrator:
        calibrator = calibrators.find_calibrator(options.calibrator)
        ra, dec = calibrator.ra_deg, calibrator.dec_deg
    elif options.dec_deg is None:
        raise ConfigError("dec_deg: is needed where there is no calibrator")
    else:
        calibrator, ra, dec = None, options.ra_deg, options.dec_deg
    # The transit lies in the middle of its tile give or take, as it would by chance.
    transits = [transit_mjd(ra, dec, mjd)]
    transits += [
        transit_mjd(ra, dec, transits[0] + n * SIDEREAL_DAY - 0.1) for n in range(1, options.nights)
    ]
    dec_app = options.dec_deg
    if dec_app is None:
        dec_app = round(float(np.rad2deg(apparent_directions(ra, dec, transits[0])[1][0])), 2)
    tile = dsa110.TILE_S / DAY_S
    offsets = (np.arange(options.tiles) - 0.46) * tile
    if options.tiles > 1:
        offsets[-1] += options.gap_s / DAY_S
    starts = tuple(tuple(float(t) for t in transit + offsets) for transit in transits)
    return Schedule(starts, dec_app, calibrator)


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


def simulate(
    options: SimulationOptions, out: Path, tell: Callable[[str], object] | None = None
) -> Truth:
    """Simulate a season of observations.

    Parameters
    ----------
    options : SimulationOptions
        What to simulate; see `PRESETS`.
    out : Path
        Folder for ``incoming/``, ``truth/``, ``catalog.csv`` and ``config.yaml``. Files of the same
        simulation are kept.
    tell : callable, optional
        Is told a line for each group.

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
            if tell:
                tell(f"simulation in {out} is there already")
            return truth
    instrument = Instrument.choose(options.antennas, options.channels, options.integrations)
    schedule = make_schedule(options)
    sky = make_sky(options, schedule)
    dead = dead_antennas(options, instrument)
    for name in ("incoming", "truth"):
        (out / name).mkdir(parents=True, exist_ok=True)
    groups = {}
    tiles = [(n, start) for n, starts in enumerate(schedule.starts) for start in starts]
    for number, (night, start) in enumerate(tiles):
        began = time.monotonic()
        tile = _make_tile(options, instrument, schedule, sky, dead, night, number, start)
        missing = options.missing_subbands if start == schedule.starts[night][-1] else 0
        files = write_group(tile, start, out / "incoming", dsa110.N_SUBBANDS - missing)
        name = group_id(start)
        _write_group_truth(out / "truth", name, tile)
        ra, dec = meridian_icrs(schedule.dec_app_deg, start + dsa110.TILE_S / 172800)
        groups[name] = {
            "start_mjd": start,
            "dec_app_deg": schedule.dec_app_deg,
            "ra_deg": float(ra),
            "dec_deg": float(dec),
            "calibrator": schedule.calibrator.name
            if schedule.calibrator and start in _firsts(schedule)
            else None,
            "files": [str(f.relative_to(out)) for f in files],
        }
        if tell:
            seconds = time.monotonic() - began
            tell(f"simulated group {number + 1} of {len(tiles)}: {name} ({seconds:.1f} s)")
    truth = Truth(options, sky, groups, dead, out)
    _write_season(truth)
    return truth


def _firsts(schedule: Schedule) -> Iterator[float]:
    return (starts[0] for starts in schedule.starts)


def _make_tile(
    options: SimulationOptions,
    instrument: Instrument,
    schedule: Schedule,
    sky: Sky,
    dead: dict[int, str],
    night: int,
    number: int,
    start: float,
) -> _Observation:
    hours = (instrument.times_mjd(start) - schedule.starts[night][0]) * 24
    last_of_night = start == schedule.starts[night][-1]
    return _Observation(
        instrument=instrument,
        options=options,
        tracks=trace(
            instrument,
            sky,
            start,
            schedule.dec_app_deg,
            options.pointing_offset_deg,
            options.sub_integrations,
        ),
        gains=make_gains(instrument, options, night),
        drift=make_drift(options, night, len(instrument.antennas), hours).astype(np.complex64),
        rfi=make_rfi(instrument, options, number),
        dec_app_deg=schedule.dec_app_deg,
        number=number,
        dead=dead,
        last=options.last_integration if last_of_night else "data",
    )


def _write_group_truth(folder: Path, name: str, tile: _Observation) -> None:
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
        mjd = group["start_mjd"] + dsa110.TILE_S / 172800
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

    content: dict[str, Any] = {
        "incoming": str(truth.incoming),
        "results": str(truth.folder / "results"),
        "catalog": str(truth.folder / "catalog.csv"),
    }
    if truth.options.antennas < PRESETS["full"].antennas:
        content["imaging"] = _SMALL_IMAGING
    return "# Written by the simulation, for its own data.\n" + yaml.safe_dump(
        content, sort_keys=False
    )


def read_truth(out: Path) -> Truth:
    """Read back what `simulate` wrote."""
    out = Path(out)
    content = json.loads((out / "truth" / "truth.json").read_text())
    options = SimulationOptions.model_validate(content["options"])
    known = {c.name: c for c in calibrators.flux_standards()}
    sky = []
    with (out / "truth" / "sources.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            values: Any = {k: v if k in ("name", "kind") else float(v) for k, v in row.items()}
            source = Source(**values)
            if source.kind == "calibrator":
                spectrum = known.get(source.name) or calibrators.find_calibrator(source.name)
                source = dataclasses.replace(source, spectrum=spectrum)
            sky.append(source)
    dead = {int(k): v for k, v in content["dead_antennas"].items()}
    return Truth(options, sky, content["groups"], dead, out)
