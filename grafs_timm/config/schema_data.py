"""Define the schema of a recipe's data section, and the base of all sections."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ..utils.schema import Impossible, Listed, Part, listed


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def only_plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return ``value`` if it holds plain YAML values only. Raises ValueError otherwise."""
    if not _plain(value):
        raise ValueError("takes text, finite numbers, true, false, null, lists and mappings of them")
    return value


_NOT_OF_A_MODEL = {
    "features_only": "gives feature maps, and what is trained here classifies",
    "out_indices": "chooses feature maps, and what is trained here classifies",
    "checkpoint_path": "reads weights that do not say their activation; evaluate.start_from takes a folder of weights",
    "pretrained_cfg": "names other weights; evaluate.start_from takes timm's own (pretrained) or a folder of weights",
    "pretrained_cfg_overlay": "names other weights; evaluate.start_from takes timm's own (pretrained) or a folder of weights",
    "model_name": "is the recipe's own key model",
}


def of_a_model(value: dict[str, Any]) -> dict[str, Any]:
    """Return ``value`` if a model to train can be built with these arguments. Raises ValueError otherwise."""
    if wrong := [name for name in _NOT_OF_A_MODEL if value.get(name) not in (None, False)]:
        raise ValueError(f"{wrong[0]} {_NOT_OF_A_MODEL[wrong[0]]}; leave it out")
    return only_plain(value)


def checked(section: Any, problems: list[tuple[str, str]]) -> Any:
    """Return ``section``. Raises Impossible where there are problems."""
    if problems:
        raise Impossible(problems)
    return section


Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Epochs = Annotated[tuple[Count, ...], Listed]
Beta = Annotated[float, Field(ge=0, lt=1)]
Augmentation = Literal["crop", "flip", "trivial_augment"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Channels = Annotated[tuple[Positive, ...] | None, Listed]
Names = Annotated[tuple[Name, ...], Listed]
Figure = Literal["accuracy", "loss"]

ONLY_IMAGES = "only valid for images; remove it when data.text is set"


class Section(Part):
    """Base of a recipe's sections; strict, because `epochs: "50"`, `epochs: 50.0` and `lr: true` are mistakes."""

    # keys that are not written at their default, so that recipes from before they existed keep their sha256
    _brief: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        defaults = type(self).model_fields
        unset = {key for key in self._brief if getattr(self, key) == defaults[key].get_default(call_default_factory=True)}
        return {key: value for key, value in write(self).items() if key not in unset}


class Text(Section):
    """Set how text becomes tokens, and which part of it is held out.

    Args:
        tokenizer: ``bytes`` (256 tokens), or ``bpe`` (byte pairs).
        vocab_size: The most tokens of ``bpe``.
        vocabulary: JSON file of the tokenizers library; null learns ``bpe`` from the training part.
        context: Tokens of a window.
        held_out: The tail of the last file to hold out, as a fraction of its bytes (below 1) or a number of bytes; its first
            half is for validation, its second for the test. Shards keep their own splits.
        measure: The part that trainings are measured on; the selection among searches uses ``validation``.

    >>> Text(tokenizer="bpe", vocab_size=1024).context
    256
    """

    tokenizer: Literal["bytes", "bpe"] = "bytes"
    vocab_size: Annotated[int, Field(ge=256)] = 256
    vocabulary: Name | None = None
    context: Count = 256
    held_out: Positive = 0.1
    measure: Literal["test", "validation"] = "test"

    @model_validator(mode="after")
    def _fit_one_another(self) -> Text:
        problems = []
        if self.tokenizer == "bytes" and self.vocab_size != 256:
            problems.append(("vocab_size", f"there are 256 bytes, got {self.vocab_size}; tokenizer: bpe has more tokens"))
        if self.tokenizer == "bytes" and self.vocabulary:
            problems.append(("vocabulary", "tokenizer: bytes needs none; leave this out, or tokenizer: bpe"))
        if self.tokenizer == "bpe" and self.vocab_size < 257:
            problems.append(("vocab_size", "tokenizer: bpe begins with the 256 bytes and the end of a text: 257 or more"))
        if self.held_out >= 1 and self.held_out != int(self.held_out):
            problems.append(("held_out", f"a fraction below 1 or a whole number of bytes, got {self.held_out:g}"))
        return checked(self, problems)


class _Data(Section):
    name: Name
    train_split: Name = "train"
    test_split: Name = "test"


class ImageData(_Data):
    """Set which images to use, and how to load them.

    Args:
        name: Whatever ``--data`` takes.
        train_split, test_split: Names of the splits.
        train_images, test_images: Number of images; null for all.
        validation_images: Number of training images to hold out; accuracy is then measured on them and the test split is not
            opened.
        augment: Augmentations of resident images.
        crop_padding: Pixels of padding for random crops.
        image_size: Resize to this many pixels a side; null keeps the size.
        channels: Convert to 1 or 3 channels; null keeps them.
        loading: All on the device (resident), shard by shard (stream), or by size (auto).
        workers: Processes that decode a stream.
        shuffle_buffer: Samples that a stream shuffles within.
        transform: Arguments of timm's ``create_transform`` for a stream.
        mean, std: Per channel, of pixels in [0, 1]; null for those of the training images (stream: timm's of ImageNet).
        on_bad_shard: Stop at a missing or damaged shard, or skip it.
    """

    unit: ClassVar[str] = "images"
    figure: ClassVar[Figure] = "accuracy"  # what activations are compared by
    reached: ClassVar[str] = "accuracy  {:.2f} %"
    refused: ClassVar[dict[str, tuple[Any, ...]]] = {}  # keys of other sections that are not for such data: values that say so

    train_images: Count | None = None
    test_images: Count | None = None
    validation_images: Count | None = None
    augment: Annotated[tuple[Augmentation, ...], Listed] = ()
    crop_padding: Annotated[int, Field(ge=0)] = 4
    image_size: Count | None = None
    channels: Literal[1, 3] | None = None
    loading: Literal["auto", "resident", "stream"] = "auto"
    workers: Count = 4
    shuffle_buffer: Count = 2048
    transform: dict[str, Any] = Field(default_factory=dict)
    mean: Channels = None
    std: Channels = None
    on_bad_shard: Literal["raise", "skip"] = "raise"

    @field_validator("augment")
    @classmethod
    def _each_once(cls, value: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"each augmentation once, got {', '.join(value)}")
        return value

    @field_validator("transform")
    @classmethod
    def _plain_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        return only_plain(value)

    @model_validator(mode="after")
    def _fit_one_another(self) -> ImageData:
        problems = []
        if self.loading == "stream":
            names = ("train_images", "validation_images", "augment")
            for key in (name for name in names if getattr(self, name)):
                problems.append(
                    (key, "streaming takes the whole split and timm's transform; leave this out, or loading: resident")
                )
        if self.transform and self.loading == "resident":
            problems.append(("transform", "timm's transform is for loading: stream; resident images take augment"))
        if (self.mean is None) != (self.std is None):
            problems.append(("mean" if self.mean is None else "std", "mean and std are given together"))
        return checked(self, problems)

    @property
    def holds_out(self) -> bool:
        """Return whether data besides the test split are held out for selection."""
        return bool(self.validation_images)

    @property
    def measured_on(self) -> Literal["test", "validation"]:
        """Return the split that a training is measured on, if not on both."""
        return "validation" if self.holds_out else "test"

    @property
    def held_out(self) -> str:
        """Return what is held out, for a sentence."""
        return f"{self.validation_images} images"

    def described(self, batch_size: int, searched_size: int | None) -> str:
        """Describe how many images of what size trainings use, and searches at ``searched_size`` pixels, for reports."""
        held = f" but {self.validation_images:,} held out to choose by" if self.holds_out and not self.train_images else ""
        images = f"{self.train_images:,} training images" if self.train_images else f"all training images{held}"
        size = f" at {self.image_size}×{self.image_size} pixels" if self.image_size else ""
        return f"{images}{size}" + (f", in searches {searched_size}×{searched_size} pixels" if searched_size else "")


class TextData(_Data):
    """Set which text a language model trains on: files (.txt, .txt.gz; several joined by ``::``) or shards of KEY.txt.

    It is written with the keys of images at their defaults, because these are part of the sha256 of recipes.

    Args:
        name: Whatever ``--data`` takes.
        train_split, test_split: Names of the splits of shards.
        text: How text becomes tokens.
    """

    unit: ClassVar[str] = "tokens"
    figure: ClassVar[Figure] = "loss"
    reached: ClassVar[str] = "loss      {:.4f} nats per token"
    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        "evaluate.mixup": (0.0,), "evaluate.cutmix": (0.0,), "channels_last": (False,), "search.image_size": (None,),
        "search.crop_padding": (None,),
    }  # fmt: skip
    train_images: ClassVar[None] = None
    validation_images: ClassVar[None] = None
    holds_out: ClassVar[bool] = True
    held_out: ClassVar[str] = "text"

    text: Text

    @model_validator(mode="before")
    @classmethod
    def _without_images(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        of_images = {key: field for key, field in ImageData.model_fields.items() if key not in cls.model_fields}
        defaults = {key: field.get_default(call_default_factory=True) for key, field in of_images.items() if key in value}
        checked(value, [(key, ONLY_IMAGES) for key, usual in defaults.items() if repr(listed(value[key])) != repr(usual)])
        return {key: item for key, item in value.items() if key not in of_images}

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return ImageData(name=self.name).model_dump(mode=info.mode) | write(self)

    @property
    def measured_on(self) -> Literal["test", "validation"]:
        """Return the split that a training is measured on, if not on both."""
        return self.text.measure

    def to_choose_by(self) -> TextData:
        """Return the data of trainings that serve to select among activations, measured on the validation part."""
        return self.model_copy(update={"text": self.text.model_copy(update={"measure": "validation"})})

    def described(self, batch_size: int, searched_size: int | None) -> str:
        """Describe how much a step trains on, for reports."""
        return f"{PurePath(self.name).name} in windows of {self.text.context} tokens, {batch_size} a step"


Data = ImageData | TextData


def read_data(value: Any) -> Data:
    """Check a data section, or the name of a data set: of text if it has ``text``, else of images."""
    if isinstance(value, ImageData | TextData):
        return value
    if isinstance(value, str):
        return ImageData(name=value)
    if isinstance(value, dict) and value.get("text") is not None:
        return TextData.model_validate(value)
    return ImageData.model_validate({k: v for k, v in value.items() if k != "text"} if isinstance(value, dict) else value)


DataOrName = Annotated[Data, BeforeValidator(read_data)]
