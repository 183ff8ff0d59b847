"""The schema of a recipe: every setting, its type, its default, and which values fit one another.

The defaults are the paper's settings for ResNet-20 on CIFAR-10 (arXiv 2408.06820) where it has them.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from . import strict_yaml
from .ops import nearest


class Impossible(ValueError):
    """Values that fit the schema but not one another: (key, what is wrong) of each."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {what}" for key, what in problems))
        self.problems = problems


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _switched_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _only_plain(value: dict[str, Any]) -> dict[str, Any]:
    if not _plain(value):
        raise ValueError("takes text, finite numbers, true, false, null, lists and mappings of them")
    return value


def _checked(section: Any, problems: list[tuple[str, str]]) -> Any:
    if problems:
        raise Impossible(problems)
    return section


def _warmup(weights: Weights, epochs: int) -> list[tuple[str, str]]:
    if weights.warmup_epochs and weights.warmup_epochs >= epochs:
        return [("weights.warmup_epochs", f"must be below epochs ({epochs}), got {weights.warmup_epochs}")]
    return []


def _parts(batch_size: int, accumulate: int) -> list[tuple[str, str]]:
    if batch_size % accumulate == 0:
        return []
    fits = next(n for n in range(min(accumulate, batch_size), 0, -1) if batch_size % n == 0)
    what = f"must divide batch_size ({batch_size}) into equal parts"
    return [("accumulate", f"{what}, got {accumulate}; the next smaller that does is {fits}")]


Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Epochs = Annotated[tuple[Count, ...], BeforeValidator(_listed)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Augmentation = Literal["crop", "flip", "trivial_augment"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Channels = Annotated[tuple[Positive, ...] | None, BeforeValidator(_listed)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_listed)]


class _Section(BaseModel):
    # strict: `epochs: "50"`, `epochs: 50.0` and `lr: true` are slips, not settings
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    # left out of what is written where they have their default: the sha256 of a recipe without them is what it was before them
    _brief: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = type(self).model_fields
        unset = {key for key in self._brief if getattr(self, key) == defaults[key].default}
        return {key: value for key, value in write(self).items() if key not in unset}


class Text(_Section):
    """How text becomes tokens, and which part of it is held out.

    ``tokenizer``: ``bytes`` (256 tokens), or ``bpe``, byte pairs of at most ``vocab_size`` tokens, read from the file
    ``vocabulary`` (JSON of the tokenizers library) or else learnt from the training part. ``context``: tokens a window.
    ``held_out``: the tail of the last file, a fraction of its bytes below 1, a number of bytes from 1 on; its first half is for
    validation, its second for the test. Shards with splits of their own keep those. ``measure``: the part that trainings are
    measured on; a choice among searches takes ``validation``.
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
        return _checked(self, problems)


# What says something of images alone; `Data` refuses them beside text.
_OF_IMAGES = (
    "train_images", "test_images", "validation_images", "augment", "crop_padding", "image_size", "channels", "loading",
    "workers", "shuffle_buffer", "transform", "mean", "std", "on_bad_shard",
)  # fmt: skip


class Data(_Section):
    """Which images, and how they come. ``name`` is whatever `--data` takes; null for a count means all there are.

    ``validation_images`` of the training split, beside the ``train_images``, are held out; with them accuracy is measured there
    and the test split is never opened. ``image_size`` (pixels, square) and ``channels`` (1 or 3): what images are brought to;
    null leaves them as they are.

    ``loading``: whole on the device (resident), read shard by shard (stream), or by size (auto). Streaming decodes in
    ``workers`` processes, mixes within ``shuffle_buffer`` samples, and augments by timm's ``create_transform`` with the
    arguments in ``transform``. ``mean`` and ``std`` (per channel, of pixels in [0, 1]) default to those of the training
    images, when streaming to timm's for ImageNet. ``on_bad_shard``: what one missing or damaged does to a training.

    With ``text`` the data are text for a language model: files (.txt, .txt.gz; several joined by ``::``) or shards of KEY.txt.
    """

    _brief = frozenset({"text"})

    name: Name
    train_split: Name = "train"
    test_split: Name = "test"
    train_images: Count | None = None
    test_images: Count | None = None
    validation_images: Count | None = None
    augment: Annotated[tuple[Augmentation, ...], BeforeValidator(_listed)] = ()
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
    text: Text | None = None

    @field_validator("augment")
    @classmethod
    def _each_once(cls, value: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"each augmentation once, got {', '.join(value)}")
        return value

    @field_validator("transform")
    @classmethod
    def _plain_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _only_plain(value)

    @model_validator(mode="after")
    def _fit_one_another(self) -> Data:
        if self.text is not None:
            usual = {key: Data.model_fields[key].get_default(call_default_factory=True) for key in _OF_IMAGES}
            changed = [key for key, value in usual.items() if getattr(self, key) != value]
            return _checked(self, [(key, "says something of images; beside data.text leave it out") for key in changed])
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
        return _checked(self, problems)


DataOrName = Annotated[Data, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]


class Weights(_Section):
    """How the weights train: ``opt`` is one of timm's; each of ``decay_epochs`` multiplies lr by ``decay_rate``.

    ``betas`` of an Adam (null: timm's), ``min_lr``: where a cosine ends.
    """

    _brief = frozenset({"betas", "min_lr"})

    opt: Name = "momentum"  # plain momentum as in the paper; timm's "sgd" is Nesterov's
    lr: Positive = 0.1
    momentum: Beta = 0.9
    betas: Annotated[tuple[Beta, Beta] | None, BeforeValidator(_listed)] = None
    min_lr: NotNegative = 0.0
    weight_decay: NotNegative = 1e-4
    sched: Literal["none", "cosine", "multistep"] = "none"
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    decay_epochs: Epochs = ()
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    clip_grad: Positive | None = None

    @field_validator("opt")
    @classmethod
    def _known_to_timm(cls, value: str) -> str:
        from timm.optim import list_optimizers  # here: timm takes seconds to import, most of this module's users none

        known = list_optimizers()
        if value not in known:
            raise ValueError(f"timm has no optimiser {value!r}{nearest(value, known)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Weights:
        problems = []
        if self.sched == "multistep" and not self.decay_epochs:
            problems.append(("decay_epochs", "sched: multistep needs at least one epoch here"))
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            problems.append(("decay_epochs", f"epochs must rise, got {list(self.decay_epochs)}"))
        return _checked(self, problems)


class Architecture(_Section):
    """Adam on the architecture parameters α and the constants γ."""

    lr: Positive = 6e-4
    betas: Annotated[tuple[Beta, Beta], BeforeValidator(_listed)] = (0.5, 0.999)
    weight_decay: NotNegative = 1e-3


class Grid(_Section):
    """The knots a relaxed cell is tabulated on: ``intervals`` equal steps from ``low`` to ``high``."""

    low: float = -16.0
    high: float = 16.0
    intervals: Annotated[int, Field(ge=1, le=8192)] = 4096

    @model_validator(mode="after")
    def _knot_at_zero(self) -> Grid:
        if not self.low < 0 < self.high:
            return _checked(self, [("low", f"0 must lie between low ({self.low:g}) and high ({self.high:g})")])
        before_zero = -self.low / (self.high - self.low) * self.intervals
        if abs(before_zero - round(before_zero)) > 1e-9 * self.intervals or round(before_zero) in (0, self.intervals):
            # most candidates have their kink at 0; between two knots it would be rounded off
            what = f"no knot at 0: {before_zero:g} of {self.intervals} steps lie below 0"
            return _checked(self, [("intervals", f"{what}; low and high must be whole multiples of a step")])
        return self


class Search(_Section):
    """A search: ``warm_start`` epochs train the weights with ``usual``; drops begin in epoch ``shrink_start``.

    ``batch_size`` is that of a step, over all processes; each takes its part in ``accumulate`` micro-batches, for less memory.
    ``steps_per_epoch``: the length of an epoch where it is not to be a pass over the data; with 1 all these numbers count
    iterations. Every ``log_epochs`` epochs there is a line in the log and a checkpoint.
    """

    _brief = frozenset({"steps_per_epoch", "log_epochs"})

    epochs: Count = 50
    steps_per_epoch: Count | None = None
    log_epochs: Count = 1
    batch_size: Count = 128
    accumulate: Count = 1
    architecture_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    warm_start: Annotated[int, Field(ge=0)] = 1
    shrink_start: Count = 2
    usual: Name | None = "relu"
    wide: bool = False
    weights: Weights = Weights()
    architecture: Architecture = Architecture()
    grid: Grid = Grid()

    @model_validator(mode="after")
    def _fits_its_length(self) -> Search:
        problems = []
        if self.warm_start >= self.epochs:
            problems.append(("warm_start", f"must be below epochs ({self.epochs}), got {self.warm_start}"))
        if self.shrink_start > self.epochs - 2:
            what = f"must be at most epochs − 2 ({self.epochs - 2}), so that the drops have epochs to fall on"
            problems.append(("shrink_start", f"{what}, got {self.shrink_start}"))
        problems += _parts(self.batch_size, self.accumulate)
        return _checked(self, problems + _warmup(self.weights, self.epochs))


class Evaluate(_Section):
    """A training with one activation, from scratch or fine-tuning.

    ``batch_size`` is that of a step, over all processes; each takes its part in ``accumulate`` micro-batches, for less memory.
    ``start_from``: a folder of weights (grafs_timm.save_pretrained, or another evaluation's ``weights``) or ``pretrained``,
    timm's own for the model; whichever activation those were trained with. A head of other classes is begun anew.
    ``smoothing`` of labels, ``mixup`` and ``cutmix`` (their α; 0 is off) are timm's. With ``ema_decay`` timm's moving average
    of the weights is kept and is what is measured. ``checkpoint_steps``: checkpoints within an epoch, every so many steps.
    ``out_of_memory``: fail with advice, or halve the micro-batch (twice as many of them) and begin the step again.
    ``steps_per_epoch``: as in a search.
    """

    _brief = frozenset({"steps_per_epoch"})

    epochs: Count = 200
    steps_per_epoch: Count | None = None
    batch_size: Count = 128
    accumulate: Count = 1
    start_from: Name | None = None
    smoothing: Fraction = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    checkpoint_steps: Count | None = None
    out_of_memory: Literal["fail", "halve"] = "fail"
    weights: Weights = Weights(sched="multistep", decay_epochs=(100, 150))

    @model_validator(mode="after")
    def _fits_its_length(self) -> Evaluate:
        return _checked(self, _parts(self.batch_size, self.accumulate) + _warmup(self.weights, self.epochs))


class Select(_Section):
    """A choice among searches. Each round trains every activation that is left, the usual one and at first as many random
    cells beside them, for ``epochs`` (null: a quarter of evaluate.epochs) with ``seeds`` seeds more, and keeps the better half
    until ``keep`` are left. Those train with ``final_seeds`` fresh seeds for ``final_epochs`` (null: evaluate.epochs).
    """

    epochs: Count | None = None
    seeds: Count = 2
    keep: Count = 2
    final_epochs: Count | None = None
    final_seeds: Annotated[int, Field(ge=2)] = 4


class Transfer(_Section):
    """The matrix activations × models × data × seeds; each of its cells is one training as ``evaluate`` says.

    ``activations``: zoo or timm names, genotype files, or folders of searches (every genotype.json below, each a search seed).
    ``baselines``: usual activations to compare with. ``random``: so many random cells, drawn from ``random_seed``, the control.
    ``models`` and ``data``: the recipe's own where none is given; an entry of ``data`` is a whole data section, or a name that
    takes everything else from the recipe's section.
    ``seeds``: training seeds 0 to seeds − 1.
    """

    activations: Names = ()
    baselines: Names = ("relu", "gelu", "silu", "elu", "leaky_relu")
    random: Annotated[int, Field(ge=0)] = 0
    random_seed: Annotated[int, Field(ge=0)] = 0
    models: Names = ()
    data: Annotated[tuple[DataOrName, ...], BeforeValidator(_listed)] = ()
    seeds: Count = 3


class Recipe(_Section):
    """All settings, resolved. ``data: digits`` is short for ``data: {name: digits}``.

    ``compile``: what ``torch.compile`` is used for: the making of the search's tables where that pays (auto), nothing (off), or
    the tables and the model, in the search and in the training from scratch (model).
    """

    model: Name
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    data: DataOrName
    search: Search = Search()
    evaluate: Evaluate = Evaluate()
    select: Select = Select()
    transfer: Transfer = Transfer()
    amp: Annotated[Literal["off", "bf16", "fp16"], BeforeValidator(_switched_off)] = "off"
    channels_last: bool = False
    compile: Annotated[Literal["auto", "off", "model"], BeforeValidator(_switched_off)] = "auto"

    @field_validator("model_kwargs")
    @classmethod
    def _plain_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _only_plain(value)

    @model_validator(mode="after")
    def _fits_its_data(self) -> Recipe:
        if self.data.text is None:
            return self
        images = [f"evaluate.{key}" for key in ("mixup", "cutmix") if getattr(self.evaluate, key)]
        images += ["channels_last"] if self.channels_last else []
        return _checked(self, [(key, "is for images, and data.text says that there are none") for key in images])

    def to_yaml(self) -> str:
        """Every setting, defaults written out; reading it back gives an equal recipe."""
        return strict_yaml.dump(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        """Of the resolved settings: comments, the order of keys and defaults left out don't change it."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()
