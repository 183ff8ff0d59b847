"""Define the sections of recipes that compare activations: selection among searches, matrix and campaign."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..utils.schema import Listed
from .schema_data import Count, DataOrName, Name, Names, NotNegative, Section, checked
from .schema_search import Search


class Select(Section):
    """Set up the selection among searches.

    Two rounds train what is left and the default activation, the first half as long as the second; the first keeps the better
    half and the second the best ``keep``. These are trained with fresh seeds until it is clear whether one is better.

    Args:
        epochs: Of the second round's trainings; null for a quarter of evaluate.epochs.
        seeds: Training seeds of each round.
        keep: Activations to keep for the final trainings.
        final_epochs: Of the final trainings; null for evaluate.epochs.
        final_seeds: The most fresh seeds of the final trainings, which end after two or more.
        controls: Random cells to train from the first round on, to tell what searching adds.
    """

    _brief = frozenset({"controls"})

    epochs: Count | None = None
    seeds: Count = 1
    keep: Count = 1
    final_epochs: Count | None = None
    final_seeds: Annotated[int, Field(ge=2)] = 4
    controls: Annotated[int, Field(ge=0)] = 0


NO_SELECT = Select(seeds=2, keep=2)  # the defaults when the first ledgers were written: their keys hash them


class Transfer(Section):
    """Set up the matrix activations × models × data × seeds of trainings.

    Args:
        activations: Zoo or timm names, genotype files, or folders of searches (every genotype.json in them, one per search
            seed).
        baselines: Stock activations to compare with.
        random: Number of random cells to compare with as a control.
        random_seed: Seed of the random cells.
        models: Names; the recipe's own if empty.
        data: Data sections, or names that take everything else from the recipe's section; the recipe's own if empty.
        paired: Train each model on the data set in the same position only, not on every one.
        seeds: Train with the seeds 0 to seeds − 1.
    """

    _brief = frozenset({"paired"})

    activations: Names = ()
    baselines: Names = ("relu", "gelu", "silu", "elu", "leaky_relu")
    random: Annotated[int, Field(ge=0)] = 0
    random_seed: Annotated[int, Field(ge=0)] = 0
    models: Names = ()
    data: Annotated[tuple[DataOrName, ...], Listed] = ()
    paired: bool = False
    seeds: Count = 3

    @model_validator(mode="after")
    def _pairs_fit(self) -> Transfer:
        counts = len(self.models), len(self.data)
        if not self.paired or counts[0] == counts[1] > 0:
            return self
        return checked(self, [("paired", f"needs as many models as data sets, got {counts[0]} and {counts[1]}")])


class Place(Section):
    """Name a model and a data set.

    Args:
        model: timm's name.
        data: As in ``transfer.data``.
    """

    model: Name
    data: DataOrName


class Campaign(Section):
    """Set up the campaign behind a zoo entry: searches, then trainings of ``transfer``'s activations and of what was found.

    Args:
        budget: Label of the campaign's size.
        searches: Number of searches.
        variants: Further searches, as many of each: a name, and the keys of ``search`` that it changes.
        seeds: Training seeds of every activation on the model and data set of the searches.
        keep: Number of activations to train further: the best by held-out figures, always with the default activation and the
            best found one.
        keep_seeds: Training seeds of these.
        places: Further models and data sets to train these on.
        place_seeds: Training seeds there.
        retire_after, retire_below: After so many of these seeds stop training an activation if the whole 95 % interval of its
            paired held-out difference to the default activation is below −``retire_below`` (percentage points; nats for
            text).
        held_out: Training images to hold out for selection, where ``data.validation_images`` holds out none.
    """

    _brief = frozenset({"variants"})

    budget: Literal["reduced", "standard", "full"] = "standard"
    searches: Count = 5
    variants: dict[str, Search] = Field(default_factory=dict)
    seeds: Count = 3
    keep: Count = 6
    keep_seeds: Count = 5
    places: Annotated[tuple[Place, ...], Listed] = ()
    place_seeds: Count = 3
    retire_after: Annotated[int, Field(ge=2)] = 3
    retire_below: NotNegative = 1.0
    held_out: Count | None = None

    @model_validator(mode="after")
    def _variants_have_labels(self) -> Campaign:
        problems = []
        for name in self.variants:
            if not re.fullmatch("[a-z][a-z0-9_]{0,30}", name):
                problems.append((f"variants.{name}", "a name has at most 31 of a–z, 0–9 and _, a letter first"))
            elif name == "searches" or name.startswith("random"):
                what = "the campaign's own searches and random cells are called so; take another name"
                problems.append((f"variants.{name}", what))
        return checked(self, problems)
