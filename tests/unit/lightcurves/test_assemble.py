import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import stats

from dsa110_contimg.core.figures import PhotometryFigures
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.lightcurves.assemble import DICTIONARY
from dsa110_contimg.lightcurves.flux_scale import epoch_scale
from dsa110_contimg.lightcurves.variability import log10_chi2_sf, pair_metrics, variability
from dsa110_contimg.photometry.measure import COLUMNS
from support.figures import example
from support.steps import run_step

RMS = 1e-3


def season(rng, n_sources=80, n_epochs=3, flux=(0.01, 1.0), scales=None, change=None):
    """Fluxes and errors, (n_sources, n_epochs); `change` maps a source to factors by epoch."""
    true = np.exp(rng.uniform(*np.log(flux), n_sources))[:, None] * np.ones(n_epochs)
    for source, factors in (change or {}).items():
        true[source] = true[source] * factors
    scales = np.ones(n_epochs) if scales is None else np.asarray(scales)
    error = np.full(true.shape, RMS)
    return true * scales + rng.normal(0, error), error


def write(folder, flux, error, verdicts=None, flags=None):
    """Write one photometry table a night, as the photometry step does."""
    paths = []
    n_sources, n_epochs = flux.shape
    for e in range(n_epochs):
        night = f"2026-01-{e + 1:02d}"
        path = folder / night / "photometry.csv"
        path.parent.mkdir(parents=True)
        snr = flux[:, e] / error[:, e]
        table = pd.DataFrame(
            {
                "source_id": [f"S{i:04d}" for i in range(n_sources)],
                "name": [f"J{i:06d}.0+330000" for i in range(n_sources)],
                "ra_deg": 30 + 0.05 * np.arange(n_sources),
                "dec_deg": 33.0,
                "mjd": 61041.25 + e + 1e-4 * np.arange(n_sources),
                "group_or_epoch": night,
                "flux_jy": flux[:, e],
                "flux_err_jy": error[:, e],
                "local_rms_jy": error[:, e],
                "snr": snr,
                "upper_limit_jy": np.where(snr > 5, np.nan, 5 * error[:, e]),
                "catalog_flux_jy": flux[:, 0],
                "pb": 0.9,
                "flags": (flags or {}).get(e, ""),
                "image": "mosaic.fits",
            }
        )
        table[list(COLUMNS)].to_csv(path, index=False)
        sidecar = Sidecar("photometry")
        sidecar.figures = example(PhotometryFigures, image_sha256=f"{e:064d}")
        sidecar.verdict = (verdicts or {}).get(e, "pass")
        sidecar.write(path)
        paths.append(path)
    return paths


def run(folder, paths, *options):
    command = ["lightcurves", folder / "lightcurves", *paths, *options]
    assert run_step(*command) == 0
    out = folder / "lightcurves"
    return (
        pd.read_parquet(out / "lightcurves.parquet"),
        pd.read_csv(out / "variability.csv"),
        pd.read_csv(out / "candidates.csv"),
        json.loads((out / "lightcurves.parquet.json").read_text()),
    )


@pytest.mark.parametrize("n_epochs", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_injected_variable_ranks_first_with_few_nights(tmp_path, n_epochs, seed):
    rng = np.random.default_rng(seed)
    factors = np.r_[np.ones(n_epochs - 1), 0.6]
    flux, error = season(rng, 40, n_epochs, change={7: factors}, flux=(0.02, 0.5))
    flux[7] *= 0.1 / flux[7, 0]
    _, measures, ranked, _ = run(tmp_path, write(tmp_path, flux, error))
    assert ranked.source_id.iloc[0] == "S0007" and len(ranked) == 1
    assert len(measures) == 40


@pytest.mark.parametrize("n_epochs", [2, 3, 8])
def test_scale_error_of_an_epoch_makes_no_candidate(tmp_path, n_epochs):
    rng = np.random.default_rng(11)
    scales = np.r_[1.2, np.ones(n_epochs - 1)]
    flux, error = season(rng, 200, n_epochs, scales=scales)
    curves, measures, ranked, record = run(tmp_path, write(tmp_path, flux, error))
    assert len(ranked) == 0
    found = [e["flux_scale"] for e in record["qa"]["epochs"]]
    assert found[0] / np.median(found[1:]) == pytest.approx(1.2, rel=0.005)
    raw = curves.flux_raw_jy / curves.flux_scale
    assert curves.flux_jy.to_numpy() == pytest.approx(raw.to_numpy())
    # The same without the correction: every bright source varies.
    assert (measures.max_snr > 50).sum() > 50


def test_scales_and_their_errors_against_truth():
    """Fitted scales miss the true ones by their stated errors; a tenth of the sources varies."""
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        true = np.exp(rng.normal(0, 0.1, 6))
        change = {i: np.exp(rng.normal(0, 0.4, 6)) for i in range(8)}
        flux, error = season(rng, 80, 6, scales=true, change=change)
        flux *= np.exp(rng.normal(0, 0.02, flux.shape))  # beam errors and the like
        fitted = epoch_scale(flux, error)
        assert fitted.systematic == pytest.approx(0.02, rel=0.2)
        assert fitted.steady[8:].mean() > 0.9 * (fitted.candidate.sum() - 8) / 72
        b, truth = np.log(fitted.scale), np.log(true)
        pulls.append(((b - b.mean()) - (truth - truth.mean())) / (fitted.error / fitted.scale))
    pulls = np.concatenate(pulls) / np.sqrt(1 - 1 / 6)  # the mean is taken out
    assert abs(pulls.mean()) < 0.1 and 0.9 < pulls.std() < 1.1


def test_systematic_scatter_is_none_where_there_is_none():
    flux, error = season(np.random.default_rng(3), 300, 5)
    assert epoch_scale(flux, error).systematic < 0.002
    assert epoch_scale(flux, error, floor=0.01).systematic == 0.01


def test_errors_of_corrected_fluxes_make_eta_one(tmp_path):
    rng = np.random.default_rng(4)
    flux, error = season(rng, 400, 10, scales=np.exp(rng.normal(0, 0.1, 10)))
    flux *= np.exp(rng.normal(0, 0.03, flux.shape))
    _, measures, ranked, _ = run(tmp_path, write(tmp_path, flux, error))
    assert measures.eta.mean() == pytest.approx(1, abs=0.06)
    bright = measures[measures.wavg_flux_jy > 0.3]
    assert bright.eta.mean() == pytest.approx(1, abs=0.15)
    assert bright.chi2_reduced.mean() > 30  # statistical errors alone would call them all variable
    assert len(ranked) <= 2  # 0.2 expected


def test_false_alarm_is_a_probability(tmp_path):
    flux, error = season(np.random.default_rng(5), 2000, 4, flux=(0.005, 0.02))
    _, measures, _, _ = run(tmp_path, write(tmp_path, flux, error), "--systematic-floor", "0")
    p = 10**measures.log10_false_alarm
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_few_reference_sources_leave_the_scale_and_say_so(tmp_path):
    flux, error = season(np.random.default_rng(6), 2, 3, scales=[1, 1.2, 1])
    _, _, _, record = run(tmp_path, write(tmp_path, flux, error))
    assert record["verdict"] == "warn" and "fewer than 3 steady" in record["reasons"][0]
    assert [e["flux_scale"] for e in record["qa"]["epochs"]] == [1, 1, 1]


def test_every_row_is_kept_and_bad_ones_do_not_count(tmp_path):
    rng = np.random.default_rng(7)
    flux, error = season(rng, 60, 4, change={0: [1, 1, 0.01, 1]})
    flux[0] *= 0.05 / flux[0, 0]  # below detection in the third night
    flux[5, 1] = np.nan
    flux[:, 3] *= 3
    edge = np.where(np.arange(60) == 9, "edge|blend", "")
    curves, measures, ranked, _ = run(
        tmp_path, write(tmp_path, flux, error, verdicts={3: "fail"}, flags={0: edge})
    )
    assert len(curves) == 240
    points = curves.set_index(["source_id", "epoch"]).sort_index()
    assert np.isfinite(points.upper_limit_jy[("S0000", "2026-01-03")])
    assert not points.used[("S0005", "2026-01-02")] and not points.used[("S0009", "2026-01-01")]
    rejected = curves[curves.epoch == "2026-01-04"]
    assert len(rejected) == 60 and not rejected.used.any()
    assert (rejected["flags"].str.split("|").str[-1] == "rejected").all()
    n = measures.set_index("source_id")
    assert (n.n_meas["S0000"], n.n_meas["S0005"], n.n_meas["S0009"]) == (3, 2, 2)
    assert n.n_detected["S0000"] == 2
    assert ranked.source_id.tolist() == ["S0000"]


def test_columns_units_and_lineage(tmp_path):
    flux, error = season(np.random.default_rng(8), 30, 2)
    curves, *_ = run(tmp_path, write(tmp_path, flux, error))
    assert list(curves.columns) == list(DICTIONARY)
    schema = pq.read_schema(tmp_path / "lightcurves" / "lightcurves.parquet")
    assert schema.field("flux_jy").metadata[b"unit"] == b"Jy"
    assert schema.field("flux_jy").metadata[b"vast_name"] == b"flux_peak"
    assert curves.image.unique().tolist() == [f"../2026-01-0{i}/mosaic.fits" for i in (1, 2)]
    assert (
        curves.image_sha256 == curves.epoch.str[-1].astype(int).sub(1).map("{:064d}".format)
    ).all()


def test_metrics_against_their_formulas():
    rng = np.random.default_rng(9)
    flux, error = rng.normal(1, 0.2, 12), rng.uniform(0.05, 0.1, 12)
    table = pd.DataFrame(
        {
            "source_id": "a", "name": "J", "ra_deg": 1.0, "dec_deg": 2.0, "flux_jy": flux,
            "flux_err_jy": error, "flux_raw_err_jy": error, "flux_scale": 1.0, "snr": flux / error,
            "upper_limit_jy": np.nan, "used": True,
        }
    )  # fmt: skip
    found = variability(table).iloc[0]
    w = error**-2
    eta = 12 / 11 * (np.mean(w * flux**2) - np.mean(w * flux) ** 2 / np.mean(w))
    assert found.eta == pytest.approx(eta) and found.chi2_reduced == pytest.approx(eta)
    assert found.v == pytest.approx(np.std(flux, ddof=1) / np.mean(flux))
    vs = np.abs(flux[:, None] - flux) / np.hypot(error[:, None], error)
    m = 2 * np.abs(flux[:, None] - flux) / (flux[:, None] + flux)
    assert found.vs_max == pytest.approx(vs.max())
    assert found.m == pytest.approx(np.where(vs >= 4.3, m, 0).max())
    assert found.vs == pytest.approx(
        vs.flat[np.argmax(np.where(vs >= 4.3, m, -1))] if found.m else 0
    )


def test_far_tail_of_chi_squared_does_not_underflow():
    dof = np.array([1, 2, 29])
    x = np.array([900.0, 1000.0, 1200.0])
    exact = stats.chi2.logsf(x, dof) / np.log(10)  # still finite here
    found = log10_chi2_sf(2 * x, dof)
    assert np.isfinite(found).all() and (found < 1.9 * exact).all()
    # Two degrees of freedom: the tail is exp(-x/2) exactly.
    assert log10_chi2_sf(np.array([1e5]), np.array([2])) == pytest.approx(-5e4 / np.log(10))
    assert np.isnan(log10_chi2_sf(np.array([np.nan]), np.array([1])))


def test_pairs_of_long_and_short_light_curves():
    assert pair_metrics(np.array([1.0]), np.array([0.1])) == (0, 0, 0)
    assert pair_metrics(np.array([1.0, 3.0]), np.array([0.3, 0.4])) == pytest.approx((4, 0, 0))
    assert pair_metrics(np.array([1.0, 3.0]), np.array([0.3, 0.3])) == pytest.approx(
        (4.714, 4.714, 1.0), abs=1e-3
    )
    rng = np.random.default_rng(1)
    flux = rng.normal(1, 0.3, 300)
    whole = np.abs(flux[:, None] - flux) / (0.05 * np.sqrt(2))
    assert pair_metrics(flux, np.full(300, 0.05))[0] == pytest.approx(whole.max())


def test_single_epoch_is_no_error(tmp_path):
    flux, error = season(np.random.default_rng(10), 30, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves, measures, ranked, _ = run(tmp_path, write(tmp_path, flux, error))
    assert len(curves) == 30 and measures.eta.isna().all() and len(ranked) == 0


def test_an_epoch_given_twice_is_refused(tmp_path, capsys):
    flux, error = season(np.random.default_rng(10), 5, 1)
    (path,) = write(tmp_path, flux, error)
    twin = shutil.copytree(path.parent, tmp_path / "twin") / path.name
    assert run_step("lightcurves", str(tmp_path / "out"), str(path), str(twin)) == 3
    assert "2026-01-01 is in more than one" in capsys.readouterr().err
