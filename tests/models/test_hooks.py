"""A hook on an activation goes on at its place when the activation is replaced, and its handle still removes it."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models import nfnet
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from grafs_timm.activations.activation import FoundActivation
from grafs_timm.models import activation_table as activations
from grafs_timm.models import functional, squeeze
from grafs_timm.models.replace import replace_activations
from grafs_timm.search.bilevel import ActivationSearch, Site

GATED = {
    "format": "grafs-cell/1", "u1": {"op": "silu"}, "u2": {"op": "scale", "gamma": 0.5221}, "b1": {"op": "gate"},
    "u3": {"op": "asinh"}, "u4": {"op": "gelu"}, "b2": {"op": "add"},
}  # fmt: skip
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
Seen = list[nn.Module]
Register = Callable[[nn.Module, Seen], RemovableHandle]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def noted(seen: Seen) -> Callable[..., None]:
    return lambda module, *_: seen.append(module)


REGISTER: dict[str, Register] = {
    "forward": lambda act, seen: act.register_forward_hook(noted(seen)),
    "forward, put first": lambda act, seen: act.register_forward_hook(noted(seen), prepend=True),
    "forward with kwargs": lambda act, seen: act.register_forward_hook(noted(seen), with_kwargs=True),
    "forward, called always": lambda act, seen: act.register_forward_hook(noted(seen), always_call=True),
    "before forward": lambda act, seen: act.register_forward_pre_hook(noted(seen)),
    "before forward with kwargs": lambda act, seen: act.register_forward_pre_hook(noted(seen), with_kwargs=True),
    "full backward": lambda act, seen: act.register_full_backward_hook(noted(seen)),
    "before backward": lambda act, seen: act.register_full_backward_pre_hook(noted(seen)),
    "backward of old": lambda act, seen: act.register_backward_hook(noted(seen)),
}


def searched(model: nn.Module) -> ActivationSearch:
    return ActivationSearch(model, 10)


def stepped(search: ActivationSearch) -> ActivationSearch:
    """Take a step on α without calling the model, whose hooks are counted."""
    for p in search.cell.parameters():
        p.grad = torch.ones_like(p)
    search.optimizer.step()
    return search


def finished(model: nn.Module) -> None:
    stepped(searched(model)).finish()


def warm_started(model: nn.Module) -> None:
    searched(model).epoch = 1


REPLACE: dict[str, Callable[[nn.Module], Any]] = {
    "a found activation": lambda model: replace_activations(model, GATED),
    "one of timm's own": lambda model: replace_activations(model, "gelu"),
    "replaced twice": lambda model: (replace_activations(model, "gelu"), replace_activations(model, GATED)),
    "a site in its warm start": searched,
    "a site": warm_started,
    "what a search found": finished,
    "replaced after a search": lambda model: (finished(model), replace_activations(model, "gelu")),
}


def pass_through(model: nn.Module) -> None:
    model(X.clone().requires_grad_()).square().mean().backward()


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
@pytest.mark.parametrize("way", REPLACE)
@pytest.mark.parametrize("kind", REGISTER)
def test_a_hook_sees_the_new_module_once_until_it_is_removed(kind: str, way: str) -> None:
    model, seen = network(), list[nn.Module]()
    old = model[1]
    handle = REGISTER[kind](old, seen)
    REPLACE[way](model)
    pass_through(model)
    assert seen == [model[1]]
    assert model[1] is not old
    handle.remove()
    pass_through(model)
    assert len(seen) == 1
    assert not any(getattr(model[1], name) for name in vars(nn.Module()) if "hooks" in name)


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
@pytest.mark.parametrize("way", REPLACE)
@pytest.mark.parametrize("kind", REGISTER)
def test_the_replaced_module_is_free_of_the_hooks(kind: str, way: str) -> None:
    model, seen = network(), list[nn.Module]()
    old = model[1]
    REGISTER[kind](old, seen)
    REPLACE[way](model)
    old(X.clone().requires_grad_()).sum().backward()
    assert seen == []
    again = list[nn.Module]()
    REGISTER[kind](old, again)  # and a hook that it is given afterwards is its own
    if way != "a site in its warm start":  # there it still computes
        pass_through(model)
        assert again == []


def test_what_a_hook_returns_counts_and_their_order_is_kept() -> None:
    model, order = network(), list[str]()
    model[1].register_forward_hook(lambda module, x, y: order.append("first"))
    model[1].register_forward_hook(lambda module, x, y: (order.append("second"), y * 0)[1])
    model[1].register_full_backward_hook(lambda module, into, out: tuple(g * 0 for g in into))
    replace_activations(model, GATED)
    x = X.clone().requires_grad_()
    y = model(x)
    torch.testing.assert_close(y, model[2].bias.expand(4, 3))
    y.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    assert order == ["first", "second"]


def test_both_kinds_of_backward_hooks_are_still_not_to_be_mixed() -> None:
    model = network()
    model[1].register_full_backward_hook(noted([]))
    replace_activations(model, GATED)
    with pytest.raises(RuntimeError, match="Cannot use both"):
        model[1].register_backward_hook(noted([]))


@pytest.mark.parametrize("way", ["a found activation", "a site", "a site in its warm start", "what a search found"])
def test_one_module_at_several_places_keeps_its_hook_at_each(way: str) -> None:
    shared, seen = nn.ReLU(), list[nn.Module]()
    model = nn.Sequential(nn.Linear(6, 6), shared, nn.Linear(6, 6), shared)
    handle = shared.register_forward_hook(noted(seen))
    REPLACE[way](model)
    pass_through(model)
    assert seen == [model[1], model[3]]
    handle.remove()
    pass_through(model)
    assert len(seen) == 2


@pytest.mark.parametrize("way", ["a found activation", "a site", "a site in its warm start", "what a search found"])
def test_new_hooks_on_one_of_several_places_are_its_own(way: str) -> None:
    shared, seen = nn.ReLU(), list[nn.Module]()
    model = nn.Sequential(nn.Linear(6, 6), shared, nn.Linear(6, 6), shared)
    REPLACE[way](model)
    model[1].register_forward_hook(noted(seen))
    pass_through(model)
    assert seen == [model[1]]


class Excited(nn.Module):
    """One activation for a block and for its squeeze-and-excitation, which keeps it."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU()
        self.conv, self.act = nn.Conv2d(3, 8, 3), act
        self.se = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), act, nn.Conv2d(4, 8, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.conv(x))
        return y * self.se(y)


@pytest.mark.parametrize("way", ["a found activation", "a site", "a site in its warm start", "what a search found"])
def test_one_module_that_is_replaced_here_and_left_there_keeps_its_hook_at_both(way: str) -> None:
    model, seen = Excited(), list[nn.Module]()
    handle = model.act.register_forward_hook(noted(seen))
    REPLACE[way](model)
    assert isinstance(model.se[2], nn.ReLU)
    model(torch.randn(1, 3, 5, 5)).sum().backward()
    assert seen == [model.act, model.se[2]]
    handle.remove()
    model(torch.randn(1, 3, 5, 5))
    assert len(seen) == 2


def test_a_hook_that_came_during_a_search_stays_after_it() -> None:
    model, seen = network(), list[nn.Module]()
    search = searched(model)
    assert isinstance(model[1], Site)
    handles = [REGISTER[kind](model[1], seen) for kind in ("forward", "full backward")]
    stepped(search).finish()
    pass_through(model)
    assert seen == [model[1]] * 2
    assert isinstance(model[1], FoundActivation)
    for handle in handles:
        handle.remove()
    pass_through(model)
    assert len(seen) == 2


def test_a_copy_has_hooks_of_its_own() -> None:
    model, seen = network(), list[nn.Module]()
    handle = model[1].register_forward_hook(noted(seen))
    replace_activations(model, GATED)
    other = copy.deepcopy(model)
    handle.remove()
    other(X)
    assert seen == [other[1]]


def test_hooks_for_saving_and_loading_stay_with_what_they_save() -> None:
    model, saved = nn.Sequential(nn.Linear(6, 6), nn.PReLU()), list[str]()
    model[1].register_state_dict_post_hook(lambda module, state, prefix, meta: saved.append(prefix))
    search = searched(model)
    model.load_state_dict(model.state_dict())
    assert saved == ["1.usual."]
    stepped(search).finish()
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert len(saved) == 1


def test_nothing_but_the_caller_holds_what_was_replaced() -> None:
    model = network()
    old = weakref.ref(model[1])
    model[1].register_forward_hook(noted([]))
    replace_activations(model, GATED)
    gc.collect()
    assert old() is None


def test_replacing_calls_no_hook() -> None:
    model, seen = timm.create_model("nf_resnet26"), list[nn.Module]()
    for module in model.modules():
        module.register_forward_hook(noted(seen))
    replace_activations(model, GATED)
    assert seen == []


def test_a_function_that_becomes_a_module_keeps_the_hooks_of_its_place() -> None:
    model, seen = nn.Sequential(nn.Linear(6, 6), nfnet.GammaAct("gelu", 1.7)), list[nn.Module]()
    handle = model[1].register_forward_hook(noted(seen))
    replace_activations(model, GATED)
    assert isinstance(model[1], functional.ScaledActivation)
    model(X)
    assert seen == [model[1]]
    handle.remove()
    model(X)
    assert len(seen) == 1


class NotToCopy:
    def __deepcopy__(self, memo: dict[int, Any]) -> NotToCopy:
        raise TypeError("cannot be copied")

    def hook(self, *_: Any) -> None:
        pass


def test_squeeze_and_excitation_is_known_whatever_hooks_it_has() -> None:
    model = Excited()
    model.se.register_forward_hook(NotToCopy().hook)
    model.se[2].register_full_backward_hook(NotToCopy().hook)
    assert squeeze.is_squeeze_excite(model.se, activations.replaced())
