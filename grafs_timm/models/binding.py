"""Inspect which activation a model uses, so that weights can be bound to it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from timm.utils import unwrap_model
from torch import nn

from ..activations import timm_maps
from ..activations.activation import FoundActivation, PublishedActivation
from ..activations.named import Activation
from ..errors import GrafsWarning, UnknownNameError, WeightsError
from .surgery import find_sites

# The parameters that a bare name stands for; with others the module is another function. A threshold has no default.
_SHAPE: dict[type[nn.Module], dict[str, float]] = {
    nn.LeakyReLU: {"negative_slope": 0.01}, nn.ELU: {"alpha": 1.0}, nn.CELU: {"alpha": 1.0},
    nn.RReLU: {"lower": 1 / 8, "upper": 1 / 3}, nn.Threshold: {"threshold": math.nan, "value": math.nan},
    nn.Hardtanh: {"min_val": -1.0, "max_val": 1.0}, nn.Softplus: {"beta": 1.0, "threshold": 20.0},
    nn.Softshrink: {"lambd": 0.5}, nn.Hardshrink: {"lambd": 0.5},
}  # fmt: skip
_SAME = 1e-6  # tolerance between two implementations of one function, in float64 on [−10, 10]


@dataclass(frozen=True)
class Bound:
    """The activation of a model's blocks, as weights are bound to it.

    Args:
        activation: The found activation, or one of timm's own under its lower-case name such as "gelu".
        beside: Names of the other activations in the blocks, sorted. Where all are timm's own, ``activation`` is the
            alphabetically first.
    """

    activation: Activation
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " beside ".join((str(self.activation), *self.beside))

    @property
    def name(self) -> str:
        """Return the activation's name."""
        return self.activation.name

    @property
    def sha256(self) -> str | None:
        """Return the hash of a found activation, None for one of timm's own."""
        return self.activation.sha256

    @property
    def layer(self) -> Callable[..., nn.Module]:
        """Return the module class of ``activation``. Raises WeightsError where only its name or hash is known."""
        try:
            return self.activation.layer
        except UnknownNameError as error:
            raise WeightsError(str(error)) from error

    def computes_as(self, other: Bound) -> bool:
        """Check whether both are the same function, whatever their names, so that weights of one fit the other."""
        if self.beside != other.beside:
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        if self.name == other.name and not self.sha256 and not other.sha256:
            return True
        try:
            x = torch.linspace(-10, 10, 2001, dtype=torch.float64, device="cpu")
            here, there = (bound.layer().double()(x.clone()) for bound in (self, other))
        except WeightsError:
            return False
        return torch.allclose(here, there, rtol=_SAME, atol=_SAME)


def activation_of(model: nn.Module) -> Bound:
    """Find the activation of a model's blocks; gates, and what else is not replaced by default, do not count.

    Raises:
        WeightsError: The model has no activation module, or several different found ones.
    """
    found: dict[str, FoundActivation] = {}
    others: set[str] = set()
    for module in activations_at(model, gates=False).values():
        if isinstance(module, FoundActivation):
            found[module.genotype.sha256] = module
        else:
            others.add(timm_name(module))
    if len(found) > 1:
        which = ", ".join(f"{module.activation_name} ({sha256[:8]})" for sha256, module in found.items())
        raise WeightsError(f"weights are bound to one found activation; this {type(unwrap_model(model)).__name__} has {which}")
    for module in found.values():
        return Bound(Activation(module.activation_name, module.genotype), tuple(sorted(others)))
    if not others:
        raise WeightsError(f"{type(unwrap_model(model)).__name__} has no activation module whose name could be recorded")
    name, *beside = sorted(others)
    return Bound(Activation(name), tuple(beside))


def activations_at(model: nn.Module, gates: bool = True) -> dict[str, nn.Module]:
    """Return name -> activation module of a model without its wrappers; ``gates`` includes those not replaced by default."""
    return dict(_places(unwrap_model(model), gates))


def _places(model: nn.Module, gates: bool) -> Iterator[tuple[str, nn.Module]]:
    for name, parent, attribute, reason in find_sites(model):
        module = parent._modules[attribute]
        if module is not None and (gates or reason is None):
            yield name, module


def timm_name(module: nn.Module) -> str:
    """Return the lower-case name of an activation module that is timm's or published, or its class's in lower case.

    Parameters that are not the default follow the name.

    >>> timm_name(nn.SiLU()), timm_name(nn.LeakyReLU()), timm_name(nn.LeakyReLU(0.2))
    ('silu', 'leaky_relu', 'leaky_relu(0.2)')
    """
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return "gelu_tanh"
    if isinstance(module, PublishedActivation):
        return str(module.function)
    kind = type(module)
    title = kind.__name__.removesuffix("Me").lower()  # Me: timm's memory-efficient variant
    title = {"swish": "silu", "squaredrelu": "relu2"}.get(title, title)
    name = next((name for name in timm_maps.default_layers() if name.replace("_", "") == title), title)
    default = _SHAPE.get(kind, {})
    values = {attribute: float(getattr(module, attribute)) for attribute in default}
    return name if values == default else f"{name}({','.join(f'{value:g}' for value in values.values())})"


_warned = False


def warn_if_pretrained(architecture: str, now: Bound, before: Bound | None = None) -> None:
    """Warn, once a process, that a model's activation is not the one its pretrained weights were trained with.

    Args:
        architecture: Name of the model, whose weights the caller knows to be pretrained.
        now: The model's activation.
        before: The activation of the weights, where it is known; no warning if it is the same function.
    """
    global _warned
    if _warned or (before is not None and now.computes_as(before)):
        return
    _warned = True
    of = f"trained with {before}" if before else "trained with another activation"
    warnings.warn(
        f"the pretrained weights of {architecture} were {of}: with {now} the model's accuracy falls until it is trained "
        "again. A recipe for that: grafs-timm train resnet_cifar10_finetune --activation NAME; see docs/weights.md",
        GrafsWarning,
        stacklevel=3,
    )
