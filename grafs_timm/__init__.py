"""grafs_timm: search activation functions by gradient descent, and load found ones by name in timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import timm_maps as timm_maps  # first: it says so where timm is too old for the rest to be imported
from .families import family_of
from .registry import register
from .surgery import Report
from .zoo import (
    Entry,
    act_layer,
    create_model,
    entries,
    get_activation,
    list_activations,
    replace_activations,
)

if TYPE_CHECKING:
    from .search import ActivationSearch

__version__ = "0.1.0"
__all__ = [
    "ActivationSearch", "Entry", "Report", "act_layer", "create_model", "entries", "family_of", "get_activation",
    "list_activations", "register", "replace_activations",
]  # fmt: skip

register()


def __getattr__(name: str) -> Any:
    if name == "ActivationSearch":  # the search is loaded when it is asked for
        from .search import ActivationSearch

        return ActivationSearch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
