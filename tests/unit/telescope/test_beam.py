"""The beam against closed forms, quadrature and the explicit sum."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from scipy.integrate import quad

from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.figures import Pointing
from dsa110_contimg.telescope import dsa110
from dsa110_contimg.telescope.beam import TileBeam, airy_power, separation_rad

DRIFT_DEG = 193.8 / 3600


def tile(n_time=24, n_chan=16, ra=24.4, dec=33.2, weights=None):
    offsets = (np.arange(n_time) - (n_time - 1) / 2) * DRIFT_DEG
    return TileBeam(
        (ra + offsets) % 360,
        np.full(n_time, dec),
        np.linspace(1.3114e9, 1.4986e9, n_chan),
        np.ones((n_time, n_chan)) if weights is None else weights,
    )


def aperture_slice(y, k, radius):
    return 2 * np.sqrt(radius**2 - y**2) * np.cos(k * y)


@pytest.mark.parametrize("freq_hz", [1.311e9, 1.405e9, 1.499e9])
def test_airy_is_the_transform_of_a_uniform_disc(freq_hz):
    """Voltage pattern: integral over the aperture of exp(2 pi i y sin(theta) / lambda)."""
    radius, wavelength = dsa110.DISH_DIAMETER_M / 2, dsa110.C_M_S / freq_hz
    for theta in np.deg2rad([0.3, 1.0, 1.9, 3.5, 8.0]):
        k = 2 * np.pi * np.sin(theta) / wavelength
        voltage = quad(aperture_slice, -radius, radius, args=(k, radius))[0]
        expected = (voltage / (np.pi * radius**2)) ** 2
        assert airy_power(theta, freq_hz) == pytest.approx(expected, abs=1e-9)


def test_airy_landmarks():
    wavelength = dsa110.C_M_S / 1.405e9
    half = np.arcsin(1.02899 / 2 * wavelength / dsa110.DISH_DIAMETER_M)
    null = np.arcsin(1.219670 * wavelength / dsa110.DISH_DIAMETER_M)
    assert airy_power(0.0, 1.405e9) == 1.0
    assert airy_power(half, 1.405e9) == pytest.approx(0.5, abs=1e-4)
    assert airy_power(null, 1.405e9) < 1e-9
    assert np.rad2deg(2 * half) == pytest.approx(2.71, abs=0.01)
    assert airy_power(np.deg2rad(150), 1.405e9) == 0.0


def test_separation_agrees_with_astropy():
    rng = np.random.default_rng(1)
    a, b = (
        (rng.uniform(0, 360, 50), np.rad2deg(np.arcsin(rng.uniform(-1, 1, 50)))) for _ in range(2)
    )
    expected = SkyCoord(*a, unit="deg").separation(SkyCoord(*b, unit="deg")).rad
    assert separation_rad(*a, *b) == pytest.approx(expected, abs=1e-12)
    assert separation_rad(10, 20, 10 + 1e-9, 20) == pytest.approx(np.deg2rad(1e-9 * 0.93969), 1e-4)


@pytest.mark.parametrize(("ra", "dec"), [(24.4, 33.2), (0.05, -10.0), (359.9, 71.0)])
def test_response_is_the_weighted_sum(ra, dec):
    rng = np.random.default_rng(2)
    beam = tile(ra=ra, dec=dec, weights=rng.uniform(0, 3, (24, 16)))
    ras = ra + rng.uniform(-3, 3, 40) / np.cos(np.deg2rad(dec))
    decs = dec + rng.uniform(-3, 3, 40)
    total = 0.0
    for k, (pra, pdec) in enumerate(zip(beam.ra_deg, beam.dec_deg, strict=True)):
        angle = SkyCoord(pra, pdec, unit="deg").separation(SkyCoord(ras, decs, unit="deg")).rad
        for c, freq in enumerate(beam.freq_hz):
            total = total + beam.weights[k, c] * airy_power(angle, freq)
    expected = total / beam.weights.sum()
    assert beam.response(ras, decs, exact=True) == pytest.approx(expected, abs=1e-12)
    assert beam.response(ras, decs) == pytest.approx(expected, abs=5e-6)


def test_a_drifting_beam_peaks_below_one_and_is_symmetric_only_with_even_weights():
    beam = tile()
    assert 0.9 < beam.response(24.4, 33.2) < 0.97
    assert beam.response(24.4 + 1.5, 33.2) == pytest.approx(beam.response(24.4 - 1.5, 33.2), 1e-6)
    weights = np.ones((24, 16))
    weights[12:] = 0.2
    uneven = tile(weights=weights)
    assert uneven.response(24.4 - 1.5, 33.2) > 1.1 * uneven.response(24.4 + 1.5, 33.2)


def test_samples_average_to_the_response():
    rng = np.random.default_rng(3)
    beam = tile(weights=rng.uniform(0, 1, (24, 16)))
    samples = beam.samples(25.1, 32.6)
    assert samples.shape == (24, 16)
    assert np.average(samples, weights=beam.weights) == pytest.approx(
        beam.response(25.1, 32.6, exact=True), abs=1e-12
    )


def image_wcs(n, cell_arcsec, ra=24.4, dec=33.2):
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN", "FREQ", "STOKES"]
    wcs.wcs.crval = [ra, dec, 1.4e9, 1]
    wcs.wcs.crpix = [n / 2 + 1, n / 2 + 1, 1, 1]
    wcs.wcs.cdelt = [-cell_arcsec / 3600, cell_arcsec / 3600, 1e8, 1]
    return wcs


@pytest.mark.parametrize(("n", "cell", "ra"), [(150, 96.0, 24.4), (40, 6.0, 0.1)])
def test_image_equals_the_response_at_each_pixel(n, cell, ra):
    beam, wcs = tile(ra=ra), image_wcs(n, cell, ra)
    pixels = np.meshgrid(np.arange(n), np.arange(n))
    expected = beam.response(*wcs.celestial.all_pix2world(*pixels, 0))
    image = beam.image(wcs, (n, n))
    assert image == pytest.approx(expected, abs=2e-5)
    assert image.max() < 1


def test_the_pointing_is_interpolated_to_the_times_of_the_weights():
    times = 61000 + np.arange(24) * 12.885 / 86400
    ra = (359.8 + np.arange(24) * DRIFT_DEG) % 360
    pointing = Pointing(time_mjd=times, ra_deg=ra, dec_deg=np.full(24, 33.2))
    middle = times.reshape(-1, 2).mean(1)
    beam = TileBeam.from_pointing(pointing, middle, [1.4e9], np.ones((12, 1)).tolist())
    expected = 359.8 + (np.arange(12) * 2 + 0.5) * DRIFT_DEG
    assert (beam.ra_deg - expected + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)


def test_unusable_weights_are_refused():
    with pytest.raises(DataError, match="every weight is zero"):
        tile(weights=np.zeros((24, 16)))
    with pytest.raises(DataError, match="shape"):
        tile(weights=np.zeros((23, 16)))
