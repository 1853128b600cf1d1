"""Sources that no catalogue has, in mosaics of a known sky."""

import json

import numpy as np
import pandas as pd
import pytest

from dsa110_contimg.core.errors import ToolStopped
from dsa110_contimg.photometry import blind as blind_search
from support.mosaic_tiles import BEAM, STEP, run, sky, write_tiles
from support.steps import run_step
from support.synthetic_images import header


def searched(folder, table, known, seed=1, n_tiles=3, *options):
    """Search a mosaic of a sky of which the catalogue has the rows `known`."""
    rng = np.random.default_rng(seed)
    paths = write_tiles(folder, 30 + STEP * np.arange(n_tiles), table, rng)
    run(folder / "mosaic.fits", paths)
    catalog, out = folder / "catalog.csv", folder / "blind.csv"
    table[known].assign(alpha=0.0).to_csv(catalog, index=False)
    command = ["blind", folder / "mosaic.fits", out, "--catalog", catalog, *options]
    assert run_step(*command) == 0
    return pd.read_csv(out, dtype={"flags": str}).fillna({"flags": ""}), json.loads(
        (folder / "blind.csv.json").read_text()
    )


def test_uncatalogued_sources_are_found_and_nothing_else(tmp_path):
    rng = np.random.default_rng(4)
    table = sky(30, 3, rng, n=60, flux=(0.02, 0.5))
    inner = np.abs(table.dec_deg - 33) < 0.9
    new = np.zeros(60, bool)
    new[np.flatnonzero(inner)[::4]] = True
    found, record = searched(tmp_path, table, ~new)
    assert list(found.columns) == list(blind_search.COLUMNS)
    assert record["verdict"] == "pass" and record["qa"]["n_sources"] == len(found)
    true = table[new].reset_index(drop=True)
    assert len(true) > 8
    east = (found.ra_deg.to_numpy()[:, None] - true.ra_deg.to_numpy()) * np.cos(np.deg2rad(33))
    north = found.dec_deg.to_numpy()[:, None] - true.dec_deg.to_numpy()
    apart = 3600 * np.hypot(east, north)
    match = apart.argmin(1)
    assert sorted(match) == list(range(len(true))), "each one once, and nothing else"
    offset = apart[np.arange(len(found)), match]
    assert offset.max() < BEAM[1] / 5
    pull = (found.flux_jy - true.flux_jy.to_numpy()[match]) / found.flux_err_jy
    assert np.median(np.abs(pull)) < 1.5
    ratio = found.flux_jy / true.flux_jy.to_numpy()[match]
    assert ratio.to_numpy() == pytest.approx(np.ones(len(found)), abs=0.05)
    assert (found.snr.diff().dropna() <= 0).all()
    assert found["name"].str.fullmatch(r"J\d{6}\.\d[+-]\d{6}").all()


def test_noise_has_no_sources(tmp_path):
    table = sky(30, 3, np.random.default_rng(1), n=4)
    found, _ = searched(tmp_path, table, [True] * 4, 5)
    assert len(found) == 0


def test_a_source_beside_a_brighter_one_of_the_catalogue(tmp_path):
    rng = np.random.default_rng(6)
    table = sky(30, 3, rng, n=6, flux=(0.2, 0.3))
    table.dec_deg = 33 + 0.2 * np.arange(6) - 0.5
    # 1.2 and 2.5 major axes north of a catalogue source ten and thirty times as bright
    beside = table.iloc[[1, 3]].assign(flux_jy=[0.03, 0.02])
    beside["dec_deg"] += np.array([1.2, 2.5]) * BEAM[0] / 3600
    both = pd.concat([table, beside], ignore_index=True)
    found, _ = searched(tmp_path, both, np.arange(8) < 6)
    assert len(found) == 2
    found = found.sort_values("flux_jy", ascending=False)
    assert found.flux_jy.to_numpy() == pytest.approx([0.03, 0.02], rel=0.25)
    assert found.nearest.notna().all()


def test_a_hanging_search_ends_with_an_empty_failed_list(tmp_path, monkeypatch):
    def hang(*_, **__):
        raise ToolStopped("python was stopped after its time limit of 1 s")

    monkeypatch.setattr(blind_search, "run_tool", hang)
    found, record = searched(tmp_path, sky(30, 3, np.random.default_rng(1), n=4), [True] * 4)
    assert len(found) == 0 and list(found.columns) == list(blind_search.COLUMNS)
    assert record["verdict"] == "fail" and "stopped after 900 s" in record["reasons"][0]


def test_the_time_limit_is_real(tmp_path):
    table = sky(30, 1, np.random.default_rng(1), n=4)
    _, record = searched(tmp_path, table, [True] * 4, 1, 1, "--timeout-s", "0.05")
    assert record["verdict"] == "fail"


def test_a_blank_image_has_no_sources():
    from astropy.wcs import WCS

    from dsa110_contimg.core.options import BlindOptions
    from dsa110_contimg.photometry.images import SkyPlane

    head = header((50, 60), (30.0, 33.0))
    plane = SkyPlane(np.full((50, 60), np.nan), WCS(head).celestial, (0.01, 0.01, 0.0))
    catalog = pd.DataFrame({"name": [], "ra_deg": [], "dec_deg": [], "flux_jy": []})
    assert len(blind_search.find(plane, catalog, BlindOptions())) == 0
