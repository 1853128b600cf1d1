import numpy as np
import pandas as pd
import pytest

from dsa110_contimg.imaging.spectra import fit_spectra, part_files, parts_of, spectra_table
from dsa110_contimg.imaging.weights import Weighting
from dsa110_contimg.ms.tile import Tile
from dsa110_contimg.telescope.beam import TileBeam

FREQ = np.array([1.33e9, 1.38e9, 1.43e9, 1.48e9])


def test_spectral_index_and_its_error_by_many_trials():
    rng = np.random.default_rng(4)
    truth, error = 0.02 * (FREQ / 1.4e9) ** -0.8, np.array([8e-4, 5e-4, 5e-4, 1e-3])
    fits = [fit_spectra(FREQ, truth + rng.normal(0, error), error) for _ in range(400)]
    alpha = np.array([fit["alpha"] for fit in fits])
    assert alpha.mean() == pytest.approx(-0.8, abs=4 * alpha.std() / 20)
    assert fits[0]["alpha_err"] == pytest.approx(alpha.std(), rel=0.15)
    assert np.mean([fit["chi2"] for fit in fits]) == pytest.approx(2, rel=0.15)
    flux = np.array([fit["flux_jy"] for fit in fits])
    assert fits[0]["flux_err_jy"] == pytest.approx(flux.std(), rel=0.15)
    assert abs(np.corrcoef(alpha, flux)[0, 1]) < 0.2  # that is what the frequency is chosen for


def test_parts_without_flux_are_left_out_and_one_part_is_no_spectrum():
    flux = np.array([1.0, np.nan, 0.9, np.nan])
    fit = fit_spectra(FREQ, flux, np.full(4, 0.01))
    assert fit["n"] == 2
    assert fit["alpha"] == pytest.approx(np.log(0.9) / np.log(FREQ[2] / FREQ[0]), rel=1e-6)
    one = fit_spectra(FREQ, np.array([1.0, np.nan, np.nan, np.nan]), np.full(4, 0.01))
    assert one["n"] == 1 and np.isnan(one["alpha"])


def test_band_is_divided_as_wsclean_does(tmp_path):
    n_chan, n = 10, 4
    tile = Tile(
        None, "DATA", 0.0, 0.0, "t", np.arange(3.0), np.ones(3),
        1.3e9 + 1e7 * np.arange(n_chan), np.full(n_chan, 1e7), 3,
    )  # fmt: skip
    weight = np.ones((3, n_chan))
    weight[:, 2:5] = 0  # the second part has no data
    weighting = Weighting(1, 1, 0.0, weight, np.zeros((1, 3)), np.ones(1), 1.0, 1.0, 1.4e9)
    beam = TileBeam(np.arange(3.0), np.zeros(3), tile.freq_hz, weight)
    parts = parts_of(tile, weighting, beam, n)
    assert [(p.channels.start, p.channels.stop) for p in parts] == [(0, 2), (5, 7), (7, 10)]
    assert parts[0].freq_hz == pytest.approx(1.305e9)
    assert parts[2].width_hz == pytest.approx(3e7)
    names = [files["psf"].name for files in part_files(tmp_path / "x", n, tile, parts)]
    assert names == ["x-0000-psf.fits", "x-0002-psf.fits", "x-0003-psf.fits"]


def test_table_has_the_flux_of_each_part():
    tables = [
        pd.DataFrame(
            {
                "source_id": ["a", "b"],
                "name": ["J1", "J2"],
                "ra_deg": 1.0,
                "dec_deg": 2.0,
                "flux_jy": [1.0, 2.0 * (f / 1.4e9) ** -1],
                "flux_err_jy": 0.01,
            }
        )
        for f in FREQ
    ]
    table = spectra_table(tables, list(FREQ))
    assert list(table.source_id) == ["a", "b"]
    assert table.alpha.to_numpy() == pytest.approx([0, -1], abs=1e-6)
    assert table["flux_1330_jy"][0] == 1.0
    assert len(spectra_table([], [])) == 0
