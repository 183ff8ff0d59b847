"""Run code once another package is imported, without importing it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ..errors import GrafsWarning


def when_imported(name: str, then: Callable[[ModuleType], None], what: str) -> None:
    """Call ``then`` with a module: now where it is imported already, otherwise as soon as it has been.

    Idempotent for a module that is not imported yet.

    Args:
        name: Full name of the module, such as ``transformers.activations``.
        then: Called once, after the module's own code has run.
        what: What will be missing, for the warning where the module's loader cannot be followed.
    """
    module = sys.modules.get(name)
    if module is not None:
        then(module)
    elif not any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name, then, what))


class _Finder:
    """Finder in front of Python's own that finds the module by those, and removes itself once it is imported."""

    def __init__(self, name: str, then: Callable[[ModuleType], None], what: str) -> None:
        self.name, self._then, self._what, self._looking = name, then, what, False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name or self._looking:  # another such hook may ask all finders, including this one
            return None
        self._looking = True
        try:
            spec = self._of_others(name, path, target)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _of_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is not self and find is not None and (spec := find(name, path, target)) is not None:
                return spec
        return None

    def _follow(self, loader: Any) -> None:
        """Make this loader call ``then`` once; it stays the module's loader, by which sources and resources are read."""
        execute: Callable[[ModuleType], None] = loader.exec_module

        def exec_and_tell(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            execute(module)  # if it raises, the finder stays for another import
            if module.__name__ == self.name:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                self._then(module)

        try:
            loader.exec_module = exec_and_tell
        except AttributeError:  # a loader without a dict of its own
            package = self.name.partition(".")[0]
            warnings.warn(f"{self._what}: {type(loader).__name__} loads {package}; import it before grafs_timm", GrafsWarning)
