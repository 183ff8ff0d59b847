"""What stands between a tensor and a loop that reads its memory: an address is handed out for what the loop expects alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import TensorError
from ..utils.layout import in_memory, together
from . import plain

ELEMENTS = (torch.float16, torch.bfloat16, torch.float32)  # what the table's elements may be


def check(what: str, x: Tensor, beside: Tensor, count: int, *dtypes: torch.dtype) -> None:
    """Raise a TensorError unless x is ``count`` numbers of one of ``dtypes``, one after another, on ``beside``'s device."""
    if not in_memory(x):
        raise TensorError(f"{what}: a dense tensor with memory of its own is read, got {type(x).__name__} of {x.layout}")
    if x.dtype not in dtypes:
        raise TensorError(f"{what}: {' or '.join(map(str, dtypes))} is read here, got {x.dtype}")
    if not (x is beside or together(x, beside)):
        raise TensorError(f"{what}: lies on {x.device}, the rest on {beside.device}; move it with .to('{beside.device}')")
    if x.numel() != count or not x.is_contiguous():
        raise TensorError(f"{what}: {count} elements without gaps are read here, got shape {tuple(x.shape)}, {x.stride()}")
    if (held := x.untyped_storage().nbytes()) < (x.storage_offset() + count) * x.element_size():
        raise TensorError(f"{what}: the storage holds {held} bytes, too few for {count} elements of {x.dtype}")


def check_rows(rows: Tensor, beside: Tensor) -> int:
    """The number of intervals of a table [n + 5, 2]; TensorError where it is none that a place of 16 bits can tell apart."""
    n = len(rows) - 5 if rows.dim() == 2 and rows.shape[1] == 2 else 0
    if not 1 <= n <= plain.MAX_INTERVALS:
        raise TensorError(f"rows: a table is [n + 5, 2] with n from 1 to {plain.MAX_INTERVALS:,}, got {tuple(rows.shape)}")
    check("rows", rows, beside, 2 * (n + 5), torch.float32)
    return n


def address(what: str, x: Tensor, count: int, dtype: torch.dtype) -> int:
    """Where ``count`` numbers of ``dtype`` begin in the CPU's memory, as `check` has made certain."""
    if x.device.type != "cpu":
        raise TensorError(f"{what}: the loops on a CPU read its memory, got a tensor on {x.device}")
    check(what, x, x, count, dtype)
    return x.data_ptr()


def fresh(count: int, dtype: torch.dtype) -> Tensor:
    """[count] on the CPU, for a loop to write to. TensorError where a mode of torch's gives something else for it."""
    made = torch.empty(count, dtype=dtype, device="cpu")
    if type(made) is not Tensor or made.dtype != dtype or (count and not made.data_ptr()):
        raise TensorError(f"a loop writes to memory, and here torch gives a {type(made).__name__} without any; use plain torch")
    return made
