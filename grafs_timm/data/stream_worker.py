"""The worker processes of `streaming.Stream`: read a part of an epoch, mix, decode, augment and collate it.

The samples of an epoch form one line, shard after shard, in an order drawn from (seed, epoch). Rank after rank and worker after
worker takes the next piece of it, as long as its batches need: so no sample comes twice, every batch is full, and there may be
fewer shards than workers. If a piece begins within a shard, the samples before it are skipped undecoded.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import DataError
from ..utils import limits
from .draws import STREAM_AUGMENT, STREAM_MIX, STREAM_ORDER, number
from .shards import decode, within_reach
from .tar_stream import Sample, read_samples


@dataclass(frozen=True)
class Task:
    """What a rank's workers share, the same for every epoch. ``bounds``: where the rank's evaluation batches begin and end."""

    shards: tuple[tuple[str, int], ...]  # location, samples
    classes: int
    train: bool
    seed: int
    part: int  # samples of a batch that are this rank's
    steps: int
    rank: int
    workers: int
    buffer: int
    skip: bool  # go on past damaged samples and shards
    channels: int
    size: tuple[int, int]  # H, W of the output
    one_size: bool  # images of another size are refused
    untouched: bool  # images of that size are not transformed
    transform: Callable[[Any], Any]
    bounds: tuple[int, ...] = ()
    reach: int = 0  # pixels to which the transform resizes the short side before it crops; 0 if it crops first
    held: int = 1 << 40  # bytes of files that a worker's buffer may hold

    @property
    def count(self) -> int:
        """Samples in all shards."""
        return sum(length for _, length in self.shards)


@dataclass
class Item:
    """What is sent to the main process: a batch, or None with the messages since the last one."""

    images: Tensor | None = None
    labels: NDArray[np.int64] | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    notices: dict[str, str] = field(default_factory=dict)  # kind -> text
    error: str | None = None

    def pin_memory(self) -> Item:
        """Pin the images; called by the loader if batches go to a GPU."""
        self.images = self.images if self.images is None else self.images.pin_memory()
        return self


class Mixer:
    """A shuffle buffer, whose order depends on the generator, its size and the number of items alone.

    It yields once a quarter full, and takes in two items for each one yielded until it is full.
    """

    def __init__(self, source: Iterable[Any], size: int, generator: random.Random) -> None:
        self.buffer: list[Any] = []
        self._source, self._size, self._generator = iter(source), max(size, 1), generator

    def __iter__(self) -> Iterator[Any]:
        begin = max(self._size // 4, 1)
        for item in self._source:
            self.buffer.append(item)
            if len(self.buffer) < self._size:
                self.buffer.extend(itertools.islice(self._source, 1))
            if len(self.buffer) >= begin:
                yield self._pick()
        while self.buffer:
            yield self._pick()

    def _pick(self) -> Any:
        index, buffer = int(self._generator.random() * len(self.buffer)), self.buffer
        buffer[index], buffer[-1] = buffer[-1], buffer[index]
        return buffer.pop()


def has_colour(image: Image.Image) -> bool:
    """Return whether any pixel is not grey; WebP stores grey images as RGB."""
    if image.mode == "L":
        return False
    pixels = np.asarray(image)
    return not (pixels == pixels[..., :1]).all()


class Worker(IterableDataset[Item]):
    """The batches of an epoch; each of the loader's processes makes every ``workers``-th of them.

    ``place``, int64 [2] in shared memory, holds epoch and first step, since the processes outlive an epoch.
    """

    def __init__(self, task: Task, place: Tensor) -> None:
        self.task, self.place = task, place
        self.epoch = self.start = 0
        self._item = Item()
        self._said: set[str] = set()  # kinds of notices
        self._skipped: set[str] = set()  # shards
        self._first_damage = ""
        self._held = 0  # bytes of the files in the buffer

    def __iter__(self) -> Iterator[Item]:
        self.epoch, self.start = self.place.tolist()
        self._held = 0
        self._item, self._said, self._skipped = Item(), set(), set()  # an epoch that was abandoned may have left some
        info = get_worker_info()
        own = ((info.id if info else 0) + self.start) % self.task.workers
        try:
            for step, samples, spare in self._training(own) if self.task.train else self._evaluation(own):
                if batch := self._batch(step, samples, spare):
                    images, labels = zip(*batch, strict=True)
                    self._item.images, self._item.labels = torch.stack(images), np.array(labels, np.int64)
                yield self._handed()  # even an empty one: the loader takes from workers in turn
        except DataError as error:
            self._item.error = str(error)
        if self._item != Item():
            yield self._handed()

    def _handed(self) -> Item:
        item, self._item = self._item, Item()
        return item

    # ------------------------------------------------------------------------------------ which samples, in what order

    def _training(self, own: int) -> Iterator[tuple[int, list[Sample], Iterator[Sample]]]:
        """Yield (step, its samples, others to replace those that cannot be decoded) of the worker ``own``."""
        task, epoch = self.task, self.epoch
        order = np.random.default_rng(number(task.seed, epoch, STREAM_ORDER)).permutation(len(task.shards)).tolist()
        before = sum(len(range(worker, task.steps, task.workers)) for worker in range(own))
        begin = (task.rank * task.steps + before) * task.part
        count = len(range(own, task.steps, task.workers)) * task.part
        done = len(range(own, min(self.start, task.steps), task.workers)) * task.part
        seed = number(task.seed, epoch, task.rank, own, STREAM_MIX)
        needed = None
        if done and not task.skip:  # the order is known beforehand, so shards already used up need not be read
            needed = np.zeros(count, bool)
            needed[list(itertools.islice(Mixer(range(count), task.buffer, random.Random(seed)), done, None))] = True
        source: Iterator[Any] = self._line(order, begin, needed)
        if task.skip:
            source = self._good(source)
        mixer = Mixer(self._counted(itertools.islice(source, count)), task.buffer, random.Random(seed))
        mixed = itertools.islice(self._left(mixer), done, None)
        for step in range(own, task.steps, task.workers):
            if step >= self.start:
                samples = list(itertools.islice(mixed, task.part))
                yield step, samples, self._spare(mixer.buffer, order, begin + count)

    def _counted(self, source: Iterable[Any]) -> Iterator[Any]:
        """Yield what enters the buffer. DataError if its files exceed the memory allowed."""
        for sample in source:
            if sample is not None:
                self._held += len(sample.image)
                if self._held > self.task.held:
                    held = f"the files of data.shuffle_buffer ({self.task.buffer}); set a smaller one"
                    raise limits.RESIDENT.error(f"{sample.where}: {held}")
            yield sample

    def _left(self, mixer: Mixer) -> Iterator[Any]:
        for sample in mixer:
            if sample is not None:
                self._held -= len(sample.image)
            yield sample

    def _spare(self, buffer: list[Sample], order: list[int], end: int) -> Iterator[Sample]:
        # first the buffer, then what follows the worker's piece: known from the order alone
        yield from list(buffer)
        yield from itertools.islice(self._good(self._line(order, end)), self.task.count)
        raise DataError(f"{self.task.shards[0][0]} and the other shards: not one image can be decoded")

    def _evaluation(self, own: int) -> Iterator[tuple[int, list[Sample], Iterator[Sample]]]:
        bounds = self.task.bounds
        needed = np.zeros(bounds[-1] - bounds[0], bool)
        steps = [step for step in range(own, self.task.steps, self.task.workers) if step >= self.start]
        for step in steps:
            needed[bounds[step] - bounds[0] : bounds[step + 1] - bounds[0]] = True
        line, place = self._line(range(len(self.task.shards)), bounds[0], needed), bounds[0]
        for step in steps:
            found = list(itertools.islice(line, bounds[step] - place, bounds[step + 1] - place))
            place = bounds[step + 1]
            yield step, [sample for sample in found if sample is not None], iter(())

    def _line(self, order: Iterable[int], begin: int, needed: NDArray[np.bool_] | None = None) -> Iterator[Sample | None]:
        """Yield the samples from place ``begin`` of the line on, cyclically; None for a damaged one.

        ``needed`` tells of places from ``begin`` on whether they are; a shard without such a place is not opened.
        """
        place = -(begin % self.task.count)
        for shard in itertools.cycle(order):
            length = self.task.shards[shard][1]
            first, end = max(-place, 0), place + length
            if end > 0:
                read = needed is None or bool(needed[max(place, 0) : end].any())
                samples = self._shard(shard) if read else iter(())
                yield from itertools.islice(itertools.chain(samples, itertools.repeat(None)), first, length)
            place = end

    def _shard(self, index: int) -> Iterator[Sample | None]:
        location, length = self.task.shards[index]
        try:
            for found in read_samples(location, length, self.task.classes):
                if isinstance(found, DataError):
                    self._damaged(location, found)
                    yield None
                else:
                    yield found
        except DataError as error:
            self._damaged(location, error)

    def _good(self, line: Iterator[Sample | None]) -> Iterator[Sample]:
        missing, most = 0, self.task.count
        for sample in line:
            missing = missing + 1 if sample is None else 0
            if missing > most:
                reason = f"; the first reason: {self._first_damage}" if self._first_damage else ""
                raise DataError(f"{self.task.shards[0][0]} and the other shards: not one sample can be read{reason}")
            if sample is not None:
                yield sample

    def _damaged(self, shard: str, error: DataError) -> None:
        if not self.task.skip:
            raise error
        self._first_damage = self._first_damage or str(error)
        if shard not in self._skipped:
            self._skipped.add(shard)
            self._item.skipped[shard] = str(error).removeprefix(f"{shard}: ")

    # -------------------------------------------------------------------------------------------- from bytes to tensors

    def _batch(self, step: int, samples: list[Sample], spare: Iterator[Sample]) -> list[tuple[Tensor, int]]:
        # one seed per batch, since a resumed epoch begins with a batch
        seed = number(self.task.seed, self.epoch, step, self.task.rank, STREAM_AUGMENT)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        batch = []
        for sample in samples:
            tensor = self._tensor(sample)
            while tensor is None and self.task.train:
                sample = next(spare)
                tensor = self._tensor(sample)
            if tensor is not None:
                batch.append((tensor, sample.label))
        return batch

    def _tensor(self, sample: Sample) -> Tensor | None:
        """Return [C,H,W]; None if the image is damaged and to be skipped."""
        try:
            image = decode(sample.image, sample.extension, sample.where)
        except DataError as error:
            self._damaged(sample.shard, error)
            return None
        image = self._converted(image, sample)
        fits = image.size == self.task.size[::-1]
        if self.task.one_size and not fits:
            height, width = self.task.size
            raise DataError(
                f"{sample.where}: image of {image.height}×{image.width}, the first one {height}×{width}; "
                "set image_size to resize all to one size"
            )
        if fits and self.task.untouched:
            pixels = np.array(image)
            return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        try:
            return torch.as_tensor(self.task.transform(within_reach(image, self.task.reach) if self.task.reach else image))
        except Exception as error:
            raise DataError(f"{sample.where}: the transform fails on it: {type(error).__name__}: {error}") from error

    def _converted(self, image: Image.Image, sample: Sample) -> Image.Image:
        wanted = "L" if self.task.channels == 1 else "RGB"
        if image.mode == wanted:
            return image
        if wanted == "RGB":
            self._say("grey", f"grey images, such as {sample.where}, are converted to colour")
        elif "colour" not in self._said and has_colour(image):
            self._say("colour", f"colour images, such as {sample.where}, are converted to grey")
        return image.convert(wanted)

    def _say(self, kind: str, notice: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._item.notices[kind] = notice
