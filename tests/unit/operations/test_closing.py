"""What is kept of a closed night, and what opens it."""

import dataclasses
import datetime as dt
import hashlib
import os
from pathlib import Path

import pytest

from dsa110_contimg.conversion.inventory import Group
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.operations import closing


def group(folder, identity="20260210T001436", n_files=16, state="complete"):
    files = {}
    for subband in range(n_files):
        path = folder / f"2026-02-10T00:14:36_sb{subband:02}.hdf5"
        if not path.exists():
            path.touch()
        files[subband] = str(path)
    return Group(identity, "2026-02-10", state, files, 61081.01, 309.0, 24, 33.3, 24.4, 33.2)


def stamped(folder):
    """The same with the stamp that the inventory gives it."""
    made = group(folder)
    stats = sorted((Path(path).name, Path(path).stat()) for path in made.files.values())
    stamp = " ".join(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats)
    return dataclasses.replace(made, stamp=stamp)


def close(layout, groups, made=()):
    record = closing.summary("2026-02-10", groups, made, [], {}, [])
    closing.write(layout, record)
    return closing.read(layout, "2026-02-10")


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "results")


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def test_a_night_is_closed_while_its_record_stands(layout, incoming):
    assert closing.nights_on_disk(layout) == []
    record = close(layout, [group(incoming)], ["20260210T001436"])
    assert record.tiles == 1 and closing.closed_nights(layout) == ["2026-02-10"]
    assert closing.open_nights(layout) == []
    assert closing.reopen(layout, "2026-02-10") and not closing.reopen(layout, "2026-02-10")
    assert closing.open_nights(layout) == ["2026-02-10"]


def test_a_new_group_opens_a_night(layout, incoming):
    record = close(layout, [group(incoming)], ["20260210T001436"])
    assert closing.is_news(record, group(incoming, "20260210T001945"))
    assert not closing.is_news(record, group(incoming))


def test_a_late_subband_opens_a_night_but_a_purged_one_does_not(layout, incoming):
    made = ["20260210T001436"]
    record = close(layout, [group(incoming, n_files=15, state="degraded")], made)
    assert closing.is_news(record, group(incoming))
    assert not closing.is_news(record, group(incoming, n_files=14, state="degraded"))
    assert not closing.is_news(record, group(incoming, n_files=16, state="collecting"))


def test_raw_files_may_move(layout, incoming, tmp_path):
    record = close(layout, [stamped(incoming)], ["20260210T001436"])
    incoming.rename(tmp_path / "elsewhere")
    assert not closing.is_news(record, stamped(tmp_path / "elsewhere"))


def test_a_better_copy_of_what_was_used_opens_a_night(layout, incoming):
    record = close(layout, [stamped(incoming)], ["20260210T001436"])
    assert not closing.is_news(record, stamped(incoming))
    os.utime(incoming / "2026-02-10T00:14:36_sb05.hdf5", (1e9, 1e9))
    assert closing.is_news(record, stamped(incoming))


def test_nights_that_an_earlier_release_closed_stay_closed(layout, incoming):
    """Of a tile it kept a digest of names alone."""
    made = stamped(incoming)
    names = sorted(Path(path).name for path in made.files.values())
    text = "\n".join([made.state, *names])
    old = f"16:tile:{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
    record = close(layout, [made])
    record = dataclasses.replace(record, groups={made.id: old})
    os.utime(incoming / "2026-02-10T00:14:36_sb05.hdf5", (1e9, 1e9))
    assert not closing.is_news(record, stamped(incoming))


def test_a_file_that_comes_again_counts_where_there_is_no_tile(layout, incoming):
    before = group(incoming)
    record = close(layout, [before])
    assert not closing.is_news(record, before)
    (incoming / "2026-02-10T00:14:36_sb05.hdf5").write_text("whole, this time")
    assert closing.is_news(record, before)


def test_a_night_is_over_when_its_last_files_had_time_to_arrive():
    midnight = dt.datetime(2026, 2, 11, tzinfo=dt.UTC).timestamp()
    over = {s: closing.is_over("2026-02-10", midnight + s, 600.0) for s in (-1, 900, 910)}
    assert over == {-1: False, 900: False, 910: True}


def test_a_record_without_what_is_needed_is_as_good_as_none(layout, incoming):
    record = close(layout, [group(incoming)])
    path = closing.path_of(layout, "2026-02-10")
    path.write_text(path.read_text().replace('"night"', '"evening"'))
    assert closing.read(layout, "2026-02-10") is None
    path.write_text(path.read_text().replace('"evening"', '"moon": 1, "night"'))
    assert closing.read(layout, "2026-02-10") == record
