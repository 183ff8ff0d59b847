"""List a folder of images by class, with folders of splits above the classes or without, as torchvision's ImageFolder."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import DataError, GrafsWarning, UnknownNameError
from ...utils import limits, remote
from ...utils.suggest import nearest
from ..info import split_word
from .source import EXTENSIONS, Source, Split

_LAYOUT = "expected train/CLASS/IMAGE.jpg (likewise test or val), or CLASS/IMAGE.jpg"
_BREAKS = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")


def of_folder(folder: Path, splits: Mapping[str, str] | None = None, inside: bool = False) -> Source:
    """List the images of a folder by split and class.

    Args:
        folder: ``CLASS/IMAGE.jpg`` or ``SPLIT/CLASS/IMAGE.jpg``.
        splits: The folder of each split; by default all with the common names of one.
        inside: Refuse links that lead out of the folder instead of following them.

    Raises:
        UnknownNameError: There is no such folder of a split.
        DataError: There are no classes, one has no images, or a name has a line break.
        OSError: A folder cannot be read.
    """
    root = folder.resolve() if inside else None
    below = [entry.name for entry in _folders(folder)]
    if splits is None:
        named = {word: name for name in below if (word := split_word(name))}
        splits = named if "train" in named and not _are_classes(folder, below, named) else {"train": "."}
    files: dict[str, dict[str, list[Path]]] = {}
    for split, own in splits.items():
        if own not in (".", *below):
            raise UnknownNameError(f"{folder} has no folder {own!r} for split {split}{nearest(own, below)}")
        files[split] = _by_class(folder / own, root)
    first = "train" if "train" in files else next(iter(files))
    classes = tuple(files[first])
    if len(classes) < 2:
        raise DataError(f"{folder / splits[first]}: only one class, {classes[0]!r}, and at least two are needed; {_LAYOUT}")
    for split, found in files.items():
        if unknown := [name for name in found if name not in classes]:
            raise DataError(
                f"{folder / splits[split]}: class {unknown[0]!r} is not in {splits[first]}{nearest(unknown[0], classes)}"
            )
    listed = tuple(file for found in files.values() for images in found.values() for file in images)
    parts = {split: _split(folder, classes, found) for split, found in files.items()}
    return Source(folder.resolve().name, classes, parts, listed, "path")


def has_folders(folder: Path) -> bool:
    """Return whether there are folders below that may be classes or splits."""
    return bool(_folders(folder))


def has_images(folder: Path) -> bool:
    """Return whether images lie in the folder itself."""
    return any(map(_is_image, folder.iterdir()))


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _are_classes(folder: Path, below: Sequence[str], named: Mapping[str, str]) -> bool:
    """Return whether folders with the names of splits are classes: they hold images, and so do other folders beside them.

    DataError if that is ambiguous.
    """
    deep = {name: bool(_folders(folder / name)) for name in below}
    flat = {name: not deep[name] and any(map(_is_image, (folder / name).iterdir())) for name in below}
    others = [name for name in below if name not in named.values() and flat[name]]
    if not others:
        return False
    if deep[named["train"]]:
        example = f"--splits train={named['train']} packs that one alone, --splits train=. every folder as a class"
        raise DataError(f"{folder}: is {named['train']!r} a split or, as {others[0]!r} beside it, a class? {example}")
    return True


def _is_image(file: Path) -> bool:
    name = os.path.basename(file)
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _by_class(folder: Path, root: Path | None) -> dict[str, list[Path]]:
    """Return the image files of each class at any depth, both sorted by name."""
    classes = _folders(folder)
    if not classes:
        but = advice = ""
        if has_images(folder):
            place = folder.parent / "all" / "train"
            but, advice = (
                ", but images",
                f". If {folder.name!r} is a class, put all classes into a folder {place}, or rename it",
            )
        raise DataError(f"{folder}: no folders of classes{but}; {_LAYOUT}{advice}")
    found: dict[str, list[Path]] = {}
    others: Counter[str] = Counter()
    for cls in classes:
        for place in (folder, cls):
            _stays(place, root)
        files = sorted(_below(cls, root), key=os.fspath)  # as text: there may be a million
        images = [file for file in files if _is_image(file)]
        if len(images) < len(files):
            left = (file for file in files if not _is_image(file) and file.name[0] != ".")
            others += Counter(file.suffix.lower() or "no ending" for file in left)
        if not images:
            raise DataError(f"{cls}: no images ({', '.join(EXTENSIONS)}); {_LAYOUT}")
        for name in (str(image)[len(str(folder)) + 1 :] for image in images):
            if _BREAKS.search(name):
                raise DataError(f"{folder}: the name {name!r} has a line break or another control character; rename it")
        found[cls.name] = images
    for ending, count in sorted(others.items()):
        notice = f"{folder}: left out {count} files with {ending}, which is not one of {', '.join(EXTENSIONS)}"
        warnings.warn(notice, GrafsWarning, stacklevel=2)
    return found


def _below(folder: Path, root: Path | None, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield the files in a folder and below, following links as torchvision's ImageFolder; OSError for an unreadable folder.

    A link back to a folder ``above`` (device and inode of each) is not followed.
    """
    state = folder.stat()
    within = (*above, (state.st_dev, state.st_ino))
    with os.scandir(folder) as entries:  # tells files from folders without a stat of each
        for entry in entries:
            path = folder / entry.name
            if entry.is_symlink():
                _stays(path, root)
            if not entry.is_dir():
                yield path
            elif (path.stat().st_dev, path.stat().st_ino) not in within:
                yield from _below(path, root, within)


def _stays(path: Path, root: Path | None) -> None:
    """Raise DataError where a path leads out of ``root``."""
    if root is not None and not path.resolve().is_relative_to(root):
        raise DataError(
            f"{path}: leads out of the folder, to {path.resolve()}; --data follows links inside it only. To follow all: "
            f"grafs-timm data pack {root} OUT, then --data OUT"
        )


def _split(folder: Path, classes: tuple[str, ...], found: dict[str, list[Path]]) -> Split:
    files = [file for images in found.values() for file in images]
    labels = np.repeat([classes.index(name) for name in found], [len(images) for images in found.values()])

    def name(index: int) -> str:
        return files[index].relative_to(folder).as_posix()

    return Split(labels.astype(np.int64), name, lambda index: remote.read(files[index], limits.SAMPLE))
