"""One run at a time on a results folder."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsa110_contimg.core.errors import BusyError, MachineError
from dsa110_contimg.operations import engine, locking


def test_a_second_holder_is_told_who_holds_it(tmp_path):
    with locking.hold(tmp_path, "tick"):
        assert locking.held(tmp_path)
        told = f"'contimg tick' .process {os.getpid()} on "
        with pytest.raises(BusyError, match=told), locking.hold(tmp_path, "run"):
            pass
    assert not locking.held(tmp_path)
    with locking.hold(tmp_path, "run"):
        pass


def test_a_killed_holder_holds_nothing_and_its_jobs_are_ended(tmp_path):
    holder = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from dsa110_contimg.operations import locking\n"
        "with locking.hold(Path(sys.argv[1]), 'tick'):\n"
        "    child = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    orphan = int(process.stdout.readline())
    process.kill()
    process.communicate()
    assert os.path.exists(f"/proc/{orphan}")
    with locking.hold(tmp_path, "tick"):
        for _ in range(100):
            if not os.path.exists(f"/proc/{orphan}") or "State:\tZ" in status(orphan):
                break
            time.sleep(0.05)
        else:
            pytest.fail("the orphan lives")


def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return file.read()


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "results").write_text("a file")
    told = "cannot write to the results folder"
    with pytest.raises(MachineError, match=told), locking.hold(tmp_path / "results", "tick"):
        pass


def test_only_locks_on_ones_own_results_are_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    locks = tmp_path / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("results/nights/a\n")
    (locks / "1.output.lock").write_text("results2/nights/a\n")
    engine.unlock(Path("results"))
    assert [path.name for path in locks.iterdir()] == ["1.output.lock"]
