"""A month of an operator: data arrive day by day, faults befall the ticks, people read and act.

`World` is a working folder with a disk of its own; `FAULTS` are what may befall it, each with the
words by which it must be told where people look: in what a command prints, in the alerts, in the
metrics. `live` lets the days pass. An operator looks once a day, and does what the messages say.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dsa110_contimg.core.files import remove
from support import REPO
from support.night import Operations, arrive, kill_tree

#: Longest that one command may take, s.
PATIENCE_S = 900
#: Products that are removed or damaged: what a night is made of, and what all nights are.
PRODUCTS = (
    "nights/*/groups/*/*.image.fits",
    "nights/*/groups/*/*.photometry.csv",
    "nights/*/groups/*/*.html",
    "nights/*/mosaic*.fits",
    "nights/*/photometry.csv",
    "nights/*/qa.json",
    "nights/*/report.html",
    "lightcurves/*.csv",
)
#: Records that programs read to decide what to do.
RECORDS = (
    "nights/*/groups/*/*.json",
    "nights/*/*.json",
    "runs/*.json",
    "*.json",
    ".*.json",
)


@dataclass(frozen=True)
class Call:
    """One command: what it was, how it ended, what it printed, and what it took."""

    command: str
    status: int
    output: str
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Befallen:
    """A fault that befell the ticks: when, which, and the line that told of it."""

    day: int
    name: str
    told: str | None


@dataclass
class World(Operations):
    """A working folder whose results are on a disk of their own.

    Attributes
    ----------
    path : Path
        The folder.
    source : Path
        Checkout that the commands are of.
    options : dict of str to str
        Single values of the configuration.
    calls : list of Call
        The commands so far.
    """

    source: Path = REPO
    options: dict[str, str] = field(default_factory=dict)
    configfile: Path | None = None
    extra: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def of(cls, operations: Operations, **options: str) -> World:
        """Return a world in the folder of some operations."""
        values = {
            "incoming": "incoming",
            "inventory": "{wait_s: 0}",
            "operations": "{close_after_s: 0, min_free_gb: 0.001}",
        }
        return cls(operations.path, options=values | options)

    @property
    def env(self) -> dict[str, str]:
        ours = {"PYTHONPATH": str(self.source / "src"), "TMPDIR": str(self.path / "tmp")}
        return {**super().env, **ours, **self.extra}

    def command(self, *arguments: str, wait_s: float = 0.0) -> list[str]:
        command = [sys.executable, "-m", "dsa110_contimg", *arguments]
        if self.configfile:
            command += ["--configfile", str(self.configfile)]
        return [*command, "--config", *(f"{k}={v}" for k, v in self.options.items())]

    def call(self, *arguments: str, wait_s: float = 0.0, **env: str) -> tuple[int, str]:
        """Run a command to its end, and keep what it took."""
        log = self.path / "said"
        began = time.monotonic()
        with open(log, "w") as said:
            process = subprocess.Popen(
                self.command(*arguments),
                cwd=self.path,
                env={**self.env, **env},
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            status, usage = _wait(process)
        seconds = time.monotonic() - began
        output = log.read_text(errors="replace")
        self.calls.append(Call(arguments[0], status, output, seconds, usage))
        return status, output

    def said(self, since: int) -> str:
        """Return what people could read since some call: outputs, alerts, metrics."""
        texts = [call.output for call in self.calls[since:]]
        for name in (".alerts.json", "metrics.prom"):
            with suppress(OSError):
                texts.append((self.results / name).read_text(errors="replace"))
        return "\n".join(texts)

    def some(self, patterns: Sequence[str], rng: random.Random) -> Path | None:
        """Return one of the files that fit any of some patterns, all patterns being as likely."""
        for pattern in rng.sample(patterns, len(patterns)):
            if found := sorted(p for p in self.results.glob(pattern) if p.is_file()):
                return rng.choice(found)
        return None

    def processes(self) -> list[int]:
        """Return the processes that still work in this folder."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(folder / "cwd").startswith(str(self.path)):
                    found.append(int(folder.name))
        return found

    def files(self) -> int:
        """Return how many files there are beside the raw ones, hidden ones too."""
        return sum(p.is_file() for p in self.path.rglob("*") if self.incoming not in p.parents)


def _wait(process: subprocess.Popen) -> tuple[int, float]:
    """Wait for a process; return its exit status and the greatest memory of its processes, MB."""
    end = time.monotonic() + PATIENCE_S
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss / 1024
        if time.monotonic() > end:
            kill_tree(process)
            raise TimeoutError(f"{process.args}: still at work after {PATIENCE_S} s")
        time.sleep(0.02)


# --- faults ---------------------------------------------------------------------------------------

#: A fault: given the world and random numbers, it lets ticks run under it; it returns words (a
#: regular expression) by which it must be told, or None if it must not be felt at all.
Fault = Callable[[World, random.Random], str | None]
FAULTS: dict[str, Fault] = {}
#: Faults that only steps that pretend can be told to have.
OF_STUBS = set[str]()


def fault(function: Fault) -> Fault:
    """Add to the faults."""
    FAULTS[function.__name__] = function
    return function


def of_stubs(function: Fault) -> Fault:
    """Add to the faults, of steps that only pretend."""
    OF_STUBS.add(function.__name__)
    return fault(function)


@fault
def tick_killed_with_all_its_jobs(world, rng):
    process = world.start("tick")
    killed = _interrupt(process, rng, lambda: kill_tree(process))
    world.call("tick")
    return r"(tick|run).*(was killed|did not end)" if killed else None


@fault
def tick_killed_alone(world, rng):
    """Its jobs live on for a while."""
    process = world.start("tick")
    killed = _interrupt(process, rng, lambda: os.kill(process.pid, signal.SIGKILL))
    world.call("tick")
    return r"(tick|run).*(was killed|did not end)" if killed else None


@fault
def tick_asked_to_end(world, rng):
    process = world.start("tick")
    _interrupt(process, rng, process.terminate)
    world.call("tick")


def _interrupt(process: subprocess.Popen, rng: random.Random, how: Callable[[], None]) -> bool:
    """Let a process work for a moment, then do something to it; tell whether it was at work."""
    try:
        process.communicate(timeout=rng.uniform(0.3, 8.0))
    except subprocess.TimeoutExpired:
        how()
        process.communicate(timeout=PATIENCE_S)
        return process.returncode not in (0, 1)
    return False


@of_stubs
def job_killed(world, rng):
    step = rng.choice(["convert", "calibrate", "image", "photometry", "mosaic", "lightcurves"])
    return _failing(world, step, "kill", "killed")


@of_stubs
def job_with_changing_troubles(world, rng):
    """A bug, then data that cannot be used, then a lost disk: each looks like a first attempt."""
    step = rng.choice(["convert", "image", "photometry", "night_qa", "lightcurves"])
    for cause in ("bug", "transient", "compute"):
        words = _failing(world, step, _mark(cause, f"a trouble of the kind {cause}"), "a trouble")
    return words


@of_stubs
def picture_that_cannot_be_drawn(world, rng):
    step = rng.choice(["tile_report", "candidate_plots", "mosaic_view", "night_report"])
    return _failing(world, step, _mark("bug", "ParseException: Expected end of text"), "ParseExc")


def _mark(cause: str, message: str) -> str:
    return f'contimg-failure: {{"cause": "{cause}", "message": "{message}", "status": 1}}'


def _failing(world: World, step: str, message: str, words: str) -> str | None:
    told = world.path / "fail"
    told.write_text(f"{step} / {message}\n")
    world.call("tick")
    begun = f"{step}:" in world.calls[-1].output or words in world.calls[-1].output
    told.unlink()
    world.call("tick")
    return words if begun else None


@fault
def disk_full(world, rng):
    if not os.path.ismount(world.results):
        return None
    ballast = world.results / "ballast"
    free = shutil.disk_usage(world.results).free
    ballast.write_bytes(bytes(max(0, free - rng.choice([0, 20_000, 400_000]))))
    world.call("tick")
    ballast.unlink()
    world.call("tick")
    return r"disk full|No space left|cannot write"


@fault
def disk_read_only(world, rng):
    if not os.path.ismount(world.results):
        return None
    _mount("-o", "remount,ro", str(world.results))
    world.call("tick")
    _mount("-o", "remount,rw", str(world.results))
    world.call("tick")
    return r"Read-only file system"


@fault
def record_damaged(world, rng):
    """As a power cut leaves it, or another release."""
    if (path := world.some(RECORDS, rng)) is None:
        return None
    whole = path.read_bytes()
    kinds = [
        b"",
        whole[: len(whole) // 2],
        b"[]\n",
        b"\0" * len(whole),
        b'{"of a later release": 1}',
    ]
    path.write_bytes(rng.choice(kinds))
    world.call("tick")
    world.call("verify")
    return None


@fault
def product_removed(world, rng):
    if (path := world.some(PRODUCTS, rng)) is None:
        return None
    path.unlink()
    world.call("tick")
    if path.exists():
        return None
    world.call("verify")
    return re.escape(path.name)


@fault
def byte_flipped(world, rng):
    if (path := world.some(PRODUCTS, rng)) is None:
        return None
    content = bytearray(path.read_bytes())
    if not content:
        return None
    content[rng.randrange(len(content))] ^= 0xFF
    moment = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(moment, moment))  # rot does not date what it spoils
    world.call("verify")
    world.call("tick")
    return re.escape(path.name)


@fault
def clock_ahead(world, rng):
    """All that the last ticks made carries tomorrow's date."""
    for path in world.results.rglob("*"):
        with suppress(OSError):
            moment = path.lstat().st_mtime
            if time.time() - moment < 60:
                os.utime(path, (moment + 86400,) * 2, follow_symlinks=False)
    world.call("tick")


@fault
def program_absent(world, rng):
    without = world.path / "without"
    if not without.exists():
        without.mkdir()
        for program in Path("/usr/bin").iterdir():
            if program.name not in ("wsclean", "aoflagger"):
                (without / program.name).symlink_to(program)
    folders = [str(world.path / "bin"), str(Path(sys.executable).parent), str(without)]
    world.call("tick", PATH=os.pathsep.join(folders))
    return r"(wsclean|aoflagger).*not (installed|on the PATH|found)"


@fault
def option_misspelt(world, rng):
    world.options["imagng.preset"] = "quick"
    world.call("tick")
    del world.options["imagng.preset"]
    return r"imagng.*(no such key|did you mean)"


@fault
def incoming_folder_gone(world, rng):
    aside = world.incoming.with_name("unmounted")
    world.incoming.rename(aside)
    world.call("tick")
    aside.rename(world.incoming)
    return r"incoming: there is no folder"


@fault
def foreign_temporaries(world, rng):
    folder = world.path / "tmp" / ".tmp-1-elsewhere-x"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "theirs").touch()
    os.utime(folder, (0, 0))
    with suppress(PermissionError):
        os.chown(folder, 65534, 65534)
    world.call("tick")
    assert (folder / "theirs").exists(), "a foreign user's files were deleted"
    shutil.rmtree(folder)


@fault
def foreign_files_among_the_results(world, rng):
    night = next(iter(sorted(world.results.glob("nights/*"))), world.results)
    theirs = [
        world.results / "nights/2026-13-45",
        world.results / "nights/notes.txt",
        night / "groups/old stuff",
        world.results / "lightcurves/my figure.png",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if not path.suffix else path.write_text("mine")
    world.call("tick")
    for path in theirs:
        assert path.exists(), f"{path} was deleted"
        path.rmdir() if path.is_dir() else path.unlink()


@fault
def no_data_among_the_data(world, rng):
    junk = world.incoming / "2026-02-10T00:00:00_sb07.hdf5"
    junk.write_bytes(b"garbage")
    world.call("status")
    world.call("tick")
    junk.unlink()
    return r"no HDF5 file"


@fault
def second_tick_at_once(world, rng):
    first = world.start("tick")
    time.sleep(rng.uniform(0.0, 2.0))
    world.call("tick")
    first.communicate(timeout=PATIENCE_S)
    return r"is at work on this results folder" if world.calls[-1].status == 5 else None


@fault
def nobody_listens(world, rng):
    """The alerts' webhook is away."""
    world.options["alerts"] = "{webhook: 'http://127.0.0.1:9/x', silence_min: 1}"
    world.call("tick")
    del world.options["alerts"]
    return r"alerts were not told by webhook"


@fault
def scratch_folder_gone(world, rng):
    (world.path / "tmp").rename(world.path / "tmp.gone")
    world.call("tick", TMPDIR=str(world.path / "nowhere"))
    (world.path / "tmp.gone").rename(world.path / "tmp")


@fault
def upgrade(world, rng):
    """A later release, in which a step's code differs but not what it gives."""
    world.source = later_release(world.path / "later")
    world.call("tick")
    return None


@fault
def roll_back(world, rng):
    world.source = REPO
    world.call("tick")
    return None


def later_release(folder: Path) -> Path:
    """Return a copy of the checkout with another version and another code of the photometry."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for name in ("Snakefile", "workflow", "config", "profiles", "src"):
            copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
            copy(REPO / name, folder / name)
        init = folder / "src/dsa110_contimg/__init__.py"
        init.write_text(
            re.sub(r'__version__ = "[^"]+"', '__version__ = "99.0.0"', init.read_text())
        )
        step = folder / "workflow/scripts/photometry.py"
        step.write_text(step.read_text() + "\n# Of a later release.\n")
    return folder


# --- days -----------------------------------------------------------------------------------------


@contextmanager
def disk(world: World, size_mb: int) -> Iterator[bool]:
    """Give the results a disk of their own, where this user may mount one; tell whether."""
    world.results.mkdir(exist_ok=True)
    mounted = _mount("-t", "tmpfs", "-o", f"size={size_mb}m", "contimg-soak", str(world.results))
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(world.results)], check=True)


def _mount(*options: str) -> bool:
    return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0


def live(
    world: World,
    days: Sequence[Sequence[Sequence[Path]]],
    faults: Sequence[str],
    seed: int,
    each: int = 1,
) -> list[Befallen]:
    """Let days pass: data arrive in bursts, ticks run, and faults befall them.

    Parameters
    ----------
    world : World
        Where.
    days : sequence
        Raw files by day and burst.
    faults : sequence of str
        Names of what may befall the ticks, in random order; none for a calm life.
    seed : int
        Of the random numbers.
    each : int
        How many befall them in each burst.

    Returns
    -------
    list of Befallen
        What befell the ticks.
    """
    rng = random.Random(seed)
    (world.path / "tmp").mkdir(exist_ok=True)
    story: list[Befallen] = []
    waiting: list[str] = []
    for day, bursts in enumerate(days):
        for burst in bursts:
            for file in burst:
                arrive(file, world.incoming)
            for _ in range(each if faults else 0):
                waiting = waiting or rng.sample(faults, len(faults))
                story.append(_befall(world, day, waiting.pop(), rng))
            world.call("tick")
        if faults:
            look_after(world)
    settle(world)
    return story


def _befall(world: World, day: int, name: str, rng: random.Random) -> Befallen:
    since = len(world.calls)
    words = FAULTS[name](world, rng)
    line = _line(world.said(since), words)
    print(f"day {day}: {name}: {line}", flush=True)
    return Befallen(day, name, line)


def _line(said: str, words: str | None) -> str | None:
    """Return the first line with some words; an empty one where none are wanted."""
    if words is None:
        return ""
    return next((line for line in said.splitlines() if re.search(words, line)), None)


def look_after(world: World) -> None:
    """Do as an operator does once a day: verify, follow advice, retry what was set aside."""
    status, output = world.call("verify")
    if status:
        for path in re.findall(r"; 'rm -r ([^']+)', then ", output):
            remove(world.path / path)
        for command in sorted(set(re.findall(r"'contimg (run[^']*)' makes it again", output))):
            world.call(*command.split())
    if "quarantined: " in world.call("status")[1]:
        world.call("retry", "all")


def settle(world: World, ticks: int = 8) -> None:
    """Let ticks run until there is nothing left to do.

    Raises
    ------
    AssertionError
        If there is still something after so many.
    """
    for _ in range(ticks):
        if world.call("tick") == (0, ""):
            return
    raise AssertionError(f"after {ticks} ticks there is still work:\n{world.calls[-1].output}")
