"""Where the folders that ship with the package lie: zoo/ and recipes/."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parents[1]


def folder(name: Literal["zoo", "recipes"]) -> Path:
    """The folder ``name``: the copy that an installed wheel carries, else the checkout's own.

    FileNotFoundError where there is neither: an installation that lost its data.
    """
    places = (_PACKAGE / "_data" / name, _PACKAGE.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no folder {name}/ with this installation; looked at {places[0]} and {places[1]}")


def page(name: str) -> str:
    """The text of a page's template in grafs_timm/publishing/templates/."""
    return (_PACKAGE / "publishing" / "templates" / name).read_text(encoding="utf-8")
