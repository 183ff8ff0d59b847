"""The schema of a recipe: every setting, its type, its default, and which values fit one another.

The defaults are the paper's settings for ResNet-20 on CIFAR-10 (arXiv 2408.06820) where it has them.
"""

from __future__ import annotations

import hashlib
import json
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..utils.schema import Listed
from ..utils.suggest import nearest
from . import strict_yaml
from .settings_data import (
    ONLY_IMAGES,
    Beta,
    Count,
    DataOrName,
    Epochs,
    Fraction,
    Name,
    Names,
    NotNegative,
    Positive,
    Section,
    checked,
    of_a_model,
)
from .settings_data import Data as Data
from .settings_data import Figure as Figure
from .settings_data import ImageData as ImageData
from .settings_data import Text as Text
from .settings_data import TextData as TextData
from .settings_data import read_data as read_data


def _switched_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


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


class Weights(Section):
    """How the weights train: ``opt`` is one of timm's; each of ``decay_epochs`` multiplies lr by ``decay_rate``.

    ``betas`` of an Adam (null: timm's), ``min_lr``: where a cosine ends.
    """

    _brief = frozenset({"betas", "min_lr"})

    opt: Name = "momentum"  # plain momentum as in the paper; timm's "sgd" is Nesterov's
    lr: Positive = 0.1
    momentum: Beta = 0.9
    betas: Annotated[tuple[Beta, Beta] | None, Listed] = None
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
        return checked(self, problems)


class Architecture(Section):
    """Adam on the architecture parameters α and the constants γ."""

    lr: Positive = 6e-4
    betas: Annotated[tuple[Beta, Beta], Listed] = (0.5, 0.999)
    weight_decay: NotNegative = 1e-3


class Grid(Section):
    """The knots a relaxed cell is tabulated on: ``intervals`` equal steps from ``low`` to ``high``."""

    low: float = -16.0
    high: float = 16.0
    intervals: Annotated[int, Field(ge=1, le=8192)] = 4096

    @model_validator(mode="after")
    def _knot_at_zero(self) -> Grid:
        if not self.low < 0 < self.high:
            return checked(self, [("low", f"0 must lie between low ({self.low:g}) and high ({self.high:g})")])
        before_zero = -self.low / (self.high - self.low) * self.intervals
        if abs(before_zero - round(before_zero)) > 1e-9 * self.intervals or round(before_zero) in (0, self.intervals):
            # most candidates have their kink at 0; between two knots it would be rounded off
            what = f"no knot at 0: {before_zero:g} of {self.intervals} steps lie below 0"
            return checked(self, [("intervals", f"{what}; low and high must be whole multiples of a step")])
        return self


class Search(Section):
    """A search: ``warm_start`` epochs train the weights with ``usual``; drops begin in epoch ``shrink_start``.

    ``batch_size`` is that of a step, over all processes; each takes its part in ``accumulate`` micro-batches, for less memory.
    ``steps_per_epoch``: the length of an epoch where it is not to be a pass over the data; with 1 all these numbers count
    iterations. Every ``log_epochs`` epochs there is a line in the log and a checkpoint.
    ``image_size`` and ``crop_padding`` replace those of ``data`` in searches, and ``model_kwargs`` are added to the recipe's
    own there: a search can use smaller images than the trainings.
    """

    _brief = frozenset({"steps_per_epoch", "log_epochs", "image_size", "crop_padding", "model_kwargs"})

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
    image_size: Count | None = None
    crop_padding: Annotated[int, Field(ge=0)] | None = None
    model_kwargs: dict[str, Any] | None = None
    weights: Weights = Weights()
    architecture: Architecture = Architecture()
    grid: Grid = Grid()

    @field_validator("model_kwargs")
    @classmethod
    def _of_a_model(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return value and of_a_model(value)

    @model_validator(mode="after")
    def _fits_its_length(self) -> Search:
        problems = []
        if self.warm_start >= self.epochs:
            problems.append(("warm_start", f"must be below epochs ({self.epochs}), got {self.warm_start}"))
        if self.shrink_start > self.epochs - 2:
            what = f"must be at most epochs − 2 ({self.epochs - 2}), so that the drops have epochs to fall on"
            problems.append(("shrink_start", f"{what}, got {self.shrink_start}"))
        problems += _parts(self.batch_size, self.accumulate)
        return checked(self, problems + _warmup(self.weights, self.epochs))


class Evaluate(Section):
    """A training with one activation, from scratch or fine-tuning.

    ``batch_size`` is that of a step, over all processes; each takes its part in ``accumulate`` micro-batches, for less memory.
    ``start_from``: a folder of weights (grafs_timm.save_pretrained, or another evaluation's ``weights``) or ``pretrained``,
    timm's own for the model; whichever activation those were trained with. A head of other classes is begun anew.
    ``smoothing`` of labels, ``mixup`` and ``cutmix`` (their α; 0 is off) are timm's. With ``ema_decay`` timm's moving average
    of the weights is kept and is what is measured. ``checkpoint_steps``: checkpoints within an epoch, every so many steps.
    ``out_of_memory``: fail with advice, or halve the micro-batch (twice as many of them) and begin the step again.
    ``steps_per_epoch``: as in a search. ``measure_both``: after each epoch measure both the data held out for choosing and the
    test split, so that one training serves to choose by and to report.
    """

    _brief = frozenset({"steps_per_epoch", "measure_both"})

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
    measure_both: bool = False
    weights: Weights = Weights(sched="multistep", decay_epochs=(100, 150))

    @model_validator(mode="after")
    def _fits_its_length(self) -> Evaluate:
        return checked(self, _parts(self.batch_size, self.accumulate) + _warmup(self.weights, self.epochs))


class Select(Section):
    """A choice among searches. Each round trains every activation that is left, the usual one and at first as many random
    cells beside them, for ``epochs`` (null: a quarter of evaluate.epochs) with ``seeds`` seeds more, and keeps the better half
    until ``keep`` are left. Those train with ``final_seeds`` fresh seeds for ``final_epochs`` (null: evaluate.epochs).
    """

    epochs: Count | None = None
    seeds: Count = 2
    keep: Count = 2
    final_epochs: Count | None = None
    final_seeds: Annotated[int, Field(ge=2)] = 4


class Transfer(Section):
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
    data: Annotated[tuple[DataOrName, ...], Listed] = ()
    seeds: Count = 3


class Place(Section):
    """A model, and data as an entry of ``transfer.data``."""

    model: Name
    data: DataOrName


class Campaign(Section):
    """What a zoo entry rests on: searches, then trainings of ``transfer``'s activations and of what the searches found.

    Every activation trains with ``seeds`` seeds where the searches ran, seed by seed. The ``keep`` best of them by held-out
    figures, the default activation and the best found function among them, then train with ``keep_seeds`` seeds there, and with
    ``place_seeds`` at each further one of ``places``. After ``retire_after`` of these seeds an activation gets no further ones
    if the whole 95 % interval of its paired held-out difference to the default lies below −``retire_below`` (percentage points;
    of text nats). ``held_out``: so many training images are held out of searches and trainings to choose by, where
    ``data.validation_images`` holds out none.
    """

    budget: Literal["reduced", "standard", "full"] = "standard"
    searches: Count = 5
    seeds: Count = 3
    keep: Count = 6
    keep_seeds: Count = 5
    places: Annotated[tuple[Place, ...], Listed] = ()
    place_seeds: Count = 3
    retire_after: Annotated[int, Field(ge=2)] = 3
    retire_below: NotNegative = 1.0
    held_out: Count | None = None


class Recipe(Section):
    """All settings, resolved. ``data: digits`` is short for ``data: {name: digits}``.

    ``compile``: what ``torch.compile`` is used for: the making of the search's tables where that pays (auto), nothing (off), or
    the tables and the model, in the search and in the training from scratch (model).
    """

    _brief = frozenset({"campaign"})

    model: Name
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    data: DataOrName
    search: Search = Search()
    evaluate: Evaluate = Evaluate()
    select: Select = Select()
    transfer: Transfer = Transfer()
    campaign: Campaign | None = None
    amp: Annotated[Literal["off", "bf16", "fp16"], BeforeValidator(_switched_off)] = "off"
    channels_last: bool = False
    compile: Annotated[Literal["auto", "off", "model"], BeforeValidator(_switched_off)] = "auto"

    @field_validator("model_kwargs")
    @classmethod
    def _plain_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        return of_a_model(value)

    @model_validator(mode="after")
    def _fits_its_data(self) -> Recipe:
        problems = [(key, ONLY_IMAGES) for key, default in self.data.refused.items() if attrgetter(key)(self) != default]
        if self.evaluate.measure_both and not self.data.holds_out:
            nothing = "there is nothing held out to measure beside the test split; set data.validation_images"
            problems.append(("evaluate.measure_both", nothing))
        return checked(self, problems)

    def for_training(self, model: str | None = None, data: Data | None = None) -> Recipe:
        """What one training depends on, with ``model`` and ``data`` in place of its own: all that is for searches and for many
        trainings together has its defaults.
        """
        rest = {"search": Search(), "select": Select(), "transfer": Transfer(), "campaign": None}
        return self.model_copy(update={"model": model or self.model, "data": data or self.data, **rest})

    def for_searching(self) -> Recipe:
        """What one search depends on: its own images and model settings in place of the recipe's, and all that is for trainings
        from scratch has its defaults. Recipes whose searches are the same give equal ones.
        """
        own = self.for_search
        search = own.search.model_copy(update={"image_size": None, "crop_padding": None, "model_kwargs": None})
        rest = {"evaluate": Evaluate(), "select": Select(), "transfer": Transfer(), "campaign": None}
        return own.model_copy(update={"search": search, **rest})

    @property
    def for_search(self) -> Recipe:
        """The recipe as a search trains by it: with what its ``search`` section says of images and model in their places."""
        own = {key: getattr(self.search, key) for key in ("image_size", "crop_padding")}
        data = self.data.model_copy(update={key: value for key, value in own.items() if value is not None})
        kwargs = {**self.model_kwargs, **(self.search.model_kwargs or {})}
        return self.model_copy(update={"data": data, "model_kwargs": kwargs})

    def to_yaml(self) -> str:
        """Every setting, defaults written out; reading it back gives an equal recipe."""
        return strict_yaml.dump(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        """Of the resolved settings: comments, the order of keys and defaults left out don't change it."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()
