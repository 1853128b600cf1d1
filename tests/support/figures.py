"""Figures of merit for tests that care about few of them."""

import types
import typing

from dsa110_contimg.core.figures import Model

_PLAIN = {bool: True, int: 1, float: 1.0, str: "text"}


def example(model, **given):
    """Return a model with these figures; others that it must have get a value of their type."""
    required = {name: info for name, info in model.model_fields.items() if info.is_required()}
    others = {n: _sample(info.annotation) for n, info in required.items() if n not in given}
    return model(**others, **given)


def _sample(kind):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _sample(arguments[0])
    if origin is types.UnionType or origin is typing.Union:
        return None
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        return tuple(map(_sample, arguments))
    if origin in (list, dict):
        return origin()
    return example(kind) if issubclass(kind, Model) else _PLAIN[kind]
