import datetime as dt

from dsa110_contimg.core.options import MosaicOptions
from dsa110_contimg.mosaics.plan import plan_epochs, plan_joint


def run(start, n, step_s=309.24):
    first = dt.datetime.fromisoformat(start)
    return [(first + dt.timedelta(seconds=i * step_s)).strftime("%Y%m%dT%H%M%S") for i in range(n)]


def test_hour_takes_its_tiles_and_two_on_either_side():
    tiles = run("2026-01-25T01:30:00", 24)  # 01:30 to 03:29
    plan = plan_epochs(reversed(tiles), MosaicOptions())
    assert list(plan) == ["2026-01-25"]
    night = plan["2026-01-25"]
    assert night.tiles == tiles
    own = [t for t in tiles if t[9:11] == "02"]
    assert len(own) in (11, 12)
    first = tiles.index(own[0])
    assert night.hours["02"] == tiles[first - 2 : first + len(own) + 2]
    assert night.hours["01"] == tiles[: first + 2]
    assert list(night.hours) == ["01", "02", "03"]


def test_no_neighbours_across_a_hole_but_across_a_restart():
    before, after = run("2026-01-25T01:40:00", 4), run("2026-01-25T02:15:00", 3)
    hours = plan_epochs(before + after, MosaicOptions())["2026-01-25"].hours
    assert hours == {"01": before, "02": after}
    restart = run("2026-01-25T01:40:00", 2, 608) + run("2026-01-25T02:00:16", 2)
    hours = plan_epochs(restart, MosaicOptions())["2026-01-25"].hours
    assert hours["02"] == restart and hours["01"] == restart


def test_a_later_night_does_not_change_an_earlier_one():
    first = run("2026-01-25T23:40:00", 3)  # ends 23:55
    second = run("2026-01-26T00:00:36", 3)
    alone = plan_epochs(first, MosaicOptions())
    both = plan_epochs(first + second + first, MosaicOptions())
    assert both["2026-01-25"] == alone["2026-01-25"]
    assert both["2026-01-26"].hours == {"00": second}
    assert list(both) == ["2026-01-25", "2026-01-26"]


def test_overlap_option_and_empty_plan():
    tiles = run("2026-01-25T01:50:00", 6)
    hours = plan_epochs(tiles, MosaicOptions(overlap_tiles=0))["2026-01-25"].hours
    assert [t for own in hours.values() for t in own] == tiles
    assert plan_epochs([], MosaicOptions()) == {}


def test_a_field_has_the_tiles_that_see_it_also_across_ra_zero():
    tiles = run("2026-01-25T01:40:00", 5)
    later = run("2026-01-26T01:36:00", 1)
    ra = [358.0, 359.3, 0.6, 1.9, 3.2]
    centres = {t: (r, 33.0) for t, r in zip(tiles, ra, strict=True)} | {later[0]: (0.5, 33.0)}
    fields = {"a": "0.1 33.2 0.5", "far": "120 33 1"}
    assert plan_joint(centres, fields) == {"2026-01-25": {"a": tiles[1:4]}}
    assert plan_joint(centres, {}) == {}
