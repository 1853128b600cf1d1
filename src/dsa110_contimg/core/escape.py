"""Names as each renderer takes them: they are data, and nothing in them is markup.

Pages escape by themselves (`reports.pages.environment`), as do VOTables and CSV; SQL takes names as
parameters, and commands through `shlex`. What is left is here.
"""

from __future__ import annotations

import hashlib
import re

__all__ = ["file_name", "line", "plot_text", "region_text"]

#: Longest file name made of a name, characters; longest name in a plot.
_FILE_LONGEST, _PLOT_LONGEST = 80, 60


def line(text: str) -> str:
    """Return a text in one line that a terminal shows as it is: control characters are spelt."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plot_text(text: str) -> str:
    """Return a text for matplotlib: in one line, shortened where it is long, never mathematics."""
    text = line(text)
    if len(text) > _PLOT_LONGEST:
        text = text[: _PLOT_LONGEST - 1] + "…"
    return text.replace("$", r"\$")


def file_name(text: str) -> str:
    """Return a name as a file's: letters, digits, ``+-._`` stay, the rest becomes ``_``.

    Names that differ only in what was replaced or cut off are told apart by a digest of the whole.
    """
    safe = re.sub(r"[^A-Za-z0-9+._-]|^[.-]", "_", text)[:_FILE_LONGEST]
    if safe == text:
        return safe
    return f"{safe}_{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def region_text(text: str) -> str:
    """Return a text for DS9, within braces."""
    return line(text).translate({ord("{"): "(", ord("}"): ")"})
