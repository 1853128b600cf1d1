"""The release that a results folder is worked on with, and whether another may go on.

``results/release.json`` describes what decides numbers: the code of each step, the defaults of its
options, the versions of its tools. A release that differs in any of these goes on and says so, or
waits until a night that it made again was accepted, as ``operations.upgrades`` says. An older
release is met in the same way as a newer one.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import shutil
import socket
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.code import step_hash
from ..core.errors import ConfigError
from ..core.figures import FIGURES
from ..core.files import write_text
from ..core.layout import Layout
from ..core.options import Config, Options
from ..core.places import PACKAGE, repository
from ..core.provenance import commit
from ..core.sidecar import SIDECAR_SCHEMA
from ..core.times import utc_now
from ..core.tools import program_version, versions
from . import closing
from .failures import TOOLS, UNATTENDED, describe

__all__ = ["Release", "accept", "admit", "differences", "present", "recorded", "was_at_work"]

#: Steps whose products hold numbers.
STEPS = (*(step for step in FIGURES if step != "catalog"), "night_qa")
#: Options that change no number, by the end of their names.
INDIFFERENT = ("timeout_s", "workers", "scratch", "max_memory_gb")
SCHEMA = 1
#: Releases that are remembered.
MOST_REMEMBERED = 100


@dataclass(frozen=True)
class Release:
    """A release of this package, as it is installed here.

    Attributes
    ----------
    version : str
        Version of the package.
    commit : str or None
        Commit of its checkout.
    steps : dict of str to str
        Hash of the code that decides a step's numbers, by step; see `step_hash`.
    defaults : dict
        Default of each option that may change a number, by ``section.key``.
    tools : dict of str to str
        Versions of packages and programs that decide numbers, by name.
    schemas : dict of str to int
        Versions of what is written.
    """

    version: str
    commit: str | None = None
    steps: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    schemas: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Digest of what decides numbers: equal for releases that make the same."""
        content = json.dumps([self.steps, self.defaults, self.tools], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Version and commit, for people."""
        return f"{self.version} ({self.commit})" if self.commit else self.version


def present() -> Release:
    """Return the release that is at work, with the tools that it finds here."""
    tools = {name: program_version(name) for name in TOOLS}
    for step in STEPS:
        tools |= versions(step)
    return Release(
        version=__version__,
        commit=commit(),
        steps={step: step_hash(step) for step in STEPS},
        defaults=dict(_defaults()),
        tools=dict(sorted(tools.items())),
        schemas={"sidecar": SIDECAR_SCHEMA},
    )


def _defaults() -> Iterator[tuple[str, Any]]:
    for section, info in Config.model_fields.items():
        model = info.annotation
        if section in UNATTENDED or not (isinstance(model, type) and issubclass(model, Options)):
            continue
        for key, value in model().model_dump(mode="json").items():
            if not key.endswith(INDIFFERENT):
                yield f"{section}.{key}", value


def differences(before: Release, after: Release) -> list[str]:
    """Return in what two releases decide numbers differently, a line each."""
    if not before.steps:
        return [f"release {before.version} left no record of its code"]
    return [
        *(f"code of {step}" for step, *_ in _changes(before.steps, after.steps)),
        *(_change(*c) for c in _changes(before.defaults, after.defaults)),
        *(_change(*c) for c in _changes(before.tools, after.tools)),
    ]


def _changes(before: Mapping, after: Mapping) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield key, before.get(key, "none"), after.get(key, "none")


def _change(key: str, before: Any, after: Any) -> str:
    return f"{key} {before} -> {after}"


# --- the record -----------------------------------------------------------------------------------


def _path(results: Path) -> Path:
    return results / "release.json"


def _read(results: Path) -> dict[str, Any]:
    """Return the record; an empty one where there is none that can be read."""
    try:
        content = json.loads(_path(results).read_text(encoding="utf-8"))
        known = {f.name for f in fields(Release)}
        content["release"] = Release(**{k: v for k, v in content["release"].items() if k in known})
        return content | {"history": list(content.get("history", []))}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {"release": None, "history": [], "installed": ""}


def recorded(results: Path) -> Release | None:
    """Return the release that a results folder is worked on with; None for a new folder.

    Of one before such records, only the version is known, from its last run.
    """
    release: Release | None = _read(results)["release"]
    if release is None and closing.nights_on_disk(Layout(results)):
        return Release(_version_of_last_run(results))
    return release


def _version_of_last_run(results: Path) -> str:
    for path in sorted((results / "runs").glob("[0-9]*.json"), reverse=True):
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["versions"]["dsa110-contimg"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "unknown"


def _write(results: Path, release: Release, history: Iterable[Mapping[str, Any]]) -> None:
    content = {
        "schema": SCHEMA,
        "utc": utc_now(),
        "installed": _installed(),
        "release": asdict(release),
        "history": list(history)[-MOST_REMEMBERED:],
    }
    write_text(_path(results), json.dumps(content, indent=1) + "\n")


def admit(config: Config) -> str | None:
    """Let the present release work on a results folder; return what is to be said, if anything.

    The caller holds the folder.

    Raises
    ------
    ConfigError
        If it decides numbers differently from the one before, and must be accepted first.
    """
    results = config.results
    record = _read(results)
    if record.get("installed") == _installed():
        return None  # nothing was installed since
    now, before, history = present(), recorded(results), record["history"]
    differ = differences(before, now) if before else []
    if before is None or before.key == now.key:
        _write(results, now, history)  # nothing that decides numbers
        return None
    said = f"release {now.name} follows {before.name}: differs in {_brief(differ)}"
    if config.operations.upgrades == "canary":
        raise ConfigError(
            f"{said}; make a night again with 'contimg upgrade --canary', and let it go on with "
            f"'contimg upgrade --accept' (operations.upgrades is canary)"
        )
    _write(results, now, [*history, _entry(before, now, "automatic")])
    return f"{said}; see 'contimg outdated'"


def _installed() -> str:
    """Return a digest that changes when this package, its packages or its programs do: cheap."""
    folders = (PACKAGE, repository() / "workflow" / "scripts")
    paths = {str(path) for folder in folders for path in folder.rglob("*.*")}
    paths -= {path for path in paths if "__pycache__" in path}
    paths |= {sysconfig.get_path("purelib"), *filter(None, map(shutil.which, TOOLS))}
    text = "\n".join([sys.version, *map(describe, sorted(paths))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _brief(differ: list[str], most: int = 4) -> str:
    more = [f"{len(differ) - most} more"] if len(differ) > most else []
    return ", ".join([*differ[:most], *more])


def _entry(before: Release | None, now: Release, how: str, **more: Any) -> dict[str, Any]:
    return {
        "utc": utc_now(),
        "version": now.version,
        "commit": now.commit,
        "key": now.key,
        "before": before.name if before else None,
        "key_before": before.key if before else None,
        "differs": differences(before, now) if before else [],
        "policy": how,
        **more,
    }


def was_at_work(results: Path, release: Release) -> bool:
    """Tell whether a release that decides the same numbers worked on a results folder before."""
    history = _read(results)["history"]
    return any(release.key in (e.get("key"), e.get("key_before")) for e in history)


def accept(config: Config, found: Mapping[str, Any] | None) -> None:
    """Let the present release go on, and record who let it, when, and on what grounds.

    Parameters
    ----------
    config : Config
        The configuration; the caller holds its results folder.
    found : mapping or None
        What the comparison of the night that was made again showed; None for a release that was
        at work before.
    """
    now, before = present(), recorded(config.results)
    who = {"by": getpass.getuser(), "host": socket.gethostname()}
    entry = _entry(before, now, "accepted", **who, canary=found)
    _write(config.results, now, [*_read(config.results)["history"], entry])
