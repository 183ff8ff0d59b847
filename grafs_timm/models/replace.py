"""Put an activation into a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..zoo.lookup import resolve
from . import surgery
from .activation_table import Also


def replace_activations(model: nn.Module, activation: Any, also: Also = ()) -> surgery.Report:
    """Replace the activations of any nn.Module in place.

    Gating activations and others that are mostly gates, bounds or outputs are not replaced unless ``also`` names them.

    Args:
        model: Any model.
        activation: A zoo name, a name of timm's, a genotype or its file, or a module class.
        also: What to replace beyond the default: ``"squeeze_excite"`` and ``"position_bias"`` (small MLPs beside the
            blocks), and classes such as ``nn.Softplus`` or your own.

    Returns:
        What was replaced, and what was not with the reasons.

    Raises:
        UnknownNameError: No such activation; names the nearest.
        GrafsError: The model has no activation to replace; the message says what ``also`` would add.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    >>> print(replace_activations(model, "gelu"))
    replaced 2 of 3 activations (ReLU) by gelu; left: 1 × sigmoid gate (5)
    """
    found = resolve(activation)

    def make(old: nn.Module) -> nn.Module:
        try:
            return found.layer(inplace=getattr(old, "inplace", False))
        except TypeError:
            return found.layer()

    return surgery.replace_sites(model, make, by=found.name, also=also, function=found.genotype or found.layer())
