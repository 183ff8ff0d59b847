"""Compare functions up to the scales that a neighbouring layer absorbs."""

from __future__ import annotations

import math
from collections.abc import Callable

import scipy  # loads its parts when they are used
import torch
from torch import Tensor

from ..utils.layout import undisturbed
from . import ops
from .genotype import Genotype, evaluate

Function = Callable[[Tensor], Tensor]

# x ~ N(0, 1) as a midpoint rule: 640 cells on [−5, 5]; 0, the kink of most functions, falls between two of them.
with undisturbed():
    SAMPLES = torch.linspace(-5, 5, 641, dtype=torch.float64, device="cpu")[:-1] + 5 / 640
    WEIGHTS = torch.exp(-SAMPLES.square() / 2) / torch.exp(-SAMPLES.square() / 2).sum()
    _SCALES = torch.logspace(-4, 4, 97, base=2, dtype=torch.float64, device="cpu")
SAME = 1e-3  # distance up to which two functions count as one
_CONSTANT = 1e-9  # relative spread below which values count as one constant


def distance(f: Function, g: Function, refine: bool = True) -> float:
    """Compute min over c and k of ‖g(x) − c·f(kx)‖ ÷ ‖g‖ for x ~ N(0, 1): how far f is from g up to scales.

    Args:
        f, g: Map float64 tensors elementwise.
        refine: Optimise k; otherwise it is one of 97 values of each sign, which is faster and gives an upper bound.

    Returns:
        A number from 0 to 1. k has either sign and 1/16 ≤ |k| ≤ 16; c is any number, found in closed form. A constant is 1
        from any other function; two constants are 0 apart if both or neither are zero.

    Raises:
        ValueError: g is not finite on [−5, 5].
    """
    target = g(SAMPLES)
    if not target.isfinite().all():
        raise ValueError("the function to compare with is not finite on [−5, 5]")
    target = target / target.abs().max().clamp(min=torch.finfo(target.dtype).tiny)
    f_constant, g_constant = constant(f(SAMPLES)), constant(target)
    if f_constant is not None or g_constant is not None:
        same = f_constant is not None and g_constant is not None and (f_constant == 0) == (g_constant == 0)
        return 0.0 if same else 1.0

    def at(scales: Tensor) -> Tensor:
        return _residual(f(scales[:, None] * SAMPLES), target)

    def refined(sign: float) -> float:
        coarse = at(sign * _SCALES)
        best = int(coarse.argmin())
        if not refine:
            return float(coarse[best])
        low, high = (math.log2(_SCALES[i]) for i in (max(best - 1, 0), min(best + 1, len(_SCALES) - 1)))
        fine = scipy.optimize.minimize_scalar(
            lambda log: at(SAMPLES.new_tensor([sign * 2.0**log])).item(),
            bounds=(low, high), method="bounded", options={"xatol": 1e-7},
        )  # fmt: skip
        return min(float(coarse[best]), float(fine.fun))

    return min(refined(1.0), refined(-1.0))


def constant(values: Tensor) -> float | None:
    """Return the value that all of these have, up to rounding, or None where they differ.

    >>> constant(torch.tensor([2.0, 2.0])), constant(torch.tensor([2.0, 3.0]))
    (2.0, None)
    """
    size = float(values.abs().max())
    return float(values[0]) if float(values.max() - values.min()) <= _CONSTANT * size else None


def _residual(values: Tensor, target: Tensor) -> Tensor:
    """Compute ‖target − c·values‖ ÷ ‖target‖ with the best c for each row of values; 1 where a row is 0 or not finite."""
    values = torch.where(values.isfinite().all(-1, keepdim=True), values, 0.0)
    values = values / values.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
    c = (values * target * WEIGHTS).sum(-1) / (values.square() * WEIGHTS).sum(-1).clamp(min=1e-300)
    left = (target - c[:, None] * values).square() * WEIGHTS
    return (left.sum(-1) / (target.square() * WEIGHTS).sum()).sqrt()


def distance_of_both(a: Function, b: Function, refine: bool = True) -> float:
    """Compute the larger `distance` of the two directions, which does not depend on the order."""
    return max(distance(a, b, refine), distance(b, a, refine))


def same_function(a: Function, b: Function, tolerance: float = SAME) -> bool:
    """Check whether each function is within ``tolerance`` of the other by `distance`, that is up to scales.

    >>> same_function(torch.relu, lambda x: -2 * torch.relu(3 * x))
    True
    >>> same_function(torch.relu, torch.tanh)
    False
    """
    return distance_of_both(a, b) <= tolerance


def leans_on_bound(genotype: Genotype, tolerance: float = 1e-2) -> bool:
    """Check whether lifting the search's limits changes the function by more than ``tolerance`` of its norm.

    Compares f under ``ops.SEARCH`` and under ``ops.LIFTED`` for x ~ N(0, 1), |x| ≤ 4, in float64; the genotype's own bound is
    not used. Such a function must keep the bound that it was found under.
    """
    x, weight = SAMPLES[SAMPLES.abs() <= 4], WEIGHTS[SAMPLES.abs() <= 4]
    bounded, lifted = evaluate(genotype, x, ops.SEARCH), evaluate(genotype, x, ops.LIFTED)
    apart = ((lifted - bounded).square() * weight).sum().sqrt()
    return bool(apart > tolerance * (bounded.square() * weight).sum().sqrt())
