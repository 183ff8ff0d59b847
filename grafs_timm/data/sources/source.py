"""Define what readers of other formats return: a `Source` to be packed, and an `Own` data set, found but not read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Split:
    """Labelled images that are read one by one.

    Args:
        labels: int64 [N].
        name: Returns a stable name of image i.
        read: Returns image i: a file's content or a PIL image.
    """

    labels: NDArray[np.int64]
    name: Callable[[int], str]
    read: Callable[[int], Any]


@dataclass(frozen=True)
class Source:
    """Images to be packed.

    Args:
        name: A short name.
        classes: Class names by label.
        splits: The splits by name.
        files: The image files of a folder.
        named_by: What the names of its images are, in words.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    files: tuple[Path, ...] = ()
    named_by: str = "number"


@dataclass(frozen=True)
class Own:
    """A data set as people have it, in another format than shards.

    Args:
        name: A short name.
        kind: What messages call its format.
        root: The folder that it is in, without links.
        files: All of its files, below the root; their names, sizes and times tell one state of it from another.
        read: Opens it to be packed.
    """

    name: str
    kind: str
    root: Path
    files: tuple[Path, ...]
    read: Callable[[], Source]
