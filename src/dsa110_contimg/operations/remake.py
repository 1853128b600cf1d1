"""Make products again from what they were made from, and compare them value by value.

A step runs once more with the arguments that its sidecar recorded, on a shadow of the results
folder: links to what is there, and room for what is made. Data that did not stay are made first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.checksums import of_file
from ..core.errors import MARK, DataError
from ..core.files import remove, scratch
from ..core.layout import Layout, parse_group
from ..core.places import PACKAGE, script
from ..core.provenance import COMMIT, CONFIGURATION, RUN
from ..core.sidecar import sidecar_path
from ..core.times import DAY_S, duration
from .verify import Place, cards_of, read_json

__all__ = ["Result", "check"]

#: The imager with several threads adds in another order each time: largest difference over largest
#: value that is still rounding.
ROUNDING = 1e-6
#: Time limit of a step that is made again, s; its programs have shorter ones of their own.
STEP_S = DAY_S
#: Casacore's tables are read by one thread.
_READING = threading.Lock()

State = Literal["equal", "rounding", "differs", "impossible"]


@dataclass(frozen=True)
class Result:
    """What became of a product that was made again.

    Attributes
    ----------
    product : str
        Below the results folder.
    state : str
        ``equal``, ``rounding`` (equal to rounding), ``differs``, or ``impossible`` to make again.
    words : str
        What differs or why.
    """

    product: str
    state: State
    words: str = ""

    def __str__(self) -> str:
        state = {"rounding": "equal to rounding", "impossible": "cannot be made again"}
        return f"{self.product}: {state.get(self.state, self.state)}" + (
            f": {self.words}" if self.words else ""
        )


def check(
    layout: Layout, where: Iterable[Place], say: Callable[[str], None] = lambda text: None
) -> Iterator[Result]:
    """Make the products of some places again, several places at a time; yield what became of them.

    Parameters
    ----------
    layout : Layout
        Of the results folder.
    where : iterable of Place
        What is made; taken as it is needed.
    say : callable
        Is told of the progress.
    """
    layout = Layout(layout.results.absolute())
    cores, done = os.cpu_count() or 1, 0
    todo = iter(where)
    waiting: set[Future[list[Result]]] = set()
    with ThreadPoolExecutor(cores) as pool:
        while True:
            while len(waiting) < cores and (place := next(todo, None)):
                waiting.add(pool.submit(_place, layout, place))
            if not waiting:
                return
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                yield from future.result()
                done += len(future.result())
            say(f"{done} products made again")


def _place(layout: Layout, place: Place) -> list[Result]:
    """Make the products of a place again, in the order in which they were made."""
    cards = [(read_json(card), card.absolute()) for card in cards_of(place)]
    cards.sort(key=lambda pair: str((pair[0] or {}).get("created_utc")))
    by_call: dict[tuple[str, ...], list[Path]] = {}
    results = []
    for content, card in cards:
        argv = _argv(content)
        if argv is None:
            why = "its sidecar cannot be read"
            if content is not None:
                why = f"its sidecar of {content.get('created_utc')} tells no arguments"
            results.append(Result(_product(layout, card), "impossible", why))
        else:
            by_call.setdefault(argv, []).append(card)
    with scratch("verify", layout.results) as folder:
        shadow = _Shadow(layout, folder)
        for argv, made in by_call.items():
            results += _again(shadow, list(argv), made)
    return results


def _argv(content: dict[str, Any] | None) -> tuple[str, ...] | None:
    argv = ((content or {}).get("provenance") or {}).get("argv")
    return tuple(argv) if argv else None


def _product(layout: Layout, card: Path) -> str:
    return card.with_suffix("").relative_to(layout.results).as_posix()


def _again(shadow: _Shadow, argv: list[str], cards: list[Path]) -> list[Result]:
    """Call a step again; compare all that it made with all that it had made."""
    names = [_product(shadow.layout, card) for card in cards]
    contents = [read_json(card) or {} for card in cards]
    outputs = [
        card.with_name(entry["path"])
        for card, content in zip(cards, contents, strict=True)
        for entry in content["outputs"]
    ]
    changed = _changed(shadow, contents[0])
    try:
        shadow.make(argv, [*outputs, *cards], contents[0])
    except DataError as error:
        return [Result(name, "impossible", str(error)) for name in names]
    except _Failed as error:
        return [Result(name, "differs", str(error)) for name in names]
    several = "--threads" in argv and int(argv[argv.index("--threads") + 1]) > 1
    results = []
    for name, card, content in zip(names, cards, contents, strict=True):
        made = [card, *(card.with_name(entry["path"]) for entry in content["outputs"])]
        results.append(_compared(shadow, name, made, ROUNDING if several else 0.0, changed))
    shadow.forget([*outputs, *cards])
    return results


def _compared(
    shadow: _Shadow, name: str, made: list[Path], rounding: float, changed: list[str]
) -> Result:
    from ..reports.compare import Difference, compare

    found: list[Difference] = []
    for path in made:
        again = shadow.of(path)
        if not path.exists():  # it was let go, or did not stay
            continue
        if not again.exists():
            found.append(Difference(f"{path.name}: was not made this time"))
            continue
        try:
            with _READING:
                found += (d.within(f"{path.name}: ") for d in compare(path, again))
        except Exception as error:  # a damaged file may end its reader in whatever way
            found.append(Difference(f"{path.name}: cannot be compared ({error})"))
    if not found:
        return Result(name, "equal")
    worst = max(found, key=lambda difference: difference.relative)
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    words = f"{worst.text}{more}"
    if worst.relative <= rounding:
        return Result(name, "rounding", f"{worst.relative:.1g} of the largest value at most")
    if changed:
        return Result(name, "impossible", f"made from another {', '.join(changed)}: {words}")
    return Result(name, "differs", words)


def _changed(shadow: _Shadow, content: dict[str, Any]) -> list[str]:
    """Return the names of inputs that are not what they were when the product was made."""
    found = []
    for entry in content.get("inputs", ()):
        path = shadow.home / entry["path"]
        if path.is_file() and (size := entry.get("size_bytes")) is not None:
            same = path.stat().st_size == size
            if same and (recorded := entry.get("sha256")):
                same = of_file(path) == recorded
            if not same:
                found.append(path.name)
    return found


class _Failed(Exception):
    """A step that had made a product does not make it any more."""


class _Shadow:
    """A folder that looks like that of the results, from the one above on; steps may write in it.

    Folders that something is made in are real and hold links to what is in theirs; all others are
    links themselves.
    """

    def __init__(self, layout: Layout, folder: Path) -> None:
        self.layout = layout
        self.home = layout.results.parent
        self.results = folder / layout.results.name
        self._log = folder / ".log"
        self._open: set[Path] = set()
        for entry in self.home.glob("[!.]*"):
            if entry != layout.results:
                (folder / entry.name).symlink_to(entry)

    def of(self, path: Path) -> Path:
        """Return the place of a product in the shadow."""
        return self.results / path.relative_to(self.layout.results)

    def make(self, argv: list[str], outputs: Collection[Path], content: dict[str, Any]) -> None:
        """Call a step again.

        Raises
        ------
        DataError
            If what it needs is gone.
        _Failed
            If it fails.
        """
        for entry in content.get("inputs", ()):
            self._provide(Path(os.path.normpath(self.home / entry["path"])))
        for path in outputs:
            self._enter(path.parent)
            remove(self.of(path))
        command = [sys.executable, str(script(argv[0])), *map(self._translated, argv[1:])]
        with self._log.open("w+", encoding="utf-8", errors="replace") as log:
            try:
                done = subprocess.run(
                    command,
                    cwd=self.results.parent,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=False,
                    timeout=STEP_S,
                )
            except subprocess.TimeoutExpired:
                raise _Failed(f"the step did not end within {duration(STEP_S)}") from None
            if done.returncode == 2:
                raise DataError("its arguments are those of another release")
            if done.returncode:
                log.seek(0)
                raise _Failed(f"the step fails now: {_why(log.read())}")

    def forget(self, outputs: Collection[Path]) -> None:
        """Let what was there stand again for what was made, but for what did not stay."""
        for path in outputs:
            if path.exists():
                remove(self.of(path))
                self.of(path).symlink_to(path)

    def _provide(self, path: Path) -> None:
        """See to it that an input is there; make again what did not stay or was let go."""
        if not path.is_relative_to(self.layout.results):
            if not path.exists():
                raise DataError(f"{path} is gone")
            return
        if path.exists() or self.of(path).exists():
            return
        card = sidecar_path(path)
        if not card.exists() and path.name.endswith(".cal.ms"):  # for a field, beside the tile's
            card = sidecar_path(self.layout.group(parse_group(path), "cal.ms"))
        if path.name.endswith(".json"):
            self._provide(path.with_suffix(""))
            return
        content = read_json(card)
        argv = _argv(content)
        if content is None or argv is None:
            raise DataError(f"{path} is gone, and no sidecar tells how it was made")
        here = self._named(card.with_suffix(""), argv)
        arguments = [str(path) if word == here else word for word in argv]
        self.make(arguments, [path, sidecar_path(path)], content)

    def _named(self, product: Path, argv: Collection[str]) -> str | None:
        """Return the argument that names a product."""
        return next((word for word in argv if self._path(word) == product), None)

    def _path(self, word: str) -> Path:
        return Path(os.path.normpath(self.home / word))

    def _translated(self, word: str) -> str:
        """Return an argument; a path from the root on has its place in the shadow instead."""
        inside = Path(word).is_relative_to(self.layout.results)
        return str(self.of(Path(word))) if inside else word

    def _enter(self, folder: Path) -> None:
        """Make a folder of the shadow, and those above it, real."""
        if folder in self._open:
            return
        if folder != self.layout.results:
            self._enter(folder.parent)
        place = self.of(folder)
        if place.is_symlink():
            place.unlink()
        place.mkdir()
        for entry in folder.glob("[!.]*") if folder.is_dir() else ():
            (place / entry.name).symlink_to(entry)
        self._open.add(folder)


def _environment() -> dict[str, str]:
    """Return the environment of a step: that of a job of no run."""
    env = {k: v for k, v in os.environ.items() if k not in (COMMIT, CONFIGURATION, RUN)}
    paths = [str(PACKAGE.parent), *filter(None, [env.get("PYTHONPATH")])]
    programs = [str(Path(sys.executable).parent), env.get("PATH", os.defpath)]
    env |= {"PYTHONPATH": os.pathsep.join(paths), "PATH": os.pathsep.join(programs)}
    return {"HDF5_USE_FILE_LOCKING": "FALSE", "OPENBLAS_NUM_THREADS": "1"} | env


def _why(log: str) -> str:
    """Return what a step said of its failure."""
    lines = log.splitlines()
    marked = [line for line in lines if line.startswith(MARK)]
    if marked:
        return str(json.loads(marked[-1].removeprefix(MARK))["message"])
    return lines[-1] if lines else "it says nothing"
