"""Make the gallery of searched, published and stock activations, ``docs/zoo/index.html``.

It is one static file that works from disk, without a server or a network.

The functions and their derivatives are embedded as samples; the page's own script draws, filters and copies. Its words on an
entry are those of `claims`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..activations.genotype import Genotype
from ..activations.plots import sampled
from ..activations.published import get_published
from ..utils import resources
from ..zoo.entry import Contents
from . import catalogue, claims
from .card import use_line
from .leaderboard import ordered

REACH, SAMPLES = 5.0, 201
_BASELINES = ("relu", "gelu", "silu", "elu", "leaky_relu")
_PLACE, _STYLE = "/*DATA*/null", "/*STYLE*/\n"


def page(entries: Sequence[Contents]) -> str:
    """Return the whole page of these entries."""
    template = resources.page("gallery.html").replace(_STYLE, resources.page("page.css"))
    before, after = template.split(_PLACE)
    return before + embedded(data(entries)) + after


def data(entries: Sequence[Contents]) -> dict[str, Any]:
    """Return what the page holds: x, and f and f′ of each function on it, null where not finite."""
    return {
        "x": sampled(get_published("relu"), REACH, SAMPLES).x,
        "entries": [*map(_entry, ordered(entries)), *map(_published, catalogue.items())],
        "baselines": [{"name": name} | _curves(get_published(name)) for name in _BASELINES],
    }


def embedded(value: Any) -> str:
    r"""Write JSON that stays data inside a script element: nothing in it can close the element or start a comment.

    >>> embedded("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _entry(each: Contents) -> dict[str, Any]:
    genotype, batch = Genotype.from_dict(each.genotype, derived=False), claims.headline(each)
    return {
        "name": each.name, "kind": "searched", "family": each.family, "alias": each.alias, "recommended": each.recommended,
        "formula": genotype.text,
        "use": use_line(each), "side": claims.at_home(batch).side,
        "effect": claims.effect(batch), "elsewhere": str(claims.elsewhere(batch)), "cost": claims.cost(each),
        "budget": batch.provenance.budget, "card": f"../../zoo/{each.family}/{each.name}.md",
    } | _curves(genotype)  # fmt: skip


def _published(each: catalogue.Item) -> dict[str, Any]:
    return {
        "name": each.name, "kind": each.kind, "family": each.shape, "alias": False, "recommended": False, "side": "",
        "formula": each.text, "use": f'timm.create_model("resnet50", act_layer="{each.name}")',
        "effect": each.source, "elsewhere": each.claim,
        "cost": f"{each.cost:.2f} × GELU" if each.cost else "cost not measured",
        "budget": f"also {', '.join(each.also)}" if each.also else "",
        "card": "../activations.md",
    } | _curves(each.function)  # fmt: skip


def _curves(f: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    own = sampled(f, REACH, SAMPLES)
    return {"f": own.f, "d": own.slope}
