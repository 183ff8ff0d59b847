"""Carry the hooks of a replaced module over to its replacement, so that their handles still remove them.

A handle refers to its hook by a weak reference to the dict that holds it, so the new module gets the dicts themselves. Hooks
for saving and loading are not carried over: they concern the parameters of the old module.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

from torch import nn

_DICTS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def share(old: nn.Module, new: nn.Module) -> nn.Module:
    """Give ``new`` the hooks of ``old`` and return it; ``old`` keeps them until `let_go`, since it may be used elsewhere."""
    if any(getattr(old, name) for name in _DICTS):  # without hooks the new modules must not share dicts
        for name in _DICTS:
            shared = getattr(old, name)
            shared.update(getattr(new, name))
            setattr(new, name, shared)
        new._is_full_backward_hook = old._is_full_backward_hook
    return new


def let_go(old: nn.Module) -> nn.Module:
    """Remove the hooks of ``old`` without touching the modules that it shares them with."""
    for name in _DICTS:
        setattr(old, name, OrderedDict())
    old._is_full_backward_hook = None
    return old


def without_hooks(module: nn.Module) -> nn.Module:
    """Make a module without hooks that shares the parameters and children of ``module``."""
    return let_go(copy.copy(module))


def deepcopy(module: nn.Module) -> nn.Module:
    """Make a deep copy without hooks, since what they refer to may not be copyable."""
    return copy.deepcopy(module, {id(getattr(each, name)): OrderedDict() for each in module.modules() for name in _DICTS})
