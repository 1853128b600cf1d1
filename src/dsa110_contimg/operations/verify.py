"""Scrub: whether products are what they were when they were made.

Each sidecar holds the checksums of all that its step made; here they are held against what lies on
the disk. What is found is kept in ``verify.json`` for those who watch.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core.checksums import of_file, size_and_sum
from ..core.errors import ConfigError
from ..core.files import write_text
from ..core.layout import Layout
from ..core.sidecar import is_sealed
from ..core.times import GROUP_ID, NIGHT, utc_now
from . import closing

__all__ = [
    "Damage",
    "Findings",
    "Place",
    "cards_of",
    "check_configurations",
    "chosen",
    "damaged_before",
    "keep",
    "places",
    "read_json",
    "sampled",
    "scrub",
]

#: Files that say how things are: no products.
_STATE = re.compile(r"(closed|purged|failure[\w.-]*)\.json")
#: Data that do not stay, though their sidecars do.
_TEMPORARY = ".cal.ms"


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was made.

    Attributes
    ----------
    path : str
        File or folder, below the results folder.
    what : str
        What is wrong with it.
    remedy : str
        What makes it again.
    """

    path: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}; {self.remedy}"


@dataclass
class Findings:
    """What was found.

    Attributes
    ----------
    n_products, n_bytes : int
        Files and folders that were held against their checksums, and their size.
    n_without : int
        Products of releases that recorded no checksums.
    damaged : list of Damage
        What is not as it was made.
    unknown : list of str
        Files that no sidecar vouches for.
    checked : set of str
        What was looked at, below the results folder.
    """

    n_products: int = 0
    n_bytes: int = 0
    n_without: int = 0
    damaged: list[Damage] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)

    def add(self, other: Findings) -> None:
        """Take up what was found elsewhere; what was checked is not kept."""
        self.n_products += other.n_products
        self.n_bytes += other.n_bytes
        self.n_without += other.n_without
        self.damaged += other.damaged
        self.unknown += other.unknown


@dataclass(frozen=True)
class Place:
    """A folder of products, and which of its sidecars are to be checked.

    Attributes
    ----------
    folder : Path
        The folder.
    cards : tuple of Path, optional
        Sidecars; all of them, and what none vouches for, when absent.
    """

    folder: Path
    cards: tuple[Path, ...] | None = None


# --- which ----------------------------------------------------------------------------------------


def places(layout: Layout, nights: Collection[str] | None = None) -> Iterator[Place]:
    """Yield all folders that hold products; of some nights, if these are named."""
    for night in sorted(closing.nights_on_disk(layout) if nights is None else nights):
        if not layout.night(night).is_dir():
            raise ConfigError(f"{night}: there is no such night in {layout.results}")
        yield Place(layout.night(night))
        groups = sorted(layout.night(night, "groups").glob("*/"))
        yield from map(Place, groups)
    if nights is None:
        yield from (Place(path) for path in (layout.lightcurves(), layout.results))


def chosen(layout: Layout, names: Iterable[str]) -> Iterator[Place]:
    """Yield the places of some products: files or folders, groups or nights.

    Raises
    ------
    ConfigError
        If no sidecar vouches for one of them.
    """
    for name in names:
        if re.fullmatch(NIGHT, name):
            yield from places(layout, [name])
        elif re.fullmatch(GROUP_ID, name) and layout.group(name).is_dir():
            yield Place(layout.group(name))
        else:
            path = _inside(layout, name)
            known = _known(path.parent)
            cards = tuple(card for card, vouched in known.items() if path.name in vouched)
            if not cards:
                raise ConfigError(f"{name}: no sidecar vouches for it; name a file, group or night")
            yield Place(path.parent, cards)


def _inside(layout: Layout, name: str) -> Path:
    """Return the path of a product that is named from here or from the results folder."""
    here, results = Path(os.path.abspath(name)), layout.results.absolute()
    inside = here.relative_to(results) if here.is_relative_to(results) else Path(name)
    return layout.results / inside


def sampled(layout: Layout, n: int, nights: Collection[str] | None = None) -> Iterator[Place]:
    """Yield some products at random: in a folder at random, one at random."""
    folders = [place.folder for place in places(layout, nights)]
    taken: set[Path] = set()
    while len(taken) < n and folders:
        folder = random.choice(folders)
        if left := [card for card in _known(folder) if card not in taken]:
            card = random.choice(left)
            taken.add(card)
            yield Place(folder, (card,))
        else:
            folders.remove(folder)


def cards_of(place: Place) -> list[Path]:
    """Return the sidecars of a place that are to be checked."""
    return list(_known(place.folder) if place.cards is None else place.cards)


def _known(folder: Path) -> dict[Path, set[str]]:
    """Return the sidecars in a folder, and the names of what each vouches for, itself among it."""
    if (folder / "nights").is_dir():  # the results folder: its other files are no products
        paths = [folder / "index.sqlite.json"] if (folder / "index.sqlite.json").exists() else []
    else:
        paths = sorted(path for path in folder.glob("[!.]*.json"))
    found = {}
    for path in paths:
        content = read_json(path)
        if _STATE.fullmatch(path.name):
            continue
        if content is None or "step" in content or "product" in content:
            outputs = (content or {}).get("outputs") or ()
            names = {str(entry.get("path")) for entry in outputs if isinstance(entry, dict)}
            found[path] = {path.name, path.name.removesuffix(".json"), *names}
    # A choice of calibration or a verdict that cannot be read is a product, not a sidecar.
    return {
        path: names
        for path, names in found.items()
        if not any(path.name in others for card, others in found.items() if card != path)
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a file holds; None if it is not a JSON object, or cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


# --- what is wrong --------------------------------------------------------------------------------


@dataclass
class _Check:
    """Work on one place."""

    layout: Layout
    place: Place
    started: float
    found: Findings = field(default_factory=Findings)

    def run(self) -> Findings:
        folder, known = self.place.folder, _known(self.place.folder)
        self.purged = _purged(self.layout, folder)
        older = False
        for card in cards_of(self.place):
            older |= not self._sidecar(card)
        if self.place.cards is None and folder != self.layout.results:
            names = set().union(*known.values())
            self._others([path for path in folder.glob("[!.]*") if path.name not in names], older)
        return self.found

    def _sidecar(self, card: Path) -> bool:
        """Check a sidecar and what it vouches for; tell whether that is all its step made."""
        self._looked_at(card)
        product = card.with_suffix("")
        try:
            text = card.read_text(encoding="utf-8")
            content = json.loads(text)
            outputs = [(card.with_name(e["path"]), e) for e in content.get("outputs", ())]
        except FileNotFoundError:
            return True  # it is being made again
        except OSError as error:
            self._damage(card, f"cannot be read ({error.strerror})", product)
            return False
        except (ValueError, TypeError, KeyError, AttributeError):
            self._damage(card, "is a sidecar that cannot be read", product)
            return False
        sealed = is_sealed(text)
        if sealed is None and content.get("schema", 1) < 3:
            self.found.n_without += 1
            if not product.exists() and not self._may_be_gone(product):
                self._damage(product, "is missing", product)
            return False
        if not sealed:
            self._damage(card, "is a sidecar that was changed since it was written", product)
        for path, entry in outputs:
            self._output(path, entry)
        kept = (content.get("provenance") or {}).get("configuration")
        if kept and not _configuration(self.layout, kept).is_file():
            path = _configuration(self.layout, kept)
            self._damage(path, f"is missing, which {card.name} names", path)
        return True

    def _output(self, path: Path, entry: dict[str, Any]) -> None:
        self._looked_at(path)
        try:
            size, digest = size_and_sum(path)
        except FileNotFoundError:
            if not self._may_be_gone(path):
                self._damage(path, "is missing", path)
            return
        except OSError as error:
            self._damage(path, f"cannot be read ({error.strerror})", path)
            return
        self.found.n_products += 1
        self.found.n_bytes += size
        if size != entry["size_bytes"]:
            self._damage(path, f"has {size} bytes; {entry['size_bytes']} were written", path)
        elif digest != entry["sha256"]:
            self._damage(path, "is not what was written: its checksum differs", path)

    def _others(self, paths: list[Path], older: bool) -> None:
        for path in sorted(paths):
            if _STATE.fullmatch(path.name):
                self._looked_at(path)
                if read_json(path) is None:
                    self._damage(path, "is no JSON object that can be read", path)
            elif not older and path.name != "groups" and not path.name.startswith("joint_"):
                self.found.unknown.append(_below(self.layout, path))

    def _may_be_gone(self, path: Path) -> bool:
        return path.name in self.purged or path.name.endswith(_TEMPORARY)

    def _looked_at(self, path: Path) -> None:
        self.found.checked.add(_below(self.layout, path))

    def _damage(self, path: Path, what: str, product: Path) -> None:
        if path.exists() and path.stat().st_mtime > self.started:
            return  # a run is making it
        remedy = _remedy(self.layout, product)
        self.found.damaged.append(Damage(_below(self.layout, path), what, remedy))


def _below(layout: Layout, path: Path) -> str:
    return path.relative_to(layout.results).as_posix()


def _configuration(layout: Layout, checksum: str) -> Path:
    return layout.results / "configurations" / f"{checksum}.json"


def _purged(layout: Layout, folder: Path) -> set[str]:
    """Return the names of what was let go of a folder's night on purpose."""
    night = re.match(rf"nights/({NIGHT})", _below(layout, folder))
    if night is None:
        return set()
    record = read_json(layout.night(night[1], "purged.json")) or {}
    entries = [*record.get("groups", {}).values(), record.get("others", {})]
    return {Path(path).name for entry in entries for path in entry}


def _remedy(layout: Layout, product: Path) -> str:
    """Say what makes a product again."""
    inside = _below(layout, product)
    if inside.startswith("configurations/"):
        return "restore it from a copy"
    night = re.match(rf"nights/({NIGHT})", inside)
    run = f"'contimg run {night[1]}'" if night else "'contimg run'"
    remove = f"'rm -r {product}', then " if product.exists() else ""
    return f"{remove}{run} makes it again"


# --- all of it ------------------------------------------------------------------------------------


def scrub(
    layout: Layout,
    where: Iterable[Place],
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Findings]:
    """Check products on all cores, and yield what is found place by place.

    Parameters
    ----------
    layout : Layout
        Of the results folder.
    where : iterable of Place
        What is checked; taken as it is needed, so that memory does not grow with the history.
    say : callable
        Is told of the progress now and then.
    """
    started = told = time.time()
    cores = os.cpu_count() or 1
    total, done = Findings(), 0
    waiting: set[Future[Findings]] = set()
    todo = iter(where)
    with ThreadPoolExecutor(cores) as pool:
        while True:
            while len(waiting) < 2 * cores and (place := next(todo, None)):
                waiting.add(pool.submit(_Check(layout, place, started).run))
            if not waiting:
                return
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                done += 1
                total.n_products += future.result().n_products
                total.n_bytes += future.result().n_bytes
                yield future.result()
            if time.time() - told > 10:
                told = time.time()
                speed = total.n_bytes / 1e9 / (told - started)
                say(f"{done} folders, {total.n_products} products, {speed:.2f} GB/s")


def check_configurations(layout: Layout) -> Findings:
    """Check the kept configurations, whose names are their checksums."""
    found = Findings()
    for path in sorted((layout.results / "configurations").glob("[!.]*.json")):
        found.checked.add(_below(layout, path))
        found.n_products += 1
        if of_file(path) != path.stem:
            what = "is not what was written: its checksum differs"
            found.damaged.append(Damage(_below(layout, path), what, _remedy(layout, path)))
    return found


def damaged_before(layout: Layout) -> set[str]:
    """Return what earlier scrubs found damaged, below the results folder."""
    content = read_json(layout.results / "verify.json") or {}
    return {damage["path"] for damage in content.get("damaged", ())}


def keep(layout: Layout, found: Findings, whole: bool, checked: set[str]) -> None:
    """Keep what was found in ``verify.json``.

    What an earlier scrub found damaged, and this one did not look at, is still there.
    """
    path = layout.results / "verify.json"
    before = read_json(path) or {}
    damaged = [asdict(damage) for damage in found.damaged]
    if not whole:
        damaged += [d for d in before.get("damaged", ()) if d["path"] not in checked]
    content = {
        "schema": 1,
        "checked_utc": utc_now(),
        "whole_utc": utc_now() if whole else before.get("whole_utc"),
        "n_products": found.n_products,
        "n_bytes": found.n_bytes,
        "n_without": found.n_without,
        "damaged": damaged,
        "unknown": found.unknown,
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
