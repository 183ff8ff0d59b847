"""Open torchvision's data sets, by name or where their files lie."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DOCTOR, DataError, UnknownNameError
from ...utils import resources
from ...utils.suggest import nearest
from ..info import split_word
from . import cifar
from .source import Own, Source, Split

_COMMON = ("train", "trainval", "val", "valid", "test")
_ARGUMENTS = {"EMNIST": {"split": "balanced"}}  # further arguments that a class requires
# the sets that are found by their files: the folder in torchvision's root, and files that tell it from others
_FOUND = {
    "cifar10": ("cifar-10-batches-py", ("data_batch_1", "test_batch", "batches.meta")),
    "cifar100": ("cifar-100-python", ("train", "test", "meta")),
    "mnist": ("MNIST/raw", ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")),
    "fashion-mnist": ("FashionMNIST/raw", ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")),
}
LOCAL = tuple(_FOUND)


def torchvision_name(text: str) -> str | None:
    """Return torchvision's data set of that name, however it is written; None if there is none.

    >>> torchvision_name("torchvision:FashionMNIST"), torchvision_name("digits")
    ('fashion-mnist', None)
    """
    plain = re.sub("[-_]", "", text.lower().removeprefix("torchvision:"))
    if not plain.isalnum():
        return None
    return next((name for name in torchvision_classes() if name.replace("-", "") == plain), None)


def torchvision_classes() -> dict[str, type]:
    """Return torchvision's classes of labelled images by short name."""
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


def of_torchvision(name: str, root: Path | None = None, splits: Mapping[str, str] | None = None) -> Source:
    """Open a data set by torchvision's class of it.

    Args:
        name: As from `torchvision_name`.
        root: The folder of its files; downloaded by default.
        splits: torchvision's name of each split to make; by default all common ones.

    Raises:
        UnknownNameError: It has no such split.
        DataError: Its files cannot be had, or are not labelled images.
    """
    if root is not None and name in cifar.SETS:  # torchvision's own reader unpickles
        own = files_of(name, [root])
        if own is None:
            raise DataError(f"torchvision's files of {name} are not in {root}: no {_FOUND[name][0]}/{_FOUND[name][1][0]}")
        return chosen(own.read(), splits)
    cls = torchvision_classes()[name]
    parameters = _parameters(cls)
    fetch = root is None and "download" in parameters
    folder = root or downloads(name)
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
    return Source(name, *_labelled(name, {split: found[theirs] for split, theirs in named.items()}))


def chosen(source: Source, splits: Mapping[str, str] | None) -> Source:
    """Return ``source`` with only these splits, by their new names. UnknownNameError where it has no such split."""
    if splits is None:
        return source
    if unknown := [own for own in splits.values() if own not in source.splits]:
        raise UnknownNameError(f"{source.name} has no split {unknown[0]!r}{nearest(unknown[0], source.splits)}")
    parts = {name: source.splits[own] for name, own in splits.items()}
    return dataclasses.replace(source, splits=parts)


def downloads(name: str) -> Path:
    """Return the folder that torchvision's files of a data set are downloaded to."""
    return resources.cache() / "torchvision" / name


def files_of(name: str, roots: Iterable[Path]) -> Own | None:
    """Find torchvision's own files of a data set; nothing is downloaded.

    Args:
        name: One of `LOCAL`.
        roots: What would be torchvision's ``root``, or the folder of the files itself.

    Returns:
        The data set in the first of ``roots`` that has it; None if none has.
    """
    base, files = _FOUND[name]
    for root in roots:
        for folder in (root / base, root):
            known = folder != root or name in cifar.SETS or folder.resolve().parts[-2:] == tuple(base.split("/"))
            if known and all((folder / file).is_file() for file in files):
                return _found(name, folder.resolve())
    return None


def sets_in(folder: Path) -> list[Own]:
    """Return the data sets whose own files lie in a folder, as `files_of`."""
    return [found for name in LOCAL if (found := files_of(name, [folder]))]


def _found(name: str, folder: Path) -> Own:
    files = tuple(sorted(file for file in folder.iterdir() if file.is_file()))
    read = partial(cifar.read, name, folder) if name in cifar.SETS else partial(of_torchvision, name, folder.parents[1])
    return Own(name, "torchvision's files", folder, files, read)


def _not_to_be_had(name: str, folder: Path, fetched: bool, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    if fetched and isinstance(error, OSError) and error.errno and error.filename:  # of this machine, not of the network
        reason += f" ({DOCTOR} shows which folders can be written, and how to name others)"
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
