"""Images by the real imagers of visibilities that an explicit Fourier sum made."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from dsa110_contimg.core.options import PhotometryOptions
from dsa110_contimg.imaging.tile import KINDS
from dsa110_contimg.photometry import images as photometry_images
from dsa110_contimg.photometry import measure as photometry
from dsa110_contimg.reports.judge import judge_night
from support import imaging_data
from support.steps import run_step

SIZE = 1440  # 2.4 deg


def random_field(n=30, reach=1.05, seed=4):
    """Sources at random places, none closer than 5 arcmin, 30 mJy to 1 Jy."""
    rng = np.random.default_rng(seed)
    places = []
    while len(places) < n:
        place = rng.uniform(-reach, reach, 2)
        if all(np.hypot(*(place - other)) > 0.08 for other in places):
            places.append(place)
    east, north = np.array(places).T
    return imaging_data.offsets_to_sky(east, north, 10 ** rng.uniform(-1.5, 0, n))


def catalog_of(sky, flux_error=0.0, seed=8):
    """Return a catalogue whose fluxes are wrong by a relative error, flat spectra."""
    wrong = np.random.default_rng(seed).normal(1, flux_error, len(sky.flux_jy))
    return pd.DataFrame(
        {
            "name": [f"s{k}" for k in range(len(sky.flux_jy))],
            "ra_deg": sky.ra_deg,
            "dec_deg": sky.dec_deg,
            "flux_jy": sky.flux_jy * wrong,
            "alpha": 0.0,
        }
    )


def image(folder, ms, *options, catalog=None):
    """Run the step; return its sidecar and, of a true catalogue, the photometry."""
    prefix = folder / "20260128T213600"
    arguments = [str(ms), str(prefix), "--threads", "2", "--size-px", str(SIZE), *options]
    if catalog is not None:
        catalog.to_csv(folder / "catalog.csv", index=False)
        arguments += ["--catalog", str(folder / "catalog.csv")]
    assert run_step("image", *arguments) == 0
    return json.loads((folder / f"{prefix.name}.image.fits.json").read_text())


def measured(folder, sky):
    """Photometry against the true sky: ratio, offsets (arcsec), distance and direction (deg)."""
    with photometry_images.open_planes(folder / "20260128T213600.image.fits") as planes:
        table = photometry.measure(planes[0], catalog_of(sky), PhotometryOptions(pb_limit=0.3))
    ra0, dec0 = imaging_data.tile_centre()
    expected_snr = table.catalog_flux_jy / table.local_rms_jy
    table = table[(expected_snr > 20) & (table["flags"] == "")]
    return table.assign(
        ratio=table.flux_jy / table.catalog_flux_jy,
        east=(table.ra_deg - ra0) * np.cos(np.deg2rad(table.dec_deg)),
        north=table.dec_deg - dec0,
        shift=3600 * np.hypot(table.shift_ra_deg, table.shift_dec_deg),
    )


def trend(table, by):
    """Return the relative change of the flux ratio over one degree, with its error."""
    coefficients, covariance = np.polyfit(by, table.ratio, 1, cov=True)
    return coefficients[0], np.sqrt(covariance[0, 0])


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """A noisy tile seen through the drifting beam, and its sky.

    Aberration magnifies it five times as much as the Earth's motion ever does.
    """
    sky = random_field()
    ms = tmp_path_factory.mktemp("field") / "20260128T213600.cal.ms"
    size = {"n_antennas": 80, "n_channels": 6, "n_times": 4}
    imaging_data.write_tile(ms, sky, noise=True, scale=1.0005, **size)
    return ms, sky


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "table.lock")
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


@pytest.fixture(scope="module")
def imaged(field, tmp_path_factory):
    """The tile imaged with a catalogue whose fluxes are 20 % wrong."""
    ms, sky = field
    folder = tmp_path_factory.mktemp("imaged")
    before = digest(ms)
    record = image(folder, ms, catalog=catalog_of(sky, flux_error=0.2))
    assert digest(ms) == before  # products are never changed after they are made
    return folder, record


def test_fluxes_and_positions_are_those_of_the_sky(field, imaged):
    folder, record = imaged
    table = measured(folder, field[1])
    assert len(table) >= 20
    stretch = record["qa"]["catalog"]["astrometry"]["gradient_arcsec_per_deg"]
    assert np.abs(stretch).max() < 0.3  # the magnification is 1.8 arcsec per degree
    assert table.ratio.median() == pytest.approx(1, abs=0.01)
    assert 1.4826 * (table.ratio - table.ratio.median()).abs().median() < 0.03
    header = fits.getheader(folder / "20260128T213600.image.fits")
    assert table["shift"].median() < header["BMIN"] * 3600 / 20
    for by in (np.hypot(table.east, table.north), table.east, table.north):
        slope, error = trend(table, by)
        assert abs(slope) < 0.02 + 2 * error


def test_quick_images_have_the_same_fluxes(field, tmp_path):
    """It cleans in the image alone; sources that the catalogue is wrong about are in it, too."""
    ms, sky = field
    record = image(tmp_path, ms, "--preset", "quick", catalog=catalog_of(sky, flux_error=0.2))
    assert "-mgain 1 " in " ".join(record["commands"][0])
    table = measured(tmp_path, sky)
    assert len(table) >= 15
    assert table.ratio.median() == pytest.approx(1, abs=0.01)
    assert 1.4826 * (table.ratio - table.ratio.median()).abs().median() < 0.03


def test_sidecar_says_what_was_done_and_how_good_it_is(imaged):
    _, record = imaged
    qa = record["qa"]
    assert record["verdict"] == "pass", record["reasons"]
    assert record["commands"][0][0] == "wsclean"
    assert record["tools"]["wsclean"].startswith("3.")
    assert {"weights", "seeds", "imager", "total"} <= set(record["timings_s"])
    assert 0.9 < qa["rms_over_thermal"] < 1.5
    assert qa["dynamic_range"] > 500
    assert qa["catalog"]["completeness"] == 1
    assert qa["catalog"]["pointing_offset"]["significance"] < 4
    assert qa["beam_major_arcsec"] > qa["beam_minor_arcsec"] > 15


def test_products_are_complete(imaged):
    folder, record = imaged
    planes = {}
    for kind in KINDS:
        with fits.open(folder / f"20260128T213600.{kind}.fits", memmap=False) as hdus:
            hdus.verify("exception")
            assert hdus[0].data.shape == (1, 1, SIZE, SIZE)
            assert hdus[0].header["QASTATUS"] == record["verdict"]
            planes[kind] = hdus[0].data[0, 0]
    outside = planes["pb"] < 0.2
    assert np.array_equal(np.isnan(planes["pbcor"]), outside)
    assert 0.9 < planes["pb"].max() < 1
    inside = ~outside
    assert np.allclose(
        planes["pbcor"][inside] * planes["pb"][inside], planes["image"][inside], rtol=1e-5
    )
    assert planes["psf"][SIZE // 2, SIZE // 2] == pytest.approx(1, abs=1e-3)
    header = fits.getheader(folder / "20260128T213600.image.fits")
    assert "WSCNVIS" in header
    assert header["CALTBL"] == "20260121T000000"
    assert header["CALDATE"] == "2026-01-21T00:00:00"
    assert header["CDELT2"] == pytest.approx(6 / 3600 / 1.0005, rel=1e-12)
    assert 0.5 < header["QASCORE"] <= 1.1
    assert {"PIPEVERS", "CFGHASH", "CHANAVG", "PBLIMIT", "RMSTHEO", "RMSMEAS"} <= set(header)
    if shutil.which("fitsverify"):
        for kind in KINDS:
            path = folder / f"20260128T213600.{kind}.fits"
            done = subprocess.run(["fitsverify", "-q", path], capture_output=True, text=True)
            assert done.stdout.startswith("verification OK"), done.stdout


def test_without_catalogue_it_is_as_right_and_less_deep(field, imaged, tmp_path):
    ms, sky = field
    record = image(tmp_path, ms)
    table = measured(tmp_path, sky)
    assert table.ratio.median() == pytest.approx(1, abs=0.01)
    assert record["qa"]["rms_jy"] > imaged[1]["qa"]["rms_jy"]
    assert "catalog" not in record["qa"]


def test_noise_only_reaches_thermal(tmp_path):
    ms = tmp_path / "20260128T213600.cal.ms"
    empty = imaging_data.offsets_to_sky([], [], [])
    imaging_data.write_tile(ms, empty, noise=True, n_antennas=50, n_channels=6, n_times=4)
    qa = image(tmp_path, ms, "--size-px", "1200")["qa"]
    assert qa["rms_over_thermal"] == pytest.approx(1, abs=0.05)
    assert qa["residual_std_jy"] / qa["thermal_rms_jy"] == pytest.approx(1, abs=0.05)
    assert qa["thermal_rms_jy"] >= qa["thermal_natural_rms_jy"]


def test_mispointed_beam_is_reported_with_its_direction(tmp_path):
    """By the tile, and by the night that it is of."""
    sky = random_field(seed=11)
    night = tmp_path / "nights" / "2026-01-28"
    folder = night / "groups" / "20260128T213600"
    folder.mkdir(parents=True)
    ms = tmp_path / "20260128T213600.cal.ms"
    imaging_data.write_tile(
        ms, sky, noise=True, n_antennas=60, n_channels=4, n_times=4, beam_offset_deg=(0.0, 0.23)
    )
    record = image(folder, ms, catalog=catalog_of(sky))
    offset = record["qa"]["catalog"]["pointing_offset"]
    assert offset["north_deg"] == pytest.approx(0.23, abs=0.05)
    assert offset["east_deg"] == pytest.approx(0, abs=0.05)
    assert record["verdict"] == "warn"
    assert any("mispointed" in reason for reason in record["reasons"])
    judged = judge_night(night)
    assert judged["pointing"]["north_deg"] == pytest.approx(0.23, abs=0.05)
    (reason,) = (text for text in judged["reasons"] if text.startswith("beams are mispointed"))
    assert " deg north" in reason


def test_tile_without_data_is_blank_and_fails(field, tmp_path):
    from casacore.tables import table

    ms = tmp_path / "20260128T213600.cal.ms"
    shutil.copytree(field[0], ms)
    shutil.copy(f"{field[0]}.json", f"{ms}.json")
    with table(str(ms), ack=False, readonly=False) as main_table:
        main_table.putcol("FLAG", main_table.getcol("FLAG") | True)
    record = image(tmp_path, ms)
    assert record["verdict"] == "fail"
    assert "every visibility is flagged" in record["reasons"][0]
    assert np.isnan(fits.getdata(tmp_path / "20260128T213600.image.fits")).all()


def test_averaging_costs_no_flux(tmp_path):
    """Averages so long that this small field suffers as a whole tile does in practice."""
    angle, radius = np.arange(12) * 2.4, np.linspace(0.05, 0.36, 12)
    sky = imaging_data.offsets_to_sky(radius * np.sin(angle), radius * np.cos(angle), np.ones(12))
    flux = {}
    for name, averaged, seeds in (
        ("sharp", (1, 1), 0),
        ("smeared", (6, 2), 0),
        ("seeds", (6, 2), 12),
    ):
        folder = tmp_path / name
        folder.mkdir()
        ms = folder / "20260128T213600.cal.ms"
        size = {"n_antennas": 60, "n_channels": 24, "n_times": 4}
        imaging_data.write_tile(ms, sky, noise=True, averaged=averaged, **size)
        options = ["--size-px", "480", "--seed-most", str(seeds)]
        image(folder, ms, *options, catalog=catalog_of(sky, flux_error=0.1))
        flux[name] = measured(folder, sky).set_index("source_id").flux_jy
        assert len(flux[name]) == 12
    ratio = flux["smeared"] / flux["sharp"]
    assert ratio.median() == pytest.approx(1, abs=0.002)
    assert (ratio - 1).abs().max() < 0.005
    assert (flux["seeds"] - 1).abs().max() < 0.005
    response = fits.getdata(tmp_path / "smeared" / "20260128T213600.pb.fits")[0, 0]
    assert response[240, 240] / response[10, 240] > 1.02  # of which the beam has 0.3 %


@pytest.mark.slow
def test_tclean_agrees_with_wsclean(field, imaged, tmp_path):
    ms, sky = field
    image(tmp_path, ms, "--engine", "tclean", catalog=catalog_of(sky, flux_error=0.2))
    ours, theirs = (measured(f, sky).set_index("source_id") for f in (imaged[0], tmp_path))
    ratio = (ours.flux_jy / theirs.flux_jy).dropna()
    assert len(ratio) >= 20
    assert ratio.median() == pytest.approx(1, abs=0.02)
    assert ratio.std() < 0.02


@pytest.mark.slow
def test_deep_reaches_the_dynamic_range_that_calibration_allows(tmp_path):
    """10 Jy near the centre, gains wrong by 1 % and 1 deg."""
    sky = imaging_data.offsets_to_sky([0.11, -0.4, 0.6], [-0.07, 0.5, 0.2], [10.0, 0.1, 0.2])
    ms = tmp_path / "20260128T213600.cal.ms"
    imaging_data.write_tile(
        ms, sky, noise=True, n_antennas=96, n_channels=16, n_times=6, gain_error=(0.01, 1.0)
    )
    record = image(
        tmp_path, ms, "--preset", "deep", "--size-px", "2880", catalog=catalog_of(sky, 0.1)
    )
    assert record["qa"]["dynamic_range"] > 3000
