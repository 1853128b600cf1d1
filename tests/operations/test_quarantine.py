"""Work that fails is tried as often as its cause deserves, then set aside; the rest goes on."""

import json
import re

import pytest

from support.night import Operations, raw_groups

MARK = 'contimg-failure: {{"cause": "{cause}", "message": "{message}", "status": 3}}'


@pytest.fixture
def night(tmp_path):
    """Three tiles that have arrived; the second is 20260210T001436."""
    operations = Operations.make(tmp_path / "work")
    operations.receive(raw_groups(tmp_path / "raw", tiles=3))
    return operations


def fail(operations, step, text, cause, message="bad"):
    told = MARK.format(cause=cause, message=message)
    (operations.path / "fail").write_text(f"{step} {text} {told}\n")


def tiles(operations):
    paths = operations.results.glob("nights/*/groups/*/*.photometry.csv")
    return sorted(path.parent.name for path in paths)


def mosaics(operations):
    return list(operations.results.glob("nights/*/mosaic.fits"))


def is_closed(operations):
    return bool(list(operations.results.glob("nights/*/closed.json")))


def failure(operations, name="failure.json"):
    (path,) = operations.results.glob(f"nights/*/groups/*/{name}")
    return json.loads(path.read_text())


def attempts(operations, step):
    return sum(kind == "begin" and job.startswith(step) for kind, job in operations.ledger())


def test_bad_data_are_set_aside_at_once_and_tried_again_when_they_change(night):
    fail(night, "convert", "T001436", "data", "the second tile cannot be used")
    status, output = night.call("tick")
    assert status == 1, output
    assert "the second tile cannot be used (data; attempt 1, set aside)" in output
    record = failure(night)
    assert (record["state"], record["attempts"]) == ("quarantined", 1)
    assert re.match(r"python \S*/workflow/scripts/convert\.py ", record["command"])
    # The night is whole without it.
    assert len(tiles(night)) == 2 and mosaics(night) and is_closed(night)
    assert night.call("tick") == (0, "")

    (night.path / "fail").unlink()
    assert night.call("tick") == (0, ""), "what is set aside stays so"
    raw = next(path for path in night.incoming.iterdir() if "T00:14:3" in path.name)
    raw.write_bytes(raw.read_bytes())  # it came again
    status, output = night.call("tick")
    assert status == 0, output
    assert len(tiles(night)) == 3 and is_closed(night)
    assert not list(night.results.rglob("failure*.json"))


def test_a_job_that_dies_is_tried_three_times_over_ticks(night):
    (night.path / "fail").write_text("image T001436 kill\n")
    for attempt in (1, 2):
        status, output = night.call("tick")
        assert status == 1, output
        record = failure(night)
        assert (record["cause"], record["state"]) == ("compute", "waiting")
        assert record["attempts"] == attempt
        assert not is_closed(night) and len(tiles(night)) == 2
    night.call("tick")
    assert failure(night)["state"] == "quarantined"
    assert attempts(night, "image") == 2 + 3, "two tiles once, one three times"
    night.call("tick")
    assert is_closed(night) and mosaics(night)
    # Told to, it is tried again: the night opens, and closes with the tile in it.
    (night.path / "fail").unlink()
    status, output = night.call("retry", "20260210T001436")
    assert status == 0 and "2026-02-10 is open again" in output
    status, output = night.call("tick")
    assert status == 0, output
    assert len(tiles(night)) == 3 and is_closed(night)


def test_a_run_goes_on_until_what_fails_is_set_aside(night):
    (night.path / "fail").write_text("image T001436 kill\n")
    status, output = night.call("run")
    assert status == 0, output
    assert failure(night)["state"] == "quarantined"
    assert len(tiles(night)) == 2 and mosaics(night)
    (record,) = (night.results / "runs").glob("*.json")
    told = [f["state"] for f in json.loads(record.read_text())["failures"]]
    assert told == ["waiting", "waiting", "quarantined"]


def test_a_calibrator_that_cannot_be_solved_is_still_a_tile(tmp_path):
    operations = Operations.make(tmp_path / "work")
    for day in (0, 1):
        operations.receive(raw_groups(tmp_path / f"raw{day}", tiles=2, day=day))
    fail(operations, "calibrate", "20260210", "data", "no fringes")
    status, output = operations.call("run")
    assert status == 0, output
    assert failure(operations, "failure.calibrate.json")["state"] == "quarantined"
    assert len(tiles(operations)) == 4, "the other night's calibration serves"


def test_a_night_whose_mosaic_fails_does_not_hold_up_the_others(tmp_path):
    operations = Operations.make(tmp_path / "work")
    for day in (0, 1):
        operations.receive(raw_groups(tmp_path / f"raw{day}", tiles=2, day=day))
    fail(operations, "mosaic", "2026-02-10", "data", "no overlap")
    for _ in range(2):
        operations.call("tick")
    closed = sorted(path.parent.name for path in operations.results.glob("nights/*/closed.json"))
    assert closed == ["2026-02-10", "2026-02-11"]
    assert [path.parent.name for path in mosaics(operations)] == ["2026-02-11"]


def test_a_night_without_a_calibrator_opens_when_one_is_solved(tmp_path):
    operations = Operations.make(tmp_path / "work")
    first, second = (raw_groups(tmp_path / f"raw{day}", tiles=2, day=day) for day in (0, 1))
    operations.receive(first[1:])
    status, output = operations.call("tick")
    assert status == 0 and "no calibrator transit" in output
    assert is_closed(operations) and not tiles(operations)
    operations.receive(second)
    for _ in range(2):
        status, output = operations.call("tick")
        assert status == 0, output
    assert len(tiles(operations)) == 3
    assert len(list(operations.results.glob("nights/*/closed.json"))) == 2
