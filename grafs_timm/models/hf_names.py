"""Make the zoo's names known to Hugging Face transformers, if and when it is there.

Its models look an activation up by name in ``transformers.activations.ACT2FN``, so that ``hidden_act="grafs_resnet"``, or
``activation_function="grafs_resnet"`` for GPT-2, works wherever a configuration names one. transformers takes seconds to
import and most users of timm have no use for it, so that nothing is imported for it here: where it is imported later, its map
is filled as soon as it has been made.
"""

from __future__ import annotations

import sys
import warnings
from types import ModuleType
from typing import Any

from ..activations.activation import FoundActivation, activation_class
from ..errors import GenotypeError, GrafsWarning
from ..utils.on_import import when_imported
from ..zoo import lookup as zoo

MODULE = "transformers.activations"
SUPPORTED = ">=4.56"  # as in pyproject.toml
MAPS = ("ACT2CLS", "ACT2FN")  # name -> class, and the copy of it that models look into, which makes an object a look-up


def register() -> None:
    """Put every zoo name into transformers' maps: at once where it is imported already, otherwise when it will be.

    Idempotent. Without transformers it has no effect. A name that transformers has already stays transformers' own, with a
    warning; a transformers without such maps is warned of too.
    """
    when_imported(MODULE, fill, "the zoo's names are not known to transformers")


def fill(module: ModuleType) -> None:
    """Put every zoo name into the maps of that module, ``transformers.activations``; it warns and never raises."""
    maps = [known for name in MAPS if isinstance(known := getattr(module, name, None), dict)]
    if len(maps) < len(MAPS):
        warnings.warn(
            f"the zoo's names are not known to transformers {_version()}, whose {MODULE} has no dict "
            f"{' and '.join(MAPS)} as transformers{SUPPORTED} has; grafs_timm.replace_activations(model, name) needs none",
            GrafsWarning,
        )
        return
    try:
        known = zoo.names()
    except GenotypeError as error:
        warnings.warn(f"the zoo's names are not known to transformers: {error}", GrafsWarning)
        return
    for name, entry in known.items():
        if any(_is_foreign(name, each) for each in maps):
            warnings.warn(
                f"transformers has an activation {name!r} of its own, which stays; "
                f"the zoo's is grafs_timm.replace_activations(model, {name!r})",
                GrafsWarning,
            )
            continue
        for each in maps:
            each[name] = activation_class(entry.genotype, entry.name)


def _is_foreign(name: str, known: dict[str, Any]) -> bool:
    there = dict.get(known, name)  # the class itself: the map's own look-up may make an object of it
    return name in known and not (isinstance(there, type) and issubclass(there, FoundActivation))


def _version() -> str:
    return str(getattr(sys.modules.get("transformers"), "__version__", "of unknown version"))
