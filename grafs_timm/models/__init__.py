"""Activations in models: replacement, families, weights bound to activations, names known to timm and transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm  # noqa: F401  first: with timm the zoo's names are registered, by modules of these rooms

from ..utils.lazy import names_from

if TYPE_CHECKING:
    from .create import create_model as create_model
    from .families import family_of as family_of
    from .replace import replace_activations as replace_activations
    from .surgery import Report as Report
    from .weights import load_pretrained as load_pretrained
    from .weights import save_pretrained as save_pretrained

__getattr__, __dir__, __all__ = names_from(
    __name__,
    {
        "create": "create_model",
        "families": "family_of",
        "replace": "replace_activations",
        "surgery": "Report",
        "weights": "load_pretrained save_pretrained",
    },
)
