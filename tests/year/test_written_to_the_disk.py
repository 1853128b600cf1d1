"""Row: a zero-length or unknown-key sidecar, inventory, run record (power cut, older or newer
release) ends every plan | written with fsync of file and folder; [...]

Here: what is written is on the disk before it has its name, and before a sidecar vouches for it.
"""

import os
from pathlib import Path

import pytest

from dsa110_contimg.core import files
from dsa110_contimg.core.figures import BlindFigures
from dsa110_contimg.core.sidecar import Sidecar


@pytest.fixture
def calls(monkeypatch):
    """What is made to reach the disk, and what gets its name, in order."""
    found = []
    sync, replace = os.fsync, os.replace

    def note_sync(number):
        found.append(("sync", Path(os.readlink(f"/proc/self/fd/{number}"))))
        sync(number)

    def note_replace(source, target):
        found.append(("name", Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    return found


def parts(calls, target):
    """Return what came to the disk before and after something got its name."""
    at = calls.index(("name", target))
    return [path for what, path in calls[:at] if what == "sync"], calls[at + 1 :]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(tmp_path, calls):
    target = tmp_path / "x.json"
    files.write_text(target, "{}")
    before, after = parts(calls, target)
    assert [path.name for path in before] == [files.beside(target).name]
    assert after == [("sync", tmp_path)]


def test_of_a_folder_all_that_is_in_it(tmp_path, calls):
    target = tmp_path / "x.ms"
    with files.replacing(target) as temporary:
        (temporary / "SOURCE").mkdir(parents=True)
        (temporary / "SOURCE/table.dat").write_text("a")
        (temporary / "table.f0").write_text("b")
    before, after = parts(calls, target)
    inside = {path.relative_to(files.beside(target)).as_posix() for path in before}
    assert inside == {".", "SOURCE", "SOURCE/table.dat", "table.f0"}
    assert after == [("sync", tmp_path)]


def test_a_product_is_on_the_disk_before_its_sidecar_has_a_name(tmp_path, calls):
    product = tmp_path / "blind.csv"
    files.write_text(product, "a\n1\n")
    Sidecar("blind", figures=BlindFigures(n_sources=1)).write(product)
    order = [path.name for what, path in calls if what == "name"]
    assert order == ["blind.csv", "blind.csv.json"]
    assert calls.index(("sync", tmp_path)) < calls.index(("name", tmp_path / "blind.csv.json"))


def test_where_folders_cannot_be_synced_files_still_are(tmp_path, monkeypatch):
    """Some network file systems refuse it."""

    def refuse(number):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    files.write_text(tmp_path / "x", "a")
    assert (tmp_path / "x").read_text() == "a"


def test_a_disk_that_fails_is_told(tmp_path, monkeypatch):
    def fail(number):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        files.write_text(tmp_path / "x", "a")
    assert not (tmp_path / "x").exists()
