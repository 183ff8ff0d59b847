"""timm's own maps from a name to an activation: where they lie, and what to say where they do not.

timm has no public way to add an activation to its factories. They look in `timm.layers.create_act`, a name in lower case:
first, unless a model is built for export or scripting, in a memory-efficient map, then in a default one; layers and functions
apart.
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

try:  # the newest of the names that this package imports from timm: where they are, the rest of it can be imported
    import timm.layers
    from timm.layers import calculate_drop_path_rates as calculate_drop_path_rates
    from timm.layers import get_act_fn, get_act_layer
    from timm.models import metaformer, nfnet
except ImportError as error:
    raise ImportError(
        f"grafs_timm cannot be used with timm {timm.__version__} ({error}); it supports timm{SUPPORTED} (tested: {TESTED})"
    ) from None


# what timm has outside its maps, by transformers' name: ReLU(x)², usual in language models
BESIDE: dict[str, Any] = {"relu2": metaformer.SquaredReLU}


@dataclass(frozen=True)
class Maps:
    """The maps that timm's factories read: names -> classes, and names -> functions."""

    layers: tuple[dict[str, Any], ...]
    functions: tuple[dict[str, Any], ...]


def find() -> Maps:
    """Every map of this timm, memory-efficient ones too. TimmError where it is too old or keeps them elsewhere."""
    if _numbers(timm.__version__) < _numbers(SUPPORTED):
        raise TimmError(f"timm {timm.__version__} is older than {_range()}")
    layers, functions = _maps("_ACT_LAYER_"), _maps("_ACT_FN_")
    if not layers or not functions:
        raise TimmError(f"timm {timm.__version__} does not keep the activations of its factories where {_range()} does")
    return Maps(layers, functions)


def nfnet_gains() -> dict[str, float]:
    """The gains that timm's normaliser-free networks look up by an activation's name; a dict of no use where they moved."""
    gains: dict[str, float] = getattr(nfnet, "_nonlin_gamma", {})
    return gains


def own_names() -> list[str]:
    """The names `layer` knows, for messages; of timm's none where its maps are not to be found."""
    return sorted({name for known in (*_maps("_ACT_LAYER_"), BESIDE) for name, layer in known.items() if layer is not None})


def layer(name: str) -> Any:
    """The class that timm's factory gives for a name, or the one that it has outside its maps; None where there is none."""
    return _given(get_act_layer, name) or BESIDE.get(name)


def function(name: str) -> Any:
    """The function that timm's factory gives for a name, None where it has none."""
    return _given(get_act_fn, name)


def _given(factory: Callable[[str], Any], name: str) -> Any:
    try:
        return factory(name)
    except KeyError:
        return None


def moved(name: str) -> TimmError:
    """For a name that timm's factories do not give back though it was put into their maps."""
    return TimmError(f"timm {timm.__version__} does not read {name!r} from the maps that {_range()} reads")


def _maps(prefix: str) -> tuple[dict[str, Any], ...]:
    """The dicts of that prefix; none without the default one, which every factory falls back to."""
    places = getattr(getattr(timm.layers, "create_act", None), "__dict__", {})
    found = {key: value for key, value in places.items() if key.startswith(prefix) and isinstance(value, dict)}
    return tuple(found.values()) if f"{prefix}DEFAULT" in found else ()


def _range() -> str:
    return f"timm{SUPPORTED} (tested: {TESTED})"


def _numbers(version: str) -> tuple[int, ...]:
    """Of "1.0.29.dev0" or ">=1.0.29": (1, 0, 29)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
