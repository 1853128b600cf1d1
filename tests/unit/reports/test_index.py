"""The index holds what the products say, no more and no less."""

import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from dsa110_contimg import cli
from dsa110_contimg.core import runs
from dsa110_contimg.core.errors import DataError
from dsa110_contimg.core.figures import FIGURES
from dsa110_contimg.core.files import write_text
from dsa110_contimg.core.options import Config
from dsa110_contimg.reports import index as index_module
from support import REPO
from support.fake_results import make_results, write_failure
from support.steps import run_step


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("fake") / "results", size=32, tables=False)


@pytest.fixture(scope="module")
def db(fake):
    out = fake.root / "index.sqlite"
    assert run_step("index", str(fake.root), str(out)) == 0
    return index_module.open_index(out)


def one(db, sql, *values):
    return db.execute(sql, values).fetchone()[0]


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_measurement_on_disk_is_in_it_once(fake, db):
    tables = [*fake.root.glob("nights/*/groups/*/*.photometry.csv")]
    tables += fake.root.glob("nights/*/photometry.csv")
    truth = [row for table in tables for row in rows_of(table)]
    assert one(db, "SELECT count(*) FROM measurements") == len(truth)
    assert one(db, "SELECT sum(n_measurements) FROM folders") == len(truth)
    total = sum(float(r["flux_jy"]) for r in truth)
    assert one(db, "SELECT sum(flux_jy) FROM measurements") == pytest.approx(total)
    limits = sum(bool(r["upper_limit_jy"]) for r in truth)
    assert one(db, "SELECT count(upper_limit_jy) FROM measurements") == limits
    assert one(db, "SELECT count(*) FROM sources") == len({r["source_id"] for r in truth})


def test_every_group_image_and_product_is_in_it(fake, db):
    images = list(fake.root.glob("nights/*/groups/*/*.image.fits.json"))
    assert one(db, "SELECT count(*) FROM images") == len(images)
    assert one(db, "SELECT count(*) FROM groups") == len(list(fake.root.glob("nights/*/groups/*")))
    assert one(db, "SELECT count(*) FROM images WHERE verdict = 'fail'") == 1
    steps = [json.loads(p.read_text()).get("step") for p in fake.root.rglob("*.json")]
    made = len([step for step in steps if step in FIGURES])
    assert one(db, "SELECT count(*) FROM products") == made
    chosen = one(db, "SELECT DISTINCT calibration_id FROM images WHERE group_id LIKE '20260121%'")
    assert chosen == fake.groups[fake.nights[0]][0]


def test_the_variable_source_is_the_first_candidate(fake, db):
    assert one(db, "SELECT source_id FROM candidates WHERE rank = 1") == fake.variable
    assert one(db, "SELECT max(eta) FROM sources") == one(
        db, "SELECT eta FROM sources WHERE source_id = ?", fake.variable
    )


def test_foreign_keys_hold_and_every_column_is_documented(db):
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    for table in index_module.TABLES:
        names = [r["name"] for r in db.execute(f"PRAGMA table_info({table})")]
        documented = db.execute(
            "SELECT column_name, meaning FROM columns WHERE table_name = ? AND column_name != ''",
            [table],
        ).fetchall()
        assert names == [r["column_name"] for r in documented]
        assert all(r["meaning"] for r in documented)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM measurements WHERE source_id = 'x' ORDER BY mjd",
        "SELECT * FROM measurements WHERE group_id = 'x'",
        "SELECT * FROM images WHERE calibration_id = 'x'",
        "SELECT * FROM inputs WHERE input = 'x'",
        "SELECT * FROM sources WHERE name = 'x'",
    ],
)
def test_common_questions_use_an_index(db, sql):
    plan = " ".join(r["detail"] for r in db.execute("EXPLAIN QUERY PLAN " + sql))
    assert "USING INDEX" in plan and "SCAN" not in plan and "TEMP B-TREE" not in plan


def contents(path):
    """All rows of all tables but the facts about the index itself, in no order."""
    with closing(index_module.open_index(path)) as db:
        return {
            table: sorted(map(repr, map(tuple, db.execute(f"SELECT * FROM {table}"))))
            for table in index_module.TABLES
            if table != "meta"
        }


def test_rebuilding_gives_the_same_rows_and_replaces_the_file_whole(fake, db, tmp_path):
    out = tmp_path / "index.sqlite"
    out.write_bytes(b"an old index, or whatever else lay here")
    index_module.build_index(fake.root, out)
    assert contents(out) == contents(fake.root / "index.sqlite")
    assert [p.name for p in tmp_path.iterdir()] == ["index.sqlite"]


def test_bringing_it_up_to_date_gives_the_rows_of_a_rebuild(fake, db, tmp_path, monkeypatch):
    results, out, fresh = tmp_path / "results", tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    first, second = fake.nights
    shutil.copytree(fake.root / "nights" / first, results / "nights" / first)
    index_module.build_index(results, out)

    def same():
        index_module.build_index(results, out)
        index_module.build_index(results, fresh, rebuild=True)
        assert contents(out) == contents(fresh)
        return contents(out)

    shutil.copytree(fake.root / "nights" / second, results / "nights" / second)  # a night comes
    shutil.copytree(fake.root / "lightcurves", results / "lightcurves")
    both = same()
    assert both == contents(fake.root / "index.sqlite")

    group = fake.groups[first][1]  # a tile is measured again, with one source less
    table = results / "nights" / first / "groups" / group / f"{group}.photometry.csv"
    lines = table.read_text().splitlines()
    write_text(table, "\n".join(lines[:-1]) + "\n")  # as steps do: renamed into its place
    assert len(same()["measurements"]) == len(both["measurements"]) - 1

    read = []
    honest = index_module._night
    monkeypatch.setattr(
        index_module, "_night", lambda db, f, k: read.append(f.name) or honest(db, f, k)
    )
    index_module.build_index(results, out)
    assert read == []  # nothing changed, nothing read
    (results / "nights" / second / "groups" / fake.groups[second][0]).rename(tmp_path / "gone")
    index_module.build_index(results, out)
    assert read == [second]
    monkeypatch.undo()
    same()
    shutil.rmtree(results / "nights" / second)  # a night goes; so do sources seen only then
    rest = same()
    assert all(second not in row for row in rest["qa"] + rest["mosaics"] + rest["folders"])


def test_of_a_closed_night_only_its_own_files_are_looked_at(fake, tmp_path):
    results, night = tmp_path / "results", fake.nights[0]
    folder = results / "nights" / night
    shutil.copytree(fake.root / "nights" / night, folder)
    group = folder / "groups" / fake.groups[night][0]

    def changes(action):
        before = index_module._fingerprints(results)[night]
        action()
        return index_module._fingerprints(results)[night] != before

    assert changes(lambda: write_text(group / "new.json", "{}"))
    assert changes(lambda: write_text(folder / "closed.json", "{}"))
    assert not changes(lambda: write_text(group / "other.json", "{}"))
    assert changes(lambda: write_text(folder / "purged.json", "{}"))  # data were purged
    assert changes((folder / "closed.json").unlink)  # opened again
    assert changes(lambda: shutil.rmtree(group))


def test_failures_come_and_go(fake, tmp_path):
    results, out, fresh = tmp_path / "results", tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    shutil.copytree(fake.root / "nights", results / "nights")
    night = fake.nights[1]
    group, bare = fake.groups[night][4], "20260122T235900"
    folder = results / "nights" / night
    write_failure(folder / "groups" / group / "failure.json", "image", {"group": group})
    index_module.build_index(results, out)
    with index_module.open_index(out) as db:
        (row,) = db.execute("SELECT * FROM failures")
        assert (row["night"], row["group_id"], row["rule"]) == (night, group, "image")
        assert (row["cause"], row["state"], row["attempts"]) == ("compute", "quarantined", 3)
        assert "WSClean was killed" in one(
            db, "SELECT reasons FROM groups WHERE group_id = ?", group
        )

    # A group of which nothing could be made, its calibration, the night, and all nights together.
    write_failure(folder / "groups" / bare / "failure.json", "group", {"group": bare}, cause="data")
    write_failure(
        folder / "groups" / group / "failure.calibrate.json", "calibrate", {"group": group}
    )
    write_failure(folder / "failure.json", "hour_mosaic", {"night": night, "hour": "22"})
    write_failure(results / "failure.json", "lightcurves", {}, state="waiting")
    index_module.build_index(results, out)
    index_module.build_index(results, fresh, rebuild=True)
    assert contents(out) == contents(fresh)
    with index_module.open_index(out) as db:
        found = db.execute("SELECT rule, night, group_id, hour FROM failures ORDER BY rule")
        assert [tuple(row) for row in found] == [
            ("calibrate", night, group, None),
            ("group", night, bare, None),
            ("hour_mosaic", night, None, "22"),
            ("image", night, group, None),
            ("lightcurves", None, None, None),
        ]
    for path in results.rglob("failure*.json"):
        path.unlink()
    index_module.build_index(results, out)
    assert contents(out)["failures"] == []


def test_long_lists_stay_in_the_sidecars():
    qa = {"rms_jy": 1.0, "flags": {"by_channel": [0.0] * 768, "share": 0.1}, "short": [1, 2]}
    assert index_module.brief(qa) == {"rms_jy": 1.0, "flags": {"share": 0.1}, "short": [1, 2]}


def record_run(results, failing=False):
    """Record a run of three jobs, of which one fails, or none."""
    with runs.recorded(Config(results=results), "run", ["2026-01-25"]) as record:
        with open(os.environ[runs.EVENTS], "a") as events:
            for end in ("done", "done", "failed" if failing else "done"):
                events.write(json.dumps({"end": end, "rule": "group"}) + "\n")
        record["exit_status"] = int(failing)
    return record


def test_a_run_has_a_row_while_it_works_and_when_it_has_ended(tmp_path):
    results, out, fresh = tmp_path / "results", tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    with runs.recorded(Config(results=results), "tick", []) as record:
        index_module.build_index(results, out)
        with open(os.environ[runs.EVENTS], "a") as events:
            events.write(json.dumps({"end": "done", "rule": "index"}) + "\n")
        record["exit_status"] = 0
    (row,) = index_module.open_index(out).execute("SELECT * FROM runs")
    assert (row["command"], row["ended_utc"], row["jobs_done"]) == ("tick", None, None)

    index_module.build_index(results, out)  # brought up to date: the same row, ended
    index_module.build_index(results, fresh, rebuild=True)
    assert contents(out) == contents(fresh)
    (row,) = index_module.open_index(out).execute("SELECT * FROM runs")
    assert (row["exit_status"], row["jobs_done"], row["jobs_failed"]) == (0, 1, 0)
    assert row["started_utc"] <= row["ended_utc"]
    assert "snakemake" in json.loads(row["versions"])


def test_a_failed_run_says_so_and_an_idle_one_leaves_no_trace(tmp_path):
    record = record_run(tmp_path, failing=True)
    assert runs.read_runs(tmp_path) == [record]
    assert (record["exit_status"], record["jobs_done"], record["jobs_failed"]) == (1, 2, 1)
    with runs.recorded(Config(results=tmp_path), "run", []) as idle:
        idle["exit_status"] = 0
    assert runs.read_runs(tmp_path) == [record]
    other = Config(results=tmp_path, imaging={"robust": 0.25})
    with pytest.raises(KeyboardInterrupt), runs.recorded(other, "run", []):
        raise KeyboardInterrupt
    stopped = next(r for r in runs.read_runs(tmp_path) if r["exit_status"] is None)
    assert stopped["ended_utc"]
    assert stopped["config_sha256"] != record["config_sha256"]


def test_a_failed_build_leaves_the_old_index(fake, tmp_path, monkeypatch):
    out = tmp_path / "index.sqlite"
    index_module.build_index(fake.root, out)
    before = out.read_bytes()
    monkeypatch.setattr(index_module, "_runs", lambda *_: 1 / 0)
    for rebuild in (False, True):
        with pytest.raises(ZeroDivisionError):
            index_module.build_index(fake.root, out, rebuild)
        assert out.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["index.sqlite"]


def test_a_killed_update_is_taken_back(fake, tmp_path):
    """A process that dies within the transaction leaves a journal; the next one uses it."""
    results, out = tmp_path / "results", tmp_path / "index.sqlite"
    first, second = fake.nights
    shutil.copytree(fake.root / "nights" / first, results / "nights" / first)
    index_module.build_index(results, out)
    before = contents(out)
    shutil.copytree(fake.root / "nights" / second, results / "nights" / second)
    program = f"""
import os, pathlib
from dsa110_contimg.reports import index
index._CACHE_KB, index._runs = 8, lambda *_: os._exit(9)
index.build_index(pathlib.Path({str(results)!r}), pathlib.Path({str(out)!r}))
"""
    whole = out.read_bytes()
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert out.read_bytes() != whole  # half of the update is in the file
    with closing(sqlite3.connect(out)) as db:
        assert db.execute("SELECT count(*) FROM qa").fetchone() == (1,)
    assert contents(out) == before
    index_module.build_index(results, out)
    index_module.build_index(results, tmp_path / "fresh.sqlite", rebuild=True)
    assert contents(out) == contents(tmp_path / "fresh.sqlite")


def test_nights_may_come_late_and_be_replaced(fake, tmp_path):
    """In whatever order nights come and change, the rows are those of a rebuild."""
    results, out, fresh = tmp_path / "results", tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    first, second = fake.nights
    shutil.copytree(fake.root / "nights" / second, results / "nights" / second)
    shutil.copytree(fake.root / "lightcurves", results / "lightcurves")
    index_module.build_index(results, out)
    shutil.copytree(fake.root / "nights" / first, results / "nights" / first)  # a night before it
    index_module.build_index(results, out)
    index_module.build_index(results, fresh, rebuild=True)
    assert contents(out) == contents(fresh) == contents(fake.root / "index.sqlite")

    # The first night is replaced by another of the same date: other groups, other fluxes.
    other = make_results(tmp_path / "other", n_nights=1, n_tiles=4, size=32, tables=False)
    assert other.nights == [first]
    shutil.rmtree(results / "nights" / first)
    shutil.copytree(other.root / "nights" / first, results / "nights" / first)
    index_module.build_index(results, out)
    index_module.build_index(results, fresh, rebuild=True)
    assert contents(out) == contents(fresh) != contents(fake.root / "index.sqlite")


def test_a_borrowed_calibration_whose_night_is_gone_is_kept_as_absent(fake, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(fake.root / "nights" / fake.nights[0], results / "nights" / fake.nights[0])
    elsewhere = "20251224T010203"
    for path in results.rglob("*.calibration.json"):
        path.write_text(json.dumps({"chosen": elsewhere, "borrowed": True, "reasons": []}))
    index_module.build_index(results, tmp_path / "index.sqlite")
    with index_module.open_index(tmp_path / "index.sqlite") as db:
        assert one(db, "SELECT verdict FROM calibrations WHERE group_id = ?", elsewhere) == "absent"
        assert one(db, "SELECT count(*) FROM images WHERE calibration_id = ?", elsewhere) == 9


def test_readers_cannot_write(db):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM qa")


def test_wrong_files_are_told_plainly(tmp_path):
    with pytest.raises(DataError, match="no index; make it with"):
        index_module.open_index(tmp_path / "index.sqlite")
    (tmp_path / "index.sqlite").write_bytes(b"not a database, but long enough to look at" * 9)
    with pytest.raises(DataError, match="no readable index"):
        index_module.open_index(tmp_path / "index.sqlite")
    with pytest.raises(DataError, match="no such folder"):
        index_module.build_index(tmp_path / "nowhere", tmp_path / "out.sqlite")


# --- lineage and recall ---------------------------------------------------------------------------


def test_lineage_and_recall_are_each_others_inverse(db):
    paths = [r[0] for r in db.execute("SELECT path FROM products")]
    up = {(a, r["path"]) for a in paths for r in index_module.lineage(db, a)}
    down = {(r["path"], b) for b in paths for r in index_module.recall(db, b)}
    assert {(a, b) for a, b in up if b in set(paths)} == down
    assert len(up) > 5 * len(paths) / 2


def test_a_light_curve_point_leads_back_to_its_group(fake, db):
    group = fake.groups[fake.nights[0]][3]
    source = one(db, "SELECT source_id FROM measurements WHERE group_id = ? LIMIT 1", group)
    table = index_module.measurement_product(db, source, group)
    steps = [r["step"] for r in index_module.lineage(db, table)]
    assert steps == ["photometry", "image", "apply", "convert", "group"]
    nightly = index_module.measurement_product(db, source, fake.nights[0])
    assert nightly == f"nights/{fake.nights[0]}/photometry.csv"
    with pytest.raises(DataError, match="no measurement at"):
        index_module.measurement_product(db, source, "1999-01-01")


def test_recall_command_lists_what_a_group_became(fake, db, capsys):
    group = fake.groups[fake.nights[0]][1]
    out = str(fake.root / "index.sqlite")
    assert cli.main(["recall", "--index", out, f"{group}.ms"]) == 0
    shown = capsys.readouterr().out
    for product in (f"{group}.ms", f"{group}.image.fits", f"{group}.photometry.csv", "mosaic.fits"):
        assert product in shown
    assert cli.main(["recall", "--index", out, "nothing.ms"]) == 3
    assert "no product and no input" in capsys.readouterr().err


def test_paths_are_known_wherever_the_results_lie():
    short = "nights/2026-01-25/mosaic.fits"
    assert {index_module.below(p) for p in (short, "results/" + short, "/data/r/" + short)} == {
        short
    }
    raw = "2026-01-25T22:00:00_sb00.hdf5"
    assert {index_module.below(p) for p in (raw, "in/" + raw, "/data/in/" + raw)} == {
        "incoming/" + raw
    }
    assert index_module.below("/data/catalog.csv") == "/data/catalog.csv"


def documented_queries():
    text = (REPO / "docs" / "handbook" / "reports.md").read_text()
    return re.findall(r"```sql\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("query", documented_queries())
def test_documented_queries_give_rows_quickly(fake, db, query):
    source = fake.sources[0]
    values = {"source": source["source_id"], "ra": source["ra_deg"], "dec": source["dec_deg"]}
    rows = db.execute(query, values).fetchall()
    if not {"borrowed", "runs", "failures"} & set(query.split()):
        assert rows  # nothing was borrowed here, nothing run, nothing broke
    if ":ra" in query:
        assert [r["source_id"] for r in rows] == [source["source_id"]]
    plan = [r["detail"] for r in db.execute("EXPLAIN QUERY PLAN " + query, values)]
    assert not any(re.match("SCAN (measurements|sources|inputs)", step) for step in plan), plan


def test_the_index_may_be_a_link(fake, tmp_path):
    """As in a results folder, where the link is what Snakemake may delete."""
    link = tmp_path / "index.sqlite"
    link.symlink_to(".index.sqlite")
    for rebuild in (True, False, True):
        index_module.build_index(fake.root, link, rebuild)
        assert link.is_symlink()
        assert contents(link) == contents(fake.root / "index.sqlite")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".index.sqlite", "index.sqlite"]
