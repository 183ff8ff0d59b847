"""The table's loops on CUDA, in Triton; `plain` explains tables, rows and places.

``forward`` and ``slope`` read and write every element once, with one gather of 8 or 4 bytes each from a table that stays in
the L1 cache (32 KB at 4096 intervals): 10 bytes an element for a float32 forward that keeps the place, 10 for its slope.

``slope_and_rows`` is a weighted histogram. Atomic adds would serialise where elements crowd, near 0. So it is a product of
one-hot matrices on the tensor cores: with interval = 64·hi + lo, over the elements e of a program,

    Σ g             [hi, lo] = Σₑ G[e, hi]·L[e, lo]      G = g in the column of e's hi, else 0;  L = 1 in that of its lo
    Σ g·distance    [hi, lo] = Σₑ G[e, hi]·D[e, lo]      D = 1, 3, 5 or 7 (eighths of an interval) in that of its lo

A program sums its contiguous share of the elements in registers, in order, and stores one table; the tables are then summed.
Per element, at 4096 intervals: 8192 multiply-adds on the tensor cores, 128 compares and 192 selects to make G, L and D, which
are 384 bytes of shared memory; a float32 g takes twice the multiply-adds, 64 selects and 128 bytes more. By this count it is
bound by shared memory and arithmetic, not by the 4 to 6 bytes it reads. (8192 intervals: twice the multiply-adds, G twice as
wide.)

Accuracy: forward and slope round like `plain`, operation by operation, so places, values and slopes are the same bits. In the
histogram L and D are exact, and so is a bfloat16 or float16 g; a float32 g is the sum of two bfloat16, with a relative error of
2⁻¹⁷; sums are float32. A non-finite g may spoil the 64 neighbouring rows that share its hi.
Determinism: the only atomic add is one of integers (inputs outside), and the shares depend only on the number of elements, so
the same input gives the same bits on the same device with the same versions.
No call waits for the device or reads from it; all can be captured in a CUDA graph after a first call outside of one.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import plain
from .memory import ELEMENTS, check, check_rows

BLOCK = 1024  # elements per program of forward and slope: eight per thread, one 16-byte access at 16 bits
STEP = 128  # elements of one product of one-hot matrices
PROGRAMS = 264  # the most programs of the histogram: two for each multiprocessor of today's largest device
SHARE = 16 * STEP  # the fewest elements that pay for a program, whose table has to be stored and added

_LOW = tl.constexpr(64)
_QUARTERS = tl.constexpr(plain.QUARTERS)
_OUT = tl.constexpr(plain.OUT)
_NON_FINITE = tl.constexpr(plain.NON_FINITE)
_SHIFT = tl.constexpr(plain._SHIFT)
_FIRST = tl.constexpr(plain._FIRST)
_HALF = tl.constexpr(1 << (plain._SHIFT - 1))


@triton.jit(do_not_specialize=["n"])
def _forward(x_ptr, pair_ptr, y_ptr, place_ptr, outside_ptr, size, n, low, high, width, per_width, per_quarter,
             KEEP: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Store y, place and the count of inputs outside. pair_ptr: the rows, each (P, S) as one int64."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    x = tl.load(x_ptr + at, mask=there, other=0.0, eviction_policy="evict_first").to(tl.float32)

    finite = tl.abs(x) < float("inf")  # false for NaN
    interval = tl.where(finite, tl.floor((x - low) * per_width), 0.0)
    interval = tl.minimum(tl.maximum(interval, -1.0), n.to(tl.float32))
    distance = x - (low + tl.maximum(interval, 0.0) * width)
    row = interval.to(tl.int32) + 1
    special = tl.where(x == float("-inf"), n + 2, tl.where(x == float("inf"), n + 3, n + 4))

    pair = tl.load(pair_ptr + tl.where(finite, row, special), mask=there, other=0)
    start = pair.to(tl.int32).to(tl.float32, bitcast=True)
    slope = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    y = tl.where(finite, start + slope * distance, start)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=there)

    if KEEP:
        quarter = tl.minimum(tl.maximum(distance * per_quarter, 0.0), _QUARTERS - 1.0).to(tl.int32)
        exponent = (tl.abs(distance).to(tl.int32, bitcast=True) >> _SHIFT) - _FIRST
        exponent = tl.minimum(tl.maximum(exponent, 0), _OUT - 1)
        code = tl.where(row == 0, n * _QUARTERS + exponent, (row - 1) * _QUARTERS + quarter)
        code = tl.where(row == n + 1, n * _QUARTERS + _OUT + exponent, code)
        code = tl.where(finite, code, _NON_FINITE)
        tl.store(place_ptr + at, code.to(tl.int16), mask=there)

    outside = tl.sum((there & ((x < low) | (x > high))).to(tl.int32))
    tl.atomic_add(outside_ptr, outside.to(tl.int64), mask=outside > 0, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def _slope(g_ptr, place_ptr, rows_ptr, grad_ptr, size, n, BLOCK: tl.constexpr):
    """grad = g · S[row of place]."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    code = tl.load(place_ptr + at, mask=there, other=0, eviction_policy="evict_first").to(tl.int32) & 0xFFFF
    g = tl.load(g_ptr + at, mask=there, other=0.0).to(tl.float32)
    row = tl.where(code < n * _QUARTERS + _OUT, 0, n + 1)
    row = tl.where(code < n * _QUARTERS, code // _QUARTERS + 1, row)
    row = tl.where(code == _NON_FINITE, n + 4, row)
    slope = tl.load(rows_ptr + 2 * row + 1, mask=there, other=0.0)
    tl.store(grad_ptr + at, (g * slope).to(grad_ptr.dtype.element_ty), mask=there)


@triton.jit
def _one_hot(columns, index, value):
    """Make [STEP, W]: ``value`` [STEP] or [1] in column ``index`` [STEP], else 0. columns: [STEP, W], 0 … W − 1 in each row."""
    return tl.where(columns == index.to(tl.int16)[:, None], value[:, None], 0.0).to(value.dtype)


@triton.jit(do_not_specialize=["n", "steps"])  # else a value of 1 or a multiple of 16 compiles again
def _rows(g_ptr, place_ptr, column_ptr, part_ptr, size, steps, n, eighth,
          HIGH: tl.constexpr, SPLIT: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """Sum one program's share, ``steps`` · STEP elements, into its own table [n + 5, 2] of part_ptr."""
    program = tl.program_id(0).to(tl.int64)
    at = program * steps * STEP + tl.arange(0, STEP)
    sums, moments = tl.zeros([HIGH, _LOW], tl.float32), tl.zeros([HIGH, _LOW], tl.float32)
    below, below_moment = tl.zeros([STEP], tl.float32), tl.zeros([STEP], tl.float32)
    above, above_moment = tl.zeros([STEP], tl.float32), tl.zeros([STEP], tl.float32)
    kind = tl.bfloat16 if SPLIT else g_ptr.dtype.element_ty

    # Column numbers are loaded from memory, because then the compiler gives a thread eight neighbouring columns, which go to
    # shared memory in one 16-byte store. With tl.arange it is eight stores of two bytes.
    every = tl.zeros([STEP, 1], tl.int32)
    lows = tl.load(column_ptr + every + tl.arange(0, _LOW)[None, :])
    highs = tl.load(column_ptr + every + tl.arange(0, HIGH)[None, :])
    place = tl.load(place_ptr + at, mask=at < size, other=0)
    raw = tl.load(g_ptr + at, mask=at < size, other=0.0)
    for _ in range(steps):
        at += STEP  # prefetch for the next iteration
        next_place = tl.load(place_ptr + at, mask=at < size, other=0)
        next_raw = tl.load(g_ptr + at, mask=at < size, other=0.0)
        code, g = place.to(tl.int32) & 0xFFFF, raw.to(tl.float32)

        beyond = code - n * _QUARTERS
        reach = (((beyond % _OUT + _FIRST) << _SHIFT) + _HALF).to(tl.float32, bitcast=True)
        is_below = (beyond >= 0) & (beyond < _OUT)
        is_above = (beyond >= _OUT) & (code != _NON_FINITE)
        below += tl.where(is_below, g, tl.where(code == _NON_FINITE, float("nan"), 0.0))
        below_moment -= tl.where(is_below, g * reach, 0.0)
        above += tl.where(is_above, g, 0.0)
        above_moment += tl.where(is_above, g * reach, 0.0)

        weight = tl.where(beyond < 0, g, 0.0)
        upper = weight.to(kind)
        low, high = (code // _QUARTERS) % _LOW, code // (_QUARTERS * _LOW)
        ones = _one_hot(lows, low, tl.full([1], 1.0, tl.float32).to(kind))
        eighths = _one_hot(lows, low, (2 * (code % _QUARTERS) + 1).to(tl.float32).to(kind))
        of_high = tl.trans(_one_hot(highs, high, upper))
        sums, moments = tl.dot(of_high, ones, sums), tl.dot(of_high, eighths, moments)
        if SPLIT:
            rest = (weight - upper.to(tl.float32)).to(kind)
            of_high = tl.trans(_one_hot(highs, high, rest))
            sums, moments = tl.dot(of_high, ones, sums), tl.dot(of_high, eighths, moments)
        place, raw = next_place, next_raw

    table = part_ptr + program * (2 * n + 10)
    interval = tl.arange(0, HIGH)[:, None] * _LOW + tl.arange(0, _LOW)[None, :]
    tl.store(table + 2 + 2 * interval, sums, mask=interval < n)
    tl.store(table + 3 + 2 * interval, moments * eighth, mask=interval < n)
    k = tl.arange(0, 16)  # the two numbers of row 0, then those of rows n + 1 … n + 4
    edge = tl.where(k == 0, tl.sum(below), tl.where(k == 1, tl.sum(below_moment), 0.0))
    edge = tl.where(k == 2, tl.sum(above), tl.where(k == 3, tl.sum(above_moment), edge))
    tl.store(table + tl.where(k < 2, k, 2 * n + k), edge, mask=k < 10)


@functools.cache
def _columns(device: torch.device) -> Tensor:
    return torch.arange(128, dtype=torch.int16, device=device)


def forward(
    x: Tensor, rows: Tensor, low: float, high: float, keep: bool, inplace: bool = False
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Look x up in a table; as `plain.forward`."""
    size = x.numel()
    check("x", x, x, size, *ELEMENTS)
    n = check_rows(rows, x)
    y, place = x if inplace else torch.empty_like(x), x.new_empty(size if keep else 0, dtype=torch.int16)
    outside = x.new_zeros((), dtype=torch.int64)
    if size:
        pairs = rows.view(torch.int64)
        width = (high - low) / n
        with torch.cuda.device_of(x):
            _forward[(triton.cdiv(size, BLOCK),)](
                x, pairs, y, place, outside, size, n, low, high, width, 1 / width, plain.QUARTERS * n / (high - low),
                KEEP=keep, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return y, place, outside


def _checked(g: Tensor, place: Tensor, rows: Tensor) -> tuple[int, int]:
    """Return (intervals, elements) of what backward reads. Raises TensorError for tensors that it cannot read."""
    check("g", g, g, g.numel(), *ELEMENTS)
    check("place", place, g, g.numel(), torch.int16)
    return check_rows(rows, g), g.numel()


def slope(g: Tensor, place: Tensor, rows: Tensor) -> Tensor:
    """Return ∂L/∂x; as `plain.slope`."""
    n, size = _checked(g, place, rows)
    grad = torch.empty_like(g)
    if size:
        with torch.cuda.device_of(g):
            _slope[(triton.cdiv(size, BLOCK),)](g, place, rows, grad, size, n, BLOCK=BLOCK, num_warps=4)
    return grad


def slope_and_rows(
    g: Tensor, place: Tensor, rows: Tensor, low: float, high: float, need_x: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return ∂L/∂x and ∂L/∂rows; as `plain.slope_and_rows`."""
    n, size = _checked(g, place, rows)
    grad = slope(g, place, rows) if need_x else g.new_empty(0)
    if not size:
        return grad, rows.new_zeros(n + 5, 2, dtype=torch.float32)
    steps = triton.cdiv(size, min(PROGRAMS, triton.cdiv(size, SHARE)) * STEP)
    parts = g.new_empty(triton.cdiv(size, steps * STEP), n + 5, 2, dtype=torch.float32)
    high_count = max(16, triton.next_power_of_2(triton.cdiv(n, 64)))
    with torch.cuda.device_of(g):
        _rows[(len(parts),)](
            g, place, _columns(g.device), parts, size, steps, n, (high - low) / n / 8,
            HIGH=high_count, SPLIT=g.dtype == torch.float32, STEP=STEP, num_warps=8 if high_count > 64 else 4, num_stages=1,
        )  # fmt: skip
    return grad, parts.sum(0)
