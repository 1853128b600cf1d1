"""The configuration that a command works with: files and single values, checked."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import yaml

from ..core.config import load_config, named_from
from ..core.errors import ConfigError
from ..core.options import Config
from ..core.places import home_of, repository

__all__ = ["at_home", "config_options", "read_config"]


def config_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that `read_config` reads."""
    parser.add_argument(
        "--configfile",
        type=Path,
        metavar="FILE",
        help="configuration on top of the repository's config/config.yaml",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="single values on top of that, e.g. incoming=/data/incoming results=/data/results",
    )


def read_config(args: argparse.Namespace) -> Config:
    """Return the validated configuration that Snakemake will see, too."""
    values: dict[str, Any] = {}
    for path in filter(None, (repository() / "config/config.yaml", args.configfile)):
        try:
            with open(path, encoding="utf-8") as file:
                _merge(values, yaml.safe_load(file) or {})
        except FileNotFoundError:
            raise ConfigError(f"--configfile: there is no file {path}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {_in_line(error)}") from None
    for item in args.config:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--config: {item!r} is not KEY=VALUE")
        try:
            _merge(values, {key: yaml.safe_load(value)})
        except yaml.YAMLError as error:
            raise ConfigError(f"--config: {item!r}: not valid YAML: {_in_line(error)}") from None
    return load_config(values)


def at_home(config: Config) -> Config:
    """Go to the folder that holds the results folder; return the configuration as named from there.

    What is done, and what is known of what was done, is the same wherever one stands.
    """
    home = home_of(config.results)
    config = named_from(config, home)
    os.chdir(home)
    return config


def _in_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def _merge(values: dict, more: dict) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value
