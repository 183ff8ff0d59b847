"""webdataset shards -> batches, held on the device: the only way images enter.

A data set is a folder of tars (``.tar`` or ``.tar.gz``) with ``KEY.webp|png|jpg`` and ``KEY.cls`` (the label as text),
and the ``_info.json`` that timm's own webdataset reader takes. `open_dataset` reads that file, `load_split` the shards
it names into an `ImageSet`, and `Batches` draws augmented, normalised batches from one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator
from torch import Tensor

from .augment import augment as apply_augmentations
from .augment import checked
from .errors import DataError, UnknownNameError
from .ops import nearest
from .shards import Shard, read_shard, size

EMBEDDED = {"digits": Path(__file__).parent / "digits"}
ACCEPTED = "--data takes `digits` (embedded), a folder with _info.json, or its name in $GRAFS_TIMM_DATA or ./data"
SMALLEST_INFO = """{"splits": {"train": {"name": "train", "num_samples": 2, "filenames": ["train-000000.tar"], \
"shard_lengths": [2]}}, "classes": ["cat", "dog"]}"""


# ---------------------------------------------------------------------------------------------------- _info.json


class SplitInfo(BaseModel):
    """One split of `_info.json`: its shards in order, how many samples each holds, and their sha256 where given."""

    model_config = ConfigDict(strict=True, frozen=True)  # further keys are other readers' business

    filenames: Annotated[list[str], Field(min_length=1)]
    shard_lengths: list[PositiveInt]
    num_samples: PositiveInt
    sha256: dict[str, str] = {}
    alt_label: str = ""

    @field_validator("filenames")
    @classmethod
    def _inside(cls, names: list[str]) -> list[str]:
        for name in names:
            posix, windows = PurePosixPath(name), PureWindowsPath(name)
            if not name or posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts):
                raise ValueError(f"{name!r} must be a relative path that stays inside the folder")
        if len(set(names)) < len(names):
            raise ValueError("a shard is listed twice")
        return names

    @model_validator(mode="after")
    def _agrees(self) -> SplitInfo:
        if len(self.shard_lengths) != len(self.filenames):
            raise ValueError(f"{len(self.filenames)} filenames but {len(self.shard_lengths)} shard_lengths")
        if sum(self.shard_lengths) != self.num_samples:
            raise ValueError(f"num_samples is {self.num_samples}, but shard_lengths add up to {sum(self.shard_lengths)}")
        if self.alt_label:
            raise ValueError("alt_label (labels from a JSON field) is not read here; labels come from KEY.cls")
        if unlisted := set(self.sha256) - set(self.filenames):
            raise ValueError(f"sha256 of {min(unlisted)!r}, which is not among the filenames")
        return self


class _InfoFile(BaseModel):
    model_config = ConfigDict(strict=True)
    splits: Annotated[dict[str, SplitInfo], Field(min_length=1)]
    classes: Annotated[list[str], Field(min_length=1)] | None = None


@dataclass(frozen=True)
class DatasetInfo:
    """A data set as its `_info.json` describes it. ``classes`` is None where the file lists none."""

    name: str
    folder: Path
    splits: dict[str, SplitInfo]
    classes: tuple[str, ...] | None

    def location(self, filename: str) -> str:
        """Where a shard of `_info.json` lies."""
        return str(self.folder / filename)


def open_dataset(name: str | Path) -> DatasetInfo:
    """Find a data set and read its `_info.json`; no shard is opened.

    ``name`` is ``digits``, a folder, or the bare name of a folder in ``$GRAFS_TIMM_DATA`` or ``./data``.
    UnknownNameError where there is no such data set, DataError where its `_info.json` is missing or wrong.
    """
    folder = _find(name)
    path = folder / "_info.json"
    try:
        info = _InfoFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder}: no _info.json; the smallest valid one: {SMALLEST_INFO}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{path}: {where}: {message}; the smallest valid one: {SMALLEST_INFO}") from None
    return DatasetInfo(folder.name, folder, info.splits, tuple(info.classes) if info.classes else None)


def _find(name: str | Path) -> Path:
    text = str(name)
    if text in EMBEDDED:
        return EMBEDDED[text]
    places = [Path(place) for place in (os.environ.get("GRAFS_TIMM_DATA"), "data") if place]
    bare = text == Path(text).name and text not in (".", "..", "")
    for folder in [place / text for place in places if bare] + [Path(text).expanduser()]:
        if text and folder.is_dir():
            return folder
    known = [*EMBEDDED, *(info.parent.name for place in places for info in sorted(place.glob("*/_info.json")))]
    raise UnknownNameError(f"no data set {text!r}{nearest(text, dict.fromkeys(known))}. {ACCEPTED}")


# ------------------------------------------------------------------------------------------------------- shards


_Job = tuple[Path, int, str | None, int | None]  # the arguments of read_shard
_LARGE = 16_384  # bytes of an image file, about 128×128 pixels


def load_split(info: DatasetInfo, split: str, limit: int | None = None, device: str | torch.device = "cpu") -> ImageSet:
    """Read a split onto ``device``, in shard order.

    ``limit`` takes that many images at most, as many of each class as there are to take, and reads no more shards than
    that needs. A set whose every image is grey has one channel, also where the file format knows only colour (WebP).
    Without ``classes`` in `_info.json` the class count is the highest label read plus one.

    UnknownNameError for a split that isn't there; DataError, naming shard and sample, for a missing, altered, truncated
    or corrupt shard, a count other than promised, a sample without image or label, a label outside the classes, an
    image that cannot be decoded or is of another size.
    """
    if split not in info.splits:
        raise UnknownNameError(f"{info.name} has no split {split!r}{nearest(split, info.splits)}")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1 image, got {limit}")
    spec = info.splits[split]
    limit = min(limit or spec.num_samples, spec.num_samples)
    classes = len(info.classes) if info.classes else None
    jobs: list[_Job] = [
        (info.folder / name, length, spec.sha256.get(name), classes)
        for name, length in zip(spec.filenames, spec.shard_lengths, strict=True)
    ]
    for path, *_ in jobs:
        if not path.is_file():
            raise DataError(f"{path}: no such shard, though {info.folder / '_info.json'} lists it")
    needed = int(np.searchsorted(np.cumsum(spec.shard_lengths), limit)) + 1
    shards = _read_all(jobs[:needed])
    for job in jobs[needed:]:  # shards that hold few classes each: on until the rarest can be had in equal part
        labels = np.concatenate([shard.labels for shard in shards])
        if np.bincount(labels, minlength=classes or 0).min() >= limit // (classes or int(labels.max()) + 1):
            break
        shards.append(read_shard(*job))
    images, labels = _joined(shards)
    if limit < len(labels):
        kept = _balanced(labels, limit)
        images, labels = images[kept], labels[kept]
    names = info.classes or tuple(str(label) for label in range(int(labels.max()) + 1))
    return ImageSet(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device), names)


def _read_all(jobs: Sequence[_Job]) -> list[Shard]:
    """The shards of ``jobs`` in order, in threads where the images are large.

    Decoding a large image leaves the interpreter to others; with small ones the threads only wait for each other. No
    processes: to start them safely a caller's script would need a guarded ``__main__``.
    """
    bytes_each = sum(path.stat().st_size for path, *_ in jobs) / sum(length for _, length, *_ in jobs)
    if bytes_each < _LARGE or len(jobs) == 1:
        return [read_shard(*job) for job in jobs]
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
        try:
            return list(pool.map(lambda job: read_shard(*job), jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what is wrong with one shard need not wait for the others
            raise


def _joined(shards: Sequence[Shard]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    first = shards[0]
    for shard in shards:
        if shard.images.shape[2:] != first.images.shape[2:]:
            sizes = f"{size(shard.images[0, 0])}, those of {first.path.name} {size(first.images[0, 0])}"
            raise DataError(f"{shard.path}: images of {sizes}; all must be of one size")
    channels = max(shard.images.shape[1] for shard in shards)
    images = [np.broadcast_to(s.images, (len(s.images), channels, *s.images.shape[2:])) for s in shards]
    return np.concatenate(images), np.concatenate([shard.labels for shard in shards])


def _balanced(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices, ascending, of the first ``count`` samples taken in turns from the classes."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[of_class] = np.arange(len(of_class))
    return np.sort(np.argsort(rank, kind="stable")[:count])


# --------------------------------------------------------------------------------------------- images and batches


@dataclass(frozen=True)
class ImageSet:
    """Labelled images on one device: ``images`` uint8 [N,C,H,W], ``labels`` int64 [N], ``classes`` their names."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # From the counts of the 256 levels: exact, in any number of images, without a float copy of them.
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for channel in self.images.unbind(1):
            share = torch.bincount(channel.flatten(), minlength=256).cpu().double() / channel.numel()
            mean.append(float(share @ levels))
            std.append(float((share @ (levels - mean[-1]).square()).sqrt()))
        return tuple(mean), tuple(std)

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, of the pixels as numbers in [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel, of the pixels as numbers in [0, 1] (divided by N, not N−1)."""
        return self._moments[1]

    def to(self, device: str | torch.device) -> ImageSet:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor | Sequence[int]) -> ImageSet:
        """The images at ``indices``, in that order; the classes stay."""
        index = torch.as_tensor(indices, dtype=torch.int64, device=self.labels.device)
        return replace(self, images=self.images[index], labels=self.labels[index])

    def split(self, fraction: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """(weights part, architecture part): ``fraction`` of every class, and the rest of it, drawn from ``seed``.

        A class of two or more images is in both parts. DataError for a fraction that leaves a part empty.
        """
        if not 0 < fraction < 1:
            raise DataError(f"the weights' part must be a fraction between 0 and 1, got {fraction}")
        generator, labels = seeded(seed, 0, 0, _SPLIT), self.labels.cpu()
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for label in range(self.num_classes):
            members = (labels == label).nonzero().flatten()
            members = members[torch.randperm(len(members), generator=generator)]
            count = min(max(round(fraction * len(members)), 1), max(len(members) - 1, 1))
            parts[0].append(members[:count])
            parts[1].append(members[count:])
        weights, architecture = (torch.cat(part).sort().values for part in parts)
        if not len(architecture):
            raise DataError(f"{len(self)} images of {self.num_classes} classes are too few to split")
        return self.subset(weights), self.subset(architecture)


_ORDER, _AUGMENT, _SPLIT = 1, 2, 3  # what a generator is for: different streams from one seed


def seeded(seed: int, epoch: int, step: int, purpose: int, rank: int = 0) -> torch.Generator:
    """A CPU generator that depends on these five numbers alone: a resumed run draws what it would have drawn."""
    numbers = [seed % 2**64, epoch, step, purpose, *([rank] if rank else [])]
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


class Batches:
    """Batches of an `ImageSet`: shuffled, augmented and normalised, the same for the same (seed, epoch, step).

    ``augment`` names any of `augment.AUGMENTATIONS`; ``crop_padding`` is in pixels. ``mean`` and ``std`` (per channel,
    in [0, 1] units) default to the set's own: give the training set's for another one. ``dtype`` is the images' dtype.
    ``share`` (rank, of how many): the batches are the same for all and each rank gets its equal part of each, augmented by
    draws of its own. DataError where the set is smaller than one batch and ``drop_last`` would leave none, or where batches
    do not divide into equal parts.
    """

    def __init__(
        self,
        imageset: ImageSet,
        batch_size: int,
        *,
        augment: str | Iterable[str] = (),
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
        crop_padding: int = 4,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        rank, ranks = share
        if batch_size % ranks or (ranks > 1 and not drop_last):
            raise DataError(f"batches of {batch_size}{'' if drop_last else ' or less'} do not divide into {ranks} equal parts")
        if batch_size < 1 or not len(imageset) or (drop_last and len(imageset) < batch_size):
            raise DataError(f"{len(imageset)} images do not fill one batch of {batch_size}")
        self.imageset, self.batch_size, self.seed = imageset, batch_size, seed
        self.augment, self.crop_padding = checked(augment), crop_padding
        self.shuffle, self.drop_last, self.dtype = shuffle, drop_last, dtype
        self.rank, self.part = rank, batch_size // ranks
        channels = imageset.images.shape[1]
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != channels:
                raise DataError(f"{name} of {len(values)} channels for images of {channels}")
        centre = torch.tensor(imageset.mean if mean is None else mean, dtype=torch.float64)
        # One grey level at least: a channel that is constant must not be divided by zero.
        scale = torch.tensor(imageset.std if std is None else std, dtype=torch.float64).clamp(min=1 / 255)
        device = imageset.images.device
        self._factor = (1 / (255 * scale)).float().to(device)[:, None, None]
        self._offset = (-centre / scale).float().to(device)[:, None, None]

    def __len__(self) -> int:
        """Batches in an epoch."""
        count = len(self.imageset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """int64 [N] on the CPU: the order of the images in an epoch, a function of (seed, epoch) alone."""
        count = len(self.imageset)
        if not self.shuffle:
            return torch.arange(count)
        return torch.randperm(count, generator=seeded(self.seed, epoch, 0, _ORDER))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images ``dtype`` [B,C,H,W] normalised, labels int64 [B]) for every step from ``start`` on; B is the rank's part."""
        order = self.order(epoch).to(self.imageset.labels.device)
        for step in range(start, len(self)):
            begin = step * self.batch_size + self.rank * self.part
            index = order[begin : begin + self.part]
            images = self.imageset.images[index]
            if self.augment:
                generator = seeded(self.seed, epoch, step, _AUGMENT, self.rank)
                images = apply_augmentations(images, self.augment, generator, self.crop_padding)
            yield (images * self._factor + self._offset).to(self.dtype), self.imageset.labels[index]
