"""The relaxed cell and the bilevel search (Strack, Safari, Hutter 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import names_from

if TYPE_CHECKING:
    from .bilevel import ActivationSearch as ActivationSearch
    from .cell import Cell as Cell
    from .shrink import drop_schedule as drop_schedule
    from .table import Grid as Grid
    from .table import lookup as lookup

__getattr__, __dir__, __all__ = names_from(
    __name__,
    {"bilevel": "ActivationSearch", "cell": "Cell", "shrink": "drop_schedule", "table": "Grid lookup"},
)
