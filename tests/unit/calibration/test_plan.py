import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest

from dsa110_contimg.calibration.plan import RA_DEG_PER_S, find_transits, plan_calibration
from dsa110_contimg.catalogs import calibrators
from dsa110_contimg.core.options import CalibrationOptions
from dsa110_contimg.core.times import group_id

TILE_S = 309.237645
DAY = 86164.0905 / 86400  # sidereal, in days
C48 = calibrators.find_calibrator("3C48")
C286 = calibrators.find_calibrator("3C286")
OPTIONS = CalibrationOptions()


@dataclass
class Tile:
    id: str
    start_mjd: float
    ra_deg: float
    dec_deg: float = 33.2
    dec_app_deg: float = 33.3
    duration_s: float = TILE_S
    files: dict = field(default_factory=lambda: dict.fromkeys(range(16), "raw"))
    antennas: str = "ffff"
    top_hz: float = 1498.6e6
    width_hz: float = 244140.625
    n_channels: int = 768


def night(start_mjd, ra_start_deg, n, dec_deg=33.2):
    """Contiguous tiles; the meridian is at `ra_start_deg` when the first begins."""
    tiles = []
    for i in range(n):
        mjd = start_mjd + i * TILE_S / 86400
        ra = (ra_start_deg + (i + 0.5) * TILE_S * RA_DEG_PER_S) % 360
        tiles.append(Tile(group_id(mjd), mjd, ra, dec_deg, dec_deg + 0.1))
    return tiles


def at_transit(calibrator, mjd, dec_deg=33.2):
    """One tile with the calibrator at its middle."""
    return Tile(group_id(mjd), mjd, calibrator.ra_deg, dec_deg, dec_deg + 0.1)


def test_exactly_one_of_contiguous_tiles_holds_the_transit():
    for shift in range(0, 130, 7):  # the transit anywhere in the tile, edges included
        tiles = night(61000.2, C48.ra_deg - 3 + shift / 100, 6)
        found = find_transits(tiles, [C48], OPTIONS)
        assert list(found.values()) == ["3C48"]
        (tile,) = [t for t in tiles if t.id in found]
        assert abs(tile.ra_deg - C48.ra_deg) <= TILE_S * RA_DEG_PER_S / 2 + 1e-9


def test_transit_across_the_wrap_of_right_ascension():
    near_zero = calibrators.Calibrator.power_law("A", 0.05, 33.0, 5.0, anchor="test")
    tiles = night(61000.2, 358.9, 3)
    assert find_transits(tiles, [near_zero], OPTIONS) == {tiles[0].id: "A"}


def test_transit_each_sidereal_day_of_one_calibrator():
    tiles = [at_transit(C48, 61000.2 + k * DAY) for k in range(3)]
    assert len(find_transits(tiles, [C48], OPTIONS)) == 3


@pytest.mark.parametrize(
    ("dec", "found"), [(33.2, True), (34.1, True), (34.3, False), (32.0, False)]
)
def test_declination_limit(dec, found):
    assert bool(find_transits([at_transit(C48, 61000.2, dec)], [C48], OPTIONS)) == found


def test_faint_calibrators_do_not_count():
    faint = calibrators.Calibrator.power_law("F", 30.0, 34.15, 1.05, anchor="test")
    # 1.05 Jy at 1.4 GHz, but 0.95 deg off axis the beam is 0.70
    assert not find_transits([at_transit(faint, 61000.2)], [faint], OPTIONS)
    assert find_transits([at_transit(faint, 61000.2)], [faint], CalibrationOptions(min_flux_jy=0.7))


def test_steady_calibrator_before_a_brighter_unsteady_one():
    bright = calibrators.Calibrator.power_law("B", C48.ra_deg + 0.1, 33.2, 90.0, anchor="test")
    brighter = calibrators.Calibrator.power_law("BB", C48.ra_deg - 0.1, 33.2, 99.0, anchor="test")
    tile = at_transit(C48, 61000.2)
    assert find_transits([tile], [bright, C48], OPTIONS) == {tile.id: "3C48"}
    assert find_transits([tile], [bright, brighter], OPTIONS) == {tile.id: "BB"}


def test_nearest_solution_serves_across_midnight():
    # 3C48 transits shortly before midnight UTC; the tiles go on into the next day.
    tiles = night(61000.98, C48.ra_deg - 0.5, 12)
    plan = plan_calibration(tiles, [C48], OPTIONS)
    assert plan.transits == {tiles[0].id: "3C48"}
    assert {t.id[:8] for t in tiles} == {"20251121", "20251122"}
    assert all(plan.candidates[t.id] == [tiles[0].id] for t in tiles)
    assert not plan.refused


def test_two_calibrators_in_a_night_serve_their_neighbours():
    other = calibrators.Calibrator.power_law(
        "S", (C48.ra_deg + 60) % 360, 33.2, 9.0, steady=True, anchor="test"
    )
    first, last = at_transit(C48, 61000.2), at_transit(other, 61000.2 + 4 / 24)
    early = Tile("20251121T050000", 61000.2 + 0.5 / 24, 30.0)
    late = Tile("20251121T080000", 61000.2 + 3.5 / 24, 80.0)
    plan = plan_calibration([first, early, late, last], [C48, other], OPTIONS)
    assert plan.candidates[early.id] == [first.id, last.id]
    assert plan.candidates[late.id] == [last.id, first.id]


def test_steady_solution_of_the_day_before_an_unsteady_one_that_is_nearer():
    vla = calibrators.Calibrator.power_law("V", 50.0, 33.2, 9.0, anchor="test")
    steady, unsteady = at_transit(C48, 61000.2), at_transit(vla, 61000.27)
    target = Tile("20251121T063000", 61000.275, 52.0)
    plan = plan_calibration([steady, unsteady, target], [vla, C48], OPTIONS)
    assert plan.candidates[target.id] == [steady.id, unsteady.id]


def test_no_calibrator_is_refused_with_the_reason():
    target = Tile("20251121T063000", 61000.275, 120.0)
    plan = plan_calibration([target], [C48], OPTIONS)
    assert target.id not in plan.candidates
    assert "no calibrator transit" in plan.refused[target.id]


def test_borrowing_is_limited_in_time():
    target = Tile("20251121T063000", 61000.275, 120.0)
    for days, wanted in [(2, True), (-2, True), (29, True), (31, False), (-31, False)]:
        calibrator = at_transit(C48, 61000.275 + days)
        plan = plan_calibration([target, calibrator], [C48], OPTIONS)
        assert (plan.candidates.get(target.id) == [calibrator.id]) == wanted
        assert (target.id in plan.refused) != wanted


def test_own_night_before_borrowed_even_on_an_unsteady_calibrator():
    vla = calibrators.Calibrator.power_law("V", 50.0, 33.2, 9.0, anchor="test")
    borrowed, own = at_transit(C48, 60995.2), at_transit(vla, 61000.2)
    target = Tile("20251121T063000", 61000.275, 52.0)
    plan = plan_calibration([borrowed, own, target], [C48, vla], OPTIONS)
    assert plan.candidates[target.id] == [own.id]


def test_another_strip_never_serves():
    calibrator = at_transit(C48, 61000.2)
    target = Tile("20251121T063000", 61000.275, 52.0, dec_deg=54.6, dec_app_deg=54.7)
    near = Tile("20251121T070000", 61000.29, 52.0, dec_deg=37.0, dec_app_deg=37.1)
    plan = plan_calibration([calibrator, target, near], [C48], OPTIONS)
    assert "+54.70" in plan.refused[target.id]
    assert plan.candidates[near.id] == [calibrator.id]


def test_failed_solution_is_not_used_and_the_next_is():
    first, second = at_transit(C48, 61000.2), at_transit(C48, 61000.2 + DAY)
    target = Tile("20251121T063000", 61000.275, 52.0)
    plan = plan_calibration(
        [first, second, target], [C48], OPTIONS, verdicts={first.id: "fail", second.id: "warn"}
    )
    assert plan.candidates[target.id] == [second.id]
    assert plan.candidates[first.id] == [second.id]
    plan = plan_calibration(
        [first, second, target], [C48], OPTIONS, verdicts={first.id: "fail", second.id: "fail"}
    )
    assert not plan.candidates
    assert first.id in plan.refused[target.id]


def test_another_antenna_set_serves_only_where_no_whole_one_does():
    # A solution of the same day, far in time, has all antennas; a near one lacks four of them.
    whole, partial = at_transit(C48, 61000.2), at_transit(C48, 61000.2 + DAY)
    partial.antennas = "fff0"
    target = Tile("20251122T030000", 61001.125, 12.0)
    plan = plan_calibration([whole, partial, target], [C48], OPTIONS)
    assert plan.candidates[target.id][0] == whole.id
    assert plan.candidates[partial.id] == [partial.id]  # it has all that this tile has
    plan = plan_calibration([partial, target], [C48], OPTIONS)
    assert plan.candidates[target.id] == [partial.id]


def test_too_few_common_antennas_never_serve():
    solution = replace(at_transit(C48, 61000.2), antennas="3f")
    target = Tile("20251121T063000", 61000.275, 52.0)
    plan = plan_calibration([solution, target], [C48], OPTIONS)
    assert target.id not in plan.candidates
    assert "only 6 of the 16 antennas" in plan.refused[target.id]


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"width_hz": 4 * 244140.625, "n_channels": 192, "top_hz": 1498.6e6 - 366210.0}, True),
        ({"n_channels": 384}, False),
        ({"top_hz": 1490e6}, False),
        ({"n_channels": 0}, True),  # not known
        ({"antennas": ""}, True),
    ],
)
def test_solution_covers_the_band(changes, fits):
    solution = replace(at_transit(C48, 61000.2), **changes)
    target = Tile("20251121T063000", 61000.275, 52.0)
    plan = plan_calibration([solution, target], [C48], OPTIONS)
    assert (plan.candidates.get(target.id) == [solution.id]) == fits
    assert fits or "MHz" in plan.refused[target.id]


def test_solution_with_all_subbands_before_a_nearer_one_that_lacks_some():
    whole, partial = at_transit(C48, 61000.2), at_transit(C48, 61000.2 + DAY)
    partial.files = dict.fromkeys(range(14), "raw")
    target = Tile("20251122T030000", 61001.125, 12.0)
    plan = plan_calibration([whole, partial, target], [C48], OPTIONS)
    assert plan.candidates[target.id] == [whole.id]


def test_one_fallback_behind_the_standards_and_no_other_is_solved():
    vla = [
        calibrators.Calibrator.power_law(f"V{n}", C48.ra_deg + 15 * n, 33.2, 9.0, anchor="list")
        for n in range(1, 6)
    ]
    tiles = [at_transit(c, 61000.2 + n / 24) for n, c in enumerate([C48, *vla])]
    plan = plan_calibration(tiles, [C48, *vla], OPTIONS)
    assert set(map(tuple, plan.candidates.values())) == {(tiles[0].id, tiles[1].id)}
    assert plan.transits == {tiles[0].id: "3C48", tiles[1].id: "V1"}
    plan = plan_calibration(tiles, [C48, *vla], OPTIONS, verdicts={tiles[0].id: "fail"})
    assert plan.candidates[tiles[4].id] == [tiles[i].id for i in (4, 3, 5)]


def test_first_list_before_a_brighter_calibrator_of_the_next():
    first, second, weak = (
        calibrators.Calibrator.power_law(name, C48.ra_deg, 33.2, flux, anchor=anchor)
        for name, flux, anchor in (("F", 3.0, "list"), ("S", 9.0, "table"), ("W", 2.0, "list"))
    )
    tile = at_transit(C48, 61000.2)
    assert find_transits([tile], [weak, first, second], OPTIONS) == {tile.id: "F"}


def test_share_of_the_field_decides():
    asked = []

    def share(calibrator, dec_deg):
        asked.append((calibrator.name, dec_deg))
        return 0.1 if calibrator.name == "3C48" else 0.2

    other = calibrators.Calibrator.power_law("V", C48.ra_deg, 33.2, 2.0, anchor="list")
    tile = at_transit(C48, 61000.2)
    assert find_transits([tile], [C48, other], OPTIONS, share) == {tile.id: "V"}
    assert asked == [("3C48", 33.2), ("V", 33.2)]


def test_at_most_three_candidates_all_of_one_night():
    chosen = [
        calibrators.Calibrator.power_law(
            f"S{n}", 20.0 + 15 * n, 33.2, 9.0, steady=True, anchor="test"
        )
        for n in range(5)
    ]
    tiles = [at_transit(c, 61000.2 + n / 24) for n, c in enumerate(chosen)]
    other_night = at_transit(chosen[0], 61000.2 + DAY)
    plan = plan_calibration([*tiles, other_night], chosen, OPTIONS)
    assert plan.candidates[tiles[0].id] == [t.id for t in tiles[:3]]
    assert plan.candidates[other_night.id] == [other_night.id]


def test_recorded_choice_stays_when_a_nearer_solution_appears():
    old, new = at_transit(C48, 61000.2), at_transit(C48, 61000.2 + DAY)
    target = Tile("20251122T030000", 61001.125, 12.0)
    record = {"target": target.id, "candidates": [old.id], "chosen": old.id}
    plan = plan_calibration([old, new, target], [C48], OPTIONS)
    assert plan.candidates[target.id] == [new.id]
    plan = plan_calibration([old, new, target], [C48], OPTIONS, records={target.id: record})
    assert plan.candidates[target.id] == [old.id]


@pytest.mark.parametrize(
    ("chosen", "verdict"),
    [(None, "pass"), ("old", "fail")],
)
def test_record_without_a_usable_choice_is_void(chosen, verdict):
    old, new = at_transit(C48, 61000.2), at_transit(C48, 61000.2 + DAY)
    target = Tile("20251122T030000", 61001.125, 12.0)
    record = {"candidates": [old.id], "chosen": chosen and old.id}
    plan = plan_calibration(
        [old, new, target],
        [C48],
        OPTIONS,
        records={target.id: record},
        verdicts={old.id: verdict},
    )
    assert plan.candidates[target.id][0] == new.id


def test_recorded_solution_outlives_its_place_in_the_inventory():
    target = Tile("20251122T030000", 61001.125, 12.0)
    gone = "20251121T045200"
    record = {"candidates": [gone], "chosen": gone, "calibrators": {gone: "3C48"}}
    plan = plan_calibration([target], [C48], OPTIONS, records={target.id: record})
    assert plan.candidates[target.id] == [gone]
    assert plan.transits == {gone: "3C48"}


def test_order_of_groups_does_not_matter():
    tiles = [at_transit(C48, 61000.2 + k * DAY) for k in range(4)]
    tiles += night(61000.3, 60.0, 5)
    forward = plan_calibration(tiles, [C48, C286], OPTIONS)
    backward = plan_calibration(tiles[::-1], [C48, C286], OPTIONS)
    assert forward.candidates == backward.candidates
    assert forward.transits == backward.transits


def test_plan_imports_nothing_heavy():
    code = (
        "import sys, dsa110_contimg.calibration.plan\n"
        "print(sorted({'astropy', 'pandas', 'casacore', 'casatools', 'scipy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
