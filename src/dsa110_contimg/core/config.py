"""Check the configuration, and turn options into arguments of a command line and back."""

from __future__ import annotations

import argparse
import copy
import difflib
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ValidationError

from .. import __version__
from .described import meanings
from .errors import ConfigError
from .options import Config, Options

#: Options whose values are shown nowhere.
SECRETS = ("alerts.webhook", "alerts.ping")
#: Keys that have another name since: the former and the present one, as ``section.key``.
RENAMED: dict[str, str] = {}


def migrate(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a configuration of another release as this one names it, and what was changed.

    Keys that were renamed get their present names. If ``release`` says that it was written for a
    newer release than this, keys that are not known are left out.

    Parameters
    ----------
    values : mapping
        What the YAML file and the command line give together.

    Returns
    -------
    values : dict
        The configuration.
    notes : list of str
        A line for each key that was translated or left out.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(values))
    notes = []
    for former, present in RENAMED.items():
        if (value := _pop(changed, former)) is not None:
            section, _, key = present.rpartition(".")
            place = changed.setdefault(section, {}) if section else changed
            place.setdefault(key, value)
            notes.append(f"{former} is called {present} now; taken as that")
    if _number(values.get("release")) > _number(__version__):
        for name in list(_unknown(changed)):
            _pop(changed, name)
            notes.append(f"{name} is not known to release {__version__}; left out")
    return changed, notes


def _pop(values: dict[str, Any], name: str) -> Any:
    """Take a key, ``section.key``, out of a configuration; None where there is none."""
    section, _, key = name.rpartition(".")
    place = values.get(section) if section else values
    return place.pop(key, None) if isinstance(place, dict) else None


def _unknown(values: Mapping[str, Any]) -> Iterator[str]:
    for section, content in values.items():
        info = Config.model_fields.get(section)
        if info is None:
            yield section
        else:
            known = getattr(info.annotation, "model_fields", None)
            if known is not None and isinstance(content, dict):
                yield from (f"{section}.{key}" for key in content if key not in known)


def _number(release: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", str(release or ""))[:3])


def nested(values: Mapping[Any, Any], into: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return values with each key such as ``imaging.preset`` in its section.

    Parameters
    ----------
    values : mapping
        Of a YAML file, or single ones.
    into : dict, optional
        What they are laid over; it is changed and returned.

    Raises
    ------
    ConfigError
        If a key leads into something that is no section.
    """
    found = {} if into is None else into
    for name, value in values.items():
        *sections, key = str(name).split(".", 2)  # names of fields (section joint) may have dots
        place = found
        for section in sections:
            if not isinstance(place.get(section) or {}, dict):
                raise ConfigError(f"config: {name}: {section} is {place[section]!r}, no section")
            place[section] = place = dict(place.get(section) or {})
        merge(place, {key: value})
    return found


def merge(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Lay values over others: sections key by key, all else as a whole."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            values[key] = dict(values[key])
            merge(values[key], value)
        else:
            values[key] = value


def load_config(values: Mapping[str, Any]) -> Config:
    """Validate a configuration.

    Parameters
    ----------
    values : mapping
        What the YAML file and the command line give together; keys as of `nested`.

    Raises
    ------
    ConfigError
        With one line that names every wrong key, why it is wrong, and the nearest right one.
    """
    try:
        config = Config.model_validate(migrate(nested(values))[0])
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"config: {problems}") from None
    _map_paths(config, _sound)
    return config


def named_from(config: Config, folder: Path) -> Config:
    """Return a configuration with its paths named as from a folder, whatever folder one stands in.

    What lies below the folder gets a relative name, so that all of it may move; other places get
    their absolute ones. Links are followed in the name of the results folder, for it is one and the
    same by whatever name it is called, and in those of the folders that other paths lie in.

    Parameters
    ----------
    config : Config
        Its relative paths count from the present working folder.
    folder : path
        Where the names are to count from.
    """
    named: Config = _map_paths(config, lambda path: _named(path, folder))
    results = Path(os.path.realpath(config.results))
    return named.model_copy(update={"results": _below(results, folder)})


def _map_paths(options: Any, name: Callable[[Path], Path]) -> Any:
    """Return options with all paths in them, also those of sections, named anew."""
    changed: dict[str, Any] = {}
    for key in type(options).model_fields:
        value = getattr(options, key)
        if isinstance(value, Path):
            changed[key] = name(value)
        elif isinstance(value, Options):
            changed[key] = _map_paths(value, name)
    return options.model_copy(update=changed)


def _sound(path: Path) -> Path:
    """Return a path that programs can be handed; any but these few letters will do.

    The engine takes braces in names for wildcards, and lists of names end lines.
    """
    if wrong := [letter for letter in str(path) if letter in "{}\x7f" or letter < " "]:
        raise ConfigError(
            f"config: the name {str(path)!r} holds {wrong[0]!r}, which no name here may; rename it"
        )
    return path


def _named(path: Path, folder: Path) -> Path:
    path = Path(os.path.abspath(path))
    return _below(path.parent.resolve() / path.name, folder)


def _below(path: Path, folder: Path) -> Path:
    """Return a path as it is named from a folder: relative if it lies in it."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _explain(problem: Any) -> str:
    *section, key = (str(part) for part in problem["loc"])
    name = ".".join([*section, key])
    if problem["type"] != "extra_forbidden":
        reason = problem["msg"].lower().removesuffix(" for <class 'pathlib.path'>")
        got = "" if name in SECRETS else f", got {problem['input']!r}"
        return f"{name}: {reason}{got}"
    model: Any = Config
    for part in section:
        model = model.model_fields[part].annotation
    close = difflib.get_close_matches(key, model.model_fields, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(model.model_fields)}"
    return f"{name}: no such key; {hint}"


def scalar_of(annotation: Any) -> tuple[Any, bool, bool]:
    """Return (scalar type or Literal, is it a list?, is it a dict?) of a field's annotation."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return scalar_of(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return scalar_of(next(a for a in typing.get_args(annotation) if a is not type(None)))
    if origin in (list, tuple):
        return scalar_of(typing.get_args(annotation)[0])[0], True, False
    if origin is dict:
        return str, False, True
    return annotation, False, False


def add_options(parser: argparse.ArgumentParser, model: type[Options]) -> None:
    """Give a parser one option for each field of a model; defaults stay the model's."""
    parser.set_defaults(sections=[*(parser.get_default("sections") or ()), model])
    group = parser.add_argument_group("options", (model.__doc__ or "").split("\n")[0])
    texts = meanings(model)
    for name, info in model.model_fields.items():
        kind, is_list, is_dict = scalar_of(info.annotation)
        flag = "--" + name.replace("_", "-")
        text = texts[name].replace("\n", " ").replace("%", "%%")
        text += f" (default: {info.default})".replace("%", "%%")
        common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif is_dict:
            group.add_argument(flag, nargs="*", metavar="KEY=VALUE", **common)
        elif typing.get_origin(kind) is Literal:
            group.add_argument(flag, choices=typing.get_args(kind), **common)
        else:
            group.add_argument(
                flag, type=kind, nargs="*" if is_list else None, metavar="VALUE", **common
            )


def from_args(args: argparse.Namespace, model: type[Options]) -> Any:
    """Build a model from the options that `add_options` gave a parser."""
    given = {k: v for k, v in vars(args).items() if k in model.model_fields}
    for name, value in given.items():
        if scalar_of(model.model_fields[name].annotation)[2]:
            given[name] = dict(item.split("=", 1) for item in value)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = "; ".join(
            f"--{str(p['loc'][0]).replace('_', '-')}: {p['msg'].lower()}" for p in error.errors()
        )
        raise ConfigError(problems) from None


def resolved(args: argparse.Namespace) -> dict[str, Any]:
    """Return all options that a step's arguments give, as JSON has them, defaults among them."""
    models = getattr(args, "sections", ())
    dumps = (from_args(args, model).model_dump(mode="json") for model in models)
    return {name: value for dump in dumps for name, value in dump.items()}


def to_args(options: Options) -> list[str]:
    """Return the command-line options that give `options`.

    Defaults are among them, for what repeats a step must not change when a default does; only what
    is not set has no option.
    """
    args: list[str] = []
    for name in type(options).model_fields:
        value = getattr(options, name)
        if value is None:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            args.append(flag if value else "--no-" + flag[2:])
        elif isinstance(value, dict):
            args += [flag, *(f"{k}={v}" for k, v in value.items())]
        elif isinstance(value, list | tuple):
            args += [flag, *map(str, value)]
        else:
            args += [flag, str(value)]
    return args
