"""Calibrators against CASA's own table, catalogues against what users get wrong."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from dsa110_contimg.catalogs import calibrators, catalogue
from dsa110_contimg.core.errors import DataError

BAND_HZ = np.linspace(1.31e9, 1.50e9, 20)


def standard(name):
    return next(c for c in calibrators.flux_standards() if c.name == name)


def test_standards_agree_with_casas_table_of_perley_butler_2017():
    """CASA's setjy reads its coefficients from this table; its last epoch is the paper's."""
    tables = pytest.importorskip("casacore.tables")
    casadata = pytest.importorskip("casadata")
    path = f"{casadata.datapath}/nrao/VLA/standards/PerleyButler2017Coeffs"
    with tables.table(path, ack=False) as table:
        assert len(calibrators.flux_standards()) >= 6
        for calibrator in calibrators.flux_standards():
            coefficients = table.getcell(f"{calibrator.name}_coeffs", table.nrows() - 1)
            powers = np.log10(BAND_HZ / 1e9)[:, None] ** np.arange(len(coefficients))
            expected = 10 ** (powers @ coefficients.astype(float))
            assert calibrator.flux(BAND_HZ) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(
    ("name", "jy"),
    [("3C48", 16.23), ("3C138", 8.36), ("3C147", 22.45), ("3C286", 14.86), ("3C295", 22.0)],
)
def test_standards_are_near_their_well_known_fluxes(name, jy):
    assert standard(name).flux(1.4e9) == pytest.approx(jy, rel=0.035)
    assert standard(name).steady


def test_standards_lie_where_the_vla_list_has_them():
    text = (
        calibrators.resources.files("dsa110_contimg.catalogs") / "data/vla_calibrators_20cm.csv"
    ).read_text()
    rows = {r["name"]: r for r in calibrators.csv.DictReader(text.splitlines())}
    for calibrator in calibrators.flux_standards():
        row = rows[calibrator.aliases[0]]
        assert row["alt_name"] == calibrator.name
        assert (calibrator.ra_deg, calibrator.dec_deg) == (
            float(row["ra_deg"]),
            float(row["dec_deg"]),
        )


def test_flux_outside_the_valid_range_is_refused():
    with pytest.raises(DataError, match="Hz"):
        standard("3C286").flux(1.4)


def test_vla_list():
    known = {c.name: c for c in calibrators.vla_calibrators()}
    assert len(known) > 1000
    assert "0137+331" not in known
    assert known["0834+555"].flux(1.465e9) == pytest.approx(8.8)
    pair = known["0005+383"]  # 0.52 Jy at 20 cm, 0.80 Jy at 6 cm
    assert pair.flux(1.465e9) == pytest.approx(0.52)
    assert pair.log_coefficients[1] == pytest.approx(np.log(0.80 / 0.52) / np.log(4.885 / 1.465))
    assert not any(c.steady for c in known.values())


def test_planning_needs_neither_pandas_nor_astropy():
    code = """
        import sys
        from dsa110_contimg.catalogs import calibrators
        calibrators.find_calibrator("3C48").flux(1.4e9), calibrators.vla_calibrators()
        assert not {"pandas", "astropy", "scipy"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_find_calibrator_by_name_alias_and_user_table(tmp_path):
    table = tmp_path / "cal.csv"
    table.write_text(
        "name,ra_deg,dec_deg,flux_jy,alpha,steady\nmine,10,20,5,-0.5,true\n0834+555,1,2,3,,\n"
    )
    assert calibrators.find_calibrator("0137+331").name == "3C48"
    mine = calibrators.find_calibrator("mine", table)
    assert mine.steady
    assert mine.flux(1.5e9) == pytest.approx(5 * (1.5 / 1.4) ** -0.5)
    assert calibrators.find_calibrator("0834+555", table).ra_deg == 1
    assert calibrators.find_calibrator("0834+555").flux(1.465e9) == pytest.approx(8.8)
    with pytest.raises(DataError, match="nobody"):
        calibrators.find_calibrator("nobody", table)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,10,20,", "line 2: flux_jy is missing"),
        ("x,370,20,1", "line 2: ra_deg must be between"),
        ("x,10,95,1", "line 2: dec_deg must be between"),
        ("x,10,20,bright", "line 2: flux_jy is no number"),
        ("x,10,20,0", "line 2: flux_jy must be between"),
    ],
)
def test_wrong_calibrator_tables(tmp_path, row, message):
    path = tmp_path / "cal.csv"
    path.write_text(f"name,ra_deg,dec_deg,flux_jy\n{row}\n")
    with pytest.raises(DataError, match=message):
        calibrators.read_calibrators(path)


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_read_catalog_fills_names_and_spectral_indices(tmp_path):
    path = write(
        tmp_path / "c.csv",
        "name,ra_deg,dec_deg,flux_jy,alpha,note",
        ["0001,1.5,-30.25,0.1,-0.2,a", ",359.999,71,2,,b"],
    )
    table = catalogue.read_catalog(path)
    assert list(table.columns) == ["name", "ra_deg", "dec_deg", "flux_jy", "alpha", "note"]
    assert list(table.name) == ["0001", "J235959.7+710000"]
    assert list(table.alpha) == [-0.2, catalogue.DEFAULT_ALPHA]


def test_read_catalog_from_parquet(tmp_path):
    path = write(tmp_path / "c.csv", "name,ra_deg,dec_deg,flux_jy", ["a,1,2,3"])
    table = catalogue.read_catalog(path)
    table.to_parquet(tmp_path / "c.parquet")
    assert catalogue.read_catalog(tmp_path / "c.parquet").equals(table)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("name,ra_deg,dec_deg,flux_mjy", ["a,1,2,3"], "flux_jy is missing .*divide by 1000"),
        ("name,ra_deg,dec_deg,flux_jy", ["a,1,2,3", "b,-1,2,3"], "ra_deg must.*data row 2"),
        ("name,ra_deg,dec_deg,flux_jy", ["a,1,91,3"], "dec_deg must"),
        ("name,ra_deg,dec_deg,flux_jy", ["a,1,x,3"], "dec_deg must"),
        ("name,ra_deg,dec_deg,flux_jy", ["a,1,2,-3"], "flux_jy must"),
        ("name,ra_deg,dec_deg,flux_jy,alpha", ["a,1,2,3,steep"], "alpha must"),
        ("name,ra_deg,dec_deg,flux_jy", ["a,1,2,3", "a,4,5,6"], "'a' occurs more than once"),
        ("name,ra_deg,dec_deg,flux_jy", [f"s{n},{n},2,{n + 20}" for n in range(12)], "mJy"),
        ("name,ra_deg,dec_deg,flux_jy", [f"s{n},0.{n},0.2,1" for n in range(12)], "radians"),
        ("", [], "cannot be read|missing"),
    ],
)
def test_wrong_catalogues_are_refused(tmp_path, header, rows, message):
    with pytest.raises(DataError, match=message):
        catalogue.read_catalog(write(tmp_path / "c.csv", header, rows))


def test_missing_catalogue(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        catalogue.read_catalog(tmp_path / "none.csv")


def test_flux_at():
    assert catalogue.flux_at([2.0, 1.0], [-0.7, 0.0], 1.3e9) == pytest.approx(
        [2 * (1.3 / 1.4) ** -0.7, 1.0]
    )


@pytest.mark.parametrize(
    ("ra", "dec", "name"),
    [
        (15 * (1 + 2 / 60 + 3.4 / 3600), 12 + 34 / 60 + 56 / 3600, "J010203.4+123456"),
        (15 * (1 + 2 / 60 + 3.49 / 3600), -(12 + 34 / 60 + 56.9 / 3600), "J010203.4-123456"),
        (359.99999, -0.0001, "J235959.9-000000"),
        (0.0, 0.0, "J000000.0+000000"),
        (360.0, 89.99999, "J000000.0+895959"),
    ],
)
def test_iau_names_truncate(ra, dec, name):
    assert catalogue.iau_name(ra, dec) == name


def test_calibrators_in_order_and_the_users_word_before_the_list(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text(
        "name,ra_deg,dec_deg,flux_jy\n2253+161,1,2,12\nmine,128.7287,55.5725,7\nnew,10,20,3\n"
    )
    known = calibrators.all_calibrators(table)
    anchors = list(dict.fromkeys(c.anchor for c in known))
    assert anchors == ["Perley-Butler 2017", calibrators.VLA_LIST, "user's calibrator table"]
    # 2253+161 goes by its name, 0834+555 by its place.
    assert len(known) == len(calibrators.all_calibrators()) + 1
    assert calibrators.find_calibrator("2253+161", table).dec_deg == 2
    with pytest.raises(DataError, match="in no table"):
        calibrators.find_calibrator("0834+555", table)
    assert calibrators.find_calibrator("0834+555").anchor == calibrators.VLA_LIST
