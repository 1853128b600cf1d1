"""Where this package and the repository lie, whatever folder one stands in."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from .errors import ConfigError

__all__ = ["PACKAGE", "PACKAGE_NAME", "home_of", "repository", "script"]

#: Folder of this package, and its name.
PACKAGE = Path(__file__).resolve().parents[1]
PACKAGE_NAME = PACKAGE.name


@functools.cache
def repository() -> Path:
    """Return the checkout: Snakefile, step scripts, profiles, shipped configuration.

    It is the folder that the package lies in, or for a package that was installed elsewhere the
    one that the environment variable ``CONTIMG_REPO`` names (the launcher sets it).

    Raises
    ------
    ConfigError
        If there is none.
    """
    named = os.environ.get("CONTIMG_REPO")
    for folder in (*PACKAGE.parents, *([Path(named)] if named else [])):
        if (folder / "Snakefile").is_file() and (folder / "workflow" / "scripts").is_dir():
            return folder
    raise ConfigError(
        f"no workflow around {PACKAGE}: set CONTIMG_REPO to a checkout of dsa110-continuum"
    )


def home_of(results: Path) -> Path:
    """Return the folder that a results folder is worked on from, wherever one stands: its parent.

    The engine keeps its state there, and knows the products by their names from there.

    Raises
    ------
    ConfigError
        If there is none.
    """
    home = Path(os.path.realpath(results)).parent
    if not home.is_dir():
        raise ConfigError(
            f"results: there is no folder {home} to hold them; make it, or set 'results'"
        )
    return home


def script(step: str) -> Path:
    """Return the program of a step, ``workflow/scripts/<step>.py``."""
    return repository() / "workflow" / "scripts" / f"{step}.py"
