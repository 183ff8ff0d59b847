"""Register the names of the zoo and of the published activations with timm's factories.

``act_layer="grafs_resnet"`` or ``act_layer="golu"`` then works wherever timm takes a name: in ``timm.create_model``, in the
``--model-kwargs`` of its scripts, and in the ``model_args`` of a config.json.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import Any

from torch import Tensor

from ..activations import gains, published, timm_maps
from ..activations.activation import FormulaActivation, activation_class, is_own, tell_once
from ..errors import GenotypeError, GrafsError, GrafsWarning, TimmError
from ..zoo import facts_file
from ..zoo import lookup as zoo


class _Function:
    """f(x) as a function for timm: any shape and floating dtype; ``inplace`` is accepted without effect."""

    def __init__(self, layer: type[FormulaActivation]) -> None:
        self.layer = layer()
        self.__name__ = self.layer.activation_name

    def __call__(self, x: Tensor, inplace: bool = False) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def register() -> None:
    """Put every name into timm's maps of layers and functions, default and memory-efficient. Idempotent.

    ``import grafs_timm`` calls it. A broken zoo, an unsupported timm and a zoo name that timm has already (which is kept) give
    a warning and leave the other names registered. A published function that timm has under its name stays timm's.

    >>> import timm, grafs_timm
    >>> grafs_timm.register()
    >>> timm.layers.create_act_layer("grafs_resnet")
    GrafsResnetC10S2(grafs_resnet_c10_s2)
    """
    try:
        known, maps = zoo.names(), timm_maps.find()
        for name, entry in known.items():
            layer = activation_class(entry.genotype, entry.name)
            if any(is_foreign(name, each) for each in (*maps.layers, *maps.functions)):
                warnings.warn(
                    f"timm has an activation {name!r} of its own, which is kept; "
                    f"use the zoo's by grafs_timm.act_layer({name!r})",
                    GrafsWarning,
                )
                continue
            _put(name, layer, maps)
            _supply_gain(name, entry)
        for name in published.list_published():
            if not any(is_foreign(name, each) for each in (*maps.layers, *maps.functions)):
                _put(name, activation_class(published.get_published(name), name), maps)
        timm_maps.nfnet_gains().update(_published_gains(timm_maps.nfnet_gains()))
        for entry in known.values():  # last, since the layers made above must not use up the notice
            if entry.notice:
                tell_once(entry.name, f"{entry.notice}; grafs-timm zoo show {entry.name} shows what was measured")
    except (GenotypeError, TimmError) as error:
        warnings.warn(f"the zoo's names are not known to timm: {error}", GrafsWarning)


def _put(name: str, layer: type[FormulaActivation], maps: timm_maps.Maps) -> None:
    there = timm_maps.function(name)
    function = there if isinstance(there, _Function) and type(there.layer) is layer else _Function(layer)
    for each in maps.layers:
        each[name] = layer
    for each in maps.functions:
        each[name] = function
    if timm_maps.layer(name) is not layer or timm_maps.function(name) is not function:
        raise timm_maps.moved(name)


def _published_gains(known: dict[str, float]) -> dict[str, float]:
    """Read the gains of the published functions that timm's ``known`` lacks: computing them takes too long for an import."""
    return {name: each["facts"]["gain"] for name, each in facts_file.read().items() if name not in known}


def _supply_gain(name: str, entry: zoo.Entry) -> None:
    with contextlib.suppress(GrafsError):  # without a finite variance it has no gain
        timm_maps.nfnet_gains()[name] = _gain(entry.genotype)


_gain = functools.cache(gains.gain)  # an entry may have two names


def is_foreign(name: str, known: dict[str, Any]) -> bool:
    """Check whether a map of names has that name from elsewhere than an earlier registration."""
    there = dict.get(known, name)  # transformers' own look-up would make an object
    return name in known and not (isinstance(there, _Function) or is_own(there))
