"""Make the parts of a training: the recipe's data, its timm model, and the batches to train and measure on."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import timm
import torch
from torch import Tensor, nn

from ..config.schema import Data, ImageData, Recipe, TextData
from ..data import text_source
from ..data.images import Batches, DatasetInfo, ImageSet, load_split, open_dataset
from ..data.streaming import Stream
from ..data.text import TextBatches, TextParts, TextSet, load_text
from ..errors import DataError, GrafsError, GrafsWarning, RecipeError, UnknownNameError, first_line, shortened
from ..models import weights
from ..utils import parallel, remote
from ..utils.suggest import nearest
from . import image_size

_MOST_HELD_OUT = 10_000  # images; a standard error of half a point, and hardly less with more


def held_out(recipe: Recipe) -> Recipe:
    """Return the recipe with data held out to select by, where it names none.

    Of text this is the validation part; of images a tenth of the training split, or as many as are trained on of those that
    ``train_images`` leaves unused.

    Raises:
        RecipeError: where the split has too few.
    """
    evaluate = recipe.evaluate.model_copy(update={"measure_both": False})
    recipe, data = recipe.model_copy(update={"evaluate": evaluate}), recipe.data
    if isinstance(data, TextData):
        return recipe.model_copy(update={"data": data.to_choose_by()})
    if data.validation_images:
        return recipe
    info = open_dataset(data.name).splits.get(data.train_split)
    there = info.num_samples if info else 0
    count = there // 10 if data.train_images is None else min(data.train_images, there - data.train_images)
    count = min(count, _MOST_HELD_OUT)
    if count < 1:
        raise RecipeError(
            f"data.validation_images: {data.name} has {there} training images and train_images takes all; selecting needs some "
            "that are held out: lower data.train_images"
        )
    return recipe.model_copy(update={"data": data.model_copy(update={"validation_images": count})})


def measured_on(recipe: Recipe) -> str:
    """Return the split to measure on: "test", or "validation" where the recipe holds data out and measures that."""
    return "test" if recipe.evaluate.measure_both else recipe.data.measured_on


def load_data(data: ImageData, split: str, device: str | torch.device) -> ImageSet:
    """Load a recipe's ``train``, ``validation`` or ``test`` images onto ``device``; see `load_sets`."""
    return load_sets(data, (split,), device)[split]


def load_sets(data: ImageData, splits: Collection[str], device: str | torch.device) -> dict[str, ImageSet]:
    """Load a recipe's images of ``splits`` (of ``train``, ``validation``, ``test``) onto ``device``, decoding none twice.

    The images held out for validation are part of the training split and the same for every seed.

    Raises:
        DataError: The training split has fewer images than are to be trained on and held out.
    """
    info = open_dataset(data.name)

    def load(name: str, limit: int | None) -> ImageSet:
        found = load_split(
            info, name, limit=limit, device=device,
            image_size=data.image_size, channels=data.channels, on_bad_shard=data.on_bad_shard,
        )  # fmt: skip
        for notice in found.notices:
            warnings.warn(notice, GrafsWarning)
        return found

    held_out = data.validation_images or 0
    loaded: dict[str, ImageSet] = {}
    if held_out and {"train", "validation"} & set(splits):
        both = load(data.train_split, data.train_images and data.train_images + held_out)
        wanted = (data.train_images or both.num_classes) + held_out
        if len(both) < wanted:
            raise DataError(
                f"{info.name}: {len(both)} training images; data.validation_images ({held_out}) and the images to train on "
                f"need at least {wanted}"
            )
        loaded["train"], loaded["validation"] = both.split(1 - held_out / len(both))
    elif "train" in splits:
        loaded["train"] = load(data.train_split, data.train_images)
    if "test" in splits:
        loaded["test"] = load(data.test_split, data.test_images)
    return loaded


def dataset_of(data: Data) -> DatasetInfo | None:
    """Return the shards that a recipe's data section names; None for text files. DataError where there is no such data."""
    if isinstance(data, TextData) and text_source.is_text(data.name):
        for part in remote.listed(data.name):
            text_source.find_file(part)
        return None
    return open_dataset(data.name)


def split_rule(data: Data) -> str:
    """Return how a recipe's images were split when they were packed, in words; empty where their `_info.json` does not say."""
    if isinstance(data, TextData) or remote.is_url(remote.listed(data.name)[0]):
        return ""
    info = open_dataset(data.name)
    return info.split_rule and f"{info.name}: {info.split_rule}"


def load_tokens(data: TextData, device: str | torch.device) -> TextParts:
    """Load a recipe's text, tokenised, onto ``device``, with warnings of what was done to it. Errors as `load_text`."""
    found = load_text(data.name, data.text, device, train_split=data.train_split, test_split=data.test_split)
    for notice in found.notices:
        warnings.warn(notice, GrafsWarning)
    return found


def blank(shape: tuple[int, ...], device: str | torch.device) -> Tensor:
    """Return two empty inputs: images of zeros for a ``shape`` (C, H, W), texts of token 0 for (T,)."""
    return torch.zeros(2, *shape, device=device, dtype=torch.int64 if len(shape) == 1 else torch.float32)


def make_model(
    recipe: Recipe, num_classes: int, shape: tuple[int, ...], device: str | torch.device, start_from: str | None = None
) -> nn.Module:
    """Build the recipe's timm model.

    Args:
        num_classes: Classes of the images, or the size of the vocabulary.
        shape: (C, H, W) of images, or (T,) of windows of tokens.
        start_from: A folder of `save_pretrained`, or "pretrained"; None: new weights.

    Raises:
        UnknownNameError: timm has no such model; the message has the nearest names.
        RecipeError: The model can't be built so, or doesn't take such input.
        WeightsError: ``start_from`` holds no weights of this architecture.
    """
    from ..models import small_models as models  # noqa: F401  registers the small models of the paper

    if not timm.is_model(recipe.model):
        raise UnknownNameError(f"unknown model {recipe.model!r}{nearest(recipe.model, timm.list_models())}")
    is_text = len(shape) == 1
    of_data = (
        {"vocab_size": num_classes, "context": shape[0]} if is_text else {"num_classes": num_classes, "in_chans": shape[0]}
    )
    settings = {**of_data, **recipe.model_kwargs}
    start = weights.starting_from(start_from, recipe.model) if start_from else {}
    try:
        model: nn.Module = timm.create_model(recipe.model, **settings, **start).to(device)
    except GrafsError:
        raise
    except Exception as error:  # weights not to be had, and whatever an architecture raises for a value that does not fit it
        begun = f" from {start_from}" if start_from else ""
        given = shortened(repr(settings), 300)
        raise RecipeError(f"model {recipe.model} cannot be built{begun} with {given}: {first_line(error)}") from error
    try:
        with torch.no_grad():
            output = model.eval()(blank(shape, device))
        if not isinstance(output, Tensor):
            raise TypeError(f"it gives a {type(output).__name__} and not one tensor; see model_kwargs")
        made = tuple(output.shape)
    except GrafsError:
        raise
    except Exception as error:
        what = f"texts of {shape[0]} tokens" if is_text else f"images of {'×'.join(map(str, shape))}"
        given = f" with {shortened(repr(recipe.model_kwargs), 300)}" if recipe.model_kwargs else ""
        instead = "" if is_text else image_size.advice(recipe, settings, (shape[0], shape[1], shape[2]))
        raise RecipeError(f"model {recipe.model}{given} does not take {what}: {first_line(error)}{instead}") from error
    finally:
        model.train()
    if is_text:
        if len(made) != 3 or made[2] < num_classes:
            raise RecipeError(
                f"model {recipe.model} makes {made} of two texts of {shape[0]} tokens; the vocabulary has {num_classes}: "
                f"model_kwargs.vocab_size must be at least that"
            )
        return model
    if len(made) != 2 or made[1] < num_classes:
        raise RecipeError(f"model {recipe.model} makes {made} of two images; the data has {num_classes} classes")
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model  # type: ignore[call-overload]


def has_idle_weights(model: nn.Module, images: Tensor) -> bool:
    """Return whether the forward pass leaves some weights out, which DistributedDataParallel has to know."""
    weights = [p for p in model.parameters() if p.requires_grad]
    was = model.training
    model.eval()  # nothing is drawn, no statistics change
    slopes = torch.autograd.grad(model(images).sum(), weights, allow_unused=True)
    model.train(was)
    return any(slope is None for slope in slopes)


def make_batches(
    data: ImageData, images: ImageSet, like: ImageSet, batch_size: int, seed: int, train: bool, share: tuple[int, int] = (0, 1)
) -> Batches:
    """Make batches of ``images``, normalised as the recipe says or by the statistics of ``like``; augmented where ``train``."""
    augment = data.augment if train else ()
    return Batches(
        images, batch_size, augment=augment, crop_padding=data.crop_padding, seed=seed,
        shuffle=train, drop_last=train, mean=data.mean or like.mean, std=data.std or like.std, share=share,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ what a training is fed with


class Feed(Protocol):
    """Batches of one split: `data.Batches`, `streaming.Stream` or `text.TextBatches`, or one of them `Paced`."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's part of the batches from step ``start`` on.

        Images: (float [B,C,H,W] normalised, labels int64 [B]). Text: (tokens int64 [B,T], the next tokens int64 [B,T]).
        """
        ...


def forever(feed: Feed, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end, from batch number ``start`` on; pass p over the data has the order of epoch p."""
    turn, skip = divmod(start, len(feed))
    while True:
        yield from feed.epoch(turn, skip)
        turn, skip = turn + 1, 0


class Paced:
    """A feed in epochs of ``steps`` batches; each continues where the one before ended."""

    def __init__(self, feed: Feed, steps: int) -> None:
        self.feed, self.steps = feed, steps

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.islice(forever(self.feed, epoch * self.steps + start), self.steps - start)


def paced(feed: Feed, steps: int | None) -> Feed:
    """Return ``feed`` in epochs of ``steps``; unchanged for None."""
    return Paced(feed, steps) if steps else feed


@dataclass(frozen=True)
class Feeds:
    """Batches to train and to measure on, each process's share.

    Attributes:
        num_classes: Classes of the images, or the size of the vocabulary.
        shape: (C, H, W) of images, or (T,) of windows of tokens.
        mean, std: For normalising images, by channel; () for text.
        train_images: Training images, or tokens.
        also: Held-out data that are measured beside ``measured``.
        train_set: What ``train`` makes batches of; None where it is streamed.
    """

    train: Feed
    measured: Feed
    num_classes: int
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_images: int
    measured_images: int
    also: Feed | None = None
    train_set: ImageSet | TextSet | None = None

    def close(self) -> None:
        """End the processes that load images."""
        for feed in self._streams:
            feed.close()

    @property
    def _streams(self) -> list[Stream]:
        feeds = (each.feed if isinstance(each, Paced) else each for each in (self.train, self.measured))
        return [feed for feed in feeds if isinstance(feed, Stream)]

    @property
    def skipped(self) -> dict[str, str]:
        """Return the streamed shards that were skipped, whole or in part, with the reason."""
        return {shard: reason for feed in self._streams for shard, reason in feed.skipped.items()}


def open_feeds(recipe: Recipe, seed: int, device: str) -> Feeds:
    """Open the recipe's data for one training of this process, resident on the device or streamed.

    Raises:
        RecipeError: A setting is only valid for the other way of loading.
    """
    data = recipe.data
    if isinstance(data, TextData):
        return _texts(recipe, data, seed, device)
    return (_streams if is_streamed(data, open_dataset(data.name)) else _resident)(recipe, data, seed, device)


def _resident(recipe: Recipe, data: ImageData, seed: int, device: str) -> Feeds:
    share, counted = (parallel.rank(), parallel.world()), measured_on(recipe)
    sets = load_sets(data, {"train", counted} | ({"validation"} if recipe.evaluate.measure_both else set()), device)
    train_set, measured_set = sets["train"], sets[counted]

    def measured(images: ImageSet) -> Batches:
        own = images.subset(range(share[0], len(images), share[1])) if share[1] > 1 else images
        return make_batches(data, own, train_set, 256, seed, train=False)

    return Feeds(
        paced(
            make_batches(data, train_set, train_set, recipe.evaluate.batch_size, seed, train=True, share=share),
            recipe.evaluate.steps_per_epoch,
        ),
        measured(measured_set), train_set.num_classes, train_set.shape, data.mean or train_set.mean,
        data.std or train_set.std, len(train_set), len(measured_set),
        measured(sets["validation"]) if recipe.evaluate.measure_both else None, train_set,
    )  # fmt: skip


def _texts(recipe: Recipe, data: TextData, seed: int, device: str) -> Feeds:
    parts, context, share = load_tokens(data, device), data.text.context, (parallel.rank(), parallel.world())

    def measured(part: TextSet) -> TextBatches:
        return TextBatches(part, recipe.evaluate.batch_size, context=context, train=False, share=share)

    counted: TextSet = getattr(parts, measured_on(recipe))
    train = TextBatches(parts.train, recipe.evaluate.batch_size, context=context, seed=seed, share=share)
    return Feeds(
        paced(train, recipe.evaluate.steps_per_epoch),
        measured(counted), parts.vocab_size, (context,), (), (), len(parts.train), len(counted),
        measured(parts.validation) if recipe.evaluate.measure_both else None, parts.train,
    )  # fmt: skip


STREAMED_FROM = 1 << 30  # bytes of a training split's shards


def is_streamed(data: ImageData, info: DatasetInfo) -> bool:
    """Return whether images are streamed: as ``data.loading`` says; "auto" streams large splits and URLs.

    "auto" keeps the images on the device where ``train_images`` limits them.
    """
    if data.loading != "auto":
        return data.loading == "stream"
    split = info.splits.get(data.train_split)
    if split is None or data.train_images:
        return False
    if isinstance(info.folder, str):  # a URL
        return True
    return sum(path.stat().st_size for path in map(Path, map(info.location, split.filenames)) if path.is_file()) > STREAMED_FROM


def _streams(recipe: Recipe, data: ImageData, seed: int, device: str) -> Feeds:
    info = open_dataset(data.name)
    for key in ("validation_images", "test_images", "augment"):
        if getattr(data, key):
            raise RecipeError(f"data.{key}: {info.name} is large and streamed, with timm's transform; or set loading: resident")

    def stream(split: str, train: bool, num_classes: int | None = None) -> Stream:
        return Stream(
            info, split, recipe.evaluate.batch_size, train=train, seed=seed, image_size=data.image_size, channels=data.channels,
            transform=data.transform, mean=data.mean, std=data.std, workers=data.workers, shuffle_buffer=data.shuffle_buffer,
            on_bad_shard=data.on_bad_shard, share=(parallel.rank(), parallel.world()), num_classes=num_classes, device=device,
        )  # fmt: skip

    train = stream(data.train_split, train=True)
    measured = stream(data.test_split, train=False, num_classes=train.num_classes)
    for notice in {**train.notices, **measured.notices}.values():
        warnings.warn(notice, GrafsWarning)
    return Feeds(
        paced(train, recipe.evaluate.steps_per_epoch),
        measured,
        train.num_classes,
        train.image_shape,
        train.mean,
        train.std,
        train.num_samples,
        measured.num_samples,
    )
