"""Row: a dry run rewrites the inventory of the run at work | no shared file without the lock."""

import pytest

from dsa110_contimg.operations import locking
from support.dag_folder import DagFolder
from support.night import Operations, raw_groups

#: Kept for speed: whoever has it anew replaces it whole, and it says nothing of a run.
CACHES = (".inventory-cache.json", ".inventory-cache.json.groups", ".calibrator-shares.json")

COMMANDS = [
    ("run", "-n"),
    ("run", "2026-02-10", "-n"),
    ("status",),
    ("status", "--json"),
    ("check",),
    ("clean",),
    ("purge",),
    ("run",),
    ("retry", "all"),
]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A finished night, after which more has arrived."""
    path = tmp_path_factory.mktemp("night")
    made = Operations.make(path / "made")
    raw = raw_groups(path / "raw", 2)
    made.receive(raw[:1])
    status, output = made.call("run")
    assert status == 0, output
    made.receive(raw[1:])
    return made


def state(night):
    """Return what anybody may see in the results folder: content and times."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes())
        for path in sorted(night.results.rglob("*"))
        if path.is_file() and path.name not in CACHES
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_beside_a_run_writes_nothing(night, command):
    """The run at work is this test: it holds the folder."""
    arguments = [word for word in command if word != "-n"]
    call = night.command(*arguments)
    with locking.hold(night.results, "test"):
        before = state(night)
        environment = dict.fromkeys(("CONTIMG_HOLDS",), "")
        dry = ["--", "--dry-run"] if "-n" in command else []
        night.command = lambda *_, **__: [*call, *dry]  # the stand-ins' options come before
        try:
            _, output = night.call(**environment)
        finally:
            del night.command
        assert state(night) == before, output


def test_snakemake_alone_writes_nothing_on_a_dry_run(night):
    folder = DagFolder(night.path)
    with locking.hold(night.results, "test"):
        before = state(night)
        done = folder.snakemake("--dry-run", "--config", "incoming=incoming", frozen=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert state(night) == before
