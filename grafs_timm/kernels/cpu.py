"""The table's loops on a CPU: `table.cpp`, compiled for this processor by the compiler driver of torch's inductor.

The loops get addresses, which `memory` has checked. Values are those of `plain` up to the rounding of float32. The same input
gives the same bits for the same number of threads: each thread sums its share of the histogram, and shares are added in order.
"""

from __future__ import annotations

import ctypes
import functools
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import TensorError
from ..utils import hardware
from .memory import address, check_rows, fresh

_SMALL = 2**15  # elements; below it a second thread does not pay


def load(file: str, before: str = "") -> Any:
    """Compile and load a C++ file of this folder.

    Args:
        file: Its name.
        before: A line to put before its text.
    """
    from torch._inductor.codecache import CppCodeCache

    source = Path(__file__).with_name(file).read_text(encoding="ascii")  # torch writes it in the locale's encoding
    # For this processor alone, which becomes part of the cache's key: a home folder may be shared by several kinds.
    source = f"// {hardware.processor()!a}\n{before}\n{source}"
    # Without vector classes of its own inductor need not try which of them work, which takes four further compilations.
    own = {"needs_vec_isa": False} if "needs_vec_isa" in signature(CppCodeCache.load_async).parameters else {}
    return CppCodeCache.load(source, **own)


def vectors() -> str:
    """Return the vector instructions of the loops, "AVX-512", "AVX2" or "none".

    They are the processor's, unless ATEN_CPU_CAPABILITY sets a lower level.

    >>> vectors() in ("AVX-512", "AVX2", "none")
    True
    """
    level = torch.backends.cpu.get_cpu_capability()
    return "AVX-512" if "AVX512" in level else "AVX2" if "AVX2" in level else "none"


@functools.cache
def loops() -> Any:
    """Compile and load the loops: a few seconds the first time, later from inductor's disk cache."""
    loaded = load("table.cpp", "" if vectors() == "AVX-512" else "#define GRAFS_AVX2")
    pointer, real, whole, count = ctypes.c_void_p, ctypes.c_float, ctypes.c_int32, ctypes.c_int64
    numbers = [count, whole, whole, pointer]  # how many elements, whether they are narrow, threads, the result
    signatures = {
        "table_forward": ([pointer, pointer, real, real, whole, count, whole, whole, pointer, pointer], count),
        "table_slope": ([pointer, pointer, pointer, whole, count, whole, whole, pointer], None),
        "curve": (
            [pointer, pointer, pointer, real, real, real, pointer, real, real, whole, pointer, whole, real, *numbers],
            count,
        ),
        "curve_missing": ([pointer, count, whole, whole, pointer], None),
        "table_slope_and_rows": ([pointer, pointer, pointer, real, real, whole, count, whole, whole, pointer, pointer], None),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, result
    return loaded


def _like(x: Tensor) -> Tensor:
    """Return x in a dtype of the loops, which have no float16."""
    return x.float() if x.dtype == torch.float16 else x


def _how(x: Tensor) -> tuple[int, int, int]:
    """Return (number of elements, whether they are bfloat16, threads)."""
    return x.numel(), int(x.dtype == torch.bfloat16), 1 if x.numel() < _SMALL else torch.get_num_threads()


def _element(wide: Tensor) -> torch.dtype:
    return torch.bfloat16 if wide.dtype == torch.bfloat16 else torch.float32


def forward(
    x: Tensor, rows: Tensor, low: float, high: float, keep: bool, inplace: bool = False
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Look x up in a table; as `plain.forward`."""
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
    """Return ∂L/∂x; as `plain.slope`."""
    n, count, wide = check_rows(rows, g), g.numel(), _like(g)
    kind = _element(wide)
    source, places = address("g", wide, count, kind), address("place", place, count, torch.int16)
    result = fresh(count, kind)
    loops().table_slope(source, places, rows.data_ptr(), n, *_how(wide), result.data_ptr())
    return result.to(g.dtype)


def slope_and_rows(
    g: Tensor, place: Tensor, rows: Tensor, low: float, high: float, need_x: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return ∂L/∂x and ∂L/∂rows; as `plain.slope_and_rows`."""
    n, count, wide = check_rows(rows, g), g.numel(), _like(g)
    kind = _element(wide)
    source, places = address("g", wide, count, kind), address("place", place, count, torch.int16)
    result, gradient = fresh(count if need_x else 0, kind), fresh(2 * (n + 5), torch.float32)
    loops().table_slope_and_rows(
        source, places, rows.data_ptr(), low, high, n, *_how(wide), result.data_ptr() if need_x else None, gradient.data_ptr()
    )  # fmt: skip
    return result.to(g.dtype), gradient.view(n + 5, 2)


class Curve(NamedTuple):
    """A function of one number as polynomials on intervals; NaN where an interval has none.

    Args:
        wide: float32 [9, 32]: of each of 32 intervals the left knot, then the coefficients of t = x − knot, degree 0 to 7.
        steep: float32 [8, 32]: the same of the slope.
        low, inverse, span: Where the wide intervals begin, how many there are for each unit of x, and up to which t each holds.
        rows: float32 [n + 1, 4]: the cubic in x minus its left knot of each of n intervals; the last row, for all other x, is
            NaN.
        first, last: The range of the n intervals.
        kinks: float32 [m, 10]: the row of a kink within an interval, its place, and the cubics to its left and right.
        at_zero: f′(0), where f may have a kink.
    """

    wide: Tensor
    steep: Tensor
    low: float
    inverse: float
    span: float
    rows: Tensor
    first: float
    last: float
    kinks: Tensor
    at_zero: float


def curve(x: Tensor, g: Tensor | None, of: Curve) -> tuple[Tensor, Tensor]:
    """Evaluate a function by its polynomials.

    Args:
        x: [N].
        g: [N] of x's dtype, or None.
        of: The function.

    Returns:
        [N] of x's dtype: f(x), saturated at the dtype's largest number, or g·f′(x) where g is given; and the indices of the
        elements that no polynomial covers, ascending.

    Raises:
        TensorError: g has another dtype than x.
    """
    if g is not None and g.dtype != x.dtype:
        raise TensorError(f"g: expected x's dtype, {x.dtype}, got {g.dtype}")
    wide, weight, count = _like(x), None if g is None else _like(g), x.numel()
    kind, how = _element(wide), _how(wide)
    source = address("x", wide, count, kind)
    weights = None if weight is None else address("g", weight, count, kind)
    table = of.wide if g is None else of.steep
    polynomials = address("wide", table, table.numel(), torch.float32)
    cubics, kinks = (
        address("rows", of.rows, of.rows.numel(), torch.float32),
        address("kinks", of.kinks, of.kinks.numel(), torch.float32),
    )
    y = fresh(count, kind)
    missing = loops().curve(
        source, weights, polynomials, of.low, of.inverse, of.span, cubics, of.first, of.last, len(of.rows) - 1,
        kinks, len(of.kinks), of.at_zero, *how, y.data_ptr(),
    )  # fmt: skip
    left = fresh(missing, torch.int64)
    if missing:
        loops().curve_missing(y.data_ptr(), *how, left.data_ptr())
        left = left.sort().values  # threads find them in any order, which would change the last bits of the caller's f
    top = torch.finfo(x.dtype).max
    return (y.clamp(-top, top) if g is None and y.dtype != x.dtype else y).to(x.dtype), left
