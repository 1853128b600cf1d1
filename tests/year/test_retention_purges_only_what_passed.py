"""Row: retention purges failed tiles and, with ``--raw``, raw files of tiles that failed or whose
better copy was never used. Wanted: only what passed, only what the sidecar's size and time still
match, checksummed archive first.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from dsa110_contimg.core.layout import Layout
from support.night import Operations, raw_groups

NIGHT = "2026-02-10"
RETENTION = "retention={ms_days: 0, calibrator_ms_days: 0, maps_days: 0, raw_days: 0}"


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """Return a night of four tiles that was closed: one failed, one has a better copy."""
    operations = Operations.make(tmp_path_factory.mktemp("retention") / "work")
    raw_groups(operations.incoming, 4)
    status, output = operations.call("tick")
    assert status == 0, output
    return operations


@pytest.fixture
def operations(closed, tmp_path):
    """Return a copy of the night, with the same times."""
    subprocess.run(["cp", "-a", closed.path, tmp_path / "work"], check=True)
    return Operations(tmp_path / "work")


def groups_of(operations):
    layout = Layout(operations.results)
    return [path.name for path in sorted(layout.night(NIGHT, "groups").iterdir())]


def raw_of(operations, group):
    sidecar = Path(f"{Layout(operations.results).group(group, 'hdf5')}.json")
    files = json.loads(sidecar.read_text())["qa"]["group"]["files"].values()
    return [operations.incoming / Path(file).name for file in files]


def purge(operations, *options, values=()):
    """Purge with everything due; return exit status and output."""
    command = [*operations.command("purge", "--yes", *options), RETENTION, *values]
    done = subprocess.run(
        command, cwd=operations.path, env=operations.env, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def set_verdict(product, verdict, reason):
    path = Path(f"{product}.json")
    record = json.loads(path.read_text()) | {"verdict": verdict, "reasons": [reason]}
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("kind", ["image.fits", "photometry.csv", "ms", "hdf5"])
def test_nothing_of_a_tile_that_failed_goes(operations, kind):
    layout = Layout(operations.results)
    _, failed, *others = groups_of(operations)
    set_verdict(layout.group(failed, kind), "fail", "noise of 3 Jy")
    status, output = purge(operations, "--raw", "--without-archive")
    assert status == 0, output
    assert layout.group(failed, "ms").exists()
    assert layout.group(failed, "psf.fits").exists()
    assert all(path.exists() for path in raw_of(operations, failed))
    assert f"{failed}.{kind}: failed (noise of 3 Jy)" in output
    for group in others:
        assert not layout.group(group, "ms").exists()
        assert not any(path.exists() for path in raw_of(operations, group))


@pytest.mark.parametrize(
    ("kind", "content"),
    [("image.fits", ""), ("photometry.csv", '{"verdict": "pa'), ("ms", "[]"), ("hdf5", "{}")],
)
def test_a_damaged_sidecar_lets_nothing_go_and_is_named(operations, kind, content):
    layout = Layout(operations.results)
    _, damaged, *_ = groups_of(operations)
    raw = raw_of(operations, damaged)
    Path(f"{layout.group(damaged, kind)}.json").write_text(content)
    status, output = purge(operations, "--raw", "--without-archive")
    assert status == 0, output
    assert layout.group(damaged, "ms").exists()
    assert all(path.exists() for path in raw)
    assert f"{damaged}.{kind}.json: not " in output


def test_a_copy_that_was_never_used_stays_and_is_named(operations):
    """Whether it differs in size or only in time; the files beside it were used, and go."""
    _, group, other, _ = groups_of(operations)
    (larger, *rest), (younger, *_) = raw_of(operations, group), raw_of(operations, other)
    with larger.open("ab") as file:
        file.write(b"whole")
    os.utime(younger, (1.9e9, 1.9e9))
    status, output = purge(operations, "--raw", "--without-archive")
    assert status == 0, output
    assert larger.exists() and younger.exists()
    assert not any(path.exists() for path in rest)
    for path in (larger, younger):
        assert f"{path.name}: its size or time is not that of the file that was used" in output
    # It is told again to whoever asks again.
    assert larger.name in purge(operations, "--raw", "--without-archive")[1]


def test_a_damaged_record_of_what_was_purged_lets_nothing_go(operations):
    before = operations.products()
    damaged = Layout(operations.results).night(NIGHT, "purged.json")
    damaged.write_text("")
    status, output = purge(operations)
    assert status == 0, output
    assert "purged.json: cannot be read" in output
    damaged.unlink()
    assert operations.products() == before


def test_raw_files_without_an_archive_go_only_if_that_is_said(operations):
    raw = list(operations.incoming.iterdir())
    status, output = purge(operations, "--raw")
    assert status == 2 and "--without-archive" in output
    assert sorted(operations.incoming.iterdir()) == sorted(raw)
    status, output = purge(operations, "--raw", "--without-archive")
    assert status == 0 and not list(operations.incoming.iterdir())


def test_what_was_not_archived_stays(operations, tmp_path):
    """With an archive, raw files go when, and only when, a copy of them was read back."""
    (tmp_path / "archive").mkdir()
    archive = [f"archive={{target: {tmp_path / 'archive'}}}"]
    first, *_ = groups_of(operations)
    status, output = purge(operations, "--raw", values=archive)
    assert status == 0, output
    assert "it is not in the archive" in output
    assert all(path.exists() for path in raw_of(operations, first))
    # A record of a copy of other content does not count.
    raw = raw_of(operations, first)
    files = {
        f"raw/{NIGHT}/{path.name}": {
            "size_bytes": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns + (path == raw[0]),
        }
        for path in raw
    }
    record = Layout(operations.results).night(NIGHT, "archive.json")
    record.write_text(json.dumps({"files": files}))
    status, output = purge(operations, "--raw", values=archive)
    assert status == 0, output
    assert raw[0].exists() and not any(path.exists() for path in raw[1:])
    record.write_text("{")
    assert "archive.json: cannot be read" in purge(operations, "--raw", values=archive)[1]
    assert raw[0].exists()
