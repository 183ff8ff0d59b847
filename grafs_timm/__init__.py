"""grafs_timm: search activation functions by gradient descent, and load found ones by name in timm."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .cli import screen
from .errors import GrafsWarning
from .utils.lazy import names_from
from .utils.on_import import when_imported
from .utils.version import own as version

if TYPE_CHECKING:
    from .activations.published import get_published as get_published
    from .activations.published import list_published as list_published
    from .models.create import create_model as create_model
    from .models.families import family_of as family_of
    from .models.int8 import int8_table as int8_table
    from .models.int8_fx import int8_activations as int8_activations
    from .models.int8_onnx import quantise_onnx as quantise_onnx
    from .models.replace import replace_activations as replace_activations
    from .models.shelf import add_activation as add_activation
    from .models.shelf import add_activations as add_activations
    from .models.surgery import Report as Report
    from .models.timm_names import register as register
    from .models.weights import load_pretrained as load_pretrained
    from .models.weights import save_pretrained as save_pretrained
    from .search.bilevel import ActivationSearch as ActivationSearch
    from .zoo.lookup import Entry as Entry
    from .zoo.lookup import act_layer as act_layer
    from .zoo.lookup import entries as entries
    from .zoo.lookup import get_activation as get_activation
    from .zoo.lookup import list_activations as list_activations

# Loaded on first use: the command line answers --help without torch and timm.
_find, __dir__, __all__ = names_from(
    __name__,
    {
        "activations.published": "get_published list_published",
        "models.create": "create_model",
        "models.families": "family_of",
        "models.int8": "int8_table",
        "models.int8_fx": "int8_activations",
        "models.int8_onnx": "quantise_onnx",
        "models.timm_names": "register",
        "models.replace": "replace_activations",
        "models.shelf": "add_activation add_activations",
        "models.surgery": "Report",
        "models.weights": "load_pretrained save_pretrained",
        "search.bilevel": "ActivationSearch",
        "zoo.lookup": "Entry act_layer entries get_activation list_activations",
    },
)


def __getattr__(name: str) -> Any:
    return version() if name == "__version__" else _find(name)


def _know_timm(timm: ModuleType) -> None:
    from .activations import timm_maps  # noqa: F401  first: it names the versions that can be used
    from .models import benchmark_models, small_models, timm_names  # noqa: F401  which registers cifar_* and gpt_*

    timm_names.register()


def _know_timm_later(timm: ModuleType) -> None:
    try:
        _know_timm(timm)
    except ImportError as error:  # of a timm too old for this package: its own import must not fail for that
        warnings.warn(f"the zoo's names are not known to timm: {error}", GrafsWarning)


def _know_transformers(activations: ModuleType) -> None:
    from .models import hf_names

    hf_names.fill(activations)


screen.begin_command()
if "timm" in sys.modules:
    _know_timm(sys.modules["timm"])
else:
    when_imported("timm", _know_timm_later, "the zoo's names are not known to timm")
when_imported("transformers.activations", _know_transformers, "the zoo's names are not known to transformers")
