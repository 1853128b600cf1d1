"""Records: small JSON files that one run writes and a later one reads, perhaps of another release.

Names that are not known are passed over: a newer release has written them. What is empty, cut
short, no JSON or of other types is damaged: it says nothing, and ends nothing.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

__all__ = ["Damaged", "Unreadable", "parse", "read", "read_or_none"]

T = TypeVar("T")


class Damaged(ValueError):
    """A record that is there and cannot be understood; the message says why, in a few words."""


class Unreadable(Damaged):
    """A record that the machine does not let us read now: it may be whole."""


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def parse(kind: type[T], content: Any) -> T:
    """Return a record from what JSON holds.

    Parameters
    ----------
    kind : type
        Of the record: a data class, or any type that pydantic knows.
    content : object
        As JSON has it.

    Raises
    ------
    Damaged
        If a name is missing, or a value of another type.
    """
    try:
        return _adapter(cast(Any, kind)).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise Damaged(f"{place}: {first['msg']}" if place else first["msg"]) from None


def read(kind: type[T], path: Path) -> T | None:
    """Return a record from its file; None where there is none.

    Raises
    ------
    Damaged
        If it is there, but no such record.
    """
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    if not text:
        raise Damaged("empty")
    try:
        return parse(kind, json.loads(text))
    except Damaged:
        raise
    except (ValueError, RecursionError):
        raise Damaged("not JSON") from None


def read_or_none(kind: type[T], path: Path) -> T | None:
    """Return a record from its file; None where there is none, or a damaged one."""
    try:
        return read(kind, path)
    except Damaged:
        return None
