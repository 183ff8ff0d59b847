"""The catalogue: every known name, each with a thumbnail, formula, source, facts and cost."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny_runs import ROOT

from grafs_timm.activations import published
from grafs_timm.activations.published_cells import CELLS
from grafs_timm.cli.main import main
from grafs_timm.publishing import catalogue, pages
from grafs_timm.zoo import lookup


def test_every_name_is_on_the_page_with_its_picture(tmp_path: Path) -> None:
    made = catalogue.pages(pages.read(ROOT / "zoo"), tmp_path)
    text = made.pop(tmp_path / "activations.md")
    for name in [*published.list_published(), *lookup.names()]:
        assert f"`{name}`" in text, name
    pictures = set(re.findall(r"\]\((activations/\w+\.svg)\)", text))
    assert {path.relative_to(tmp_path).as_posix() for path in made} == pictures
    for each in catalogue.items():
        assert (CELLS[each.name].run if each.name in CELLS else each.claim) in text.replace("\\", "")
        assert each.text.replace("|", "\\|") in text
        assert each.cost


def test_the_committed_page_is_the_generated_one() -> None:
    for path, text in catalogue.pages(pages.read(ROOT / "zoo"), ROOT / "docs").items():
        assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("function", [torch.relu, lambda x: x**3, lambda x: x * torch.inf], ids=["relu", "cube", "infinite"])
def test_a_thumbnail_is_a_small_picture(function: object) -> None:
    drawn = catalogue.thumbnail(function)  # type: ignore[arg-type]
    (line,) = (each for each in ElementTree.fromstring(drawn) if each.tag.endswith("polyline"))
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert len(points) == 101
    assert len(drawn) < 3000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "--published", "golu"], ["golu", "x*exp(-exp(-x))", "arXiv 2502.03654"]),
        (["list", "--published", "m*"], ["mish", "timm's own is used", "max_sigmoid"]),
        (["show", "golu"], ["arXiv 2502.03654", "gain 1.9896", "× GELU", 'act_layer="golu"']),
        (["show", "grafs2024_wrn"], ["GELU(x)*sigmoid(ReLU(x))", "WRN-28-2"]),
        (["show", "mish"], ["timm has it under this name"]),
        (["show", "e_swish(beta=2)"], ["2*SiLU(x)", "beta = 2", 'grafs_timm.act_layer("e_swish(beta=2)")']),
    ],
)
def test_the_commands_show_published_functions(arguments: list[str], expected: list[str]) -> None:
    done = CliRunner().invoke(main, ["zoo", *arguments])
    assert done.exit_code == 0, done.output
    for each in expected:
        assert each in done.output


def test_a_published_function_is_plotted(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["zoo", "plot", "golu", "e_swish(beta=2)", "mish", "--out", str(tmp_path / "a.png")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.png").stat().st_size > 5000
