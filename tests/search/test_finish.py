"""A search that is finished in the middle of a training leaves a model whose training goes on."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from grafs_timm.activations.activation import FoundActivation
from grafs_timm.errors import SearchError
from grafs_timm.models import weights
from grafs_timm.search.bilevel import ActivationSearch, Site

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))


def steps(search: ActivationSearch, model: nn.Module, count: int = 3, x: Tensor = X) -> None:
    for _ in range(count):
        search.architecture_step(lambda: model(x).square().mean())
        search.end_epoch()


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_weights_statistics_optimiser_and_schedule_go_on() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule, _ = create_scheduler_v2(optimizer, num_epochs=10)
    search = ActivationSearch(model, 10)

    def train(epochs: range) -> float:
        for epoch in epochs:
            loss = (model(X) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step(epoch + 1)
        return float(loss.detach())

    steps(search, model)
    loss = train(range(3))
    before, moments, rate = values(model), copy.deepcopy(optimizer.state_dict()), optimizer.param_groups[0]["lr"]
    search.finish()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert repr(optimizer.state_dict()) == repr(moments)
    assert optimizer.param_groups[0]["lr"] == rate
    assert train(range(3, 10)) < loss
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert optimizer.param_groups[0]["lr"] < rate


def test_the_cell_its_tables_and_its_optimiser_are_freed() -> None:
    model = network()
    search = ActivationSearch(model, 10, warm_start=0)
    model(X).mean().backward()
    steps(search, model)
    gone = [weakref.ref(search.cell), weakref.ref(search.optimizer), weakref.ref(search.cell.alpha["u1"])]
    search.finish()
    gc.collect()
    assert [each() for each in gone] == [None] * 3
    assert search._board.usual_rows is search._board.now is None


CALLS: dict[str, Callable[[ActivationSearch], Any]] = {
    "finish": lambda search: search.finish(),
    "architecture_step": lambda search: search.architecture_step(lambda: search.model(X).mean()),
    "architecture": lambda search: search.architecture().__enter__(),
    "end_epoch": lambda search: search.end_epoch(),
    "state_dict": lambda search: search.state_dict(),
    "load_state_dict": lambda search: search.load_state_dict({}),
    "cell": lambda search: search.cell,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_finished_search_says_so(call: str) -> None:
    model = network()
    search = ActivationSearch(model, 10)
    steps(search, model)
    found, epoch = search.finish(), search.epoch
    before = values(model)
    with pytest.raises(SearchError, match="the search is finished"):
        CALLS[call](search)
    assert (search.genotype(), search.epoch) == (found, epoch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_without_any_step_there_is_nothing_to_find() -> None:
    model = network()
    search = ActivationSearch(model, 10)
    with pytest.raises(SearchError, match="before any architecture step"):
        search.finish()
    steps(search, model)
    assert search.finish()


def test_the_search_can_be_the_first_part_of_a_loop() -> None:
    model = network()
    search = ActivationSearch(model, 5, train_on=True)
    losses = []
    for epoch in range(8):
        assert search.finished == (epoch >= 5)
        losses.append(search.architecture_step(lambda: model(X).square().mean()))
        search.end_epoch()
    assert [bool(loss.isnan()) for loss in losses] == [False] * 5 + [True] * 3
    assert search.epoch == 5
    assert sum(isinstance(module, FoundActivation) for module in model.modules()) == 2
    with pytest.raises(SearchError, match="the search is finished"):
        search.finish()


def test_a_loaded_state_is_enough_to_finish() -> None:
    model, other = network(), network()
    search, loaded = ActivationSearch(model, 10), ActivationSearch(other, 10)
    steps(search, model)
    loaded.load_state_dict(search.state_dict())
    assert loaded.finish() == search.finish()


def test_not_within_an_architecture_step() -> None:
    model = network()
    search = ActivationSearch(model, 10)
    steps(search, model)

    def loss() -> Tensor:
        value = model(X).square().mean()
        search.finish()
        return value

    with pytest.raises(SearchError, match="within an architecture step"):
        search.architecture_step(loss)
    assert all(p.requires_grad for p in model.parameters())
    assert search.finish()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays(training: bool) -> None:
    model = network()
    search = ActivationSearch(model, 10, warm_start=1)
    steps(search, model)
    model.train(training)
    shown = model.eval()(X)
    model.train(training)
    search.finish()
    assert {module.training for module in model.modules()} == {training}
    assert torch.allclose(model.eval()(X), shown, atol=1e-4)  # eval mode computed it by its table


@pytest.mark.parametrize("given", [True, False])
def test_an_average_that_began_before_computes_what_was_found(given: bool) -> None:
    model = network()
    search = ActivationSearch(model, 10)
    average = ModelEmaV3(model, 0.5)
    steps(search, model)
    average.update(model)
    search.finish(*([average.module] if given else []))
    sites = [module for module in average.module.modules() if isinstance(module, Site)]
    assert len(sites) == (0 if given else 2)
    average.update(model)
    average.set(model)
    assert torch.equal(average.module.eval()(X), model.eval()(X))
    average.module.train()(X).mean().backward()
    if given:
        assert not average.module._forward_hooks
        assert not average.module._forward_pre_hooks
        assert not average.module._forward_hooks_always_called


def test_weights_from_before_load_after_it() -> None:
    model = network()
    search = ActivationSearch(model, 10)
    steps(search, model)
    saved = values(model)
    search.finish()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    model.load_state_dict(saved)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("how", ["search", "model"])
def test_a_compiled_model_stays_compiled(how: str) -> None:
    model, graphs = network(), list[Any]()

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    search = ActivationSearch(model, 10, warm_start=0)
    if how == "search":
        search.compile_model(backend=backend)
    else:
        model.compile(backend=backend)
    steps(search, model)
    model(X).mean().backward()
    search.finish()
    plain = network()
    plain.load_state_dict(model.state_dict())
    plain[2] = plain[4] = model[2]
    count = len(graphs)
    assert torch.equal(model.eval()(X), plain.eval()(X))
    assert len(graphs) > count


def test_a_finished_model_is_saved_with_its_activation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    search = ActivationSearch(model, 10)
    steps(search, model, x=IMAGES)
    found = search.finish()
    weights.save_pretrained(model, tmp_path / "saved")
    loaded = weights.create_from(tmp_path / "saved", pretrained=True)
    bound = {module.genotype for module in loaded.modules() if isinstance(module, FoundActivation)}
    assert bound == {found}
    assert torch.equal(loaded.eval()(IMAGES), model.eval()(IMAGES))
