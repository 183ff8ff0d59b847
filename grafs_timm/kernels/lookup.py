"""Look every element up by its bit pattern, in a table of 65,536 entries (16 bits) or 256 (8 bits), on a CPU.

`compiled` is `lookup.cpp`, `plain` the same in torch's own operations: the reference, and the fallback without a compiler.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from ..errors import TensorError
from .cpu import load
from .memory import address, fresh

_SMALL = 2**16  # elements; below it a second thread does not pay
ENTRIES = {1: 256, 2: 65536}  # by bytes of an element


@functools.cache
def loops() -> Any:
    """Compile and load the loops: a second the first time, later from inductor's disk cache."""
    loaded = load("lookup.cpp")
    pointer, count, whole = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    for name in ("look_up_16", "look_up_8"):
        getattr(loaded, name).argtypes, getattr(loaded, name).restype = [pointer, pointer, count, whole, pointer], None
    return loaded


def compiled(x: Tensor, table: Tensor) -> Tensor:
    """Look x up.

    Args:
        x: [N], contiguous, of 8 or 16 bits: int8, uint8, bfloat16 or float16.
        table: [256] or [65,536] of x's width: entry i is the value where the bits of an element, as a whole number, are i.

    Returns:
        [N] of the table's dtype.

    Raises:
        TensorError: The table has another width, or one of the two has no plain memory on the CPU.
    """
    count, size = x.numel(), x.element_size()
    _check(x, table)
    source, entries = address("x", x, count, x.dtype), address("table", table, ENTRIES[size], table.dtype)
    y = fresh(count, table.dtype)
    run = loops().look_up_8 if size == 1 else loops().look_up_16
    run(source, entries, count, 1 if count < _SMALL else torch.get_num_threads(), y.data_ptr())
    return y


def plain(x: Tensor, table: Tensor) -> Tensor:
    """Look x up; as `compiled`."""
    _check(x, table)
    return table.index_select(0, x.view(torch.uint8 if x.element_size() == 1 else torch.uint16).int())


def _check(x: Tensor, table: Tensor) -> None:
    size = x.element_size()
    if size not in ENTRIES or table.element_size() != size or tuple(table.shape) != (ENTRIES[size],):
        raise TensorError(
            f"table: elements of 8 bits need [256] entries of 8 bits, of 16 bits [65,536] of 16 bits; "
            f"got {x.dtype} and {tuple(table.shape)} of {table.dtype}"
        )
