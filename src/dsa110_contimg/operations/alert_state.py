"""What was told of alerts, kept from tick to tick."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.files import write_text
from ..core.options import Config
from .locking import identity

__all__ = ["load", "save"]


def _state_paths(config: Config) -> tuple[Path, Path]:
    """Return where the state of the alerts is, and where it goes when the results are not writable.

    Without a second place a full disk would be told by every tick.
    """
    name = identity(config.results) or str(config.results.absolute()).strip("/").replace("/", "_")
    spare = Path(tempfile.gettempdir()) / f"contimg-alerts-{os.getuid()}-{name}.json"
    return config.results / ".alerts.json", spare


def load(config: Config) -> dict[str, Any]:
    """Return what was told, from whichever place has the newer state."""
    found = []
    for path in _state_paths(config):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if path.stat().st_uid == os.getuid():
                content = json.loads(path.read_text(encoding="utf-8"))
                if content["version"] == 1:
                    found.append((path.stat().st_mtime, content))
    return max(found, key=lambda item: item[0], default=(0.0, {}))[1]


def save(config: Config, content: Mapping[str, Any]) -> None:
    """Keep what was told; in the second place where the results are not writable."""
    path, spare = _state_paths(config)
    text = json.dumps(content, indent=1) + "\n"
    try:
        write_text(path, text)
        spare.unlink(missing_ok=True)
    except OSError:
        write_text(spare, text)
