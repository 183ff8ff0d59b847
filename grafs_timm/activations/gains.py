"""Compute the gain by which normaliser-free networks make up for what an activation takes from the variance."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import GrafsError

# The normal density is 2e-32 at 12. An even number of intervals puts a knot at kinks in 0. torch computes parts this small
# in one thread (erf starts threads at 2,048 numbers): gains are computed on import, and a process with threads can't fork.
_REACH, _KNOTS, _PART = 12.0, 2**14, 2**8


def gain(function: Callable[[Tensor], Tensor]) -> float:
    """Compute 1 / std f(z), z ~ N(0, 1), by the trapezoidal rule in float64.

    Source: γ of Scaled Weight Standardization (Brock et al. 2021, arXiv 2101.08692).

    Raises:
        GrafsError: f is constant, or f(z) has no finite variance.

    >>> round(gain(torch.relu), 4)  # √(2 / (1 − 1/π))
    1.7129
    """
    z = torch.linspace(-_REACH, _REACH, _KNOTS + 1, dtype=torch.float64, device="cpu")
    density = torch.cat([torch.exp(-part.square() / 2) for part in z.split(_PART)])
    density /= density.sum()
    with torch.no_grad():
        y = torch.cat([function(part.clone()) for part in z.split(_PART)])
    mean = (density * y).sum()
    variance = (density * (y - mean).square()).sum().item()
    if not math.isfinite(variance) or variance < 1e-20:
        raise GrafsError(f"the variance of f(z), z ~ N(0, 1), is {variance:g}: a normaliser-free network cannot rescale that")
    return 1 / math.sqrt(variance)
