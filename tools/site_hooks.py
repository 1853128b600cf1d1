"""Pages of the documentation site that are made from other files: see `hooks` in mkdocs.yml.

CONTRIBUTING.md and CHANGELOG.md lie at the top of the repository, where people look for them; each
package has a page of its API.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "src" / "dsa110_contimg"
#: Page of the site, and the file at the top of the repository that it is.
FROM_TOP = {
    "development/contributing.md": "CONTRIBUTING.md",
    "development/changelog.md": "CHANGELOG.md",
}


def packages() -> list[str]:
    """Return the names of the packages, as they stand in the tree."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def on_config(config: Any) -> Any:
    """List the pages of the API."""
    for section in config.nav:
        for entry in section.get("Reference", []):
            if "API" in entry:
                entry["API"] = [{name: f"reference/api/{name}.md"} for name in packages()]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links to files at the top of the repository lead to their pages."""
    here = posixpath.dirname(page.file.src_uri)
    for made, source in FROM_TOP.items():
        place = re.escape(posixpath.relpath(f"../{source}", here))
        markdown = re.sub(rf"\]\({place}\b", f"]({posixpath.relpath(made, here)}", markdown)
    return markdown


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    for page, source in FROM_TOP.items():
        text = (REPO / source).read_text(encoding="utf-8")
        # Links from the top of the repository into docs/ are links between pages here.
        text = re.sub(r"\]\(docs/", "](../", text)
        files.append(File.generated(config, page, content=text))
    for name in packages():
        files.append(File.generated(config, f"reference/api/{name}.md", content=api(name)))
    return files


def api(package: str) -> str:
    """Return the page of a package: what it is for, and what its modules offer."""
    modules = sorted(path.stem for path in (PACKAGE / package).glob("[a-z]*.py"))
    parts = [f"# `{package}`", f"::: dsa110_contimg.{package}"]
    for module in modules:
        parts += [f"## `{package}.{module}`", f"::: dsa110_contimg.{package}.{module}"]
    return "\n\n".join(parts) + "\n"
