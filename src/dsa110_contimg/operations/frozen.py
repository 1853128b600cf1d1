"""What a run hands to its jobs, frozen when it begins: the configuration.

It goes by file, not by the command line: there the engine turns empty values and numbers into
words, and its jobs on a cluster would have the shell read them once more.
"""

from __future__ import annotations

from pathlib import Path

from ..core.files import write_text
from ..core.layout import Layout
from ..core.options import Config

__all__ = ["folder_of", "freeze_config"]


def folder_of(layout: Layout) -> Path:
    """Return the folder with what the run at work on a results folder handed to its jobs."""
    return layout.results / ".frozen"


def freeze_config(config: Config, folder: Path) -> Path:
    """Write all values of a configuration to a folder; return the file."""
    path = folder.absolute() / "config.json"
    write_text(path, config.model_dump_json(indent=1) + "\n")
    return path
