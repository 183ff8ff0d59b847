"""Put activations into a model, and say what was and what was not replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import timm.layers
from torch import nn

from .activation import FoundActivation
from .errors import GrafsError

# The non-linearities of a block. Sigmoid, hard-sigmoid and tanh are gates in timm's models and stay.
ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    timm.layers.GELU, timm.layers.GELUTanh, timm.layers.QuickGELU, timm.layers.PReLU, timm.layers.Swish,
    timm.layers.Mish, timm.layers.HardSwish, timm.layers.HardMish, FoundActivation,
)  # fmt: skip

# Modules whose inner activation shapes a gate, by the name of their class.
_GATES = ("SqueezeExcite", "SEModule", "EffectiveSE", "Eca", "Cbam", "GatherExcite", "GlobalContext", "Attn")


@dataclass
class Report:
    """What ``replace_activations`` did: ``replaced`` of ``total`` places; ``left`` names the others, each with its reason."""

    replaced: int = 0
    total: int = 0
    by: str = ""
    was: Counter[str] = field(default_factory=Counter)
    left: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        was = ", ".join(sorted(self.was)) or "none"
        line = f"replaced {self.replaced} of {self.total} activations ({was}) by {self.by}"
        if not self.left:
            return line
        return line + "; left: " + ", ".join(f"{name} ({reason})" for name, reason in self.left)


def find_sites(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, str | None]]:
    """Every activation module's place: (name, parent, attribute, reason to leave it or None), in registration order.

    A module registered at several places is found at each of them.
    """
    for parent_name, parent in model.named_modules():
        for attribute, child in parent._modules.items():  # named_children would name a shared module once only
            if isinstance(child, ACTIVATIONS):
                name = f"{parent_name}.{attribute}" if parent_name else attribute
                gate = next((g for g in _GATES if type(parent).__name__.startswith(g)), None)
                yield name, parent, attribute, gate and f"inside {type(parent).__name__}"


def replace_sites(model: nn.Module, make: Callable[[nn.Module], nn.Module], by: str) -> Report:
    """Replace, in place, each activation module m by make(m). GrafsError, the model untouched, where there is none."""
    report, places = Report(by=by), list(find_sites(model))
    for name, parent, attribute, reason in places:
        report.total += 1
        if reason is not None:
            report.left.append((name, reason))
            continue
        old = parent._modules[attribute]
        assert old is not None
        report.was[type(old).__name__] += 1
        parent._modules[attribute] = make(old).train(old.training)
        report.replaced += 1
    if not report.replaced:
        raise GrafsError(
            f"{type(model).__name__} has no activation module to replace"
            + (f": all {report.total} are gates" if report.total else "; does it call torch.nn.functional instead?")
        )
    return report
