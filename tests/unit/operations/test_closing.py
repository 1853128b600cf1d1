"""What is kept of a closed night, and what opens it."""

import dataclasses
import datetime as dt

import pytest

from dsa110_contimg.conversion.inventory import Group
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.operations import closing


def group(folder, identity="20260210T001436", n_files=16, state="complete"):
    files = {}
    for subband in range(n_files):
        path = folder / f"2026-02-10T00:14:36_sb{subband:02}.hdf5"
        path.touch()
        files[subband] = str(path)
    return Group(identity, "2026-02-10", state, files, 61081.01, 309.0, 24, 33.3, 24.4, 33.2)


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
    record = close(layout, [group(incoming)], ["20260210T001436"])
    (tmp_path / "elsewhere").mkdir()
    assert not closing.is_news(record, group(tmp_path / "elsewhere"))


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


def test_a_record_of_another_version_is_as_good_as_none(layout, incoming):
    record = close(layout, [group(incoming)])
    path = closing.path_of(layout, "2026-02-10")
    path.write_text(path.read_text().replace('"tiles"', '"pictures"'))
    assert closing.read(layout, "2026-02-10") is None
    assert dataclasses.asdict(record)["tiles"] == 0
