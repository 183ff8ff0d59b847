"""Public names of a package that are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names_from(package: str, places: Mapping[str, tuple[str, ...]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package whose modules define its public names.

    Args:
        package: The package's ``__name__``.
        places: The names that each module, relative to the package, defines.

    >>> find, _ = names_from("grafs_timm.utils", {"suggest": ("nearest",)})
    >>> find("nearest").__module__
    'grafs_timm.utils.suggest'
    """
    place_of = {name: place for place, names in places.items() for name in names}

    def find(name: str) -> Any:
        if name not in place_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f".{place_of[name]}", package), name)
        setattr(sys.modules[package], name, found)  # so that it is looked for once
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *place_of})

    return find, names
