"""The correction of an epoch against a sky that is known."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from dsa110_contimg.core.figures import PhotometryFigures
from dsa110_contimg.core.layout import companion
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.photometry.epoch_correction import fit_flux, measure_correction
from dsa110_contimg.photometry.fit import forced_fit
from dsa110_contimg.photometry.images import open_planes
from support.figures import example
from support.mosaic_tiles import BEAM, STEP, run, sky, write_tiles
from support.steps import run_step

ERROR = 1e-3


def epoch(rng, n=200, ratio=1.0, offset=0.0, scatter=0.05, variable=0):
    """Measured fluxes with errors, catalogue fluxes; the first `variable` changed by a lot."""
    catalog = np.exp(rng.uniform(np.log(0.02), np.log(1.0), n))
    true = catalog * np.exp(rng.normal(0, scatter, n))
    true[:variable] *= np.exp(rng.choice([-1, 1], variable) * rng.uniform(0.5, 1.5, variable))
    measured = ratio * (true - offset) + rng.normal(0, ERROR, n)
    return measured, np.full(n, ERROR), catalog


def test_scale_and_offset_are_as_far_off_as_their_errors_say():
    pulls, offsets = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = fit_flux(*epoch(rng, ratio=0.8, offset=5e-3, variable=20))
        pulls.append((found["flux_ratio"] - 0.8) / found["flux_ratio_error"])
        offsets.append((found["flux_offset_jy"] / 0.8 - 5e-3) / found["flux_offset_error_jy"])
        assert 12 <= found["n_clipped"] < 40
    for pull in map(np.array, (pulls, offsets)):
        assert abs(np.median(pull)) < 0.6 and 0.7 < 1.4826 * np.median(np.abs(pull)) < 1.4


def test_an_offset_that_is_not_there_is_not_fitted():
    found = [fit_flux(*epoch(np.random.default_rng(s), ratio=1.1)) for s in range(40)]
    assert sum(f["flux_offset_jy"] != 0 for f in found) <= 2
    assert np.mean([f["flux_ratio"] for f in found]) == pytest.approx(1.1, abs=0.005)


def measured_tiles(folder, seed, ratio=1.0, shift=(0.0, 0.0)):
    """Tiles of a known sky whose gains and positions are off; their photometry; the catalogue."""
    rng = np.random.default_rng(seed)
    table = sky(30, 3, rng, n=50, flux=(0.1, 0.6))
    east, north = (a / 3600 for a in shift)
    seen = table.assign(
        ra_deg=(table.ra_deg + east / np.cos(np.deg2rad(table.dec_deg))) % 360,
        dec_deg=table.dec_deg + north,
        flux_jy=table.flux_jy * ratio,
    )
    seen.loc[3, "flux_jy"] *= 1.8  # a flare
    paths = write_tiles(folder, 30 + STEP * np.arange(3), seen, rng)
    catalog = folder / "catalog.csv"
    table.assign(alpha=0.0).to_csv(catalog, index=False)
    for path in paths:
        out = path.with_name(path.name.replace(".image.fits", ".photometry.csv"))
        assert run_step("photometry", str(path), str(out), "--catalog", str(catalog)) == 0
    return paths, table, catalog


@pytest.mark.parametrize(("ratio", "shift"), [(1.2, (9.0, -6.0)), (0.85, (0.0, 0.0))])
def test_one_correction_for_all_products_of_the_epoch(tmp_path, ratio, shift):
    paths, table, catalog = measured_tiles(tmp_path, 1, ratio, shift)
    target = tmp_path / "mosaic.fits"
    layers, record = run(target, paths)
    head = layers["image"][0][1]
    found = record["qa"]["correction"]
    error = found["flux_ratio_error"]
    assert error < 0.01 and found["flux_ratio"] == pytest.approx(ratio, abs=4 * error)
    assert found["n_clipped"] >= 1 and record["verdict"] == "warn"
    for kind in layers:  # the same cards in image, noise and weights
        for _, each in layers[kind]:
            assert each["FLUXSCL"] == pytest.approx(1 / found["flux_ratio"])
            assert (each["RAOFF"], each["DECOFF"]) == pytest.approx(
                (-shift[0], -shift[1]), abs=BEAM[1] / 100
            )
    with open_planes(target) as planes:
        fit = forced_fit(planes[0], table.ra_deg.to_numpy(), table.dec_deg.to_numpy())
    bright = (fit.coverage > 0.99) & (fit.flux / fit.error > 50)
    bright[3] = False
    ratios = (fit.flux / table.flux_jy)[bright]
    assert bright.sum() > 30
    assert np.median(ratios) == pytest.approx(1, abs=0.01)
    assert 3600 * np.median(fit.shift_deg[bright], axis=0) == pytest.approx(
        [0, 0], abs=BEAM[1] / 50
    )
    # Noise and weights follow: the noise of the tiles was 1 mJy before it was scaled.
    assert record["qa"]["rms_over_predicted"] == pytest.approx(1, abs=0.1)
    plain, _ = run(tmp_path / "plain" / "mosaic.fits", paths, "--no-correct-epoch")
    assert plain["image"][0][1]["FLUXSCL"] == 1 and plain["image"][0][1]["RAOFF"] == 0
    best = [np.nanmin(found["rms"][0][0]) for found in (layers, plain)]
    assert best[0] / best[1] == pytest.approx(1 / ratio, rel=0.01)
    # The night's photometry carries it.
    out = tmp_path / "photometry.csv"
    assert run_step("photometry", str(target), str(out), "--catalog", str(catalog)) == 0
    qa = json.loads((tmp_path / "photometry.csv.json").read_text())["qa"]
    assert qa["correction"]["FLUXSCL"] == pytest.approx(head["FLUXSCL"])
    assert qa["median_flux_ratio"] == pytest.approx(1, abs=0.01)
    assert qa["image_version"].startswith("0.")


def test_nothing_is_applied_where_nothing_is_off(tmp_path):
    paths, *_ = measured_tiles(tmp_path, 2)
    before = [fits.getheader(p)["CRVAL1"] for p in paths]
    layers, record = run(tmp_path / "mosaic.fits", paths)
    assert record["verdict"] == "pass" and not record["qa"]["correction"]["scaled"]
    head = layers["image"][0][1]
    assert (head["FLUXSCL"], head["RAOFF"], head["DECOFF"]) == (1, 0, 0)
    assert head["FLUXSCLE"] > 0 and head["NFLUXSCL"] > 30
    assert [fits.getheader(p)["CRVAL1"] for p in paths] == before
    weights = companion(tmp_path / "mosaic.fits", "weight")
    assert fits.getheader(weights)["FLUXSCL"] == 1


def test_too_few_sources_and_impossible_scales_correct_nothing(tmp_path):
    rng = np.random.default_rng(3)
    measured, error, catalog = epoch(rng, n=6, ratio=1.3)
    table = pd.DataFrame(
        {
            "source_id": [f"S{i}" for i in range(6)],
            "flux_jy": measured,
            "flux_err_jy": error,
            "catalog_flux_jy": catalog,
            "snr": measured / error,
            "flags": None,
        }
    )
    path = tmp_path / "a.photometry.csv"
    table.to_csv(path, index=False)
    Sidecar("photometry", figures=example(PhotometryFigures)).write(path)
    found = measure_correction([path, tmp_path / "absent.csv"])
    assert not found.scaled and found.scale == 1 and found.n_flux == 6
    many = pd.concat([table.assign(source_id=table.source_id + str(i)) for i in range(5)])
    many.assign(flux_jy=many.flux_jy * 3).to_csv(path, index=False)
    found = measure_correction([path])
    assert not found.scaled and found.flux_ratio > 3
