"""Open images to be packed: a torchvision data set by name, or a folder in one of the formats that are recognised.

Either becomes a `Source`: splits of labelled images that can be read in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import DataError, UnknownNameError
from ...utils.suggest import nearest
from . import hugging_face, image_folder, torchvision_sets
from .source import Own, Source


def open_source(source: str, root: Path | None = None, splits: Mapping[str, str] | None = None) -> Source:
    """Open a torchvision data set, or a folder of images, of a Hugging Face data set or of torchvision's files.

    Args:
        source: The name of the one or the path of the other.
        root: Where the files of a torchvision data set are; downloaded by default.
        splits: The source's name of each split to make; by default all common ones that it has.

    Raises:
        UnknownNameError: There is no such source.
        DataError: It holds nothing to pack.
    """
    if not Path(source).is_dir():
        if name := torchvision_sets.torchvision_name(source):
            return torchvision_sets.of_torchvision(name, root, splits)
        known = sorted(torchvision_sets.torchvision_classes())
        raise UnknownNameError(f"{source!r} is neither a folder nor a torchvision data set{nearest(source.lower(), known)}")
    if root is not None:
        raise DataError(f"{source} is a folder of images; --root is only for the files of a torchvision data set")
    try:
        if own := _other_than_images(Path(source)):
            return torchvision_sets.chosen(own.read(), splits)
        return image_folder.of_folder(Path(source), splits)
    except OSError as error:
        raise _unread(source, error) from error


def recognised(folder: Path) -> Own | None:
    """Find out what a folder without `_info.json` holds.

    Args:
        folder: Of a Hugging Face data set, of torchvision's files, or of images by class.

    Returns:
        The data set, not read yet; None if there is none.

    Raises:
        DataError: It is none of these by a detail that the message names, or several at once.
    """
    try:
        folder = folder.resolve()
        if own := _other_than_images(folder):
            return own
        if not image_folder.has_folders(folder) and not image_folder.has_images(folder):
            return None
        listed = image_folder.of_folder(folder, inside=True)
    except OSError as error:
        raise _unread(folder, error) from error
    return Own(listed.name, "a folder of images", folder, listed.files, lambda: listed)


def _other_than_images(folder: Path) -> Own | None:
    if own := hugging_face.found_in(folder):
        return own
    sets = torchvision_sets.sets_in(folder)
    if len(sets) > 1:
        raise DataError(
            f"{folder}: holds files of {' and '.join(one.name for one in sets)}; name the folder of one, such as {sets[0].root}"
        )
    return sets[0] if sets else None


def _unread(source: str | Path, error: OSError) -> DataError:
    return DataError(f"{error.filename or source}: cannot be read: {error.strerror or error}")
