"""A small Measurement Set with given visibilities, written by pyuvdata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.coordinates import EarthLocation
from astropy.time import Time

from dsa110_contimg.telescope import dsa110

RA_DEG, DEC_DEG = 24.4220808, 33.1597594
START_MJD = 61072.0


def blank(n_antennas: int = 8, n_channels: int = 64, n_times: int = 24, dec_deg: float = DEC_DEG):
    """Return a `UVData` of zeros, tracking (RA_DEG, dec_deg), time-major, ant1 <= ant2.

    Antennas are every twelfth of the telescope's active stations, autocorrelations included.
    """
    import astropy.units as u
    from pyuvdata import Telescope, UVData

    stations = dsa110.stations()
    numbers = np.flatnonzero(stations.active)
    numbers = numbers[np.linspace(0, len(numbers) - 1, n_antennas).astype(int)]
    location = EarthLocation.from_geocentric(*stations.itrf_m[numbers].mean(axis=0) * u.m)
    centre = np.array([location.x.value, location.y.value, location.z.value])
    scope = Telescope.new(
        name=dsa110.RAW_NAME,
        location=location,
        antenna_positions=stations.itrf_m[numbers] - centre,
        antenna_names=[str(n + 1) for n in numbers],
        antenna_numbers=numbers,
        instrument="DSA",
        feeds=["x", "y"],
        feed_angle=[np.pi / 2, 0.0],
        mount_type="alt-az",
        antenna_diameters=np.full(n_antennas, dsa110.DISH_DIAMETER_M),
    )
    times = Time(START_MJD, format="mjd", scale="utc").jd + (
        (np.arange(n_times) + 0.5) * dsa110.INTEGRATION_S / 86400
    )
    freqs = 1.4e9 + dsa110.CHANNEL_WIDTH_HZ * np.arange(n_channels)
    pairs = [(a, b) for i, a in enumerate(numbers) for b in numbers[i:]]
    uvd = UVData.new(
        freq_array=freqs,
        polarization_array=[-5, -6],
        times=times,
        telescope=scope,
        antpairs=np.array(pairs),
        do_blt_outer=True,
        integration_time=dsa110.INTEGRATION_S,
        channel_width=dsa110.CHANNEL_WIDTH_HZ,
        phase_center_catalog={
            0: {
                "cat_name": "tile",
                "cat_type": "sidereal",
                "cat_lon": np.deg2rad(RA_DEG),
                "cat_lat": np.deg2rad(dec_deg),
                "cat_frame": "icrs",
            }
        },
        empty=True,
        vis_units="uncalib",
        time_axis_faster_than_bls=False,
    )
    uvd.nsample_array[:] = 1
    uvd.set_uvws_from_antenna_positions()
    return uvd


def write(uvd, path: Path) -> Path:
    """Write it, rows as times x baselines."""
    uvd.write_ms(str(path), force_phase=False, run_check=False, clobber=True)
    return path
