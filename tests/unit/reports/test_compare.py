"""The comparison of two results folders finds each kind of difference, and none in the same."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from casacore.tables import makearrcoldesc, maketabdesc, table

from dsa110_contimg.reports import compare

NIGHT = "nights/2026-02-03"


def write_gains(path):
    column = makearrcoldesc("CPARAM", 0j, shape=[2, 1], valuetype="complex")
    with table(str(path), maketabdesc([column]), nrow=3, ack=False) as gains:
        gains.putcol("CPARAM", np.full((3, 2, 1), 1 + 1j, np.complex64))


@pytest.fixture
def results(tmp_path):
    def make(name):
        night = tmp_path / name / NIGHT
        night.mkdir(parents=True)
        header = fits.Header({"BMAJ": 0.01, "DATE": "now" + name})
        data = np.array([[1.0, np.nan], [3.0, 4.0]], np.float32)
        fits.writeto(night / "mosaic.fits", data, header)
        record = {"qa": {"rms_jy": 0.1, "list": [1, {"a": None}]}, "timings_s": {name: 1.0}}
        (night / "mosaic.fits.json").write_text(json.dumps(record))
        table = pd.DataFrame({"flux_jy": [1.0, np.nan], "image_version": [name, name]})
        table.to_csv(night / "photometry.csv", index=False)
        curves = tmp_path / name / "lightcurves"
        curves.mkdir()
        table.to_parquet(curves / "lightcurves.parquet")
        write_gains(night / "x.gcal")
        return night

    return make("before"), make("after")


def found(results):
    before, after = (night.parents[1] for night in results)
    return [difference.text for difference in compare.folders(before, after)]


def change_image(night):
    fits.writeto(night / "mosaic.fits", np.float32([[1, np.nan], [3, 4.0001]]), overwrite=True)


def change_card(night):
    fits.setval(night / "mosaic.fits", "BMAJ", value=0.02)


def change_figure(night):
    path = night / "mosaic.fits.json"
    path.write_text(path.read_text().replace('"a": null', '"a": 0'))


def change_table(night):
    path = night / "photometry.csv"
    path.write_text(path.read_text().replace("1.0", "1.0000001"))


def change_curves(night):
    path = night.parents[1] / "lightcurves/lightcurves.parquet"
    pd.read_parquet(path).assign(flux_jy=[np.nan, 1.0]).to_parquet(path)


def remove_table(night):
    (night / "photometry.csv").unlink()


def change_gains(night):
    with table(str(night / "x.gcal"), readonly=False, ack=False) as gains:
        values = gains.getcol("CPARAM")
        values[-1] *= 1.000001
        gains.putcol("CPARAM", values)


def test_equal_results_have_no_differences(results):
    assert found(results) == []
    before = results[0].parents[1]
    assert len(compare.products(before)) == 5


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_image, "mosaic.fits"),
        (change_card, "mosaic.fits"),
        (change_figure, "mosaic.fits.json"),
        (change_table, "photometry.csv"),
        (change_curves, "lightcurves.parquet"),
        (remove_table, "photometry.csv"),
        (change_gains, "x.gcal"),
    ],
)
def test_each_kind_of_difference_is_found(results, change, name):
    change(results[1])
    lines = found(results)
    assert lines and all(name in line for line in lines)
