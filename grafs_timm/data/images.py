"""Load a split of images onto the device, and draw batches from it.

A data set is a folder of tars (``.tar``, ``.tar.gz`` and such) with ``KEY.webp|png|jpg`` and ``KEY.cls`` (the label as text)
and the ``_info.json`` that timm's own webdataset reader takes. `open_dataset` reads that file, `load_split` loads the shards
it names as an `ImageSet`, and `Batches` draws augmented, normalised batches from one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from ..utils import limits
from .augment import augment as apply_augmentations
from .augment import checked
from .datasets import open_dataset as open_dataset
from .draws import AUGMENT, ORDER, SPLIT, seeded
from .info import DatasetInfo as DatasetInfo
from .shards import Shard, Wanted, read_shard, size

_Job = tuple[str, int, str | None, int | None, Wanted, limits.Budget]  # the arguments of read_shard
_LARGE = 16_384  # bytes of an image file, about 128×128 pixels


def load_split(
    info: DatasetInfo,
    split: str,
    limit: int | None = None,
    device: str | torch.device = "cpu",
    *,
    image_size: int | None = None,
    channels: Literal[1, 3] | None = None,
    on_bad_shard: Literal["raise", "skip"] = "raise",
) -> ImageSet:
    """Load a split onto ``device``, in shard order.

    Without ``classes`` in `_info.json` the number of classes is the highest label read plus one.

    Args:
        info: The data set, from `open_dataset`.
        split: The split's name.
        limit: Load at most this many images, balanced over the classes, and read no more shards than that needs.
        device: Where images and labels are put.
        image_size: Resize images to this many pixels square: the short side by antialiased bicubic interpolation, then a
            centre crop. By default all must have one size.
        channels: Convert images to 1 channel (ITU-R BT.601 luma) or 3 (grey repeated). By default a set has one channel if all
            its images are grey, even in a format that stores only colour (WebP), else three.
        on_bad_shard: ``"skip"`` leaves out a missing or damaged shard, with a notice, instead of raising.

    Returns:
        The images and labels; ``notices`` says what was converted or left out.

    Raises:
        UnknownNameError: There is no such split.
        DataError: A shard is missing, altered, truncated or corrupt or holds another number of samples; a sample lacks an
            image or a label, or has one that cannot be read. The message names shard and sample. With ``"skip"``: no shard is
            left.

    >>> images = load_split(open_dataset("digits"), "test", limit=20)
    >>> images.images.shape, images.labels.bincount().tolist()
    (torch.Size([20, 1, 8, 8]), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    what = (info, split, limit, image_size, channels, on_bad_shard)
    found = keeper(_identity(*what), lambda: _load_split(*what)) if keeper else _load_split(*what)
    return found.to(device)


# (a key of the images or None if there is none, a function that reads them) -> the images; set by `cli.warm` alone
keeper: Callable[[str | None, Callable[[], ImageSet]], ImageSet] | None = None


def _identity(info: DatasetInfo, split: str, *settings: object) -> str | None:
    """Return a key that changes with the images: rewritten shards differ in size or time. None if one is missing."""
    if not isinstance(info.folder, Path):
        return None
    try:
        found = [Path(info.location(name)).stat() for name in info.split(split).filenames]
    except OSError:
        return None
    return repr((info, split, settings, Path.cwd(), [(each.st_ino, each.st_size, each.st_mtime_ns) for each in found]))


def _load_split(
    info: DatasetInfo, split: str, limit: int | None, image_size: int | None, channels: Literal[1, 3] | None,
    on_bad_shard: Literal["raise", "skip"],
) -> ImageSet:  # fmt: skip
    spec = info.split(split)
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1 image, got {limit}")
    limit = min(limit or spec.num_samples, spec.num_samples)
    classes = len(info.classes) if info.classes else None
    budget = limits.Budget(
        limits.RESIDENT,
        f"the images of {info.name}, {split}, are too large to load whole; set data.loading=stream, or a smaller "
        "data.image_size",
    )
    jobs: list[_Job] = [
        (info.location(name), length, spec.sha256.get(name), classes, Wanted(image_size, channels), budget)
        for name, length in zip(spec.filenames, spec.shard_lengths, strict=True)
    ]
    if on_bad_shard == "raise" and isinstance(info.folder, Path):
        for location, *_ in jobs:
            if not Path(location).is_file():
                lists = f"though {info.folder / '_info.json'} lists it"
                raise DataError(f"{location}: no such shard, {lists}; set data.on_bad_shard=skip to ignore missing shards")
    read = _read_enough(jobs, limit, classes, on_bad_shard == "skip")
    shards = [shard for shard in read if isinstance(shard, Shard)]
    bad = [error for error in read if isinstance(error, DataError)]
    if not shards:
        raise DataError(f"{info.name}: every shard of split {split} is bad; the first: {bad[0]}")
    images, labels = _joined(shards, channels)
    notices = _notices(f"{info.name}, {split}", shards, images.shape[1], Wanted(image_size, channels), bad, len(read))
    if limit < len(labels):
        kept = _balanced(labels, limit)
        images, labels = images[kept], labels[kept]
    names = info.classes or tuple(str(label) for label in range(int(labels.max()) + 1))
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), names, notices)


def _read_enough(jobs: Sequence[_Job], limit: int, classes: int | None, skip: bool) -> list[Shard | DataError]:
    """Read shards in order until ``limit`` images, balanced over the classes, can be taken."""
    needed = int(np.searchsorted(np.cumsum([length for _, length, *_ in jobs]), limit)) + 1
    read = _read_all(jobs[:needed], skip)
    for job in jobs[needed:]:  # if a shard was bad, or shards hold few classes each
        labels = np.concatenate([[], *(shard.labels for shard in read if isinstance(shard, Shard))]).astype(np.int64)
        if len(labels) >= limit and _rarest(labels, classes) >= limit // (classes or int(labels.max()) + 1):
            break
        read.append(_read(job, skip))
    return read


def _rarest(labels: NDArray[np.int64], classes: int | None) -> int:
    return int(np.bincount(labels, minlength=classes or 0).min())


def _read(job: _Job, skip: bool) -> Shard | DataError:
    try:
        return read_shard(*job)
    except DataError as error:
        if not skip:
            raise
        return error


def _read_all(jobs: Sequence[_Job], skip: bool) -> list[Shard | DataError]:
    """Read the shards of ``jobs`` in order, in threads if the images are large or remote.

    Decoding releases the GIL, which pays for large images only. No processes: starting them safely would need a guarded
    ``__main__`` in the caller's script.
    """
    files = [Path(location) for location, *_ in jobs if Path(location).is_file()]
    bytes_each = sum(file.stat().st_size for file in files) / sum(length for _, length, *_ in jobs)
    if len(jobs) == 1 or (files and bytes_each < _LARGE):
        return [_read(job, skip) for job in jobs]
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
        try:
            return list(pool.map(lambda job: _read(job, skip), jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # report the first bad shard without reading the others
            raise


def _joined(shards: Sequence[Shard], channels: int | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    first = shards[0]
    for shard in shards:
        if shard.images.shape[2:] != first.images.shape[2:]:
            sizes = f"{size(shard.images[0, 0])}, those of {Path(first.location).name} {size(first.images[0, 0])}"
            raise DataError(f"{shard.location}: images of {sizes}; set data.image_size to resize all to one size")
    channels = max(channels or 1, *(shard.images.shape[1] for shard in shards))
    images = [np.broadcast_to(s.images, (len(s.images), channels, *s.images.shape[2:])) for s in shards]
    return np.concatenate(images), np.concatenate([shard.labels for shard in shards])


def _notices(
    what: str, shards: Sequence[Shard], channels: int, wanted: Wanted, bad: Sequence[DataError], tried: int
) -> tuple[str, ...]:
    """Return a line for each kind of conversion, and one for the shards left out."""
    total = sum(len(shard.labels) for shard in shards)
    resized, greyed = sum(shard.resized for shard in shards), sum(shard.greyed for shard in shards)
    repeated = sum(len(s.labels) if s.images.shape[1] < channels else s.repeated for s in shards)
    lines = []
    if resized:
        lines.append(f"{what}: {resized} of {total} images resized to {wanted.image_size}×{wanted.image_size}, centre kept")
    if greyed:
        lines.append(f"{what}: {greyed} of {total} colour images made grey (BT.601 luma)")
    if repeated:
        lines.append(f"{what}: {repeated} of {total} grey images repeated to 3 channels")
    if bad:
        lines.append(f"{what}: {len(bad)} of {tried} shards left out: {'; '.join(map(str, bad))}")
    return tuple(lines)


def _balanced(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return ascending indices of the first ``count`` samples taken in turn from the classes."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[of_class] = np.arange(len(of_class))
    return np.sort(np.argsort(rank, kind="stable")[:count])


# --------------------------------------------------------------------------------------------- images and batches


@dataclass(frozen=True)
class ImageSet:
    """Labelled images on one device.

    Args:
        images: uint8 [N,C,H,W].
        labels: int64 [N].
        classes: Class names by label.
        notices: What was converted or left out on loading, a line each, for the caller to report.

    >>> images = ImageSet(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.arange(10) % 2, ("cat", "dog"))
    >>> len(images), images.shape, images.num_classes
    (10, (3, 8, 8), 2)
    >>> [part.labels.bincount().tolist() for part in images.split(0.6)]
    [[3, 3], [2, 2]]
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # from the counts of the 256 levels: exact for any number of images, without a float copy of them
        levels = torch.arange(256, dtype=torch.float64, device="cpu") / 255
        mean, std = [], []
        for channel in self.images.unbind(1):
            share = torch.bincount(channel.flatten(), minlength=256).cpu().double() / channel.numel()
            mean.append(float(share @ levels))
            std.append(float((share @ (levels - mean[-1]).square()).sqrt()))
        return tuple(mean), tuple(std)

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean per channel, of pixels in [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation per channel, of pixels in [0, 1] (divided by N, not N−1)."""
        return self._moments[1]

    def to(self, device: str | torch.device) -> ImageSet:
        """Return the images on ``device``."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def subset(self, indices: Tensor | Sequence[int]) -> ImageSet:
        """Return the images at ``indices``, in that order, with the same classes."""
        index = torch.as_tensor(indices, dtype=torch.int64, device=self.labels.device)
        return replace(self, images=self.images[index], labels=self.labels[index])

    def split(self, fraction: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Split each class at random into a weights part and an architecture part.

        Args:
            fraction: The share of each class in the first part. A class of two or more images is in both parts.
            seed: Determines the draw.

        Raises:
            DataError: The fraction leaves a part empty.
        """
        if not 0 < fraction < 1:
            raise DataError(f"the weights' part must be a fraction between 0 and 1, got {fraction}")
        generator, labels = seeded(seed, 0, 0, SPLIT), self.labels.cpu()
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for label in range(self.num_classes):
            members = (labels == label).nonzero().flatten()
            members = members[torch.randperm(len(members), generator=generator, device="cpu")]
            count = min(max(round(fraction * len(members)), 1), max(len(members) - 1, 1))
            parts[0].append(members[:count])
            parts[1].append(members[count:])
        weights, architecture = (torch.cat(part).sort().values for part in parts)
        if not len(architecture):
            raise DataError(f"{len(self)} images of {self.num_classes} classes are too few to split")
        return self.subset(weights), self.subset(architecture)


def normalisation(mean: Sequence[float], std: Sequence[float], device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Return factor and offset, float32 [C,1,1], that normalise pixels 0..255 by ``mean`` and ``std`` of pixels in [0, 1]."""
    centre, scale = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (mean, std))
    factor, offset = 1 / (255 * scale), -centre / scale
    return factor.float().to(device)[:, None, None], offset.float().to(device)[:, None, None]


class Batches:
    """Shuffled, augmented and normalised batches of an `ImageSet`; each depends on (seed, epoch, step) alone.

    Args:
        imageset: The images to draw from.
        batch_size: Images per batch over all ranks.
        augment: Names from `augment.AUGMENTATIONS`.
        seed: Determines order and augmentation.
        shuffle: Draw a new order for each epoch.
        drop_last: Leave out a last batch that would be smaller.
        mean: Per channel, of pixels in [0, 1]; the set's own by default. Pass the training set's for a test set.
        std: Likewise.
        dtype: The dtype of the images returned.
        crop_padding: Pixels of padding for the augmentation ``crop``.
        share: This process's rank and the number of ranks: each gets an equal part of every batch, with its own augmentation.

    Raises:
        DataError: The set is smaller than one batch and ``drop_last`` would leave none, or batches do not divide equally.

    >>> images = ImageSet(torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.arange(10) % 2, ("cat", "dog"))
    >>> batches = Batches(images, 4, augment="flip", seed=1)
    >>> [(tuple(x.shape), x.dtype, len(y)) for x, y in batches.epoch(0)]
    [((4, 3, 8, 8), torch.float32, 4), ((4, 3, 8, 8), torch.float32, 4)]
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
                raise DataError(f"{name} of {len(values)} channels for images of {channels}; set data.channels to convert all")
        # at least one grey level: a constant channel must not be divided by zero
        scale = [max(value, 1 / 255) for value in (imageset.std if std is None else std)]
        device = imageset.images.device
        self._factor, self._offset = normalisation(imageset.mean if mean is None else mean, scale, device)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        count = len(self.imageset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Return the order of the images in an epoch, int64 [N] on the CPU; depends on (seed, epoch) alone."""
        count = len(self.imageset)
        if not self.shuffle:
            return torch.arange(count, device="cpu")
        return torch.randperm(count, generator=seeded(self.seed, epoch, 0, ORDER), device="cpu")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images ``dtype`` [B,C,H,W] normalised, labels int64 [B]) from step ``start`` on; B is the rank's part."""
        order = self.order(epoch).to(self.imageset.labels.device)
        for step in range(start, len(self)):
            begin = step * self.batch_size + self.rank * self.part
            index = order[begin : begin + self.part]
            images = self.imageset.images[index]
            if self.augment:
                generator = seeded(self.seed, epoch, step, AUGMENT, self.rank)
                images = apply_augmentations(images, self.augment, generator, self.crop_padding)
            yield (images * self._factor + self._offset).to(self.dtype), self.imageset.labels[index]
