"""Exports are valid in their formats and say what the tables say."""

import io

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.io.votable import parse_single_table, validate
from astropy.io.votable.ucd import check_ucd
from astropy.wcs import WCS
from mocpy import MOC

from dsa110_contimg import cli
from dsa110_contimg.lightcurves import assemble
from dsa110_contimg.lightcurves.variability import variability
from dsa110_contimg.maps import planes as map_planes
from dsa110_contimg.reports import export
from dsa110_contimg.reports.judge import read_photometry
from support.fake_results import make_results


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return make_results(
        tmp_path_factory.mktemp("fake") / "results", size=32, n_tiles=5, tables=False
    )


@pytest.fixture(scope="module")
def out(fake):
    folder = fake.root / "export"
    assert cli.main(["export", str(fake.root), str(folder)]) == 0
    return folder


def test_every_votable_is_valid_and_has_units_and_ucds(out):
    tables = sorted(out.glob("*.vot"))
    assert len(tables) == 4
    for path in tables:
        said = io.StringIO()
        assert validate(str(path), output=said), said.getvalue()
        for field in parse_single_table(path).fields:
            assert field.ucd, (path.name, field.name)
            if field.name.endswith("_jy"):
                assert str(field.unit) == "Jy"


def test_every_column_of_the_light_curves_statistics_is_described(tmp_path):
    curves = pd.DataFrame(
        [
            dict.fromkeys(assemble.DICTIONARY, 1.0)
            | {"source_id": "a", "name": "a", "mjd": float(i), "used": True, "upper_limit_jy": None}
            for i in range(3)
        ]
    )
    assert set(variability(curves).columns) <= set(export.COLUMNS)


def test_ucds_are_of_the_controlled_vocabulary():
    for _, ucd, _ in (*export.COLUMNS.values(), *export.OBSCORE.values()):
        assert check_ucd(ucd, check_controlled_vocabulary=True), ucd


def test_measurements_are_those_of_the_table(fake, out):
    night = fake.nights[0]
    rows = read_photometry(fake.layout.night(night, "photometry.csv"))
    table = parse_single_table(out / f"{night}.vot").to_table()
    assert len(table) == len(rows)
    assert np.allclose(table["flux_jy"], [r["flux_jy"] for r in rows])
    assert list(table["source_id"]) == [r["source_id"] for r in rows]
    assert list(table["upper_limit_jy"].mask) == [r["upper_limit_jy"] is None for r in rows]


def test_obscore_has_every_good_image_and_all_mandatory_fields(fake, out):
    table = parse_single_table(out / "obscore.vot").to_table()
    images = [*fake.root.glob("nights/*/groups/*/*.image.fits")]
    assert len(table) == len(images) - 1 + 2  # one tile failed its gate; two mosaics
    assert set(export.OBSCORE) == set(table.colnames)
    group = fake.groups[fake.nights[0]][2]
    row = next(r for r in table if r["obs_id"] == group)
    header = fits.getheader(fake.layout.group(group, "image.fits"))
    assert row["s_dec"] == pytest.approx(header["CRVAL2"], abs=0.1)
    assert row["s_ra"] == pytest.approx(header["CRVAL1"], abs=0.1)
    assert (row["t_max"] - row["t_min"]) * 86400 == pytest.approx(309.24, abs=0.01)
    # 1311.25 to 1498.76 MHz are 20.0 to 22.9 cm.
    assert row["em_min"] == pytest.approx(0.2000, abs=1e-4)
    assert row["em_max"] == pytest.approx(0.2286, abs=1e-4)
    assert str(row["s_region"]).startswith("POLYGON ICRS ")


def plane(ra, dec, shape, cell, disc_deg=None):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval, wcs.wcs.cdelt = [ra, dec], [-cell, cell]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5, shape[0] / 2 + 0.5]
    data = np.ones(shape)
    if disc_deg:
        yy, xx = np.mgrid[: shape[0], : shape[1]] - np.array(shape)[:, None, None] / 2 + 0.5
        data = (np.hypot(xx, yy) * cell < disc_deg).astype(float)
    return map_planes.Plane(data, wcs.to_header(), None)


@pytest.mark.parametrize(("ra", "dec"), [(123.4, 16.1), (0.0, 54.6), (200.0, 89.5)])
def test_coverage_has_the_area_of_the_weight_map(ra, dec):
    radius = 1.5
    disc = plane(ra, dec, (400, 400), 0.01, radius)
    cells = export.moc_cells([disc])
    area = cells.size * 4 * np.pi / (12 * 4**export.MOC_ORDER)
    # A disc of the SIN plane: the cap whose sine is the radius.
    truth = 2 * np.pi * (1 - np.sqrt(1 - np.radians(radius) ** 2))
    assert area == pytest.approx(truth, rel=0.003)


def test_coverage_file_merges_siblings_and_loses_nothing(tmp_path):
    cells = export.moc_cells([plane(10.0, 16.1, (300, 300), 0.02)])
    export.write_moc(cells, tmp_path / "a.moc.fits")
    assert MOC.load(tmp_path / "a.moc.fits").max_order == export.MOC_ORDER
    uniq = fits.getdata(tmp_path / "a.moc.fits", 1)["UNIQ"].astype(np.int64)
    order = ((np.floor(np.log2(uniq)) - 2) // 2).astype(int)
    expanded = [
        np.arange(
            (u - 4 * 4**o) << 2 * (export.MOC_ORDER - o),
            (u - 4 * 4**o + 1) << 2 * (export.MOC_ORDER - o),
        )
        for u, o in zip(uniq.tolist(), order.tolist(), strict=True)
    ]
    assert np.array_equal(np.sort(np.concatenate(expanded)), cells)
    assert uniq.size < cells.size / 10


def test_siblings_become_their_parent(tmp_path):
    """As the cells were numbered before a library did so."""
    cells = np.r_[np.arange(1000, 1100), np.arange(5000, 5005)]
    export.write_moc(cells, tmp_path / "a.moc.fits")
    parents = [262160, 1048639, 4194554, 4194555, 4194576, 4194577, 4194578, 4195554, 16782220]
    assert fits.getdata(tmp_path / "a.moc.fits", 1)["UNIQ"].tolist() == parents


def test_a_mosaic_without_sky_covers_nothing(tmp_path):
    export.write_moc(export.moc_cells([]), tmp_path / "a.moc.fits")
    assert MOC.load(tmp_path / "a.moc.fits").empty()


def test_regions_tell_detections_limits_and_candidates_apart(fake, out):
    text = (out / f"{fake.nights[0]}.reg").read_text()
    rows = read_photometry(fake.layout.night(fake.nights[0], "photometry.csv"))
    assert text.count("circle(") == len(rows)
    assert text.count("dash=1") == sum(r["upper_limit_jy"] is not None for r in rows)
    assert f"text={{{fake.variable}}}" in text
