"""Open images to be packed: a torchvision data set by name, or a folder of images by class.

Either becomes a `Source`: splits of labelled images that can be read in any order.
"""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, GrafsWarning, UnknownNameError
from ..utils import limits, remote
from ..utils.suggest import nearest
from .info import split_word

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_COMMON = ("train", "trainval", "val", "valid", "test")
_ARGUMENTS = {"EMNIST": {"split": "balanced"}}  # further arguments that a class requires


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
    """Images to be packed: a short name, class names by label, and splits by name."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]


def open_source(source: str, root: Path | None = None, splits: Mapping[str, str] | None = None) -> Source:
    """Open a torchvision data set or an image folder.

    Args:
        source: The name of the one or the path of the other.
        root: Where the files of a torchvision data set are; downloaded by default.
        splits: The source's name of each split to make; by default all common ones that it has.

    Raises:
        UnknownNameError: There is no such source.
        DataError: It holds nothing to pack.
    """
    if not Path(source).is_dir():
        if name := torchvision_name(source):
            return _of_torchvision(name, root, splits)
        raise UnknownNameError(
            f"{source!r} is neither a folder nor a torchvision data set{nearest(source.lower(), sorted(_torchvision()))}"
        )
    if root is not None:
        raise DataError(f"{source} is a folder of images; --root is only for the files of a torchvision data set")
    try:
        return _of_folder(Path(source), splits)
    except OSError as error:
        raise DataError(f"{error.filename or source}: cannot be read: {error.strerror}") from error


# ------------------------------------------------------------------------------------------------------ torchvision


def torchvision_name(text: str) -> str | None:
    """Return torchvision's data set of that name, however it is written; None if there is none.

    >>> torchvision_name("torchvision:FashionMNIST"), torchvision_name("digits")
    ('fashion-mnist', None)
    """
    plain = re.sub("[-_]", "", text.lower().removeprefix("torchvision:"))
    if not plain.isalnum():
        return None
    return next((name for name in _torchvision() if name.replace("-", "") == plain), None)


def _torchvision() -> dict[str, type]:
    """Return the classes of labelled images by short name."""
    import torchvision.datasets as library

    found = {}
    for name in library.__all__:
        cls = getattr(library, name)
        takes = _parameters(cls) if inspect.isclass(cls) else set()
        if {"root", "transform"} <= takes and {"train", "split", "download"} & takes:
            found[re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()] = cls
    return found


def _parameters(cls: type) -> set[str]:
    """Return the arguments of a class's constructor, with those it passes on to its base class."""
    names: set[str] = set()
    for one in cls.__mro__:
        if "__init__" in vars(one):
            parameters = inspect.signature(vars(one)["__init__"]).parameters
            names |= set(parameters)
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    return names


def _of_torchvision(name: str, root: Path | None, splits: Mapping[str, str] | None) -> Source:
    cls = _torchvision()[name]
    parameters = _parameters(cls)
    fetch = root is None and "download" in parameters
    folder = root or _cache() / name
    if "train" in parameters:
        known: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in parameters:
        known = {split: {"split": split} for split in (splits.values() if splits else _COMMON)}
    else:
        known = {"train": {}}
    found: dict[str, Any] = {}
    for split in splits.values() if splits else known:
        if split == "trainval" and "train" in found and not splits:
            continue  # the same images again
        if split not in known:
            raise UnknownNameError(f"{name} has no split {split!r}{nearest(split, known)}")
        arguments = {**_ARGUMENTS.get(cls.__name__, {}), **known[split], **({"download": True} if fetch else {})}
        try:
            found[split] = cls(str(folder), **arguments)
        except ValueError as error:
            if splits is None and "for argument split" in str(error):
                continue  # a common split that this set does not have
            raise DataError(f"{name}, split {split}: {error}") from error
        except Exception as error:  # torchvision's downloads and readers raise what they meet
            raise DataError(_not_to_be_had(name, folder, fetch, error)) from error
    named = splits or {split_word(split) or split: split for split in found}
    return Source(name, *_labelled(name, {split: found[own] for split, own in named.items()}))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grafs-timm" / "torchvision"


def _not_to_be_had(name: str, folder: Path, fetched: bool, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    if not fetched:
        return f"torchvision cannot read {name} in {folder}: {reason}"
    return (
        f"torchvision cannot download {name} to {folder}: {reason}. Without internet access, fetch its files elsewhere and "
        f"pack them: grafs-timm data pack {name} OUT --root FOLDER_OF_ITS_FILES"
    )


def _labelled(name: str, sets: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Split]]:
    splits = {}
    for split, dataset in sets.items():
        if not len(dataset):
            raise DataError(f"{name}: split {split} has no images")
        splits[split] = Split(_labels(f"{name}, split {split}", dataset), str, partial(_image, dataset))
    count = max(int(split.labels.max()) for split in splits.values()) + 1
    given = getattr(next(iter(sets.values())), "classes", None) or ()
    classes = [item if isinstance(item, str) else str(item[0]) for item in given]
    return tuple(classes) if len(classes) >= count else tuple(map(str, range(count))), splits


def _image(dataset: Any, index: int) -> Any:
    return dataset[index][0]


def _labels(what: str, dataset: Any) -> NDArray[np.int64]:
    """Return the labels from the attribute in which most sets keep them, else by reading every sample."""
    lists = [getattr(dataset, attribute, None) for attribute in ("targets", "labels", "_labels")]
    lists += [[label for _, label in getattr(dataset, "_samples", ())]]  # (file, label) of each
    kept = next((labels for labels in lists if labels is not None and len(labels) == len(dataset)), None)
    if kept is None:
        kept = [dataset[index][1] for index in range(len(dataset))]
    labels = np.asarray(kept)
    if labels.shape != (len(dataset),) or labels.dtype.kind not in "iu" or int(labels.min()) < 0:
        raise DataError(f"{what}: an image must have one class number, found labels such as {kept[0]!r}")
    return labels.astype(np.int64)


# ----------------------------------------------------------------------------------------------------- image folders


def _of_folder(folder: Path, splits: Mapping[str, str] | None) -> Source:
    below = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if splits is None:
        named = {word: name for name in below if (word := split_word(name))}
        splits = named if "train" in named and not _are_classes(folder, below, named) else {"train": "."}
    files: dict[str, dict[str, list[Path]]] = {}
    for split, own in splits.items():
        if own not in (".", *below):
            raise UnknownNameError(f"{folder} has no folder {own!r} for split {split}{nearest(own, below)}")
        files[split] = _by_class(folder / own)
    first = "train" if "train" in files else next(iter(files))
    classes = tuple(files[first])
    if len(classes) < 2:
        raise DataError(f"{folder / splits[first]}: only one class, {classes[0]!r}, and at least two are needed; {_LAYOUT}")
    for split, found in files.items():
        if unknown := [name for name in found if name not in classes]:
            raise DataError(
                f"{folder / splits[split]}: class {unknown[0]!r} is not in {splits[first]}{nearest(unknown[0], classes)}"
            )
    return Source(folder.resolve().name, classes, {split: _split(folder, classes, found) for split, found in files.items()})


def _are_classes(folder: Path, below: Sequence[str], named: Mapping[str, str]) -> bool:
    """Return whether folders with the names of splits are classes: they hold images, and so do other folders beside them.

    DataError if that is ambiguous.
    """
    deep = {
        name: any(entry.is_dir() and not entry.name.startswith(".") for entry in (folder / name).iterdir()) for name in below
    }
    flat = {name: not deep[name] and any(map(_is_image, (folder / name).iterdir())) for name in below}
    others = [name for name in below if name not in named.values() and flat[name]]
    if not others:
        return False
    if deep[named["train"]]:
        example = f"--splits train={named['train']} packs that one alone, --splits train=. every folder as a class"
        raise DataError(f"{folder}: is {named['train']!r} a split or, as {others[0]!r} beside it, a class? {example}")
    return True


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")


_LAYOUT = "expected train/CLASS/IMAGE.jpg (likewise test or val), or CLASS/IMAGE.jpg"


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class at any depth, both sorted by name."""
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        but = advice = ""
        if any(map(_is_image, folder.iterdir())):
            place = folder.parent / "all" / "train"
            but, advice = (
                ", but images",
                f". If {folder.name!r} is a class, put all classes into a folder {place}, or rename it",
            )
        raise DataError(f"{folder}: no folders of classes{but}; {_LAYOUT}{advice}")
    found: dict[str, list[Path]] = {}
    others: Counter[str] = Counter()
    for cls in classes:
        files = sorted(_below(cls))
        images = [file for file in files if _is_image(file)]
        others += Counter(file.suffix.lower() or "no ending" for file in files if not _is_image(file) and file.name[0] != ".")
        if not images:
            raise DataError(f"{cls}: no images ({', '.join(EXTENSIONS)}); {_LAYOUT}")
        found[cls.name] = images
    for ending, count in sorted(others.items()):
        notice = f"{folder}: left out {count} files with {ending}, which is not one of {', '.join(EXTENSIONS)}"
        warnings.warn(notice, GrafsWarning, stacklevel=2)
    return found


def _below(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yield the files in a folder and below, following links as torchvision's ImageFolder; OSError for an unreadable folder.

    A link back to a folder ``above`` (device and inode of each) is not followed.
    """
    state = folder.stat()
    within = (*above, (state.st_dev, state.st_ino))
    with os.scandir(folder) as entries:  # tells files from folders without a stat of each
        for entry in entries:
            path = folder / entry.name
            if not entry.is_dir():
                yield path
            elif (path.stat().st_dev, path.stat().st_ino) not in within:
                yield from _below(path, within)


def _split(folder: Path, classes: tuple[str, ...], found: dict[str, list[Path]]) -> Split:
    files = [file for images in found.values() for file in images]
    labels = np.repeat([classes.index(name) for name in found], [len(images) for images in found.values()])

    def name(index: int) -> str:
        return files[index].relative_to(folder).as_posix()

    return Split(labels.astype(np.int64), name, lambda index: remote.read(files[index], limits.SAMPLE))
