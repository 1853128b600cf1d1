"""A tile without any catalogue source in view crashes `photometry` and stops its night.

Wanted: an empty table, a state; every table step with zero rows.
"""

import numpy as np
import pandas as pd
import pytest
from astropy.io.votable import parse_single_table
from astropy.wcs import WCS

from dsa110_contimg.catalogs.catalogue import read_catalog
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.options import PhotometryOptions
from dsa110_contimg.core.times import night_of
from dsa110_contimg.imaging import bright_sources
from dsa110_contimg.photometry import against_catalogue
from dsa110_contimg.photometry.epoch_correction import fit_flux
from dsa110_contimg.photometry.images import open_planes
from dsa110_contimg.photometry.measure import COLUMNS, measure
from dsa110_contimg.reports.export import export
from dsa110_contimg.reports.index import lineage, measurement_product, open_index, recall
from dsa110_contimg.reports.judge import read_photometry
from dsa110_contimg.reports.site import build_site
from dsa110_contimg.telescope.beam import TileBeam
from support.synthetic_images import header
from support.table_steps import (
    AWAY,
    CENTRE,
    FIRST_MJD,
    Chain,
    positions,
    write_catalog,
    write_image,
)

NAMES = ("a", "b", "c", "d", "e", "f")
HERE = positions(len(NAMES))

#: Case -> names and positions in the catalogue, whether the images are blank, sources measured.
CASES = {
    "no source in view": (("a", "b"), positions(2, AWAY), False, 0),
    "an empty catalogue": ((), ((), ()), False, 0),
    "one source": (("a",), tuple(p[:1] for p in HERE), False, 1),
    "blank images": (NAMES, HERE, True, len(NAMES)),
    "names that are numbers": (tuple(range(6)), HERE, False, 6),
    "six sources": (NAMES, HERE, False, 6),
}


#: The others take longer.
QUICK = ("no source in view", "one source")


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES],
)
def chain(request, tmp_path_factory):
    """Every step that works on tables, on two nights."""
    names, place, blank, count = CASES[request.param]
    folder = tmp_path_factory.mktemp("chain")
    chain = Chain(folder, write_catalog(folder / "catalog.csv", names, *place))
    chain.count, chain.blank, chain.nights = count, blank, []
    for day in (0, 1):
        group = write_image(chain.results, FIRST_MJD + day, *HERE, blank=blank, seed=day)
        chain.nights.append(chain.night([group]))
    chain.science(chain.nights)
    return chain


def test_every_step_ends_well(chain):
    assert chain.failed == []


def test_tables_have_all_columns_and_a_state(chain):
    tables = sorted(chain.results.glob("nights/*/groups/*/*.photometry.csv"))
    assert len(tables) == 2
    for path in tables:
        table = pd.read_csv(path)
        assert tuple(table.columns) == COLUMNS
        record = chain.record(path)
        assert record["qa"]["n_sources"] == len(table) == chain.count
        if not chain.count:
            assert record["verdict"] == "warn"
            assert record["reasons"] == ["no catalogue source is in the field"]
        if chain.blank:
            assert record["verdict"] == "fail"


def test_the_light_curves_say_how_many_there_are(chain):
    curves = pd.read_parquet(chain.layout.lightcurves("lightcurves.parquet"))
    record = chain.record(chain.layout.lightcurves("lightcurves.parquet"))
    usable = 0 if chain.blank else chain.count
    assert len(curves) == 2 * usable or chain.blank
    assert record["qa"]["n_sources"] >= usable
    if not chain.count:
        assert record["verdict"] == "warn"
        assert "no photometry table has a row" in record["reasons"][0]
    for name in ("variability.csv", "candidates.csv"):
        header = chain.layout.lightcurves(name).read_text().splitlines()[0].split(",")
        assert {"source_id", "eta", "v", "template_score", "log10_false_alarm"} <= set(header)


def test_names_that_are_numbers_stay_text(chain):
    for row in read_photometry(chain.layout.night(chain.nights[0], "photometry.csv")):
        assert isinstance(row["source_id"], str)
    curves = pd.read_parquet(chain.layout.lightcurves("lightcurves.parquet"))
    assert all(isinstance(name, str) for name in curves.source_id)


def test_pages_exports_and_questions(chain, tmp_path):
    built = build_site(chain.results, tmp_path / "site")
    assert built["nights"] == 2
    written = {path.name for path in export(chain.results, tmp_path / "out")}
    assert {f"{night}.vot" for night in chain.nights} <= written
    for night in chain.nights:
        assert "report.html" in {p.name for p in chain.layout.night(night).iterdir()}
        table = parse_single_table(tmp_path / "out" / f"{night}.vot").to_table()
        shown = pd.read_csv(chain.layout.night(night, "photometry.csv"))
        assert len(table) == len(shown)
        assert tuple(table.colnames) == COLUMNS
    db = open_index(chain.results / "index.sqlite")
    group = db.execute("SELECT group_id FROM images").fetchone()[0]
    product = f"nights/{night_of(group)}/groups/{group}/{group}.photometry.csv"
    assert lineage(db, product)[0]["step"] == "photometry"
    assert len(recall(db, f"{group}.image.fits")) > 1
    if chain.count and not chain.blank:
        source = db.execute("SELECT source_id FROM sources").fetchone()[0]
        assert measurement_product(db, source, chain.nights[0])


def test_a_night_without_a_source_beside_one_with_six(tmp_path):
    chain = Chain(tmp_path, write_catalog(tmp_path / "catalog.csv", NAMES, *HERE))
    nights = [chain.night([write_image(chain.results, FIRST_MJD + day, *HERE)]) for day in (0, 1)]
    empty = chain.layout.night(nights[1], "photometry.csv")
    empty.write_text(empty.read_text().splitlines()[0] + "\n")
    chain.science(nights)
    assert chain.failed == []
    curves = pd.read_parquet(chain.layout.lightcurves("lightcurves.parquet"))
    assert set(curves.epoch) == {nights[0]}
    assert len(curves) == len(NAMES)
    chain.science(nights)  # an update, of an index that there is
    assert chain.failed == []


def test_a_mosaic_of_a_tile_with_and_one_without_sources_is_the_same_as_before(tmp_path):
    """An empty table tells nothing of the epoch: the correction is that of the other tile."""
    chain = Chain(tmp_path, write_catalog(tmp_path / "catalog.csv", NAMES, *HERE))
    groups = [write_image(chain.results, FIRST_MJD + i / 280, *HERE) for i in (0, 1)]
    tables = [chain.layout.group(group, "photometry.csv") for group in groups]
    night = chain.night(groups)
    tables[1].write_text(tables[1].read_text().splitlines()[0] + "\n")
    chain.night(groups[:1])
    alone = chain.record(chain.layout.night(night, "mosaic.fits"))["qa"]["correction"]
    images = [chain.layout.group(group, "image.fits") for group in groups]
    chain.step("mosaic", chain.layout.night(night, "mosaic.fits"), *images)
    assert chain.failed == []
    both = chain.record(chain.layout.night(night, "mosaic.fits"))["qa"]["correction"]
    assert both["flux_ratio"] == pytest.approx(alone["flux_ratio"])
    assert np.isfinite(both["flux_ratio"])


def test_a_catalogue_of_equal_fluxes_tells_a_scale_and_no_offset():
    measured = 0.33 + 1e-3 * np.random.default_rng(1).standard_normal(20)
    found = fit_flux(measured, np.full(20, 1e-3), np.full(20, 0.3))
    assert found["flux_ratio"] == pytest.approx(1.1, abs=0.01)
    assert found["flux_offset_jy"] == found["flux_offset_error_jy"] == 0


@pytest.mark.parametrize("place", [((), ()), positions(2, AWAY)], ids=["empty", "away"])
def test_imaging_takes_a_catalogue_without_a_source_in_view(tmp_path, place):
    """Nothing is seeded, cleaned within no mask, and not compared with anything."""
    catalog = write_catalog(tmp_path / "c.csv", [f"S{i}" for i in range(len(place[0]))], *place)
    sources = read_catalog(catalog)
    wcs = WCS(header((64, 64), CENTRE), fix=False).celestial
    freq_hz = np.array([1.3e9, 1.4e9])
    beam = TileBeam(*(np.array([angle]) for angle in CENTRE), freq_hz, np.ones((1, 2)))
    seeds = bright_sources.choose(sources, beam, wcs, 0.1, 5)
    assert len(seeds.ra_deg) == 0
    assert seeds.spectra_jy.shape == (0, 2)
    assert not bright_sources.mask(sources, wcs, 64, 60.0).any()
    group = write_image(tmp_path / "results", FIRST_MJD)
    with open_planes(Layout(tmp_path / "results").group(group, "image.fits")) as planes:
        table = measure(planes[0], sources, PhotometryOptions())
    found = against_catalogue.check(table, beam)
    assert (found.n_sources, found.n_expected, found.flux_ratio) == (0, 0, None)
