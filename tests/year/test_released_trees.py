"""Deliver: versioned sidecars, index and configuration with migrations, tested from every released
version. Nothing of a closed night is remade because the release is another.
"""

import json
import sqlite3
import subprocess
from contextlib import closing

import pytest

from dsa110_contimg import __version__
from dsa110_contimg.reports import index
from support.night import raw_groups
from support.released import NIGHT, VERSIONS, bring_raw, unfold

#: Written at each look, or with the record of the release.
LOOKS = ("inventory.json", "metrics.prom", "release.json")


@pytest.fixture(params=VERSIONS)
def tree(request, tmp_path):
    return unfold(request.param, tmp_path / "work")


def products(operations):
    """Return the digests of all products, and when each was written."""
    return {
        name: (digest, (operations.results / name).stat().st_mtime_ns)
        for name, digest in operations.products().items()
        if name not in LOOKS
        and not name.startswith("configurations/")
        and not name.endswith("records.json.gz")  # what Snakemake noted, put away
    }


def run(operations, *arguments):
    done = subprocess.run(
        arguments, cwd=operations.path, env=operations.env, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def contimg(operations, *arguments):
    program, *_ = operations.command()
    return run(operations, program, "-m", "dsa110_contimg", *arguments)


def test_every_release_is_there():
    assert {"0.1.0", "0.2.0"} <= set(VERSIONS)


@pytest.mark.parametrize("raw", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_tick_leaves_the_closed_night_as_it_is(tree, raw):
    """With the raw files that it was made from, and without."""
    if raw:
        bring_raw(tree)
    before = products(tree)
    status, output = tree.call("tick")
    assert status == 0, output
    assert "left no record of its code" in output
    assert tree.ledger() == []
    assert products(tree) == before
    assert tree.call("tick") == (0, "")
    assert json.loads((tree.results / "release.json").read_text())["release"]["version"]


def test_a_raw_file_that_went_is_no_news_and_the_status_is_told(tree):
    *_, last = bring_raw(tree)
    last.unlink()
    status, output = tree.call("status", "--json")
    assert status == 0, output
    state = json.loads(output[output.index("{") :])
    assert (state["nights"]["open"], state["nights"]["closed"]) == ([], 1), output
    assert not state["trouble"], output


@pytest.mark.slow
def test_a_new_night_is_made_beside_the_old_one(tree):
    before = {
        name: made for name, made in products(tree).items() if name.startswith(f"nights/{NIGHT}")
    }
    raw_groups(tree.incoming, 2)
    status, output = tree.call("tick")
    assert status == 0, output
    begun = [job.split()[0] for what, job in tree.ledger() if what == "begin"]
    assert begun.count("convert") == begun.count("image") == 2 and "lightcurves" in begun
    assert not [job for _, job in tree.ledger() if f"nights/{NIGHT}/groups" in job]
    after = products(tree)
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_pages_and_exports_are_written(tree):
    status, output = contimg(tree, "report", "results")
    assert status == 0 and "1 nights" in output, output
    status, output = contimg(tree, "export", "--help")
    assert status == 0, output


@pytest.mark.parametrize("schema", ["99", pytest.param("as it was", marks=pytest.mark.slow)])
def test_the_index_is_made_anew_by_who_wants_it(tree, schema):
    path = tree.results / "index.sqlite"
    if schema == "99":
        with closing(sqlite3.connect(path.resolve())) as db, db:
            db.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    status, output = contimg(tree, "lineage", "--index", str(path), f"nights/{NIGHT}/mosaic.fits")
    assert status == 0 and "_sb00.hdf5" in output, output
    assert "schema" in output and "made anew" in output
    status, output = contimg(tree, "recall", "--index", str(path), "2026-02-03T00:37:06_sb00.hdf5")
    assert status == 0 and "mosaic.fits" in output and "made anew" not in output
    with closing(sqlite3.connect(path)) as db:
        (version,) = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        assert version == str(index.SCHEMA_VERSION)
        assert db.execute("SELECT count(*) FROM measurements").fetchone()[0] > 10


@pytest.mark.slow
def test_a_sidecar_of_a_newer_release_is_read(tree):
    """What is not known is passed over, wherever it stands."""
    for path in tree.results.glob(f"nights/{NIGHT}/**/*.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"schema": 99, "newer": {"than": "this"}}))
        if "qa" in content:
            content["qa"]["newer"] = 1
            path.write_text(json.dumps(content | {"schema": 99, "newer": {"than": "this"}}))
    before = products(tree)
    status, output = tree.call("tick")
    assert status == 0, output
    assert tree.ledger() == [] and products(tree) == before
    path = tree.results / "index.sqlite"
    status, output = contimg(tree, "lineage", "--index", str(path), f"nights/{NIGHT}/mosaic.fits")
    assert status == 0 and "_sb00.hdf5" in output, output


def test_a_renamed_key_is_translated_and_said_once(tmp_path, monkeypatch, capsys):
    from dsa110_contimg import cli
    from dsa110_contimg.core import config

    monkeypatch.chdir(tmp_path)
    (tmp_path / "incoming").mkdir()
    monkeypatch.setattr(config, "RENAMED", {"inventory.patience_s": "inventory.wait_s"})
    cli.main(["clean", "--config", "results=results", "inventory={patience_s: 7}"])
    told = capsys.readouterr().err
    assert told.count("inventory.patience_s is called inventory.wait_s now; taken as that") == 1
    loaded = config.load_config({"inventory": {"patience_s": 7}})
    assert loaded.inventory.wait_s == 7
    both = config.load_config({"inventory": {"patience_s": 7, "wait_s": 8}})
    assert both.inventory.wait_s == 8


def test_keys_of_a_newer_release_are_left_out_where_the_file_says_so():
    from dsa110_contimg.core.config import load_config, migrate
    from dsa110_contimg.core.errors import ConfigError

    newer = {"imaging": {"robust": 0.1, "beyond": 1}, "horizon": {"x": 1}}
    with pytest.raises(ConfigError, match="no such key"):
        load_config(newer)
    with pytest.raises(ConfigError, match="no such key"):
        load_config(newer | {"release": __version__})
    loaded = load_config(newer | {"release": "99.1"})
    assert loaded.imaging.robust == 0.1
    notes = migrate(newer | {"release": "99.1"})[1]
    assert len(notes) == 2 and all(f"not known to release {__version__}" in n for n in notes)
