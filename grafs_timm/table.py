"""A function of one number, tabulated: forward is a gather and an interpolation, the table's gradient a histogram.

Every activation site maps x to f(x) elementwise, with f given by a few dozen numbers. So the relaxed cell is evaluated on
the knots of a grid instead of on the tensor, and the cost of a step no longer depends on how many candidates there are:

    y      = P[j] + Q[j]·(u − a)      u = (x − low)/width, j the interval of u, a its left knot, (P, Q) its value and rise
    ∂L/∂x  = g·Q[j]/width             the table's own slope
    ∂L/∂P[j] = Σ g,  ∂L/∂Q[j] = Σ g·(u − a)      over the elements that fell into interval j: a weighted histogram

From (P, Q) autograd goes on to the cell's α and γ. Outside the grid the function goes on linearly with the slope it has at
the edge. The same plain torch code runs everywhere; on CPU it is compiled by inductor where a C++ compiler is found.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .compiled import fused

_EDGE = 1 / 8  # reach of the five-point difference that gives the slope at an edge: error 1e-5 at most, see the tests
_BINS = 4  # bins per interval of the histogram: an element is placed to within an eighth of an interval
_WORTH_COMPILING = 2**14  # elements; below it the plain code is as fast as a call of the compiled one


@dataclass(frozen=True)
class Grid:
    """``intervals`` equal intervals on [low, high], with a knot at 0 because that is where kinks are."""

    low: float = -16.0
    high: float = 16.0
    intervals: int = 4096

    def __post_init__(self) -> None:
        if self.intervals < 1:
            raise ValueError(f"a grid needs at least two knots (one interval), got {self.intervals} intervals")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a grid needs finite low < high, got [{self.low}, {self.high}]")
        zero = -self.low / self.width
        if self.low <= 0 <= self.high and abs(zero - round(zero)) > 1e-6:
            raise ValueError(f"[{self.low}, {self.high}] in {self.intervals} intervals has no knot at 0, where kinks are")

    @property
    def width(self) -> float:
        return (self.high - self.low) / self.intervals

    @property
    def keeps_half(self) -> bool:
        """Whether float16 resolves the grid up to its ends, so that float32 inputs may be kept for backward in 16 bits."""
        largest = max(abs(self.low), abs(self.high))
        return 2.0 ** (math.ceil(math.log2(largest)) - 1 - 10) <= self.width

    @property
    def _reach(self) -> float:
        return min(_EDGE, (self.high - self.low) / 8)

    def points(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """Where to evaluate the function: [intervals + 9], the knots and then four points around each edge."""
        knots = self.low + torch.arange(self.intervals + 1, device=device, dtype=torch.float64) * self.width
        around = torch.tensor([-2.0, -1.0, 1.0, 2.0], device=device, dtype=torch.float64) * self._reach
        return torch.cat([knots, self.low + around, self.high + around]).to(dtype)

    def rows(self, values: Tensor) -> Tensor:
        """[sites, intervals + 9] values at ``points`` -> [sites, intervals + 2, 2] rows (P, Q), the first and last outside."""
        inner, around = values[:, : self.intervals + 1], values[:, self.intervals + 1 :].unflatten(1, (2, 4))
        stencil = values.new_tensor([1.0, -8.0, 8.0, -1.0]) * (self.width / (12 * self._reach))
        edges = (around * stencil).sum(-1)
        start = torch.cat([inner[:, :1], inner], dim=1)
        rise = torch.cat([edges[:, :1], inner.diff(dim=1), edges[:, 1:]], dim=1)
        return torch.stack([start, rise], dim=-1)


@functools.cache
def _measures(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(low, 1/width, intervals) as a tensor: another grid is then no reason to compile the kernels again."""
    return torch.tensor([grid.low, 1 / grid.width, grid.intervals], device=device, dtype=dtype)


def _place(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u in interval widths from low; the left knot a of its interval; the row j. NaN goes to row 0 and stays in u."""
    u = (x - grid[0]) * grid[1]
    interval = torch.minimum(u.floor().clamp(min=-1), grid[2])
    interval = torch.where(interval == interval, interval, -1.0)
    return u, interval.clamp(min=0), (interval + 1).to(torch.int32)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _forward(x: Tensor, rows: Tensor, grid: Tensor, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Flat x -> y, what backward keeps of x, and how many inputs lay outside the grid."""
    wide = _wide(x)
    u, left, j = _place(wide, grid)
    y = rows[j, 0] + rows[j, 1] * (u - left)
    kept = wide.clamp(-65504.0, 65504.0).half() if half else x
    return y.to(x.dtype), kept, ((u < 0) | (u > grid[2])).sum()


def _slope(x: Tensor, g: Tensor, rows: Tensor, grid: Tensor) -> Tensor:
    j = _place(_wide(x), grid)[2]
    return (_wide(g) * rows[j, 1] * grid[1]).to(g.dtype)


def _bins(x: Tensor, g: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each element's bin and weight, and the two sums Σ g·(u − a) beyond the edges, where a bin cannot stand for u − a."""
    wide = _wide(g)
    u, left, j = _place(_wide(x), grid)
    within = ((u - left) * _BINS).clamp(0, _BINS - 1).to(torch.int32)
    past = wide * (u - left)
    below = torch.where(u < 0, past, 0.0).sum()
    above = torch.where(u >= grid[2], past, 0.0).sum()
    # a NaN of u has no bin; its weight makes the gradient NaN, and the step is skipped
    return j * _BINS + torch.where(u == u, within, 0), torch.where(u == u, wide, u), below, above


def _slope_and_bins(x: Tensor, g: Tensor, rows: Tensor, grid: Tensor) -> tuple[Tensor, ...]:
    return _slope(x, g, rows, grid), *_bins(x, g, grid)


def _rows_gradient(bins: Tensor, weight: Tensor, below: Tensor, above: Tensor, intervals: int) -> Tensor:
    """[intervals + 2, 2]: the gradient of the rows from the binned incoming gradient."""
    histogram = torch.bincount(bins, weight, (intervals + 2) * _BINS).view(-1, _BINS).to(weight)
    centres = (torch.arange(_BINS, device=bins.device, dtype=weight.dtype) + 0.5) / _BINS
    rise = histogram @ centres
    rise[0], rise[-1] = below, above
    return torch.stack([histogram.sum(1), rise], dim=-1)


def _rows_gradient_exact(x: Tensor, g: Tensor, grid: Tensor, intervals: int) -> Tensor:
    """The float64 way, element by element: what the binned one is measured against."""
    u, left, j = _place(x, grid)
    gradient = torch.zeros(2, intervals + 2, dtype=g.dtype, device=g.device)
    gradient[0].index_add_(0, j, g)
    gradient[1].index_add_(0, j, g * (u - left))
    return gradient.T


def _run(function: Callable[..., Any], x: Tensor, *rest: Any) -> Any:
    """Call ``function(x, *rest)``, compiled on CPU where x is large and a compiler is there, plain otherwise."""
    worth = x.device.type == "cpu" and x.numel() >= _WORTH_COMPILING
    return _fused(function)(x, *rest) if worth else function(x, *rest)


@functools.cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    return fused(function, "the table's kernel")


def _flat(x: Tensor) -> tuple[Tensor, torch.memory_format]:
    """x as a vector in the order of its memory, without a copy where it is contiguous or channels_last."""
    for layout in (torch.channels_last, torch.channels_last_3d):
        if x.dim() == (4 if layout is torch.channels_last else 5) and x.is_contiguous(memory_format=layout):
            return x.as_strided((x.numel(),), (1,)), layout
    return x.contiguous().view(-1), torch.contiguous_format


def _unflat(flat: Tensor, like: torch.Size, layout: torch.memory_format) -> Tensor:
    if layout is torch.contiguous_format:
        return flat.view(like)
    order = (0, 2, 3, 1) if len(like) == 4 else (0, 2, 3, 4, 1)
    back = (0, 3, 1, 2) if len(like) == 4 else (0, 4, 1, 2, 3)
    return flat.view([like[d] for d in order]).permute(back)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, grid: Grid, outside: Tensor | None) -> Tensor:
        flat, layout = _flat(x)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        measures, rows = _measures(grid, x.device, wide), rows.detach().to(wide)
        half = x.dtype == torch.float32 and grid.keeps_half and any(ctx.needs_input_grad)
        y, kept, count = _run(_forward, flat.detach(), rows, measures, half)
        if outside is not None:
            outside += count
        ctx.save_for_backward(kept if half else x, rows)
        ctx.measures, ctx.intervals = measures, grid.intervals
        ctx.shape, ctx.layout, ctx.half = x.shape, layout, half
        return _unflat(y, x.shape, layout)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        kept, rows = ctx.saved_tensors
        x = kept if ctx.half else _flat(kept)[0].detach()
        g = grad.contiguous(memory_format=ctx.layout).as_strided((grad.numel(),), (1,))
        need_x, need_rows = ctx.needs_input_grad[:2]
        grad_x = grad_rows = None
        if need_rows and x.dtype != torch.float64:
            if need_x:
                grad_x, *binned = _run(_slope_and_bins, x, g, rows, ctx.measures)
            else:
                binned = _run(_bins, x, g, ctx.measures)
            bins, weight, below, above = binned
            grad_rows = _rows_gradient(bins, weight, below, above, ctx.intervals)
        elif need_rows:
            grad_rows = _rows_gradient_exact(x, g, ctx.measures, ctx.intervals)
        if need_x and grad_x is None:
            grad_x = _run(_slope, x, g, rows, ctx.measures)
        return (None if grad_x is None else _unflat(grad_x, ctx.shape, ctx.layout)), grad_rows, None, None


def lookup(x: Tensor, rows: Tensor, grid: Grid, outside: Tensor | None = None) -> Tensor:
    """f(x) for a tabulated f, differentiable in x and in the table (once).

    x: floating, any shape, dtype and memory format; the result has all three of x. rows: [intervals + 2, 2] float32 of
    one site, from ``Grid.rows``; it gets a histogram of the gradient only if it requires one. ``outside``, an integer
    scalar tensor, is increased by the number of inputs outside the grid. NaN comes out as NaN.
    For backward one tensor is kept: x itself, or its float16 copy where x is float32 and the grid is no finer than that.
    Deterministic on CPU; on CUDA the histogram adds in an order that varies.
    Raises TypeError for a dtype that is not floating, ValueError for rows that do not fit the grid.
    """
    if not x.dtype.is_floating_point:
        raise TypeError(f"a tabulated function takes floating point tensors, got {x.dtype}; convert with x.float()")
    if rows.shape != (grid.intervals + 2, 2):
        raise ValueError(f"rows of this grid have the shape {(grid.intervals + 2, 2)}, got {tuple(rows.shape)}")
    return _Lookup.apply(x, rows, grid, outside)
