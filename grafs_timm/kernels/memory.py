"""Check tensors before compiled loops read their memory by address."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import TensorError
from ..utils.layout import in_memory, together
from . import plain

ELEMENTS = (torch.float16, torch.bfloat16, torch.float32)  # dtypes of the elements


def check(what: str, x: Tensor, beside: Tensor, count: int, *dtypes: torch.dtype) -> None:
    """Raise TensorError unless x is ``count`` contiguous numbers of one of ``dtypes``, on the device of ``beside``."""
    if not in_memory(x):
        raise TensorError(f"{what}: expected a dense tensor with memory of its own, got {type(x).__name__} of {x.layout}")
    if x.dtype not in dtypes:
        raise TensorError(f"{what}: expected {' or '.join(map(str, dtypes))}, got {x.dtype}")
    if not (x is beside or together(x, beside)):
        raise TensorError(f"{what}: is on {x.device}, the rest on {beside.device}; move it with .to('{beside.device}')")
    if x.numel() != count or not x.is_contiguous():
        raise TensorError(f"{what}: expected {count} elements without gaps, got shape {tuple(x.shape)}, stride {x.stride()}")
    if (held := x.untyped_storage().nbytes()) < (x.storage_offset() + count) * x.element_size():
        raise TensorError(f"{what}: the storage holds {held} bytes, too few for {count} elements of {x.dtype}")


def check_rows(rows: Tensor, beside: Tensor) -> int:
    """Return the number of intervals of a table [n + 5, 2]. Raises TensorError if it is no table, or too large for 16 bits."""
    n = len(rows) - 5 if rows.dim() == 2 and rows.shape[1] == 2 else 0
    if not 1 <= n <= plain.MAX_INTERVALS:
        raise TensorError(f"rows: a table is [n + 5, 2] with n from 1 to {plain.MAX_INTERVALS:,}, got {tuple(rows.shape)}")
    check("rows", rows, beside, 2 * (n + 5), torch.float32)
    return n


def address(what: str, x: Tensor, count: int, dtype: torch.dtype) -> int:
    """Return the address of ``count`` numbers of ``dtype`` in the CPU's memory, after `check`."""
    if x.device.type != "cpu":
        raise TensorError(f"{what}: the loops read the CPU's memory, got a tensor on {x.device}")
    check(what, x, x, count, dtype)
    return x.data_ptr()


def fresh(count: int, dtype: torch.dtype) -> Tensor:
    """Allocate [count] on the CPU for a loop to write to. Raises TensorError where a mode of torch returns something else."""
    made = torch.empty(count, dtype=dtype, device="cpu")
    if type(made) is not Tensor or made.dtype != dtype or (count and not made.data_ptr()):
        raise TensorError(
            f"a loop writes to memory, but here torch returns a {type(made).__name__} without any; use plain torch"
        )
    return made
