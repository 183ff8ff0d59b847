"""Generate the pages of a zoo from its entries: cards, leaderboard, gallery, catalogue.

So each can be compared with its entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..utils.files import write_whole
from ..zoo import entry_file
from ..zoo.entry import Contents
from . import card, card_plots, catalogue, gallery, leaderboard


def read(zoo: Path) -> list[Contents]:
    """Read and check all entries of a zoo folder. GenotypeError, naming file and field, where one is wrong."""
    return [entry_file.read(path) for path in sorted(zoo.glob("*/grafs_*.json"))]


def gallery_path(zoo: Path) -> Path | None:
    """Return docs/zoo/index.html beside a folder called zoo; None elsewhere, as in an installed package."""
    docs = zoo.absolute().parent / "docs"
    return docs / "zoo" / "index.html" if zoo.absolute().name == "zoo" and docs.is_dir() else None


def made(zoo: Path, entries: Sequence[Contents] | None = None) -> dict[Path, str]:
    """Generate every page with the text that the entries give. Raises as `read`.

    Args:
        zoo: the zoo folder.
        entries: by default those in the folder.
    """
    found = read(zoo) if entries is None else entries
    pages = {zoo / each.family / f"{each.name}.md": card.text(each, zoo) for each in found}
    pages[zoo / "README.md"] = leaderboard.text(found)
    place = gallery_path(zoo)
    if place:
        pages[place] = gallery.page(found)
        pages |= catalogue.pages(found, place.parents[1])
    return pages


def write(zoo: Path, pictures: bool = True) -> list[Path]:
    """Write every page. All texts are made before the first file is touched, and each file appears whole.

    Args:
        zoo: the zoo folder.
        pictures: whether those of every entry are drawn too.

    Returns:
        The files written.

    Raises:
        RunError: where the disk refuses.
    """
    found = read(zoo)
    pages = made(zoo, found)
    written = [path for each in found for path in card_plots.draw(each, zoo / each.family)] if pictures else []
    return [*written, *(write_whole(path, text) for path, text in pages.items())]
