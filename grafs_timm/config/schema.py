"""Define the schema of recipes: every setting, its type, its default, and which values fit each other.

Defaults are the paper's settings for ResNet-20 on CIFAR-10 (arXiv 2408.06820) where it gives them.
"""

from __future__ import annotations

import hashlib
import json
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..errors import RecipeError
from ..utils.schema import Listed
from ..utils.suggest import nearest
from . import strict_yaml
from .schema_compare import NO_SELECT
from .schema_compare import Campaign as Campaign
from .schema_compare import Place as Place
from .schema_compare import Select as Select
from .schema_compare import Transfer as Transfer
from .schema_data import (
    ONLY_IMAGES,
    Beta,
    Count,
    DataOrName,
    Epochs,
    Fraction,
    Name,
    NotNegative,
    Positive,
    Section,
    checked,
    of_a_model,
)
from .schema_data import Data as Data
from .schema_data import Figure as Figure
from .schema_data import ImageData as ImageData
from .schema_data import Text as Text
from .schema_data import TextData as TextData
from .schema_data import read_data as read_data


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
    """Set how the weights train.

    Args:
        opt: One of timm's optimisers.
        lr, momentum, weight_decay: Of the optimiser.
        betas: Of an Adam; null for timm's default.
        sched: Of the learning rate: constant, cosine down to ``min_lr``, or multiplied by ``decay_rate`` after each of
            ``decay_epochs`` (multistep).
        min_lr: Where the cosine ends.
        decay_epochs, decay_rate: Of multistep.
        warmup_epochs: Epochs of a linear warmup.
        clip_grad: The largest norm of the gradient.
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
        from timm.optim import list_optimizers  # here, because timm takes seconds to import

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
    """Set up Adam on the architecture parameters α and the constants γ.

    Args:
        lr, betas, weight_decay: Of Adam.
    """

    lr: Positive = 6e-4
    betas: Annotated[tuple[Beta, Beta], Listed] = (0.5, 0.999)
    weight_decay: NotNegative = 1e-3


class Grid(Section):
    """Set the grid that the relaxed cell is tabulated on.

    Args:
        low, high: Its ends; the cell goes on in a straight line outside.
        intervals: Equal steps between them, of which one ends at 0.
    """

    low: float = -16.0
    high: float = 16.0
    intervals: Annotated[int, Field(ge=1, le=8192)] = 4096

    @model_validator(mode="after")
    def _knot_at_zero(self) -> Grid:
        if not self.low < 0 < self.high:
            return checked(self, [("low", f"0 must lie between low ({self.low:g}) and high ({self.high:g})")])
        before_zero = -self.low / (self.high - self.low) * self.intervals
        if abs(before_zero - round(before_zero)) > 1e-9 * self.intervals or round(before_zero) in (0, self.intervals):
            # most candidates have a kink at 0, which would be rounded off between two knots
            what = f"no knot at 0: {before_zero:g} of {self.intervals} steps lie below 0"
            return checked(self, [("intervals", f"{what}; low and high must be whole multiples of a step")])
        return self


class Search(Section):
    """Set up a search.

    Args:
        epochs: Its length.
        steps_per_epoch: Steps of an epoch; null for one pass over the data, 1 to count everything in iterations.
        log_epochs: Write a line of the log and a checkpoint every so many epochs.
        batch_size: Of a step, over all processes.
        accumulate: Micro-batches that a process splits its part of a batch into, to save memory.
        architecture_fraction: Share of the training images that trains α and γ; 0 for the same batches on both levels.
        warm_start: Epochs in which the weights train with the default activation ``usual``.
        shrink_start: The first epoch in which candidates are dropped.
        fade: Epochs after the warm start in which sites blend from the default activation to the relaxed cell.
        usual: The default activation; null keeps the model's own.
        wide: Search the wider set of candidates.
        guard: Keep a trainable function through the last drops.
        image_size, crop_padding: Used in searches instead of those of ``data``, for example for smaller images.
        model_kwargs: Added to the recipe's own in searches.
        weights: How the weights train.
        architecture: How α and γ train.
        grid: Of the table.
    """

    _brief = frozenset({"steps_per_epoch", "log_epochs", "fade", "guard", "image_size", "crop_padding", "model_kwargs"})

    epochs: Count = 50
    steps_per_epoch: Count | None = None
    log_epochs: Count = 1
    batch_size: Count = 128
    accumulate: Count = 1
    architecture_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25
    warm_start: Annotated[int, Field(ge=0)] = 1
    shrink_start: Count = 2
    fade: Annotated[int, Field(ge=0)] = 0
    usual: Name | None = "relu"
    wide: bool = False
    guard: bool = False
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
            what = f"must be at most epochs − 2 ({self.epochs - 2}), so that there are epochs for the drops"
            problems.append(("shrink_start", f"{what}, got {self.shrink_start}"))
        if self.warm_start + self.fade > self.epochs:
            problems.append(("fade", f"must end within epochs ({self.epochs}), got {self.fade} after {self.warm_start}"))
        problems += _parts(self.batch_size, self.accumulate)
        return checked(self, problems + _warmup(self.weights, self.epochs))


class Evaluate(Section):
    """Set up a training with one activation, from scratch or from saved weights.

    Args:
        epochs, steps_per_epoch, batch_size, accumulate: As in a search.
        start_from: A folder of weights (of grafs_timm.save_pretrained, or another training's ``weights``), or ``pretrained``
            for timm's own, trained with any activation. A new head is started if the classes differ.
        smoothing: Of labels, as in timm.
        mixup, cutmix: Their α, as in timm; 0 is off.
        ema_decay: Keep timm's moving average of the weights and measure that.
        checkpoint_steps: Write a checkpoint every so many steps within an epoch.
        out_of_memory: Fail with advice, or halve the micro-batch and repeat the step.
        measure_both: Measure the held-out data and the test split after each epoch, so that one training serves both to
            select by and to report.
        weights: How the weights train.
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


class SearchWithin(Section):
    """Search an activation in the first part of a training, which goes on with what it found.

    The training is that of ``evaluate``; ``usual``, ``wide``, ``guard``, ``architecture`` and ``grid`` are those of ``search``.

    Args:
        epochs: Of the search; null for a quarter of evaluate.epochs, and at least 4.
        architecture_fraction: As in a search, in these epochs.
        warm_start: Epochs in which the weights train with the default activation; null for a third of ``epochs``.
        shrink_start: The first epoch in which candidates are dropped; null for a quarter of ``epochs``.
        fade: Epochs after the warm start in which sites blend from the default activation to the relaxed cell; use it with
            weights that were trained with the default activation.
    """

    _brief = frozenset({"fade"})

    epochs: Annotated[int, Field(ge=3)] | None = None
    architecture_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25
    warm_start: Annotated[int, Field(ge=0)] | None = None
    shrink_start: Count | None = None
    fade: Annotated[int, Field(ge=0)] = 0

    def resolved(self, epochs: int) -> SearchWithin:
        """Return the section without null, for a training of ``epochs`` epochs.

        Raises:
            RecipeError: They do not fit the training.
        """
        if problems := self.problems(epochs):
            raise RecipeError("; ".join(f"{key}: {what}" for key, what in problems))
        return self._without_null(epochs)

    def problems(self, epochs: int) -> list[tuple[str, str]]:
        """Return (key, what is wrong) where the section does not fit a training of ``epochs`` epochs."""
        own = self._without_null(epochs)
        assert own.epochs is not None
        assert own.warm_start is not None
        assert own.shrink_start is not None
        problems = []
        if own.epochs >= epochs:
            what = f"a search of {own.epochs} epochs leaves nothing of a training of {epochs} (evaluate.epochs)"
            problems.append(("search_within.epochs", what))
        if own.warm_start >= own.epochs:
            problems.append(("search_within.warm_start", f"must be below epochs ({own.epochs}), got {own.warm_start}"))
        elif own.warm_start + own.fade > own.epochs:
            what = f"must end within epochs ({own.epochs}), got {own.fade} after a warm start of {own.warm_start}"
            problems.append(("search_within.fade", what))
        if own.shrink_start > own.epochs - 2:
            what = f"must be at most epochs − 2 ({own.epochs - 2}), so that there are epochs for the drops"
            problems.append(("search_within.shrink_start", f"{what}, got {own.shrink_start}"))
        return problems

    def _without_null(self, epochs: int) -> SearchWithin:
        own = max(4, epochs // 4) if self.epochs is None else self.epochs
        warm = own // 3 if self.warm_start is None else self.warm_start
        shrink = max(1, own // 4) if self.shrink_start is None else self.shrink_start
        return self.model_copy(update={"epochs": own, "warm_start": warm, "shrink_start": shrink})


class Recipe(Section):
    """Hold all settings of a recipe. ``data: digits`` is short for ``data: {name: digits}``.

    Args:
        model: timm's name.
        model_kwargs: Arguments of the model, as plain YAML values.
        data: Images or text.
        search: A search.
        search_within: A search in the first part of a training; null for the defaults.
        evaluate: A training with one activation.
        select: The selection among searches.
        transfer: The matrix.
        campaign: The campaign behind a zoo entry.
        amp: Mixed precision; auto: bf16 where the processor or GPU computes in it, else off.
        channels_last: Memory format of images; auto: for models of convolutions, on a GPU only with ``amp``.
        compile: What to compile: the search's tabulation where that pays (auto), nothing (off), or the tabulation and the
            model, in searches and trainings (model).

    >>> recipe = Recipe(model="cifar_resnet20", data="digits")
    >>> recipe.search.epochs, recipe.evaluate.weights.opt, recipe.data.name
    (50, 'momentum', 'digits')
    """

    _brief = frozenset({"campaign", "search_within"})

    model: Name
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    data: DataOrName
    search: Search = Search()
    search_within: SearchWithin | None = None
    evaluate: Evaluate = Evaluate()
    select: Select = Select()
    transfer: Transfer = Transfer()
    campaign: Campaign | None = None
    amp: Annotated[Literal["off", "auto", "bf16", "fp16"], BeforeValidator(_switched_off)] = "off"
    channels_last: bool | Literal["auto"] = False
    compile: Annotated[Literal["auto", "off", "model"], BeforeValidator(_switched_off)] = "auto"

    @field_validator("model_kwargs")
    @classmethod
    def _plain_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        return of_a_model(value)

    @model_validator(mode="after")
    def _fits_its_data(self) -> Recipe:
        problems = [(key, ONLY_IMAGES) for key, harmless in self.data.refused.items() if attrgetter(key)(self) not in harmless]
        if self.evaluate.measure_both and not self.data.holds_out:
            nothing = "there is nothing held out to measure beside the test split; set data.validation_images"
            problems.append(("evaluate.measure_both", nothing))
        if self.search_within:
            problems += self.search_within.problems(self.evaluate.epochs)
        if self.campaign and self.amp == "auto":
            problems.append(("amp", "a campaign compares trainings of several machines; set off or bf16 for all of them"))
        return checked(self, problems)

    def for_training(self, model: str | None = None, data: Data | None = None) -> Recipe:
        """Return what one training depends on, for another model or data set if given; other sections have their defaults."""
        rest = {"search": Search(), "search_within": None, "select": NO_SELECT, "transfer": Transfer(), "campaign": None}
        return self.model_copy(update={"model": model or self.model, "data": data or self.data, **rest})

    def for_searching(self) -> Recipe:
        """Return what one search depends on: as `for_search`, with sections for trainings at their defaults.

        Recipes whose searches are the same give equal ones.
        """
        own = self.for_search
        search = own.search.model_copy(update={"image_size": None, "crop_padding": None, "model_kwargs": None})
        rest = {"evaluate": Evaluate(), "search_within": None, "select": NO_SELECT, "transfer": Transfer(), "campaign": None}
        return own.model_copy(update={"search": search, **rest})

    @property
    def for_search(self) -> Recipe:
        """Return the recipe of a search, with the images and model arguments of the ``search`` section put in."""
        own = {key: getattr(self.search, key) for key in ("image_size", "crop_padding")}
        data = self.data.model_copy(update={key: value for key, value in own.items() if value is not None})
        kwargs = {**self.model_kwargs, **(self.search.model_kwargs or {})}
        return self.model_copy(update={"data": data, "model_kwargs": kwargs})

    def to_yaml(self) -> str:
        """Return every setting as YAML, with defaults written out; it reads back as an equal recipe."""
        return strict_yaml.dump(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        """Return the hash of the resolved settings, which comments, the order of keys and omitted defaults do not change."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()
