"""Typed models that say what their fields mean: the text below a field is its meaning.

The texts are read from the source, and only when they are asked for: pydantic's own way reads them
each time a model is made, which every step and every tick would pay for.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import sys
from typing import Any

from pydantic import GetJsonSchemaHandler

__all__ = ["Described", "meanings"]


class Described:
    """What makes the JSON schema of a pydantic model have the meanings of its fields."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict:
        """Return the schema with the meanings."""
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, meaning in meanings(cls).items():
            properties[name]["description"] = meaning
        return schema


def meanings(model: type) -> dict[str, str]:
    """Return the texts below the fields of a model."""
    (body,) = (
        node.body
        for node in _source(model.__module__).body
        if isinstance(node, ast.ClassDef) and node.name == model.__name__
    )
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


@functools.cache
def _source(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[module]))
