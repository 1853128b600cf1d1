"""Spectra and transients of a tile through the real imager, of visibilities of a known sky."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from support import imaging_data
from support.steps import run_step

GROUP = "20260128T213600"
SIZE = 900  # 1.5 deg


def sky_of(n=10, seed=5):
    """Sources of 0.1 to 1 Jy on a spiral, within 0.6 deg."""
    angle, radius = np.arange(n) * 2.4, np.linspace(0.1, 0.6, n)
    flux = 10 ** np.random.default_rng(seed).uniform(-1, 0, n)
    return imaging_data.offsets_to_sky(radius * np.sin(angle), radius * np.cos(angle), flux)


def image(folder, sky, options, **tile):
    """Make a tile, image it with a catalogue of wrong fluxes and spectra; return the sidecar."""
    ms = folder / f"{GROUP}.cal.ms"
    imaging_data.write_tile(ms, sky, noise=True, **tile)
    error = np.random.default_rng(1).normal(1, 0.1, len(sky.flux_jy))
    pd.DataFrame(
        {
            "name": [f"s{k}" for k in range(len(error))],
            "ra_deg": sky.ra_deg,
            "dec_deg": sky.dec_deg,
            "flux_jy": sky.flux_jy * error,
            "alpha": -0.3,
        }
    ).to_csv(folder / "catalog.csv", index=False)
    arguments = [str(ms), str(folder / GROUP), "--catalog", str(folder / "catalog.csv")]
    options = [*options, "--size-px", str(SIZE), "--threads", "2"]
    assert run_step("image", *arguments, *options) == 0
    return json.loads((folder / f"{GROUP}.image.fits.json").read_text())


def test_spectral_indices_are_those_of_the_sky_and_it_is_steady(tmp_path):
    sky = sky_of()
    size = {"n_antennas": 50, "n_channels": 16, "n_times": 4}
    record = image(tmp_path, sky, ["--subband-images", "4", "--transients"], alpha=-0.9, **size)
    assert record["qa"]["transients"]["n_found"] == 0
    assert len(pd.read_csv(tmp_path / f"{GROUP}.transients.csv")) == 0
    table = pd.read_csv(tmp_path / f"{GROUP}.spectra.csv")
    assert len(table) == record["qa"]["subbands"]["n_spectra"] == len(sky.flux_jy)
    pull = (table.alpha + 0.9) / table.alpha_err
    assert table.alpha_err.median() < 0.2
    assert np.abs(pull).max() < 4
    assert np.average(table.alpha, weights=table.alpha_err**-2) == pytest.approx(-0.9, abs=0.05)
    truth = sky.flux_jy * (table.freq_hz / 1.405e9) ** -0.9
    assert (table.flux_jy / truth).median() == pytest.approx(1, abs=0.01)
    with fits.open(tmp_path / f"{GROUP}.subbands.fits") as hdus:
        hdus.verify("exception")
        header = hdus[0].header
        assert hdus[0].data.shape == (1, 4, SIZE, SIZE)
    freq = header["CRVAL3"] + header["CDELT3"] * np.arange(4)
    parts = record["qa"]["subbands"]["parts"]
    assert freq == pytest.approx([part["freq_hz"] for part in parts], rel=1e-6)


def test_a_flash_is_found_at_its_place_and_time_and_nothing_else(tmp_path):
    sky = sky_of()
    east, north, flux = 0.31, -0.42, 0.15
    size = {"n_antennas": 60, "n_channels": 8, "n_times": 8}
    options = ["--transients", "--niter", "2000"]
    record = image(tmp_path, sky, options, flash=(5, east, north, flux), **size)
    table = pd.read_csv(tmp_path / f"{GROUP}.transients.csv")
    assert len(table) == 1 == record["qa"]["transients"]["n_found"]
    (found,) = table.itertuples()
    place = imaging_data.offsets_to_sky(east, north, flux)
    assert found.integration == 5
    assert found.mjd == pytest.approx(imaging_data.pointings(8)["time_mjd"][5], abs=1e-9)
    shift = [(found.ra_deg - place.ra_deg[0]) * np.cos(np.deg2rad(found.dec_deg))]
    shift += [found.dec_deg - place.dec_deg[0]]
    assert np.hypot(*shift) * 3600 < 4
    assert found.snr > 10
    assert found.flux_jy == pytest.approx(flux, abs=4 * found.flux_err_jy)
    assert np.isnan(found.known)
