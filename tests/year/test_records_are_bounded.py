"""Row: `.snakemake/metadata`, logs and run records grow for ever; the light-curve command line
passes the system's limit at 2,390 nights | bounded, pruned; lists by file.
"""

import datetime as dt
import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.operations import closing, notes
from support import REPO
from support.dag_folder import DagFolder

NIGHT = "2026-02-10"
LAYOUT = Layout(Path("results"))


@pytest.fixture(scope="module")
def finished_season(tmp_path_factory):
    """Two finished nights of two tiles, the first of them closed."""
    folder = DagFolder.make(tmp_path_factory.mktemp("season"))
    folder.nights = [folder.add_night(0, tiles=2), folder.add_night(1, tiles=2)]
    done = folder.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def season(finished_season, tmp_path, monkeypatch):
    folder = finished_season.copy(tmp_path / "season")
    monkeypatch.chdir(folder.path)
    return folder


def loose():
    """Return the names of the products that Snakemake has a record of, and of what was begun."""
    return {kind: {name for name, _ in notes._records(notes.STATE / kind)} for kind in notes.KINDS}


def test_a_closed_night_has_one_file_of_records(season):
    before = loose()["metadata"]
    assert f"results/nights/{NIGHT}/mosaic.fits" in before
    assert notes.pack(LAYOUT, [NIGHT]) > 60
    after = loose()["metadata"]
    assert after == {name for name in before if f"/{NIGHT}/" not in name}
    assert notes.pack_of(LAYOUT, NIGHT).stat().st_size < 40_000
    assert notes.pack(LAYOUT, [NIGHT]) == 0
    notes.unpack(LAYOUT, [NIGHT])
    assert loose()["metadata"] == before


@pytest.mark.parametrize("option", ["", "imaging={robust: 0.0}"])
def test_a_night_that_is_opened_again_notices_changed_options(season, option):
    """As it would have, had its records stayed."""
    options = ("--config", option) if option else ()
    expected = season.jobs(*options)
    notes.pack(LAYOUT, [NIGHT, "2026-02-11"])
    assert season.jobs(*options) == expected
    assert bool(expected) == bool(option)


def test_a_later_record_counts_more_than_a_packed_one(season):
    notes.pack(LAYOUT, [NIGHT])
    mine = next(iter(notes._read(LAYOUT, NIGHT)["metadata"]))
    path = notes._path(notes.STATE / "metadata", str(LAYOUT.night(NIGHT, mine)))
    path.write_text('{"rule": "later"}')
    notes.unpack(LAYOUT, [NIGHT])
    assert path.read_text() == '{"rule": "later"}'
    notes.pack(LAYOUT, [NIGHT])
    assert notes._read(LAYOUT, NIGHT)["metadata"][mine] == '{"rule": "later"}'


def test_names_are_those_of_snakemake(tmp_path):
    """Also those that are too long for one file name."""
    from snakemake.persistence.file import FilePersistence

    for length in (1, 60, 190, 191, 192, 400):
        name = f"results/nights/{NIGHT}/" + "x" * length
        store = FilePersistence(path=tmp_path / str(length))
        store._io_write(store._metadata_path, {"rule": "r"}, name)
        (found,) = notes._records(Path(store._metadata_path))
        assert found[0] == name
        assert notes._path(Path(store._metadata_path), name) == found[1]


def test_ticks_put_away_what_is_closed_and_old_logs(season):
    closing.write(LAYOUT, closing.ClosedNight(NIGHT, "2026-02-12T00:00:00+00:00", {}))
    old = notes.STATE / "log" / "2020-01-01T000000.000000.snakemake.log"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    os.utime(old, (time.time() - 91 * 86400,) * 2)
    done = season.contimg("tick", "--config", "operations={min_free_gb: 0, close_after_s: 1e9}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not old.exists()
    assert notes.pack_of(LAYOUT, NIGHT).is_file()
    assert not any(f"/{NIGHT}/" in name for name in loose()["metadata"])


def test_the_command_line_of_ten_years(dag_of_many_nights):
    """Snakemake hands a command to a shell as one word, which may have 128 kB."""
    folder, nights = dag_of_many_nights
    done = folder.snakemake("--cores", "1", "results/lightcurves/candidates.csv", "--quiet", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    tables = (folder.path / "results/.frozen/photometry.list").read_text().splitlines()
    assert len(tables) == len(nights) == 3650
    assert len(shlex.join(tables)) > 131_072


@pytest.fixture
def dag_of_many_nights(tmp_path):
    """Closed nights, of which only the measurements are left."""
    folder = DagFolder.make(tmp_path)
    nights = [str(dt.date(2026, 1, 1) + dt.timedelta(days=day)) for day in range(3650)]
    for night in nights:
        place = tmp_path / folder.layout.night(night)
        place.mkdir(parents=True)
        for name in ("photometry.csv", "mosaic.fits"):
            (place / name).write_text(night)
            (place / f"{name}.json").write_text("{}")
        (place / "qa.json").write_text("{}")
        closed = {"night": night, "closed_utc": "2037-01-01T00:00:00+00:00", "groups": {}}
        (place / "closed.json").write_text(json.dumps(closed))
    return folder, nights


def test_a_step_takes_arguments_from_a_file(tmp_path):
    """And its log and sidecar tell them."""
    script = REPO / "workflow/scripts/lightcurves.py"
    names = tmp_path / "names"
    names.write_text("no 1.csv\nno 2.csv\n")
    command = ["python", str(script), "out", "--arguments-from", str(names)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "no 1.csv" in done.stderr
    names.unlink()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "No such file" in done.stderr
