"""The three loops of a tabulated function, once for each kind of machine: `plain` torch, `cpu` (C++), `cuda` (Triton).

All three take flat tensors and agree on what a table is and on how a place on its grid is kept (see `plain`). `choose` hands
out the fastest that works here.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch

from ..utils import compiled, dtypes
from . import plain


def choose(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The module with ``forward``, ``slope`` and ``slope_and_rows`` for tensors of this device and dtype.

    `plain` for float64 (exact, for checks), where compiling is switched off, and, with one notice, where a compiler or
    Triton is missing. TensorError for a dtype that is none of ``dtypes.DTYPES``: the compiled loops would misread it.
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

    cpu.loops()  # compiles at the first call
    return cpu


@functools.cache
def _cuda(device: torch.device) -> ModuleType:
    from . import cuda  # imports Triton

    if torch.cuda.is_available():  # a Triton that cannot build or launch a kernel here shows it now, not amid a step
        rows = torch.zeros(7, 2, device=device)
        cuda.forward(torch.zeros(1, device=device), rows, -1.0, 1.0, True)
    return cuda
