"""Reference catalogues: what VizieR answers is imitated, units and all."""

import json
import sys
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import Column, Table

from dsa110_contimg import cli
from dsa110_contimg.catalogs import surveys
from dsa110_contimg.catalogs.catalogue import read_catalog
from dsa110_contimg.core.errors import ConfigError, DataError

CSV = "name,ra_deg,dec_deg,flux_jy,alpha\na,1,2,0.3,-0.5\nb,3,4,0.1,\n"


class FakeVizier:
    """Answers with the sources of a small sky, in the units it is told to."""

    asked: list = []  # noqa: RUF012
    sky = pd.DataFrame(
        {"name": ["A", "B", "C"], "ra": [1.0, 12.0, 359.5], "dec": [33.0, 34.0, 32.0],
         "mjy": [100.0, 2000.0, 30.0]}
    )  # fmt: skip
    unit = u.mJy
    down = False

    def __init__(self, columns, column_filters, row_limit, timeout):
        assert row_limit == -1 and timeout > 60
        self.columns, self.filters = columns, column_filters

    def query_region(self, middle, width, height, catalog):
        if self.down:
            raise ConnectionError("Max retries exceeded\nwith url: /viz-bin/votable")
        self.asked.append((middle.ra.deg, middle.dec.deg, width.value, height.value, catalog))
        away = (self.sky.ra - middle.ra.deg + 180) % 360 - 180
        near = np.abs(away * np.cos(np.deg2rad(self.sky.dec))) < width.value / 2
        rows = self.sky[near & (np.abs(self.sky.dec - middle.dec.deg) < height.value / 2)]
        name, ra, dec, flux, error = self.columns
        table = Table()
        table[name] = list(rows["name"])
        table[ra], table[dec] = Column(rows.ra, unit=u.deg), Column(rows.dec, unit=u.deg)
        table[flux] = Column(rows.mjy, unit=self.unit)
        table[error] = Column(0.5 + 0 * rows.mjy, unit=self.unit)
        return [table] if len(table) else []


@pytest.fixture
def vizier(monkeypatch):
    class Fresh(FakeVizier):
        asked: list = []  # noqa: RUF012

    module = types.ModuleType("astroquery.vizier")
    module.Vizier = Fresh
    monkeypatch.setitem(sys.modules, "astroquery", types.ModuleType("astroquery"))
    monkeypatch.setitem(sys.modules, "astroquery.vizier", module)
    return Fresh


def test_a_csv_becomes_parquet_with_units(tmp_path, capsys):
    (tmp_path / "in.csv").write_text(CSV)
    out = tmp_path / "out.parquet"
    assert cli.main(["catalog", "build", str(tmp_path / "in.csv"), str(out), "--survey", "x"]) == 0
    assert "2 sources" in capsys.readouterr().out
    schema = pq.read_schema(out)
    assert schema.field("flux_jy").metadata[b"unit"] == b"Jy"
    assert schema.field("ra_deg").metadata[b"unit"] == b"deg"
    assert json.loads((tmp_path / "out.parquet.json").read_text())["qa"]["n_sources"] == 2
    read = read_catalog(out)
    assert list(read.alpha) == [-0.5, -0.7] and set(read.survey) == {"x"}
    pd.testing.assert_frame_equal(
        read.drop(columns="survey"), read_catalog(tmp_path / "in.csv"), check_dtype=False
    )


def test_mjy_in_a_named_column_become_jy(tmp_path):
    (tmp_path / "in.csv").write_text("name,ra_deg,dec_deg,flux_mjy\na,1,2,300\n")
    out = tmp_path / "out.parquet"
    assert cli.main(["catalog", "build", str(tmp_path / "in.csv"), str(out)]) == 0
    assert read_catalog(out).flux_jy.tolist() == [0.3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,ra_deg,dec_deg,flux_jy,flux_mjy\na,1,2,3,3000\n", "keep one"),
        ("name,ra_deg,dec_deg,flux_jy\na,1,2,-3\n", "flux_jy must be"),
        ("name,ra_deg,dec_deg,flux_jy,survey\na,1,2,3,nvss\nb,2,2,3,racs\n", "nvss and racs"),
    ],
)
def test_a_wrong_csv_is_refused_and_leaves_nothing(tmp_path, capsys, text, message):
    (tmp_path / "in.csv").write_text(text)
    out = tmp_path / "out.parquet"
    assert cli.main(["catalog", "build", str(tmp_path / "in.csv"), str(out)]) == 3
    error = capsys.readouterr().err
    assert message in error and ".tmp-" not in error
    assert not out.exists()


def test_a_file_that_states_other_units_is_refused(tmp_path):
    fields = [pa.field(n, pa.float64()) for n in ("ra_deg", "dec_deg")]
    fields.append(pa.field("flux_jy", pa.float64(), metadata={"unit": "mJy"}))
    table = pa.Table.from_pydict({"ra_deg": [1.0], "dec_deg": [2.0], "flux_jy": [0.3]})
    pq.write_table(table.cast(pa.schema(fields)), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="flux_jy is in mJy; it must be in Jy"):
        read_catalog(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_catalog(tmp_path / "d.parquet")


def test_fetch_in_pieces_across_ra_zero_and_from_the_cache(tmp_path, vizier):
    out = tmp_path / "nvss.parquet"
    command = ["catalog", "fetch", "nvss", str(out), "--dec", "33", "--ra", "350", "15"]
    command += ["--cache", str(tmp_path / "cache")]
    assert cli.main(command) == 0
    table = read_catalog(out)
    assert sorted(table["name"]) == ["NVSS A", "NVSS B", "NVSS C"]
    found = table.set_index("name")
    assert found.flux_jy["NVSS B"] == 2.0 and found.flux_survey_err_jy["NVSS B"] == 5e-4
    assert len(vizier.asked) == 3 and vizier.asked[0][4] == "VIII/65/nvss"
    assert cli.main(command) == 0
    assert len(vizier.asked) == 3


def test_fluxes_are_carried_to_the_reference_frequency(tmp_path, vizier):
    table = surveys.fetch("vlass", (30, 36), (0, 20), tmp_path)
    expected = 0.1 * (1.4 / 3.0) ** -0.7
    assert table.flux_jy[0] == pytest.approx(expected)
    assert (table.flux_survey_jy[0], table.freq_survey_hz[0]) == (pytest.approx(0.1), 3e9)
    assert set(table.survey) == {"vlass"}


def test_a_column_without_its_unit_is_refused(tmp_path, vizier):
    vizier.unit = u.arcsec
    with pytest.raises(DataError, match="is in arcsec, not in Jy or mJy"):
        surveys.fetch("nvss", (30, 36), (0, 20), tmp_path)


def test_no_network_is_one_clear_line(tmp_path, vizier, capsys):
    vizier.down = True
    command = ["catalog", "fetch", "nvss", str(tmp_path / "n.parquet"), "--dec", "33"]
    assert cli.main([*command, "--cache", str(tmp_path)]) == 4
    line = capsys.readouterr().err.splitlines()[0]
    assert "VizieR cannot be reached" in line and "contimg catalog build" in line
    assert not (tmp_path / "n.parquet").exists()


def test_without_astroquery_it_says_how(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "astroquery.vizier", None)
    command = ["catalog", "fetch", "nvss", str(tmp_path / "n.parquet"), "--dec", "33"]
    assert cli.main([*command, "--cache", str(tmp_path)]) == 4
    assert "pip install astroquery" in capsys.readouterr().err


def test_a_survey_that_does_not_see_it_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="racs covers declinations -80 to 30"):
        surveys.fetch("racs", (50, 56), (0, 360), tmp_path)
