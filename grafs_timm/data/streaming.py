"""Stream batches from shards while training, for sets that do not fit the device (``data.loading: stream``).

`Stream` has the interface of `Batches`. Worker processes read the shards, decode images and apply timm's ``create_transform``
(`stream_worker`); batches travel as bytes and are normalised on the device.
"""

from __future__ import annotations

import inspect
import math
import multiprocessing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import DataError, GrafsWarning, RunError, UnknownNameError
from ..utils import limits
from ..utils.suggest import nearest
from .images import DatasetInfo, normalisation
from .shards import decode
from .stream_worker import Item, Task, Worker, has_colour
from .tar_stream import Sample, read_samples

# Arguments of create_transform that Stream sets itself or does not use, and what to set instead.
_OWN = {
    "input_size": "image_size", "is_training": "the split", "mean": "mean", "std": "std", "use_prefetcher": "", "normalize": "",
    "separate": "", "tf_preprocessing": "", "re_num_splits": "", "naflex": "", "patch_size": "", "max_seq_len": "",
    "patchify": "", "patchify_channels_last": "", "patchify_flatten": "",
}  # fmt: skip
_CROPS = {"crop_pct", "crop_mode", "crop_border_pixels"}
_EVALUATION = {"interpolation", *_CROPS}
_PATIENCE = 1800  # seconds without a batch after which a worker counts as dead
_PROBED = 16  # images decoded to tell a grey set from a colour one


class Stream:
    """Batches of a split, streamed from its shards; each depends on (seed, epoch, step), ``workers`` and ``share`` alone.

    In training the order of the shards is drawn from (seed, epoch), and samples are mixed within ``shuffle_buffer``. An epoch
    is ``num_samples // batch_size`` batches on every rank and takes no sample twice; the fewer than ``batch_size`` samples left
    out differ from epoch to epoch. In evaluation every sample comes once and in order, and the last batch is smaller.

    Args:
        info: The data set, from `open_dataset`.
        split: The split's name.
        batch_size: Images per step over all ranks.
        train: Whether to stream for training or for evaluation.
        seed: Determines order and augmentation.
        image_size: Pixels, square, that the transform resizes to; by default images keep their size, which must be the same.
        channels: 1 or 3, to which grey and colour images are converted; by default that of the first images.
        transform: Arguments of ``timm.data.create_transform``; in evaluation only crop and interpolation count, and images that
            have ``image_size`` already are left as they are unless a crop is given.
        mean: Per channel, of pixels in [0, 1]; timm's for ImageNet by default.
        std: Likewise.
        workers: Processes that read and decode.
        shuffle_buffer: Samples that each worker mixes, kept as files.
        on_bad_shard: ``"skip"`` replaces missing or damaged samples by others in training (the epoch keeps its length) and
            leaves them out in evaluation, with one warning per shard and the reasons in ``skipped``; ``"raise"`` raises.
        share: This process's rank and the number of ranks: each reads its own piece of an epoch, ``batch_size // ranks`` images
            a step. In evaluation sum over the ranks.
        num_classes: By default the number of classes in `_info.json`.
        device: Where batches are put.
        dtype: The dtype of the images returned.

    The sha256 of shards is not compared; `load_split` does that.

    Raises:
        UnknownNameError: There is no such split, or no such argument of ``create_transform``.
        DataError: Settings are impossible; from `epoch`, a shard is damaged or an image does not fit.
        RunError: From `epoch`, a worker process is lost.

    >>> from grafs_timm.data import open_dataset
    >>> stream = Stream(open_dataset("digits"), "test", 90, train=False, channels=1, workers=1)
    >>> [(tuple(images.shape), len(labels)) for images, labels in stream.epoch(0)]
    [((90, 1, 8, 8), 90), ((90, 1, 8, 8), 90), ((90, 1, 8, 8), 90), ((90, 1, 8, 8), 90)]
    >>> stream.close()
    """

    def __init__(
        self, info: DatasetInfo, split: str, batch_size: int, *, train: bool, seed: int = 0, image_size: int | None = None,
        channels: int | None = None, transform: Mapping[str, Any] | None = None, mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None, workers: int = 4, shuffle_buffer: int = 2048,
        on_bad_shard: Literal["raise", "skip"] = "raise", share: tuple[int, int] = (0, 1), num_classes: int | None = None,
        device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        spec = info.split(split)
        rank, ranks = share
        self.num_samples, self.device, self.dtype = spec.num_samples, torch.device(device), dtype
        self.skipped: dict[str, str] = {}
        self.notices: dict[str, str] = {}  # kinds of conversion, each reported once
        self._loader: DataLoader[Item] | None = None
        self._place, self._turn = torch.zeros(2, dtype=torch.int64, device="cpu").share_memory_(), 0
        _check_counts(batch_size, ranks, workers, shuffle_buffer, spec.num_samples, train)
        self.num_classes = num_classes or len(info.classes or ())
        if not self.num_classes:
            raise DataError(
                f"{info.name}: streaming needs the classes in _info.json; only a set that is loaded whole is read to count them"
            )
        shards = tuple(zip(map(info.location, spec.filenames), spec.shard_lengths, strict=True))
        arguments = _checked_arguments(transform or {}, train)
        size, found = ((image_size, image_size), channels) if image_size and channels else self._look(shards, on_bad_shard)
        self.channels, size = channels or found or 3, (image_size, image_size) if image_size else size
        self.image_shape = (self.channels, *size)
        self.mean, self.std = _moments(mean, std, self.channels)
        steps, bounds = _steps(spec.num_samples, batch_size, rank, ranks, train)
        # timm's random erasing follows the normalisation, so then workers do both
        self._normalised = bool(arguments.get("re_prob")) and train
        self._task = Task(
            shards=shards, classes=self.num_classes, train=train, seed=seed, part=batch_size // ranks, steps=steps, rank=rank,
            workers=min(workers, steps), buffer=shuffle_buffer, skip=on_bad_shard == "skip", channels=self.channels, size=size,
            one_size=not image_size, untouched=not train and not _CROPS & set(arguments),
            transform=_timm_transform(size, train, arguments, self.mean, self.std, prefetcher=not self._normalised),
            bounds=bounds, reach=_reach(size, train, arguments), held=limits.RESIDENT.value // min(workers, steps),
        )  # fmt: skip
        self._factor, self._offset = normalisation(self.mean, self.std, self.device)

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same on every rank."""
        return self._task.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images ``dtype`` [B,C,H,W] normalised, labels int64 [B]) from step ``start`` on; B is the rank's part.

        A stream yields one epoch at a time. Samples before ``start`` are not decoded, and shards that hold only such samples
        are not opened unless damaged ones are skipped.
        """
        if start >= len(self):
            return
        self._turn += 1
        turn = self._turn
        try:
            for item in self._begun(epoch, start):
                self._note(item)
                if item.images is not None and item.labels is not None:
                    yield self._finished(item.images), torch.from_numpy(item.labels).to(self.device)
                    if turn != self._turn:
                        break
        except Exception as error:
            self.close()  # at once: a traceback would keep the worker processes alive
            if isinstance(error, RuntimeError) and "DataLoader" in str(error):
                what = str(error).splitlines()[0]
                raise RunError(f"a worker process of the data stream was lost, perhaps out of memory: {what}") from error
            raise
        if turn != self._turn:
            raise RuntimeError("this epoch was ended by another epoch or by close(); open two streams to read two at once")

    def close(self) -> None:
        """End the worker processes; the next epoch starts new ones."""
        self._turn += 1
        self._loader = None

    def _begun(self, epoch: int, start: int) -> Iterator[Item]:
        """Return the workers' items; workers start in the first epoch and stay."""
        self._place.copy_(torch.tensor([epoch, start], device="cpu"))
        if self._loader is None:
            self._loader = DataLoader(
                Worker(self._task, self._place), batch_size=None, num_workers=self._task.workers, collate_fn=_as_it_is,
                pin_memory=self.device.type == "cuda", timeout=_PATIENCE, persistent_workers=True,
                multiprocessing_context=_how_to_start(), generator=torch.Generator(),  # the training uses the default one
            )  # fmt: skip
        return iter(self._loader)

    def _finished(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        return (images if self._normalised else images * self._factor + self._offset).to(self.dtype)

    def _note(self, item: Item) -> None:
        for shard, reason in item.skipped.items():
            if shard not in self.skipped:
                self.skipped[shard] = reason
                warnings.warn(f"{shard}: skipped, or a part of it: {reason}", GrafsWarning)
        for kind, notice in item.notices.items():
            if kind not in self.notices:
                self.notices[kind] = notice
                warnings.warn(notice, GrafsWarning)
        if item.error:
            raise DataError(item.error)

    def _look(self, shards: Sequence[tuple[str, int]], on_bad_shard: str) -> tuple[tuple[int, int], int]:
        """Return ((height, width), channels) of the first images that can be read."""
        reasons = []
        for location, length in shards:
            try:
                samples = read_samples(location, length, self.num_classes)
                probed = list(islice(samples, _PROBED))
                reasons += [f"; the first reason: {each}" for each in probed if isinstance(each, DataError)]
                found = [sample for sample in probed if isinstance(sample, Sample)]
                images = []  # (size, whether in colour), so that one image at a time is in memory
                for sample in found:
                    image = decode(sample.image, sample.extension, sample.where)
                    images.append((image.size, has_colour(image)))
            except DataError as error:
                if on_bad_shard == "raise":
                    raise
                self._note(Item(skipped={location: str(error).removeprefix(f"{location}: ")}))
                reasons.append(f"; the first reason: {error}")
                continue
            if images:
                return images[0][0][::-1], 3 if any(colour for _, colour in images) else 1
        raise DataError(f"{shards[0][0]} and the other shards: not one sample can be read{''.join(reasons[:1])}")


def _as_it_is(item: Any) -> Any:
    return item


def _how_to_start() -> str | None:
    # other ways than fork import torch and the caller's script again, which would need a guarded __main__
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else None


# ------------------------------------------------------------------------------------------------------- settings


def _check_counts(batch_size: int, ranks: int, workers: int, buffer: int, samples: int, train: bool) -> None:
    for name, value in (("batch_size", batch_size), ("workers", workers), ("shuffle_buffer", buffer)):
        if value < 1:
            raise DataError(f"{name} must be at least 1, got {value}")
    if batch_size % ranks:
        raise DataError(f"batches of {batch_size} do not divide into {ranks} equal parts")
    if train and samples < batch_size:
        raise DataError(f"{samples} images do not fill one batch of {batch_size}")


def _steps(samples: int, batch_size: int, rank: int, ranks: int, train: bool) -> tuple[int, tuple[int, ...]]:
    """Return the batches in an epoch; in evaluation also where in the split this rank's batches begin and the last one ends."""
    if train:
        return samples // batch_size, ()
    part = batch_size // ranks
    begin, end = samples * rank // ranks, samples * (rank + 1) // ranks
    steps = math.ceil(math.ceil(samples / ranks) / part)
    if samples // ranks < steps:
        raise DataError(f"{samples} images leave one of {ranks} ranks without any in batches of {batch_size}")
    # a rank that is one sample, and so one batch, short divides its last batch in two
    starts = [min(begin + step * part, end - (steps - step)) for step in range(steps)]
    return steps, (*starts, end)


def _checked_arguments(transform: Mapping[str, Any], train: bool) -> dict[str, Any]:
    from timm.data import create_transform

    known = [name for name in inspect.signature(create_transform).parameters if name not in _OWN]
    for name in transform:
        if name in _OWN:
            instead = f"; set {_OWN[name]} instead" if _OWN[name] else ""
            raise DataError(f"transform.{name} is set by the stream{instead}; arguments: {', '.join(known)}")
        if name not in known:
            raise UnknownNameError(f"transform: timm's create_transform has no argument {name!r}{nearest(name, known)}")
    if train:
        return dict(transform)
    chosen = {name: value for name, value in transform.items() if name in _EVALUATION}
    if chosen.get("interpolation") == "random":
        del chosen["interpolation"]
    return chosen


def _reach(size: tuple[int, int], train: bool, arguments: Mapping[str, Any]) -> int:
    """Return the pixels to which timm's transform resizes the short side before it crops; 0 if it crops first."""
    if train and not arguments.get("no_aug") and str(arguments.get("train_crop_mode") or "rrc") == "rrc":
        return 0
    share = arguments.get("crop_pct") or 0.875
    return math.ceil(max(size) / min(share, 0.5 if train else share))


def _timm_transform(
    size: tuple[int, int],
    train: bool,
    arguments: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    prefetcher: bool,
) -> Any:
    from timm.data import create_transform

    try:
        return create_transform(
            size, is_training=train, mean=mean, std=std, use_prefetcher=prefetcher,
            **{name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()},
        )  # fmt: skip
    except Exception as error:  # whatever timm and torchvision raise for a wrong value
        given = ", ".join(f"{name}: {value}" for name, value in arguments.items())
        raise DataError(f"timm cannot make a transform of {{{given}}}: {type(error).__name__}: {error}") from error


def _moments(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    out = []
    for name, values, default in (("mean", mean, IMAGENET_DEFAULT_MEAN), ("std", std, IMAGENET_DEFAULT_STD)):
        if values is None:
            values = default if channels == 3 else (sum(default) / 3,)
        if len(values) != channels:
            raise DataError(f"{name} of {len(values)} channels for images of {channels}")
        out.append(tuple(map(float, values)))
    if min(out[1]) <= 0:
        raise DataError(f"std must be above 0, got {list(out[1])}")
    return out[0], out[1]
