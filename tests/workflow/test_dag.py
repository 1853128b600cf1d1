"""Which jobs run, and for which reason: real runs of the rules with steps that do nothing."""

import base64
import fcntl
import os
import re
import shutil

import pytest

from dsa110_contimg.core import runs
from dsa110_contimg.core.files import beside
from support.dag_folder import DagFolder


@pytest.fixture(scope="module")
def finished_season(tmp_path_factory):
    """Two finished nights of three tiles, made once."""
    folder = DagFolder.make(tmp_path_factory.mktemp("season"))
    folder.nights = [folder.add_night(0), folder.add_night(1)]
    done = folder.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def season(finished_season, tmp_path):
    """The finished season, to be changed."""
    return finished_season.copy(tmp_path / "season")


def after_image(group, night, hour="01"):
    """Jobs that follow a remade image."""
    return {("tile_photometry", group), ("tile_report", group), *after_tiles(night, hour)}


def after_tiles(night, hour="01"):
    return {("hour_mosaic", night, hour), *after_mosaic(night)}


def after_mosaic(night):
    steps = ("night_mosaic", "night_photometry", "night_blind", "mosaic_view")
    return {(step, night) for step in steps} | after_night(night)


def after_night(night):
    science = {(step, None) for step in ("lightcurves", "candidate_plots", "index")}
    return science | {("night_qa", night), ("night_report", night)}


NIGHT = "2026-02-10"
#: The verdict covers all mosaics that the night will have, however jobs are scheduled.
JUDGED = {("night_qa", NIGHT), ("night_report", NIGHT)}


def test_a_finished_season_has_nothing_to_do(season):
    assert season.jobs() == set()


def test_first_run_makes_every_product(season):
    night = season.path / "results/nights" / NIGHT
    group = season.nights[0][0]
    products = ["ms", "kcal", "bcal", "gcal", "image.fits", "photometry.csv", "html"]
    maps = ["pb.fits", "pbcor.fits", "residual.fits", "model.fits", "psf.fits", "rms.fits"]
    for kind in [*products, *(f"{kind}.json" for kind in products), *maps]:
        assert (night / "groups" / group / f"{group}.{kind}").exists(), kind
    for name in ("mosaic_01.fits", "mosaic.fits", "photometry.csv", "qa.json", "report.html"):
        assert (night / name).exists(), name
    assert not list(season.path.rglob("*.cal.ms")), "the calibrated data are temporary"


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("hdf5", {"group", "convert", "calibrate", "apply", "image"}),
        ("ms", {"convert", "calibrate", "apply", "image"}),
        ("image.fits", {"apply", "image"}),
        ("rms.fits", {"apply", "image"}),
    ],
)
def test_a_deleted_tile_product_remakes_what_depends_on_it(season, kind, first):
    _, target, _ = season.nights[0]
    path = season.path / season.layout.group(target, kind)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    # A target's data calibrate nothing.
    expected = {(rule, target) for rule in first - {"calibrate"}} | after_image(target, NIGHT)
    assert season.jobs() == expected


def test_a_deleted_calibration_remakes_its_night_only(season):
    calibrator, *_ = season.nights[0]
    shutil.rmtree(season.path / season.layout.group(calibrator, "bcal"))
    expected = {(rule, calibrator) for rule in ("calibrate", "calibration_report")}
    expected |= after_tiles(NIGHT)
    for group in season.nights[0]:
        expected |= {
            ("apply", group),
            ("image", group),
            ("tile_photometry", group),
            ("tile_report", group),
        }
    assert season.jobs() == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mosaic.fits", after_mosaic(NIGHT)),
        ("mosaic_01.fits", {("hour_mosaic", NIGHT, "01"), ("index", None)} | JUDGED),
        ("photometry.csv", {("night_photometry", NIGHT)} | after_night(NIGHT)),
        ("report.html", {("night_report", NIGHT)}),
    ],
)
def test_a_deleted_night_product_remakes_what_depends_on_it(season, name, expected):
    (season.path / season.layout.night(NIGHT, name)).unlink()
    assert season.jobs() == expected


def test_a_deleted_light_curve_leaves_the_nights_alone(season):
    (season.path / season.layout.lightcurves("variability.csv")).unlink()
    assert season.jobs() == {(s, None) for s in ("lightcurves", "candidate_plots", "index")}


def test_a_new_night_leaves_the_old_ones_alone(season):
    new = season.add_night(2)
    jobs = season.jobs()
    touched = {job[1] for job in jobs} - {None}
    assert touched == {"2026-02-12", *new}
    assert ("lightcurves", None) in jobs


def test_the_index_is_built_upon_not_made_anew(season):
    index = season.path / "results/index.sqlite"
    assert index.read_text() == "made\n"
    with (season.path / season.layout.night(NIGHT, "qa.json")).open("a") as verdict:
        verdict.write("another\n")
    assert ("index", None) in season.jobs()
    done = season.run()
    assert done.returncode == 0, done.stderr
    assert index.read_text() == "made\nmade\n"


def test_a_further_tile_remakes_the_nights_products(season):
    *_, fourth = season.add_night(0, tiles=4)
    steps = ("group", "convert", "apply", "image")
    expected = {(step, fourth) for step in steps} | after_image(fourth, NIGHT)
    assert season.jobs() == expected


def test_a_late_subband_remakes_its_group_and_nothing_else(dag_folder):
    _, target, _ = dag_folder.add_night(0)
    files = dag_folder.groups[target]["files"]
    late = files.pop("7")
    dag_folder.groups[target]["state"] = "degraded"
    assert dag_folder.run().returncode == 0
    assert dag_folder.jobs() == set()
    files["7"] = late
    dag_folder.groups[target]["state"] = "complete"
    steps = ("group", "convert", "apply", "image")
    assert dag_folder.jobs() == {(step, target) for step in steps} | after_image(target, NIGHT)


def test_a_purged_raw_file_changes_nothing(season):
    shutil.rmtree(season.path / "incoming")
    season.groups.clear()
    assert season.jobs() == set()


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("imaging={robust: 0.0}", {"apply", "image", "tile_photometry", "tile_report"}),
        ("photometry={upper_limit_sigma: 4}", {"tile_photometry", "tile_report"}),
        (
            "flagging={mad_sigma: 8}",
            {"convert", "apply", "image", "tile_photometry", "tile_report"},
        ),
    ],
)
def test_a_changed_key_remakes_what_it_concerns(season, key, first):
    jobs = season.jobs("--config", key)
    tile_jobs = {"group", "convert", "apply", "image", "tile_photometry", "tile_report"}
    assert {job[0] for job in jobs} & tile_jobs == first
    assert ("calibrate" in {job[0] for job in jobs}) == ("convert" in first)
    assert ("lightcurves", None) in jobs


def test_threads_and_memory_remake_nothing(season):
    assert season.jobs("--set-threads", "image=2", "--set-resources", "image:mem_mb=99") == set()


def test_a_failed_solution_gives_way_to_the_next(dag_folder):
    first, second = dag_folder.add_night(0), dag_folder.add_night(1)
    (dag_folder.path / "bad_calibrators").write_text(first[0])
    assert dag_folder.run().returncode == 1
    assert dag_folder.run().returncode == 0
    record = dag_folder.path / dag_folder.layout.group(first[1], "calibration.json")
    assert f'"chosen": "{second[0]}"' in record.read_text()
    assert dag_folder.jobs() == set()


def test_a_recorded_choice_stays_when_a_nearer_calibrator_appears(dag_folder):
    late = dag_folder.add_night(1)
    early = dag_folder.add_night(0)
    calibrator = dag_folder.groups.pop(early[0])
    assert dag_folder.run().returncode == 0
    record = dag_folder.path / dag_folder.layout.group(early[1], "calibration.json")
    assert f'"chosen": "{late[0]}"' in record.read_text()
    dag_folder.groups[calibrator["id"]] = calibrator
    redone = {job for job in dag_folder.jobs() if job[0] in ("apply", "image")}
    assert redone == {("apply", early[0]), ("image", early[0])}
    done = dag_folder.contimg("run", "--recalibrate", "--", "--quiet", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'"chosen": "{early[0]}"' in record.read_text()
    assert dag_folder.jobs() == set()


def test_a_group_that_still_collects_is_left_alone(dag_folder):
    dag_folder.add_night(0)
    *_, waiting = dag_folder.add_night(1, tiles=3)
    dag_folder.groups[waiting]["state"] = "collecting"
    assert waiting not in {job[1] for job in dag_folder.jobs()}


def test_status_tells_state_and_progress_of_each_group(season):
    calibrator, *_ = season.nights[0]
    *_, waiting = season.add_night(2)
    season.groups[waiting] |= {"state": "collecting", "dec_app_deg": None, "reasons": ["absent"]}
    done = season.contimg("status")
    assert done.returncode == 0, done.stderr
    listed = [line for line in done.stdout.splitlines() if line.startswith("2026-")]
    lines = {line.split()[1]: line for line in listed}
    assert len(lines) == 9
    assert "measured    16 subbands  dec +33.30  transit of 3C48" in lines[calibrator]
    assert "collecting" in lines[waiting] and lines[waiting].endswith("absent")
    assert "3 open nights (2 ready" in done.stdout or "(1 collecting" in done.stdout


def test_clean_lists_before_it_deletes_and_spares_running_jobs(season):
    mine = beside(season.path / "results/nights" / NIGHT / "mosaic.fits")
    left = mine.with_name(mine.name.replace(str(os.getpid()), "999999999"))
    for path in (left, mine):
        path.write_text("half")
    assert left.name in season.contimg("clean").stdout
    assert left.exists()
    assert "1 left-overs removed" in season.contimg("clean", "--yes").stdout
    assert mine.exists() and not left.exists()


def test_a_run_records_how_it_went(season):
    *_, target = season.nights[0]
    (season.path / season.layout.group(target, "ms.json")).unlink()
    command = (
        "run",
        "--cores",
        "2",
        "--config",
        "flagging={engine: none}",
        "imaging={engine: tclean}",
    )
    jobs = season.jobs(*command[3:])
    done = season.contimg(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = runs.read_runs(season.path / "results")
    assert (record["exit_status"], record["jobs_failed"]) == (0, 0)
    assert record["jobs_done"] == len(jobs)
    assert season.contimg(*command).returncode == 0  # nothing to do, nothing to record
    assert runs.read_runs(season.path / "results") == [record]


def test_a_run_gathers_all_pages_in_one_file_when_asked(season):
    """Two nights and the candidates, with their captions; nothing is fetched from elsewhere."""
    command = ("run", "--config", "flagging={engine: none}", "imaging={engine: tclean}")
    done = season.contimg(*command, "--report")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "report: results/workflow-report.html"
    text = (season.path / "results/workflow-report.html").read_text()
    for words in ("Nights", "Variable sources", "verdict with its reasons", "thresholds for"):
        assert words in text, words
    assert text.count("report.html") >= 2
    assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']https?:""", text)
    assert not list(season.path.glob("results/.tmp-*"))


def test_two_ticks_do_not_meet(season):
    with open(season.path / "results/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = season.contimg("tick", "--config", "flagging={engine: none}")
    assert done.returncode == 5
    assert "another run is at work" in done.stderr


def test_a_tick_does_what_is_ready_also_after_a_killed_run(season):
    new = season.add_night(2)
    # What a killed Snakemake leaves: its lock, and the mark of a job in flight.
    locks = season.path / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    group = str(season.layout.group(new[0], "hdf5"))
    (locks / "0.input.lock").write_text(group + "\n")
    (locks / "0.output.lock").write_text(group + "\n")
    assert season.snakemake("--cores", "1").returncode == 1
    done = season.contimg("tick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert season.jobs() == set()


def test_the_workflows_report_holds_what_there_is(season):
    """Pages that could not be made are left out; what was made is in it, with captions."""
    other = season.nights[1][0]
    other_night = f"{other[:4]}-{other[4:6]}-{other[6:8]}"
    page = season.path / season.layout.night(NIGHT, "report.html")
    page.write_text("<p>the page of a night</p>")
    for lost in (
        season.layout.night(other_night, "report.html"),
        season.layout.night(other_night, "mosaic.fits"),
        season.layout.lightcurves("candidates.csv"),
        season.layout.lightcurves("lightcurves.parquet"),
    ):
        (season.path / lost).unlink()
    done = season.snakemake("--report", "all.html")
    assert done.returncode == 0, done.stderr
    text = (season.path / "all.html").read_text()
    assert base64.b64encode(page.read_bytes()).decode() in text
    assert NIGHT in text and f'"night": "{other_night}"' not in text
    assert "verdict with its reasons" in text  # the caption
    assert "Continuum imaging of the DSA-110" in text
    assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']https?:""", text)
