"""Small Measurement Sets of a known sky, by an explicit Fourier sum: the truth of imaging tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dsa110_contimg import products, telescope
from dsa110_contimg.beam import TileBeam

#: Start of the data (MJD) and direction of the tile; any will do.
START_MJD = 61068.9
DEC_DEG = 33.1


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

    lst = Time(START_MJD + 154.6 / 86400, format="mjd", location=telescope.location())
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
    seconds = (np.arange(n_times) + 0.5) * telescope.TILE_S / n_times
    drift = (seconds - telescope.TILE_S / 2) * np.rad2deg(telescope.EARTH_RATE_RAD_S)
    return {
        "time_mjd": list(START_MJD + seconds / 86400),
        "ra_deg": list((ra0 + drift) % 360),
        "dec_deg": [dec0] * n_times,
    }


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
    """
    from astropy.coordinates import EarthLocation
    from pyuvdata import Telescope, UVData

    rng = np.random.default_rng(seed)
    stations = telescope.stations()
    numbers = np.flatnonzero(stations.active)
    numbers = np.sort(rng.permutation(numbers)[:n_antennas])
    centre = telescope.location()
    origin = np.array([x.value for x in centre.geocentric])
    width = telescope.N_SUBBANDS * telescope.N_CHANNELS_SUBBAND * telescope.CHANNEL_WIDTH_HZ
    width /= n_channels
    top = telescope.TOP_CHANNEL_HZ + telescope.CHANNEL_WIDTH_HZ / 2
    freq = top - width * (np.arange(n_channels)[::-1] + 0.5)
    pointing = pointings(n_times)
    ra0, dec0 = tile_centre()
    uvd = UVData.new(
        freq_array=freq,
        channel_width=width,
        polarization_array=list(telescope.POLARIZATIONS),
        times=np.array(pointing["time_mjd"]) + 2400000.5,
        integration_time=telescope.TILE_S / n_times,
        telescope=Telescope.new(
            name=telescope.NAME,
            location=EarthLocation.from_geocentric(*origin, unit="m"),
            antenna_positions={int(k): stations.itrf_m[k] - origin for k in numbers},
            antenna_diameters=np.full(n_antennas, telescope.DISH_DIAMETER_M),
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
    ra, dec = np.deg2rad(sky.ra_deg), np.deg2rad(sky.dec_deg)
    ra0, dec0 = np.deg2rad([ra0, dec0])
    lmn = np.stack(
        [
            np.cos(dec) * np.sin(ra - ra0),
            np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra - ra0),
            np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra - ra0) - 1,
        ]
    )
    beam = TileBeam(
        np.array(pointing["ra_deg"]) + beam_offset_deg[0] / np.cos(dec0),
        np.array(pointing["dec_deg"]) + beam_offset_deg[1],
        freq,
        np.ones((n_times, n_channels)),
    )
    moment = np.unique(uvd.time_array, return_inverse=True)[1]
    delay = uvd.uvw_array @ lmn / telescope.C_M_S  # (n_blt, n_source) seconds
    data = np.zeros((uvd.Nblts, n_channels), complex)
    for k, flux in enumerate(sky.flux_jy):
        response = beam.samples(sky.ra_deg[k], sky.dec_deg[k]) if with_beam else 1.0
        attenuation = np.broadcast_to(response, (n_times, n_channels))[moment]
        data += flux * attenuation * np.exp(2j * np.pi * delay[:, k, None] * freq)
    amplitude, phase = gain_error
    gains = rng.normal(1, amplitude, 118) * np.exp(1j * np.deg2rad(rng.normal(0, phase, 118)))
    data *= (gains[uvd.ant_1_array].conj() * gains[uvd.ant_2_array])[:, None]
    uvd.data_array = np.repeat(data[:, :, None], 2, axis=2).astype(np.complex64)
    sigma = telescope.SEFD_JY / np.sqrt(2 * width * telescope.TILE_S / n_times)
    if noise:
        shape = (2, *uvd.data_array.shape)
        uvd.data_array += sigma * np.einsum("i,i...", [1, 1j], rng.normal(size=shape))
    uvd.flag_array = np.zeros(uvd.data_array.shape, bool)
    uvd.nsample_array = np.ones(uvd.data_array.shape, np.float32)
    uvd.write_ms(str(path), clobber=True, force_phase=False)
    n_baselines = n_antennas * (n_antennas - 1) // 2
    weights = {
        "freq_hz": list(freq),
        "time_mjd": pointing["time_mjd"],
        "weight": np.full((n_times, n_channels), 2.0 * n_baselines).tolist(),
    }
    products.Sidecar(
        "apply",
        qa={"pointing": pointing, "weights": weights, "calibration": {"group": "20260121T000000"}},
    ).write(path)
    return path
