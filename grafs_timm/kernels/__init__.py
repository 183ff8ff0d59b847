"""Loops of a tabulated function in `plain` torch, for a `cpu` (C++) and for `cuda` (Triton).

All three take flat tensors and share the layout of tables and places (see `plain`). `choose` returns the fastest that works.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch

from ..utils import compiled, dtypes
from . import plain


def choose(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """Return the module with ``forward``, ``slope`` and ``slope_and_rows`` for tensors of a device and dtype.

    It is `plain` for float64 (exact, for checks), where compiling is switched off, and, with one warning, where a compiler or
    Triton is missing.

    Raises:
        TensorError: The dtype is not one of ``dtypes.DTYPES``, and compiled loops would misread it.

    >>> choose(torch.device("cpu"), torch.float64).__name__
    'grafs_timm.kernels.plain'
    """
    if dtype not in dtypes.DTYPES:
        dtypes.refuse("a tabulated function", dtype, device)
    if dtype == torch.float64 or compiled.plain_only:
        return plain
    if device.type == "cpu":
        return compiled.attempt("the table's loops on a CPU", _cpu, lambda: plain)
    if device.type == "cuda":
        return compiled.attempt("the table's loops on CUDA", lambda: _cuda(device), lambda: plain)
    return plain


def _cpu() -> ModuleType:
    from . import cpu

    cpu.loops()  # compiles
    return cpu


@functools.cache
def _cuda(device: torch.device) -> ModuleType:
    from . import cuda  # imports Triton

    if torch.cuda.is_available():  # so that a broken Triton fails here and not in the middle of a step
        rows = torch.zeros(7, 2, device=device)
        cuda.forward(torch.zeros(1, device=device), rows, -1.0, 1.0, True)
    return cuda
