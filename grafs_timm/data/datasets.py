"""A data set's name -> its `_info.json`: the splits, their shards, how many samples each holds.

``--data`` takes, in this order: ``digits`` (embedded), a URL of a folder, shards spelt out (``train-{000..009}.tar``), a
folder or the bare name of one in ``$GRAFS_TIMM_DATA`` or ``./data``, and the name of a torchvision data set, which is then
downloaded and packed there once.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator, model_validator

from ..errors import DataError, UnknownNameError, shortened
from ..utils import limits, remote
from ..utils.suggest import nearest

EMBEDDED = {"digits": Path(__file__).parent / "digits"}
ACCEPTED = (
    "--data takes `digits` (embedded), a folder with _info.json or its name in $GRAFS_TIMM_DATA or ./data, its URL, shards "
    "such as path/train-{000..009}.tar, or a torchvision data set such as `svhn`, to be downloaded and packed once"
)
VARIABLE = "GRAFS_TIMM_DATA"
INFO = ("_info.json", "info.json")
SMALLEST_INFO = """{"splits": {"train": {"name": "train", "num_samples": 2, "filenames": ["train-000000.tar"], \
"shard_lengths": [2]}}, "classes": ["cat", "dog"]}"""
_MOST_SHARDS = 100_000
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


class SplitInfo(BaseModel):
    """One split of `_info.json`: its shards in order, how many samples each holds, and their sha256 where given."""

    model_config = ConfigDict(strict=True, frozen=True)  # further keys are other readers' business

    filenames: list[str]
    shard_lengths: list[NonNegativeInt]
    num_samples: NonNegativeInt
    sha256: dict[str, str] = {}
    alt_label: str = ""

    @field_validator("filenames")
    @classmethod
    def _inside(cls, names: list[str]) -> list[str]:
        for name in names:
            posix, windows = PurePosixPath(name), PureWindowsPath(name)
            # a colon would make a name a URL, or a command, to webdataset
            if not name or posix.is_absolute() or windows.anchor or ":" in name or ".." in (*posix.parts, *windows.parts):
                raise ValueError(f"{name!r} must be a relative path that stays inside the folder")
        if len(set(names)) < len(names):
            raise ValueError("a shard is listed twice")
        return names

    @model_validator(mode="after")
    def _agrees(self) -> SplitInfo:
        if len(self.shard_lengths) != len(self.filenames):
            least = "" if self.filenames else "; a split lists at least 1 shard, unless it is empty"
            raise ValueError(f"{len(self.filenames)} filenames but {len(self.shard_lengths)} shard_lengths{least}")
        if sum(self.shard_lengths) != self.num_samples:
            empty = [f"shard_lengths.{place}" for place, length in enumerate(self.shard_lengths) if not length]
            none = f" ({empty[0]} is 0, which an empty shard has)" if empty else ""
            raise ValueError(f"num_samples is {self.num_samples}, but shard_lengths add up to {sum(self.shard_lengths)}{none}")
        if self.alt_label:
            raise ValueError("alt_label (labels from a JSON field) is not read here; labels come from KEY.cls")
        limits.SAMPLES.check(self.num_samples, f"num_samples is {shortened(str(self.num_samples))}")
        if unlisted := set(self.sha256) - set(self.filenames):
            raise ValueError(f"sha256 of {min(unlisted)!r}, which is not among the filenames")
        return self

    def only(self, filenames: Sequence[str]) -> SplitInfo:
        """The split with these of its shards alone, in the order given."""
        lengths = dict(zip(self.filenames, self.shard_lengths, strict=True))
        return SplitInfo(
            filenames=list(filenames),
            shard_lengths=[lengths[name] for name in filenames],
            num_samples=sum(lengths[name] for name in filenames),
            sha256={name: self.sha256[name] for name in filenames if name in self.sha256},
        )


class _InfoFile(BaseModel):
    model_config = ConfigDict(strict=True)
    splits: Annotated[dict[str, SplitInfo], Field(min_length=1)]
    classes: Annotated[list[str], Field(min_length=1)] | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """A data set as its `_info.json` describes it: ``folder`` is a path, or a URL as text. ``classes`` is None where the file
    lists none. Shards without a sample are left out; ``empty`` are the splits in which nothing else stands.
    """

    name: str
    folder: Path | str
    splits: dict[str, SplitInfo]
    classes: tuple[str, ...] | None
    empty: tuple[str, ...] = ()

    def location(self, filename: str) -> str:
        """The absolute path or the URL of a shard of `_info.json`."""
        return remote.join(self.folder, filename) if isinstance(self.folder, str) else str(self.folder.absolute() / filename)

    def split(self, name: str) -> SplitInfo:
        """UnknownNameError, with those there are, for a split that isn't there."""
        if name in self.empty:
            raise DataError(
                f"{self.name}: split {name!r} has no samples; pack it again, or name another{nearest(name, self.splits)}"
            )
        if name not in self.splits:
            raise UnknownNameError(
                f"{self.name} has no split {name!r}{nearest(name, self.splits)} (a recipe names them as data.train_split and "
                "data.test_split)"
            )
        return self.splits[name]


def open_dataset(name: str | Path) -> DatasetInfo:
    """Find a data set and read its `_info.json`; no shard is opened where there is one.

    ``name`` is what ``--data`` takes, see this module. Shards that are spelt out need no `_info.json`: those of a folder that
    has one limit its splits to them (a split none of whose shards is named stays whole), others are read through once to count
    them and their classes, and belong to the split whose name stands in their file name, else to ``train``.

    UnknownNameError where there is no such data set, DataError where its `_info.json` is missing or wrong.
    """
    text = str(name)
    if remote.is_url(remote.listed(text)[0]):
        return _of_shards(text) if _spells_shards(text) else _read_info(text)
    found = _folder(text)
    if found is None and _spells_shards(text):
        return _of_shards(text)
    return _read_info(found or _find(text))


def _read_info(folder: Path | str) -> DatasetInfo:
    path: Path | str | None = remote.join(folder, INFO[0]) if isinstance(folder, str) else info_file(folder)
    if path is None:
        raise DataError(f"{folder}: no _info.json; the smallest valid one: {SMALLEST_INFO}")
    try:
        path, content = _info_content(folder, path)
        info = _InfoFile.model_validate_json(content.decode(json.detect_encoding(content)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(shortened(str(part)) for part in first["loc"]) or "the file"
        message = shortened(first["msg"].removeprefix("Value error, "), 400)
        raise DataError(f"{path}: {where}: {message}; the smallest valid one: {SMALLEST_INFO}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no text in {error.encoding}; save the file as UTF-8") from None
    called = remote.split_url(folder)[1] if isinstance(folder, str) else folder.name
    splits = {name: spec.only([each for each, n in zip(spec.filenames, spec.shard_lengths, strict=True) if n])
              for name, spec in info.splits.items() if spec.num_samples}  # fmt: skip
    if not splits:
        raise DataError(f"{path}: no split has a sample; pack the images again, such as by grafs-timm data pack")
    empty = tuple(name for name in info.splits if name not in splits)
    return DatasetInfo(called, folder, splits, tuple(info.classes) if info.classes else None, empty)


def info_file(folder: Path) -> Path | None:
    """The file that describes the data set in ``folder``, under one of the names that timm takes; None where there is none."""
    return next((folder / name for name in INFO if (folder / name).is_file()), None)


def _info_content(folder: Path | str, path: Path | str) -> tuple[Path | str, bytes]:
    """(where it was found, content) of the file that describes a data set."""
    try:
        return path, remote.read(path, limits.INFO)
    except DataError as error:
        if not isinstance(folder, str) or "404" not in str(error):
            raise
        other = remote.join(folder, INFO[1])
        try:
            return other, remote.read(other, limits.INFO)
        except DataError as second:
            raise error if "404" in str(second) else second from None


def places() -> list[Path]:
    """The folders in which a bare name is looked up; a new data set is packed into the first."""
    return [Path(place) for place in (os.environ.get(VARIABLE), "data") if place]


def is_told() -> bool:
    """Whether the user has named a folder of data."""
    return bool(os.environ.get(VARIABLE))


def _is_bare(text: str) -> bool:
    return text == Path(text).name and text not in (".", "..", "")


def _folder(text: str) -> Path | None:
    """The folder of that name or path, whatever characters it is spelt with."""
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


def _find(text: str) -> Path:
    """A folder that is not there yet: a torchvision data set, to be downloaded and packed."""
    if _is_bare(text):
        from . import pack, sources  # they take a second to import, and call this module

        if name := sources.torchvision_name(text):
            packed = (place / name for place in places() if info_file(place / name))
            return next(packed, None) or pack.pack_once(name, places()[0] / name)
    known = [*EMBEDDED, *(info.parent.name for place in places() for info in sorted(place.glob("*/*info.json")))]
    raise UnknownNameError(f"no data set {text!r}{nearest(text, dict.fromkeys(known))}. {ACCEPTED}")


# ------------------------------------------------------------------------------------------- shards that are spelt out


def _spells_shards(text: str) -> bool:
    path = re.sub(r"\?.*", "", text) if "://" in text else text
    return "{" in text or len(remote.listed(text)) > 1 or path.endswith(_TARS)


def _of_shards(text: str) -> DatasetInfo:
    folder, names = _in_one_folder(text, _expanded(text))
    if len(set(names)) < len(names):
        raise DataError(f"{text}: names a shard twice")
    if isinstance(folder, Path) and info_file(folder) is None:
        return _counted(folder, names)
    info = _read_info(folder)
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
        raise DataError(f"{text}: braces that can't be expanded: {error}; such as train-{{000..009}}.tar") from None
    if len(found) > _MOST_SHARDS:
        raise DataError(f"{text}: more than {_MOST_SHARDS} shards")
    return found


def _in_one_folder(text: str, shards: list[str]) -> tuple[Path | str, list[str]]:
    """The folder that all ``shards`` lie in, and their names in it."""
    if any(remote.is_url(shard) for shard in shards):
        apart = [remote.split_url(shard) for shard in shards if remote.is_url(shard)]
        if len(apart) < len(shards) or len({folder for folder, _ in apart}) > 1:
            raise DataError(f"{text}: URLs of shards must be of one folder, which has the _info.json that counts them")
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
    """(samples, highest label) of a shard; ``size`` and ``changed`` have it counted again when it is another one."""
    from . import shards

    labels = [
        0 if "txt" in sample and "cls" not in sample else shards.label_of(sample, f"{path}: sample {sample['__key__']!r}")
        for sample in shards.samples_of(path)
    ]  # text has no classes
    return len(labels), max(labels, default=0)


_SPLITS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
}
_SPLITS |= {"validation": "validation"}


def split_word(text: str) -> str | None:
    """``train``, ``test`` or ``validation`` for one of the usual words for it."""
    return _SPLITS.get(text.lower())


def _split_in(filename: str) -> str:
    words = re.findall("[a-z]+", PurePosixPath(filename).name.lower())
    return next((split for word in words if (split := split_word(word))), "train")
