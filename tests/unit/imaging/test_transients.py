import numpy as np
import pytest
from astropy.wcs import WCS

from dsa110_contimg.imaging.transients import Flash, response_at, search, table_of
from dsa110_contimg.telescope.beam import TileBeam

N, SIZE, NOISE = 8, 300, 1e-3


@pytest.fixture(scope="module")
def images():
    """Noise of 1 mJy, correlated like a beam of 5 pixels, and a steady source of 1 Jy."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(3)
    noise = gaussian_filter(rng.normal(size=(N, SIZE, SIZE)), (0, 2.1, 2.1))
    return noise / noise.std() * NOISE + source(100, 200, 1.0)


def source(y, x, flux):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return flux * np.exp(-4 * np.log(2) * ((rows - y) ** 2 + (columns - x) ** 2) / 25)


def look(images, excess=1.0):
    return search(
        list(images), np.ones((SIZE, SIZE), bool), np.full((SIZE, SIZE), excess), sigma=6.0
    )


def test_steady_sky_shows_nothing(images):
    assert look(images) == []


def test_flash_is_found_between_pixels(images):
    changed = images.copy()
    changed[3] += source(150.4, 80.7, 0.05)
    (flash,) = look(changed)
    assert flash.integration == 3
    assert (flash.y, flash.x) == pytest.approx((150.4, 80.7), abs=0.1)
    assert flash.peak_jy == pytest.approx(0.05, abs=4 * NOISE)
    assert flash.noise_jy == pytest.approx(NOISE, rel=0.2)


def test_noisy_places_need_more(images):
    changed = images.copy()
    changed[3] += source(150, 80, 0.01)
    assert len(look(changed)) == 1
    assert look(changed, excess=3.0) == []


def test_integration_without_data_is_passed_over(images):
    changed = images.copy()
    changed[2] = 0
    changed[5] = np.nan
    assert look(changed) == []
    assert look(images[:3]) == []  # too few to say what is steady


def test_table_corrects_for_the_beam_of_the_moment():
    beam = TileBeam(10 + np.linspace(-0.6, 0.6, N), np.full(N, 33.0), [1.4e9], np.ones((N, 1)))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---SIN", "DEC--SIN"], [10.0, 33.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [150.0, 150.0], [-0.01, 0.01]
    flashes = [Flash(0, 149.0, 149.0, 0.01, NOISE), Flash(N // 2, 149.0, 149.0, 0.01, NOISE)]
    times = 61000 + np.arange(N) / 1000
    table = table_of(flashes, wcs, beam, times, None, 0.01)
    assert table.mjd.tolist() == [times[0], times[N // 2]]
    assert table.pb.to_numpy() == pytest.approx(beam.samples(10.0, 33.0)[[0, N // 2], 0])
    assert table.flux_jy.to_numpy() == pytest.approx(0.01 / table.pb)
    assert table.pb[0] < 0.95 < table.pb[1]
    assert response_at(flashes[0], 10.0, 33.0, beam) == table.pb[0]
