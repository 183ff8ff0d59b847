"""The table's loops in plain torch: the reference, and the fallback where the compiled ones cannot run.

A table has n intervals of one width on [low, high] and is a float32 tensor ``rows`` [n + 5, 2] of (P, S):

    row 0            below low         y = P + S·(x − low)
    rows 1 … n       interval j − 1    y = P + S·(x − a), a the interval's left knot
    row n + 1        above high        y = P + S·(x − high)
    rows n + 2 … 4   x = −∞, ∞, NaN    y = P; S is NaN, and so is the gradient

Backward needs only the *place* of x, 16 bits: which quarter of which interval, or how far outside.

    0 … 4n − 1              interval·4 + quarter
    4n … 4n + OUT − 1       below: 4n + e(low − x), e the upper bits of a float between 2⁻¹⁴ and 2¹⁶ (exponent, 9 of mantissa)
    4n + OUT … 4n + 2·OUT−1 above: 4n + OUT + e(x − high)
    65535                   −∞, ∞ or NaN

So the slope is that of the interval that forward used, and the histogram locates an element to an eighth of an interval.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUARTERS = 4
OUT = 30 << 9  # codes for one side of the grid: 30 exponents, 9 bits of mantissa
NON_FINITE = 0xFFFF
MAX_INTERVALS = 8192  # so that 4n + 2·OUT stays below NON_FINITE
_SHIFT = 14  # bits of a float32 that a code omits
_FIRST = (127 - 14) << 9  # the code of 2⁻¹⁴, subtracted from all


def widened(x: Tensor) -> Tensor:
    """Return x as float32, or float64 unchanged."""
    return x if x.dtype == torch.float64 else x.float()


def _locate(x: Tensor, low: float, high: float, n: int) -> tuple[Tensor, Tensor]:
    """Return the row (int64) and, for finite x, the distance from the row's knot; NaN and ±∞ have the last three rows."""
    width = (high - low) / n
    interval = ((x - low) * (1 / width)).floor()
    row = torch.where(x == x, interval, -1.0).clamp(-1, n).long() + 1
    distance = x - (low + (row - 1).clamp(min=0).to(x.dtype) * width)
    special = torch.where(x == -torch.inf, n + 2, torch.where(x == torch.inf, n + 3, n + 4))
    return torch.where(x.isfinite(), row, special), distance


def _place(row: Tensor, distance: Tensor, low: float, high: float, n: int) -> Tensor:
    quarter = (distance * (QUARTERS * n / (high - low))).long().clamp(0, QUARTERS - 1)
    exponent = ((distance.float().abs().view(torch.int32) >> _SHIFT) - _FIRST).clamp(0, OUT - 1)
    code = (row - 1) * QUARTERS + quarter
    code = torch.where(row == 0, QUARTERS * n + exponent, code)
    code = torch.where(row == n + 1, QUARTERS * n + OUT + exponent, code)
    return torch.where(row > n + 1, NON_FINITE, code).to(torch.int32).to(torch.int16)


def row_of(place: Tensor, n: int) -> Tensor:
    """Return the int64 rows of int16 places; every non-finite x has the last one."""
    code = place.long() & 0xFFFF
    row = torch.where(code < QUARTERS * n + OUT, 0, n + 1)
    row = torch.where(code < QUARTERS * n, code // QUARTERS + 1, row)
    return torch.where(code == NON_FINITE, n + 4, row)


def distance_of(place: Tensor, low: float, high: float, n: int) -> Tensor:
    """Return x minus the knot of its row in float32, rounded to the middle of the code's range; 0 if x was not finite."""
    code = place.int() & 0xFFFF
    inside = ((code % QUARTERS).float() + 0.5) * ((high - low) / (QUARTERS * n))
    beyond = code - QUARTERS * n
    bits = (((beyond % OUT) + _FIRST) << _SHIFT) + (1 << (_SHIFT - 1))
    outside = bits.view(torch.float32) * torch.where(beyond < OUT, -1.0, 1.0)
    return torch.where(code == NON_FINITE, 0.0, torch.where(beyond < 0, inside, outside))


def forward(
    x: Tensor, rows: Tensor, low: float, high: float, keep: bool, inplace: bool = False
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Look x up in a table.

    Args:
        x: [N].
        rows: [n + 5, 2].
        low, high: The range of the grid.
        keep: Return places.
        inplace: Write y over x and return x.

    Returns:
        y [N] of x's dtype; int16 places [N] or, without ``keep``, [0]; int64 scalar: the number of x outside the grid.
    """
    n = len(rows) - 5
    wide = widened(x)
    row, distance = _locate(wide, low, high, n)
    table = rows.to(wide.dtype)
    y = torch.where(row > n + 1, table[row, 0], table[row, 0] + table[row, 1] * distance)
    place = _place(row, distance, low, high, n) if keep else x.new_empty(0, dtype=torch.int16)
    outside = ((wide < low) | (wide > high)).sum()
    return x.copy_(y) if inplace else y.to(x.dtype), place, outside


def slope(g: Tensor, place: Tensor, rows: Tensor) -> Tensor:
    """Return ∂L/∂x [N] of g's dtype from the incoming gradient g [N]."""
    return (widened(g) * rows[row_of(place, len(rows) - 5), 1].to(widened(g).dtype)).to(g.dtype)


def slope_and_rows(
    g: Tensor, place: Tensor, rows: Tensor, low: float, high: float, need_x: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return (∂L/∂x as `slope`, or [0] without ``need_x``; ∂L/∂rows, float32 [n + 5, 2]).

    The rows' gradient is (Σ g, Σ g·distance) over the elements of each row; NaN if an x was not finite.
    """
    n = len(rows) - 5
    code, wide = place.int() & 0xFFFF, g.float()
    histogram = torch.bincount(code, wide, minlength=NON_FINITE + 1).float()
    codes = torch.arange(NON_FINITE + 1, device=g.device, dtype=torch.int32).to(torch.int16)
    weighted = histogram * distance_of(codes, low, high, n)
    inside = QUARTERS * n
    gradient = rows.new_zeros(n + 5, 2, dtype=torch.float32)
    for column, values in enumerate((histogram, weighted)):
        gradient[1 : n + 1, column] = values[:inside].view(n, QUARTERS).sum(1)
        gradient[0, column] = values[inside : inside + OUT].sum()
        gradient[n + 1, column] = values[inside + OUT : inside + 2 * OUT].sum()
    spoilt = (code == NON_FINITE).any()
    gradient[0, 0] = torch.where(spoilt, torch.nan, gradient[0, 0])
    return slope(g, place, rows) if need_x else g.new_empty(0), gradient


def exact(g: Tensor, x: Tensor, rows: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return (∂L/∂x, ∂L/∂rows) without binning, element by element in float64: the reference for the binned gradients."""
    n = len(rows) - 5
    row, distance = _locate(x, low, high, n)
    gradient = rows.new_zeros(n + 5, 2)
    gradient[:, 0].index_add_(0, row, g.to(rows.dtype))
    gradient[:, 1].index_add_(0, row, (g * distance).to(rows.dtype))
    gradient[0, 0] = torch.where((row > n + 1).any(), torch.nan, gradient[0, 0])
    gradient[n + 2 :] = 0
    return g * rows[row, 1].to(g.dtype), gradient
