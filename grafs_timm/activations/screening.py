"""Say from the formula alone which functions are not worth a training; nothing is trained, and a check takes milliseconds.

The limits are far out: each published function passes, and so does each search of the zoo's ledgers but one, which lies on the
bound of the search for 11 % of its inputs. Inputs are z ~ N(0, 1), on a grid of 640 points of [−5, 5] in float64.
"""

from __future__ import annotations

from typing import Any

import torch

from .curve import Formula, gradient
from .similarity import SAMPLES, WEIGHTS, constant

LARGEST_SHARE = 0.1  # of the inputs that may lie on the search's bound, and on each side where the function may be flat
SPREADS = (0.05, 20.0)  # least and largest std f(z), which is 1 / gain
STEEPEST = 100.0  # largest |f′| on the grid
_FLAT = 0.01  # share of the root mean square slope below which the function counts as flat


def reasons(function: Formula) -> tuple[str, ...]:
    """Return why a function is not worth a training; nothing where it is.

    A function is screened out if it is not finite or constant, if it lies on the bound of the search for more than a tenth of
    the inputs, if its spread or its steepest slope is out of range, or if it is flat at both ends, for a tenth of the inputs
    each. One that only touches its bound passes: the bound is a part of it, in trainings as in the search.

    Args:
        function: A genotype or a published function.

    >>> from grafs_timm.activations.published import get_published
    >>> reasons(get_published("gelu"))
    ()
    >>> reasons(lambda x: x.clamp(-0.5, 0.5))
    ('saturating: flat for 31 % of the inputs on the left and 31 % on the right',)
    """
    values = function(SAMPLES.clone())
    if not bool(values.isfinite().all()):
        return ("not finite on [−5, 5]",)
    if constant(values) is not None:
        return ("constant on [−5, 5]",)
    found = [*_on_the_bound(function, values), *_spread(values)]
    slopes = gradient(function, SAMPLES.clone(), torch.ones_like(SAMPLES)).abs()
    if not bool(slopes.isfinite().all()):
        return (*found, "slope: not finite on [−5, 5]")
    if (steepest := float(slopes.max())) > STEEPEST:
        found.append(f"slope: up to {steepest:.3g} on [−5, 5], more than {STEEPEST:g}")
    return (*found, *_saturating(slopes))


def _on_the_bound(function: Formula, values: torch.Tensor) -> list[str]:
    bound: Any = getattr(function, "bound", None)  # kept by found functions whose shape depends on it
    share = float(WEIGHTS[values.abs() >= bound * (1 - 1e-6)].sum()) if bound else 0.0
    if share <= LARGEST_SHARE:
        return []
    return [f"leaning on the bound of the search: at ±{bound:g} for {share:.0%} of the inputs".replace("%", " %")]


def _spread(values: torch.Tensor) -> list[str]:
    mean = (values * WEIGHTS).sum()
    spread = float(((values - mean).square() * WEIGHTS).sum().sqrt())
    if SPREADS[0] <= spread <= SPREADS[1]:
        return []
    return [f"gain: {1 / spread:.3g}, outside {1 / SPREADS[1]:g} to {1 / SPREADS[0]:g}"]


def flat_shares(slopes: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the share of inputs from each end inwards where a function is flat.

    Args:
        slopes: |f′| at rising x, [..., n].
        weights: Of the inputs there, [n], of sum 1.

    Returns:
        [...] from the left and from the right.

    >>> left, right = flat_shares(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.full((4,), 0.25))
    >>> left.item(), right.item()
    (0.5, 0.0)
    """
    flat = (slopes < _FLAT * (slopes.square() * weights).sum(-1, keepdim=True).sqrt()).to(weights.dtype)
    return (weights * flat.cumprod(-1)).sum(-1), (weights.flip(-1) * flat.flip(-1).cumprod(-1)).sum(-1)


def _saturating(slopes: torch.Tensor) -> list[str]:
    left, right = (float(share) for share in flat_shares(slopes, WEIGHTS))
    if min(left, right) <= LARGEST_SHARE:
        return []
    return [f"saturating: flat for {left:.0%} of the inputs on the left and {right:.0%} on the right".replace("%", " %")]
