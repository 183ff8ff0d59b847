"""The table's loops on a CPU: `table.cpp`, compiled for this processor by the compiler driver of torch's inductor.

The loops know no tensors: each gets addresses, and `memory` sees to it that there lies what it will read.
Values are those of `plain` up to the rounding of float32. The same input gives the same bits for the same number of threads:
each thread adds up its own share of the histogram, and the shares are added in order.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TensorError
from .memory import address, check_rows, fresh

_SMALL = 2**15  # elements; below it a second thread costs more than it brings


@functools.cache
def loops() -> Any:
    """The compiled loops; a second or two the first time, from inductor's disk cache afterwards."""
    from torch._inductor.codecache import CppCodeCache

    source = Path(__file__).with_name("table.cpp").read_text(encoding="ascii")  # torch writes it again in the locale's
    loaded = CppCodeCache.load(source)
    pointer, real, whole, count = ctypes.c_void_p, ctypes.c_float, ctypes.c_int32, ctypes.c_int64
    signatures = {
        "table_forward": ([pointer, pointer, real, real, whole, count, whole, whole, pointer, pointer], count),
        "table_slope": ([pointer, pointer, pointer, whole, count, whole, whole, pointer], None),
        "curve": ([pointer, pointer, pointer, real, real, whole, real, count, whole, whole, pointer], count),
        "curve_missing": ([pointer, count, whole, whole, pointer], None),
        "table_slope_and_rows": ([pointer, pointer, pointer, real, real, whole, count, whole, whole, pointer, pointer], None),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, result
    return loaded


def _like(x: Tensor) -> Tensor:
    """x as the loops read it; they know no float16, which a CPU has no use for beyond tests."""
    return x.float() if x.dtype == torch.float16 else x


def _how(x: Tensor) -> tuple[int, int, int]:
    """(elements, whether they are bfloat16, threads)."""
    return x.numel(), int(x.dtype == torch.bfloat16), 1 if x.numel() < _SMALL else torch.get_num_threads()


def _element(wide: Tensor) -> torch.dtype:
    return torch.bfloat16 if wide.dtype == torch.bfloat16 else torch.float32


def forward(
    x: Tensor, rows: Tensor, low: float, high: float, keep: bool, inplace: bool = False
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    n, count, wide = check_rows(rows, x), x.numel(), _like(x)
    kind = _element(wide)
    source = address("x", wide, count, kind)
    y, place = wide if inplace else fresh(count, kind), fresh(count if keep else 0, torch.int16)
    outside = loops().table_forward(
        source, rows.data_ptr(), low, high, n, *_how(wide), y.data_ptr(), place.data_ptr() if keep else None
    )  # fmt: skip
    result = x.copy_(y) if inplace else y.to(x.dtype)
    return result, place, torch.tensor(outside, dtype=torch.int64, device="cpu")


def slope(g: Tensor, place: Tensor, rows: Tensor) -> Tensor:
    n, count, wide = check_rows(rows, g), g.numel(), _like(g)
    kind = _element(wide)
    source, places = address("g", wide, count, kind), address("place", place, count, torch.int16)
    result = fresh(count, kind)
    loops().table_slope(source, places, rows.data_ptr(), n, *_how(wide), result.data_ptr())
    return result.to(g.dtype)


def slope_and_rows(
    g: Tensor, place: Tensor, rows: Tensor, low: float, high: float, need_x: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n, count, wide = check_rows(rows, g), g.numel(), _like(g)
    kind = _element(wide)
    source, places = address("g", wide, count, kind), address("place", place, count, torch.int16)
    result, gradient = fresh(count if need_x else 0, kind), fresh(2 * (n + 5), torch.float32)
    loops().table_slope_and_rows(
        source, places, rows.data_ptr(), low, high, n, *_how(wide), result.data_ptr() if need_x else None, gradient.data_ptr()
    )  # fmt: skip
    return result.to(g.dtype), gradient.view(n + 5, 2)


def curve(
    x: Tensor, g: Tensor | None, rows: Tensor, low: float, high: float, at_zero: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(f(x), ending at its dtype's largest number, or g·f′(x) where g is given; the indices of what ``rows`` does not cover).

    Both are [N] of x's dtype; the indices ascend.
    rows: float32 [n + 1, 4], the cubic in x minus its left knot of each of n intervals; NaN where there is none, and in the
    last row, which stands for all x that are not in [low, high). ``at_zero``: f′(0), where f may have a kink.
    """
    if g is not None and g.dtype != x.dtype:
        raise TensorError(f"g: of x's dtype, {x.dtype}, got {g.dtype}")
    wide, weight, count = _like(x), None if g is None else _like(g), x.numel()
    kind, how = _element(wide), _how(wide)
    source = address("x", wide, count, kind)
    weights = None if weight is None else address("g", weight, count, kind)
    table = address("rows", rows, 4 * len(rows), torch.float32)
    y = fresh(count, kind)
    missing = loops().curve(source, weights, table, low, high, len(rows) - 1, at_zero, *how, y.data_ptr())
    left = fresh(missing, torch.int64)
    if missing:
        loops().curve_missing(y.data_ptr(), *how, left.data_ptr())
        left = left.sort().values  # threads find them in any order, and the last bits of the caller's f hang on its order
    top = torch.finfo(x.dtype).max
    return (y.clamp(-top, top) if g is None and y.dtype != x.dtype else y).to(x.dtype), left
