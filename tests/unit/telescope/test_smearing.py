"""Smearing against fringes that are averaged explicitly, on the real array."""

import warnings

import numpy as np
import pytest
from astropy.wcs import WCS

from dsa110_contimg.telescope import dsa110
from dsa110_contimg.telescope.smearing import Smearing, half_power_deg

FREQ_HZ = 1.4e9


def earth_frame(n_antennas=30, seed=3):
    """Baselines of some antennas: axes at the meridian and the equator, east, and the pole, m."""
    table = dsa110.stations()
    itrf = table.itrf_m[np.random.default_rng(seed).permutation(np.flatnonzero(table.active))]
    lon = dsa110.LONGITUDE_RAD
    axes = [[np.cos(lon), np.sin(lon), 0], [-np.sin(lon), np.cos(lon), 0], [0, 0, 1]]
    antennas = itrf[:n_antennas] @ np.transpose(axes)
    a, b = np.triu_indices(n_antennas, 1)
    return antennas[b] - antennas[a]


def direction(hour_angle, dec):
    return np.array(
        [np.cos(dec) * np.cos(hour_angle), -np.cos(dec) * np.sin(hour_angle), np.sin(dec)]
    )


def uvw_of(baselines, dec_deg):
    """Project on the axes of a phase centre on the meridian."""
    dec = np.deg2rad(dec_deg)
    north = np.array([-np.sin(dec), 0, np.cos(dec)])
    return baselines @ np.transpose([[0, 1, 0], north, direction(0.0, dec)])


def cosines_of(east_deg, north_deg):
    """Return ``(l, m, n - 1)`` of an offset in SIN projection."""
    x, y = np.sin(np.deg2rad([east_deg, north_deg]))
    return np.array([x, y, np.sqrt(1 - x**2 - y**2) - 1])


def explicit(baselines, dec_deg, east_deg, north_deg, width_hz, length_s, samples):
    """Average fringes sample by sample: amplitude of each baseline, offsets in SIN projection."""
    dec0, (x, y, _) = np.deg2rad(dec_deg), cosines_of(east_deg, north_deg)
    z = np.sqrt(1 - x**2 - y**2)
    dec = np.arcsin(y * np.cos(dec0) + z * np.sin(dec0))
    ra = np.arctan2(x, z * np.cos(dec0) - y * np.sin(dec0))
    n_channels, n_times = samples
    total = 0
    for t in ((np.arange(n_times) + 0.5) / n_times - 0.5) * length_s:
        turned = dsa110.EARTH_RATE_RAD_S * t
        path = baselines @ (direction(turned - ra, dec) - direction(turned, dec0))
        for f in ((np.arange(n_channels) + 0.5) / n_channels - 0.5) * width_hz:
            total = total + np.exp(2j * np.pi * path / dsa110.C_M_S * (FREQ_HZ + f))
    return np.abs(total) / (n_channels * n_times)


@pytest.mark.parametrize("dec_deg", [33.2, 70.0])
@pytest.mark.parametrize(("channels", "integrations"), [(1, 4), (6, 1), (6, 2), (16, 3)])
@pytest.mark.parametrize("offset", [(1.3, 0.0), (0.0, 1.3), (-0.9, 0.9)])
def test_averaging_of_samples(dec_deg, channels, integrations, offset):
    baselines = earth_frame()
    width, length = channels * dsa110.CHANNEL_WIDTH_HZ, integrations * dsa110.INTEGRATION_S
    truth = explicit(baselines, dec_deg, *offset, width, length, (channels, integrations))
    smearing = Smearing(dec_deg, channels, integrations, width, length)
    uvw, cosines = uvw_of(baselines, dec_deg), cosines_of(*offset)
    found = smearing.fringe(uvw, cosines, FREQ_HZ)
    assert 1 - truth.mean() > 1e-3
    assert np.abs(found) == pytest.approx(truth, abs=2e-3)
    mean = smearing.response(
        cosines[None], uvw_of(baselines, dec_deg), np.ones(len(found)), FREQ_HZ
    )
    assert mean[0] == pytest.approx(truth.mean(), abs=0.02 * (1 - truth.mean()))


def test_the_correlators_own_smearing_counts_when_asked_for():
    baselines, width = earth_frame(), 4 * dsa110.CHANNEL_WIDTH_HZ
    args = (33.2, 4, 1, width, dsa110.INTEGRATION_S)
    truth = explicit(baselines, 33.2, 1.0, 0.8, width, dsa110.INTEGRATION_S, (24, 24))
    cosines = cosines_of(1.0, 0.8)
    uvw = uvw_of(baselines, 33.2)
    assert Smearing(*args, whole=True).fringe(uvw, cosines, FREQ_HZ) == pytest.approx(
        truth, abs=1e-3
    )
    assert Smearing(*args).fringe(uvw, cosines, FREQ_HZ).mean() > truth.mean() + 1e-3


def test_channels_have_their_own_smearing():
    uvw = uvw_of(earth_frame(), 33.2)
    smearing = Smearing(33.2, 1, 4, dsa110.CHANNEL_WIDTH_HZ, 4 * dsa110.INTEGRATION_S)
    cosines, freq = np.array([0.02, 0.01, -2.5e-4]), np.array([1.3e9, 1.5e9])
    found = smearing.fringe(uvw, cosines, freq)
    for k in (0, 1):
        assert found[:, k] == pytest.approx(smearing.fringe(uvw, cosines, freq[k]))


def test_nothing_averaged_is_nothing_lost():
    smearing = Smearing(33.2, 1, 1, 1e6, 10.0)
    assert smearing.none
    assert (smearing.response(np.full((3, 3), 0.02), np.ones((5, 3)), np.ones(5), 1e9) == 1).all()


def test_image_is_the_response_at_each_pixel():
    uvw = uvw_of(earth_frame(), 33.2)
    weights = np.random.default_rng(1).uniform(size=len(uvw))
    smearing = Smearing(33.2, 6, 2, 6 * dsa110.CHANNEL_WIDTH_HZ, 2 * dsa110.INTEGRATION_S)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---SIN", "DEC--SIN"], [24.0, 33.2]
    wcs.wcs.crpix, wcs.wcs.cdelt = [201, 151], [-0.01, 0.01]
    image = smearing.image(wcs, (300, 400), uvw, weights, FREQ_HZ)
    rows, columns = np.array([0, 150, 77, 299]), np.array([0, 200, 333, 399])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ra, dec = wcs.all_pix2world(columns, rows, 0)
    ra, dec, dec0 = np.deg2rad(ra - 24), np.deg2rad(dec), np.deg2rad(33.2)
    x = np.cos(dec) * np.sin(ra)
    y = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra)
    offsets = np.stack([x, y, np.sqrt(1 - x**2 - y**2) - 1], axis=-1)
    expected = smearing.response(offsets, uvw, weights, FREQ_HZ)
    assert expected[1] == pytest.approx(1, abs=1e-12)
    assert expected.min() < 0.99
    assert image[rows, columns] == pytest.approx(expected, abs=1e-5)


def test_half_power_is_where_the_beam_is_a_half():
    from dsa110_contimg.telescope.beam import airy_power

    assert airy_power(np.deg2rad(half_power_deg(FREQ_HZ)), FREQ_HZ) == pytest.approx(0.5, abs=1e-3)
