"""Define the schema of recipes: every setting, its type, its default, and which values fit each other.

Defaults are the paper's settings for ResNet-20 on CIFAR-10 (arXiv 2408.06820) where it gives them.
"""

from __future__ import annotations

import hashlib
import json
from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from . import strict_yaml
from .schema_compare import NO_SELECT
from .schema_compare import Campaign as Campaign
from .schema_compare import Place as Place
from .schema_compare import Select as Select
from .schema_compare import Transfer as Transfer
from .schema_data import ONLY_IMAGES, Count, DataOrName, Fraction, Name, NotNegative, Section, checked, of_a_model
from .schema_data import Data as Data
from .schema_data import Figure as Figure
from .schema_data import ImageData as ImageData
from .schema_data import Text as Text
from .schema_data import TextData as TextData
from .schema_data import read_data as read_data
from .schema_search import Search as Search
from .schema_search import SearchWithin as SearchWithin
from .schema_search import Weights as Weights
from .schema_search import part_problems, warmup_problems


def _switched_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


def _changed(settings: Any, changes: Any) -> Any:
    """Return ``settings`` with ``changes`` put in, key by key where both are mappings."""
    if not isinstance(settings, dict) or not isinstance(changes, dict):
        return changes
    return settings | {key: _changed(settings.get(key), value) for key, value in changes.items()}


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
        return checked(self, part_problems(self.batch_size, self.accumulate) + warmup_problems(self.weights, self.epochs))


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

    @model_validator(mode="before")
    @classmethod
    def _variants_change_the_search(cls, values: Any) -> Any:
        campaign = values.get("campaign") if isinstance(values, dict) else None
        variants = campaign.get("variants") if isinstance(campaign, dict) else None
        if not isinstance(campaign, dict) or not isinstance(variants, dict):
            return values
        search = values.get("search", {})
        own = search.model_dump(mode="json") if isinstance(search, Search) else search
        whole = {name: _changed(own, changes) for name, changes in variants.items()}
        return {**values, "campaign": {**campaign, "variants": whole}}

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
