"""Compile functions where that pays, and fall back to plain torch with a warning where it fails.

``GRAFS_TIMM_COMPILE=0`` switches compiling off, for bitwise comparisons.
"""

from __future__ import annotations

import functools
import os
import subprocess
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from ..errors import DOCTOR, GrafsWarning

_F = TypeVar("_F", bound=Callable[..., Any])

plain_only = os.environ.get("GRAFS_TIMM_COMPILE", "1") == "0"
WITHOUT = "plain torch, several times slower"  # what runs without a compiler
INSTALL = "install a C++ compiler such as g++"
_LACKS = {"InvalidCxxCompiler", "TritonMissing", "GPUTooOldForTriton"}  # by name: importing torch._inductor takes seconds


@dataclass
class _Trouble:
    """Failures of one compiled function since it last worked."""

    in_a_row: int = 0
    to_skip: int = 0  # calls not to try, so that a slow failure costs little
    for_good: bool = False
    said: set[str] = field(default_factory=set)


_troubles: defaultdict[str, _Trouble] = defaultdict(_Trouble)


def allowed() -> bool:
    """Check whether compiling is not switched off, and no compiler or export is already running."""
    return not (plain_only or torch.compiler.is_compiling() or torch.jit.is_tracing())


def attempt(what: str, fast: Callable[[], Any], plain: Callable[[], Any]) -> Any:
    """Return ``fast()``, or ``plain()`` where that fails, with one warning for each type of failure.

    Where no compiler is found, ``fast`` is not tried again. Other failures (out of memory, a full disk) may be temporary:
    the next call tries again, then the calls after 1, 3, 7, … skipped ones as long as it fails.

    Args:
        what: Name of the function for the warning, the same in all calls.
        fast: Compiles at its first call.
        plain: Computes the same with torch's own operations.

    Returns:
        What either function returns.
    """
    if not allowed():
        return plain()
    trouble = _troubles.get(what)
    if trouble and (trouble.for_good or trouble.to_skip):
        trouble.to_skip -= not trouble.for_good
        return plain()
    try:
        result = fast()
    except Exception as error:
        _note(what, error)
        return plain()
    if trouble:
        trouble.in_a_row = 0
    return result


def _note(what: str, error: Exception) -> None:
    trouble = _troubles[what]
    trouble.in_a_row += 1
    trouble.to_skip = 2 ** (trouble.in_a_row - 1) - 1
    trouble.for_good = lacks_compiler(error)
    kind = type(error).__name__
    if kind in trouble.said:
        return
    trouble.said.add(kind)
    cause = f"{kind}: {str(error)[:200]}"
    if trouble.for_good:
        said = f"{what}: no compiler was found, so it runs as {WITHOUT}; {INSTALL} (on CUDA: Triton)"
    else:
        said = f"{what}: the compiled form failed and this call was computed by {WITHOUT}; later calls try it again"
    warnings.warn(f"{said}; {DOCTOR} shows compiler and caches. {cause}", GrafsWarning, stacklevel=4)


def lacks_compiler(error: BaseException | None) -> bool:
    """Return whether an exception, or what caused it, says that there is no C++ compiler or no Triton for this GPU."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        missing = (error.name or "").split(".")[0] if isinstance(error, ImportError) else ""
        if type(error).__name__ in _LACKS or missing == "triton":
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return False


def find_compiler() -> tuple[str, str] | None:
    """Return the C++ compiler that torch's inductor takes, and its version; None where it finds none. Compiles nothing.

    CXX in the environment names it; else it is g++ (on macOS clang++).

    >>> found = find_compiler()
    >>> found is None or found[1] != ""
    True
    """
    from torch._inductor import config

    names = config.cpp.cxx if isinstance(config.cpp.cxx, list | tuple) else (config.cpp.cxx,)
    for name in filter(None, names):  # None: one that inductor would install
        try:
            said = subprocess.run([name, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=20)
            if said.returncode == 0:
                return name, (said.stdout.splitlines() or ["unknown version"])[0]
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def traced(function: Callable[..., Any], *examples: torch.Tensor) -> Any:
    """Compile a function of vectors that is made at run time, with the numbers in it as constants.

    ``torch.compile`` alone counts functions that share their code as recompilations, of which it allows eight.

    Args:
        function: Maps vectors of equal length.
        examples: Inputs of the same dtypes and devices; the length may vary.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad():
        graph = make_fx(function, tracing_mode="symbolic")(*examples)
    return torch.compile(graph, dynamic=True, fullgraph=True)


def fused(function: _F, what: str) -> _F:
    """Compile ``function`` for any shapes at its first call, with `attempt`'s fallback; ``what`` names it in warnings."""
    made = functools.cache(lambda: torch.compile(function, dynamic=True, fullgraph=True))

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return attempt(what, lambda: made()(*args), lambda: function(*args))

    return call  # type: ignore[return-value]
