"""A search says what it was given that it cannot work with, and leaves everything as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grafs_timm.activations.activation import FoundActivation
from grafs_timm.errors import GrafsError
from grafs_timm.models.replace import replace_activations
from grafs_timm.search.bilevel import ActivationSearch, Site

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 3))


AGAIN: dict[str, Callable[[nn.Module], object]] = {
    "a second search": lambda model: ActivationSearch(model, 10),
    "a search of a part": lambda model: ActivationSearch(model[2], 10),
    "a search around it": lambda model: ActivationSearch(nn.Sequential(model, nn.ReLU()), 10),
    "a search of a copy": lambda model: ActivationSearch(copy.deepcopy(model), 10),
    "a replacement": lambda model: replace_activations(model, "gelu"),
    "a replacement in a part": lambda model: replace_activations(model[2], "gelu"),
}


@pytest.mark.parametrize("how", AGAIN)
def test_a_searched_model_is_refused_as_it_is(how: str) -> None:
    model = network()
    search = ActivationSearch(model, 10)
    before = [(name, id(module)) for name, module in model.named_modules()]
    with pytest.raises(GrafsError, match=r"finish\(\).* or build or load the model again"):
        AGAIN[how](model)
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert search.architecture_step(lambda: model(X).square().mean()).isfinite()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_finished_search_leaves_a_model_like_any_other(compiled: bool) -> None:
    model = network()
    names = list(model.state_dict())
    search = ActivationSearch(model, 10, warm_start=1)
    if compiled:
        search.compile_model(backend="eager")
    for _ in range(10):
        search.architecture_step(lambda: model(X).square().mean())
        search.end_epoch()
    found = search.finish()
    assert found == search.genotype()
    assert not any(isinstance(module, Site) for module in model.modules())
    assert sum(isinstance(module, FoundActivation) for module in model.modules()) == 2
    assert list(model.state_dict()) == names
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert torch.equal(model(X), model(X))
    assert ActivationSearch(model, 10).report.was == {"Found": 2}


SOME: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "None": (lambda y: None, "returned None"),
    "a float": (lambda y: y.mean().item(), "returned float"),
    "a vector": (lambda y: y.mean(1), r"shape \(16,\)"),
    "a batch of outputs": (lambda y: y, r"shape \(16, 3\)"),
    "a dict": (lambda y: {"loss": y.mean()}, "returned dict"),
    "a tuple": (lambda y: (y.mean(), y), "returned tuple"),
    "a count": (lambda y: y.argmax(1).sum(), "int64"),
    "an array": (lambda y: y.detach().mean().numpy(), "returned"),
    "nothing at all": (lambda y: torch.zeros(0), r"shape \(0,\)"),
}


@pytest.mark.parametrize("kind", SOME)
def test_what_is_no_scalar_loss_is_named(kind: str) -> None:
    model, (returned, message) = network(), SOME[kind]
    search = ActivationSearch(model, 10)
    cell = copy.deepcopy(search.cell.state_dict())
    with pytest.raises(GrafsError, match=message):
        search.architecture_step(lambda: returned(model(X)))
    assert all(torch.equal(cell[name], now) for name, now in search.cell.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_loss_of_one_element_is_a_scalar() -> None:
    model = network()
    assert ActivationSearch(model, 10).architecture_step(lambda: model(X).mean().reshape(1, 1)).shape == ()


def ended(epochs: int = 20, by: int = 13, **settings: Any) -> dict[str, Any]:
    search = ActivationSearch(network(), epochs, **settings)
    for _ in range(by):
        search.end_epoch()
    return search.state_dict()


def without_plan(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != "plan"}


STATES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "of more epochs": (ended, "epochs 20, this one has 8"),
    "of fewer epochs": (lambda: ended(6, 3), "epochs 6"),
    "another warm start": (lambda: ended(8, 3, warm_start=3), "warm_start 3"),
    "another start of the drops": (lambda: ended(8, 3, shrink_start=4), "shrink_start"),
    "another set of candidates": (lambda: ended(8, 3, wide=True), "candidates"),
    "of more epochs, from before plans were kept": (lambda: without_plan(ended()), "of epoch 13 with"),
    "of fewer epochs, from before": (lambda: without_plan(ended(6, 4)), "candidates left"),
    "the cell's alone": (lambda: ended(8, 3)["cell"], "not the state of a search"),
    "an optimiser's": (lambda: ended(8, 3)["optimizer"], "not the state of a search"),
}


@pytest.mark.parametrize("kind", STATES)
def test_the_state_of_another_search_is_refused(kind: str) -> None:
    make, message = STATES[kind]
    search = ActivationSearch(network(), 8)
    before = copy.deepcopy(search.state_dict())
    with pytest.raises(GrafsError, match=message):
        search.load_state_dict(make())
    assert str(before) == str(search.state_dict())


def test_a_state_from_before_plans_were_kept_still_loads() -> None:
    search = ActivationSearch(network(), 20)
    search.load_state_dict(without_plan(ended()))
    assert search.epoch == 13


@pytest.mark.parametrize("usual", ["gelu", "relu2", "grafs_resnet", nn.GELU, lambda: nn.GELU()])
def test_the_usual_activation_is_given_as_anywhere_else(usual: Any) -> None:
    model = network()
    ActivationSearch(model, 10, usual=usual)
    kinds = {type(module.usual).__name__ for module in model.modules() if isinstance(module, Site)}
    assert len(kinds) == 1
    assert model(X).isfinite().all()


@pytest.mark.parametrize(
    ("usual", "message"), [("gelo", "nearest: .*gelu"), (nn.GELU(), "its class, GELU"), ("no/such.json", "such")]
)
def test_no_usual_activation_is_named_before_the_model_is_touched(usual: Any, message: str) -> None:
    model = network()
    with pytest.raises(GrafsError, match=message):
        ActivationSearch(model, 10, usual=usual)
    assert not any(isinstance(module, Site) for module in model.modules())
