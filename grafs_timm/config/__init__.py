"""Recipes: their schema, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import names_from

if TYPE_CHECKING:
    from .recipe import load_recipe as load_recipe
    from .recipe import parse_recipe as parse_recipe
    from .schema import Recipe as Recipe
    from .schema import Text as Text

__getattr__, __dir__, __all__ = names_from(
    __name__,
    {"recipe": "load_recipe parse_recipe", "schema": "Recipe Text"},
)
