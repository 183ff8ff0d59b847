"""Find the trainable cells among the survivors, so that the last drops of a search keep one of them.

α ranks candidates by what they do within a mixture. The cell that is left alone may still be constant, steep, saturated or at
the search's bound. Each condition is one of the formula on [−5, 5], with inputs z ~ N(0, 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..activations import ops
from ..activations.screening import LARGEST_SHARE, flat_shares
from ..activations.similarity import SAMPLES, WEIGHTS

MOST_CELLS = 4096  # four survivors in each slot
STEEPEST = 5.0  # largest |f′|
SPREADS = (0.2, 5.0)  # least and largest std f(z); GELU's is 0.6
BOUND_SHARE = 1e-2  # how far lifting the search's bound may change f, as a share of its norm
LEAST_BEND = 0.05  # of std f(z) that no straight line explains

Slots = Mapping[str, Sequence[str]]


def trainable(survivors: Slots, gamma: Mapping[str, Mapping[str, float]]) -> Tensor | None:
    """Return which cells of the survivors are trainable.

    Args:
        survivors: Slot -> names.
        gamma: Slot -> name -> its constant, of names that have one.

    Returns:
        bool [survivors of u1, u2, b1, u3, u4, b2]; None where there are more than ``MOST_CELLS``.

    >>> names = {"u1": ["relu"], "u2": ["relu"], "b1": ["left"], "u3": ["square", "identity"], "u4": ["exp"], "b2": ["left"]}
    >>> trainable(names, {}).flatten().tolist()  # x² on the right has a slope of 10 at 5
    [False, True]
    """
    count = 1
    for names in survivors.values():
        count *= len(names)
    if count > MOST_CELLS:
        return None
    searched, lifted = (_cells(survivors, gamma, limits) for limits in (ops.SEARCH, ops.LIFTED))
    return _fit(searched, lifted).view([len(names) for names in survivors.values()])


def _cells(survivors: Slots, gamma: Mapping[str, Mapping[str, float]], limits: ops.Limits) -> Tensor:
    """Return f of every cell: [cells, samples], in the order of the slots, the last one's candidates fastest."""

    def stage(slot: str, *inputs: Tensor) -> Tensor:
        """[..., samples] -> [..., candidates, samples]."""
        rows = ops.OPS[ops.SLOTS[slot]]
        outputs = [rows[name].compute(*inputs, gamma=gamma.get(slot, {}).get(name), limits=limits) for name in survivors[slot]]
        return torch.stack(torch.broadcast_tensors(*outputs), dim=-2)

    x = SAMPLES
    first, second = stage("u1", x)[:, None], stage("u2", x)[None]
    inner = stage("u3", stage("b1", *torch.broadcast_tensors(first, second)))  # [u1, u2, b1, u3, samples]
    outer = stage("u4", x)
    return stage("b2", *torch.broadcast_tensors(inner[..., None, :], outer)).flatten(0, -2)


def _fit(searched: Tensor, lifted: Tensor) -> Tensor:
    """Return which rows of [cells, samples] meet all conditions; ``lifted`` are the same cells without the search's bound."""
    step = float(SAMPLES[1] - SAMPLES[0])
    finite = lifted.isfinite().all(-1)
    f, free = (torch.where(finite[:, None], values, 0.0) for values in (searched, lifted))
    slopes = f.diff(dim=-1).abs() / step
    middle = (WEIGHTS[1:] + WEIGHTS[:-1]) / 2
    centred = f - (f * WEIGHTS).sum(-1, keepdim=True)
    spread = (centred.square() * WEIGHTS).sum(-1).sqrt()
    bend = (centred - (centred * SAMPLES * WEIGHTS).sum(-1, keepdim=True) * SAMPLES).square().mul(WEIGHTS).sum(-1).sqrt()
    apart = ((free - f).square() * WEIGHTS).sum(-1).sqrt()
    left, right = flat_shares(slopes, middle)
    return (
        finite
        & (slopes.amax(-1) <= STEEPEST)
        & (spread >= SPREADS[0])
        & (spread <= SPREADS[1])
        & (apart <= BOUND_SHARE * (f.square() * WEIGHTS).sum(-1).sqrt())
        & (torch.minimum(left, right) <= LARGEST_SHARE)
        & (bend >= LEAST_BEND * spread)
    )
