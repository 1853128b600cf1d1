"""The verdict on a night says what is true of it."""

import json
import shutil

import pytest

from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.options import QaOptions
from dsa110_contimg.reports.judge import flux_scale, judge_night, worst
from support.fake_results import make_results, write_failure
from support.steps import run_step


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("fake") / "results", size=40, tables=False)


def row(flux, catalog, rms=0.01, flags=""):
    return {
        "flux_jy": flux,
        "catalog_flux_jy": catalog,
        "local_rms_jy": rms,
        "snr": flux / rms,
        "flags": flags,
    }


def test_a_night_without_faults_is_clean(fake):
    judged = judge_night(fake.layout.night(fake.nights[0]), fake.inventory)
    assert judged["verdict"] == "clean", judged["reasons"]
    assert judged["reasons"] == []
    assert judged["counts"]["pass"] == judged["counts"]["groups"] == 9


def test_times_are_compared_with_what_was_observed(fake):
    judged = judge_night(fake.layout.night(fake.nights[0]), fake.inventory)
    tile = judged["tiles"][2]
    assert tile["duration_s"] == pytest.approx(309.24, abs=0.01)
    assert (tile["n_integrations"], tile["n_channels"], tile["n_antennas"]) == (24, 96, 24)
    # group 0.3, convert 30, apply 8, image 35, photometry 1.5 s
    assert judged["timings"]["tile_median_s"] == pytest.approx(74.8)
    assert judged["timings"]["real_time_factor"] == pytest.approx(309.24 / 74.8, rel=1e-4)


def test_every_fault_is_told_apart_and_named(fake):
    night = fake.nights[1]
    ids = fake.groups[night]
    judged = judge_night(fake.layout.night(night), fake.inventory)
    states = {t["group"]: t["state"] for t in judged["tiles"]}
    assert judged["verdict"] == "degraded"
    assert [states[ids[i]] for i in (0, 2, 3, 4, 5, 6)] == [
        "pass",
        "warn",
        "fail",
        "missing",
        "fail",
        "warn",
    ]
    assert judged["counts"]["waiting"] == 1
    told = " | ".join(judged["reasons"])
    for words in (
        "dynamic range 12 is below 30",
        "no calibration within 30 days",
        "the chain stopped: calibrated, but not imaged",
        "sb15 is absent",
        "1 incoming file could not be read",
        ids[3],
    ):
        assert words in told


def test_no_usable_tile_fails_the_night(fake, tmp_path):
    night = fake.nights[0]
    copy = tmp_path / "nights" / night
    shutil.copytree(fake.layout.night(night), copy)
    for image in copy.glob("groups/*/*.image.fits.json"):
        content = json.loads(image.read_text()) | {"verdict": "fail", "reasons": ["diverged"]}
        image.write_text(json.dumps(content))
    judged = judge_night(copy)
    assert judged["verdict"] == "failed"
    assert judged["reasons"][0] == "none of 9 tiles gave a usable image"


def test_a_damaged_sidecar_counts_as_missing_and_is_named(fake, tmp_path):
    night, group = fake.nights[0], fake.groups[fake.nights[0]][2]
    copy = tmp_path / "nights" / night
    shutil.copytree(fake.layout.night(night), copy)
    (copy / "groups" / group / f"{group}.image.fits.json").write_text('{"verdict": ')
    judged = judge_night(copy)
    assert judged["verdict"] == "degraded"
    assert {t["group"]: t["state"] for t in judged["tiles"]}[group] == "missing"
    assert any("unreadable sidecars" in r for r in judged["reasons"])


def test_flux_scale_off_by_more_than_its_gate_degrades(fake):
    strict = QaOptions(max_flux_offset=0.001, min_completeness=1.0)
    judged = judge_night(fake.layout.night(fake.nights[0]), fake.inventory, strict)
    assert any("flux scale is off" in r and "above" in r for r in judged["reasons"])


@pytest.mark.parametrize(("east", "told"), [(4.0, False), (30.0, True)])
def test_positions_that_are_off_degrade(fake, tmp_path, east, told):
    night = fake.nights[0]
    copy = tmp_path / "nights" / night
    shutil.copytree(fake.layout.night(night), copy)
    for name, changes in (
        ("mosaic.fits.json", {"beam_minor_arcsec": 25.0}),
        ("photometry.csv.json", {"astrometry": astrometry(east, error=1.0)}),
    ):
        content = json.loads((copy / name).read_text())
        content["qa"] |= changes
        (copy / name).write_text(json.dumps(content))
    reasons = judge_night(copy, fake.inventory)["reasons"]
    assert any("positions are off by 30.0 arcsec" in r for r in reasons) == told


def astrometry(east, error):
    return {
        "n": 40,
        "ra_offset_arcsec": east,
        "dec_offset_arcsec": 0.0,
        "error_arcsec": error,
        "scatter_arcsec": 6 * error,
    }


def test_flux_scale_against_numbers_worked_by_hand():
    # Ratios 1.0, 1.1, 1.2: median 1.1, MAD 0.1. The flagged row and the faint one stay out.
    rows = [row(1.0, 1.0), row(1.1, 1.0), row(1.2, 1.0), row(9.0, 1.0, flags="edge")]
    rows.append(row(0.02, 0.05))  # expected at 10 sigma? 0.05 < 0.1: no
    rows.append(row(0.03, 0.2))  # expected at 20 sigma, measured at 3: lost
    scale = flux_scale(rows)
    assert scale["n"] == 3
    assert scale["median_ratio"] == pytest.approx(1.1)
    assert scale["scatter"] == pytest.approx(0.14826)
    assert (scale["expected"], scale["detected"]) == (4, 3)


def test_groups_that_never_began_are_seen_through_the_inventory(fake, tmp_path):
    night = fake.nights[0]
    empty = tmp_path / "nights" / night
    empty.mkdir(parents=True)
    judged = judge_night(empty, fake.inventory)
    assert judged["verdict"] == "failed"
    assert judged["counts"]["missing"] == 9
    assert judge_night(empty)["reasons"][0] == "the night has no data"


def test_failed_jobs_are_reasons_of_tile_calibration_and_night(fake, tmp_path):
    night = fake.nights[1]
    copy = tmp_path / "nights" / night
    shutil.copytree(fake.layout.night(night), copy)
    good, stopped, *_ = fake.groups[night][1], fake.groups[night][4]
    for group, name, rule in (
        (stopped, "failure", "image"),
        (good, "failure.calibrate", "calibrate"),
    ):
        path = copy / "groups" / group / f"{name}.json"
        write_failure(path, rule, {"group": group}, message=f"{rule} broke")
    write_failure(
        copy / "failure.json", "hour_mosaic", {"night": night, "hour": "21"}, state="waiting"
    )
    judged = judge_night(copy)
    tiles = {t["group"]: t for t in judged["tiles"]}
    told = "image failed: image broke (compute; set aside after 3 attempts)"
    assert tiles[stopped]["state"] == "missing" and tiles[stopped]["reasons"] == [told]
    # A solution that could not be made is told of the calibration; its tile is as good as before.
    assert tiles[good]["state"] == "pass" and tiles[good]["reasons"] == []
    (failed,) = (c for c in judged["calibrations"] if c["group"] == good)
    assert failed["verdict"] == "fail" and "calibrate broke" in failed["reasons"][0]
    reasons = " | ".join(judged["reasons"])
    assert told in reasons and "calibrate broke" in reasons
    assert "hour_mosaic failed: WSClean was killed" in reasons
    assert "to be tried again after 3 attempts" in reasons
    assert [f["rule"] for f in judged["failures"]] == ["calibrate", "image", "hour_mosaic"]


def test_command_writes_the_verdict(fake, tmp_path, capsys):
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps(fake.inventory))
    out = tmp_path / "qa.json"
    night = fake.layout.night(fake.nights[1])
    assert run_step("night_qa", str(night), str(out), "--inventory", str(inventory)) == 0
    assert json.loads(out.read_text())["verdict"] == "degraded"
    assert sorted(p.name for p in tmp_path.glob("qa*")) == ["qa.json", "qa.json.json"]
    assert "degraded" in capsys.readouterr().out


def test_absent_folder_is_one_plain_line(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        judge_night(tmp_path / "2026-01-25")


def test_worst():
    assert worst(["pass", None, "fail", "warn"]) == "fail"
    assert worst([]) == "pass"
