import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from dsa110_contimg.catalogs.catalogue import iau_name
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.options import PhotometryOptions
from dsa110_contimg.photometry.fit import forced_fit, noise_autocorrelation
from dsa110_contimg.photometry.images import SkyPlane
from dsa110_contimg.photometry.measure import COLUMNS, measure, position_offset
from support.steps import run_step
from support.synthetic_images import (
    FREQ_HZ,
    add_sources,
    beam_matrix,
    gaussian_beam,
    header,
    smooth_noise,
    write_tile,
)

BEAM = (36.0, 26.0, 30.0)
BEAM_DEG = (36 / 3600, 26 / 3600, 30.0)
RMS = 1e-3


def scene(shape=(900, 900), centre=(30.0, 33.0), spacing=75, snr=(5, 50), noise_px=3.6, seed=1):
    """Plane with sources on a jittered grid; returns plane, x, y, flux."""
    rng = np.random.default_rng(seed)
    grid = np.arange(60, min(shape) - 60, spacing)
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, g.size) for g in np.meshgrid(grid, grid))
    flux = RMS * rng.uniform(*snr, x.size)
    data = add_sources(smooth_noise(shape, RMS, noise_px, rng), x, y, flux, beam_matrix(BEAM, 6))
    wcs = WCS(header(shape, centre), fix=False).celestial
    return SkyPlane(data, wcs, BEAM_DEG, freq_hz=FREQ_HZ, mjd=61000.0), x, y, flux


def fit(plane, x, y):
    return forced_fit(plane, *plane.wcs.all_pix2world(x, y, 0))


def test_noiseless_flux_is_exact_at_any_subpixel_position():
    rng = np.random.default_rng(3)
    x, y = 100 + 60 * np.arange(8) + rng.uniform(-0.5, 0.5, (2, 8))
    data = add_sources(np.zeros((640, 640)), x, y, np.full(8, 2.0), beam_matrix(BEAM, 6))
    # Noise far below: an image of zeros has no annulus noise.
    data += smooth_noise(data.shape, 1e-9, 3.6, rng)
    plane = SkyPlane(data, WCS(header(data.shape, (30.0, 33.0)), fix=False).celestial, BEAM_DEG)
    assert fit(plane, x, y).flux == pytest.approx(np.full(8, 2.0), rel=2e-5)


@pytest.mark.parametrize("noise_px", [2.5, 3.6, 5.1])
def test_pulls_of_isolated_sources(noise_px):
    pulls = []
    for seed in range(5):
        plane, x, y, flux = scene(noise_px=noise_px, seed=seed)
        result = fit(plane, x, y)
        assert not result.blended.any()
        pulls.append((result.flux - flux) / result.error)
    pulls = np.concatenate(pulls)
    assert pulls.size > 500
    assert abs(pulls.mean()) < 0.1
    assert 0.9 < pulls.std() < 1.1


def test_pulls_of_blends_down_to_one_beam():
    pulls = []
    for seed in range(5):
        plane, x, y, flux = scene(seed=10 + seed)
        rng = np.random.default_rng(seed)
        angle, apart = rng.uniform(0, 2 * np.pi, x.size), rng.uniform(1, 1.5, x.size) * 6
        x2, y2 = x + apart * np.cos(angle), y + apart * np.sin(angle)
        flux2 = RMS * rng.uniform(5, 50, x.size)
        add_sources(plane.data, x2, y2, flux2, beam_matrix(BEAM, 6))
        result = fit(plane, np.r_[x, x2], np.r_[y, y2])
        assert result.blended.all()
        pulls.append((result.flux - np.r_[flux, flux2]) / result.error)
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 0.1
    assert 0.9 < pulls.std() < 1.1


def test_completeness_at_nine_sigma():
    """Sources of nine times the noise are detected at five, above 95 %; at seven, above 90 %."""
    for snr, least in ((9, 0.95), (7, 0.9)):
        found = []
        for seed in range(3):
            plane, x, y, _ = scene(snr=(snr, snr), seed=20 + seed)
            result = fit(plane, x, y)
            found.append(result.flux / result.error > 5)
        assert np.mean(found) > least


def test_joint_fit_separates_what_single_fits_do_not():
    x, y, flux = np.array([100.2, 103.1]), np.array([100.4, 102.0]), np.array([1.0, 0.3])
    data = add_sources(np.zeros((300, 300)), x, y, flux, beam_matrix(BEAM, 6))
    data += smooth_noise(data.shape, 1e-9, 3.6, np.random.default_rng(0))
    plane = SkyPlane(data, WCS(header(data.shape, (30.0, 33.0)), fix=False).celestial, BEAM_DEG)
    both, alone = fit(plane, x, y), fit(plane, x[1:], y[1:])
    assert both.flux == pytest.approx(flux, rel=1e-4)
    assert both.blended.all() and not alone.blended.any()
    assert alone.flux[0] > 1.5 * flux[1]


def test_flux_does_not_follow_an_error_in_the_beam():
    plane, x, y, flux = scene(snr=(500, 600))
    wide = add_sources(np.zeros_like(plane.data), x, y, flux, 1.05**2 * beam_matrix(BEAM, 6))
    wide += smooth_noise(wide.shape, RMS, 5.1, np.random.default_rng(0))
    ratio = fit(SkyPlane(wide, plane.wcs, BEAM_DEG), x, y).flux / flux
    assert np.median(ratio) == pytest.approx(1, abs=0.01)


def test_autocorrelation_of_smoothed_noise():
    """White noise smoothed with a Gaussian of FWHM w has an autocorrelation of FWHM w sqrt(2)."""
    noise = smooth_noise((800, 800), 1.0, 4.0, np.random.default_rng(5))
    noise[100:140, 100:140] += 50
    noise[:, 700:] = np.nan
    acf = noise_autocorrelation(noise, 12, 6)
    lag = np.arange(-12, 13)
    expected = np.exp(-4 * np.log(2) * (lag**2 + lag[:, None] ** 2) / (2 * 4.0**2))
    assert acf == pytest.approx(expected, abs=0.03)
    assert noise_autocorrelation(np.full((50, 50), np.nan), 5, 3) is None


def test_centroids_and_position_offset():
    plane, x, y, _ = scene(snr=(100, 200))
    moved = fit(plane, x - 0.4, y + 0.3)  # measured 0.4 px west of where they are, and 0.3 north
    shift = 3600 * np.median(moved.shift_deg, axis=0)
    assert shift == pytest.approx([-0.4 * 6, -0.3 * 6], abs=0.05)  # +x is west
    table = pd.DataFrame(
        {
            "snr": np.full(x.size, 100.0),
            "flags": "",
            "shift_ra_deg": moved.shift_deg[:, 0],
            "shift_dec_deg": moved.shift_deg[:, 1],
            "moved": False,
        }
    )
    offset = position_offset(table)
    assert offset.n == x.size
    assert offset.ra_offset_arcsec == pytest.approx(-2.4, abs=0.05)
    assert 0 < offset.error_arcsec < 0.05
    shown = np.array(offset.brightest)
    assert shown.shape == (min(x.size, 100), 3)
    assert np.median(shown[:, :2], axis=0) == pytest.approx([-2.4, -1.8], abs=0.05)
    assert position_offset(table[:2]) is None


def test_fluxes_follow_an_offset_of_the_whole_image():
    """An image 2 px (a third of a beam) off the catalogue loses a fifth of the flux, or none."""
    plane, x, y, flux = scene(snr=(50, 200))
    ra, dec = plane.wcs.all_pix2world(x - 1.4, y + 1.0, 0)
    catalog = pd.DataFrame({"name": [str(i) for i in range(x.size)], "ra_deg": ra, "dec_deg": dec})
    catalog = catalog.assign(flux_jy=flux, alpha=0.0)
    plane = SkyPlane(
        plane.data, plane.wcs, BEAM_DEG, None, np.ones_like(plane.data), freq_hz=FREQ_HZ
    )
    options = PhotometryOptions(min_flux_jy=0)
    table = measure(plane, catalog, options)
    assert np.median(table.flux_jy / flux) == pytest.approx(1, abs=0.003)
    assert table.ra_deg.to_numpy() == pytest.approx(ra)
    offset = position_offset(table)
    assert offset.followed and offset.ra_offset_arcsec == pytest.approx(-1.4 * 6, abs=0.1)
    fixed = measure(plane, catalog, options.model_copy(update={"follow_offset": False}))
    assert np.median(fixed.flux_jy / flux) < 0.85
    ra, dec = plane.wcs.all_pix2world(x, y, 0)
    at_catalogue = catalog.assign(ra_deg=ra, dec_deg=dec)
    assert not measure(plane, at_catalogue, options).moved.any()


def test_edges_and_blanks():
    plane, x, y, flux = scene(snr=(200, 300))
    plane.data[:, 450:] = np.nan
    xs = np.array([x[0], 447.0, 451.0, 460.0, 899.0, -3.0])
    ys = np.array([y[0], 300.0, 300.0, 300.0, 899.0, 300.0])
    result = fit(plane, xs, ys)
    assert result.flux[0] == pytest.approx(flux[0], rel=0.02)
    assert np.isfinite(result.flux[1]) and result.coverage[1] < 0.99
    assert np.isnan(result.flux[2:]).all() and np.isnan(result.error[2:]).all()


def tile(folder, centre=(0.4, 33.0), shape=(900, 900), verdict="pass"):
    """A tile across RA 0 with its beam and a catalogue; fluxes in the image are attenuated."""
    plane, x, y, flux = scene(shape, centre, snr=(10, 100))
    head = header(shape, centre)
    pb = gaussian_beam(head, shape, (centre[0] + 0.2, centre[1] + 0.1), fwhm_deg=1.2)
    data = smooth_noise(shape, RMS, 3.6, np.random.default_rng(2))
    add_sources(data, x, y, flux * pb[np.rint(y).astype(int), np.rint(x).astype(int)],
                beam_matrix(BEAM, 6))  # fmt: skip
    image = write_tile(folder, "20260125T012345", head, data, pb, RMS, verdict, ["test"])
    ra, dec = plane.wcs.all_pix2world(x, y, 0)
    catalog = pd.DataFrame(
        {"name": [f"S{i}" for i in range(x.size)], "ra_deg": ra % 360, "dec_deg": dec}
    ).assign(flux_jy=flux, alpha=-0.7)
    catalog.loc[len(catalog)] = ["far", 120.0, 33.0, 1.0, 0.0]
    catalog.loc[len(catalog)] = ["behind", 180.4, -33.0, 1.0, 0.0]
    catalog.to_csv(folder / "catalog.csv", index=False)
    return image, catalog, pb, (x, y)


def run(folder, image, *options):
    out = folder / "out.csv"
    command = ["photometry", image, out, "--catalog", folder / "catalog.csv", *options]
    assert run_step(*command) == 0
    return pd.read_csv(out, keep_default_na=True), json.loads((folder / "out.csv.json").read_text())


def test_table_of_a_tile(tmp_path):
    image, catalog, pb, (x, y) = tile(tmp_path)
    table, sidecar = run(tmp_path, image, "--min-flux-jy", "0", "--pb-limit", "0.3")
    assert tuple(table.columns) == COLUMNS
    response = pb[np.rint(y).astype(int), np.rint(x).astype(int)]
    # Every source in the field is there, detected or not, and no other.
    assert set(table.source_id) == set(catalog.name[:-2][response >= 0.3])
    assert {n.ra > 180 for n in table.rename(columns={"ra_deg": "ra"}).itertuples()} == {
        True,
        False,
    }
    merged = table.merge(catalog.rename(columns={"name": "source_id"}), on="source_id")
    assert merged.catalog_flux_jy.to_numpy() == pytest.approx(merged.flux_jy_y.to_numpy(), rel=1e-6)
    pull = (merged.flux_jy_x - merged.flux_jy_y) / merged.flux_err_jy
    assert abs(pull.mean()) < 0.35 and 0.75 < pull.std() < 1.25  # about 60 sources
    # Noise and limits are those of the corrected flux.
    assert (table.local_rms_jy * table.pb).median() == pytest.approx(RMS, rel=0.05)
    detected = table.snr >= 5
    assert table.upper_limit_jy[detected].isna().all()
    faint = table[~detected]
    assert len(faint) and (faint.upper_limit_jy / faint.local_rms_jy).tolist() == pytest.approx(
        [5] * len(faint), rel=1e-6
    )
    first = table.iloc[0]
    assert first["name"] == iau_name(first.ra_deg, first.dec_deg)
    assert first.group_or_epoch == "20260125T012345"
    assert first.image == image.name
    assert first.mjd == 61000.0
    assert sidecar["verdict"] == "pass"
    assert sidecar["qa"]["n_sources"] == len(table)
    assert len(sidecar["qa"]["image_sha256"]) == 64
    assert abs(sidecar["qa"]["astrometry"]["ra_offset_arcsec"]) < 1


def test_spectral_index_reaches_the_catalogue_flux(tmp_path):
    plane, x, y, _ = scene()
    ra, dec = plane.wcs.all_pix2world(x[:2], y[:2], 0)
    catalog = pd.DataFrame(
        {"name": ["a", "b"], "ra_deg": ra, "dec_deg": dec, "flux_jy": 1.0, "alpha": [-1.0, 0.0]}
    )
    at_double = SkyPlane(
        plane.data, plane.wcs, BEAM_DEG, None, np.ones_like(plane.data), freq_hz=2.8e9
    )
    table = measure(at_double, catalog, PhotometryOptions())
    assert table.catalog_flux_jy.tolist() == pytest.approx([0.5, 1.0])


def test_failed_image_is_measured_and_marked(tmp_path):
    image, *_ = tile(tmp_path, verdict="fail")
    table, sidecar = run(tmp_path, image)
    assert len(table) and sidecar["verdict"] == "fail" and "test" in sidecar["reasons"][0]


def test_image_without_a_beam_keeps_every_row(tmp_path):
    image, *_ = tile(tmp_path)
    with fits.open(image, mode="update") as hdus:
        hdus[0].header["BMAJ"] = 0.0
        hdus[0].data[:] = np.nan
    table, sidecar = run(tmp_path, image)
    assert len(table) and table.flux_jy.isna().all()
    assert set(table["flags"]) == {"blank"}
    assert sidecar["verdict"] == "fail"


def test_absent_companions_are_named(tmp_path, capsys):
    image, *_ = tile(tmp_path)
    (tmp_path / "20260125T012345.pb.fits").unlink()
    command = ["photometry", str(image), "out.csv", "--catalog", str(tmp_path / "catalog.csv")]
    assert run_step(*command) == DataError.status
    assert "20260125T012345.pb.fits" in capsys.readouterr().err
