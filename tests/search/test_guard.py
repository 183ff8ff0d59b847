"""The last drops of a guarded search leave a function that can be trained with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from grafs_timm.activations import ops
from grafs_timm.activations.genotype import Genotype
from grafs_timm.activations.published import get_published
from grafs_timm.activations.similarity import SAMPLES
from grafs_timm.config.recipe import parse_recipe
from grafs_timm.search import guard
from grafs_timm.search.bilevel import ActivationSearch
from grafs_timm.search.cell import Cell
from grafs_timm.search.guard import trainable

SLOTS = ("u1", "u2", "b1", "u3", "u4", "b2")
PLAIN = {"u1": ["identity"], "u2": ["identity"], "b1": ["left"], "u3": ["identity"], "u4": ["identity"], "b2": ["left"]}


def cell(seed: int) -> Cell:
    """A cell with random α."""
    torch.manual_seed(seed)
    made = Cell()
    with torch.no_grad():
        for alpha in made.alpha.values():
            alpha.normal_()
    return made


CASES = {
    "relu": ({"u1": ["relu"]}, True),
    "gelu": ({"u1": ["gelu"]}, True),
    "elu": ({"u1": ["elu"]}, True),
    "silu": ({"u1": ["silu"]}, True),
    "tanh": ({"u1": ["tanh"]}, True),
    "a straight line": ({}, False),
    "a constant": ({"b1": ["sub"]}, False),
    "the square, steep at 5": ({"u1": ["square"]}, False),
    "the cube, on the bound": ({"u1": ["cube"]}, False),
    "exp, on the bound": ({"u1": ["exp"]}, False),
    "sqrt, steep at 0": ({"u1": ["sqrt"]}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cell_is_judged_by_its_formula(case: str) -> None:
    changes, expected = CASES[case]
    assert trainable(PLAIN | changes, {}).flatten().tolist() == [expected]


def test_every_cell_is_computed_as_its_genotype() -> None:
    made = cell(0)
    while made.drops_left > 6:
        made.drop()
    survivors = made.survivors
    values = guard._cells(survivors, made._constants(), ops.SEARCH).view(*(len(names) for names in survivors.values()), -1)
    constants = made._constants()
    for _ in range(20):
        at = [int(torch.randint(len(names), ())) for names in survivors.values()]
        genes: dict[str, Any] = {}
        for (slot, names), i in zip(survivors.items(), at, strict=True):
            gamma = constants[slot].get(names[i])
            genes[slot] = {"op": names[i]} if gamma is None else {"op": names[i], "gamma": gamma}
        genotype = Genotype.from_dict({"format": "grafs-cell/1", "bound": ops.SEARCH.bound} | genes, derived=True)
        assert torch.allclose(values[tuple(at)], genotype(SAMPLES), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("seed", range(6))
def test_guarded_drops_leave_one_that_can_be_trained_with(seed: int) -> None:
    made = cell(seed)
    while made.drops_left:
        made.drop(guard=True)
    assert trainable(made.survivors, made._constants()).all()
    found = made.genotype()
    assert found.bound is None
    slopes = found(SAMPLES).diff().abs() / float(SAMPLES[1] - SAMPLES[0])
    assert float(slopes.max()) <= guard.STEEPEST + 1e-6


def test_without_the_guard_the_same_cells_end_elsewhere() -> None:
    ends = []
    for seed in range(6):
        made = cell(seed)
        while made.drops_left:
            made.drop()
        ends.append(bool(trainable(made.survivors, made._constants()).all()))
    assert not all(ends)


def test_it_changes_nothing_where_the_lowest_alpha_leaves_one() -> None:
    made = cell(0)
    with torch.no_grad():
        for slot, name in zip(SLOTS, ("gelu", "gelu", "left", "identity", "identity", "left"), strict=True):
            made.alpha[slot][made.names[slot].index(name)] = 9.0
    other = cell(0)
    other.load_state_dict(made.state_dict())
    while made.drops_left:
        assert made.drop(guard=True) == other.drop()


def test_where_no_cell_is_fit_the_lowest_alpha_goes() -> None:
    made = cell(1)
    made._keep({slot: [made.names[slot].index(n) for n in names] for slot, names in (
        PLAIN | {"u1": ["cube", "exp"], "u2": ["exp"], "u3": ["exp", "cube"]}
    ).items()})  # fmt: skip
    assert not trainable(made.survivors, made._constants()).any()
    lowest = min(made.alive["u1"], key=lambda k: float(made.alpha["u1"][k]))
    assert made.drop(guard=True) == ("u1", made.names["u1"][lowest])


def test_too_many_cells_are_not_judged() -> None:
    assert trainable(Cell().survivors, {}) is None


@pytest.mark.parametrize("name", ["gelu", "mish", "silu", "elu", "golu", "tanh"])
def test_known_good_functions_meet_the_conditions(name: str) -> None:
    values = (torch.nn.Tanh() if name == "tanh" else get_published(name))(SAMPLES)[None]
    assert guard._fit(values, values).all()


def test_a_search_guards_its_drops() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    search = ActivationSearch(model, 5, guard=True)
    for _ in range(5):
        search.architecture_step(lambda: model(torch.randn(8, 4)).square().mean())
        search.end_epoch()
    assert search.finish().bound is None


def test_the_key_of_recipes_leaves_other_recipes_as_they_were() -> None:
    plain = {"model": "test_resnet", "data": "digits"}
    assert "guard" not in parse_recipe(plain).to_yaml()
    assert parse_recipe(plain | {"search": {"guard": True}}).search.guard
