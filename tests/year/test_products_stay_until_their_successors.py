"""Row: outputs are deleted by the engine before their successor exists: a failing update removes
the light curves of all nights, a late tile the published mosaic | the published product stays until
the new one is whole (`update()`, or the index's way) for all of them.
"""

import os
import time

import pytest

from dsa110_contimg.core.files import replacing
from support.dag_folder import DagFolder
from support.night import VOLATILE, Operations, kill_tree, raw_groups

NIGHT = "2026-02-10"
LIGHTCURVES = ("lightcurves.parquet", "variability.csv", "candidates.csv", "candidates")
MOSAIC = ("mosaic.fits", "mosaic.rms.fits", "mosaic.weight.fits", "mosaic.fits.json")


@pytest.fixture(scope="module")
def finished_season(tmp_path_factory):
    """A finished night of two tiles, made once by Snakemake alone."""
    folder = DagFolder.make(tmp_path_factory.mktemp("season"))
    folder.nights = [folder.add_night(0, tiles=2)]
    done = folder.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def season(finished_season, tmp_path, monkeypatch):
    """The finished season, to be changed, with steps that fail when told."""
    folder = finished_season.copy(tmp_path / "season")
    monkeypatch.setenv("STUB_FAIL", str(folder.path / "fail"))
    return folder


def content(folder):
    """Return content and time of all products, by name; of a folder those of what is in it."""
    root = folder.path / "results"
    found = {}
    for path in root.rglob("*"):
        inside = path.relative_to(root)
        hidden = inside.parts[0].startswith(".") or path.name.startswith(".")
        if path.is_file() and not hidden and inside.parts[0] not in VOLATILE:
            found[str(inside)] = (path.read_bytes(), path.stat().st_mtime_ns)
    found.pop("inventory.json")
    return found


def fail(folder, *lines):
    (folder.path / "fail").write_text("".join(f"{line}\n" for line in lines))


def change(folder):
    """Let the photometry of the night be another."""
    with (folder.path / folder.layout.night(NIGHT, "photometry.csv")).open("a") as file:
        file.write("another\n")


#: Step, an option that remakes what it makes, and the products that are to stay.
UPDATES = [
    ("convert", "flagging={mad_sigma: 8}", ("ms/content", "ms.json")),
    ("calibrate", "calibration={min_field_share: 0.2}", ("bcal/content", "bcal.json")),
    ("image", "imaging={robust: 0.0}", ("image.fits", "pb.fits", "image.fits.json")),
    ("photometry", "photometry={upper_limit_sigma: 4}", ("photometry.csv", "photometry.csv.json")),
    ("mosaic", "mosaic={overlap_tiles: 1}", MOSAIC),
    ("lightcurves", "lightcurves={min_snr: 7}", LIGHTCURVES),
]


@pytest.mark.parametrize(("step", "option", "products"), UPDATES, ids=[u[0] for u in UPDATES])
def test_what_fails_to_be_remade_stays_and_is_remade_when_the_cause_is_gone(
    season, step, option, products
):
    before = content(season)
    fail(season, f"{step} / no")
    done = season.run("--config", option, "--retries", "1")
    assert done.returncode == 1
    after = content(season)
    for name in before:
        if name.endswith(products):
            assert after[name] == before[name], name
    assert set(before) <= set(after)
    fail(season)
    done = season.run("--config", option)
    assert done.returncode == 0, done.stdout + done.stderr
    made = content(season)
    changed = [name for name in before if name.endswith(products) and name in made]
    assert all(made[name][1] > before[name][1] for name in changed) and changed


def test_what_was_remade_when_a_step_failed_is_not_forgotten(season):
    """The times of a step that wrote and then failed say that all is done; it is not."""
    before = content(season)
    program = season.path / "bin/python"
    text = program.read_text()
    late = "case $* in *lightcurves.py*) exit 1;; esac\n"
    program.write_text(text.replace("exec ", "") + late)
    change(season)
    assert season.run().returncode == 1
    program.write_text(text)
    assert ("lightcurves", None) in season.jobs()
    assert season.run().returncode == 0
    assert set(content(season)) == set(before)
    # Behind a job that is repeated Snakemake does not look at who takes its product as it is.
    assert season.jobs() <= {("night_report", NIGHT)}


def test_a_step_that_is_killed_leaves_what_there_was(season):
    before = content(season)
    fail(season, "mosaic / kill", "lightcurves / kill")
    change(season)
    season.run("--forcerun", "hour_mosaic", "night_mosaic")
    after = content(season)
    assert set(after) == set(before)
    for name in before:
        if name.endswith((*MOSAIC, *LIGHTCURVES)):
            assert after[name] == before[name], name


@pytest.fixture
def night(tmp_path):
    """A folder in which the commands have made a night of two tiles, and a third has arrived."""
    made = Operations.make(tmp_path / "made")
    raw = raw_groups(tmp_path / "raw", 3)
    made.receive(raw[:2])
    status, output = made.call("run")
    assert status == 0, output
    made.receive(raw[2:])
    return made


def published(night):
    names = [f"nights/{NIGHT}/{name}" for name in MOSAIC]
    names += [f"lightcurves/{name}" for name in LIGHTCURVES if name != "candidates"]
    return {name: (night.results / name).read_text() for name in names}


def test_a_late_tile_whose_mosaic_fails_leaves_the_published_one(night):
    before = published(night)
    (night.path / "fail").write_text("mosaic /mosaic.fits no\nlightcurves / no\n")
    _, output = night.call("run")
    assert "FAILED night_mosaic" in output
    assert published(night) == before
    assert (night.results / "index.sqlite").exists()
    (night.path / "fail").write_text("")
    assert night.call("retry", "all")[0] == 0
    status, output = night.call("run")
    assert status == 0, output
    after = published(night)
    same = [name for name in before if after[name] == before[name]]
    assert same == [], "all tell of three tiles"


def test_a_run_that_is_killed_leaves_what_there_was(night):
    before = published(night)
    process = night.start("run", STUB_SECONDS="0.5")
    begun = f"nights/{NIGHT}/mosaic.fits"
    while not any(kind == "begin" and begun in job for kind, job in night.ledger()[14:]):
        assert process.poll() is None
        time.sleep(0.02)
    kill_tree(process)
    assert published(night).keys() == before.keys()
    assert published(night)[begun] == before[begun]
    status, output = night.call("run")
    assert status == 0, output
    assert published(night)[begun] != before[begun]


def test_a_folder_is_there_while_it_is_replaced(tmp_path):
    """Whoever looks finds the old one or the new one."""
    target = tmp_path / "table"
    target.mkdir()
    (target / "old").touch()
    lost = 0
    reader = os.fork()
    if reader == 0:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            lost += not target.is_dir()
        os._exit(min(lost, 100))
    end = time.monotonic() + 0.9
    while time.monotonic() < end:
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / "new").touch()
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]
