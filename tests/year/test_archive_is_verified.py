"""Deliver: archive to a second place (rsync or rclone) with verified copies as the condition of
purging raw data.
"""

import json
import os
import shutil
import subprocess

import pytest

from dsa110_contimg.core.layout import Layout
from support.night import Operations, raw_groups

NIGHT = "2026-02-10"
RETENTION = "retention={raw_days: 0}"
#: Stands for a remote host: what is to be run there runs here.
SHELL = '#!/bin/sh\nshift\nexec "$@"\n'
#: Copies, and spoils what it copied; what only looks is not touched.
SPOILING = """#!/bin/sh
case "$*" in *--dry-run*|*--list-only*|*--server*|check*|lsf*) exec {real} "$@";; esac
{real} "$@" || exit
[ -e {once} ] && exit 0
{touch}
find {place} -name '*.hdf5' | sort | head -1 | while IFS= read -r file; do
    time=$(stat -c %y "$file")
    printf X | dd of="$file" bs=1 seek=100 conv=notrunc status=none
    touch -d "$time" "$file"
done
"""

rsync = shutil.which("rsync")
rclone = shutil.which("rclone")
needs_rsync = pytest.mark.skipif(rsync is None, reason="rsync is not installed")
needs_rclone = pytest.mark.skipif(rclone is None, reason="rclone is not installed")


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    operations = Operations.make(tmp_path_factory.mktemp("archive") / "work")
    raw_groups(operations.incoming, 2)
    status, output = operations.call("tick")
    assert status == 0, output
    return operations


@pytest.fixture
def operations(closed, tmp_path):
    subprocess.run(["cp", "-a", closed.path, tmp_path / "work"], check=True)
    return Operations(tmp_path / "work")


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "second place; touch x"
    folder.mkdir()
    return folder


def call(operations, *command, target, archive="", **env):
    """Run a command; return exit status and output."""
    values = [RETENTION, f"archive={{target: '{target}'{archive}}}"]
    done = subprocess.run(
        [*operations.command(*command), *values],
        cwd=operations.path,
        env={**operations.env, **env},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def record_of(operations):
    path = Layout(operations.results).night(NIGHT, "archive.json")
    return json.loads(path.read_text())["files"] if path.exists() else {}


def raw_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.hdf5")}


def program(operations, name, text):
    path = operations.path / "bin" / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def remote(operations, tmp_path, place):
    """Return a target on another host, which is this one."""
    link = tmp_path / "elsewhere"
    link.symlink_to(place)
    return f"host:{link}", {"RSYNC_RSH": str(program(operations, "shell", SHELL))}


@needs_rsync
@pytest.mark.parametrize("far", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_what_was_copied_and_read_back_may_go(operations, place, tmp_path, far):
    target, env = remote(operations, tmp_path, place) if far else (place, {})
    before = raw_of(operations.incoming)
    n_bytes = sum(map(len, before.values()))
    status, output = call(operations, "archive", target=target, **env)
    assert status == 0 and f"{NIGHT}: {len(before)} files" in output, output
    assert f"{n_bytes / 1e9:.3f} GB, to archive (repeat with --yes)" in output
    assert not list(place.iterdir()) and not record_of(operations)
    status, output = call(operations, "archive", "--yes", target=target, **env)
    assert status == 0, output
    assert raw_of(place / "raw" / NIGHT) == before
    assert set(record_of(operations)) == {f"raw/{NIGHT}/{name}" for name in before}
    for entry in record_of(operations).values():
        assert entry["target"] == str(target) and len(entry["sha256"]) == 64
    # There is nothing left to do, and the raw files may go.
    status, output = call(operations, "archive", "--yes", target=target, **env)
    assert status == 0 and "0 files" in output and "$ rsync" not in output
    status, output = call(operations, "purge", "--yes", "--raw", target=target)
    assert status == 0 and not raw_of(operations.incoming), output
    assert raw_of(place / "raw" / NIGHT) == before
    assert call(operations, "archive", "--yes", target=target, **env)[0] == 0


@needs_rclone
@pytest.mark.slow
def test_rclone_copies_and_reads_back(operations, place):
    target = f":local:{place}"
    before = raw_of(operations.incoming)
    rclone_options = ", tool: rclone, bandwidth_mb_s: 1000"
    status, output = call(operations, "archive", "--yes", target=target, archive=rclone_options)
    assert status == 0, output
    assert raw_of(place / "raw" / NIGHT) == before
    assert len(record_of(operations)) == len(before)
    spoilt = SPOILING.format(real=rclone, place=f"'{place}'", once="/nowhere", touch=":")
    program(operations, "rclone", spoilt)
    Layout(operations.results).night(NIGHT, "archive.json").unlink()
    status, output = call(operations, "archive", "--yes", target=target, archive=rclone_options)
    assert status == 4 and "copies are not what was copied" in output
    assert not record_of(operations)


@needs_rsync
@pytest.mark.parametrize("far", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_copy_spoilt_on_its_way_is_not_recorded(operations, place, tmp_path, far):
    target, env = remote(operations, tmp_path, place) if far else (place, {})
    spoilt = SPOILING.format(real=rsync, place=f"'{place}'", once="/nowhere", touch=":")
    program(operations, "rsync", spoilt)
    status, output = call(operations, "archive", "--yes", target=target, **env)
    assert status == 4, output
    assert "1 copies are not what was copied (raw/" in output
    assert not record_of(operations)
    raw = raw_of(operations.incoming)
    status, output = call(operations, "purge", "--yes", "--raw", target=target)
    assert status == 0 and raw_of(operations.incoming) == raw
    assert "it is not in the archive" in output


@needs_rsync
def test_a_spoilt_copy_is_copied_again_though_size_and_time_agree(operations, place, tmp_path):
    once = tmp_path / "once"
    spoilt = SPOILING.format(real=rsync, place=f"'{place}'", once=once, touch=f"touch {once}")
    program(operations, "rsync", spoilt)
    status, output = call(operations, "archive", "--yes", target=place)
    assert status == 0, output
    assert raw_of(place / "raw" / NIGHT) == raw_of(operations.incoming)


@needs_rsync
def test_an_absent_place_is_not_made(operations, place, tmp_path):
    target, env = remote(operations, tmp_path, place)
    place.rmdir()
    for there, more in ((place, {}), (target, env)):
        status, output = call(operations, "archive", "--yes", target=there, **more)
        assert status == 6 and "is not there; mount it, or make it" in output, output
    assert not place.exists() and not record_of(operations)


@needs_rsync
def test_a_full_place_ends_it_and_it_goes_on_later(operations, place):
    """What was verified before the disk was full is not copied again."""
    full = f"""#!/bin/sh
case "$*" in *--dry-run*|*--list-only*) exec {rsync} "$@";; esac
if [ -n "$FULL" ]; then
    echo 'rsync: [receiver] write failed: No space left on device (28)'
    exit 11
fi
exec {rsync} "$@"
"""
    program(operations, "rsync", full)
    status, output = call(operations, "archive", "--yes", target=place, FULL="1")
    assert status == 4 and "No space left on device" in output, output
    assert not record_of(operations)
    status, output = call(operations, "archive", "--yes", target=place)
    assert status == 0 and len(record_of(operations)) == 32


@needs_rsync
def test_products_go_along_if_that_is_wanted(operations, place):
    status, output = call(operations, "archive", "--yes", target=place, archive=", products: true")
    assert status == 0, output
    layout = Layout(operations.results)
    names = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    (first, *_) = sorted(layout.night(NIGHT, "groups").iterdir())
    inside = first.relative_to(operations.results)
    kept = [f"{inside}/{first.name}.{kind}" for kind in ("image.fits", "photometry.csv", "ms.json")]
    kept += [f"nights/{NIGHT}/{name}" for name in ("mosaic.fits", "closed.json")]
    kept += [f"{inside}/{first.name}.bcal/content"]
    assert set(kept) <= names
    passing = (".psf.fits", ".residual.fits", ".model.fits", ".pbcor.fits", "archive.json")
    assert not [name for name in names if name.endswith(passing) or ".ms/" in name]
    assert not [name for name in names if "/group_" in name and name.endswith(".hdf5")]


@needs_rsync
def test_ticks_archive_in_bounded_parts(operations, place):
    """A tick that has no time left copies nothing; the next ones do it all, once."""
    automatic = ", automatic: true"
    never = automatic + ", budget_s: 1.0e-9"
    assert call(operations, "tick", target=place, archive=never) == (0, "")
    assert not record_of(operations)
    status, output = call(operations, "tick", target=place, archive=automatic)
    assert status == 0 and f"{NIGHT}: 32 files archived, 0 to go" in output, output
    assert call(operations, "tick", target=place, archive=automatic) == (0, "")


def test_ticks_go_on_without_the_place_and_say_so(operations, tmp_path):
    automatic = ", automatic: true"
    status, output = call(operations, "tick", target=tmp_path / "gone", archive=automatic)
    assert status == 0 and "is not there" in output
    os.utime(operations.results / ".alerts.json", (0, 0))
    command = operations.command("status", "--json")
    done = subprocess.run(
        command, cwd=operations.path, env=operations.env, capture_output=True, text=True
    )
    assert "is not there" in json.loads(done.stdout)["archive"]
    (tmp_path / "gone").mkdir()
    assert call(operations, "tick", target=tmp_path / "gone", archive=automatic)[0] == 0
    assert not (operations.results / ".archive/trouble").exists()


def test_one_at_a_time(operations, place):
    from dsa110_contimg.operations import locking

    with locking.hold(operations.results / ".archive", "archive"):
        status, output = call(operations, "archive", "--yes", target=place)
        assert status == 5, output
        archive = ", automatic: true"
        assert call(operations, "tick", target=place, archive=archive) == (0, "")


def test_a_night_that_is_not_closed_is_refused_in_a_line(operations, place):
    status, output = call(operations, "archive", "--night", "2030-01-01", target=place)
    assert status == 3 and "2030-01-01 is no closed night" in output
