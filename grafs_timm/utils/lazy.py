"""Import a package's public names when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names_from(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:  # fmt: skip
    """Make ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose modules define its public names.

    Args:
        package: The package's ``__name__``.
        modules: Module, relative to the package -> the names that it defines, with spaces between them.

    >>> find, _, public = names_from("grafs_timm.utils", {"suggest": "nearest"})
    >>> find("nearest").__module__, public
    ('grafs_timm.utils.suggest', ['nearest'])
    """
    module_of = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f".{module_of[name]}", package), name)
        setattr(sys.modules[package], name, found)  # so that __getattr__ is called once
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return find, names, sorted(module_of)
