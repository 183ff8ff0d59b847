"""Read `_info.json`, which describes a data set: its splits, their shards and the number of samples in each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator, model_validator

from ..errors import DataError, UnknownNameError, shortened
from ..utils import limits, remote
from ..utils.suggest import nearest

INFO = ("_info.json", "info.json")
SMALLEST_INFO = """{"splits": {"train": {"name": "train", "num_samples": 2, "filenames": ["train-000000.tar"], \
"shard_lengths": [2]}}, "classes": ["cat", "dog"]}"""
NO_INFO = f"no _info.json; the smallest valid one: {SMALLEST_INFO}"


class SplitInfo(BaseModel):
    """One split of `_info.json`: its shards in order, how many samples each holds, and their sha256 where given."""

    model_config = ConfigDict(strict=True, frozen=True)  # other readers' keys are ignored

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
            raise ValueError("alt_label (labels from a JSON field) is not supported; labels come from KEY.cls")
        limits.SAMPLES.check(self.num_samples, f"num_samples is {shortened(str(self.num_samples))}")
        if unlisted := set(self.sha256) - set(self.filenames):
            raise ValueError(f"sha256 of {min(unlisted)!r}, which is not among the filenames")
        return self

    def only(self, filenames: Sequence[str]) -> SplitInfo:
        """Return the split with only these shards, in the given order."""
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
    split_rule: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """A data set as its `_info.json` describes it; shards without samples are left out.

    Args:
        name: The folder's name.
        folder: A path, or a URL as text.
        splits: The splits that have samples, by name.
        classes: Their names by label; None where the file lists none.
        empty: Names of the splits without samples.
        split_rule: How it was split, in words; empty where the file does not say.

    >>> from grafs_timm.data import open_dataset
    >>> info = open_dataset("digits")
    >>> info.name, sorted(info.splits), info.split("train").num_samples, info.classes[3]
    ('digits', ['test', 'train'], 1437, '3')
    >>> Path(info.location("digits-test-000000.tar.gz")).is_file()
    True
    """

    name: str
    folder: Path | str
    splits: dict[str, SplitInfo]
    classes: tuple[str, ...] | None
    empty: tuple[str, ...] = ()
    split_rule: str = ""

    def location(self, filename: str) -> str:
        """Return the absolute path, or the URL, of a shard."""
        return remote.join(self.folder, filename) if isinstance(self.folder, str) else str(self.folder.absolute() / filename)

    def split(self, name: str) -> SplitInfo:
        """Return a split by name.

        Raises:
            UnknownNameError: There is no such split; the message names the nearest.
            DataError: The split has no samples.
        """
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


def read_info(folder: Path | str) -> DatasetInfo:
    """Read the `_info.json` of a data set.

    Args:
        folder: A path or a URL.

    Raises:
        DataError: The file is missing or invalid.
    """
    path: Path | str | None = remote.join(folder, INFO[0]) if isinstance(folder, str) else info_file(folder)
    if path is None:
        raise DataError(f"{folder}: {NO_INFO}")
    try:
        path, content = _info_content(folder, path)
        info = _InfoFile.model_validate_json(content.decode(json.detect_encoding(content)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(shortened(str(part)) for part in first["loc"]) or "the file"
        message = shortened(first["msg"].removeprefix("Value error, "), 400)
        raise DataError(f"{path}: {where}: {message}; the smallest valid one: {SMALLEST_INFO}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not valid {error.encoding}; save the file as UTF-8") from None
    called = remote.split_url(folder)[1] if isinstance(folder, str) else folder.name
    splits = {name: spec.only([each for each, n in zip(spec.filenames, spec.shard_lengths, strict=True) if n])
              for name, spec in info.splits.items() if spec.num_samples}  # fmt: skip
    if not splits:
        raise DataError(f"{path}: no split has a sample; pack the images again (grafs-timm data pack)")
    empty = tuple(name for name in info.splits if name not in splits)
    return DatasetInfo(called, folder, splits, tuple(info.classes) if info.classes else None, empty, info.split_rule)


def info_file(folder: Path) -> Path | None:
    """Return the path of the `_info.json` in ``folder``, under either name that timm takes; None if there is none."""
    return next((folder / name for name in INFO if (folder / name).is_file()), None)


def _info_content(folder: Path | str, path: Path | str) -> tuple[Path | str, bytes]:
    """Return where the file was found, and its content."""
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
    """Return ``train``, ``test`` or ``validation`` for a common name of that split, such as ``val``; else None."""
    return _SPLITS.get(text.lower())
