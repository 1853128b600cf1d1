"""The configuration that a command works with: files and single values, checked."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from ..core.config import load_config, migrate, named_from, nested, scalar_of
from ..core.errors import ConfigError
from ..core.layout import Layout
from ..core.options import Config
from ..core.places import home_of, repository

__all__ = [
    "at_home",
    "campaigns",
    "config_options",
    "read_config",
    "results_of",
    "results_option",
    "take_ours",
]


def config_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that `read_config` reads."""
    parser.add_argument(
        "--configfile",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="configuration on top of the repository's config/config.yaml; again for another on "
        "top of that",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="single values on top of that, e.g. results=/data/results imaging.preset=quick",
    )
    parser.add_argument(
        "--campaign",
        metavar="NAME",
        help="work on RESULTS/campaigns/NAME, nights that are made once more beside the results",
    )


def results_option(parser: argparse.ArgumentParser) -> None:
    """Give a command the argument that `results_of` reads."""
    parser.add_argument(
        "results", type=Path, nargs="?", help="results folder (default: that of the configuration)"
    )


def results_of(args: argparse.Namespace) -> Path:
    """Return the results folder that is named, or that of the configuration."""
    return args.results or read_config(args).results


def read_config(args: argparse.Namespace, begin: bool = False) -> Config:
    """Return the validated configuration that Snakemake will see, too.

    Parameters
    ----------
    args : Namespace
        Of a command with `config_options`.
    begin : bool
        Whether a campaign may be one that is not there yet.

    Raises
    ------
    ConfigError
        For a file that is no configuration, a wrong key or value, or no such campaign.
    """
    values: dict[str, Any] = {}
    for path in (repository() / "config/config.yaml", *args.configfile):
        nested(_read_file(path), values)
    for item in args.config:
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--config: {item!r} is not KEY=VALUE")
        nested({key: _value_of(key, text)}, values)
    for note in migrate(values)[1]:
        print(f"config: {note}", file=sys.stderr)
    config = load_config(values)
    if config.results.exists() and not config.results.is_dir():
        raise ConfigError(f"results: {config.results} is a file; set 'results' to a folder")
    return _of_campaign(config, args.campaign, begin) if args.campaign else config


def at_home(config: Config) -> Config:
    """Go to the folder that holds the results folder; return the configuration as named from there.

    What is done, and what is known of what was done, is the same wherever one stands.
    """
    home = home_of(config.results)
    config = named_from(config, home)
    os.chdir(home)
    return config


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--configfile: there is no file {path}") from None
    except OSError as error:
        raise ConfigError(f"--configfile: {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path}: not a configuration: it holds no keys, but {values!r:.60}")
    return values or {}


def _value_of(key: str, text: str) -> Any:
    """Return the value of ``KEY=VALUE``: YAML, but for paths and words, which are as written.

    Raises
    ------
    ConfigError
        If it is not valid YAML.
    """
    model: Any = Config
    for part in key.split(".", 2):
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    kind, is_list, is_dict = scalar_of(model) if model else (None, False, False)
    plain = kind in (str, Path) and not is_list and not is_dict
    if plain and text not in ("", "~", "null") and text[:1] not in "'\"":
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config: '{key}={text}': not valid YAML: {reason}") from None


def _of_campaign(config: Config, name: str, begin: bool) -> Config:
    """Return the configuration of a campaign: the same, with results of its own."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(f"--campaign: {name!r} is no name for a folder: letters, digits, ._-")
    layout = Layout(config.results)
    there = campaigns(layout)
    if not begin and name not in there:
        named = ", ".join(there) or "none"
        raise ConfigError(f"--campaign: there is no campaign {name}; there are: {named}")
    layout.campaigns.mkdir(parents=True, exist_ok=True)
    return config.model_copy(update={"results": layout.campaign(name).results})


def campaigns(layout: Layout) -> list[str]:
    """Return the campaigns beside some results."""
    return sorted(path.parent.name for path in layout.campaigns.glob("*/nights"))


# --- what follows -- ------------------------------------------------------------------------------

#: Options of Snakemake that are the launcher's own, as it calls them.
_OURS = {
    **dict.fromkeys(("--config", "-C"), "--config"),
    **dict.fromkeys(("--configfile", "--configfiles"), "--configfile"),
    **dict.fromkeys(("--profile", "--workflow-profile"), "--profile"),
    **dict.fromkeys(("--cores", "-c", "--jobs", "-j"), "--cores"),
}
#: Options that would have Snakemake work on something else than the launcher does.
_REFUSED = {
    **dict.fromkeys(("--directory", "-d"), "products go where --config results=FOLDER says"),
    **dict.fromkeys(("--snakefile", "-s"), "for another workflow call snakemake itself"),
}
#: One letter, perhaps after others that take no value, and what is joined to it.
_LETTER = re.compile(r"-([npkFtqSv]*)([Ccjds])(.*)", re.DOTALL)


def take_ours(words: list[str]) -> tuple[list[str], list[str]]:
    """Divide what follows ``--`` into options of the launcher and those of Snakemake alone.

    Configuration, profile and cores mean the same wherever they stand.

    Parameters
    ----------
    words : list of str
        What follows ``--``.

    Returns
    -------
    ours, others : list of str
        The former as the launcher's parser takes them.

    Raises
    ------
    ConfigError
        For an option that would have Snakemake work on something else, or one that is cut short.
    """
    ours: list[str] = []
    others: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if letter := _LETTER.fullmatch(word):
            others += [f"-{letter[1]}"] * bool(letter[1])
            name, value = f"-{letter[2]}", letter[3].removeprefix("=")
        if name in _REFUSED:
            raise ConfigError(f"{name} after --: {_REFUSED[name]}")
        if name not in _OURS:
            if len(name) > 3 and any(known.startswith(name) for known in (*_OURS, *_REFUSED)):
                raise ConfigError(f"{name} after --: write it in full")
            others.append(word)
            continue
        values = [value] if value or equals else []
        most = 99 if _OURS[name] in ("--config", "--configfile") else 1
        while words and not words[0].startswith("-") and len(values) < most:
            values.append(words.pop(0))
        if _OURS[name] == "--config":
            ours += ["--config", *values] if values else []
        else:
            ours += [w for value in values or ["all"] for w in (_OURS[name], value)]
    return ours, others
