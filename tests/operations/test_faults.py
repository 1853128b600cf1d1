"""Whatever goes wrong has a name, keeps nothing else from going on, and passes with its cause.

The ticks are real; steps only pretend, but for those whose fault is the matter. Where a fault needs
a right that this process lacks (to mount a small disk, to lay down a right of its own), the test is
skipped and says so.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.operations import closing
from dsa110_contimg.operations.failures import read_all
from support import imaging_data
from support.night import Operations, raw_groups

#: Without these even root is bound by the mode of files.
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@dataclass
class Faulty(Operations):
    """A working folder for ticks, some steps of which are real."""

    operations: str = "close_after_s: 0, min_free_gb: 0"
    more: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()

    def command(self, *arguments, wait_s=0.0):
        config = [
            "incoming=incoming",
            f"inventory={{wait_s: {wait_s}}}",
            f"operations={{{self.operations}}}",
            *self.more,
        ]
        command = [sys.executable, "-m", "dsa110_contimg", *arguments, "--config", *config]
        return [*self.prefix, *command]

    def tick(self, **options):
        return self.call("tick", **options)

    def fail(self, *lines):
        """Let stubs fail: ``step text message``; none: let none fail."""
        (self.path / "fail").write_text("".join(f"{line}\n" for line in lines))

    @property
    def layout(self):
        return Layout(self.results)

    @property
    def nights(self):
        return closing.nights_on_disk(self.layout)

    def failures(self):
        return {f.what: f for f in read_all(self.layout, self.nights)}

    def measured(self):
        return {path.name.split(".")[0] for path in self.results.rglob("groups/*/*.photometry.csv")}

    def status(self, **options):
        """Return the snapshot that ``status --json`` prints."""
        status, output = self.call("status", "--json", **options)
        assert status == 0, output
        return json.loads(output[output.index("{") :])

    def groups(self):
        """Return the groups of the night."""
        return sorted(g["id"] for g in self.status()["group_list"])

    def metrics(self):
        return (self.results / "metrics.prom").read_text()


def told(cause, message):
    """Return what a step writes last, as the stubs take it."""
    return "contimg-failure: " + json.dumps({"cause": cause, "message": message, "status": 1})


@pytest.fixture
def faulty(tmp_path):
    """A working folder with a night of two groups, the first with a calibrator."""
    made = Faulty.make(tmp_path)
    raw_groups(made.incoming, 2)
    return made


@pytest.fixture
def small_disk(faulty):
    """The results on a disk of 3 MB."""
    faulty.results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "contimg-test", str(faulty.results)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield faulty
    subprocess.run(["umount", "--lazy", str(faulty.results)], check=True)


def powerless(faulty):
    """Let the ticks be bound by the mode of files, also those of root."""
    if os.geteuid() == 0:
        probe = subprocess.run([*POWERLESS, "true"], capture_output=True, check=False)
        if probe.returncode:
            pytest.skip(f"root cannot lay down its rights: {probe.stderr.decode().strip()}")
        faulty.prefix = POWERLESS


def real(faulty, step, group, before="", after=""):
    """Let a step of one group be the real one, after and before some shell commands."""
    program = faulty.path / "bin/python"
    first, *lines = program.read_text().splitlines()
    test = rf'if case "$*" in */{step}.py\ *{group}*) true;; *) false;; esac; then'
    command = f'{before} {shlex.quote(sys.executable)} "$@" || exit; {after} exit; fi'
    program.write_text("\n".join([first, f"{test} {command}", *lines]) + "\n")


# --- a group, and the others ----------------------------------------------------------------------


def test_each_fault_of_a_group_has_its_state_and_the_others_go_on(tmp_path):
    """In one tick: killed as for lack of memory, bad data, a bug, a raw file without permission."""
    faulty = Faulty.make(tmp_path)
    powerless(faulty)
    raw = raw_groups(faulty.incoming, 5)
    forbidden = raw[4][3]
    forbidden.chmod(0)
    first, second, third, fourth, fifth = faulty.groups()
    faulty.fail(
        f"image {second} kill",
        f"convert {third} {told('data', 'x_sb03.hdf5: truncated')}",
        f"photometry {fourth} {told('bug', 'KeyError: FIELD')}",
    )
    status, output = faulty.tick(wait_s=3600)
    assert status == 1, output
    found = faulty.failures()
    assert (found[second].cause, found[second].state) == ("compute", "waiting")
    assert "killed" in found[second].message
    assert (found[third].cause, found[third].state) == ("data", "quarantined")
    assert found[third].message == "x_sb03.hdf5: truncated"
    assert (found[fourth].cause, found[fourth].message) == ("bug", "KeyError: FIELD")
    assert "/workflow/scripts/photometry.py " in found[fourth].command
    assert faulty.measured() == {first}
    state = faulty.status(wait_s=3600)
    assert {g["id"]: g["state"] for g in state["group_list"]} == {
        first: "measured",
        second: "waiting",
        third: "quarantined",
        fourth: "waiting",
        fifth: "collecting",
    }
    assert f"sb03: {forbidden.name}: cannot be opened (Permission denied)" in "".join(
        state["group_list"][4]["notes"]
    )
    assert f'contimg_alert{{name="set aside convert {third}"}} 2' in faulty.metrics()
    # The causes are gone: all is made without anyone's help, but for bad data, which want a word.
    forbidden.chmod(0o644)
    faulty.fail()
    status, output = faulty.tick(wait_s=3600)
    assert status == 0, output
    assert faulty.measured() == {first, second, fourth, fifth}
    assert set(faulty.failures()) == {third}
    assert faulty.call("retry", third)[0] == 0
    status, output = faulty.tick(wait_s=3600)
    assert status == 0, output
    assert faulty.measured() == {first, second, third, fourth, fifth}
    assert faulty.failures() == {}


@pytest.mark.slow
def test_bad_data_that_are_replaced_are_taken_up(faulty):
    """No word is needed where the raw file itself is another one."""
    first, second = faulty.groups()
    faulty.fail(f"convert {second} {told('data', 'x_sb03.hdf5: truncated')}")
    faulty.tick()
    assert faulty.failures()[second].quarantined
    faulty.fail()
    assert faulty.tick()[0] == 0
    assert faulty.measured() == {first}
    raw = sorted(faulty.incoming.glob("*_sb03.hdf5"))[1]
    shutil.copy(raw, raw.with_suffix(".new"))
    raw.with_suffix(".new").replace(raw)
    status, output = faulty.tick()
    assert status == 0, output
    assert faulty.measured() == {first, second}
    assert faulty.failures() == {}


@pytest.mark.slow
def test_a_file_that_is_no_data_is_left_out_until_it_is_replaced(faulty):
    first, second = faulty.groups()
    raw = sorted(faulty.incoming.glob("*_sb03.hdf5"))[1]
    good = raw.read_bytes()
    raw.write_bytes(b"garbage")
    status, output = faulty.tick(wait_s=3600)
    assert status == 0, output
    state = faulty.status(wait_s=3600)
    assert [(r["path"].split("/")[-1], r["reason"]) for r in state["rejected"]] == [
        (raw.name, "no HDF5 file")
    ]
    assert state["groups"]["collecting"] == 1 and faulty.measured() == {first}
    raw.write_bytes(good)
    status, output = faulty.tick(wait_s=3600)
    assert status == 0, output
    assert faulty.measured() == {first, second}


@pytest.mark.slow
def test_a_raw_file_that_can_no_longer_be_read_stops_its_group_only(faulty):
    """It could be when the group was taken in; then the disk it lies on fails, say."""
    powerless(faulty)
    raw = sorted(faulty.incoming.glob("*_sb03.hdf5"))[1]
    os.truncate(
        raw, 2_000_000
    )  # of small files Snakemake takes checksums: those of the sky are not
    first, second = faulty.groups()
    real(faulty, "group", second, before=f"chmod 0 {shlex.quote(str(raw))};")
    status, output = faulty.tick()
    assert status == 1, output
    failure = faulty.failures()[second]
    assert (failure.cause, failure.state) == ("transient", "waiting")
    assert raw.name in failure.message and "check owner and mode" in failure.message
    assert faulty.measured() == {first}
    raw.chmod(0o644)
    real(faulty, "group", second)
    status, output = faulty.tick()
    assert status == 0, output
    assert faulty.measured() == {first, second} and faulty.failures() == {}


@pytest.mark.slow
def test_a_step_out_of_memory_is_tried_again(faulty):
    """The real conversion within an address space that is too small for it."""
    first, second = faulty.groups()
    real(faulty, "convert", second, before="ulimit -v 280000;")
    real(faulty, "group", second)
    status, output = faulty.tick()
    assert status == 1, output
    failure = faulty.failures()[second]
    assert (failure.cause, failure.state) == ("compute", "waiting"), failure
    assert "memory" in failure.message
    assert faulty.measured() == {first}
    real(faulty, "convert", second)  # comes first, and has all memory
    faulty.more = ("flagging={engine: none}",)
    status, output = faulty.tick()
    assert status == 0, output
    assert faulty.measured() == {first, second} and faulty.failures() == {}


@pytest.mark.slow
def test_an_imager_that_hangs_is_stopped_and_tried_again(faulty):
    """The real step and, once it is back in its place, the real WSClean."""
    first, second = faulty.groups()
    ms = faulty.path / "prepared.ms"
    sky = imaging_data.offsets_to_sky([0.1], [0.1], [1.0])
    imaging_data.write_tile(ms, sky, n_antennas=8, n_channels=2, n_times=2)
    program = faulty.path / "bin/python"
    stub = program.read_text().splitlines()[-1].removeprefix("exec ")
    put = f'{stub} || exit; rm -rf "$3"; cp -r {ms} "$3"; cp {ms}.json "$3.json"; exit'
    first_line, *lines = program.read_text().splitlines()
    program.write_text("\n".join([first_line, f'case "$1" in */apply.py) {put};; esac', *lines]))
    real(faulty, "image", second)
    faulty.more = ("imaging={size_px: 256, cell_arcsec: 12, timeout_s: 6}",)
    imager = faulty.path / "bin/wsclean"
    version = f'if [ "$1" = --version ]; then exec {shutil.which("wsclean")} --version; fi'
    imager.write_text(f"#!/bin/sh\n{version}\nsleep 300\n")
    imager.chmod(0o755)
    began = time.monotonic()
    status, output = faulty.tick()
    assert status == 1, output
    assert time.monotonic() - began < 120
    failure = faulty.failures()[second]
    assert (failure.cause, failure.state) == ("compute", "waiting")
    assert failure.message == "wsclean was stopped after its time limit of 6 s"
    assert faulty.measured() == {first}
    imager.unlink()
    status, output = faulty.tick()
    assert status == 0, output
    assert faulty.measured() == {first, second} and faulty.failures() == {}
    assert faulty.layout.group(second, "image.fits").stat().st_size > 256 * 256 * 4


# --- the machine ----------------------------------------------------------------------------------


def refused(faulty, status, message):
    """Check that a tick does not begin, says why, and leaves nothing."""
    before = sorted(path for path in faulty.results.rglob("*") if not path.name.startswith("."))
    found, output = faulty.tick()
    assert found == status, output
    line = output.strip().splitlines()[-1]
    assert line.startswith("contimg tick: ") and message in line
    after = sorted(path for path in faulty.results.rglob("*") if not path.name.startswith("."))
    assert {p.name for p in after if p not in before} <= {"metrics.prom", "release.json"}


def test_a_machine_that_cannot_work_is_told_and_work_goes_on_when_it_can(faulty):
    """Results without permission, then too little space, then an incoming folder out of reach."""
    powerless(faulty)
    faulty.results.mkdir()
    faulty.results.chmod(0o555)
    refused(faulty, 6, "cannot write to the results folder (Permission denied); check its owner")
    faulty.results.chmod(0o755)
    faulty.operations = "close_after_s: 0, min_free_gb: 1.0e+9"
    refused(faulty, 6, "1e+09 GB wanted; free space ('contimg clean', 'contimg purge') or lower")
    assert 'contimg_alert{name="trouble"} 3' in faulty.metrics()
    faulty.operations = Faulty.operations
    faulty.incoming.chmod(0)
    refused(faulty, 2, "the incoming folder cannot be read (Permission denied)")
    faulty.incoming.chmod(0o755)
    catalog = faulty.path / "demo/catalog.csv"
    os.utime(catalog, (time.time() + 7200,) * 2)
    refused(faulty, 2, "s ahead of the clock; set the clock right, or 'touch demo/catalog.csv'")
    os.utime(catalog)
    status, output = faulty.tick()
    assert status == 0, output
    assert len(faulty.measured()) == 2
    assert 'name="trouble"' not in faulty.metrics()


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_what_it_must(small_disk):
    """Room for some of the work only: what fits stands, nothing is half made, the rest follows."""
    faulty = small_disk
    faulty.operations = "close_after_s: 0, min_free_gb: 0, space_factor: 0.001"
    first, second = faulty.groups()
    real(faulty, "group", first)
    real(faulty, "group", second)
    ballast = faulty.results / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(faulty.results).free - 230_000))
    outputs = []
    for _ in range(2):
        status, output = faulty.tick()
        outputs.append(output)
        assert status != 0
        assert len(faulty.measured()) < 2
    assert any("disk full" in output for output in outputs), outputs
    whole = {path for path in faulty.results.rglob("group_*.hdf5") if path.stat().st_size == 0}
    assert not whole, "a group file without content looks finished"
    ballast.unlink()
    for _ in range(2):
        status, output = faulty.tick()
    assert status == 0, output
    assert faulty.measured() == {first, second} and faulty.failures() == {}
    assert list(faulty.results.rglob(".tmp-*")) == []


@pytest.mark.slow
def test_a_clock_that_was_ahead_is_told_and_does_no_harm(faulty):
    """All that was made carries tomorrow's date; a new group arrives today, and one tomorrow's."""
    faulty.operations = "close_after_s: 1.0e+9, min_free_gb: 0"
    assert faulty.tick()[0] == 0
    ahead_s = 86400.0
    for place in (faulty.results, faulty.path / ".snakemake"):
        for path in place.rglob("*"):
            moment = path.lstat().st_mtime + ahead_s
            os.utime(path, (moment, moment), follow_symlinks=False)
    for name, key in ((".alerts.json", "last_tick"), (".inventory-cache.json.groups", "from")):
        kept = json.loads((faulty.results / name).read_text())
        kept[key] += ahead_s
        (faulty.results / name).write_text(json.dumps(kept))
    done = faulty.ledger()
    later = faulty.path / "later"
    later.mkdir()
    _, _, today, tomorrow = raw_groups(later, 4)
    for path in [*today, *tomorrow]:
        path.rename(faulty.incoming / path.name)
    early = faulty.incoming / tomorrow[5].name
    os.utime(early, (time.time() + ahead_s,) * 2)
    assert faulty.status()["last_tick"]["age_s"] < -80_000
    status, output = faulty.tick()
    assert status == 0, output
    assert len(faulty.measured()) == 3
    third = max(faulty.measured())
    new = faulty.ledger()[len(done) :]
    assert all(third in job for _, job in new), "what was made yesterday stands"
    assert 'contimg_alert{name="clock"} 2' in faulty.metrics()
    state = faulty.status()
    assert state["groups"]["collecting"] == 1
    assert state["last_tick"]["age_s"] < 600
    (left,) = state["rejected"]
    assert left["path"].endswith(early.name) and "ahead of the clock" in left["reason"]
    # The clocks are right: nothing is made again, and the night can be closed.
    os.utime(early)
    faulty.operations = Faulty.operations
    done = faulty.ledger()
    status, output = faulty.tick()
    assert status == 0, output
    assert 'name="clock"' not in faulty.metrics()
    assert len(faulty.measured()) == 4 and closing.closed_nights(faulty.layout)
    fourth = max(faulty.measured())
    tiles = [job for _, job in faulty.ledger()[len(done) :] if "groups" in job and "T" in job]
    again = [job for job in tiles if fourth not in job and "mosaic" not in job]
    assert again == [], "tiles of the other day are not made again"
    ended = faulty.ledger()
    assert faulty.tick() == (0, "")
    assert faulty.ledger() == ended


@pytest.mark.slow
def test_a_release_after_an_hour_is_not_put_off_by_a_clock_that_goes_back(faulty):
    """A disk that failed four times is tried again when its record is older or from the future."""
    _, second = faulty.groups()
    faulty.fail(f"image {second} {told('transient', 'disk full')}")
    for _ in range(4):
        faulty.tick()
    failure = faulty.failures()[second]
    assert failure.quarantined and failure.attempts == 4
    assert not closing.closed_nights(faulty.layout), "the night waits for what may pass"
    faulty.fail()
    faulty.tick()
    assert second not in faulty.measured()
    path = next(faulty.results.rglob("failure.json"))
    record = json.loads(path.read_text())
    record["last_utc"] = "2099-01-01T00:00:00+00:00"
    path.write_text(json.dumps(record))
    status, output = faulty.tick()
    assert status == 0, output
    assert second in faulty.measured()
    assert closing.closed_nights(faulty.layout)
