import json

import numpy as np
import pytest

from dsa110_contimg import apply, telescope
from dsa110_contimg.apply import choose_averaging, choose_candidate, read_candidate, smearing_loss
from dsa110_contimg.errors import DataError
from dsa110_contimg.products import Sidecar

FREQ = np.linspace(1.311e9, 1.498e9, 768)
ANTENNAS = [f"DSA-{n:03d}" for n in range(1, 11)]


def make_candidate(folder, group="20260203T003704", verdict="pass", tables=True, **qa):
    prefix = folder / group
    sidecar = Sidecar("calibrate", parameters={"strip_deg": 5.0, "validity_h": 24.0, "delay": True})
    sidecar.qa = {
        "group": group,
        "calibrator": "3C48",
        "dec_app_deg": 33.3,
        "antennas": ANTENNAS,
        "freq_hz": [float(FREQ[0]), float(FREQ[-1])],
        "n_channels": len(FREQ),
    } | qa
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
    ("qa", "word"),
    [
        ({"dec_app_deg": 54.6}, "strip"),
        ({"antennas": [f"DSA-{n:03d}" for n in range(50, 60)]}, "antennas"),
        ({"freq_hz": [1.4e9, float(FREQ[-1])]}, "MHz"),
    ],
)
def test_incompatible_candidates(tmp_path, qa, word):
    chosen, reasons = choose_candidate([make_candidate(tmp_path, **qa)], TILE)
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
    table = telescope.stations()
    itrf = table.itrf_m[table.active]
    lon, dec = telescope.LONGITUDE_RAD, np.deg2rad(33.2)
    x = itrf @ [np.cos(lon), np.sin(lon), 0]
    y = itrf @ [-np.sin(lon), np.cos(lon), 0]
    z = itrf[:, 2]
    v = np.cos(dec) * z - np.sin(dec) * x
    w = np.cos(dec) * x + np.sin(dec) * z
    antenna = np.stack([y, v, w], axis=1)
    a, b = np.triu_indices(len(antenna), 1)
    return antenna[b] - antenna[a]


def brute_force_loss(baselines, width_hz, length_s, dec_deg=33.2, freq_hz=1.4e9):
    """Average explicit fringes of a source at half power, east or north, over band and time."""
    radius = 0.5145 * telescope.C_M_S / freq_hz / telescope.DISH_DIAMETER_M
    dec = np.deg2rad(dec_deg)
    u, v, w = baselines.T
    # back to the axes x (meridian, equator), y (east), z (pole), then rotate the sky
    y, x, z = u, -np.sin(dec) * v + np.cos(dec) * w, np.cos(dec) * v + np.sin(dec) * w
    losses = []
    for d_ra, d_dec in [(radius / np.cos(dec), 0.0), (0.0, radius)]:
        total = 0
        for t in (np.arange(32) + 0.5) / 32 - 0.5:
            angle = telescope.EARTH_RATE_RAD_S * t * length_s
            delays = []
            for ra, de in [(d_ra, dec + d_dec), (0.0, dec)]:
                hour = angle - ra
                delays.append(
                    np.cos(de) * np.cos(hour) * x - np.cos(de) * np.sin(hour) * y + np.sin(de) * z
                )
            difference = (delays[0] - delays[1]) / telescope.C_M_S
            for f in (np.arange(8) + 0.5) / 8 - 0.5:
                total = total + np.exp(2j * np.pi * difference * (freq_hz + f * width_hz))
        losses.append(1 - np.mean(np.abs(total) / 256))
    return max(losses)


@pytest.mark.parametrize(("channels", "integrations"), [(1, 1), (4, 1), (1, 4), (3, 2), (12, 6)])
def test_smearing_against_explicit_fringes(channels, integrations):
    baselines = uvw()[::40]
    width, length = channels * telescope.CHANNEL_WIDTH_HZ, integrations * telescope.INTEGRATION_S
    expected = brute_force_loss(baselines, width, length)
    assert smearing_loss(baselines, 1.4e9, 33.2, width, length) == pytest.approx(
        expected, rel=0.05, abs=2e-5
    )


def test_averaging_is_the_most_within_the_limit():
    baselines = uvw()
    args = (baselines, FREQ, 33.2, telescope.INTEGRATION_S, 24)
    chosen = choose_averaging(*args, 0.01)
    width = FREQ[1] - FREQ[0]

    def loss(channels, integrations):
        return smearing_loss(
            baselines, FREQ.mean(), 33.2, channels * width, integrations * telescope.INTEGRATION_S
        ) - smearing_loss(baselines, FREQ.mean(), 33.2, width, telescope.INTEGRATION_S)

    assert chosen.loss == pytest.approx(loss(chosen.channels, chosen.integrations))
    assert 0 < chosen.loss <= 0.01
    size = chosen.channels * chosen.integrations
    assert size > 1
    for channels in (1, 2, 3, 4, 6, 8, 12, 16, 24, 48):
        for integrations in (1, 2, 3, 4, 6, 8, 12, 24):
            assert channels * integrations <= size or loss(channels, integrations) > 0.01
    assert choose_averaging(*args, 0.0) == apply.Averaging(1, 1, 0.0)


def test_averaging_divides_subbands_and_tile():
    chosen = choose_averaging(uvw() / 30, FREQ, 33.2, telescope.INTEGRATION_S, 10, 0.02)
    assert 48 % chosen.channels == 0
    assert 10 % chosen.integrations == 0


def test_library_lists_the_tables_in_order(tmp_path):
    candidate = make_candidate(tmp_path)
    lines = apply.calibration_library(candidate, True).splitlines()
    assert [line.split("'")[1].rsplit(".", 1)[1] for line in lines] == ["kcal", "bcal", "gcal"]
    assert [("calwt=True" in line) for line in lines] == [False, True, True]
    assert len(apply.calibration_library(candidate, False).splitlines()) == 2


def test_sidecars_of_candidates_are_those_of_calibrate(tmp_path):
    candidate = make_candidate(tmp_path)
    written = json.loads((tmp_path / "20260203T003704.gcal.json").read_text())
    assert candidate.sidecar == written
