"""Whatever raises it, a trouble of the machine is told from bad data, a wrong option and a bug.

The texts are those that the libraries gave when they were run on a full, read-only or forbidden
folder, or with little memory.
"""

import datetime as dt
import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest

from dsa110_contimg import cli
from dsa110_contimg.core import errors, places
from dsa110_contimg.core.errors import (
    MARK,
    BusyError,
    ConfigError,
    DataError,
    Stopped,
    ToolAbsent,
    ToolError,
    ToolTimeout,
    cause_of,
    message_of,
    status_of,
    trouble_in,
)
from dsa110_contimg.operations import failures
from support.steps import run_step

H5PY = "Can't synchronously write data (file write failed: time = Sat\n, filename = '/r/x.h5', "
FITS = "Not enough space on disk: requested 8000000, available 0. 32408 written"
CFITSIO = (
    "wsclean failed (exit status 255): CFITSIO reported error when performing IO on file "
    "'r/a-psf.fits':couldn't create the named file (failed to create new file)"
)

CASES = [
    (OSError(errno.ENOSPC, "No space left on device", "/r/x"), "transient", "/r/x: disk full; "),
    (OSError(errno.EDQUOT, "Disk quota exceeded", "/r/x"), "transient", "disk quota exceeded"),
    (OSError(errno.EROFS, "Read-only file system", "/r/x"), "transient", "read-only file system"),
    (PermissionError(errno.EACCES, "no", "/r/x"), "transient", "/r/x: permission denied; "),
    (OSError(errno.EIO, "Input/output error", "/r/x"), "transient", "input/output error"),
    (OSError(errno.ESTALE, "Stale file handle", "/r/x"), "transient", "input/output error"),
    (FileNotFoundError(errno.ENOENT, "none", "/r/x"), "transient", "/r/x: no such file; "),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "compute", "out of memory"),
    (OSError(f"{H5PY}error message = 'No space left on device'"), "transient", "disk full"),
    (OSError(FITS), "transient", "disk full"),
    (sqlite3.OperationalError("database or disk is full"), "transient", "disk full"),
    (
        RuntimeError(
            "RegularFileIO: error in open or create of t/table.dat: Read-only file system"
        ),
        "transient",
        "read-only file system",
    ),
    (
        RuntimeError("FiledesIO::write - write error in t/table.f0: No such file or directory"),
        "transient",
        "cannot write",
    ),
    (
        RuntimeError("Directory: /r/u.tab does not exist and cannot be created"),
        "transient",
        "cannot write",
    ),
    (MemoryError(), "compute", "out of memory"),
    (RuntimeError("std::bad_alloc"), "compute", "out of memory"),
    (
        BrokenProcessPool("A process in the process pool was terminated abruptly while running."),
        "compute",
        "killed from outside",
    ),
    (ToolError("wsclean failed (signal SIGKILL): Gridding"), "compute", "killed from outside"),
    (ToolError("wsclean failed (exit status 1): std::bad_alloc"), "compute", "out of memory"),
    (ToolError(CFITSIO), "transient", "cannot write"),
    (ToolError("wsclean failed (exit status 1): Unknown option"), "compute", "Unknown option"),
    (ToolTimeout("wsclean was stopped after its time limit of 9 s"), "compute", "time limit"),
    (ToolAbsent("wsclean is not installed"), "transient", "wsclean is not installed"),
    (ModuleNotFoundError("No module named 'x'", name="x"), "transient", "a package is missing"),
    (DataError("x.hdf5: truncated"), "data", "x.hdf5: truncated"),
    (ConfigError("imaging.size: wrong"), "config", "imaging.size: wrong"),
    (BusyError("busy"), "transient", "busy"),
    (Stopped(), "transient", "SIGTERM"),
    (KeyError("FIELD"), "bug", "KeyError: 'FIELD'"),
    (OSError("file signature not found"), "bug", "OSError: file signature not found"),
    (ModuleNotFoundError("no", name="dsa110_contimg.imaging.x"), "bug", "ModuleNotFoundError"),
]


@pytest.mark.parametrize(("error", "cause", "message"), CASES)
def test_cause_and_message(error, cause, message):
    assert cause_of(error) == cause
    text = message_of(error)
    assert message in text
    assert len(text.splitlines()) == 1


def test_a_trouble_beneath_a_foreseen_error_decides():
    """A file that cannot be opened is not bad data if it is the permission that lacks."""
    try:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "/raw/x.hdf5")
        except OSError:
            raise DataError("x.hdf5: no UVH5 file") from None
    except DataError as error:
        assert cause_of(error) == "transient"
        assert "check owner and mode" in message_of(error)
        assert status_of(error) == DataError.status


def test_an_absent_file_that_was_foreseen_stays_what_it_is():
    try:
        try:
            raise FileNotFoundError(errno.ENOENT, "No such file", "c.csv")
        except FileNotFoundError:
            raise ConfigError("catalog: there is no file c.csv") from None
    except ConfigError as error:
        assert (cause_of(error), message_of(error)) == ("config", "catalog: there is no file c.csv")


def test_a_clean_output_holds_no_trouble():
    assert trouble_in("Initial peak: 1 Jy\nWriting psf image... DONE") is None


def test_statuses_are_distinct():
    kinds = (errors.ContimgError, ConfigError, DataError, ToolError, BusyError, errors.MachineError)
    assert [kind.status for kind in kinds] == [1, 2, 3, 4, 5, 6]
    assert status_of(MemoryError()) == 6
    assert status_of(KeyError()) == 1


# --- the command line -----------------------------------------------------------------------------


def step(*arguments, setup="pass"):
    """Run a step after some Python of the test's choice."""
    name, *rest = arguments
    path = places.script(name)
    code = f"import runpy, sys; {setup}; sys.argv[:] = {[str(path), *rest]!r};"
    code += f"runpy.run_path({str(path)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


def told(done):
    last = done.stderr.splitlines()[-1]
    assert last.startswith(MARK)
    return json.loads(last.removeprefix(MARK))


def test_a_step_ends_with_one_line_for_people_and_one_for_programs(tmp_path):
    done = step("convert", str(tmp_path / "no.hdf5"), str(tmp_path / "no.ms"))
    for_people, _ = done.stderr.splitlines()[-2:]
    assert for_people.startswith("contimg convert: ")
    assert told(done)["message"] == for_people.removeprefix("contimg convert: ")
    assert told(done)["status"] == done.returncode == 3
    assert told(done)["cause"] == "data"


def test_a_bug_keeps_its_traceback(tmp_path):
    wrong = "from dsa110_contimg.mosaics import mosaic; mosaic.make_mosaic = lambda *a: {}['no']"
    done = step("mosaic", str(tmp_path / "out.fits"), "in.fits", setup=wrong)
    assert "Traceback" in done.stderr
    assert told(done) == {"cause": "bug", "message": "KeyError: 'no'", "status": 1}
    assert done.returncode == 1


def test_commands_for_people_write_nothing_for_programs(tmp_path, capsys):
    assert cli.main(["status", "--configfile", str(tmp_path / "none.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("contimg status: ")


def test_a_step_that_is_asked_to_end_puts_things_in_order(monkeypatch, capsys):
    from dsa110_contimg.conversion import group_file

    tidied = []

    def waits(*args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("still here")
        except Exception:
            tidied.append("an ordinary handler")
        finally:
            tidied.append("tidied")

    monkeypatch.setattr(group_file, "make_group", waits)
    assert run_step("group", "out", "in") == 143
    assert tidied == ["tidied"]
    assert MARK + '{"cause": "transient"' in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_interruption_by_hand_is_quiet(monkeypatch, capsys):
    from dsa110_contimg.conversion import group_file

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(group_file, "make_group", interrupted)
    assert run_step("group", "out", "in") == 130
    assert capsys.readouterr().err == ""


# --- logs of steps that could not tell ------------------------------------------------------------

TERMINATED = (
    "Writing rows\nterminate called after throwing an instance of 'casacore::AipsError'\n"
    "  what():  FilebufIO: write error for file /r/t.tab/table.dat_tmp: No space left on device\n"
)


NOT_BEGUN = (
    'Traceback (most recent call last):\n  File "workflow/scripts/image.py", line 8, in <module>\n'
    "    from x import y\nModuleNotFoundError: No module named '{}'\n"
)
CHANGED = (
    'Traceback (most recent call last):\n  File "workflow/scripts/image.py", line 8, in <module>\n'
    "ImportError: cannot import name 'parser' from 'dsa110_contimg.core.steps' (/x/steps.py)\n"
)


@pytest.mark.parametrize(
    ("text", "cause", "message"),
    [
        (
            "much\n" + MARK + '{"cause": "data", "message": "x: cut", "status": 3}\n',
            "data",
            "x: cut",
        ),
        (TERMINATED, "transient", "disk full"),
        ("contimg convert: x: disk full; free\n" + MARK + '{"cau', "transient", "disk full"),
        (NOT_BEGUN.format("dsa110_contimg.core.step"), "bug", "No module named 'dsa110_contimg.co"),
        (NOT_BEGUN.format("pydantic"), "transient", "No module named 'pydantic'"),
        (CHANGED, "bug", "cannot import name 'parser' from 'dsa110_contimg.core.steps'"),
        ("Gridding pass 0...\n", "compute", "killed, .* last words: Gridding pass 0"),
        ("", "compute", "killed before it said a word"),
        (None, "transient", "left no log"),
    ],
)
def test_a_log_tells_the_cause(tmp_path, text, cause, message):
    log = tmp_path / "step.log"
    if text is not None:
        log.write_text(text)
    found = failures.classify(str(log))
    assert found[0] == cause
    assert re.search(message, found[1])


def test_a_night_waits_a_day_for_what_may_pass():
    moment = dt.datetime(2026, 2, 10, 12, tzinfo=dt.UTC)
    failure = failures.Failure(
        *("image", {}, "transient", "quarantined", "", "", "", 4),
        *(moment.isoformat(), moment.isoformat()),
    )
    assert failures.may_pass(failure, moment + dt.timedelta(hours=23))
    assert not failures.may_pass(failure, moment + dt.timedelta(hours=25))
    assert not failures.may_pass(replace(failure, cause="compute"), moment)
