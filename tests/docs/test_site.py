"""The documentation site: built strictly, without a dead link, readable without a network."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from dsa110_contimg.core import places
from support import REPO, browser

#: Attributes that make a browser fetch something when it shows a page.
FETCHED = {"src", "srcset", "poster", "data", "background"}
#: Relations of a <link> that do not.
NOT_FETCHED = {"prev", "next", "canonical", "alternate"}


class Page(HTMLParser):
    """What a page fetches, where it leads, and the places in it that others may lead to."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.links, self.ids, self.classes = [], [], set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = {key: value or "" for key, value in attrs}
        self.ids |= {attributes.get("id"), attributes.get("name")}
        self.classes |= set(attributes.get("class", "").split())
        self.fetched += [attributes[key] for key in FETCHED & set(attributes)]
        self.fetched += re.findall(r"url\(([^)]+)\)", attributes.get("style", ""))
        if tag == "link" and attributes.get("rel") not in NOT_FETCHED:
            self.fetched.append(attributes["href"])
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--site-dir", folder],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page, by its path."""
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_package_and_every_page_is_there(site, pages):
    names = {path.relative_to(site).with_suffix("").as_posix() for path in pages}
    written = {p.relative_to(REPO / "docs").with_suffix("") for p in REPO.glob("docs/**/*.md")}
    packages = {path.parent.name for path in places.PACKAGE.glob("*/__init__.py")}
    assert {path.as_posix() for path in written} <= names
    assert {f"reference/api/{name}" for name in packages} <= names
    assert {"development/contributing", "development/changelog"} <= names


def test_every_public_function_is_in_the_api(site):
    """Those without a docstring are not."""
    for package in places.PACKAGE.glob("*/__init__.py"):
        text = (site / f"reference/api/{package.parent.name}.html").read_text()
        for module in package.parent.glob("[a-z]*.py"):
            name = f"dsa110_contimg.{package.parent.name}.{module.stem}"
            offered = re.search(r"^__all__ = \[(.*?)\]", module.read_text(), re.S | re.M)
            for item in re.findall(r'"(\w+)"', offered[1] if offered else ""):
                if re.search(rf"^def {item}\(", module.read_text(), re.M):
                    assert f'id="{name}.{item}"' in text, f"{name}.{item} has no docstring"


def test_no_link_is_dead(site, pages):
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for path, page in pages.items():
        for address in page.fetched:
            assert not re.match(r"\w*:?//", address), f"{path.relative_to(site)}: {address}"
            if not address.startswith("data:"):
                assert (path.parent / unquote(urlsplit(address).path)).exists(), address
        assert "mermaid" not in page.classes, "the theme would fetch a program that draws it"
    for style in site.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", style.read_text()):
            assert not re.match(r"(https?:)?//", address), f"{style.name}: {address}"


SEARCH = """
addEventListener("load", () => setTimeout(() => {
  document.querySelector("[data-md-toggle=search]").click();
  const query = document.querySelector("[data-md-component=search-query]");
  query.focus();
  query.value = "quarantined";
  query.dispatchEvent(new Event("keyup"));
  setTimeout(() => {
    const found = document.querySelectorAll(".md-search-result__item a");
    document.body.dataset.found = Array.from(found, (a) => a.getAttribute("href")).join(" ");
  }, 2000);
}, 2000));
"""


@pytest.mark.skipif(browser.chromium() is None, reason="no chromium here")
def test_the_search_works_on_files(site, tmp_path):
    copy = shutil.copytree(site, tmp_path / "copy")
    text, console = browser.dom(copy / "handbook" / "operations.html", SEARCH, 15000)
    found = re.search(r'data-found="([^"]*)"', text)
    assert found and "operations.html" in found[1], console
    assert not console
