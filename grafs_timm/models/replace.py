"""Put an activation, by whatever names it, into a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..zoo.lookup import resolve
from . import surgery
from .activation_table import Also


def replace_activations(model: nn.Module, activation: Any, also: Also = ()) -> surgery.Report:
    """Put an activation into any nn.Module, in place; returns the report of what was and was not replaced.

    ``also``: what is left as it is by default: ``"squeeze_excite"`` and ``"position_bias"``, small MLPs beside the blocks, and
    classes of activations that are mostly something else, such as ``nn.Softplus``; or classes of your own.
    """
    found = resolve(activation)

    def make(old: nn.Module) -> nn.Module:
        try:
            return found.layer(inplace=getattr(old, "inplace", False))
        except TypeError:
            return found.layer()

    return surgery.replace_sites(model, make, by=found.name, also=also, function=found.genotype or found.layer())
