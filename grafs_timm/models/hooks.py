"""Hooks on a module that another one takes the place of: they stay with the place, and their handles still remove them.

A handle knows its hook by a weak reference to the dict that holds it, so the new module is given the dicts themselves. Hooks
for saving and loading are not among them: they are about the parameters that go with the old module.
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
    """Give ``new`` the hooks of ``old``, which keeps them until `let_go`: it may stand at several places."""
    if any(getattr(old, name) for name in _DICTS):  # without hooks each of several new modules has dicts of its own
        for name in _DICTS:
            shared = getattr(old, name)
            shared.update(getattr(new, name))
            setattr(new, name, shared)
        new._is_full_backward_hook = old._is_full_backward_hook
    return new


def let_go(old: nn.Module) -> nn.Module:
    """Leave ``old`` without hooks, and whom it shared them with as they are."""
    for name in _DICTS:
        setattr(old, name, OrderedDict())
    old._is_full_backward_hook = None
    return old


def twin(module: nn.Module) -> nn.Module:
    """A module without hooks that computes with the very parameters and children of ``module``."""
    return let_go(copy.copy(module))


def deepcopy(module: nn.Module) -> nn.Module:
    """A deep copy without any hook: what hooks hold on to need not be copied, and may not be possible to."""
    return copy.deepcopy(module, {id(getattr(each, name)): OrderedDict() for each in module.modules() for name in _DICTS})
