"""Gradient checkpointing computes again with the tables of the pass it belongs to, or says that it cannot tell."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from grafs_timm.errors import GrafsError
from grafs_timm.search.bilevel import ActivationSearch

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
Run = Callable[..., Tensor]


class Net(nn.Module):
    """Three blocks, each of which ``through`` runs, with dropout so that chance has a part in them."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 5), nn.GELU(), nn.Dropout(dropout), nn.Linear(5, 5), nn.ReLU()) for _ in range(3)
        )
        self.through: Run = lambda block, x: block(x)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.through(block, x)
        return x


def nested(block: nn.Sequential, x: Tensor) -> Tensor:
    def half(part: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(part, x, use_reentrant=False)

    return checkpoint(lambda x: half(block[2:], half(block[:2], x)), x, use_reentrant=False)


WAYS: dict[str, Run] = {
    "not reentrant": partial(checkpoint, use_reentrant=False),
    "reentrant": partial(checkpoint, use_reentrant=True),
    "the first half": lambda block, x: checkpoint_sequential(block, 2, x, use_reentrant=False),
    "nested": nested,
    "without early stop": partial(checkpoint, use_reentrant=False, early_stop=False),
}


def hooked(block: nn.Module, x: Tensor) -> Tensor:
    """The block with hooks that do nothing: it takes the random numbers that what may be computed again takes."""
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        return block(x)


ALONE: dict[str, Run] = dict.fromkeys(WAYS, hooked) | {"the first half": lambda block, x: block[2:](hooked(block[:2], x))}


def views(model: nn.Module, count: int) -> Tensor:
    """A loss of several forward passes, the last of which are weighed so that each has a share of its own."""
    x = X.clone().requires_grad_()
    return sum((place + 1) * model(x + place).square().mean() for place in range(count))


def gradients(way: Run, loop: Callable[[nn.Module], None], dropout: float, outer: bool) -> list[Tensor]:
    """Of the weights, or in the outer level of α and γ."""
    model = Net(dropout)
    search = ActivationSearch(model, 10, warm_start=0)
    model.through = way
    torch.manual_seed(1)
    with search.architecture() if outer else contextlib.nullcontext():
        loop(model)
    return [p.grad for p in (search.cell if outer else model).parameters() if p.grad is not None]


def backward(model: nn.Module, count: int) -> None:
    views(model, count).backward()


def interleaved(model: nn.Module) -> None:
    first, second = views(model, 1), views(model, 1)
    first.backward()
    second.backward()
    views(model, 1).backward()


def kept(model: nn.Module) -> None:
    loss = views(model, 2)
    loss.backward(retain_graph=True)
    views(model, 1).backward()
    loss.backward()


LOOPS: dict[str, Callable[[nn.Module], None]] = {
    "one view": partial(backward, count=1),
    "two views": partial(backward, count=2),
    "five views": partial(backward, count=5),
    "two losses, the first one first": interleaved,
    "a graph kept for a second backward": kept,
}


@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["", "dropout"])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_without_checkpointing(way: str, loop: str, dropout: float) -> None:
    expected = gradients(ALONE[way], LOOPS[loop], dropout, outer=False)
    found = gradients(WAYS[way], LOOPS[loop], dropout, outer=False)
    assert len(found) == len(expected) == 12
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loop", ["one view", "two views", "five views"])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "reentrant"])
def test_so_are_those_of_the_outer_level(way: str, loop: str) -> None:
    expected = gradients(ALONE[way], LOOPS[loop], 0.3, outer=True)
    found = gradients(WAYS[way], LOOPS[loop], 0.3, outer=True)
    assert len(found) == len(expected) == 12
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


FOREIGN: dict[str, Run] = {
    "a call": lambda model, x: model(x),
    "forward": lambda model, x: model.forward(x),
    "blocks": lambda model, x: model.through(model.blocks[1], model.through(model.blocks[0], x)),
    "a copy": lambda model, x: copy.deepcopy(model)(x),
}


def loss_of_three(run: Callable[[Tensor], Tensor]) -> None:
    sum((place + 1) * run(X + place).square().mean() for place in range(3)).backward()


@pytest.mark.parametrize("run", FOREIGN)
def test_passes_that_no_call_began_are_told_apart_too(run: str) -> None:
    found, expected = (
        gradients(way, lambda model: loss_of_three(partial(FOREIGN[run], model)), 0.3, outer=False)
        for way in (WAYS["not reentrant"], hooked)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_model_checkpointed_whole_draws_again_what_it_drew() -> None:
    found = gradients(lambda block, x: block(x), lambda model: loss_of_three(partial(WAYS["not reentrant"], model)), 0.3, False)
    expected = gradients(lambda block, x: block(x), lambda model: loss_of_three(partial(hooked, model)), 0.3, False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def without_rng(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)


def test_one_view_needs_no_random_state_and_two_without_it_are_an_error() -> None:
    model = Net()
    ActivationSearch(model, 10, warm_start=0)
    model.through = without_rng
    for _ in range(3):
        views(model, 1).backward()
    with pytest.raises(GrafsError, match="preserve_rng_state=True"):
        views(model, 2).backward()


def test_more_passes_than_are_kept_are_an_error() -> None:
    model = Net()
    ActivationSearch(model, 10, warm_start=0)
    model.through = WAYS["not reentrant"]
    views(model, 32).backward()
    with pytest.raises(GrafsError, match="at most 32 passes"):
        views(model, 33).backward()


def test_without_checkpointing_nothing_is_kept_and_no_random_number_is_taken() -> None:
    model = Net()
    search = ActivationSearch(model, 10, warm_start=0)
    for _ in range(3):
        views(model, 2).backward()
        with torch.no_grad():
            model(X)
    assert not search._board._earlier


def test_timms_own_checkpointing_and_the_architecture_step() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3, img_size=32)
    model.set_grad_checkpointing()
    search = ActivationSearch(model, 10, warm_start=0)
    x = torch.randn(2, 3, 32, 32)
    before = copy.deepcopy(search.cell.state_dict())
    for _ in range(2):
        search.architecture_step(lambda: F.mse_loss(model(x), model(x.flip(3))))
        F.mse_loss(model(x), model(x.flip(3))).backward()
    assert not any(torch.equal(before[name], now) for name, now in search.cell.state_dict().items())
    assert all(p.grad is not None for name, p in model.named_parameters())
