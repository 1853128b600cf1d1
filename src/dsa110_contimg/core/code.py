"""What code a step runs: hashes that change when, and only when, something it reaches does.

Imports are followed in the source text, through packages, from a step's script on: nothing is
imported to tell what it would import. A module that is run as a program of its own (its dotted name
stands in the text, for ``python -m``) counts as imported.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

from . import places

__all__ = ["PLUMBING", "modules_of", "run_hash", "source_hash", "step_hash"]

#: Modules whose change alters no number: they are left out of what makes products out of date.
PLUMBING = frozenset(
    f"core.{name}"
    for name in (
        *("casa", "code", "config", "described", "errors", "files", "figures", "layout"),
        *("checksums", "options", "places", "programs", "provenance", "records", "runs", "sidecar"),
        *("escape", "steps", "tools"),
    )
)


@functools.cache
def step_hash(step: str) -> str:
    """Return a hash of the code that decides a step's numbers.

    It covers the step's script, all modules of this package that it imports, directly or not, but
    for `PLUMBING`, and the package's data (templates, tables) that these name. Rules carry it in
    ``params``, so that a change of a step's own code remakes its products and nothing else.
    """
    return _hash(_files(places.script(step), PLUMBING))


@functools.cache
def run_hash(step: str | None) -> str:
    """Return a hash of all the code that a step runs, or for None of the whole package."""
    if step is None:
        return _hash(set(places.PACKAGE.rglob("*.py")))
    return _hash(_files(places.script(step), ()))


@functools.cache
def source_hash(module: str) -> str:
    """Return a hash of the code that a module decides by: its own, and what it imports.

    Parameters
    ----------
    module : str
        Dotted name within the package, as ``conversion.inventory``.
    """
    return _hash(_files(_path(module), PLUMBING))


def modules_of(script: Path, without: Collection[str] = ()) -> set[str]:
    """Return the modules of this package that a program reaches, as dotted names within it.

    Parameters
    ----------
    script : Path
        The program.
    without : collection of str
        Modules that are left out, with what only they reach.
    """
    found: set[str] = set()
    waiting = set(_imports(script)) - set(without)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _imports(_path(name)) - found - set(without)
    return found


def _files(program: Path, without: Collection[str]) -> set[Path]:
    """Return the sources and data files that a program reaches, its own source among them."""
    sources = {program, *map(_path, modules_of(program, without))}
    return sources | {path for source in sources for path in _data(source)}


def _hash(paths: Collection[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:12]


def _path(module: str) -> Path:
    return places.PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


@functools.cache
def _names(source: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Return the full names that a module may import, and the data that it names (``data/...``)."""
    prefix = f"{places.PACKAGE_NAME}."
    names: set[str] = set()
    data: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and node.value.startswith("data/"):
                data.add(node.value)
            elif isinstance(node.value, str) and node.value.startswith(prefix):
                names.add(node.value)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.startswith(prefix)), frozenset(data)


def _data(source: Path) -> Iterator[Path]:
    """Yield the files beside a module that it names as ``data/...``; folders as a whole."""
    for name in _names(source)[1]:
        place = source.parent / name
        yield from (path for path in (place, *place.rglob("*")) if path.is_file())


@functools.cache
def _imports(source: Path) -> frozenset[str]:
    """Return the modules of this package that one names."""
    ours = (name.removeprefix(f"{places.PACKAGE_NAME}.") for name in _names(source)[0])
    return frozenset(name for name in ours if _is_module(name))


def _is_module(name: str) -> bool:
    return all(part.isidentifier() for part in name.split(".")) and _path(name).is_file()


def _absolute(source: Path, node: ast.ImportFrom) -> str:
    """Return the absolute name of the module that an import is from."""
    module = node.module or ""
    if not node.level:
        return module
    package = source.relative_to(places.PACKAGE.parent).parts[: -node.level]
    return ".".join([*package, *filter(None, [module])])
