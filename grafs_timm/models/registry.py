"""Make the zoo's names known to timm's activation factories.

``act_layer="grafs_resnet"`` then works wherever timm takes it: in ``timm.create_model``, in its scripts' ``--model-kwargs``, in
the ``model_args`` of a config.json.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from typing import Any

from torch import Tensor

from ..activations import gains, timm_maps
from ..activations.activation import FoundActivation, activation_class, tell_once
from ..errors import GenotypeError, GrafsError, GrafsWarning, TimmError
from ..zoo import lookup as zoo


class _Function:
    """f(x) as timm takes a function: any shape and floating dtype, ``inplace`` accepted and without effect."""

    def __init__(self, layer: type[FoundActivation]) -> None:
        self.layer = layer()
        self.__name__ = self.layer.activation_name

    def __call__(self, x: Tensor, inplace: bool = False) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def register() -> None:
    """Put every zoo name into timm's maps: layer and function, memory-efficient and default, so that it is found whatever a
    model is built for. To do it again changes nothing.

    What can't be done is warned of, and keeps neither the package from being imported nor the other names from being
    registered: a broken zoo, a timm that is not supported, a name that timm has already, which stays timm's.
    """
    try:
        known, maps = zoo.names(), timm_maps.find()
        for name, entry in known.items():
            layer = activation_class(entry.genotype, entry.name)
            if any(_is_foreign(name, each) for each in (*maps.layers, *maps.functions)):
                warnings.warn(
                    f"timm has an activation {name!r} of its own, which stays; the zoo's is grafs_timm.act_layer({name!r})",
                    GrafsWarning,
                )
                continue
            function = _Function(layer)
            for each in maps.layers:
                each[name] = layer
            for each in maps.functions:
                each[name] = function
            _supply_gain(name, entry)
            if timm_maps.layer(name) is not layer or timm_maps.function(name) is not function:
                raise timm_maps.moved(name)
        for entry in known.values():  # last: what was made above was not a user's doing
            if entry.notice:
                tell_once(entry.name, f"{entry.notice}; grafs-timm zoo show {entry.name} tells what was measured")
    except (GenotypeError, TimmError) as error:
        warnings.warn(f"the zoo's names are not known to timm: {error}", GrafsWarning)


def _supply_gain(name: str, entry: zoo.Entry) -> None:
    with contextlib.suppress(GrafsError):  # a function without a variance is none for a normaliser-free network
        timm_maps.nfnet_gains()[name] = _gain(entry.genotype)


_gain = functools.cache(gains.gain)  # an entry may have two names


def _is_foreign(name: str, known: dict[str, Any]) -> bool:
    """Whether the map has that name from elsewhere than an earlier registration."""
    there = known.get(name)
    ours = isinstance(there, _Function) or (isinstance(there, type) and issubclass(there, FoundActivation))
    return name in known and not ours
