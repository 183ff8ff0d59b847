"""How much an activation shrinks a standard normal input: what normaliser-free networks must give back."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import GrafsError

# The normal density is 2e-32 at 12. An even number of intervals puts a knot at kinks in 0. Parts so small are one thread's
# work, of erf too, which shares out 2,048 numbers already: every zoo name's gain is computed on import, and a process in which
# torch has begun threads can't be forked.
_REACH, _KNOTS, _PART = 12.0, 2**14, 2**8


def gain(function: Callable[[Tensor], Tensor]) -> float:
    """1 / std f(z), z ~ N(0, 1), by the trapezoidal rule in float64 (Brock et al. 2021, «γ» of Scaled Weight Standardization).

    GrafsError where f is constant or f(z) has no finite variance.
    """
    z = torch.linspace(-_REACH, _REACH, _KNOTS + 1, dtype=torch.float64, device="cpu")
    density = torch.cat([torch.exp(-part.square() / 2) for part in z.split(_PART)])
    density /= density.sum()
    with torch.no_grad():
        y = torch.cat([function(part.clone()) for part in z.split(_PART)])
    mean = (density * y).sum()
    variance = (density * (y - mean).square()).sum().item()
    if not math.isfinite(variance) or variance < 1e-20:
        raise GrafsError(f"the variance of f(z), z ~ N(0, 1), is {variance:g}: a normaliser-free network can't undo that")
    return 1 / math.sqrt(variance)
