"""What is purged stays made: nothing is done again for want of it, and it serves on."""

import json
import subprocess

import pytest

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.operations import closing
from support.night import Operations, raw_groups

NIGHT = "2026-02-10"


@pytest.mark.slow
def test_late_data_of_a_purged_night_join_what_was_made_of_it(tmp_path):
    operations = Operations.make(tmp_path / "work")
    later = tmp_path / "later"
    later.mkdir()
    first, second, third = raw_groups(later, 3)
    for path in [*first, *second]:
        path.rename(operations.incoming / path.name)
    status, output = operations.call("tick")
    assert status == 0, output
    layout = Layout(operations.results)
    before = closing.read(layout, NIGHT)
    calibrator, tile = sorted(before.groups)
    retention = "retention={ms_days: 0, calibrator_ms_days: 0, maps_days: 0, raw_days: 0}"
    purge = [*operations.command("purge", "--yes", "--raw", "--without-archive"), retention]
    subprocess.run(purge, cwd=operations.path, env=operations.env, check=True)
    for group in (calibrator, tile):
        assert not layout.group(group, "ms").exists()
        assert not layout.group(group, "psf.fits").exists()
        assert layout.group(group, "image.fits").exists()
    assert list(operations.incoming.iterdir()) == []
    done = operations.ledger()
    assert operations.call("tick") == (0, "")
    assert operations.ledger() == done
    for path in third:
        path.rename(operations.incoming / path.name)
    status, output = operations.call("tick")
    assert status == 0, output
    new = [job for what, job in operations.ledger()[len(done) :] if what == "begin"]
    (late,) = closing.read(layout, NIGHT).groups.keys() - before.groups.keys()
    tiles = [job for job in new if job.split()[0] in ("convert", "calibrate", "apply", "image")]
    assert {job.split()[0] for job in tiles} == {"convert", "apply", "image"}
    assert all(late in job for job in tiles)
    assert any(job.startswith("mosaic") for job in new)
    # The calibration of the purged group served, and is known to serve others.
    record = json.loads(layout.group(late, "calibration.json").read_text())
    assert record["chosen"] == calibrator
    after = closing.read(layout, NIGHT)
    assert set(after.groups) == {calibrator, tile, late}
    assert [s["group"]["id"] for s in after.solutions] == [calibrator]
