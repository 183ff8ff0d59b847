"""Find the folders that ship with the package, zoo/ and recipes/, and the cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

LEDGER = "recipe.yaml"  # the file by which a ledger is known
_PACKAGE = Path(__file__).resolve().parents[1]
TEMPLATES = _PACKAGE / "templates"


def folder(name: Literal["zoo", "recipes"]) -> Path:
    """Return a folder of the installed wheel, or of the checkout.

    Raises:
        FileNotFoundError: There is neither; the installation has lost its data.
    """
    places = (_PACKAGE / "_data" / name, _PACKAGE.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no folder {name}/ with this installation; looked at {places[0]} and {places[1]}")


def ledgers() -> list[Path]:
    """Return the folders of the zoo's ledgers, ``zoo/<family>/evidence/<campaign>``.

    >>> [ledger.parent.name for ledger in ledgers()][:1]
    ['evidence']
    """
    return sorted(path.parent for path in folder("zoo").glob(f"*/evidence/*/{LEDGER}"))


def page(name: str) -> str:
    """Return the text of a file in grafs_timm/templates/, of which pages are made."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def cache() -> Path:
    """Return this package's cache, of what can be made again: ``$GRAFS_TIMM_CACHE``, or ``grafs-timm`` in the user's."""
    own = os.environ.get("GRAFS_TIMM_CACHE")
    return Path(own) if own else caches() / "grafs-timm"


def caches() -> Path:
    """Return the folder of the user's caches: ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
