"""Find a data set by name and read its `_info.json`.

``--data`` takes, in this order: ``digits`` (embedded), the URL of a folder, shards (``train-{000..009}.tar``), a folder or its
bare name in ``$GRAFS_TIMM_DATA`` or ``./data``, and the name of a torchvision data set. A folder without `_info.json`, of
images by class or in another format that `sources` reads, is packed into a cache once. So are torchvision's files of CIFAR and
MNIST; its other sets are downloaded and packed into the first of these places.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError, UnknownNameError
from ..utils import remote, resources
from ..utils.suggest import nearest
from . import samples, tar_stream
from .info import NO_INFO, DatasetInfo, SplitInfo, info_file, read_info, split_word

EMBEDDED = {"digits": Path(__file__).parent / "digits"}
ACCEPTED = (
    "--data takes `digits` (embedded), a folder of shards with _info.json, of images by class or of a Hugging Face data set, "
    "its name in $GRAFS_TIMM_DATA or ./data, a URL, shards such as path/train-{000..009}.tar, or a torchvision data set such "
    "as `svhn`"
)
VARIABLE = "GRAFS_TIMM_DATA"
_MOST_SHARDS = 100_000
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def open_dataset(name: str | Path) -> DatasetInfo:
    """Find a data set and read its `_info.json`; shards are opened only if there is none.

    A folder of images, of a Hugging Face data set or of torchvision's files is packed into the cache first (`cached`).

    Shards need no `_info.json`. In a folder with one, naming shards limits the splits to them (a split none of whose shards is
    named stays whole). Elsewhere shards are read once to count samples and classes; each belongs to the split named in its
    file name, by default ``train``.

    Args:
        name: Anything that ``--data`` takes, see this module.

    Raises:
        UnknownNameError: There is no such data set.
        DataError: Its `_info.json` is invalid, or the folder is in no format that is read.
        RunError: It has to be packed and the cache cannot be written.

    >>> open_dataset("digits").split("test").num_samples
    360
    >>> open_dataset("digit")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    grafs_timm.errors.UnknownNameError: no data set 'digit'; nearest: digits. ...
    """
    text = str(name)
    if remote.is_url(remote.listed(text)[0]):
        return _of_shards(text) if _spells_shards(text) else read_info(text)
    found = _folder(text)
    if found is None and _spells_shards(text):
        return _of_shards(text)
    return _find(text) if found is None else _of_folder(found)


def places() -> list[Path]:
    """Return the folders in which a bare name is looked up; a new data set is packed into the first."""
    return [Path(place) for place in (os.environ.get(VARIABLE), "data") if place]


def is_told() -> bool:
    """Return whether ``$GRAFS_TIMM_DATA`` is set."""
    return bool(os.environ.get(VARIABLE))


def _is_bare(text: str) -> bool:
    return text == Path(text).name and text not in (".", "..", "")


def _folder(text: str) -> Path | None:
    """Return the folder of that name or path, even if the name has braces or colons."""
    if text in EMBEDDED:
        return EMBEDDED[text]
    for folder in [place / text for place in places() if _is_bare(text)] + [_expanded_user(text)]:
        if text and folder.is_dir():
            return folder
    return None


def _expanded_user(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name, and there is no such user
        return Path(text)


def _of_folder(folder: Path) -> DatasetInfo:
    if info_file(folder):
        return read_info(folder)
    from . import cached, sources

    if own := sources.recognised(folder):
        return cached.packed(own)
    layout = "CLASS/IMAGE.jpg, or train/CLASS/IMAGE.jpg and val/CLASS/..."
    tars = next((file.name for file in sorted(folder.iterdir()) if file.name.endswith(_TARS)), None)
    but = f" (shards are named, such as {folder / tars})" if tars else ""
    raise DataError(
        f"{folder}: no images by class ({layout}), no tables of a Hugging Face data set, none of torchvision's files{but}, and "
        f"{NO_INFO}"
    )


def _find(text: str) -> DatasetInfo:
    """Open a torchvision data set by name: its shards, its own files, or else a download."""
    folder = _of_torchvision(text)
    if info_file(folder):
        return read_info(folder)
    from . import cached, pack, sources

    name = folder.name
    if name in sources.LOCAL and (own := sources.files_of(name, _roots(name))):
        return cached.packed(own)
    return read_info(pack.pack_once(name, folder))


def _of_torchvision(text: str) -> Path:
    """Return the folder into which a torchvision data set is packed, or is to be. UnknownNameError for another name."""
    if _is_bare(text):
        from . import sources  # takes a second to import

        if name := sources.torchvision_name(text):
            packed = (place / name for place in places() if info_file(place / name))
            return next(packed, places()[0] / name)
    raise UnknownNameError(f"no data set {text!r}{nearest(text, [*EMBEDDED, *named()])}. {ACCEPTED}")


def named() -> dict[str, Path]:
    """Return the folder that each bare name leads to, of those in `places` that hold an `_info.json`."""
    found: dict[str, Path] = {}
    for folder in (info.parent for place in places() for info in sorted(place.glob("*/*info.json"))):
        found.setdefault(folder.name, folder)
    return found


def whereabouts(name: str | Path) -> Path | str:
    """Return where a name of ``--data`` leads; nothing is opened, downloaded or packed.

    Args:
        name: Anything that ``--data`` takes, see this module.

    Returns:
        A folder, or shards or a URL as they were given. A torchvision data set that is not packed yet has the folder that a
        download is packed into.

    Raises:
        UnknownNameError: There is no such data set.
        DataError: It is an invalid address.

    >>> whereabouts("digits").name
    'digits'
    """
    text = str(name)
    if remote.is_url(remote.listed(text)[0]):
        return text
    found = _folder(text)
    if found is None:
        return text if _spells_shards(text) else _of_torchvision(text)
    return found


def _roots(name: str) -> list[Path]:
    """Return the folders in which torchvision's files are looked for."""
    from . import sources

    named = [place / name for place in places()]
    return [*places(), *named, Path(), sources.downloads(name), resources.caches() / "torchvision", resources.caches()]


# ---------------------------------------------------------------------------------------------------- shards by name


def _spells_shards(text: str) -> bool:
    path = re.sub(r"\?.*", "", text) if "://" in text else text
    return "{" in text or len(remote.listed(text)) > 1 or path.endswith(_TARS)


def _of_shards(text: str) -> DatasetInfo:
    folder, names = _in_one_folder(text, _expanded(text))
    if len(set(names)) < len(names):
        raise DataError(f"{text}: names a shard twice")
    if isinstance(folder, Path) and info_file(folder) is None:
        return _counted(folder, names)
    info = read_info(folder)
    listed = [name for split in info.splits.values() for name in split.filenames]
    if unlisted := set(names) - set(listed):
        raise DataError(f"{folder}/_info.json does not list {min(unlisted)!r}{nearest(min(unlisted), listed)}")
    splits = {}
    for split, spec in info.splits.items():
        own = set(spec.filenames)
        chosen = [name for name in names if name in own]
        splits[split] = spec.only(chosen) if chosen else spec
    return DatasetInfo(info.name, folder, splits, info.classes)


def _expanded(text: str) -> list[str]:
    import braceexpand

    if _expanded_user(text).is_file():
        return [text]  # a shard whose own name has braces
    try:
        each = itertools.chain.from_iterable(braceexpand.braceexpand(part) for part in remote.listed(text))
        found = list(itertools.islice(each, _MOST_SHARDS + 1))
    except ValueError as error:
        raise DataError(f"{text}: braces cannot be expanded: {error}; write for example train-{{000..009}}.tar") from None
    if len(found) > _MOST_SHARDS:
        raise DataError(f"{text}: more than {_MOST_SHARDS} shards")
    return found


def _in_one_folder(text: str, shards: list[str]) -> tuple[Path | str, list[str]]:
    """Return the folder that holds all ``shards``, and their names in it."""
    if any(remote.is_url(shard) for shard in shards):
        apart = [remote.split_url(shard) for shard in shards if remote.is_url(shard)]
        if len(apart) < len(shards) or len({folder for folder, _ in apart}) > 1:
            raise DataError(f"{text}: URLs of shards must be in one folder, with an _info.json")
        return apart[0][0], [name for _, name in apart]
    paths = [_expanded_user(shard) for shard in shards]
    folder = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    return folder, [str(path.absolute().relative_to(folder)) for path in paths]


def _counted(folder: Path, names: Sequence[str]) -> DatasetInfo:
    splits: dict[str, list[tuple[Any, Any]]] = {}
    highest = 0
    for name in names:
        try:
            state = (folder / name).stat()
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read: {error.strerror}") from None
        length, label = _count(folder / name, state.st_size, state.st_mtime_ns)
        if not length:
            continue  # writers leave an empty last shard
        highest = max(highest, label)
        splits.setdefault(_split_in(name), []).append((name, length))
    if not splits:
        raise DataError(f"{folder}: no samples in {', '.join(names)}")
    info = {}
    for split, shards in splits.items():
        files, lengths = ([item[part] for item in shards] for part in (0, 1))
        info[split] = SplitInfo(filenames=files, shard_lengths=lengths, num_samples=sum(lengths))
    return DatasetInfo(folder.name, folder, info, tuple(str(label) for label in range(highest + 1)))


@lru_cache(maxsize=100_000)
def _count(path: Path, size: int, changed: int) -> tuple[int, int]:
    """Return the number of samples and the highest label of a shard; cached until its ``size`` or ``changed`` time differ."""
    with remote.open_file(path) as file:
        labels = [
            0 if "txt" in sample.files and "cls" not in sample.files else samples.label_of(sample.files, sample.where)
            for sample in tar_stream.samples(file, str(path))
        ]  # text has no classes
    return len(labels), max(labels, default=0)


def _split_in(filename: str) -> str:
    words = re.findall("[a-z]+", PurePosixPath(filename).name.lower())
    return next((split for word in words if (split := split_word(word))), "train")
