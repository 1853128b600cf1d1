import json

import numpy as np
import pytest

from dsa110_contimg.calibration import apply as apply_step
from dsa110_contimg.calibration import mstransform
from dsa110_contimg.calibration.apply import choose_averaging, choose_candidate, read_candidate
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.figures import CalibrateFigures
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.telescope import dsa110
from dsa110_contimg.telescope.smearing import Smearing, half_power_deg
from support.figures import example

FREQ = np.linspace(1.311e9, 1.498e9, 768)
ANTENNAS = [f"DSA-{n:03d}" for n in range(1, 11)]


def make_candidate(folder, group="20260203T003704", verdict="pass", tables=True, **figures):
    prefix = folder / group
    sidecar = Sidecar("calibrate", parameters={"strip_deg": 5.0, "validity_h": 24.0, "delay": True})
    solved = {
        "group": group,
        "calibrator": "3C48",
        "dec_app_deg": 33.3,
        "antennas": ANTENNAS,
        "freq_hz": [float(FREQ[0]), float(FREQ[-1])],
        "n_channels": len(FREQ),
    }
    sidecar.figures = example(CalibrateFigures, **solved | figures)
    if verdict == "fail":
        sidecar.fail("it was cloudy")
    for kind in ("kcal", "bcal", "gcal"):
        table = folder / f"{group}.{kind}"
        table.mkdir()
        if not tables:
            (table / "NO_SOLUTION.txt").write_text("none\n")
        sidecar.write(table)
    return read_candidate(prefix)


TILE = {"dec_app_deg": 33.3, "antennas": ANTENNAS, "freq_hz": FREQ}


def test_first_usable_candidate_is_chosen(tmp_path):
    bad = make_candidate(tmp_path, "20260203T003704", verdict="fail")
    good = make_candidate(tmp_path, "20260204T003308")
    other = make_candidate(tmp_path, "20260205T002912")
    chosen, reasons = choose_candidate([bad, good, other], TILE)
    assert chosen is good
    assert reasons == ["20260203T003704: it failed: it was cloudy"]


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        ({"dec_app_deg": 54.6}, "strip"),
        ({"antennas": [f"DSA-{n:03d}" for n in range(50, 60)]}, "antennas"),
        ({"freq_hz": [1.4e9, float(FREQ[-1])]}, "MHz"),
    ],
)
def test_incompatible_candidates(tmp_path, figures, word):
    chosen, reasons = choose_candidate([make_candidate(tmp_path, **figures)], TILE)
    assert chosen is None
    assert word in reasons[0]


def test_some_new_antennas_are_tolerated(tmp_path):
    assert choose_candidate([make_candidate(tmp_path, antennas=ANTENNAS[:6])], TILE)[0]


def test_averaged_solution_covers_the_band(tmp_path):
    centres = FREQ.reshape(-1, 4).mean(axis=1)
    candidate = make_candidate(
        tmp_path, freq_hz=[float(centres[0]), float(centres[-1])], n_channels=192
    )
    assert choose_candidate([candidate], TILE)[0] is candidate


def test_marked_table_without_solution_is_refused(tmp_path):
    chosen, reasons = choose_candidate([make_candidate(tmp_path, tables=False)], TILE)
    assert chosen is None
    assert "no solution" in reasons[0]


def test_missing_sidecar_is_an_error(tmp_path):
    with pytest.raises(DataError, match="sidecar"):
        read_candidate(tmp_path / "20260203T003704")


def uvw():
    """Baselines of the telescope at transit, dec 33, about."""
    table = dsa110.stations()
    itrf = table.itrf_m[table.active]
    lon, dec = dsa110.LONGITUDE_RAD, np.deg2rad(33.2)
    x = itrf @ [np.cos(lon), np.sin(lon), 0]
    y = itrf @ [-np.sin(lon), np.cos(lon), 0]
    z = itrf[:, 2]
    v = np.cos(dec) * z - np.sin(dec) * x
    w = np.cos(dec) * x + np.sin(dec) * z
    antenna = np.stack([y, v, w], axis=1)
    a, b = np.triu_indices(len(antenna), 1)
    return antenna[b] - antenna[a]


def loss(baselines, channels):
    """Loss at half power, east or north, by what `test_smearing` compares with truth."""
    smearing = Smearing(33.2, channels, 1, channels * (FREQ[1] - FREQ[0]), 0.0)
    radius = np.deg2rad(half_power_deg(FREQ.mean()))
    return max(
        1 - smearing.fringe(baselines, np.array(towards), FREQ.mean()).mean()
        for towards in ([radius, 0, 0], [0, radius, 0])
    )


def test_averaging_is_the_most_within_the_limit():
    baselines = uvw()
    chosen = choose_averaging(baselines, FREQ, 33.2, 0.02)
    assert chosen.loss == pytest.approx(loss(baselines, chosen.channels))
    assert 0 < chosen.loss <= 0.02
    assert chosen.channels > 1
    for channels in (1, 2, 3, 4, 6, 8, 12, 16, 24, 48):
        assert channels <= chosen.channels or loss(baselines, channels) > 0.02
    assert choose_averaging(baselines, FREQ, 33.2, 0.0) == apply_step.Averaging(1, 0.0)


def test_averaging_divides_subbands():
    assert 48 % choose_averaging(uvw() / 7, FREQ, 33.2, 0.02).channels == 0
    assert choose_averaging(uvw() / 1000, FREQ, 33.2, 0.02).channels == 48


def test_library_lists_the_tables_in_order(tmp_path):
    tables = [tmp_path / f"a.{kind}" for kind in ("kcal", "bcal", "gcal")]
    lines = mstransform.calibration_library(tables).splitlines()
    assert [line.split("'")[1].rsplit(".", 1)[1] for line in lines] == ["kcal", "bcal", "gcal"]
    assert [("calwt=True" in line) for line in lines] == [False, True, True]


def test_sidecars_of_candidates_are_those_of_calibrate(tmp_path):
    candidate = make_candidate(tmp_path)
    written = json.loads((tmp_path / "20260203T003704.gcal.json").read_text())
    assert candidate.sidecar.step == "calibrate"
    assert candidate.sidecar.figures.plain() == written["qa"]
