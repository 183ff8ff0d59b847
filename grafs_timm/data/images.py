"""webdataset shards -> batches, held on the device.

A data set is a folder of tars (``.tar``, ``.tar.gz`` and such) with ``KEY.webp|png|jpg`` and ``KEY.cls`` (the label as text)
and the ``_info.json`` that timm's own webdataset reader takes. `open_dataset` reads that file, `load_split` the shards
it names into an `ImageSet`, and `Batches` draws augmented, normalised batches from one.
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

# --------------------------------------------------------------------------------------------------- shards -> images


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
    """Read a split onto ``device``, in shard order.

    ``limit`` takes that many images at most, as many of each class as there are to take, and reads no more shards than
    that needs. Without ``classes`` in `_info.json` the class count is the highest label read plus one.

    Images are brought to ``image_size`` pixels square (short side by antialiased bicubic, then the centre) and to ``channels``:
    grey is repeated to 3, colour becomes its ITU-R BT.601 luma at 1. With None a set whose every image is grey has one channel,
    also where the file format knows only colour (WebP), any other three. `ImageSet.notices` says what was converted.

    UnknownNameError for a split that isn't there; DataError, naming shard and sample, for a missing, altered, truncated
    or corrupt shard, a count other than promised, a sample without image or label, a label outside the classes, an
    image that cannot be decoded or, without ``image_size``, is of another size. ``on_bad_shard="skip"`` leaves such a shard
    out, with a notice; DataError where no shard is left.
    """
    what = (info, split, limit, image_size, channels, on_bad_shard)
    found = keeper(_identity(*what), lambda: _load_split(*what)) if keeper else _load_split(*what)
    return found.to(device)


# (what determines the images or None where that can't be told, reads them) -> the images; set by `grafs_timm.warm` alone
keeper: Callable[[str | None, Callable[[], ImageSet]], ImageSet] | None = None


def _identity(info: DatasetInfo, split: str, *settings: object) -> str | None:
    """Other text for other images: shards that were written anew differ in size or time. None where one can't be looked at."""
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
        f"the images of {info.name}, {split}, are more than is loaded whole; data.loading: stream reads them while training, "
        "data.image_size makes them smaller",
    )
    jobs: list[_Job] = [
        (info.location(name), length, spec.sha256.get(name), classes, Wanted(image_size, channels), budget)
        for name, length in zip(spec.filenames, spec.shard_lengths, strict=True)
    ]
    if on_bad_shard == "raise" and isinstance(info.folder, Path):
        for location, *_ in jobs:
            if not Path(location).is_file():
                lists = f"though {info.folder / '_info.json'} lists it"
                raise DataError(f"{location}: no such shard, {lists} (data.on_bad_shard: skip goes on without)")
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
    """Shards from the first on, until ``limit`` images can be taken in equal parts of the classes."""
    needed = int(np.searchsorted(np.cumsum([length for _, length, *_ in jobs]), limit)) + 1
    read = _read_all(jobs[:needed], skip)
    for job in jobs[needed:]:  # where a shard was bad, or shards hold few classes each
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
    """The shards of ``jobs`` in order, in threads where the images are large or come from afar.

    Decoding a large image leaves the interpreter to others; with small ones the threads only wait for each other. No
    processes: to start them safely a caller's script would need a guarded ``__main__``.
    """
    files = [Path(location) for location, *_ in jobs if Path(location).is_file()]
    bytes_each = sum(file.stat().st_size for file in files) / sum(length for _, length, *_ in jobs)
    if len(jobs) == 1 or (files and bytes_each < _LARGE):
        return [_read(job, skip) for job in jobs]
    with ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool:
        try:
            return list(pool.map(lambda job: _read(job, skip), jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what is wrong with one shard need not wait for the others
            raise


def _joined(shards: Sequence[Shard], channels: int | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    first = shards[0]
    for shard in shards:
        if shard.images.shape[2:] != first.images.shape[2:]:
            sizes = f"{size(shard.images[0, 0])}, those of {Path(first.location).name} {size(first.images[0, 0])}"
            raise DataError(f"{shard.location}: images of {sizes}; set data.image_size to bring all to one")
    channels = max(channels or 1, *(shard.images.shape[1] for shard in shards))
    images = [np.broadcast_to(s.images, (len(s.images), channels, *s.images.shape[2:])) for s in shards]
    return np.concatenate(images), np.concatenate([shard.labels for shard in shards])


def _notices(
    what: str, shards: Sequence[Shard], channels: int, wanted: Wanted, bad: Sequence[DataError], tried: int
) -> tuple[str, ...]:
    """A line for each thing that was done to the images, and for each shard left out."""
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
    """Indices, ascending, of the first ``count`` samples taken in turns from the classes."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[of_class] = np.arange(len(of_class))
    return np.sort(np.argsort(rank, kind="stable")[:count])


# --------------------------------------------------------------------------------------------- images and batches


@dataclass(frozen=True)
class ImageSet:
    """Labelled images on one device: ``images`` uint8 [N,C,H,W], ``labels`` int64 [N], ``classes`` their names.

    ``notices``: what was converted or left out when they were read, a line each, for the caller to say.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    notices: tuple[str, ...] = ()

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
        levels = torch.arange(256, dtype=torch.float64, device="cpu") / 255
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
    """Return float32 [C,1,1] factor and offset that turn pixels in 0..255 into ones of mean 0 and standard deviation 1.

    Args:
        mean: Per channel, of pixels in [0, 1].
        std: Likewise.
        device: Where the two are put.
    """
    centre, scale = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (mean, std))
    factor, offset = 1 / (255 * scale), -centre / scale
    return factor.float().to(device)[:, None, None], offset.float().to(device)[:, None, None]


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
                raise DataError(f"{name} of {len(values)} channels for images of {channels}; data.channels brings all to one")
        # One grey level at least: a channel that is constant must not be divided by zero.
        scale = [max(value, 1 / 255) for value in (imageset.std if std is None else std)]
        device = imageset.images.device
        self._factor, self._offset = normalisation(imageset.mean if mean is None else mean, scale, device)

    def __len__(self) -> int:
        """Batches in an epoch."""
        count = len(self.imageset)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """int64 [N] on the CPU: the order of the images in an epoch, a function of (seed, epoch) alone."""
        count = len(self.imageset)
        if not self.shuffle:
            return torch.arange(count, device="cpu")
        return torch.randperm(count, generator=seeded(self.seed, epoch, 0, ORDER), device="cpu")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images ``dtype`` [B,C,H,W] normalised, labels int64 [B]) for every step from ``start`` on; B is the rank's part."""
        order = self.order(epoch).to(self.imageset.labels.device)
        for step in range(start, len(self)):
            begin = step * self.batch_size + self.rank * self.part
            index = order[begin : begin + self.part]
            images = self.imageset.images[index]
            if self.augment:
                generator = seeded(self.seed, epoch, step, AUGMENT, self.rank)
                images = apply_augmentations(images, self.augment, generator, self.crop_padding)
            yield (images * self._factor + self._offset).to(self.dtype), self.imageset.labels[index]
