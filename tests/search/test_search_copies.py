"""A copy of a searched model computes what the search has come to; a copy of a search goes its own way."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from grafs_timm.activations.activation import activation_class
from grafs_timm.search.bilevel import ActivationSearch

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


def inside(model: nn.Module) -> nn.Module:
    return getattr(model, "module", model)


def as_part(model: nn.Module) -> nn.Module:
    return copy.deepcopy(nn.ModuleDict({"student": model}))["student"]


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "a copy of a copy": lambda model: copy.deepcopy(copy.deepcopy(model)),
    "ModelEmaV3": ModelEmaV3,
    "ModelEmaV2": ModelEmaV2,
    "AveragedModel": AveragedModel,
    "AveragedModel with decay": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    "as a part of another module": as_part,
    "in a list": lambda model: copy.deepcopy([model])[0],
    "a shallow copy": copy.copy,
}


def advance(model: nn.Module, search: ActivationSearch, epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(epochs):
        search.architecture_step(lambda: model(X).square().mean())
        optimizer.zero_grad()
        F.cross_entropy(model(X), torch.arange(16) % 3).backward()
        optimizer.step()
        search.end_epoch()


@pytest.mark.parametrize("when", [0, 1, 3], ids=lambda when: f"taken after {when} epochs")
@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_computes_what_the_search_has_come_to(kind: str, when: int) -> None:
    model = network()
    search = ActivationSearch(model, 12, warm_start=2, shrink_start=3, lr=1e-2)
    advance(model, search, when)
    other = COPIES[kind](model)
    advance(model, search, 12 - when)
    inside(other).load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(X), model.eval()(X))
    found = network().eval()
    found[2] = found[4] = activation_class(search.genotype())()
    found.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(X), found(X), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_has_a_mode_of_its_own(kind: str) -> None:
    model = network()
    search = ActivationSearch(model, 12, warm_start=1)
    other = COPIES[kind](model).eval()
    search.end_epoch()
    if kind != "a shallow copy":
        model.train()
    with torch.no_grad():
        assert torch.equal(other(X), other(X))
        other.train()
        assert not torch.equal(other(X), other(X))


def test_the_outer_level_leaves_the_weights_of_a_copy_alone() -> None:
    model = network()
    search = ActivationSearch(model, 12, warm_start=0)
    other = copy.deepcopy(model)
    before = copy.deepcopy(other.state_dict())
    search.architecture_step(lambda: other(X).square().mean())
    assert all(p.grad is None and p.requires_grad for p in other.parameters())
    assert all(torch.equal(before[name], now) for name, now in other.state_dict().items())


@pytest.mark.parametrize("kind", ["the search", "model and search", "search and model"])
def test_a_copy_of_a_search_goes_its_own_way(kind: str) -> None:
    model = network()
    search = ActivationSearch(model, 12, warm_start=1, lr=1e-2)
    advance(model, search, 3)
    if kind == "the search":
        other = copy.deepcopy(search)
    else:
        pair = (model, search) if kind == "model and search" else (search, model)
        other = next(each for each in copy.deepcopy(pair) if isinstance(each, ActivationSearch))
    assert other.cell is not search.cell
    before = copy.deepcopy(search.cell.state_dict())
    torch.manual_seed(3)
    advance(other.model, other, 9)
    assert all(torch.equal(before[name], now) for name, now in search.cell.state_dict().items())
    assert search.epoch == 3
    torch.manual_seed(3)
    advance(model, search, 9)
    assert search.genotype() == other.genotype()
    assert torch.equal(model.eval()(X), other.model.eval()(X))


def test_a_copy_of_a_compiled_model_has_weights_of_its_own() -> None:
    model = network()
    search = ActivationSearch(model, 12, warm_start=1)
    search.compile_model(backend="eager")
    other = ModelEmaV3(model).module
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
        assert not other(X).any()
        assert model(X).any()


def test_a_model_saved_whole_computes_what_it_did() -> None:
    model = network()
    search = ActivationSearch(model, 12, warm_start=1, lr=1e-2)
    advance(model, search, 6)
    file = io.BytesIO()
    torch.save(model, file)
    other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    expected: Tensor = model.eval()(X)
    assert torch.equal(other.eval()(X), expected)
