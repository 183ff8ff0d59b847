"""Split the training data between the two levels of a search."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.schema import Recipe, TextData
from ..data.images import ImageSet
from ..data.text import TextBatches, TextSet
from ..errors import RecipeError
from ..utils import parallel
from .training import Feed, load_data, load_tokens, make_batches

_OUTER_SEED = 1_000_003  # beside the inner one's


@dataclass(frozen=True)
class Levels:
    """The data of a search, each process's share.

    Attributes:
        inner: Batches that train the weights.
        outer: Batches that train α and γ.
        held_out: What ``outer`` has, in order and without augmentation, to measure.
        num_classes: Classes of the images, or the size of the vocabulary.
        shape: (C, H, W) of images, or (T,) of windows of tokens.
    """

    inner: Feed
    outer: Feed
    held_out: Feed
    num_classes: int
    shape: tuple[int, ...]


def load_train(recipe: Recipe, device: str) -> ImageSet | TextSet:
    """Load the training images or tokens of a recipe onto the device.

    Raises:
        RecipeError: The recipe streams its data.
    """
    if isinstance(recipe.data, TextData):
        return load_tokens(recipe.data, device).train
    if recipe.data.loading == "stream":
        raise RecipeError("data.loading: a search keeps its images on the device; give data.train_images, or loading: auto")
    return load_data(recipe.data, "train", device)


def open_levels(recipe: Recipe, train: ImageSet | TextSet, fraction: float, batch_size: int, seed: int) -> Levels:
    """Split training data so that the two levels do not overlap.

    Args:
        recipe: Its data section says how batches are made.
        train: The training data.
        fraction: Share of ``outer``; of a text it is the end. 0: both levels have the same batches, of all of the data.
        batch_size: Of a step of all processes together.
        seed: Of the split and of the order of batches.

    Raises:
        RecipeError: A level's share of the images does not fill one batch.
    """
    data, share = recipe.data, (parallel.rank(), parallel.world())
    outer_seed = seed + _OUTER_SEED if fraction else seed
    if isinstance(train, TextSet):
        assert isinstance(data, TextData)
        inner_text, outer_text = train.split(1 - fraction) if fraction else (train, train)
        context = data.text.context
        return Levels(
            TextBatches(inner_text, batch_size, context=context, seed=seed, share=share),
            TextBatches(outer_text, batch_size, context=context, seed=outer_seed, share=share),
            TextBatches(outer_text, batch_size, context=context, train=False),
            train.vocab_size,
            (context,),
        )
    assert not isinstance(data, TextData)
    inner, outer = train.split(1 - fraction, seed=seed) if fraction else (train, train)
    for part, level in ((inner, "the weights"), (outer, "α and γ")):
        if len(part) < batch_size:
            raise RecipeError(
                f"architecture_fraction: at {fraction:g} of {len(train)} training images the {len(part)} for {level} do not "
                f"fill one batch of {batch_size}; change it, take more images, or lower batch_size"
            )
    return Levels(
        make_batches(data, inner, train, batch_size, seed, train=True, share=share),
        make_batches(data, outer, train, batch_size, outer_seed, train=True, share=share),
        make_batches(data, outer, train, 256, seed, train=False),
        train.num_classes,
        train.shape,
    )
