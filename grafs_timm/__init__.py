"""grafs_timm: search activation functions by gradient descent, and load found ones by name in timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .activations import timm_maps as timm_maps  # isort: skip  # first: it says so where timm is too old for the rest to be imported
from .cli import screen
from .models import hf_names
from .models.create import create_model
from .models.families import family_of
from .models.registry import register
from .models.replace import replace_activations
from .models.surgery import Report
from .utils import version
from .zoo.lookup import Entry, act_layer, entries, get_activation, list_activations

if TYPE_CHECKING:
    from .models.shelf import add_activation, add_activations
    from .models.weights import load_pretrained, save_pretrained
    from .search.bilevel import ActivationSearch

__version__ = version.own()
__all__ = [
    "ActivationSearch", "Entry", "Report", "act_layer", "add_activation", "add_activations", "create_model", "entries",
    "family_of", "get_activation", "list_activations", "load_pretrained", "register", "replace_activations", "save_pretrained",
]  # fmt: skip

screen.begin_command()
register()
hf_names.register()


def __getattr__(name: str) -> Any:
    if name == "ActivationSearch":  # the search is loaded when it is asked for
        from .search.bilevel import ActivationSearch

        return ActivationSearch
    if name in ("load_pretrained", "save_pretrained"):
        from .models import weights

        return getattr(weights, name)
    if name in ("add_activation", "add_activations"):
        from .models import shelf

        return getattr(shelf, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
