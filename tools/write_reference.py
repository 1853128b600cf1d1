"""Write what is derived from typed models: schemas of configuration and sidecars, tables of docs.

    ./contimg exec python tools/write_reference.py

A test holds the written files against what this gives.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from dsa110_contimg.core.config import scalar_of
from dsa110_contimg.core.described import meanings
from dsa110_contimg.core.figures import FIGURES, Description, Figures, describe
from dsa110_contimg.core.options import Config, Options
from dsa110_contimg.core.places import repository
from dsa110_contimg.core.sidecar import Record
from dsa110_contimg.lightcurves.assemble import DICTIONARY
from dsa110_contimg.photometry import measure as photometry
from dsa110_contimg.reports.export import COLUMNS
from dsa110_contimg.reports.index import TABLES

#: What sidecars have since version 3 of their schema.
SINCE_3 = ("outputs", "provenance", "sha256")


def schema() -> str:
    """Return the JSON schema of the configuration file."""
    return json.dumps(Config.model_json_schema(), indent=1) + "\n"


def sidecar_schema() -> str:
    """Return the JSON schema of sidecars: what all have, and the figures of each step."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Record[Figures], "validation")]
    models += [(model, "validation") for model in FIGURES.values()]
    references, definitions = models_json_schema(models)
    known = definitions["$defs"]
    common = known.pop(references[models[0]]["$ref"].rpartition("/")[2])
    names = list(common["properties"])
    common |= {"title": "Sidecar", "required": [name for name in names if name not in SINCE_3]}
    for name, info in Record.model_fields.items():
        common["properties"][info.alias or name]["description"] = meanings(Record)[name]
    pages = {path.stem for path in (repository() / "workflow" / "scripts").glob("*.py")}
    common["properties"]["step"]["enum"] = [*FIGURES, *sorted(pages - set(FIGURES))]
    common["allOf"] = [
        {
            "if": {"properties": {"schema": {"minimum": 3}}},
            "then": {"required": list(SINCE_3)},
        },
        *(
            {
                "if": {"properties": {"step": {"const": step}}},
                "then": {"properties": {"qa": references[(model, "validation")]}},
            }
            for step, model in FIGURES.items()
        ),
    ]
    common["properties"] |= {"qa": {"description": "Figures of merit.", "type": "object"}}
    known.pop("Figures")
    return json.dumps(common | {"$defs": known}, indent=1) + "\n"


def figures() -> str:
    """Return the tables of all figures of merit, in Markdown."""
    lines = [
        "# Figures of merit",
        "",
        "What the sidecars, `<product>.json`, say of each product under `qa`; made from the models "
        "in `src/dsa110_contimg/core/figures.py` by `./contimg exec python "
        "tools/write_reference.py`, as is their JSON schema, `config/sidecar.schema.json`. A "
        "figure that could not be measured is null, or left out. Each single figure of "
        "calibrations, images and mosaics is a column of [the index](index-tables.md).",
    ]
    for step, model in FIGURES.items():
        lines += ["", f"## {step}", "", _plain(model.__doc__ or ""), ""]
        rows = (
            (f.name.replace(".", "/"), _kind(f), f.unit, _plain(f.meaning), f.gate)
            for f in describe(model)
        )
        lines += _table(("figure", "type", "unit", "meaning", "gate"), rows)
    return "\n".join(lines) + "\n"


#: What types are called in the tables.
_KINDS = {bool: "yes or no", int: "integer", float: "number", str: "text", dict: "object"}


def _kind(figure: Description) -> str:
    return f"{_KINDS.get(figure.kind, 'object')} {figure.shape}".strip()


def _plain(text: str) -> str:
    return inspect.cleandoc(text).replace("\n", " ").replace("``", "`")


def reference() -> str:
    """Return the table of all keys, in Markdown."""
    lines = [
        "# Configuration",
        "",
        "Every key, its default and its meaning; made from the models in "
        "`src/dsa110_contimg/core/options.py` by `./contimg exec python tools/write_reference.py`.",
        "Precedence: `--config KEY=VALUE`, then `--configfile FILE`, then `config/config.yaml`, "
        "then the defaults below. A changed key remakes what it concerns, and nothing else.",
    ]
    lines += ["", "| key | default | meaning |", "|---|---|---|"]
    sections = []
    for name, info in Config.model_fields.items():
        if isinstance(info.default, Options):
            sections.append((name, type(info.default)))
        else:
            lines.append(_row(Config, name))
    for name, model in sections:
        text = inspect.cleandoc(model.__doc__ or "").replace("``", "`")
        lines += ["", f"## {name}", "", text, ""]
        lines += ["| key | default | meaning |", "|---|---|---|"]
        lines += [_row(model, key) for key in model.model_fields]
    return "\n".join(lines) + "\n"


def _row(model: type[Options], name: str) -> str:
    info = model.model_fields[name]
    kind, _, _ = scalar_of(info.annotation)
    choices = ""
    if typing.get_origin(kind) is Literal:
        choices = " One of " + ", ".join(f"`{value}`" for value in typing.get_args(kind)) + "."
    default = info.default.as_posix() if isinstance(info.default, Path) else info.default
    text = _plain(meanings(model)[name]).replace("|", "\\|")
    return f"| `{name}` | `{default}` | {text}{choices} |"


def index_tables() -> str:
    """Return the tables of the index, in Markdown."""
    lines = [
        "# The index",
        "",
        "Tables and columns of `results/index.sqlite`; its own table `columns` and the comments of "
        "its schema say the same. [What one asks it](../handbook/reports.md#the-index) is in the "
        "handbook.",
    ]
    for table, (what, fields, _) in TABLES.items():
        lines += ["", f"## {table}", "", f"A row: {what}.", ""]
        rows = ((c.name, c.declaration.split()[0].lower(), c.unit, c.meaning) for c in fields)
        lines += _table(("column", "type", "unit", "meaning"), rows)
    return "\n".join(lines) + "\n"


def columns() -> str:
    """Return the columns of the tables that people read, in Markdown."""
    described = {name: (unit, meaning) for name, (unit, _, meaning) in COLUMNS.items()}
    over_nights = list(described)[list(described).index("rank") :]
    lines = [
        "# Columns of tables",
        "",
        "Columns are only ever added. Fluxes and noises are corrected for the primary beam.",
        "",
        "## photometry.csv",
        "",
        "Of tiles and nights: a row a catalogue source in the field, detected or not.",
        "",
        *_table(("column", "unit", "meaning"), ((n, *described[n]) for n in photometry.COLUMNS)),
        "",
        "## lightcurves.parquet",
        "",
        "A row a source and night. Units and meanings are in the file's metadata, too.",
        "",
        *_table(
            ("column", "unit", "VAST name", "meaning"),
            ((n, unit, vast and f"`{vast}`", m) for n, (_, unit, vast, m) in DICTIONARY.items()),
        ),
        "",
        "## variability.csv and candidates.csv",
        "",
        "A row a source; `rank` in `candidates.csv` alone. Definitions are in "
        "[light curves](../science/light-curves.md#measures).",
        "",
        *_table(("column", "unit", "meaning"), ((n, *described[n]) for n in over_nights)),
    ]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown, what is in the first column as code."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| `{first}` | {' | '.join(map(_cell, rest))} |" for first, *rest in rows]


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


#: File, below the repository, and what gives its content.
DERIVED = {
    "config/config.schema.json": schema,
    "config/sidecar.schema.json": sidecar_schema,
    "docs/reference/configuration.md": reference,
    "docs/reference/figures.md": figures,
    "docs/reference/columns.md": columns,
    "docs/reference/index-tables.md": index_tables,
}


def main() -> None:
    """Write all files."""
    for name, content in DERIVED.items():
        (repository() / name).write_text(content(), encoding="utf-8")


if __name__ == "__main__":
    main()
