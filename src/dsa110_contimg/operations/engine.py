"""Call Snakemake, and turn what failed into states.

Only the holder of a results folder calls it (`locking.hold`), within a recorded run
(`runs.recorded`): the logger tells which jobs ended how.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..core import runs
from ..core.errors import EngineError, MachineError
from ..core.files import write_text
from ..core.layout import Layout
from ..core.options import Config
from ..core.places import repository
from . import failures, frozen, locking, outdated, planning, reconcile, slurm
from .failures import Failure
from .planning import Plan

__all__ = ["Engine", "Outcome", "snakemake"]

#: What of Snakemake's own words goes into one line, characters.
MESSAGE_LENGTH = 300


#: Signals by which this process is asked to end.
ENDS = (signal.SIGTERM, signal.SIGHUP)
#: How often the time is looked at while Snakemake is at work, s.
LOOK_S = 1.0
#: How long Snakemake may take to end when it is interrupted, s.
PATIENCE_S = 15.0


def snakemake() -> list[str]:
    """Return the command that calls Snakemake on this workflow."""
    return [sys.executable, "-m", "snakemake", "--snakefile", str(repository() / "Snakefile")]


@dataclass(frozen=True)
class Outcome:
    """How a call of Snakemake ended.

    Attributes
    ----------
    status : int
        Snakemake's exit status; 0 when the time budget ended it and nothing had failed; that of
        `EngineError` when it ended without a failed job.
    failed : list of Failure
        What failed, in its new state.
    retried : list of Failure
        Attempts that failed, after which another was made at once.
    stopped : bool
        Whether it was asked to end before its work was done.
    """

    status: int
    failed: list[Failure] = field(default_factory=list)
    retried: list[Failure] = field(default_factory=list)
    stopped: bool = False


@dataclass
class Engine:
    """Snakemake, as one run uses it.

    Attributes
    ----------
    config : Config
        The validated configuration.
    options : sequence of str
        Options of Snakemake for every call (configuration, cores, profile).
    deadline : float
        Monotonic time after which no further job begins, s.
    cluster : bool
        Whether jobs go to SLURM.
    watched : bool
        Whether it is recorded that Snakemake stumbles; not where a person's own targets or options
        may be wrong.
    """

    config: Config
    options: Sequence[str]
    deadline: float = float("inf")
    cluster: bool = False
    watched: bool = True

    @property
    def layout(self) -> Layout:
        """Names of the products."""
        return Layout(self.config.results)

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline

    def settle(self) -> dict[str, str]:
        """Return the groups and nights that must be left alone, and why; see `slurm.settle`."""
        return slurm.settle(self.config.results) if self.cluster else {}

    def _check_settled(self, plan: Plan, targets: Collection[str]) -> None:
        """Raise `MachineError` if a job of a killed run may yet write to what is to be made."""
        for name, why in self.settle().items():
            aimed_at = any(name in target for target in targets)
            if aimed_at or (not targets and (name in ("", *plan.groups, *plan.nights))):
                raise MachineError(f"{name or 'all nights'}: {why}")

    def make(self, plan: Plan, targets: Collection[str], night: str = "") -> Outcome:
        """Make some products of a plan; record what fails, and forget failures that are past.

        Parameters
        ----------
        plan : Plan
            The plan; Snakemake works on its inventory and nights.
        targets : collection of str
            Products and further options; all products when empty.
        night : str
            The night that all targets are of, if they are of one.
        """
        options = [*self.options, "--logger", "contimg"]
        if self.cluster:
            self._check_settled(plan, targets)
            options += slurm.options(self.config.results)
        unlock(self.config.results)
        handed = frozen.folder_of(self.layout)
        inventory = frozen.inventory_path(self.layout)
        nights = frozen.needed_for(plan, night) if night else None
        places = frozen.freeze(self.config, plan, handed, inventory, nights)
        if words := outdated.news(self.config, plan.nights):
            print(words, flush=True)
        seen = len(runs.events())
        span = f"{plan.nights[0]} to {plan.nights[-1]}" if plan.nights else "no night"
        locking.say(
            phase=f"making {len(targets) or 'all'} products of {span}",
            events=os.environ[runs.EVENTS],
        )
        # Targets come before options: some of Snakemake's options take any number of words.
        status, stopped = self._call([*targets, *options, *frozen.options(handed)], places)
        events = runs.events()[seen:]
        jobs = [event for event in events if event["end"] != "error"]
        for event in jobs:
            if event["end"] == "done":
                failures.clear(self.layout, event)
        if stopped and not self.out_of_time:
            return Outcome(status, stopped=stopped)  # jobs that were interrupted did not fail
        failed = [
            failures.note(
                self.layout,
                event,
                planning.fingerprint(
                    self.config, plan.groups, event["wildcards"], event.get("command", "")
                ),
            )
            for event in failures.failed(jobs)
        ]
        if stopped and not failed:
            status = 0  # what is left is for the next run
        scope = {"night": night} if night else {}
        if status and not failed:
            said = [event["message"] for event in events if event["end"] == "error"]
            failed = [self._stumbled(status, said, scope)] if self.watched else []
            status = EngineError.status
        else:
            failures.clear(self.layout, {"rule": failures.WORKFLOW, "wildcards": scope})
        return Outcome(status, failed, failures.retried(jobs), stopped)

    def _stumbled(self, status: int, words: Sequence[str], scope: Mapping[str, str]) -> Failure:
        """Record that Snakemake ended without a failed job; keep all that it said."""
        log = self.layout.log(failures.WORKFLOW, scope.get("night", "all"))
        write_text(log, "\n".join(words) + "\n")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        message = " ".join(" ".join(words).split())[:MESSAGE_LENGTH]
        message = message or f"Snakemake {how} without a word; see the output of the run"
        return failures.note_workflow(self.layout, message, str(log), scope)

    def _call(self, arguments: Sequence[str], places: Mapping[str, str]) -> tuple[int, bool]:
        """Run Snakemake; return its exit status and whether it was asked to end.

        At the deadline, and when this process is asked to end, Snakemake is: it starts no further
        job and waits for those at work, but not for ever (``operations.end_s``).
        """
        sys.stdout.flush()
        wait = {reconcile.WAIT: str(self.config.operations.cluster_wait_s)}
        process = subprocess.Popen([*snakemake(), *arguments], env=os.environ | places | wait)
        asked: list[float] = []

        def stop(*_: object) -> None:
            asked.append(time.monotonic())
            process.terminate()

        before = {number: signal.signal(number, stop) for number in ENDS}
        try:
            while process.poll() is None:
                try:
                    process.wait(LOOK_S)
                except KeyboardInterrupt:  # the terminal has told Snakemake, too
                    asked.append(time.monotonic())
                except subprocess.TimeoutExpired:
                    if not asked and self.out_of_time:
                        print("time budget spent: jobs at work end, no further one begins")
                        sys.stdout.flush()
                        stop()
                    if asked and time.monotonic() - asked[0] > self.config.operations.end_s:
                        print("jobs at work did not end in time: they are ended", flush=True)
                        _end(process)
            return process.returncode, bool(asked)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(process: subprocess.Popen) -> None:
    """End Snakemake and its jobs: interrupted it cancels those on a cluster, too."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    locking.kill_jobs()


def unlock(results: Path) -> None:
    """Remove the locks of a killed Snakemake on files of a results folder.

    Only the holder of the folder may do so. Locks on other results folders, which someone else may
    hold from the same working folder, stay.
    """
    below = str(results) + os.sep
    for lock in Path(".snakemake/locks").glob("*.lock"):
        with suppress(FileNotFoundError):  # another Snakemake's, which ended
            if any(line.startswith(below) for line in lock.read_text().splitlines()):
                lock.unlink()
