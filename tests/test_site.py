"""The documentation site: it builds strictly, has every page and every public name, and needs no network; pages are short."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference
import repository
from mkdocs.config import load_config

import grafs_timm
from grafs_timm.cli.main import main
from grafs_timm.config.schema import Recipe

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "zoo/README.md"))]
PAGES += [*sorted((ROOT / "benchmarks").glob("*.md")), *sorted((ROOT / "zoo").glob("*/*.md"))]
WORDS = 1200


def prose(text: str) -> int:
    """Words outside code blocks and tables."""
    text = re.sub(r"^    .*\n", "", repository.FENCE.sub("", text), flags=re.MULTILINE)
    return len(re.sub(r"^ *\|.*$", "", text, flags=re.MULTILINE).split())


def listed(nav: list[Any]) -> Iterator[str]:
    for item in nav:
        for below in item.values() if isinstance(item, dict) else [item]:
            if isinstance(below, list):
                yield from listed(below)
            else:
                yield below


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_is_long(page: Path) -> None:
    assert prose(page.read_text(encoding="utf-8")) <= WORDS


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "start").glob("*.md")), ids=lambda page: page.stem)
def test_the_pages_for_newcomers_are_shorter(page: Path) -> None:
    assert prose(page.read_text(encoding="utf-8")) <= 900


def test_the_navigation_has_every_page() -> None:
    nav = set(listed(load_config(str(ROOT / "mkdocs.yml")).nav))
    assert {page.relative_to(ROOT / "docs").as_posix() for page in DOCS} <= nav
    assert {"zoo/leaderboard.md", "zoo/index.html", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md"} <= nav
    assert {f"reference/{name}.md" for name in ("commands", "recipe-keys", "recipe-files")} <= nav  # the API's are filled in


@pytest.mark.parametrize("name", ["docstrings", "reference", "repository"])
def test_examples_of_the_generator_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_links_are_rewritten_and_code_is_not() -> None:
    text = "[a](../zoo/README.md#x) ![b](found.png) [c](https://x.org) [d](../zoo/gpt/)\n\n```\n[e](../README.md)\n```\n"
    new = "[a](zoo/leaderboard.md#x) ![b](found.png) [c](https://x.org) d (in the repository)\n\n```\n[e](../README.md)\n```\n"
    assert repository.rewritten(text, "docs/method.md", "method.md") == new
    assert repository.rewritten("[a](method.md)", "docs/method.md", "start/x.md") == "[a](../method.md)"


def test_every_key_of_recipes_has_a_meaning() -> None:
    page = reference.recipe_keys()
    for model in reference.sections(Recipe):
        said = reference.meaning(model)[1]
        assert set(model.model_fields) == set(said), model
        assert all(f"| `{key}` |" in page for key in model.model_fields)


def test_every_command_is_in_the_reference() -> None:
    page = reference.commands()
    assert all(f"## grafs-timm {name}\n" in page for name in main.commands)
    assert "## grafs-timm zoo verify\n" in page
    assert "Several searches:" in page  # the sections of --help


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; a warning, such as of a broken link, is an error there."""
    folder = tmp_path_factory.mktemp("site")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        ["make", "-s", "-C", str(ROOT), "docs", f"DOCS={folder}", f"VENV={sys.prefix}", "STAMP=ready", "-o", "ready"],
        env=environment, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.mark.slow
def test_the_site_needs_no_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        for tag in re.findall(r"<(?:link|script|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8")):
            assert not re.search(r"""(?:href|src|srcset)=["']?(?:https?:)?//""", tag), f"{page.relative_to(site)}: {tag}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.slow
def test_no_markdown_is_left_on_a_page(site: Path) -> None:
    """Lists, links and fences that a repository browser knows and Python-Markdown does not."""
    for page in site.rglob("*.html"):
        text = re.sub(r"(?s)<(pre|code|script|style|math)\b.*?</\1>", "", page.read_text(encoding="utf-8"))
        assert not re.findall(r"(?m)^(?:<p>)?(?:- |\d\. |\* ).{0,60}|```|\]\(|^\|", text), page.relative_to(site)


@pytest.mark.slow
def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    """Also those of generated pages and to anchors, of which MkDocs checks only some."""
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))) for page in site.rglob("*.html")}
    for page in anchors:
        text = page.read_text(encoding="utf-8").partition("<article")[2].partition("</article")[0]
        if page.relative_to(site).as_posix() == "zoo/index.html":
            text = re.sub(r'"card":"([^"]+)"', r'<a href="\1">', page.read_text(encoding="utf-8"))
        for target in re.findall(r'<a\b[^>]*\bhref="([^":]+)"', text):
            path, _, anchor = target.partition("#")
            there = Path(os.path.normpath(page.parent / path)) if path else page
            assert there.is_file(), f"{page.relative_to(site)}: {target}"
            assert not anchor or anchor in anchors[there] or anchor.startswith("__codelineno"), (
                f"{page.relative_to(site)}: {target}"
            )


@pytest.mark.slow
def test_every_public_name_is_in_the_reference_once(site: Path) -> None:
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (site / "reference" / "api").glob("*.html")}
    for room in ["grafs_timm", *(f"grafs_timm.{file.parent.name}" for file in ROOT.glob("grafs_timm/*/__init__.py"))]:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()):
            found = getattr(module, name)
            anchor = f'id="{found.__module__}.{found.__qualname__}"'
            assert [stem for stem, text in pages.items() if anchor in text] == (
                ["grafs_timm"] if getattr(grafs_timm, name, None) is found else [room.rpartition(".")[2]]
            ), name
    assert "&gt;&gt;&gt;" in pages["grafs_timm"]
    assert "Parameters:" in pages["grafs_timm"]


@pytest.mark.slow
def test_the_search_works_from_disk(site: Path) -> None:
    assert (site / "search" / "search_index.js").stat().st_size > 100_000
    assert (site / "assets" / "iframe-worker.js").is_file()
    assert 'src="assets/iframe-worker.js"' in (site / "index.html").read_text(encoding="utf-8")
