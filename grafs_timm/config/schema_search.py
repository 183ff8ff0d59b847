"""Define the sections of recipes that set up a search, alone or within a training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..errors import RecipeError
from ..utils.schema import Listed
from ..utils.suggest import nearest
from .schema_data import Beta, Count, Epochs, Name, NotNegative, Positive, Section, checked, of_a_model


def warmup_problems(weights: Weights, epochs: int) -> list[tuple[str, str]]:
    if weights.warmup_epochs and weights.warmup_epochs >= epochs:
        return [("weights.warmup_epochs", f"must be below epochs ({epochs}), got {weights.warmup_epochs}")]
    return []


def part_problems(batch_size: int, accumulate: int) -> list[tuple[str, str]]:
    if batch_size % accumulate == 0:
        return []
    fits = next(n for n in range(min(accumulate, batch_size), 0, -1) if batch_size % n == 0)
    what = f"must divide batch_size ({batch_size}) into equal parts"
    return [("accumulate", f"{what}, got {accumulate}; the next smaller that does is {fits}")]


def schedule_problems(epochs: int, warm_start: int, fade: int, shrink_start: int) -> list[tuple[str, str]]:
    problems = []
    if warm_start >= epochs:
        problems.append(("warm_start", f"must be below epochs ({epochs}), got {warm_start}"))
    elif warm_start + fade > epochs:
        problems.append(("fade", f"must end within epochs ({epochs}), got {fade} after a warm start of {warm_start}"))
    if shrink_start > epochs - 2:
        what = f"must be at most epochs − 2 ({epochs - 2}), so that there are epochs for the drops"
        problems.append(("shrink_start", f"{what}, got {shrink_start}"))
    return problems


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
        problems = schedule_problems(self.epochs, self.warm_start, self.fade, self.shrink_start)
        problems += part_problems(self.batch_size, self.accumulate)
        return checked(self, problems + warmup_problems(self.weights, self.epochs))


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
        plan = schedule_problems(own.epochs, own.warm_start, own.fade, own.shrink_start)
        problems += [(f"search_within.{key}", what) for key, what in plan]
        return problems

    def _without_null(self, epochs: int) -> SearchWithin:
        own = max(4, epochs // 4) if self.epochs is None else self.epochs
        warm = own // 3 if self.warm_start is None else self.warm_start
        shrink = max(1, own // 4) if self.shrink_start is None else self.shrink_start
        return self.model_copy(update={"epochs": own, "warm_start": warm, "shrink_start": shrink})
