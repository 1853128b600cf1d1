"""Inventory, grouping and the group file."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyuvdata import UVData

from dsa110_contimg.conversion import inventory as inventories
from dsa110_contimg.conversion import uvh5
from dsa110_contimg.conversion.group_file import write_group_file
from dsa110_contimg.conversion.inventory import Inventory, SubbandFile, group_files, take_inventory
from dsa110_contimg.core.errors import ConfigError, DataError
from dsa110_contimg.core.options import InventoryOptions
from dsa110_contimg.core.times import group_id
from dsa110_contimg.telescope.dsa110 import TILE_S
from support.rawfiles import (
    RawGroup,
    file_name,
    link_many,
    meridian_icrs,
    visibilities,
    write_group,
    write_subband,
)
from support.steps import run_step

DAY = 86400.0
NOW = 2e9
OPTIONS = InventoryOptions()
MJD0 = 61065.9


def record(start_mjd, subband, *, name_s=0.0, mtime=1e9, path=None, **changes) -> SubbandFile:
    """A usable file as `scan` would report it."""
    moment = start_mjd + name_s / DAY
    return replace(
        SubbandFile(
            path=path or f"/in/{moment:.9f}_sb{subband:02d}.hdf5",
            size=1000,
            mtime_ns=int(mtime * 1e9),
            subband=subband,
            name_mjd=moment,
            start_mjd=start_mjd,
            n_integrations=24,
            n_channels=48,
            n_baselines=4656,
            n_polarizations=2,
            integration_s=TILE_S / 24,
            dec_app_deg=33.3,
            top_hz=1.4986e9,
            width_hz=244140.625,
        ),
        **changes,
    )


# --- grouping ----------------------------------------------------------------------------------

tile = st.fixed_dictionaries(
    {
        "gap_s": st.sampled_from([0.0, 0.0, 0.0, 102.0, 294.0]),  # restarts: 411 s and 603 s apart
        "subbands": st.sets(st.integers(0, 15), min_size=1),
        "jitter": st.lists(st.floats(0, 80), min_size=16, max_size=16),
        "duplicates": st.sets(st.integers(0, 15), max_size=3),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(tile, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_groups_are_the_tiles_that_were_recorded(tiles, rng):
    start, expected, records = MJD0, {}, []
    for index, t in enumerate(tiles):
        start += t["gap_s"] / DAY
        files = {}
        for sb in t["subbands"]:
            new = record(start, sb, name_s=t["jitter"][sb], mtime=1e9 + index)
            if sb in t["duplicates"]:
                records.append(replace(new, path=new.path + "old", mtime_ns=new.mtime_ns - 10**9))
            records.append(new)
            files[sb] = new.path
        expected[group_id(start)] = files
        start += TILE_S / DAY
    rng.shuffle(records)
    inventory = group_files(records, OPTIONS, NOW)
    assert {g.id: g.files for g in inventory.groups} == expected
    for group, t in zip(inventory.groups, tiles, strict=True):
        n = len(t["subbands"])
        assert group.state == ("complete" if n == 16 else "degraded" if n >= 14 else "failed")
    assert len(inventory.rejected) == sum(len(t["duplicates"] & t["subbands"]) for t in tiles)
    gaps = [e["seconds"] for e in inventory.events if e["kind"] == "gap"]
    assert gaps == pytest.approx([t["gap_s"] for t in tiles[1:] if t["gap_s"]], abs=0.1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 15)), min_size=1, unique=True),
    st.data(),
)
def test_names_alone_never_merge_neighbours(files, data):
    """Without headers, files join by name; no gathering holds two tiles 309 s apart."""
    records = []
    for tile_index, sb in files:
        start = MJD0 + tile_index * TILE_S / DAY
        named = record(start, sb, name_s=data.draw(st.floats(0, 59)))
        records.append(replace(named, start_mjd=None, reason="unreadable header (x)"))
    inventory = group_files(records, OPTIONS, NOW)
    assert len(inventory.groups) == len({t for t, _ in files})
    assert {g.state for g in inventory.groups} == {"failed"}
    assert all(not g.files for g in inventory.groups)
    assert len(inventory.rejected) == len(files)


def test_states_follow_the_wait():
    fifteen = [record(MJD0, sb, mtime=1000.0) for sb in range(15)]
    wait = OPTIONS.wait_s
    assert group_files(fifteen, OPTIONS, 1000.0 + wait - 1).groups[0].state == "collecting"
    assert group_files(fifteen, OPTIONS, 1000.0 + wait).groups[0].state == "degraded"
    assert group_files(fifteen[:13], OPTIONS, 1000.0 + wait).groups[0].state == "failed"
    whole = [*fifteen, record(MJD0, 15, mtime=1000.0 + 2 * wait)]
    group = group_files(whole, OPTIONS, 1000.0 + 2 * wait).groups[0]
    assert group.state == "complete"
    assert "late: sb15" in group.reasons


def test_an_unreadable_file_keeps_its_group_waiting_and_is_named():
    bad = record(MJD0, 7, name_s=15.0, mtime=5000.0)
    bad = replace(bad, start_mjd=None, reason="truncated")
    files = [record(MJD0, sb, mtime=1000.0) for sb in range(16) if sb != 7]
    group = group_files([*files, bad], OPTIONS, 5000.0 + OPTIONS.wait_s - 1).groups[0]
    assert group.state == "collecting"
    assert any("sb07" in r and "truncated" in r for r in group.reasons)


def test_a_file_from_the_future_waits_and_is_named():
    """The clock of its writer was ahead, or this one is behind."""
    options = InventoryOptions(wait_s=3600)
    ahead = [record(61081.0, sb, mtime=1e9 + 7200 * (sb == 3)) for sb in range(16)]
    inventory = group_files(ahead, options, 1e9)
    (group,) = inventory.groups
    assert group.state == "collecting" and 3 not in group.files
    assert inventory.rejected[0]["reason"] == "dated ahead of the clock by 7200 s; set the clocks"
    assert "sb03: " in group.reasons[0] and "set the clocks" in group.reasons[0]
    assert group_files(ahead, options, 1e9 + 7200).groups[0].state == "complete"
    little = [record(61081.0, sb, mtime=1e9 + 0.5) for sb in range(16)]
    assert group_files(little, options, 1e9).groups[0].state == "complete"


def test_a_growing_file_does_not_count():
    options = InventoryOptions(settle_s=60)
    files = [record(MJD0, sb, mtime=1000.0 if sb else 1990.0) for sb in range(16)]
    inventory = group_files(files, options, 2000.0)
    assert inventory.groups[0].state == "collecting"
    assert inventory.rejected[0]["reason"] == "still being written"
    assert group_files(files, options, 2060.0).groups[0].state == "complete"


def test_files_that_contradict_their_group_are_left_out():
    files = [record(MJD0, sb) for sb in range(15)] + [record(MJD0, 15, dec_app_deg=34.0)]
    inventory = group_files(files, OPTIONS, NOW)
    assert inventory.groups[0].state == "degraded"
    assert 15 not in inventory.groups[0].files
    assert "differ" in inventory.rejected[0]["reason"]


def test_a_slew_is_an_event():
    files = [
        record(MJD0 + i * TILE_S / DAY, sb, dec_app_deg=dec)
        for i, dec in enumerate((33.3, 33.3, 54.6))
        for sb in range(16)
    ]
    events = group_files(files, OPTIONS, NOW).events
    assert [(e["kind"], e["degrees"]) for e in events] == [("declination", 21.3)]


def test_inventory_survives_json():
    files = [record(MJD0, sb) for sb in range(16)]
    inventory = group_files(files, OPTIONS, NOW)
    assert Inventory.from_dict(json.loads(json.dumps(inventory.to_dict()))) == inventory


@pytest.mark.parametrize("dec", [-10.0, 16.1, 54.6, 71.0])
def test_meridian_agrees_with_astropy(dec):
    """Within 15 arcsec: the inventory takes UT1 as UTC."""
    raw = RawGroup(jd0=2461066.41234, dec_app_deg=dec)
    ra, de = inventories.meridian_icrs(np.array([raw.jd0 - 2400000.5]), np.array([dec]))
    ra0, de0 = meridian_icrs(raw.jd0, dec, raw.location)
    assert abs(ra[0] - ra0) * np.cos(np.radians(dec)) * 3600 < 15
    assert abs(de[0] - de0) * 3600 < 1


def test_band_of_a_group_is_whole_without_its_highest_subbands():
    files = [record(MJD0, sb, top_hz=1.4986e9 - sb * 48 * 244140.625) for sb in range(2, 16)]
    (group,) = group_files(files, OPTIONS, NOW).groups
    assert group.top_hz == pytest.approx(1.4986e9, abs=1)
    assert group.n_channels == 768


def test_subband_of_other_antennas_is_left_out():
    files = [record(MJD0, sb, antennas="ff") for sb in range(15)]
    files.append(record(MJD0, 15, antennas="7f"))
    inventory = group_files(files, OPTIONS, NOW)
    (group,) = inventory.groups
    assert group.antennas == "ff" and 15 not in group.files
    assert "antennas" in inventory.rejected[0]["reason"]


# --- scanning ----------------------------------------------------------------------------------

SMALL = RawGroup(jd0=2461066.41234, dec_app_deg=16.1, antennas=(0, 115, 30), n_times=3, n_chan=4)


@pytest.fixture(scope="module")
def incoming(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("night") / "incoming"
    write_group(folder, SMALL)
    return folder


def test_scan_reads_what_was_written(incoming):
    inventory = take_inventory(incoming, OPTIONS)
    (group,) = inventory.groups
    assert (group.id, group.state, group.n_integrations) == ("20260125T215339", "complete", 3)
    assert sorted(group.files) == list(range(16))
    assert group.dec_app_deg == pytest.approx(16.1)
    assert int(group.antennas, 16) == 1 << 0 | 1 << 30 | 1 << 115
    assert (group.n_channels, group.width_hz) == (64, pytest.approx(11.71875e6 / 4))
    assert group.top_hz == pytest.approx(SMALL.frequencies(0)[0])
    assert inventory.rejected == []


def test_scan_opens_each_file_once(incoming, tmp_path, monkeypatch):
    cache = tmp_path / "cache.json"
    first = take_inventory(incoming, OPTIONS, cache, NOW)
    opened = []
    monkeypatch.setattr(uvh5, "read_header", lambda path: opened.append(path))
    assert take_inventory(incoming, OPTIONS, cache, NOW) == first
    assert opened == []


def test_scan_opens_a_changed_file_again(incoming, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(incoming, folder)
    cache = tmp_path / "cache.json"
    victim = sorted(folder.iterdir())[3]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-100])
    assert take_inventory(folder, OPTIONS, cache, NOW).groups[0].state == "degraded"
    victim.write_bytes(whole)
    assert take_inventory(folder, OPTIONS, cache, NOW).groups[0].state == "complete"
    cache.write_text("{not json")
    assert take_inventory(folder, OPTIONS, cache, NOW).groups[0].state == "complete"


def test_a_file_that_may_be_read_again_is(incoming, tmp_path, monkeypatch):
    """Its size and time do not change with its permission."""
    cache = tmp_path / "cache.json"
    options = InventoryOptions()
    allowed = h5py.h5f.open

    def forbidden(name, *args):
        if name.endswith(b"sb03.hdf5"):
            raise PermissionError(13, "Unable to open file")
        return allowed(name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(h5py.h5f, "open", forbidden)
        inventory = take_inventory(incoming, options, cache, now=4e9)
    told = [r["reason"] for r in inventory.rejected if r["path"].endswith("sb03.hdf5")]
    assert told and set(told) == {"cannot be opened (Permission denied)"}
    inventory = take_inventory(incoming, options, cache, now=4e9)
    assert not [r for r in inventory.rejected if "Permission" in r["reason"]]


def test_scan_leaves_out_what_is_no_subband(incoming, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(incoming, folder)
    name = sorted(folder.iterdir())[0].name
    (folder / name.replace("_sb00", "_sb00_incomplete")).write_bytes(b"x")
    (folder / "notes.txt").write_text("hello")
    (folder / "2026-01-25T21:53:40_sb16.hdf5").write_bytes(b"x")
    (folder / "2026-01-25T21:53:41_sb01.hdf5").write_bytes(b"")
    (folder / "2026-01-25T21:53:42_sb02.hdf5").write_bytes(b"no hdf5 at all")
    (folder / "2026-01-25T21:53:43_sb03.hdf5").symlink_to(folder / "purged")
    (folder / "2026-99-25T21:53:43_sb03.hdf5").write_bytes(b"x")
    inventory = take_inventory(folder, OPTIONS)
    assert [g.state for g in inventory.groups] == ["complete"]
    reasons = {Path(item["path"]).name: item["reason"] for item in inventory.rejected}
    assert reasons == {
        "2026-01-25T21:53:40_sb16.hdf5": "subband 16 does not exist",
        "2026-01-25T21:53:41_sb01.hdf5": "empty file",
        "2026-01-25T21:53:42_sb02.hdf5": "no HDF5 file",
        "2026-01-25T21:53:43_sb03.hdf5": "broken link, or removed",
        "2026-99-25T21:53:43_sb03.hdf5": "its name holds no date",
    }


def test_a_missing_folder_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.*incoming"):
        take_inventory(tmp_path / "nowhere", OPTIONS)


def test_a_kept_inventory_serves_until_something_changes(incoming, tmp_path):
    folder, cache = tmp_path / "in", tmp_path / "cache.json"
    shutil.copytree(incoming, folder)
    files = sorted(folder.iterdir())
    away = tmp_path / files[3].name
    shutil.move(files[3], away)
    newest = max(f.stat().st_mtime for f in folder.iterdir())

    def look(now):
        inventory = take_inventory(folder, OPTIONS, cache, now)
        assert inventory == take_inventory(folder, OPTIONS, None, now)
        return inventory.groups[0].state

    # Time alone turns a group that waits into one that is used.
    assert look(newest + 1) == "collecting"
    assert look(newest + OPTIONS.wait_s - 1) == "collecting"
    assert look(newest + OPTIONS.wait_s + 1) == "degraded"
    assert look(newest + 1) == "collecting", "also when the clock goes back"
    # So do a file that comes, one that changes, and other options.
    shutil.move(away, folder)
    assert look(newest + 2) == "complete"
    files[5].write_bytes(b"")
    written = files[5].stat().st_mtime
    assert look(written + 1) == "collecting"
    stricter = OPTIONS.model_copy(update={"wait_s": 0.0, "min_subbands": 16})
    assert take_inventory(folder, stricter, cache, written + 2).groups[0].state == "failed"
    Path(f"{cache}.groups").write_text("{broken")
    assert look(written + 3) == "collecting"


def test_scan_of_many_files_in_several_processes(incoming, tmp_path, monkeypatch):
    folder = tmp_path / "many"
    link_many(incoming, folder, SMALL.jd0, 2_500)
    cache = tmp_path / "cache.json"
    first = take_inventory(folder, OPTIONS, cache, NOW)
    assert sum(len(g.files) for g in first.groups) + len(first.rejected) == 2_500
    monkeypatch.setattr(uvh5, "read_header", None)  # nothing is opened again
    assert take_inventory(folder, OPTIONS, cache, NOW) == first


# --- the group file ----------------------------------------------------------------------------


def test_a_group_is_not_made_of_a_file_with_another_name(tmp_path):
    path = tmp_path / "raw.hdf5"
    path.touch()
    with pytest.raises(DataError, match=r"raw\.hdf5: not the name of a subband's file"):
        inventories.entry_of([path])


def make_group(incoming: Path, folder: Path, subbands=range(16)) -> Path:
    files = [p for p in sorted(incoming.iterdir()) if int(p.name[-7:-5]) in subbands]
    random.Random(1).shuffle(files)
    target = folder / "group_20260125T215339.hdf5"
    write_group_file(target, files)
    return target


def test_group_file_reads_as_one_uvh5(incoming, tmp_path):
    uvd = UVData.from_file(str(make_group(incoming, tmp_path)), file_type="uvh5")
    assert uvd.Nfreqs == 64
    assert (np.diff(uvd.freq_array) < 0).all()
    assert np.array_equal(uvd.freq_array[:8], np.r_[SMALL.frequencies(0), SMALL.frequencies(1)])
    expected = np.zeros(1)  # the sky of SMALL is empty
    assert (uvd.data_array == expected).all()
    assert (uvd.nsample_array == 96).all()
    (centre,) = uvd.phase_center_catalog.values()
    assert centre["cat_type"] == "driftscan"
    assert np.allclose(uvd.phase_center_app_ra, uvd.lst_array)


def test_group_file_holds_the_subbands_data(tmp_path):
    raw = replace(SMALL, sources=[(336.0, 15.8, 1.0)])
    files = write_group(tmp_path / "in", raw)
    write_group_file(tmp_path / "group_20260125T215339.hdf5", files)
    uvd = UVData.from_file(str(tmp_path / "group_20260125T215339.hdf5"), file_type="uvh5")
    for sb in (0, 7, 15):
        found = uvd.data_array[:, sb * 4 : (sb + 1) * 4, 1].reshape(3, -1, 4)
        assert np.allclose(found, visibilities(raw, sb), atol=1e-6)


def test_absent_subbands_read_as_flagged(incoming, tmp_path):
    group = make_group(incoming, tmp_path, set(range(16)) - {0, 9})
    uvd = UVData.from_file(str(group), file_type="uvh5")
    absent = np.isin(np.arange(64) // 4, (0, 9))
    assert uvd.flag_array[:, absent].all()
    assert not uvd.flag_array[:, ~absent].any()
    assert (uvd.nsample_array[:, absent] == 0).all()
    assert uvd.freq_array[0] == pytest.approx(SMALL.frequencies(0)[0], abs=1e-3)


def test_group_file_survives_a_move_of_the_whole_tree(tmp_path):
    raw = replace(SMALL, sources=[(336.0, 15.8, 1.0)])
    files = write_group(tmp_path / "here" / "incoming", raw)
    write_group_file(tmp_path / "here/results/nights/group_20260125T215339.hdf5", files)
    (tmp_path / "here").rename(tmp_path / "there")
    with h5py.File(tmp_path / "there/results/nights/group_20260125T215339.hdf5") as group:
        assert np.abs(group["Data/visdata"][0]).min() > 0.99


def one_line(error: pytest.ExceptionInfo, name: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert name in text


def test_group_needs_files_of_one_group(incoming, tmp_path):
    other = write_subband(
        tmp_path / file_name(SMALL.jd0, 3), replace(SMALL, jd0=SMALL.jd0 + 1e-5), 3
    )
    files = [p for p in incoming.iterdir() if "_sb03" not in p.name]
    with pytest.raises(DataError, match="time_array differs") as error:
        write_group_file(tmp_path / "group_x.hdf5", [*files, other])
    one_line(error, other.name)
    assert list(tmp_path.glob("*group_x*")) == []


def test_group_refuses_a_file_under_another_subbands_name(incoming, tmp_path):
    (first,), (fifth,) = (list(incoming.glob(f"*_sb{sb:02d}.hdf5")) for sb in (0, 5))
    wrong = tmp_path / fifth.name.replace("_sb05", "_sb06")
    shutil.copy(fifth, wrong)
    with pytest.raises(DataError, match="channels") as error:
        write_group_file(tmp_path / "group_x.hdf5", [first, wrong])
    one_line(error, wrong.name)


# --- fuzzed inputs -----------------------------------------------------------------------------


def damaged(source: Path, target: Path, change) -> Path:
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        change(file)
    return target


def put(file: h5py.File, name: str, value) -> None:
    del file[name]
    file[name] = value


DAMAGES = {
    "other telescope": lambda f: put(f, "Header/telescope_name", np.bytes_("HERA")),
    "wrong shape": lambda f: put(f, "Data/visdata", f["Data/visdata"][:, 0]),
    "too few rows": lambda f: put(f, "Data/visdata", f["Data/visdata"][:-1]),
    "integer data": lambda f: put(f, "Data/visdata", np.zeros(f["Data/visdata"].shape, int)),
    "float flags": lambda f: put(f, "Data/flags", np.zeros(f["Data/flags"].shape)),
    "text in time_array": lambda f: put(f, "Header/time_array", np.array([b"noon"] * 18)),
    "NaN in time_array": lambda f: put(f, "Header/time_array", np.full(18, np.nan)),
    "short time_array": lambda f: put(f, "Header/time_array", f["Header/time_array"][:-6]),
    "ascending channels": lambda f: put(
        f, "Header/freq_array", f["Header/freq_array"][()][:, ::-1]
    ),
    "no channel width": lambda f: put(f, "Header/channel_width", 0.0),
    "negative integration": lambda f: put(f, "Header/integration_time", np.full(18, -1.0)),
    "declination of 2 rad": lambda f: put(f, "Header/extra_keywords/phase_center_dec", 2.0),
    "another declination": lambda f: put(f, "Header/extra_keywords/phase_center_dec", 0.4),
    "unknown antenna": lambda f: put(f, "Header/ant_1_array", np.full(18, 500)),
    "positions in km": lambda f: put(
        f, "Header/antenna_positions", f["Header/antenna_positions"][()] / 1000
    ),
    "no rows": lambda f: put(f, "Header/Ntimes", 0),
    "dataset in place of Header": lambda f: put(f, "Header", 1.0),
    "no Data": lambda f: f.__delitem__("Data"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_in_one_line(incoming, tmp_path, damage):
    source = sorted(incoming.iterdir())[4]
    bad = damaged(source, tmp_path / source.name, DAMAGES[damage])
    with pytest.raises(DataError) as error:
        write_group_file(tmp_path / "group_x.hdf5", [bad])
    one_line(error, bad.name)


def header_items(incoming: Path) -> list[str]:
    with h5py.File(sorted(incoming.iterdir())[0]) as file:
        return [*file["Header"], "extra_keywords/phase_center_dec"]


def test_a_missing_header_item_is_refused_or_not_needed(incoming, tmp_path):
    """Without an item either the group file is as with it, or one line says what is wrong."""
    source = sorted(incoming.iterdir())[4]
    refused = []
    for item in header_items(incoming):
        bad = damaged(source, tmp_path / source.name, lambda f, i=item: f["Header"].__delitem__(i))
        target = tmp_path / "group_x.hdf5"
        try:
            write_group_file(target, [bad])
        except DataError as error:
            assert "\n" not in str(error)
            assert bad.name in str(error)
            refused.append(item)
        else:
            uvd = UVData.from_file(str(target), file_type="uvh5", read_data=False, run_check=False)
            assert uvd.Nfreqs == 64
    assert {"time_array", "freq_array", "antenna_positions", "Nblts"} <= set(refused)


def test_a_file_truncated_anywhere_is_refused(incoming, tmp_path):
    source = sorted(incoming.iterdir())[4]
    whole = source.read_bytes()
    bad = tmp_path / source.name
    rng = random.Random(3)
    for length in [1, 8, 100, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(60))]:
        bad.write_bytes(whole[:length])
        (record_,) = inventories.scan(tmp_path)
        assert record_.reason
        with pytest.raises(DataError) as error:
            write_group_file(tmp_path / "group_x.hdf5", [bad])
        one_line(error, bad.name)


def test_random_bytes_in_the_metadata_never_crash_the_inventory(incoming, tmp_path):
    """Whatever a flipped byte does, a file is usable or has a reason."""
    source = sorted(incoming.iterdir())[4]
    whole = bytearray(source.read_bytes())
    bad = tmp_path / source.name
    rng = random.Random(5)
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(rng.choice((1, 4))):
            changed[rng.randrange(len(whole))] = rng.randrange(256)
        bad.write_bytes(changed)
        (record_,) = inventories.scan(tmp_path)
        assert record_.reason or record_.start_mjd is not None
        assert "\n" not in record_.reason


def test_the_command_line_lists_groups(incoming, capsys):
    from dsa110_contimg.cli import main

    assert main(["inventory", str(incoming), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["groups"][0]["files"]["0"].endswith("_sb00.hdf5")
    assert main(["inventory", str(incoming)]) == 0
    assert "complete" in capsys.readouterr().out
    assert run_step("group", "out.hdf5", "nonsense.hdf5") == 3


def test_neighbouring_tiles_differ_in_id():
    starts = [MJD0 + i * TILE_S / DAY for i in range(280)]
    ids = [group_id(s) for s in starts]
    assert len(set(ids)) == 280
    assert all(a < b for a, b in itertools.pairwise(ids))
