"""Zoo entries: their format, and activations by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm  # noqa: F401  first: with timm the zoo's names are registered, by modules of these rooms

from ..utils.lazy import names_from

if TYPE_CHECKING:
    from .entry import Contents as Contents
    from .lookup import Entry as Entry
    from .lookup import act_layer as act_layer
    from .lookup import entries as entries
    from .lookup import get_activation as get_activation
    from .lookup import list_activations as list_activations
    from .lookup import resolve as resolve

__getattr__, __dir__, __all__ = names_from(
    __name__,
    {"entry": "Contents", "lookup": "Entry act_layer entries get_activation list_activations resolve"},
)
