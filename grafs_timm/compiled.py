"""Compiled where that pays, plain torch everywhere else: the one place that decides and that explains a failure.

``GRAFS_TIMM_COMPILE=0`` keeps everything plain, as a comparison bit by bit wants it.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from .errors import GrafsWarning

_F = TypeVar("_F", bound=Callable[..., Any])

plain_only = os.environ.get("GRAFS_TIMM_COMPILE", "1") == "0"
_failed: set[str] = set()


def allowed() -> bool:
    """Whether something may be compiled here: not switched off, and not already inside a compiler or an export."""
    return not (plain_only or torch.compiler.is_compiling() or torch.jit.is_tracing())


def attempt(what: str, fast: Callable[[], Any], plain: Callable[[], Any]) -> Any:
    """``fast()``; where that fails, ``plain()`` from now on for everything called ``what``, with one notice."""
    if what in _failed or not allowed():
        return plain()
    try:
        return fast()
    except Exception as error:
        _failed.add(what)
        warnings.warn(
            f"{what} could not be compiled and runs as plain torch, several times slower; "
            f"a C++ compiler such as g++ (on CUDA: Triton) makes it fast. {type(error).__name__}: {str(error)[:200]}",
            GrafsWarning,
            stacklevel=3,
        )
        return plain()


def traced(function: Callable[..., Any], *examples: torch.Tensor) -> Any:
    """``function`` of vectors like ``examples``, of any length, compiled apart from every other: numbers in it are constants.

    For a function made at run time: ``torch.compile`` alone counts all that share one piece of code as recompilations of it,
    and allows eight.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad():
        graph = make_fx(function, tracing_mode="symbolic")(*examples)
    return torch.compile(graph, dynamic=True, fullgraph=True)


def fused(function: _F, what: str) -> _F:
    """``function`` compiled by torch's inductor at its first call, with shapes left open; plain where that cannot be done."""
    made = functools.cache(lambda: torch.compile(function, dynamic=True, fullgraph=True))

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return attempt(what, lambda: made()(*args), lambda: function(*args))

    return call  # type: ignore[return-value]
