"""Interpolate a function by one cubic for each of 2,048 intervals, as exactly as float32 computes the formula.

On a CPU a formula of five operations costs several times a GELU however it is compiled: each exp, atan or erf takes about
fifteen instructions per element. The cubic Hermite interpolant on intervals of 1/64 costs one table look-up for any formula.
It is used on the intervals where its value and slope are within ``TOLERANCE`` of the formula's in float64. On the others (a
kink between two knots) and beyond [−16, 16] the formula itself is evaluated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..kernels import cpu
from ..utils.layout import undisturbed
from .genotype import Genotype
from .published import Published

Formula = Genotype | Published  # functions of one number as data: hashable, and callable on tensors

LOW, HIGH, INTERVALS = -16.0, 16.0, 2048
# |error of the value| ≤ TOLERANCE·(1 + |f(x)| + |x·f′(x)|): half a unit of float32 at 1, plus the effect of rounding x.
# |error of the slope|: 64 times that, 4e-6, with |f′(x)| added in the bracket; on almost all intervals it is far less.
TOLERANCE = 2.0**-24


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """Compute g·f′(x) by the formula."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = function(x)
    # a cell that is constant in x has no gradient at all
    return torch.autograd.grad(y, x, g, materialize_grads=True)[0] if y.requires_grad else torch.zeros_like(x)


def recorded_gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """Compute g·f′(x) by the formula, differentiable in x (which must require a gradient) and in g."""
    y = function(x)
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, g, create_graph=True, materialize_grads=True)[0]


@functools.lru_cache(maxsize=256)
def curve_of(formula: Formula, dtype: torch.dtype = torch.float32) -> Tensor:
    """Compute the cubics of a function.

    Args:
        formula: The function.
        dtype: Of the tensors to evaluate; its largest number bounds the formula's growing operations.

    Returns:
        float32 [INTERVALS + 1, 4], each interval's coefficients in x minus its left knot; NaN where the formula is needed.
    """
    with undisturbed():
        return _cubics(formula, dtype)


def _cubics(formula: Formula, dtype: torch.dtype) -> Tensor:
    function = formula.within(torch.finfo(dtype).max)
    width = (HIGH - LOW) / INTERVALS
    # one-sided slopes at a knot: f may have a kink there
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
def slope_at_zero(formula: Formula) -> float:
    """Compute f′(0) by the formula; at a kink it is the slope that torch's own operations choose, such as 0 for ReLU."""
    with undisturbed():
        zero = torch.zeros(1, dtype=torch.float32, device="cpu")
        return gradient(formula, zero, torch.ones_like(zero)).item()


def evaluate(formula: Formula, x: Tensor, g: Tensor | None) -> Tensor:
    """Compute f(x), or g·f′(x) where g is given.

    Args:
        formula: The function.
        x, g: [N] on the CPU, of one dtype: float32, bfloat16 or float16.

    Returns:
        [N] of x's dtype.
    """
    at_zero = 0.0 if g is None else slope_at_zero(formula)
    y, left = cpu.curve(x, g, curve_of(formula, x.dtype), LOW, HIGH, at_zero)
    if len(left):
        rest = x[left]
        y[left] = formula(rest) if g is None else gradient(formula, rest, g[left])
    return y
