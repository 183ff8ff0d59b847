"""Tabulate a function of one number: forward is a gather and an interpolation, the table's gradient a histogram.

Every activation site maps x to f(x) elementwise, with f given by a few dozen numbers. So the relaxed cell is evaluated on
the knots of a grid instead of on the tensor, and the cost of a step does not depend on the number of candidates:

    y      = P[j] + S[j]·(x − a)       j the interval of x, a its left knot, (P, S) its value and slope
    ∂L/∂x  = g·S[j]                    the table's own slope
    ∂L/∂P[j] = Σ g,  ∂L/∂S[j] = Σ g·(x − a)      over the elements that fell into interval j: a weighted histogram

From (P, S) autograd continues to the cell's α and γ. Outside the grid the function is extrapolated linearly with its slope at
the edge; at ±∞ and NaN it has the cell's own value. The loops over the elements are in `kernels`; this module makes them
operators that autograd, torch.compile and export know: ``torch.ops.grafs_timm.lookup`` and its two backward halves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, library
from torch.autograd import forward_ad

from ..errors import TensorError
from ..kernels import choose, plain
from ..utils import dtypes
from ..utils.layout import in_memory, is_freed, together, watched

_EDGE = 1 / 8  # step of the five-point difference for the slope at an edge: error 1e-5 at most, see the tests
SPECIAL = (-math.inf, math.inf, math.nan)  # where the cell is evaluated besides the knots


@dataclass(frozen=True)
class Grid:
    """Divide [low, high] into equal intervals with a knot at 0, where most kinks are.

    Args:
        low, high: The range, in units of x.
        intervals: Their number.

    Raises:
        ValueError: No knot is at 0, or the numbers make no grid.

    >>> grid = Grid(-2.0, 2.0, intervals=8)
    >>> grid.width, grid.points().shape
    (0.5, torch.Size([17]))
    """

    low: float = -16.0
    high: float = 16.0
    intervals: int = 4096

    def __post_init__(self) -> None:
        if self.intervals < 1:
            raise ValueError(f"a grid needs at least two knots (one interval), got {self.intervals} intervals")
        if self.intervals > plain.MAX_INTERVALS:
            raise ValueError(f"a grid has at most {plain.MAX_INTERVALS:,} intervals, got {self.intervals:,}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a grid needs finite low < high, got [{self.low}, {self.high}]")
        zero = -self.low / self.width
        if self.low <= 0 <= self.high and abs(zero - round(zero)) > 1e-6:
            raise ValueError(f"[{self.low}, {self.high}] in {self.intervals} intervals has no knot at 0, where kinks are")

    @property
    def width(self) -> float:
        """Return the width of an interval."""
        return (self.high - self.low) / self.intervals

    @property
    def _reach(self) -> float:
        return min(_EDGE, (self.high - self.low) / 8)

    def points(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """Return where to evaluate the function: [intervals + 9], the knots and then four points around each edge."""
        knots = self.low + torch.arange(self.intervals + 1, device=device, dtype=torch.float64) * self.width
        around = torch.tensor([-2.0, -1.0, 1.0, 2.0], device=device, dtype=torch.float64) * self._reach
        return torch.cat([knots, self.low + around, self.high + around]).to(dtype)

    def rows(self, values: Tensor, special: Tensor | None = None) -> Tensor:
        """Make the table for `lookup` from values.

        Args:
            values: [sites, intervals + 9] at `points`.
            special: [sites, 3] at ``SPECIAL``; NaN if left out.

        Returns:
            [sites, intervals + 5, 2], laid out as `kernels.plain` says.
        """
        inner, around = values[:, : self.intervals + 1], values[:, self.intervals + 1 :].unflatten(1, (2, 4))
        stencil = values.new_tensor([1.0, -8.0, 8.0, -1.0]) / (12 * self._reach)
        edges = (around * stencil).sum(-1)
        nothing = values.new_full((len(values), 3), math.nan)
        start = torch.cat([inner[:, :1], inner, nothing if special is None else special.to(values.dtype)], dim=1)
        slope = torch.cat([edges[:, :1], inner.diff(dim=1) / self.width, edges[:, 1:], nothing], dim=1)
        return torch.stack([start, slope], dim=-1)


# ------------------------------------------------------------------------------------------------------ operators


def _dense(x: Tensor, like: Tensor) -> Tensor:
    """Return the elements of x, [N], in the memory order of ``like``, a tensor without gaps.

    Raises:
        ValueError: The shapes differ.
        TensorError: The storage of x is not allocated.
    """
    if is_freed(x):
        raise TensorError(f"the data of a tensor of shape {tuple(x.shape)} is not allocated (yet)")
    if x.shape != like.shape:
        raise ValueError(f"a tensor of shape {tuple(like.shape)} is needed, got {tuple(x.shape)}")
    if x.stride() != like.stride() or not in_memory(x):
        x = torch.empty_like(like, dtype=x.dtype).copy_(x)
    return x.as_strided((x.numel(),), (1,))


def _flat(x: Tensor) -> Tensor:
    return x.as_strided((x.numel(),), (1,))


@library.custom_op("grafs_timm::lookup", mutates_args=())
def _lookup(x: Tensor, rows: Tensor, low: float, high: float, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (y like x; int16 places like x, or [0] without ``keep``; int64 scalar: number of x outside the grid).

    For a float64 x the places are x itself, which makes its gradients exact.
    """
    y = torch.empty_like(x)  # keeps x's order of dimensions where x has no gaps
    values = _dense(x, y)
    result, place, outside = choose(x.device, x.dtype).forward(values, rows, low, high, keep)
    y = result.as_strided(y.shape, y.stride())
    if not keep:
        return y, place, outside
    kept = values.clone() if x.dtype == torch.float64 else place
    return y, kept.as_strided(y.shape, y.stride()), outside


@_lookup.register_fake
def _(x: Tensor, rows: Tensor, low: float, high: float, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    kept = torch.float64 if x.dtype == torch.float64 else torch.int16
    place = torch.empty_like(x, dtype=kept) if keep else x.new_empty(0, dtype=torch.int16)
    return torch.empty_like(x), place, x.new_empty((), dtype=torch.int64)


@library.custom_op("grafs_timm::lookup_slope", mutates_args=())
def _slope(g: Tensor, place: Tensor, rows: Tensor, low: float, high: float) -> Tensor:
    """Return ∂L/∂x like ``place``, of g's dtype."""
    if place.dtype == torch.float64:
        return _slope_and_rows(g, place, rows, low, high, True)[0]
    result = choose(g.device, g.dtype).slope(_dense(g, place), _flat(place), rows)
    return result.as_strided(place.shape, place.stride())


@_slope.register_fake
def _(g: Tensor, place: Tensor, rows: Tensor, low: float, high: float) -> Tensor:
    return torch.empty_like(place, dtype=g.dtype)


@library.custom_op("grafs_timm::lookup_slope_and_rows", mutates_args=())
def _slope_and_rows(
    g: Tensor, place: Tensor, rows: Tensor, low: float, high: float, need_x: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return (∂L/∂x like ``place`` or [0] without ``need_x``; ∂L/∂rows like rows)."""
    flat = _dense(g, place)
    if place.dtype == torch.float64:
        slope, gradient = plain.exact(flat, _flat(place), rows, low, high)
        slope = slope if need_x else slope.new_empty(0)
    else:
        slope, gradient = choose(g.device, g.dtype).slope_and_rows(flat, _flat(place), rows, low, high, need_x)
    return (slope.as_strided(place.shape, place.stride()) if need_x else slope), gradient


@_slope_and_rows.register_fake
def _(g: Tensor, place: Tensor, rows: Tensor, low: float, high: float, need_x: bool) -> tuple[Tensor, Tensor]:
    slope = torch.empty_like(place, dtype=g.dtype) if need_x else g.new_empty(0)
    return slope, torch.empty_like(rows)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, rows, ctx.low, ctx.high, _ = inputs
    _, place, outside = output
    ctx.mark_non_differentiable(place, outside)
    ctx.save_for_backward(place, rows)


def _backward(ctx: Any, g: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    place, rows = ctx.saved_tensors
    need_x, need_rows = ctx.needs_input_grad[:2]
    if need_rows:
        slope, gradient = _slope_and_rows(g, place, rows, ctx.low, ctx.high, need_x)
        return slope if need_x else None, gradient, None, None, None
    return _slope(g, place, rows, ctx.low, ctx.high), None, None, None, None


_lookup.register_autograd(_backward, setup_context=_keep_for_backward)


class _InPlace(torch.autograd.Function):
    """``_lookup`` that overwrites x, like an in-place ReLU; it allocates only the places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, low: float, high: float, outside: Tensor) -> Tensor:
        keep = any(ctx.needs_input_grad)
        _, place, count = choose(x.device, x.dtype).forward(_flat(x), rows, low, high, keep, inplace=True)
        outside.add_(count, alpha=1 / max(1, x.numel()))
        if keep:
            ctx.save_for_backward(place.as_strided(x.shape, x.stride()), rows)
        ctx.mark_dirty(x)
        ctx.low, ctx.high = low, high
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        return _backward(ctx, g)


def lookup(x: Tensor, rows: Tensor, grid: Grid, outside: Tensor | None = None, inplace: bool = False) -> Tensor:
    """Compute f(x) for a tabulated f, differentiable once in x and in the table.

    Backward keeps 16 bits per element, namely the quarter of an interval that it lies in (for float64 the element itself). A
    non-finite x makes its own gradient and the table's NaN, which marks the step as spoilt.

    Args:
        x: float16, bfloat16, float32 or float64; any shape and memory format.
        rows: [intervals + 5, 2] of one site from `Grid.rows`, float32, or float64 for a float64 x.
        grid: The grid of the rows.
        outside: A float scalar tensor; increased by the share of inputs outside the grid.
        inplace: Allow overwriting x, under the same conditions as for an in-place ReLU; compiled code may ignore it.

    Returns:
        f(x) with x's shape, dtype and memory format.

    Raises:
        TensorError: x has another dtype, or rows are on another device.
        ValueError: The rows do not fit the grid.

    >>> grid = Grid(-2.0, 2.0, intervals=8)
    >>> rows = grid.rows(grid.points()[None].square())[0]
    >>> lookup(torch.tensor([-1.0, 0.25, 3.0]), rows, grid)  # exact on knots, linear between and beyond them
    tensor([1.0000, 0.1250, 8.0000])
    """
    if x.dtype not in dtypes.DTYPES:
        dtypes.refuse("a tabulated function", x.dtype, x.device)
    if not together(rows, x):
        raise TensorError(f"rows are on {rows.device}, x on {x.device}; move them with rows.to({str(x.device)!r})")
    if rows.shape != (grid.intervals + 5, 2):
        raise ValueError(f"rows of this grid have the shape {(grid.intervals + 5, 2)}, got {tuple(rows.shape)}")
    rows = (rows if x.dtype == torch.float64 else rows.float()).contiguous()  # as the loops read them
    outside = torch.zeros((), dtype=torch.float64, device=x.device) if outside is None else outside
    if forward_ad._current_level >= 0 and not torch.compiler.is_compiling():
        return _with_tangent(x, rows, grid, outside)
    if inplace and x.dtype != torch.float64 and not torch.compiler.is_compiling() and _may_be_overwritten(x):
        return _InPlace.apply(x, rows, grid.low, grid.high, outside)
    keep = torch.is_grad_enabled() and (x.requires_grad or rows.requires_grad)
    y, _, count = _lookup(x, rows, grid.low, grid.high, keep)
    outside.add_(count, alpha=1 / max(1, x.numel()))
    return y


def _with_tangent(x: Tensor, rows: Tensor, grid: Grid, outside: Tensor) -> Tensor:
    """Compute ``lookup`` with forward-mode differentiation by x; by the table, or of the tangent, it is an error."""
    if torch._C._functorch.is_functorch_wrapped_tensor(x) or torch._C._functorch.is_functorch_wrapped_tensor(rows):
        raise NotImplementedError("a tabulated function has no torch.func.jvp; use torch.autograd.forward_ad or torch.func.vjp")
    (x, tangent), (rows, by_rows) = forward_ad.unpack_dual(x), forward_ad.unpack_dual(rows)
    if by_rows is not None:
        raise NotImplementedError("a tabulated function has no forward-mode derivative by its table; use backward")
    keep = tangent is not None or (torch.is_grad_enabled() and (x.requires_grad or rows.requires_grad))
    y, place, count = _lookup(x, rows, grid.low, grid.high, keep)
    outside.add_(count, alpha=1 / max(1, x.numel()))
    if tangent is None:
        return y
    return forward_ad.make_dual(y, _slope(tangent.detach(), place, rows.detach(), grid.low, grid.high))


def _may_be_overwritten(x: Tensor) -> bool:
    """Check whether the loops may overwrite x: its data is in memory without gaps, and no mode of torch watches it."""
    if watched() or not in_memory(x):
        return False
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
