"""Row: state depends on the folder one stands in | it does not."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from support import REPO
from support.night import Operations, raw_groups

VALUES = ("inventory={wait_s: 0}", "operations={close_after_s: 0, min_free_gb: 0.1}")
#: Where a command is given from, and whether it names everything by its full path.
PLACES = (("", False), ("elsewhere/deep", False), ("elsewhere", True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished night of one tile, made from a folder inside, with a link to its results."""
    made = Operations.make(tmp_path_factory.mktemp("finished") / "data")
    raw_groups(made.incoming, 1)
    (made.path / "elsewhere/deep").mkdir(parents=True)
    contimg(made, "run", "elsewhere/deep")
    return made


@pytest.fixture
def night(finished, tmp_path):
    """The same, to be worked on. The stand-ins for steps are those of the first."""
    shutil.copytree(finished.path, tmp_path / "data")
    return Operations(tmp_path / "data")


def call(night, program, place, *more, full=False, results=None):
    """Run a program on the night from some folder of it; return what it printed."""
    here = night.path / place

    def named(path):
        return str(path) if full else os.path.relpath(path, here)

    values = [
        f"incoming={named(night.incoming)}",
        f"results={named(results or night.results)}",
        f"catalog={named(night.path / 'demo/catalog.csv')}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", *program, "--config", *values, *VALUES, *more],
        cwd=here,
        env=night.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def contimg(night, command, place, *more, **how):
    return call(night, ("dsa110_contimg", *command.split()), place, *more, **how)


def steps(night):
    return [job.split()[0] for kind, job in night.ledger() if kind == "begin"]


def test_a_second_run_from_anywhere_finds_nothing_to_do(night, tmp_path):
    made = steps(night)
    assert "lightcurves" in made
    for place, full in PLACES:
        contimg(night, "run", place, full=full)
        assert steps(night) == made, place
    link = tmp_path / "link"
    link.symlink_to(night.results)
    contimg(night, "run", "", full=True, results=link)
    assert steps(night) == made, "by another name of the results folder"
    folders = {night.path / place for place, _ in PLACES}
    assert [f for f in folders if (f / ".snakemake").exists()] == [night.path]


@pytest.mark.parametrize(("place", "full"), PLACES)
def test_a_changed_option_is_noticed_from_anywhere(night, place, full):
    made = steps(night)
    contimg(night, "run", place, "photometry={upper_limit_sigma: 4}", full=full)
    again = steps(night)[len(made) :]
    assert again.count("photometry") == 2, "the tile and the night"
    assert not {"group", "convert", "calibrate", "apply", "image"} & set(again)


def test_plain_snakemake_keeps_the_same_state(night):
    made = steps(night)
    snakefile = ("snakemake", "--cores", "2", "--snakefile", str(REPO / "Snakefile"))
    for place, full in PLACES[:2]:
        call(night, snakefile, place, full=full)
        assert steps(night) == made, place
    call(night, snakefile, "elsewhere", "photometry={upper_limit_sigma: 4}")
    assert "photometry" in steps(night)[len(made) :]


def test_a_file_is_named_as_from_where_one_stands(night):
    (table,) = night.results.rglob("groups/*/*.photometry.csv")
    table.unlink()
    made = steps(night)
    contimg(night, f"run ../../{table.relative_to(night.path)}", "elsewhere/deep")
    assert steps(night)[len(made) :] == ["photometry"]


@pytest.mark.parametrize("command", ["status --json", "purge", "clean"])
def test_what_is_known_is_the_same_from_anywhere(night, command):
    told = [contimg(night, command, place, full=full) for place, full in PLACES]
    told = ["".join(filter(has_no_time, text.splitlines())) for text in told]
    assert told[0] and set(told) == {told[0]}


def has_no_time(line):
    age = re.search(r'"\d{4}-\d\d-\d\d": \d', line)  # of a night that does not close
    return not age and not any(word in line for word in ("_utc", "_s", "_h", "free", "ratio"))


def test_results_without_a_folder_to_hold_them_are_refused(night):
    done = subprocess.run(
        [sys.executable, "-m", "dsa110_contimg", "run", "--config", "results=no/such/place"],
        cwd=night.path,
        env=night.env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "there is no folder" in done.stderr
