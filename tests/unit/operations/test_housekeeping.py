"""Only what is not needed goes, in an order that leaves nothing half-gone."""

import datetime as dt
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from dsa110_contimg import cli
from dsa110_contimg.conversion.inventory import Group
from dsa110_contimg.core.config import load_config
from dsa110_contimg.core.errors import MachineError, SpaceError, cause_of
from dsa110_contimg.core.figures import GroupFigures
from dsa110_contimg.core.files import HOST, beside, private_folder
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.sidecar import Sidecar
from dsa110_contimg.operations import closing, leftovers, retention, space
from support.figures import example

NIGHT = "2026-02-10"
CALIBRATOR, TILE, BARE = "20260210T011325", "20260210T011834", "20260210T012343"
CLOSED = dt.datetime(2026, 2, 11, 0, 30, tzinfo=dt.UTC)
MAPS = ("psf", "model", "residual", "pbcor")
DATA = ("ms", "hdf5")
NOBODY = 999999999


def group_of(name, files):
    return Group(name, NIGHT, "complete", files, 61081.0, 309.0, 24, 33.3, 24.4, 33.2)


def product(path, sidecar=True, folder=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
        path = path / "table.dat"
    path.write_bytes(bytes(1000))
    if sidecar:
        record = {"verdict": "pass", "qa": {}}
        Path(f"{path.parent if folder else path}.json").write_text(json.dumps(record))


@pytest.fixture
def config(tmp_path):
    (tmp_path / "incoming").mkdir()
    values = {"incoming": tmp_path / "incoming", "results": tmp_path / "results"}
    return load_config(values | {"operations": {"min_free_gb": 0.001}})


@pytest.fixture
def layout(config):
    """A closed night: a calibrator and a tile with all they make, and one without a tile."""
    layout = Layout(config.results)
    entries = {}
    for name in (CALIBRATOR, TILE, BARE):
        files = {sb: str(config.incoming / f"{name}_sb{sb:02d}.hdf5") for sb in range(2)}
        for path in files.values():
            Path(path).write_bytes(bytes(1000))
        entries[name] = asdict(group_of(name, files))
        product(layout.group(name, "ms"), folder=True)
        product(layout.group(name, "hdf5"), sidecar=False)
        figures = example(GroupFigures, group=entries[name])
        Sidecar("group", inputs=list(files.values()), figures=figures).write(
            layout.group(name, "hdf5")
        )
        if name == BARE:
            continue
        for kind in ("image", "pb", "rms", *MAPS):
            product(layout.group(name, f"{kind}.fits"))
        product(layout.group(name, "photometry.csv"))
    product(layout.group(CALIBRATOR, "bcal"), folder=True)
    for step in ("convert", "image"):
        product(layout.log(step, NIGHT, TILE), sidecar=False)
        product(layout.timing(step, NIGHT, TILE), sidecar=False)
    product(layout.night(NIGHT, "mosaic.fits"))
    closing.write(
        layout,
        closing.ClosedNight(
            NIGHT,
            f"{CLOSED:%Y-%m-%dT%H:%M:%SZ}",
            {CALIBRATOR: "", TILE: "", BARE: "digest"},
            [{"group": entries[CALIBRATOR], "calibrator": "3C48", "verdict": "pass"}],
        ),
    )
    return layout


def days(number):
    """Return a time so many days after the night was closed."""
    return CLOSED.timestamp() + number * 86400


RULES = (*retention.BULKY[:-1], *retention.LOGS)


def removals_of(plans):
    return [removal for plan in plans for removal in plan.removals]


def going(config, age, raw=False):
    """Return what would go at an age, relative to the folder of the test."""
    rules = (*RULES, "raw_days") if raw else RULES
    removals = removals_of(retention.plan_purge(config, rules, now=days(age)))
    return {str(r.path.relative_to(config.results.parent)): r.rule for r in removals}


def with_retention(config, **values):
    return config.model_copy(update={"retention": config.retention.model_copy(update=values)})


def in_group(name, *kinds):
    root = Layout(Path("results"))
    return {str(root.group(name, kind)) for kind in kinds}


# --- the policy -----------------------------------------------------------------------------------


def test_each_product_goes_at_its_age(config, layout):
    aids = [f"{kind}.fits" for kind in MAPS]
    assert going(config, 29.9) == {}
    assert set(going(config, 30.1)) == in_group(TILE, *DATA)
    logs = {
        f"results/{kind}/{step}/{NIGHT}"
        for kind in ("logs", "benchmarks")
        for step in ("convert", "image")
    }
    late = going(config, 90.1)
    assert set(late) == (in_group(TILE, *DATA, *aids) | in_group(CALIBRATOR, *DATA, *aids) | logs)
    assert late[str(Path("results") / f"logs/image/{NIGHT}")] == "logs_days"
    (ms,) = in_group(CALIBRATOR, "ms")
    assert late[ms] == "calibrator_ms_days"


def test_science_never_goes(config, layout):
    """Whatever the policy: images, measurements, tables, mosaics, sidecars."""
    soon = with_retention(
        config, ms_days=0, calibrator_ms_days=0, maps_days=0, raw_days=0, logs_days=0
    )
    gone = going(soon, 10_000, raw=True)
    kept = ("image.fits", "pb.fits", "rms.fits", "photometry.csv", "bcal", "ms.json", "hdf5.json")
    for name in (CALIBRATOR, TILE):
        assert not in_group(name, *kept) & set(gone)
    assert not any("mosaic" in path for path in gone)


@pytest.mark.parametrize("lost", ["image.fits", "photometry.csv", "image.fits.json"])
def test_a_measurement_set_stays_until_image_and_photometry_exist(config, layout, lost):
    layout.group(TILE, lost).unlink()
    gone = going(with_retention(config, raw_days=0), 10_000, raw=True)
    assert not [path for path in gone if TILE in path]
    assert not [path for path in gone if BARE in path]
    assert [path for path in gone if CALIBRATOR in path]


def test_open_nights_are_left_alone(config, layout):
    closing.reopen(layout, NIGHT)
    assert going(config, 10_000) == {}


def test_raw_files_go_only_if_both_said_so(config, layout):
    raw = {f"incoming/{name}_sb{sb:02d}.hdf5" for name in (CALIBRATOR, TILE) for sb in range(2)}
    allowed = with_retention(config, raw_days=7)
    assert not raw & set(going(config, 10_000, raw=True))
    assert not raw & set(going(allowed, 10_000))
    assert set(going(allowed, 7.1, raw=True)) == raw
    with_automatic = with_retention(config, raw_days=0, automatic=True)
    retention.daily(with_automatic)
    assert all((config.incoming.parent / path).exists() for path in raw)


def test_raw_files_elsewhere_are_not_ours(config, layout, tmp_path):
    """A sidecar that names files outside the incoming folder deletes nothing there."""
    path = Path(f"{layout.group(TILE, 'hdf5')}.json")
    record = json.loads(path.read_text())
    record["qa"]["group"]["files"] = {"0": str(tmp_path / "precious.hdf5")}
    path.write_text(json.dumps(record))
    (tmp_path / "precious.hdf5").touch()
    gone = going(with_retention(config, raw_days=0), 10_000, raw=True)
    assert not [path for path in gone if "precious" in path]


def test_records_of_runs_go_by_their_own_age(config, layout):
    runs = config.results / "runs"
    runs.mkdir()
    for name in ("20250101T000000.000000", "20260210T120000.000000"):
        (runs / f"{name}.json").write_text("{}")
    assert going(config, 1) == {"results/runs/20250101T000000.000000.json": "runs_days"}


def test_records_of_runs_are_bounded_in_number(config, layout, monkeypatch):
    runs = config.results / "runs"
    runs.mkdir()
    for minute in range(5):
        (runs / f"20260210T12000{minute}.000000.json").write_text("{}")
    monkeypatch.setattr(retention, "MOST_RUNS", 3)
    assert set(going(config, 1)) == {
        f"results/runs/20260210T12000{minute}.000000.json" for minute in range(2)
    }


def test_logs_and_records_of_runs_go_by_themselves(config, layout):
    """As shipped: nothing was switched on."""
    runs = config.results / "runs"
    runs.mkdir()
    (runs / "20250101T000000.000000.json").write_text("{}")
    old = f"{dt.datetime.now(dt.UTC) - dt.timedelta(days=91):%Y-%m-%dT%H:%M:%SZ}"
    closed = asdict(closing.read(layout, NIGHT)) | {"closed_utc": old}
    closing.write(layout, closing.ClosedNight(**closed))
    assert retention.daily(config) > 0
    assert not list((config.results / "logs").glob("*/*"))
    assert not list((config.results / "benchmarks").glob("*/*"))
    assert not list(runs.iterdir())
    assert layout.group(TILE, "ms").exists() and layout.group(TILE, "psf.fits").exists()


def test_a_night_that_was_purged_is_not_looked_into_again(config, layout, monkeypatch):
    """What a day's purge costs does not grow with the groups of the history."""
    automatic = with_retention(
        config, automatic=True, ms_days=0, calibrator_ms_days=0, maps_days=0, logs_days=0
    )
    retention.daily(automatic)
    os.utime(config.results / ".purged", (0, 0))
    looked = []
    monkeypatch.setattr(retention, "read_sidecar", lambda *args: looked.append(args))
    retention.daily(automatic)
    assert looked == []


# --- deleting -------------------------------------------------------------------------------------


def test_what_is_purged_is_recorded_and_gone(config, layout):
    plans = retention.plan_purge(config, now=days(31))
    freed = retention.purge(config, plans)
    assert freed == sum(r.n_bytes for r in removals_of(plans)) >= 2000
    assert not layout.group(TILE, "ms").exists()
    assert layout.group(CALIBRATOR, "ms").exists()
    record = json.loads(layout.night(NIGHT, "purged.json").read_text())
    assert closing.purged_groups(layout, NIGHT) == {TILE}
    assert record["groups"][TILE][str(layout.group(TILE, "ms"))]["bytes"] == 1000
    assert going(config, 31) == {}
    later = removals_of(retention.plan_purge(config, now=days(91)))
    assert {r.group for r in later if r.rule == "calibrator_ms_days"} == {CALIBRATOR}


def test_a_night_that_was_open_again_is_looked_at_again(config, layout):
    retention.purge(config, retention.plan_purge(config, now=days(31)))
    product(layout.group(TILE, "ms.again"), sidecar=False)
    layout.group(TILE, "ms.again").rename(layout.group(TILE, "ms"))
    assert going(config, 31) == {}
    again = closing.read(layout, NIGHT)
    stamp = f"{dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2):%Y-%m-%dT%H:%M:%SZ}"
    closing.write(layout, closing.ClosedNight(**(asdict(again) | {"closed_utc": stamp})))
    removals = removals_of(retention.plan_purge(config, now=time.time() + 31 * 86400))
    assert layout.group(TILE, "ms") in [r.path for r in removals]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(8))
def test_a_purge_that_is_killed_leaves_whole_products_or_records(config, layout, monkeypatch, step):
    """Killed at any change of the disk: what is missing is known, and the next purge goes on."""
    left = step
    originals = {name: getattr(os, name) for name in ("replace", "unlink", "rmdir")}

    def countdown(name):
        def call(*args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return originals[name](*args, **options)

        return call

    plans = retention.plan_purge(config, now=days(31))
    for name in originals:
        monkeypatch.setattr(os, name, countdown(name))
    with pytest.raises(Killed):
        retention.purge(config, plans)
    monkeypatch.undo()
    ms, group_file = (layout.group(TILE, kind) for kind in DATA)
    if ms.exists():
        assert (ms / "table.dat").stat().st_size == 1000
    if not ms.exists() or not group_file.exists():
        assert closing.purged_groups(layout, NIGHT) == {TILE}
    # The process is gone: what it left is stale, and the rest is purged.
    for path in config.results.rglob(".*-*"):
        path.rename(path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{NOBODY}-")))
    leftovers.remove_stale(config)
    retention.purge(config, retention.plan_purge(config, now=days(31)))
    assert not ms.exists() and not group_file.exists()
    assert not list(config.results.rglob(".*"))


def test_the_command_lists_before_it_deletes(config, layout, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    old = f"{dt.datetime.now(dt.UTC) - dt.timedelta(days=31):%Y-%m-%dT%H:%M:%SZ}"
    closed = asdict(closing.read(layout, NIGHT)) | {"closed_utc": old}
    closing.write(layout, closing.ClosedNight(**closed))
    assert cli.main(["purge", "--config", "results=results", "incoming=incoming"]) == 0
    told = capsys.readouterr().out
    assert f"{TILE}.ms  (retention.ms_days)" in told
    assert "2 files and folders, 0.000 GB, to remove (repeat with --yes)" in told
    assert layout.group(TILE, "ms").exists()
    assert cli.main(["purge", "--yes", "--config", "results=results", "incoming=incoming"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not layout.group(TILE, "ms").exists()


def test_raw_without_an_age_is_an_error(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["purge", "--raw"]) == 2
    assert "retention.raw_days is not set" in capsys.readouterr().err


def test_ticks_purge_once_a_day_if_told_to(config, layout):
    old = f"{dt.datetime.now(dt.UTC) - dt.timedelta(days=31):%Y-%m-%dT%H:%M:%SZ}"
    closed = asdict(closing.read(layout, NIGHT)) | {"closed_utc": old}
    closing.write(layout, closing.ClosedNight(**closed))
    retention.daily(config)
    assert layout.group(TILE, "ms").exists()
    automatic = with_retention(config, automatic=True)
    os.utime(config.results / ".purged", (0, 0))
    assert retention.daily(automatic) > 0
    assert not layout.group(TILE, "ms").exists()
    layout.night(NIGHT, "purged.json").unlink()
    product(layout.group(TILE, "ms.again"), folder=True)
    layout.group(TILE, "ms.again").rename(layout.group(TILE, "ms"))
    assert retention.daily(automatic) == 0
    os.utime(config.results / ".purged", (0, 0))
    assert retention.daily(automatic) > 0


# --- temporaries ----------------------------------------------------------------------------------


def temporary(path, process=NOBODY, host=HOST, age_s=0.0, kind="tmp"):
    left = path.with_name(f".{kind}-{process}-{host}-{path.name}")
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("half")
    moment = time.time() - age_s
    os.utime(left, (moment, moment))
    return left


def test_left_overs_are_told_from_work(config, layout):
    night = layout.night(NIGHT, "mosaic.fits")
    dead = temporary(night)
    old = temporary(layout.group(TILE, "ms"), kind="old")
    ancient = temporary(night, process=os.getpid(), age_s=90_000)
    elsewhere_old = temporary(night, host="node7", age_s=90_000)
    working = temporary(layout.group(TILE, "image.fits"), process=os.getpid())
    elsewhere = temporary(layout.group(TILE, "image.fits"), host="node7")
    (config.results / ".tmp-notes").write_text("a user's")
    expected = sorted([dead, old, ancient, elsewhere_old])
    mine = [p for p in leftovers.stale(config) if config.results in p.parents]
    assert mine == expected
    assert [p for p in leftovers.stale(config, [NIGHT]) if config.results in p.parents] == mine
    assert not [p for p in leftovers.stale(config, []) if config.results in p.parents]
    leftovers.remove_stale(config)
    assert not any(map(Path.exists, expected))
    assert working.exists() and elsewhere.exists()


def test_a_folder_in_use_on_another_machine_is_young_by_its_content(config, layout):
    folder = layout.group(TILE, "ms").with_name(f".tmp-{NOBODY}-node7-{TILE}.ms")
    folder.mkdir()
    (folder / "table.dat").write_text("being written")
    os.utime(folder, (0, 0))
    assert folder not in leftovers.stale(config)


def test_scratch_folders_of_killed_steps_are_found(config, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = private_folder() / f".tmp-{NOBODY}-{HOST}-casa-x7"
    left.mkdir()
    assert leftovers.remove_stale(config, []) == [left]


# --- space ----------------------------------------------------------------------------------------


def wanting(config, tmp_path, *megabytes):
    """Return groups with raw files of so many MB that take no space on the disk."""
    groups = []
    for i, size in enumerate(megabytes):
        path = tmp_path / f"{i}_sb00.hdf5"
        with open(path, "wb") as file:
            file.truncate(int(size * 1e6))
        groups.append(group_of(f"20260210T00000{i}", {0: str(path)}))
    return groups


def test_room_is_counted_in_groups(config, tmp_path, monkeypatch):
    monkeypatch.setattr(space, "free_space", lambda path: (tmp_path, 100 * 10**6, 10**9))
    assert space.check_space(config) == 0
    assert space.check_space(config, wanting(config, tmp_path, 10, 10)) == 2
    # 99 MB beside the reserve of 1 MB: three times 2.5 * 12 MB, not four times.
    assert space.check_space(config, wanting(config, tmp_path, 12, 12, 12, 12)) == 3
    done = wanting(config, tmp_path, 12, 12, 12, 12)
    product(Layout(config.results).group(done[0].id, "ms"), folder=True)
    os.truncate(Layout(config.results).group(done[0].id, "ms") / "table.dat", 30 * 10**6)
    assert space.check_space(config, done) == 4  # 30 of the 30 MB of the first are there
    with pytest.raises(
        SpaceError, match=r"disk full: 0\.1 GB free at .*, 0\.171 GB wanted"
    ) as full:
        space.check_space(config, wanting(config, tmp_path, 80))
    assert cause_of(full.value) == "transient"


def test_the_reserve_stays_free(config):
    greedy = config.model_copy(
        update={"operations": config.operations.model_copy(update={"min_free_gb": 1e9})}
    )
    with pytest.raises(SpaceError, match=r"lower operations\.min_free_gb"):
        space.check_space(greedy)


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(MachineError, match=r"cannot write: .*read-only file system; make it"):
        space.probe(tmp_path)


def test_probing_leaves_nothing(tmp_path):
    space.probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_temporaries_tell_whose_they_are(tmp_path):
    name = beside(tmp_path / "x.fits").name
    assert name == f".tmp-{os.getpid()}-{HOST}-x.fits"


# --- clocks ---------------------------------------------------------------------------------------


def test_products_from_the_future_are_dated_to_now(config, layout):
    """The clock was a day ahead while a tile was made; what was made before stays as it is."""
    now = time.time()
    runs = config.results / "runs"
    runs.mkdir()
    for path in config.results.rglob("*"):
        os.utime(path, (now - 1000, now - 1000))
    assert leftovers.set_times_right(config) == 0
    closing.reopen(layout, NIGHT)
    ahead = [layout.group(TILE, "ms"), layout.group(TILE, "ms") / "table.dat", runs]
    for path in ahead:
        os.utime(path, (now + 86400, now + 86400))
    assert leftovers.set_times_right(config, now) == 3
    assert {path.stat().st_mtime for path in ahead} == {now}
    assert layout.group(CALIBRATOR, "ms").stat().st_mtime == pytest.approx(now - 1000)
    assert leftovers.set_times_right(config, now) == 0
