"""The manual builds without a warning, loads nothing from elsewhere, and describes every public name."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_blocks import ROOT

import tiltrl

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LINKED = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest", "modulepreload"}


class Page(HTMLParser):
    """What a page makes a browser load, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        self.loads += [given[name] for name in (LOADED.get(tag, ""), "srcset", "data-src", "poster") if name in given]
        if tag == "link" and LINKED & set(given.get("rel", "").split()):
            self.loads.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    settings = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Documentation built" in done.stderr  # with --quiet a warning is neither told nor counted
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 20 and all(page.loads for page in pages.values())
    elsewhere = re.compile(r"(https?:)?//")
    assert [(path.name, url) for path, page in pages.items() for url in page.loads if elsewhere.match(url)] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import\s)[\"']?((?:https?:)?//[^\"')]*)", styles) == []


def test_a_page_that_loads_something_would_be_found() -> None:
    text = '<link rel="stylesheet" href="https://a/b.css"><script src="//c/d.js"></script><a href="https://e">e</a>'
    assert Page(text).loads == ["https://a/b.css", "//c/d.js"]


def test_make_builds_it_by_the_same_command() -> None:
    assert re.search(r"^docs:.*\n\t\$\(BIN\)/mkdocs build --strict$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_search_knows_the_pages(site: Path) -> None:
    found = (site / "search" / "search_index.json").read_text()
    assert "quickstart.html" in found and "tiltrl.fit_behavior" in found


def test_measurements_that_pages_link_are_part_of_the_site(site: Path) -> None:
    linked = re.findall(r'href="(results/[^"#]+)"', (site / "algorithm.html").read_text())
    assert linked and all((site / link).is_file() for link in linked)


def test_every_public_name_is_described(site: Path) -> None:
    ids = Page((site / "api.html").read_text()).ids
    assert [name for name in tiltrl.__all__ if f"tiltrl.{name}" not in ids] == []


def test_every_public_name_of_the_package_has_a_docstring() -> None:
    def bare(node: ast.AST, where: str) -> list[str]:
        found = []
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
                found += [f"{where}.{child.name}"] if ast.get_docstring(child) is None else []
                found += bare(child, f"{where}.{child.name}") if isinstance(child, ast.ClassDef) else []
        return found

    sources = sorted((ROOT / "src" / "tiltrl").rglob("*.py"))
    assert len(sources) > 100
    assert [name for path in sources for name in bare(ast.parse(path.read_text()), path.stem)] == []
    constants = ("FAST", "PAPER")
    assert [name for name in tiltrl.__all__ if name not in constants and not getattr(tiltrl, name).__doc__] == []
