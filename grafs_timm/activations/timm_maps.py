"""Access timm's own maps from names to activations; no other module reads timm's private names.

timm has no public way to add an activation to its factories. They look up lower-case names in `timm.layers.create_act`: first
in a memory-efficient map (unless a model is built for export or scripting), then in a default one. Layers and functions have
maps of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm

from ..errors import TimmError

SUPPORTED = ">=1.0.24"  # as in pyproject.toml
TESTED = "1.0.31"

try:  # the newest names that this package imports from timm: a timm that has them has the others
    import timm.layers
    from timm.layers import calculate_drop_path_rates as calculate_drop_path_rates
    from timm.layers import get_act_fn, get_act_layer
    from timm.models import nfnet
except ImportError as error:
    raise ImportError(
        f"grafs_timm cannot be used with timm {timm.__version__} ({error}); it supports timm{SUPPORTED} (tested: {TESTED})"
    ) from None


@dataclass(frozen=True)
class Maps:
    """The maps that timm's factories read: name -> class, and name -> function."""

    layers: tuple[dict[str, Any], ...]
    functions: tuple[dict[str, Any], ...]


def find() -> Maps:
    """Return every map of this timm, memory-efficient ones too. Raises TimmError where it is too old or has moved them."""
    if _numbers(timm.__version__) < _numbers(SUPPORTED):
        raise TimmError(f"timm {timm.__version__} is older than {_range()}")
    layers, functions = _maps("_ACT_LAYER_"), _maps("_ACT_FN_")
    if not layers or not functions:
        raise TimmError(f"timm {timm.__version__} does not keep the activations of its factories where {_range()} does")
    return Maps(layers, functions)


def nfnet_gains() -> dict[str, float]:
    """Return timm's dict of name -> gain for normaliser-free networks; an unused one where this timm has moved it."""
    gains: dict[str, float] = getattr(nfnet, "_nonlin_gamma", {})
    return gains


def default_layers() -> dict[str, Any]:
    """Return name -> class as timm's default map has them, without memory-efficient variants."""
    known: dict[str, Any] = getattr(getattr(timm.layers, "create_act", None), "_ACT_LAYER_DEFAULT", {})
    return known


def own_names() -> list[str]:
    """Return the names that `layer` knows, for messages; without timm's where its maps are not found."""
    return sorted({name for known in _maps("_ACT_LAYER_") for name, layer in known.items() if layer is not None})


def layer(name: str) -> Any:
    """Return the class that timm's factory has for a name; None where there is none."""
    return _given(get_act_layer, name)


def function(name: str) -> Any:
    """Return the function that timm's factory has for a name, or None."""
    return _given(get_act_fn, name)


def _given(factory: Callable[[str], Any], name: str) -> Any:
    try:
        return factory(name)
    except KeyError:
        return None


def moved(name: str) -> TimmError:
    """Make the error for a name that was put into timm's maps but is not returned by its factories."""
    return TimmError(f"timm {timm.__version__} does not read {name!r} from the maps that {_range()} reads")


def _maps(prefix: str) -> tuple[dict[str, Any], ...]:
    """Return the dicts of that prefix; none if the default one is missing, which every factory falls back to."""
    places = getattr(getattr(timm.layers, "create_act", None), "__dict__", {})
    found = {key: value for key, value in places.items() if key.startswith(prefix) and isinstance(value, dict)}
    return tuple(found.values()) if f"{prefix}DEFAULT" in found else ()


def _range() -> str:
    return f"timm{SUPPORTED} (tested: {TESTED})"


def _numbers(version: str) -> tuple[int, ...]:
    """Parse "1.0.29.dev0" or ">=1.0.29" as (1, 0, 29)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
