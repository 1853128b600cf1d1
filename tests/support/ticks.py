"""A working folder in which only ticks run, whose nights close when a test says so."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dsa110_contimg.core.layout import Layout
from dsa110_contimg.operations import closing
from dsa110_contimg.operations.failures import Failure, read_all
from support.night import Operations, raw_groups

#: The first night of `raw_groups`.
NIGHT = "2026-02-10"


@dataclass
class Ticks(Operations):
    """A working folder for ticks."""

    closes: bool = True
    more: tuple[str, ...] = ()

    @classmethod
    def with_night(cls, path: Path, tiles: int = 2, days: Iterable[int] = (0,)) -> Ticks:
        """Return one in which some nights have arrived."""
        made = cls.make(path)
        for day in days:
            raw_groups(made.incoming, tiles, day)
        return made

    def copy(self, path: Path) -> Ticks:
        """Return a copy with the same times of modification."""
        shutil.copytree(self.path, path, symlinks=True)
        return type(self)(path, self.closes, self.more)

    def command(self, *arguments: str, wait_s: float = 0.0) -> list[str]:
        after = "0" if self.closes else "1.0e+9"
        config = ["incoming=incoming", f"inventory={{wait_s: {wait_s}}}", *self.more]
        config.append(f"operations={{close_after_s: {after}, min_free_gb: 0}}")
        return [sys.executable, "-m", "dsa110_contimg", *arguments, "--config", *config]

    def tick(self, expected: int = 0) -> str:
        """Tick; return what it printed."""
        status, output = self.call("tick")
        assert status == expected, output
        return output

    def fail(self, *lines: str) -> None:
        """Let stubs fail: ``step text message``; none: let none fail."""
        (self.path / "fail").write_text("".join(f"{line}\n" for line in lines))

    @property
    def layout(self) -> Layout:
        return Layout(self.results)

    @property
    def closed(self) -> list[str]:
        return closing.closed_nights(self.layout)

    def failures(self) -> dict[str, Failure]:
        """Return the records of failures by rule."""
        return {f.rule: f for f in read_all(self.layout, closing.nights_on_disk(self.layout))}

    def status(self) -> dict:
        """Return the snapshot that ``status --json`` prints."""
        status, output = self.call("status", "--json")
        assert status == 0, output
        return json.loads(output[output.index("{") :])

    def alerts(self) -> list[str]:
        """Return the names of the alerts in the metrics."""
        lines = (self.results / "metrics.prom").read_text().splitlines()
        return [line.split('"')[1] for line in lines if line.startswith("contimg_alert{")]

    def groups(self) -> list[str]:
        """Return the ids of the groups of all nights that have a folder."""
        return sorted(path.name for path in self.results.glob("nights/*/groups/*T*"))

    def steps(self, since: int = 0) -> list[str]:
        """Return the steps that began, after the first `since` notes of the ledger."""
        notes = self.ledger()[since:]
        return [job.split(" ")[0] for kind, job in notes if kind == "begin"]


def told(cause: str, message: str = "why") -> str:
    """Return what a step writes last, as the stubs take it."""
    return "contimg-failure: " + json.dumps({"cause": cause, "message": message, "status": 1})
