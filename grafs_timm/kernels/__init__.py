"""The three loops of a tabulated function, once for each kind of machine: `plain` torch, `cpu` (C++), `cuda` (Triton).

All three take flat tensors and agree on what a table is and on how a place on its grid is kept (see `plain`). `choose` hands
out the fastest that works here.
"""

from __future__ import annotations

from types import ModuleType

import torch

from .. import compiled
from . import plain


def choose(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The module with ``forward``, ``slope`` and ``slope_and_rows`` for tensors of this device and dtype.

    `plain` for float64 (exact, for checks), where compiling is switched off, and, with one notice, where a compiler or
    Triton is missing.
    """
    if dtype == torch.float64 or compiled.plain_only:
        return plain
    if device.type == "cpu":
        return compiled.attempt("the table's kernel", _cpu, lambda: plain)
    if device.type == "cuda":
        return compiled.attempt("the table's kernel", _cuda, lambda: plain)
    return plain


def _cpu() -> ModuleType:
    from . import cpu

    cpu.library()  # compiles at the first call
    return cpu


def _cuda() -> ModuleType:
    from . import cuda  # imports Triton

    return cuda
