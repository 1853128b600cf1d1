"""A foreign user's `.tmp-*` in the temporary folder ends every tick.

Wanted: only one's own is touched; own private scratch.
"""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from dsa110_contimg.core import files
from dsa110_contimg.core.config import load_config
from dsa110_contimg.core.errors import MachineError
from dsa110_contimg.operations import leftovers
from support.night import Operations

NOBODY = 65534
#: A process that is not there, of this machine.
DEAD = f".tmp-{2**22 + 1}-{files.HOST}"
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The system's folder of temporaries."""
    folder = tmp_path / "system"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def config(tmp_path):
    (tmp_path / "incoming").mkdir()
    return load_config({"incoming": tmp_path / "incoming", "results": tmp_path / "results"})


def give_away(path):
    os.chown(path, NOBODY, NOBODY)
    return path


def folder(path, mode=0o700):
    path.mkdir(parents=True)
    path.chmod(mode)
    return path


def own(system):
    return system / f"contimg-{os.getuid()}"


def test_scratch_is_in_a_folder_that_nobody_else_can_look_into(system):
    with files.scratch("x") as path:
        assert path.parent == own(system)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(own(system).iterdir()) == []


def test_a_folder_that_others_could_look_into_is_closed(system):
    folder(own(system), 0o777)
    assert files.private_folder() == own(system)
    assert stat.S_IMODE(own(system).stat().st_mode) == 0o700


@needs_root
def test_a_folder_that_somebody_else_made_is_not_used(system):
    give_away(folder(own(system), 0o777))
    with files.scratch("x") as path:
        assert path.parent == system / f"contimg-{os.getuid()}-1"
    for number in range(1, 10):
        path = system / f"contimg-{os.getuid()}-{number}"
        give_away(path if path.exists() else folder(path))
    with pytest.raises(MachineError, match="somebody else has made all such folders; set TMPDIR"):
        files.private_folder()


def test_a_link_of_that_name_is_not_followed(system, tmp_path):
    target = folder(tmp_path / "precious", 0o755)
    (target / f"{DEAD}-x").mkdir()
    own(system).symlink_to(target)
    with files.scratch("x") as path:
        assert path.parent == system / f"contimg-{os.getuid()}-1"
    assert own(system) not in files.private_folders()
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_a_link_among_the_left_overs_is_removed_and_not_followed(system, config, tmp_path):
    target = folder(tmp_path / "precious")
    (target / "data").touch()
    link = files.private_folder() / f"{DEAD}-x"
    link.symlink_to(target)
    assert leftovers.remove_stale(config) == [link]
    assert (target / "data").exists()


@needs_root
def test_only_ones_own_is_touched(system, config):
    mine = folder(files.private_folder() / f"{DEAD}-mine")
    results = folder(config.results / "nights")
    also_mine = folder(results / f"{DEAD}-also")
    foreign = [
        give_away(folder(system / f"{DEAD}-theirs", 0o000)),
        give_away(folder(files.private_folder() / f"{DEAD}-theirs")),
        give_away(folder(results / f"{DEAD}-theirs")),
    ]
    assert leftovers.remove_stale(config) == sorted([mine, also_mine])
    assert all(path.exists() for path in foreign)


def test_what_cannot_be_removed_is_passed_over(system, config, monkeypatch):
    paths = [folder(files.private_folder() / f"{DEAD}-{name}") for name in "abc"]
    remove = leftovers.remove

    def refuse(path):
        if path == paths[1]:
            raise PermissionError(1, "Operation not permitted", str(path))
        remove(path)

    monkeypatch.setattr(leftovers, "remove", refuse)
    assert leftovers.remove_stale(config) == [paths[0], paths[2]]


def test_what_cannot_be_looked_into_is_not_old(config, monkeypatch):
    path = folder(config.results / ".tmp-1-elsewhere-x")
    os.utime(path, (0, 0))

    def refuse(_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert leftovers._newest(path) > 1e9


def test_no_place_for_temporaries_is_one_line(monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/nowhere']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(MachineError, match=r"no folder for temporary files .* set TMPDIR to one"):
        files.private_folder()


def test_a_tick_ends_well_beside_others_left_overs(tmp_path):
    """What it must not touch, nor may look into, is beside what a killed job of its own left."""
    work = Operations.make(tmp_path / "work")
    system = folder(tmp_path / "system", 0o1777)
    theirs = folder(system / f"{DEAD}-theirs", 0o000)
    if os.getuid() == 0:
        give_away(theirs)
    mine = folder(own(system) / f"{DEAD}-mine")
    status, output = work.call("tick", TMPDIR=str(system))
    assert status == 0, output
    assert theirs.exists()
    assert not mine.exists()
    assert [path.name for path in Path(own(system)).glob(".tmp-*")] == []
