"""Attach a search to a model, and detach it: passes by hooks, a compiled forward, frozen weights, sites replaced at the end."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..models import hooks
from .sites import Board, Site
from .table import SPECIAL


class CompiledForward:
    """A model's compiled forward, of which a copied model gets its own."""

    def __init__(self, forward: Callable[..., Any], board: Board, settings: dict[str, Any]) -> None:
        self._forward, self._board, self._settings = forward, board, settings
        self.compiled = torch.compile(forward, **settings)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        model = getattr(self._forward, "__self__", None)
        if self._board.now is not None or not isinstance(model, nn.Module):
            return self.compiled(*inputs, **named)
        self._board.begin(model)  # model.forward was called directly
        try:
            return self.compiled(*inputs, **named)
        finally:
            self._board.end(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledForward:
        return CompiledForward(copy.deepcopy(self._forward, memo), copy.deepcopy(self._board, memo), self._settings)


def attach(model: nn.Module, board: Board) -> None:
    """Make every call of the model a pass."""
    model.register_forward_pre_hook(board.begin)
    model.register_forward_hook(board.end, always_call=True)


def detach(model: nn.Module) -> None:
    """Remove the hooks that make a call of the model a pass."""
    for hooks_of in (model._forward_pre_hooks, model._forward_hooks):
        for number in [number for number, hook in hooks_of.items() if isinstance(getattr(hook, "__self__", None), Board)]:
            del hooks_of[number]
            model._forward_hooks_always_called.pop(number, None)


def release(model: nn.Module, layer: Callable[[], nn.Module]) -> None:
    """Put a new ``layer`` in the place of every site, with the site's hooks and mode, and make no call a pass any more."""
    for module in list(model.modules()):
        detach(module)  # the searched model may be within a wrapper
        if isinstance(forward := module.__dict__.get("forward"), CompiledForward):
            module.forward = forward.compiled
        for name, child in module._modules.items():
            if isinstance(child, Site):
                module._modules[name] = hooks.share(child, layer().train(child.training))
                hooks.let_go(child)


def usual_rows(model: nn.Module, board: Board) -> Tensor:
    """Tabulate the default activation of every site: [sites, intervals + 5, 2], as `Cell.tabulate` does the relaxed cell."""
    sites = {site._index: site.usual for site in model.modules() if isinstance(site, Site)}
    special = board.points.new_tensor(SPECIAL)
    with torch.no_grad():
        values = [(sites[at](board.points.clone()), sites[at](special.clone())) for at in sorted(sites)]
    return board.grid.rows(torch.stack([inside for inside, _ in values]), torch.stack([beyond for _, beyond in values]))


def freeze(module: nn.Module, frozen: contextlib.ExitStack) -> None:
    """Until ``frozen`` is closed, give the module's weights no gradient and keep its BatchNorm statistics."""
    for weight in module.parameters():
        if weight.requires_grad:
            weight.requires_grad_(False)
            frozen.callback(weight.requires_grad_, True)
    for norm in module.modules():
        if getattr(norm, "track_running_stats", False):
            norm.track_running_stats = False  # type: ignore[assignment]  # uses the batch's statistics
            frozen.callback(setattr, norm, "track_running_stats", True)
