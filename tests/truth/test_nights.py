"""Three nights of raw files through the whole chain: what varies is found, and by how much."""

import json

import pandas as pd
import pytest

from dsa110_contimg.simulation import season as simulation
from support.chain import run_chain


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Three nights of two tiles, in the second of which one source dims and one flares."""
    options = simulation.PRESETS["test"].model_copy(
        update={"nights": 3, "variables": True, "sources": 30, "min_flux_jy": 0.15}
    )
    truth = simulation.simulate(options, tmp_path_factory.mktemp("nights"))
    return truth, run_chain(truth, tmp_path_factory.mktemp("results"))


@pytest.mark.slow
def test_the_dimmed_source_is_the_first_candidate_and_nothing_constant_is_one(nights):
    truth, layout = nights
    ranked = pd.read_csv(layout.lightcurves("candidates.csv"))
    kinds = {source.name: source.kind for source in truth.sky}
    found = [kinds[name] for name in ranked.source_id]
    assert found[0] == "ese"
    assert set(found) <= {"ese", "flare"}


@pytest.mark.slow
def test_light_curves_follow_the_true_ones(nights):
    truth, layout = nights
    curves = pd.read_parquet(layout.lightcurves("lightcurves.parquet"))
    for source in truth.sky:
        if source.kind not in ("ese", "flare"):
            continue
        own = curves[curves.source_id == source.name].sort_values("mjd")
        assert len(own) == 3
        true = 1 + source.amplitude * pd.Series([0, 1, 0]).to_numpy()
        measured = own.flux_jy.to_numpy() / own.flux_jy.to_numpy()[[0, 2]].mean()
        error = own.flux_err_jy.to_numpy() / own.flux_jy.to_numpy()[[0, 2]].mean()
        assert (abs(measured - true) < 4 * error + 0.02).all(), source
        assert own.image_version.str.match(r"\d+\.\d+").all()
        assert own.image_sha256.nunique() == 3
    steady = curves[curves.source_id.map({s.name: s.kind == "constant" for s in truth.sky})]
    good = steady[steady.used & (steady.snr > 20)]
    spread = good.groupby("source_id").flux_jy.agg(lambda f: f.std() / f.mean())
    assert spread.median() < 0.02


@pytest.mark.slow
def test_a_night_knows_its_correction(nights):
    _, layout = nights
    for path in layout.results.glob("nights/*/mosaic.fits.json"):
        correction = json.loads(path.read_text())["qa"]["correction"]
        assert correction["n_flux"] >= 5
        assert correction["flux_ratio"] == pytest.approx(1, abs=0.03)
    blind = list(layout.results.glob("nights/*/blind.csv"))
    assert len(blind) == 3 and all(len(pd.read_csv(p)) == 0 for p in blind)
