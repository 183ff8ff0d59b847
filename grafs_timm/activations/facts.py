"""Compute the properties of a function that a zoo entry or the page of activations states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..utils.schema import Listed, Part
from . import gains
from .activation import activation_class
from .curve import Formula, gradient, jumps

LOW, HIGH, _INTERVALS = -10.0, 10.0, 20_000
_SIDE = 1e-7  # distance from a knot at which its one-sided slopes are taken
_FLAT = 1e-9  # share of the largest slope below which a slope counts as 0


class Facts(Part):
    """State what a function is like; ``low`` to ``monotone`` on [−10, 10] in float64.

    Args:
        gain: 1 / std f(z), z ~ N(0, 1).
        low, high: The least and greatest value.
        lipschitz: The largest |f′|.
        kinks: Where f′ jumps, in rising order.
        monotone: Whether f rises or falls everywhere.
        fp16, bf16: Whether f and its gradient are finite for every finite input of that dtype.

    >>> import grafs_timm
    >>> from grafs_timm.activations import facts
    >>> found = facts.of(grafs_timm.get_activation("grafs_resnet").genotype)
    >>> found.monotone, found.fp16
    ('no', True)
    """

    gain: float
    low: float
    high: float
    lipschitz: float
    kinks: Annotated[tuple[float, ...], Listed]
    monotone: Literal["rising", "falling", "no"]
    fp16: bool
    bf16: bool


def of(function: Formula) -> Facts:
    """Compute the facts of a function on a grid of 1/1000, to six decimals.

    Raises:
        GrafsError: As `gains.gain`.
    """
    x = torch.linspace(LOW, HIGH, _INTERVALS + 1, dtype=torch.float64, device="cpu")
    y, (places, beside) = function(x), jumps(function, LOW, HIGH)
    # a kink on a knot has two slopes, and f may be steepest at a kink between two knots
    slopes = torch.cat([_slope(function, x - _SIDE), _slope(function, x + _SIDE), beside])
    return Facts(
        gain=round(gains.gain(function), 6), low=round(y.min().item(), 6) + 0.0, high=round(y.max().item(), 6) + 0.0,
        lipschitz=round(slopes.abs().max().item(), 6), kinks=_rounded(places), monotone=_direction(slopes),
        fp16=finite_in(function, torch.float16), bf16=finite_in(function, torch.bfloat16),
    )  # fmt: skip


def _rounded(places: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(place, 6) + 0.0 for place in places)  # no negative zero


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return gradient(function, x, torch.ones_like(x))


def _direction(slopes: Tensor) -> Literal["rising", "falling", "no"]:
    flat = _FLAT * slopes.abs().max()
    rises, falls = bool((slopes > flat).any()), bool((slopes < -flat).any())
    if rises == falls:
        return "no"
    return "rising" if rises else "falling"


def finite_in(function: Formula, dtype: torch.dtype) -> bool:
    """Check whether f and its gradient, as training computes them, are finite for every finite number of a 16-bit dtype."""
    patterns = torch.arange(2**16, dtype=torch.int32, device="cpu").to(torch.int16).view(dtype)
    x = patterns[patterns.isfinite()].requires_grad_()
    y = activation_class(function)()(x)
    (slope,) = torch.autograd.grad(y.sum(dtype=torch.float32), x, materialize_grads=True) if y.requires_grad else (y,)
    return bool(y.isfinite().all() and slope.isfinite().all())
