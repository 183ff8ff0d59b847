"""A found activation as a curve: one cubic for each of 2,048 intervals, as exact as float32 computes the formula.

On a CPU a formula of five operations costs several times a GELU, in whatever way it is compiled: each exp, atan or erf in it
is some fifteen instructions an element. A smooth function of one number need not be computed from its formula. Its cubic
Hermite interpolant on intervals of 1/64 is within ``TOLERANCE`` of it, which is checked here for value and slope, interval by
interval in float64; where that fails (a kink between two knots) and beyond [−16, 16] the formula itself is evaluated.
So the cost is that of a table look-up, the same for every formula.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..kernels import cpu
from ..utils.layout import undisturbed
from . import formula
from .formula import Genotype

LOW, HIGH, INTERVALS = -16.0, 16.0, 2048
# |error| ≤ TOLERANCE·(1 + |f(x)| + |x·f′(x)|) of the value: half a unit of float32 at 1, and what rounding x makes of f.
# Of the slope 64 times that, 4e-6, with |f′(x)| in the bracket too; on almost all intervals it is far less.
TOLERANCE = 2.0**-24


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """g·f′(x) by the formula, from x alone."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
    # a cell may be constant in x: then it hands back no gradient at all
    return torch.autograd.grad(y, x, g, materialize_grads=True)[0] if y.requires_grad else torch.zeros_like(x)


def recorded_gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """g·f′(x) by the formula, itself differentiable by x, which requires a gradient, and by g."""
    y = function(x)
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, g, create_graph=True, materialize_grads=True)[0]


@functools.lru_cache(maxsize=256)
def curve_of(genotype: Genotype, dtype: torch.dtype = torch.float32) -> Tensor:
    """float32 [INTERVALS + 1, 4]: each interval's cubic in x minus its left knot; NaN where the formula has to be asked.

    ``dtype``: of the tensors to be computed, whose largest number bounds the formula's growing operations.
    """
    with undisturbed():
        return _cubics(genotype, dtype)


def _cubics(genotype: Genotype, dtype: torch.dtype) -> Tensor:
    limits = genotype.limits
    function = functools.partial(
        formula.evaluate, genotype, limits=replace(limits, bound=min(limits.bound, torch.finfo(dtype).max))
    )
    width = (HIGH - LOW) / INTERVALS
    # slopes at a knot are one-sided: f may have its kink there
    inner = torch.tensor([1e-9, 0.25, 0.5, 0.75, 1 - 1e-9], dtype=torch.float64, device="cpu") * width
    left = LOW + width * torch.arange(INTERVALS, dtype=torch.float64, device="cpu")
    x = left[:, None] + inner
    f, s = function(x), gradient(function, x, torch.ones_like(x))
    f0, f1, s0, s1 = f[:, 0], f[:, -1], s[:, 0], s[:, -1]
    rise = (f1 - f0) / width
    rows = torch.stack([f0, s0, (3 * rise - 2 * s0 - s1) / width, (s0 + s1 - 2 * rise) / width**2], dim=1)
    c0, c1, c2, c3 = rows[:, :, None].unbind(1)
    value = c0 + inner * (c1 + inner * (c2 + inner * c3))
    slope = c1 + inner * (2 * c2 + inner * 3 * c3)
    scale = 1 + f.abs() + (x * s).abs()
    good = ((value - f).abs() <= TOLERANCE * scale).all(1) & ((slope - s).abs() <= 64 * TOLERANCE * (scale + s.abs())).all(1)
    rows = torch.where(good[:, None], rows, torch.nan)
    return torch.cat([rows, torch.full((1, 4), torch.nan, dtype=torch.float64, device="cpu")]).float()


@functools.lru_cache(maxsize=256)
def slope_at_zero(genotype: Genotype) -> float:
    """f′(0) as the formula has it: of a kink's two slopes the one that torch's own operations choose, as 0 for ReLU."""
    with undisturbed():
        zero = torch.zeros(1, dtype=torch.float32, device="cpu")
        return gradient(genotype, zero, torch.ones_like(zero)).item()


def evaluate(genotype: Genotype, x: Tensor, g: Tensor | None) -> Tensor:
    """f(x), or g·f′(x) where g is given: vectors on the CPU, float32, bfloat16 or float16; the result has their dtype."""
    at_zero = 0.0 if g is None else slope_at_zero(genotype)
    y, left = cpu.curve(x, g, curve_of(genotype, x.dtype), LOW, HIGH, at_zero)
    if len(left):
        rest = x[left]
        y[left] = genotype(rest) if g is None else gradient(genotype, rest, g[left])
    return y
