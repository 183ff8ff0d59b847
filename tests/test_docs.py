"""The pages: links lead somewhere, commands have the options they are shown with, and the README's Python runs."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from grafs_timm.cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [page for folder in ("benchmarks", "docs", "docs/start") for page in sorted((ROOT / folder).glob("*.md"))]
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(FENCE, "", text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The words of each `grafs-timm ...` line of a page's code blocks."""
    code = [block for _, block in FENCE.findall(text(page))] + re.findall(r"(?:^    .*\n)+", text(page), re.MULTILINE)
    lines = [line.strip() for block in code for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    lines = [re.split(r" > | \| |   then", line.removeprefix("$ "))[0] for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("grafs-timm ")]


def test_the_readme_is_short() -> None:
    assert len(text(ROOT / "README.md").split()) <= 700


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(re.sub(FENCE, "", text(page))):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


@pages
def test_python_blocks_parse(page: Path) -> None:
    for language, block in FENCE.findall(text(page)):
        if language == "python":
            indent = re.match(" *", block)[0]
            ast.parse(re.sub(f"^{indent}", "", block, flags=re.MULTILINE))


@pages
def test_commands_have_the_options_they_are_shown_with(page: Path) -> None:
    for words in commands(page):
        command: click.Command = main
        context = click.Context(main, info_name="grafs-timm", **main.context_settings)
        while isinstance(command, click.Group):
            if words == ["--version"]:
                break
            found = command.get_command(context, words[0])
            assert found, f"no command {words[0]!r}"
            command, words = found, words[1:]
        words = [word for word in words if word not in ("...", "COMMAND")]
        own = click.Context(
            command, parent=context, allow_interspersed_args=command.context_settings.get("allow_interspersed_args", True)
        )
        command.make_parser(own).parse_args(words)  # raises for an unknown option


def test_the_files_of_the_architecture_page_exist() -> None:
    named = 0
    page = text(ROOT / "docs" / "architecture.md")
    for room, files in re.findall(r"^\| `(\w+)/` \| (.*) \|$", page, re.MULTILINE):
        for file in re.findall(r"`([\w*]+\.(?:py|cpp))`", files):
            assert list((ROOT / "grafs_timm" / room).glob(file)), f"{room}/{file}"
            named += 1
    for path in re.findall(r"`(\w+/[\w*]+\.py)`", page):
        assert list((ROOT / "grafs_timm").glob(path)) or (ROOT / path).exists(), path
        named += 1
    assert named > 60
    rooms = {folder.parent.name for folder in (ROOT / "grafs_timm").glob("*/__init__.py")}
    assert all(re.search(rf"\b{room}\b", FENCE.search(page)[2]) for room in rooms)


def test_the_readmes_python_runs() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    batches = [(torch.randn(8, 2), torch.randint(2, (8,))) for _ in range(2)]
    own_loop = {
        "model": model,
        "train_loader": batches,
        "architecture_loader": batches,
        "loss_fn": torch.nn.functional.cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    timm_lines, loop = (block for language, block in FENCE.findall(text(ROOT / "README.md")) if language == "python")
    names: dict[str, Any] = {}
    exec(compile(timm_lines, "README.md", "exec"), names)
    assert names["model"].activation_report.replaced
    exec(compile(loop, "README.md", "exec"), names | own_loop)  # the repository's own text, as a reader would type it
