"""Find the folders that ship with the package: zoo/ and recipes/."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parents[1]


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


def page(name: str) -> str:
    """The text of a page's template in grafs_timm/publishing/templates/."""
    return (_PACKAGE / "publishing" / "templates" / name).read_text(encoding="utf-8")
