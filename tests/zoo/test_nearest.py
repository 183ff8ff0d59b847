"""The nearest known function: of every published one itself, of what lies between, and of what cannot be compared."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.activations.published import get_published
from grafs_timm.utils.files import write_json
from grafs_timm.zoo.nearest import Nearest, nearest_known


def cell(op: str, gamma: float | None = None) -> Genotype:
    identity = Gene("identity")
    return Genotype(Gene(op, gamma), identity, Gene("left"), identity, identity, Gene("left"))


@pytest.mark.parametrize("name", ["golu", "gelu", "relu2", "grafs2024_wrn", "grafs2024_vit"])
def test_a_known_function_is_named(name: str) -> None:
    near = nearest_known(get_published(name))
    assert near.name == name
    assert near.distance == pytest.approx(0, abs=1e-6)
    assert str(near).startswith(f"that is {name} (distance 0.000)")


def test_scales_do_not_count() -> None:
    assert nearest_known(cell("softplus")).name == "softplus"
    scaled = Genotype(Gene("scale", -2.5), Gene("identity"), Gene("left"), Gene("relu"), Gene("identity"), Gene("left"))
    assert nearest_known(scaled).name == "relu"


def test_a_function_between_known_ones_has_both_distances() -> None:
    near = nearest_known(cell("asinh"))
    assert near.distance is not None
    assert near.stock_distance is not None
    assert 1e-3 < near.distance <= near.stock_distance
    assert str(near).startswith("nearest published: ")


@pytest.mark.parametrize("function", [cell("const", 1.0), cell("const", 0.0)], ids=["one", "zero"])
def test_a_constant_has_none_and_can_be_written(function: Genotype, tmp_path: Path) -> None:
    near = nearest_known(function)
    assert str(near) == "not comparable with a known function"
    write_json(tmp_path / "summary.json", asdict(near))  # as the summary of a search that ends in a constant is
    assert Nearest(**asdict(near)) == near
