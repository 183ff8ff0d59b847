"""Make the zoo's names known to Hugging Face transformers, if and when it is there.

Its models look an activation up by name in ``transformers.activations.ACT2FN``, so that ``hidden_act="grafs_resnet"``, or
``activation_function="grafs_resnet"`` for GPT-2, works wherever a configuration names one. transformers takes seconds to
import and most users of timm have no use for it, so that nothing is imported for it here: where it is imported later, its map
is filled as soon as it has been made.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ..activations.activation import FoundActivation, activation_class
from ..errors import GenotypeError, GrafsWarning
from ..zoo import lookup as zoo

MODULE = "transformers.activations"
SUPPORTED = ">=4.56"  # as in pyproject.toml
MAPS = ("ACT2CLS", "ACT2FN")  # name -> class, and the copy of it that models look into, which makes an object a look-up


def register() -> None:
    """Put every zoo name into transformers' maps: at once where it is imported already, otherwise when it will be.

    To do it again changes nothing. Without transformers it has no effect. A name that transformers has already stays
    transformers' own, with a warning; so is a transformers warned of that keeps no such maps.
    """
    module = sys.modules.get(MODULE)
    if module is not None:
        fill(module)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


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


class _Finder:
    """Stands before Python's own finders until transformers' activations are imported, finds them by those, and goes."""

    def __init__(self) -> None:
        self._looking = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != MODULE or self._looking:  # another such hook may ask all finders, us among them
            return None
        self._looking = True
        try:
            spec = self._of_others(name, path, target)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            self._fill_after(spec.loader)
        return spec

    def _of_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is not self and find is not None and (spec := find(name, path, target)) is not None:
                return spec
        return None

    def _fill_after(self, loader: Any) -> None:
        """Have this one loader fill the maps once; it stays the module's own, which sources and resources are read by."""
        execute: Callable[[ModuleType], None] = loader.exec_module

        def exec_and_fill(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            execute(module)  # where that raises, the finder stays for another try
            if module.__name__ == MODULE:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                fill(module)

        try:
            loader.exec_module = exec_and_fill
        except AttributeError:  # a loader without a dict of its own: the names stay unknown, transformers works
            warnings.warn(
                f"the zoo's names are not known to transformers, which {type(loader).__name__} loads; "
                "import it before grafs_timm",
                GrafsWarning,
            )
