"""List which module classes are activations, and which of them are not replaced by default.

Activations that follow the layers of a block are replaced. Those that are mostly gates, bounds or outputs are not, each with a
reason; ``also=[nn.Softplus]`` adds them. GLU and soft-max are never replaced, since they do not work elementwise.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from typing import Any

import timm.layers
import timm.layers.activations_me as memory_efficient
import torch
from timm.models import metaformer
from torch import nn

from ..activations.activation import FormulaActivation
from ..errors import GrafsError
from ..utils.suggest import nearest
from . import hooks

Also = Collection[str | type[nn.Module]]

REPLACED: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Threshold, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, timm.layers.GELU, timm.layers.GELUTanh, timm.layers.QuickGELU, timm.layers.PReLU, timm.layers.Swish,
    timm.layers.Mish, timm.layers.HardSwish, timm.layers.HardMish, memory_efficient.SwishMe, memory_efficient.MishMe,
    memory_efficient.HardSwishMe, memory_efficient.HardMishMe, metaformer.SquaredReLU, metaformer.StarReLU, FormulaActivation,
)  # fmt: skip

# Classes of Hugging Face transformers, looked up by name where it is loaded.
_OF_TRANSFORMERS = (
    "GELUTanh", "PytorchGELUTanh", "NewGELUActivation", "GELUActivation", "SiLUActivation", "FastGELUActivation",
    "QuickGELUActivation", "ClippedGELUActivation", "AccurateGELUActivation", "MishActivation", "ReLUSquaredActivation",
    "XIELUActivation",
)  # fmt: skip

PART_OF_GATE = "part of a hard-sigmoid gate"
_GLU, _SOFTMAX = "gated linear unit", "soft-max"

# Reason not to replace -> class names, of torch, timm, transformers or any other code
_LEFT: dict[str, tuple[str, ...]] = {
    "sigmoid gate": ("Sigmoid", "SigmoidMe"),
    "hard-sigmoid gate": ("Hardsigmoid", "HardSigmoid", "HardSigmoidMe"),
    "tanh": ("Tanh",),
    "hard tanh that bounds values": ("Hardtanh",),
    "softsign that bounds values": ("Softsign",),
    "softplus that keeps values positive": ("Softplus",),
    "log-sigmoid of an output": ("LogSigmoid",),
    "shrinkage of small values": ("Softshrink", "Hardshrink", "Tanhshrink"),
    "stand-in for a soft-max": ("LaplaceActivation", "SqrtSoftplusActivation"),  # in an attention and in a router
    "identity": ("LinearActivation",),
    _GLU: ("GLU",),
    _SOFTMAX: ("Softmax", "Softmin", "Softmax2d", "LogSoftmax"),
}
_REASONS = {name: reason for reason, names in _LEFT.items() for name in names}
_NEVER = {_GLU: "makes one half of its input the gate of the other", _SOFTMAX: "works across the elements of its input"}


def replaced() -> tuple[type[nn.Module], ...]:
    """Return the classes that are replaced by default: ``REPLACED`` and, where transformers is loaded, its own."""
    module = sys.modules.get("transformers.activations")  # if it is not loaded, no model uses its classes
    found = (getattr(module, name, None) for name in _OF_TRANSFORMERS)
    return (*REPLACED, *(each for each in found if isinstance(each, type)))


class Activations:
    """Decide what counts as an activation; ``module in activations`` tests it.

    Args:
        asked: Further classes to replace.
    """

    def __init__(self, asked: Collection[type[nn.Module]] = ()) -> None:
        self._replaced = (*replaced(), *asked)
        self._asked = {_title(kind.__name__) for kind in asked}

    def __contains__(self, module: nn.Module) -> bool:
        return self._is_replaced(module) or self.why_left(module) is not None

    def why_left(self, module: nn.Module) -> str | None:
        """Return why modules of this class are not replaced; None for those that are, and for modules of other kinds."""
        if self._is_replaced(module):
            return None
        reason = _reason(type(module))
        return reason if next(module.parameters(), None) is None else None  # with parameters it is a layer of that name

    def _is_replaced(self, module: nn.Module) -> bool:
        if isinstance(module, self._replaced) or _is_clipped_relu(module):
            return True
        name = _name(type(module))
        return name is not None and _title(name) in self._asked  # nn.Sigmoid means timm's Sigmoid too


def asked_for(also: Also, kinds: Collection[str]) -> tuple[set[str], tuple[type[nn.Module], ...]]:
    """Split ``also`` into kinds and classes. Raises GrafsError, with what to give instead, for anything else."""
    if isinstance(also, str | type | nn.Module):
        raise GrafsError(f"also is a list, got {_shown(also)}: also=[{_shown(also)}]")
    if not isinstance(also, Iterable):
        raise GrafsError(f"also is a list, as in also=[nn.Softplus], got {also!r}")
    names, classes = set[str](), list[type[nn.Module]]()
    for each in also:
        if isinstance(each, str):
            if each not in kinds:
                raise GrafsError(
                    f"also={each!r} is no kind of activation{nearest(each, kinds)}; the kinds: {', '.join(kinds)}; "
                    "give a class itself, as in also=[nn.Softplus]"
                )
            names.add(each)
        else:
            _check_class(each)
            classes.append(each)
    return names, tuple(classes)


def _check_class(kind: Any) -> None:
    if isinstance(kind, nn.Module):
        raise GrafsError(f"also takes the class of an activation, got a module; give also=[{spelt(type(kind))}]")
    if not isinstance(kind, type):
        raise GrafsError(f"also={kind!r} is neither a kind of activation nor a class, as in also=[nn.Softplus]")
    reason = _reason(kind)
    if reason in _NEVER:
        raise GrafsError(f"also=[{spelt(kind)}]: a {reason} {_NEVER[reason]}, so it cannot be replaced by an activation")
    of_a_library = kind.__module__.partition(".")[0] in ("torch", "timm")
    if not issubclass(kind, nn.Module) or (of_a_library and reason is None and not issubclass(kind, replaced())):
        raise GrafsError(f"also=[{spelt(kind)}]: {spelt(kind)} is no activation; give a class such as nn.Softplus")


def can_be_asked_for(reason: str) -> bool:
    """Return whether ``also`` with the class makes a module be replaced that `Activations.why_left` gave this reason for."""
    return reason in _LEFT and reason not in _NEVER


def spelt(kind: type) -> str:
    """Return a class's name as one writes it after ``from torch import nn``."""
    for prefix, module in (("nn.", nn), ("timm.layers.", timm.layers)):
        if getattr(module, kind.__name__, None) is kind:
            return prefix + kind.__name__
    return kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"


def _shown(also: Any) -> str:
    return repr(also) if isinstance(also, str) else spelt(also if isinstance(also, type) else type(also))


def _reason(kind: type) -> str | None:
    name = _name(kind)
    return None if name is None else _REASONS[name]


def _name(kind: type) -> str | None:
    """Return the name under which a class or one of its bases is in the table, or None."""
    return next((base.__name__ for base in kind.__mro__ if base.__name__ in _REASONS), None)


def _title(name: str) -> str:
    return name.removesuffix("Me").lower()  # Me: timm's memory-efficient variant


def _is_clipped_relu(module: nn.Module) -> bool:
    """Check for a Hardtanh from 0 to more than 1, such as ReLU6; with other bounds it is a tanh or a gate."""
    return isinstance(module, nn.Hardtanh) and module.min_val == 0 and module.max_val > 1


def is_hard_sigmoid(module: nn.Module) -> bool:
    """Check whether the module computes a hard sigmoid from the one clipped ReLU that it holds, such as ReLU6(x + 3)/6."""
    children = list(module.children())
    if len(children) != 1 or not _is_clipped_relu(children[0]) or next(module.parameters(), None) is not None:
        return False
    try:
        with torch.no_grad(), torch.device("cpu"):
            x = torch.linspace(-8, 8, 65, device="cpu")
            y = hooks.deepcopy(module)(x.clone())
            ends = sorted((float(y[0]), float(y[-1])))
            return y.shape == x.shape and ends == [0, 1] and bool(((y >= 0) & (y <= 1 + 1e-6)).all())
    except Exception:  # any error of a module that takes other inputs
        return False
