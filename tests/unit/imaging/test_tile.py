"""What surrounds the imager: headers, noise map, verdict, and what happens when it fails."""

import json
import os
import shutil
import stat
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from dsa110_contimg.core.errors import MARK, ConfigError
from dsa110_contimg.core.figures import ImageFigures
from dsa110_contimg.core.options import ImagingOptions
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.imaging import judge as image_judge
from dsa110_contimg.imaging import tclean
from dsa110_contimg.imaging.presets import optional_products, resolve
from dsa110_contimg.imaging.tile import KINDS
from dsa110_contimg.imaging.weights import Weighting
from dsa110_contimg.maps import fits_headers
from dsa110_contimg.maps import noise as map_noise
from dsa110_contimg.ms.tile import Tile
from support import imaging_data
from support.figures import example
from support.steps import run_step

SMALL = ["--size-px", "256", "--cell-arcsec", "12"]


@pytest.fixture(scope="module")
def ms(tmp_path_factory):
    path = tmp_path_factory.mktemp("imaging") / "20260128T213600.cal.ms"
    sky = imaging_data.offsets_to_sky([0.1], [0.1], [1.0])
    return imaging_data.write_tile(path, sky, n_antennas=8, n_channels=2, n_times=2)


@pytest.fixture
def fake_wsclean(tmp_path, monkeypatch):
    """Return a function that puts a shell script in WSClean's place."""

    def install(script: str):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "wsclean"
        program.write_text(
            '#!/bin/sh\nif [ "$1" = --version ]; then echo WSClean version 3.1.0; exit; fi\n'
            + script
        )
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return install


def sidecar_of(prefix):
    return json.loads((prefix.parent / f"{prefix.name}.image.fits.json").read_text())


# --- failures -------------------------------------------------------------------------------------


def test_imager_that_diverges_twice_leaves_blank_products(ms, tmp_path, fake_wsclean):
    fake_wsclean("echo 'Initial peak: 1 Jy at 1,1'; echo 'Initial peak: 9 Jy at 1,1'; sleep 60")
    prefix = tmp_path / "out" / "20260128T213600"
    assert run_step("image", str(ms), str(prefix), *SMALL) == 0
    record = sidecar_of(prefix)
    assert record["verdict"] == "fail"
    assert sum("diverges" in r for r in record["reasons"]) == 2
    first, second = record["commands"]
    assert first[first.index("-mgain") + 1] == "0.95"
    assert second[second.index("-mgain") + 1] == "0.6"
    for kind in KINDS:
        data = fits.getdata(f"{prefix}.{kind}.fits")
        assert np.isfinite(data).all() if kind == "pb" else np.isnan(data).all()
    assert sorted(p.name for p in prefix.parent.iterdir() if p.name.startswith(".")) == []


def test_imager_that_diverges_once_is_run_again_with_safer_settings(ms, tmp_path, fake_wsclean):
    program, once = shutil.which("wsclean"), tmp_path / "once"
    fake_wsclean(
        f'if [ -e {once} ]; then exec {program} "$@"; fi; touch {once}\n'
        "echo 'Initial peak: 1 Jy at 1,1'; echo 'Initial peak: 9 Jy at 1,1'; sleep 60"
    )
    prefix = tmp_path / "out" / "20260128T213600"
    assert run_step("image", str(ms), str(prefix), *SMALL) == 0
    record = sidecar_of(prefix)
    assert record["verdict"] != "fail"
    assert sum("attempt 1" in reason and "diverges" in reason for reason in record["reasons"]) == 1
    assert [line[line.index("-mgain") + 1] for line in record["commands"]] == ["0.95", "0.6"]
    assert np.isfinite(fits.getdata(f"{prefix}.image.fits")).all()


def test_imager_that_hangs_twice_is_a_failure(ms, tmp_path, fake_wsclean, capsys):
    fake_wsclean("sleep 60")
    prefix = tmp_path / "out" / "20260128T213600"
    assert run_step("image", str(ms), str(prefix), *SMALL, "--timeout-s", "1") == 4
    told = json.loads(capsys.readouterr().err.splitlines()[-1].removeprefix(MARK))
    assert told == {
        "cause": "compute",
        "message": "wsclean was stopped after its time limit of 1 s",
        "status": 4,
    }
    assert list(prefix.parent.iterdir()) == []


def test_imager_that_fails_leaves_nothing(ms, tmp_path, fake_wsclean, capsys):
    fake_wsclean("echo 'Unknown parameter: -foo'; exit 1")
    prefix = tmp_path / "out" / "20260128T213600"
    assert run_step("image", str(ms), str(prefix), *SMALL) == 4
    assert "Unknown parameter: -foo" in capsys.readouterr().err
    assert list(prefix.parent.iterdir()) == []


def test_absent_imager_is_one_line(ms, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_step("image", str(ms), str(tmp_path / "x"), *SMALL) == 4
    error, _ = capsys.readouterr().err.splitlines()  # one for people, one for programs
    assert "apt-get install wsclean" in error


def test_absent_sidecar_is_one_line(tmp_path, capsys):
    (tmp_path / "a.ms").mkdir()
    assert run_step("image", str(tmp_path / "a.ms"), str(tmp_path / "x")) == 3
    assert "a.ms.json" in capsys.readouterr().err


# --- headers --------------------------------------------------------------------------------------


def facts(**changes):
    tile = Tile(
        path=None,
        column="DATA",
        ra_deg=359.99,
        dec_deg=-12.5,
        name="tile",
        time_mjd=np.array([61000.0, 61000.001]),
        interval_s=np.array([86.4, 86.4]),
        freq_hz=np.array([1.35e9, 1.45e9]),
        width_hz=np.array([1e8, 1e8]),
        n_antennas=3,
    )
    values = {
        "tile": tile,
        "size_px": 100,
        "cell_arcsec": 6.0,
        "freq_hz": 1.41e9,
        "mean_mjd": 61000.0004,
        "exposure_s": 172.8,
        "beam": (0.01, 0.005, 90.0),
        "cards": {"WSCNITER": (5.0, "")},
        "history": ("wsclean -j 2",),
    }
    return fits_headers.ImageFacts(**values | changes)


@pytest.mark.parametrize("kind", KINDS)
def test_header_is_valid_and_says_where_and_when(kind, tmp_path):
    header = fits_headers.image_header(facts(), kind)
    path = tmp_path / "a.fits"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits.PrimaryHDU(np.zeros((1, 1, 100, 100), "f4"), header).writeto(
            path, output_verify="exception", checksum=True
        )
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            header = hdus[0].header
    assert [header[f"CTYPE{i}"] for i in (1, 2, 3, 4)] == ["RA---SIN", "DEC--SIN", "FREQ", "STOKES"]
    assert header["RADESYS"] == "ICRS"
    assert "EQUINOX" not in header
    assert 0 <= header["CRVAL1"] < 360
    assert header["CRVAL3"] == header["RESTFRQ"] == 1.41e9
    assert header["CDELT3"] == 2e8
    assert header["DATE-OBS"] == header["DATE-BEG"] == "2025-11-20T23:59:16.800"
    assert header["MJD-AVG"] == 61000.0004
    assert header["DURATION"] == pytest.approx(172.8)
    assert header["TELESCOP"] == "DSA-110"
    assert header["WSCNITER"] == 5
    assert ("BMAJ" in header) == (kind != "pb")
    assert header["BUNIT"] == {"model": "Jy/pixel", "pb": ""}.get(kind, "Jy/beam")


def test_coordinates_of_the_header():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(fits_headers.image_header(facts(), "image")).celestial
    assert wcs.all_pix2world(50, 50, 0) == pytest.approx((359.99, -12.5))
    ra, dec = wcs.all_pix2world(40, 60, 0)  # east is left, north is up
    east = (ra - 359.99 + 180) % 360 - 180
    assert east * np.cos(np.deg2rad(12.5)) == pytest.approx(60 / 3600, abs=1e-5)
    assert dec == pytest.approx(-12.5 + 60 / 3600, abs=1e-5)


def test_imager_cards_are_kept_and_its_coordinates_are_not():
    header = fits.Header()
    header["CRVAL1"], header["EQUINOX"], header["WSCVWSUM"] = -5.0, 2000.0, 7.0
    header["DATE-OBS"], header["BMAJ"] = "2000-01-01", 0.1
    header.add_history("wsclean -size 1 1")
    cards, history = fits_headers.imager_cards(header)
    assert cards == {"WSCVWSUM": (7.0, "")}
    assert history == ("wsclean -size 1 1",)


# --- noise and verdict ----------------------------------------------------------------------------


def test_local_rms_ignores_sources_and_follows_the_noise():
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(2)
    n = 600
    noise = gaussian_filter(rng.normal(size=(n, n)), 2.1)
    truth = 1e-3 * np.linspace(1, 2, n)[:, None] * np.ones(n)
    image = noise / noise.std() * truth
    for _ in range(60):
        row, column = rng.integers(20, n - 20, 2)
        image[row - 2 : row + 3, column - 2 : column + 3] += rng.uniform(0.01, 1)
    image[:30] = np.nan
    rms = map_noise.local_rms(image.astype(np.float32), 5.0)
    ratio = (rms / truth)[30:]
    assert np.isnan(rms[:30]).all()
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    assert np.all((ratio > 0.8) & (ratio < 1.25))


def test_local_rms_of_a_blank_image_is_blank():
    assert np.isnan(map_noise.local_rms(np.full((64, 64), np.nan), 5.0)).all()


FIGURES = {
    "rms_jy": 3e-4,
    "peak_jy": 1.0,
    "trough_jy": -2e-3,
    "dynamic_range": 3333.0,
    "beam_major_arcsec": 36.0,
    "beam_minor_arcsec": 18.0,
}


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, "pass", ""),
        ({"rms_jy": 0.2, "dynamic_range": 5.0}, "fail", "noise"),
        ({"rms_jy": 2e-3, "dynamic_range": 500.0}, "warn", "thermal"),
        ({"rms_jy": 2e-3, "dynamic_range": 50.0}, "warn", "dynamic range"),
        ({"rms_jy": None}, "fail", "no finite pixel"),
        ({"rms_jy": 0.0}, "fail", "empty"),
        ({"trough_jy": -2.0}, "warn", "trough"),
        ({"beam_major_arcsec": None}, "fail", "beam"),
    ],
)
def test_verdict(changes, verdict, word):
    sidecar = Sidecar("image")
    none = np.zeros((0, 3)), np.zeros(0)
    weighting = Weighting(10, 10, 0.0, np.ones((1, 1)), *none, 2.5e-4, 2.4e-4, 1.4e9)
    image_judge.judge(
        sidecar, example(ImageFigures, **FIGURES | changes), weighting, ImagingOptions()
    )
    assert sidecar.verdict == verdict
    assert word in " ".join(sidecar.reasons)


# --- tclean ---------------------------------------------------------------------------------------


def test_tclean_gets_the_same_recipe():
    recipe = resolve(ImagingOptions(robust=0.0, niter=77, spectral_terms=2))
    values = tclean.parameters(recipe, "a.ms", "x", "CORRECTED_DATA")
    assert values["imsize"] == [2400, 2400]
    assert values["cell"] == "6.0arcsec"
    assert (values["robust"], values["niter"], values["nterms"]) == (0.0, 77, 2)
    assert values["deconvolver"] == "mtmfs"
    assert values["uvrange"] == ">1000.0lambda"
    assert values["datacolumn"] == "corrected"


def test_tclean_divergence_is_seen():
    watch = tclean.watch()
    assert watch("tclean stop code 2\n") is None
    assert "diverges" in watch("tclean stop code 5\n")


# --- optional products ----------------------------------------------------------------------------


def test_optional_products_are_asked_for():
    assert optional_products(ImagingOptions()) == ()
    assert optional_products(ImagingOptions(subband_images=4, transients=True)) == (
        "subbands.fits",
        "spectra.csv",
        "transients.csv",
    )
    with pytest.raises(ConfigError, match="need engine wsclean"):
        optional_products(ImagingOptions(transients=True, engine="tclean"))


def test_blank_tile_has_blank_optional_products(ms, tmp_path, fake_wsclean):
    fake_wsclean("echo 'Initial peak: nan Jy at 1,1'; sleep 60")
    prefix = tmp_path / "out" / "20260128T213600"
    options = ["--transients", "--subband-images", "4"]
    assert run_step("image", str(ms), str(prefix), *SMALL, *options) == 0
    assert sidecar_of(prefix)["verdict"] == "fail"
    assert np.isnan(fits.getdata(f"{prefix}.subbands.fits")).all()
    for name in ("spectra", "transients"):
        (header,) = (prefix.parent / f"{prefix.name}.{name}.csv").read_text().splitlines()
        assert "ra_deg" in header
