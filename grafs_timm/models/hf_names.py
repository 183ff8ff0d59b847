"""Register the names of the zoo and of the published activations with Hugging Face transformers.

Its models look activations up by name in ``transformers.activations.ACT2FN``, so ``hidden_act="grafs_resnet"`` (for GPT-2
``activation_function="grafs_resnet"``) works in any configuration. transformers takes seconds to import and is not imported
here: its maps are filled as soon as somebody else has imported it.
"""

from __future__ import annotations

import sys
import warnings
from types import ModuleType

from ..activations import published
from ..activations.activation import activation_class
from ..errors import GenotypeError, GrafsWarning
from ..utils.on_import import when_imported
from ..zoo import lookup as zoo
from .timm_names import is_foreign

MODULE = "transformers.activations"
SUPPORTED = ">=4.56"  # as in pyproject.toml
MAPS = ("ACT2CLS", "ACT2FN")  # name -> class; and a copy for models, whose look-up makes an object


def register() -> None:
    """Put every name into transformers' maps, now or as soon as it is imported. Idempotent.

    A zoo name that transformers has already is kept, with a warning, a published one without. A transformers without such maps
    gives a warning too.
    """
    when_imported(MODULE, fill, "the zoo's names are not known to transformers")


def fill(module: ModuleType) -> None:
    """Put every name into the maps of the module ``transformers.activations``; warns and never raises."""
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
        if any(is_foreign(name, each) for each in maps):
            warnings.warn(
                f"transformers has an activation {name!r} of its own, which is kept; "
                f"use the zoo's by grafs_timm.replace_activations(model, {name!r})",
                GrafsWarning,
            )
            continue
        for each in maps:
            each[name] = activation_class(entry.genotype, entry.name)
    for name in published.list_published():
        if not any(is_foreign(name, each) for each in maps):
            for each in maps:
                each[name] = activation_class(published.get_published(name), name)


def _version() -> str:
    return str(getattr(sys.modules.get("transformers"), "__version__", "of unknown version"))
