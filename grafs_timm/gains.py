"""How much an activation shrinks a standard normal input: what normaliser-free networks must give back."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import GrafsError

# The normal density is 2e-32 at 12. An even number of intervals puts a knot at kinks in 0; so few are one thread's work,
# as every zoo name's gain is computed on import.
_REACH, _KNOTS = 12.0, 2**14


def gain(function: Callable[[Tensor], Tensor]) -> float:
    """1 / std f(z), z ~ N(0, 1), by the trapezoidal rule in float64 (Brock et al. 2021, «γ» of Scaled Weight Standardization).

    GrafsError where f is constant or f(z) has no finite variance.
    """
    z = torch.linspace(-_REACH, _REACH, _KNOTS + 1, dtype=torch.float64, device="cpu")
    density = torch.exp(-z.square() / 2)
    density /= density.sum()
    with torch.no_grad():
        y = function(z.clone())
    mean = (density * y).sum()
    variance = (density * (y - mean).square()).sum().item()
    if not math.isfinite(variance) or variance < 1e-20:
        raise GrafsError(f"the variance of f(z), z ~ N(0, 1), is {variance:g}: a normaliser-free network can't undo that")
    return 1 / math.sqrt(variance)
