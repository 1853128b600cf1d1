"""A run with other results than it was told of leaves its failures in the default ones: whole,
measured tiles become ``quarantined``, and the next run remakes their night's mosaic without them;
wanted: a record of failure beside products that are whole and up to date takes nothing out; a
published product is not replaced by a poorer one because something else failed.
"""

import json
import shutil

import pytest

from dsa110_contimg.core.options import Config
from dsa110_contimg.operations import failures, planning
from support.night import science
from support.ticks import NIGHT, Ticks, told


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """A night of four tiles that is closed."""
    made = Ticks.with_night(tmp_path_factory.mktemp("closed") / "work", tiles=4)
    made.tick()
    assert made.closed == [NIGHT]
    return made


@pytest.fixture
def folder(closed, tmp_path, monkeypatch):
    """The same, open again."""
    made = closed.copy(tmp_path / "work")
    made.layout.night(NIGHT, "closed.json").unlink()
    monkeypatch.chdir(made.path)
    return made


def plant(folder, group, rule="convert"):
    """Leave the record of a failure that holds, as a run with another configuration would."""
    config = Config.model_validate(
        {
            "incoming": "incoming",
            "catalog": "demo/catalog.csv",
            "inventory": {"wait_s": 0},
            "operations": {"close_after_s": 0, "min_free_gb": 0},
        }
    )
    plan = planning.make_plan(config)
    wildcards = {"night": NIGHT, "group": group}
    event = {"rule": rule, "wildcards": wildcards, "log": str(folder.path / "log"), "command": ""}
    (folder.path / "log").write_text(told("data") + "\n")
    now = planning.fingerprint(config, plan.groups, wildcards, "")
    assert failures.note(folder.layout, event, now).quarantined
    return config


def test_failures_beside_whole_tiles_take_nothing_out(folder, closed):
    """Of tiles, and of the solutions that all rest on."""
    first, second, *_ = folder.groups()
    plant(folder, second)
    plant(folder, first, "calibrate")
    config = plant(folder, first, "image")
    plan = planning.make_plan(config)
    assert plan.epochs[NIGHT].tiles == folder.groups() and not plan.set_aside
    done = len(folder.ledger())
    folder.tick()
    assert set(folder.steps(done)) <= {"night_report"}, "nothing is made again"
    assert folder.closed == [NIGHT]
    made = {k: v for k, v in folder.products().items() if "failure" not in k}
    assert science(made) == science(closed.products())


def test_a_mosaic_is_not_remade_without_a_tile_that_failed(folder, closed):
    """The tile is lost, and making it again fails: what was published stays, and that is said."""
    _, second, *_ = folder.groups()
    folder.layout.group(second, "image.fits").unlink()
    folder.fail(f"image {second} {told('data')}")
    folder.tick(expected=1)
    folder.tick()
    assert folder.closed == [NIGHT]
    mosaic = folder.layout.night(NIGHT, "mosaic.fits")
    assert mosaic.read_bytes() == closed.layout.night(NIGHT, "mosaic.fits").read_bytes()
    curves = "lightcurves.parquet"
    published = closed.layout.lightcurves(curves).read_bytes()
    assert folder.layout.lightcurves(curves).read_bytes() == published
    # A person who wants the night without the tile takes the mosaic away.
    folder.layout.night(NIGHT, "closed.json").unlink()
    assert folder.status()["kept"] == {NIGHT: [second]}
    mosaic.unlink()
    folder.tick()
    inputs = json.loads(mosaic.with_name("mosaic.fits.json").read_text())["inputs"]
    assert len(inputs) == 3 and folder.closed == [NIGHT]
    assert folder.layout.lightcurves(curves).read_bytes() != published


@pytest.mark.slow
def test_a_night_that_is_set_aside_stays_in_the_light_curves(folder, closed):
    """Its new mosaic fails; what it had is whole."""
    for group in folder.groups()[:1]:
        shutil.rmtree(folder.layout.group(group, "ms"))
    wildcards = {"night": NIGHT}
    event = {"rule": "night_qa", "wildcards": wildcards, "log": str(folder.path / "log")}
    (folder.path / "log").write_text(told("data") + "\n")
    config = plant(folder, folder.groups()[3])
    now = planning.fingerprint(config, {}, wildcards, "")
    failures.note(folder.layout, event, now)
    plan = planning.make_plan(config)
    assert plan.epochs == {} and plan.measured == plan.judged == (NIGHT,)
