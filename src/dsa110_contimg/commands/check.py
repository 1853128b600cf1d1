"""``contimg check``: environment, configuration, disk."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata

from .. import __version__
from ..core.errors import ContimgError, ToolError
from ..core.options import Config
from ..core.programs import find_tool
from .configuration import at_home, config_options, read_config


def argparser() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = argparse.ArgumentParser(
        prog="contimg check", description="Check environment, configuration and disk."
    )
    config_options(parser)
    return parser


def main(args: argparse.Namespace) -> int:
    """Print one line for each thing a run needs; return 1 if one is missing."""
    problems = 0

    def item(name: str, probe: Callable[[], str]) -> None:
        nonlocal problems
        try:
            print(f"ok       {name}: {probe()}")
        except ContimgError as error:
            problems += 1
            print(f"MISSING  {name}: {error}")

    print(f"contimg {__version__}, Python {sys.version.split()[0]}")
    item("wsclean", lambda: _first_line("wsclean", "--version"))
    item("aoflagger", lambda: _first_line("aoflagger", "--version"))
    for package in ("snakemake", "casatasks", "casadata", "python-casacore", "pyuvdata", "astropy"):
        item(package, partial(_version, package))
    try:
        config = at_home(read_config(args))
        item("configuration", lambda: _paths(config))
        item("disk", lambda: _free_space(config))
    except ContimgError as error:
        problems += 1
        print(f"MISSING  configuration: {error}")
    return int(problems > 0)


def _first_line(tool: str, *options: str) -> str:
    output = subprocess.run(
        [find_tool(tool), *options], capture_output=True, text=True, timeout=60, check=False
    )
    lines = (output.stdout + output.stderr).strip().splitlines()
    if not lines:
        raise ToolError(f"{tool} prints nothing; reinstall it")
    return lines[0]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise ToolError("not installed; run './contimg setup', which installs it") from None


def _paths(config: Config) -> str:
    from ..operations import planning

    planning.check_paths(config)
    return "valid, paths exist"


def _free_space(config: Config) -> str:
    from ..operations import space

    space.check_space(config)
    path, free, _ = space.free_space(config.results)
    return f"{free / 1e9:.0f} GB free at {path}"
