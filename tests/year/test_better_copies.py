"""A better copy of a raw file under the same name does not reopen its closed night; wanted: it
does.
"""

import json
import os

import pytest

from support.ticks import NIGHT, Ticks


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """A night that is closed, of raw files that arrived an hour ago."""
    made = Ticks.with_night(tmp_path_factory.mktemp("closed") / "work")
    for path in made.incoming.iterdir():
        stat = path.stat()
        os.utime(path, (stat.st_atime - 3600, stat.st_mtime - 3600))
    made.tick()
    assert made.closed == [NIGHT]
    return made


@pytest.mark.parametrize("age_s", [7200, pytest.param(0, marks=pytest.mark.slow)])
def test_a_better_copy_of_a_raw_file_opens_its_night(closed, age_s, tmp_path):
    """Also one that keeps an earlier time, as ``rsync -t`` gives it; the other tile stays."""
    folder = closed.copy(tmp_path / "work")
    first, second = folder.groups()
    raw = next(path for path in sorted(folder.incoming.iterdir()) if "T00:14" in path.name)
    when = raw.stat().st_mtime + 3600 - age_s
    better = raw.with_name("better")
    better.write_bytes(raw.read_bytes() + b"whole, this time")
    os.utime(better, (when, when))
    better.replace(raw)
    done = len(folder.ledger())
    folder.tick()
    jobs = [job for kind, job in folder.ledger()[done:] if kind == "begin"]
    assert any(job.startswith("image ") and second in job for job in jobs), jobs
    assert not [job for job in jobs if f"{first}/" in job and "mosaic" not in job]
    assert any(job.startswith("lightcurves") for job in jobs)
    assert folder.closed == [NIGHT]
    assert folder.tick() == ""


def test_raw_files_that_only_moved_open_nothing(closed, tmp_path):
    folder = closed.copy(tmp_path / "work")
    folder.incoming.rename(folder.path / "archive")
    folder.more = ("incoming=archive",)
    before = folder.ledger()
    assert folder.tick() == "" and folder.ledger() == before


def test_nights_that_an_earlier_release_closed_stay_closed(closed, tmp_path):
    """Of its tiles that kept a digest of the names alone."""
    import hashlib

    folder = closed.copy(tmp_path / "work")
    path = folder.layout.night(NIGHT, "closed.json")
    record = json.loads(path.read_text())
    for group in record["groups"]:
        clock = f"{group[9:11]}:{group[11:13]}:{group[13:]}"
        names = sorted(p.name for p in folder.incoming.iterdir() if clock[:5] in p.name)
        text = "\n".join(["complete", *names])
        assert len(names) == 16
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        record["groups"][group] = f"16:tile:{digest}"
    path.write_text(json.dumps(record))
    before = folder.ledger()
    assert folder.tick() == "" and folder.ledger() == before
