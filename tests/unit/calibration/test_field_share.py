"""Share of a calibrator in its field."""

import json
import os

import pandas as pd
import pytest

from dsa110_contimg.calibration import field_share
from dsa110_contimg.catalogs import calibrators, catalogue
from dsa110_contimg.telescope.beam import airy_power

C48 = calibrators.find_calibrator("3C48")
FREQ = 1.405e9


def table(rows):
    return pd.DataFrame(rows, columns=["name", "ra_deg", "dec_deg", "flux_jy", "alpha"])


def test_share_is_the_ratio_of_apparent_fluxes():
    field = table(
        [
            ("3C48", C48.ra_deg, C48.dec_deg, 99.0, 0.0),  # the catalogue's word does not count
            ("near", C48.ra_deg, C48.dec_deg - 1.0, 8.0, 0.0),
            ("far", C48.ra_deg, C48.dec_deg + 20.0, 1e4, 0.0),
        ]
    )
    pointing = C48.dec_deg - 0.5
    response = airy_power(0.5 / 57.29577951308232, FREQ)
    own = C48.flux(FREQ) * response
    expected = own / (own + 8.0 * response)
    assert field_share.field_share(C48, field, pointing) == pytest.approx(expected, rel=1e-4)


def test_calibrator_of_the_list_must_be_in_the_catalogue():
    listed = calibrators.find_calibrator("2253+161")
    empty = table([("other", 10.0, 10.0, 1.0, -0.7)])
    known = table([("J", listed.ra_deg, listed.dec_deg + 30 / 3600, 10.0, -0.7)])
    assert field_share.field_share(listed, empty, listed.dec_deg) == 0
    assert field_share.field_share(listed, known, listed.dec_deg) == 1
    assert field_share.field_share(C48, empty, C48.dec_deg) == 1


def test_catalogue_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path, kept = tmp_path / "catalog.csv", tmp_path / "results/shares.json"
    near = f"near,{C48.ra_deg},{C48.dec_deg},5,0"
    path.write_text(f"name,ra_deg,dec_deg,flux_jy,alpha\n{near}\n")
    reads = []

    def read(name):
        reads.append(name)
        return pd.read_csv(name)

    monkeypatch.setattr(catalogue, "read_catalog", read)
    first = field_share.FieldShares(path, kept)(C48, 33.2)
    again = field_share.FieldShares(path, kept)
    assert again(C48, 33.21) == first == 1
    assert len(reads) == 1
    kept.write_text("{not json")
    field_share.FieldShares(path, kept)(C48, 33.2)
    path.write_text(f"name,ra_deg,dec_deg,flux_jy,alpha\nx,{C48.ra_deg},{C48.dec_deg + 1},16,0\n")
    os.utime(path, ns=(1, 1))
    changed = field_share.FieldShares(path, kept)(C48, 33.2)
    assert len(reads) == 3
    assert 0.5 < changed < 0.7


@pytest.mark.parametrize(
    ("rows", "transits"),
    [
        ("far,100,50,1\n", []),  # the catalogue does not know it
        ("J2253,343.4906,16.1482,10\n", ["2253+161"]),
        ("J2253,343.4906,16.1482,10\nnear,343.5,16.4,90\n", []),  # a tenth of the field
        ("J2253,343.4906,16.1482,10\nnear,343.5,22.5,90\n", ["2253+161"]),  # outside the beam
    ],
)
def test_plan_takes_a_listed_calibrator_where_it_dominates(tmp_path, monkeypatch, rows, transits):
    from dsa110_contimg.conversion.inventory import Group, Inventory
    from dsa110_contimg.core.config import load_config
    from dsa110_contimg.core.times import group_id, night_of
    from dsa110_contimg.operations import planning

    name = group_id(61065.9)
    group = Group(
        name, night_of(name), "complete", dict.fromkeys(range(16), "raw"), 61065.9, 309.24, 24,
        16.1, 343.3, 16.1,
    )  # fmt: skip
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps(Inventory([group], []).to_dict()))
    monkeypatch.setenv(planning.FROZEN, str(inventory))
    (tmp_path / "catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy\n" + rows)
    (tmp_path / "incoming").mkdir()
    values = {"incoming": "incoming", "results": "results", "catalog": "catalog.csv"}
    config = load_config({key: str(tmp_path / value) for key, value in values.items()})
    plan = planning.make_plan(config).calibration
    assert list(plan.transits.values()) == transits
    assert (name in plan.candidates) == bool(transits)
