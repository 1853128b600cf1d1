"""Programs are watched, limited in time, and die with all their children."""

import os
import subprocess
import sys
import time

import pytest

from dsa110_contimg.core.errors import ToolError, cause_of
from dsa110_contimg.core.programs import find_tool, run_tool

PYTHON = sys.executable


def test_output_and_time_are_returned(capfd):
    result = run_tool([PYTHON, "-c", "print('hello')"], timeout_s=20)
    assert result.tail == ["hello"]
    assert result.seconds < 20
    assert "hello" in capfd.readouterr().out


def test_failure_names_the_last_line():
    with pytest.raises(ToolError, match=r"exit status 3.*went wrong"):
        run_tool([PYTHON, "-c", "print('went wrong'); raise SystemExit(3)"], timeout_s=20)


def test_death_by_signal_is_named():
    with pytest.raises(ToolError, match="SIGSEGV"):
        run_tool([PYTHON, "-c", "import os; os.kill(os.getpid(), 11)"], timeout_s=20)


def test_absent_tool_says_how_to_install():
    with pytest.raises(ToolError, match="no-such-tool is not installed; install it with"):
        run_tool(["no-such-tool"], timeout_s=1)
    with pytest.raises(ToolError, match="apt-get install no-such-tool"):
        find_tool("no-such-tool")


def test_time_limit_kills_the_children_too(tmp_path):
    pid_file = tmp_path / "pid"
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    with pytest.raises(ToolError, match="time limit of 2 s"):
        run_tool([PYTHON, "-c", script], timeout_s=2)
    assert time.monotonic() - started < 20
    assert not _runs(int(pid_file.read_text()))


def test_watch_stops_a_program_at_once():
    script = "import time; print('fine', flush=True); print('KJy', flush=True); time.sleep(60)"
    started = time.monotonic()
    with pytest.raises(ToolError, match="was stopped: diverging"):
        run_tool(
            [PYTHON, "-c", script],
            timeout_s=60,
            watch=lambda line: "diverging" if "KJy" in line else None,
        )
    assert time.monotonic() - started < 20


def _runs(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().split()[2] == "Z":
                    return False
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.1)
    return True


def test_an_imagers_frame_is_not_its_last_word():
    """WSClean frames its last message with crosses."""
    frame = "+ + + + + +"
    script = f"print('{frame}\\n+ An exception occured:\\n+ >>> bad option\\n{frame}'); exit(255)"
    with pytest.raises(ToolError, match=r"exit status 255\): bad option$"):
        run_tool([PYTHON, "-c", script], timeout_s=20)


def test_a_trouble_of_the_machine_is_the_last_word_wherever_it_stands():
    script = "print('x: No space left on device\\nIf you think this is a bug, write'); exit(1)"
    with pytest.raises(ToolError, match="No space left on device") as caught:
        run_tool([PYTHON, "-c", script], timeout_s=20)
    assert cause_of(caught.value) == "transient"


def test_a_killed_step_takes_its_program_along(tmp_path):
    pid_file = tmp_path / "pid"
    inner = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = (
        "from dsa110_contimg.core.programs import run_tool\n"
        f"run_tool([{PYTHON!r}, '-c', {inner!r}], timeout_s=60)\n"
    )
    step = subprocess.Popen([PYTHON, "-c", outer], stdout=subprocess.DEVNULL)
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.05)
    step.kill()
    step.wait()
    assert not _runs(int(pid_file.read_text()))
