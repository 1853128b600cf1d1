"""Row: each job on a cluster evaluates the targets of all nights at its start (34 s and over 1 GB
at 100,000 groups) | a job parses only what concerns it: under 2 s and 200 MB.

Measured by `benchmarks/job_start.py`; here, that what a job reads does not grow with the nights.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from dsa110_contimg.core.config import load_config
from dsa110_contimg.core.layout import Layout
from dsa110_contimg.core.times import night_of
from dsa110_contimg.operations import frozen, planning
from support import REPO
from support.dag_folder import DagFolder

CHAIN = ("hdf5", "hdf5.json", "ms", "ms.json")


@pytest.fixture
def handed(tmp_path, monkeypatch):
    """A folder with two nights, its plan, and where it is frozen."""
    folder = DagFolder.make(tmp_path)
    folder.nights = [folder.add_night(0, tiles=2), folder.add_night(1, tiles=2)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTIMG_INVENTORY", str(folder.freeze()))
    config = load_config({"incoming": "incoming", "catalog": "demo/catalog.csv"})
    plan = planning.make_plan(config)
    layout = Layout(config.results)
    place, inventory = frozen.folder_of(layout), frozen.inventory_path(layout)
    return folder, plan, place, frozen.freeze(config, plan, place, inventory)


def test_a_plan_is_read_back_as_it_was(handed):
    _, plan, place, _ = handed
    again = frozen.load(place)
    same = replace(plan, inventory=again.inventory, measured=again.measured, judged=again.judged)
    assert again == same
    assert again.measured_nights == plan.measured_nights


def test_a_job_reads_its_night_and_the_names_of_the_others(handed):
    folder, plan, place, _ = handed
    first, second = plan.nights
    (place / f"{second}.json").unlink()
    arguments = ["snakemake", "--target-jobs", f"apply:night={first},group={folder.nights[0][1]}"]
    part = frozen.load(place, frozen.nights_of_jobs(arguments))
    assert set(part.groups) == set(folder.nights[0])
    assert part.measured_nights == [first, second]
    season = frozen.load(place, frozen.nights_of_jobs(["--target-jobs", "lightcurves:"]))
    assert (season.groups, season.measured_nights) == ({}, [first, second])


def test_tiles_need_the_nights_of_their_calibrations(handed):
    _, plan, _, _ = handed
    for night in plan.nights:
        ladders = [c for g, c in plan.calibration.candidates.items() if night_of(g) == night]
        assert frozen.needed_for(plan, night) == {night, *(night_of(g) for c in ladders for g in c)}


@pytest.mark.parametrize("rule", ["group", "lightcurves"])
def test_a_job_begins_where_nothing_is_known_of_other_nights(handed, rule):
    """As the executor starts it; whatever is asked of the other night would fail."""
    folder, plan, place, environment = handed
    first, second = plan.nights
    (place / f"{second}.json").write_text("broken")
    (place / f"{first}.json").touch()
    job = f"group:night={first},group={folder.nights[0][0]}"
    if rule == "lightcurves":
        (place / f"{first}.json").write_text("broken")
        for night in plan.nights:
            table = folder.path / folder.layout.night(night, "photometry.csv")
            table.parent.mkdir(parents=True, exist_ok=True)
            table.touch()
        job = "lightcurves:"
    options = "--force --target-files-omit-workdir-adjustment --no-hooks --nolock --cores 1"
    options += " --ignore-incomplete --force-use-threads --mode subprocess --quiet all"
    places = [str(folder.stub()), os.path.dirname(sys.executable), os.environ["PATH"]]
    command = [sys.executable, "-m", "snakemake", "--target-jobs", job, "--allowed-rules", rule]
    command += ["--snakefile", str(REPO / "Snakefile"), *frozen.options(place), *options.split()]
    done = subprocess.run(
        command,
        env=os.environ | environment | {"PATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = folder.layout.group(folder.nights[0][0], "hdf5")
    made = made if rule == "group" else folder.layout.lightcurves("candidates.csv")
    assert (folder.path / made).is_file()


def test_what_jobs_are_handed_is_small_and_goes_with_its_nights(handed):
    _, plan, place, _ = handed
    whole = json.loads((place / "plan.json").read_text())
    assert whole["groups"] == {} and whole["nights"] == list(plan.nights)
    config = load_config({"incoming": "incoming", "catalog": "demo/catalog.csv"})
    frozen.freeze(config, plan, place, place.parent / "inventory.json", plan.nights[:1])
    assert {path.stem for path in place.iterdir()} == {
        *("plan", "config", "photometry"),
        plan.nights[0],
    }
