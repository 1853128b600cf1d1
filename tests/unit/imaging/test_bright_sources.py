import numpy as np
import pandas as pd
import pytest
from astropy.wcs import WCS

from dsa110_contimg.core.figures import ApplyFigures
from dsa110_contimg.core.sidecar import read_sidecar
from dsa110_contimg.imaging import bright_sources
from dsa110_contimg.ms.tile import read_tile
from dsa110_contimg.telescope.beam import TileBeam
from dsa110_contimg.telescope.smearing import Smearing
from support import imaging_data

SIZE, CELL = 1200, 6.0 / 3600
SHARP = Smearing(33.1, 1, 1, 1e6, 10.0)


@pytest.fixture(scope="module")
def sky():
    return imaging_data.offsets_to_sky(
        [0.5, -0.81, 0.07, 0.3], [0.31, 0.7, -0.9, 0.2], [1, 0.5, 0.2, 0.01]
    )


@pytest.fixture(scope="module")
def ms(tmp_path_factory, sky):
    path = tmp_path_factory.mktemp("seeding") / "20260128T213600.cal.ms"
    return imaging_data.write_tile(path, sky, n_antennas=8, n_channels=5, n_times=3)


@pytest.fixture(scope="module")
def wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = imaging_data.tile_centre()
    wcs.wcs.crpix = [SIZE // 2 + 1] * 2
    wcs.wcs.cdelt = [-CELL, CELL]
    return wcs


@pytest.fixture(scope="module")
def beam(ms):
    return beam_of(read_sidecar(ms, ApplyFigures).figures)


def beam_of(figures):
    weights = figures.weights
    return TileBeam.from_pointing(
        figures.pointing, weights.time_mjd, weights.freq_hz, weights.weight
    )


def place(wcs, ra, dec):
    """Return a pixel position as two plain numbers."""
    x, y = wcs.all_world2pix(ra, dec, 0)
    return float(x), float(y)


def catalog(sky):
    return pd.DataFrame(
        {"ra_deg": sky.ra_deg, "dec_deg": sky.dec_deg, "flux_jy": sky.flux_jy, "alpha": 0.0}
    )


@pytest.mark.parametrize(
    ("changes", "left_over"),
    [
        ({}, 1e-5),
        ({"scale": 1.0001}, 1e-5),
        # Within an average the beam changes, too, and fringes do not turn evenly.
        ({"averaged": (6, 1)}, 1e-3),
        ({"averaged": (4, 3)}, 3e-3),
    ],
)
def test_subtraction_leaves_nothing_of_a_known_sky(sky, wcs, changes, left_over, tmp_path):
    from casacore.tables import table

    size = {"n_antennas": 8, "n_channels": 96, "n_times": 8}
    path = imaging_data.write_tile(tmp_path / "20260128T213600.cal.ms", sky, **size, **changes)
    tile, figures = read_tile(path), read_sidecar(path, ApplyFigures).figures
    beam, averaging = beam_of(figures), figures.averaging
    smearing = Smearing(
        tile.dec_deg,
        averaging.channels,
        averaging.integrations,
        tile.width_hz[0],
        tile.interval_s[0],
    )
    seeds = bright_sources.choose(catalog(sky), beam, wcs, 0.0, 10, figures.aberration_scale)
    before = table(str(path), ack=False).getcol("DATA")
    emptied = bright_sources.subtract(tile, seeds, beam, smearing, tmp_path / "copy.ms", threads=2)
    left = table(str(emptied.path), ack=False).getcol("DATA")
    assert np.abs(before).max() > 0.5
    assert np.abs(left).max() < left_over * np.abs(before).max()
    assert np.array_equal(table(str(path), ack=False).getcol("DATA"), before)


@pytest.mark.parametrize("n_chan", [1, 2, 7, 48])
@pytest.mark.parametrize("uniform", [True, False])
def test_prediction_is_the_fourier_sum(n_chan, uniform):
    rng = np.random.default_rng(n_chan)
    freq = 1.3e9 + 4e6 * np.arange(n_chan) + (0 if uniform else rng.uniform(0, 1e6, n_chan))
    uvw, moment = rng.normal(0, 900, (20, 3)), rng.integers(0, 3, 20)
    directions, amplitude = rng.normal(0, 0.02, (4, 3)), rng.uniform(0, 1, (4, 3, n_chan))
    found = bright_sources._predict(uvw, moment, directions, amplitude, freq, SHARP)
    phase = np.einsum("rk,sk,c->src", uvw, directions, freq / 299792458.0)
    expected = (amplitude[:, moment] * np.exp(2j * np.pi * phase)).sum(axis=0)
    assert np.abs(found - expected).max() < 1e-8


def test_choice_is_by_apparent_flux(sky, wcs, beam):
    seeds = bright_sources.choose(catalog(sky), beam, wcs, 0.05, 10)
    assert len(seeds) == 3
    assert list(seeds.ra_deg) == list(sky.ra_deg[:3])
    response = beam.response(sky.ra_deg[:3], sky.dec_deg[:3])
    assert seeds.apparent_jy == pytest.approx(sky.flux_jy[:3] * response, rel=1e-5)
    assert len(bright_sources.choose(catalog(sky), beam, wcs, 0.05, 2)) == 2


def test_spectra_follow_the_catalogue(sky, wcs, beam):
    table = catalog(sky).assign(alpha=-0.8)
    seeds = bright_sources.choose(table, beam, wcs, 0.05, 1)
    assert seeds.spectra_jy[0] == pytest.approx((beam.freq_hz / 1.4e9) ** -0.8)


def test_restored_seeds_are_beams_at_their_places(sky, wcs, beam):
    seeds = bright_sources.choose(catalog(sky), beam, wcs, 0.05, 10)
    image = bright_sources.add_to_image(
        np.zeros((SIZE, SIZE), np.float32), seeds, (36 / 3600, 18 / 3600, 30.0), wcs
    )
    y, x = np.mgrid[:SIZE, :SIZE]
    for ra, dec, flux in zip(seeds.ra_deg, seeds.dec_deg, seeds.apparent_jy, strict=True):
        px, py = place(wcs, ra, dec)
        near = np.hypot(x - px, y - py) < 20
        total = image[near].sum()
        beam_area = np.pi * 6 * 3 / 4 / np.log(2)
        assert total == pytest.approx(flux * beam_area, rel=1e-3)
        centre = (image * x)[near].sum() / total, (image * y)[near].sum() / total
        assert centre == pytest.approx((px, py), abs=1e-3)
        assert image[near].max() <= flux * (1 + 1e-6)


def test_model_keeps_flux_and_place(sky, wcs, beam):
    seeds = bright_sources.choose(catalog(sky), beam, wcs, 0.3, 1)
    model = bright_sources.add_to_model(np.zeros((SIZE, SIZE), np.float32), seeds, wcs)
    y, x = np.nonzero(model)
    flux = model[y, x]
    assert len(flux) <= 4
    assert flux.sum() == pytest.approx(seeds.apparent_jy[0], rel=1e-5)
    px, py = place(wcs, seeds.ra_deg[0], seeds.dec_deg[0])
    assert ((flux * x).sum() / flux.sum(), (flux * y).sum() / flux.sum()) == pytest.approx(
        (px, py), abs=1e-2
    )


def test_mask_is_circles(sky, wcs):
    image = bright_sources.mask(catalog(sky), wcs, SIZE, 60.0)
    assert image.sum() == pytest.approx(4 * np.pi * 10**2, rel=0.05)
    px, py = place(wcs, sky.ra_deg[1], sky.dec_deg[1])
    assert image[round(py), round(px) + 9] == 1
    assert image[round(py), round(px) + 12] == 0


def test_sources_outside_the_image_are_taken_out_but_not_put_back(wcs, beam):
    centre_ra, centre_dec = wcs.wcs.crval
    # 1.5 deg south is beyond the image, 2.6 deg within the main lobe, 3.4 deg past its first null.
    far = pd.DataFrame(
        {
            "ra_deg": centre_ra,
            "dec_deg": centre_dec - np.array([1.5, 2.6, 3.4]),
            "flux_jy": 100.0,
            "alpha": 0.0,
        }
    )
    seeds = bright_sources.choose(far, beam, wcs, 0.001, 10)
    assert list(centre_dec - seeds.dec_deg) == pytest.approx([1.5, 2.6])
    blank = np.zeros((SIZE, SIZE), np.float32)
    assert not bright_sources.add_to_image(blank, seeds, (0.01, 0.005, 30.0), wcs).any()
    assert not bright_sources.add_to_model(blank, seeds, wcs).any()


def test_spectra_are_corrected_by_the_visibilities(ms, sky, wcs, beam, tmp_path):
    """Fluxes 10 % and spectral indices 0.5 off."""
    tile = read_tile(ms)
    wrong = catalog(sky).assign(flux_jy=sky.flux_jy * [1.1, 0.9, 1.1, 1.0], alpha=0.5)
    seeds = bright_sources.choose(wrong, beam, wcs, 0.0, 10).head(3)
    for step in range(3):
        left = bright_sources.subtract(tile, seeds, beam, SHARP, tmp_path / f"{step}.ms")
        seeds = bright_sources.corrected(left, seeds, beam, SHARP, bands=5, threads=2)
    assert seeds.spectra_jy == pytest.approx(np.repeat(sky.flux_jy[:3, None], 5, axis=1), rel=0.02)
