"""All files that are remade after a new night, a replaced tile, a changed catalogue.

The steps are stand-ins, the files are real: what was written is seen on disk. A sidecar goes with
its product and is not listed.
"""

import os
import time
from pathlib import Path

import pytest

from dsa110_contimg.core.layout import Layout
from support.dag_folder import DagFolder

LAYOUT = Layout(Path())
MAPS = ("pb", "pbcor", "residual", "model", "psf", "rms")


def named(group, *kinds):
    return {str(LAYOUT.group(group, kind)) for kind in kinds}


def data(group):
    """What is made of the raw files before a calibration is chosen."""
    return named(group, "hdf5", "ms")


def calibration(group):
    return named(group, "kcal", "bcal", "gcal", "solutions.html")


def tile(group):
    maps = (f"{kind}.fits" for kind in MAPS)
    pages = ("html", "view.jpg", "thumbnail.jpg")
    return named(group, "calibration.json", "image.fits", *maps, "photometry.csv", *pages)


def night_products(night):
    names = ["mosaic.view.fits", "photometry.csv", "blind.csv", "qa.json", "report.html"]
    for name in ("mosaic", "mosaic_01"):
        names += [f"{name}.fits", f"{name}.weight.fits", f"{name}.rms.fits"]
    return {str(LAYOUT.night(night, name)) for name in names}


def over_nights():
    names = ("lightcurves.parquet", "variability.csv", "candidates.csv", "candidates")
    return {str(LAYOUT.lightcurves(name)) for name in names} | {"index.sqlite"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = DagFolder.make(tmp_path_factory.mktemp("finished"))
    folder.nights = [folder.add_night(day, tiles=2) for day in range(2)]
    done = folder.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def written(folder):
    """Return the times of all products; directories count as one."""
    root, found = folder.path / "results", {}
    for top, folders, files in os.walk(root):
        inside = os.path.relpath(top, root)
        place = inside.split(os.sep)[0]
        if place in ("logs", "benchmarks", "runs", "configurations", ".frozen"):
            continue
        for name in [*files, *(f for f in folders if f.endswith(("ms", "cal", "candidates")))]:
            if not name.startswith(".") and name != "content":
                path = os.path.normpath(os.path.join(inside, name))
                found[path] = os.stat(os.path.join(top, name)).st_mtime_ns
    return found


def remade(folder, *options):
    before = written(folder)
    time.sleep(0.01)
    done = folder.run(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    after = written(folder)
    assert set(before) <= set(after), "nothing is lost"
    changed = {path for path, at in after.items() if before.get(path) != at}
    sidecars = {path for path in changed if path.removesuffix(".json") in {*after, "inventory"}}
    gone = {path for path in changed if path.endswith(".cal.ms.json")}  # of temporary data
    return changed - {path for path in sidecars if path.endswith(".json")} - gone


def test_a_new_night(finished, tmp_path):
    season = finished.copy(tmp_path / "season")
    first, second = season.add_night(2, tiles=2)
    expected = night_products("2026-02-12") | over_nights() | calibration(first)
    for group in (first, second):
        expected |= data(group) | tile(group)
    assert remade(season) == expected


def test_one_replaced_tile(finished, tmp_path):
    season = finished.copy(tmp_path / "season")
    _, target = season.nights[0]
    for path in season.groups[target]["files"].values():
        (season.path / path).write_text("observed again")
    expected = data(target) | tile(target) | night_products("2026-02-10") | over_nights()
    assert remade(season) == expected


def test_a_changed_catalogue(finished, tmp_path):
    """Solutions (it models their field), images (masks, subtraction), measurements; no data."""
    season = finished.copy(tmp_path / "season")
    with (season.path / "demo/catalog.csv").open("a") as file:
        file.write("b,24.9,33.2,0.5\n")
    expected = over_nights()
    for night, groups in zip(("2026-02-10", "2026-02-11"), season.nights, strict=True):
        expected |= night_products(night).union(*map(tile, groups)) | calibration(groups[0])
    assert remade(season) == expected


def test_a_field_that_is_imaged_jointly_and_a_second_one(finished, tmp_path):
    """Its own files and no others; calibrated data are made again for it, and do not stay."""
    season = finished.copy(tmp_path / "season")
    where = "24.4 33.2 0.5"
    joint = [f"joint_a{kind}.fits" for kind in ("", ".weight", ".rms")]
    nights = ("2026-02-10", "2026-02-11")
    expected = {str(LAYOUT.night(night, name)) for night in nights for name in joint}
    one = ("--config", f"joint={{fields: {{a: {where}}}}}")
    assert remade(season, *one) == expected
    assert not list(season.path.rglob("*.cal.ms"))
    two = ("--config", f"joint={{fields: {{a: {where}, b: {where}}}}}")
    assert remade(season, *two) == {name.replace("joint_a", "joint_b") for name in expected}
