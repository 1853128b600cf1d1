"""Small Measurement Sets of a known sky, by an explicit Fourier sum: the truth of imaging tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa110_contimg.core import sidecar as sidecars
from dsa110_contimg.core.figures import AppliedAveraging, AppliedCalibration, ApplyFigures
from dsa110_contimg.telescope import dsa110
from dsa110_contimg.telescope.beam import TileBeam
from support.figures import example

#: Start of the data (MJD) and direction of the tile; any will do.
START_MJD = 61068.9
DEC_DEG = 33.1
BANDWIDTH_HZ = dsa110.N_SUBBANDS * dsa110.N_CHANNELS_SUBBAND * dsa110.CHANNEL_WIDTH_HZ


@dataclass(frozen=True)
class Sky:
    """Point sources: directions (deg, ICRS) and flux densities at 1405 MHz (Jy, flat spectra)."""

    ra_deg: np.ndarray
    dec_deg: np.ndarray
    flux_jy: np.ndarray


def tile_centre() -> tuple[float, float]:
    """Return the tile's phase centre (ICRS, deg): about where the meridian is at mid-tile."""
    import astropy.units as u
    from astropy.time import Time

    lst = Time(START_MJD + 154.6 / 86400, format="mjd", location=dsa110.location())
    return float(lst.sidereal_time("apparent").to_value(u.deg)), DEC_DEG


def offsets_to_sky(east_deg, north_deg, flux_jy) -> Sky:
    """Place sources at offsets from the tile's centre, orthographic (SIN) projection."""
    ra0, dec0 = np.deg2rad(tile_centre())
    east, north = np.deg2rad(np.atleast_1d(east_deg)), np.deg2rad(np.atleast_1d(north_deg))
    up = np.sqrt(1 - east**2 - north**2)
    dec = np.arcsin(north * np.cos(dec0) + up * np.sin(dec0))
    ra = ra0 + np.arctan2(east, up * np.cos(dec0) - north * np.sin(dec0))
    return Sky(np.rad2deg(ra) % 360, np.rad2deg(dec), np.atleast_1d(np.asarray(flux_jy, float)))


def pointings(n_times: int) -> dict:
    """Return the drifting pointing as a sidecar states it."""
    ra0, dec0 = tile_centre()
    seconds = (np.arange(n_times) + 0.5) * dsa110.TILE_S / n_times
    drift = (seconds - dsa110.TILE_S / 2) * np.rad2deg(dsa110.EARTH_RATE_RAD_S)
    return {
        "time_mjd": list(START_MJD + seconds / 86400),
        "ra_deg": list((ra0 + drift) % 360),
        "dec_deg": [dec0] * n_times,
    }


def offset(ra_deg: float, dec_deg: float, scale: float = 1.0) -> np.ndarray:
    """Return ``(l, m, n - 1)`` of a direction about the tile's centre."""
    ra0, dec0 = np.deg2rad(tile_centre())
    ra, dec = np.deg2rad(ra_deg) - ra0, np.deg2rad(dec_deg)
    east = scale * np.cos(dec) * np.sin(ra)
    north = scale * (np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra))
    return np.array([east, north, np.sqrt(1 - east**2 - north**2) - 1])


def write_tile(
    path,
    sky: Sky,
    *,
    n_antennas: int = 40,
    n_channels: int = 6,
    n_times: int = 4,
    noise: bool = False,
    with_beam: bool = True,
    beam_offset_deg: tuple[float, float] = (0.0, 0.0),
    gain_error: tuple[float, float] = (0.0, 0.0),
    averaged: tuple[int, int] = (1, 1),
    alpha: float = 0.0,
    flash: tuple[int, float, float, float] | None = None,
    scale: float = 1.0,
    seed: int = 1,
):
    """Write ``path`` (a calibrated Measurement Set) and its sidecar.

    Parameters
    ----------
    noise : bool
        Add thermal noise of the array's SEFD (`telescope.SEFD_JY`).
    with_beam : bool
        Attenuate the sources by the dish's Airy pattern about the pointing of each moment.
    beam_offset_deg : (float, float)
        How far (east, north) the dishes really point from where the sidecar says.
    gain_error : (float, float)
        Standard deviations of amplitude (fraction) and phase (deg) of the antennas' gains.
    averaged : (int, int)
        Channels and integrations of which each is the mean, without noise: sources off the centre
        are smeared.
    alpha : float
        Spectral index of all sources.
    flash : (int, float, float, float), optional
        A source of one integration alone: its number, offsets east and north (deg), flux (Jy).
    scale : float
        How many times larger than they are the offsets of the sources appear.
    """
    from astropy.coordinates import EarthLocation
    from pyuvdata import Telescope, UVData

    rng = np.random.default_rng(seed)
    stations = dsa110.stations()
    numbers = np.flatnonzero(stations.active)
    numbers = np.sort(rng.permutation(numbers)[:n_antennas])
    centre = dsa110.location()
    origin = np.array([x.value for x in centre.geocentric])
    pointing = pointings(n_times)
    ra0, dec0 = tile_centre()

    def empty_set(n_channels: int, n_times: int) -> UVData:
        width = BANDWIDTH_HZ / n_channels
        top = dsa110.TOP_CHANNEL_HZ + dsa110.CHANNEL_WIDTH_HZ / 2
        return UVData.new(
            freq_array=top - width * (np.arange(n_channels)[::-1] + 0.5),
            channel_width=width,
            polarization_array=list(dsa110.POLARIZATIONS),
            times=np.array(pointings(n_times)["time_mjd"]) + 2400000.5,
            integration_time=dsa110.TILE_S / n_times,
            telescope=Telescope.new(
                name=dsa110.NAME,
                location=EarthLocation.from_geocentric(*origin, unit="m"),
                antenna_positions={int(k): stations.itrf_m[k] - origin for k in numbers},
                antenna_diameters=np.full(n_antennas, dsa110.DISH_DIAMETER_M),
                instrument="DSA",
                mount_type="alt-az",
                x_orientation="north",
                feeds=["x", "y"],
            ),
            antpairs=[(a, b) for i, a in enumerate(numbers) for b in numbers[i + 1 :]],
            do_blt_outer=True,
            phase_center_catalog={
                0: {
                    "cat_name": "tile",
                    "cat_type": "sidereal",
                    "cat_lon": np.deg2rad(ra0),
                    "cat_lat": np.deg2rad(dec0),
                    "cat_frame": "icrs",
                    "cat_epoch": 2000.0,
                }
            },
            empty=True,
            vis_units="Jy",
        )

    def response(ra_deg: float, dec_deg: float, n_times: int, freq: np.ndarray) -> np.ndarray:
        if not with_beam:
            return np.ones((n_times, len(freq)))
        drift = pointings(n_times)
        beam = TileBeam(
            np.array(drift["ra_deg"]) + beam_offset_deg[0] / np.cos(np.deg2rad(dec0)),
            np.array(drift["dec_deg"]) + beam_offset_deg[1],
            freq,
            np.ones((n_times, len(freq))),
        )
        return beam.samples(ra_deg, dec_deg)

    def fourier_sum(uvd: UVData) -> np.ndarray:
        freq, times = uvd.freq_array, np.unique(uvd.time_array)
        moment = np.searchsorted(times, uvd.time_array)
        data = np.zeros((uvd.Nblts, len(freq)), complex)
        for ra, dec, flux in zip(sky.ra_deg, sky.dec_deg, sky.flux_jy, strict=True):
            spectrum = flux * (freq / 1.405e9) ** alpha
            spectrum = (spectrum * response(ra, dec, len(times), freq))[moment]
            delay = uvd.uvw_array @ offset(ra, dec, scale) / dsa110.C_M_S
            data += spectrum * np.exp(2j * np.pi * delay[:, None] * freq)
        if flash is not None:
            (ra,), (dec,) = (getattr(offsets_to_sky(*flash[1:]), x) for x in ("ra_deg", "dec_deg"))
            seen = flash[3] * response(ra, dec, len(times), freq)[moment]
            delay = uvd.uvw_array @ offset(ra, dec, scale) / dsa110.C_M_S
            during = (moment == flash[0])[:, None]
            data += during * seen * np.exp(2j * np.pi * delay[:, None] * freq)
        return data

    uvd = empty_set(n_channels, n_times)
    freq, width = uvd.freq_array, BANDWIDTH_HZ / n_channels
    n_baselines = n_antennas * (n_antennas - 1) // 2
    fine = empty_set(n_channels * averaged[0], n_times * averaged[1])
    # Both have rows in order of time, then of baselines.
    data = fourier_sum(fine).reshape(n_times, averaged[1], n_baselines, n_channels, averaged[0])
    data = data.mean(axis=(1, 4)).reshape(uvd.Nblts, n_channels)
    amplitude, phase = gain_error
    gains = rng.normal(1, amplitude, 118) * np.exp(1j * np.deg2rad(rng.normal(0, phase, 118)))
    data *= (gains[uvd.ant_1_array].conj() * gains[uvd.ant_2_array])[:, None]
    uvd.data_array = np.repeat(data[:, :, None], 2, axis=2).astype(np.complex64)
    sigma = dsa110.SEFD_JY / np.sqrt(2 * width * dsa110.TILE_S / n_times)
    if noise:
        shape = (2, *uvd.data_array.shape)
        uvd.data_array += sigma * np.einsum("i,i...", [1, 1j], rng.normal(size=shape))
    uvd.flag_array = np.zeros(uvd.data_array.shape, bool)
    uvd.nsample_array = np.ones(uvd.data_array.shape, np.float32)
    uvd.write_ms(str(path), clobber=True, force_phase=False)
    weights = {
        "freq_hz": list(freq),
        "time_mjd": pointing["time_mjd"],
        "weight": np.full((n_times, n_channels), 2.0 * n_baselines).tolist(),
    }
    sidecars.Sidecar(
        "apply",
        figures=example(
            ApplyFigures,
            pointing=pointing,
            weights=weights,
            calibration=example(AppliedCalibration, group="20260121T000000"),
            averaging=AppliedAveraging(
                channels=averaged[0], integrations=averaged[1], loss_at_half_power=0.0
            ),
            aberration_scale=scale,
        ),
    ).write(path)
    return path
