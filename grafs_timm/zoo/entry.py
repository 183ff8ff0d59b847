"""A zoo entry as data: the fields of ``zoo/<family>/<name>.json``.

The function is the genotype, and ``facts`` follow from it. Each ``Batch`` is one campaign that ended in it: its searches, the
selection among them and the trainings of the matrix, all computed from the logs in the evidence that the batch names.
Accuracies are in per cent, losses in nats per token, durations in seconds. Differences are in percentage points or nats, above
0 where ours is better. Positions on the x axis of f are plain numbers.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field

from ..activations.facts import Facts as Facts
from ..utils.schema import Listed, Part

FORMAT = "grafs-zoo/2"


Text = Annotated[str, Field(min_length=1, max_length=2000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
Count = Annotated[int, Field(ge=0)]
Kind = Literal["found", "random", "baseline"]


class Cost(Part):
    """Median time of forward and backward ÷ that of GELU in the same run; the timings are in the evidence's cost.csv."""

    ratio: Annotated[float, Field(gt=0)]
    device: Text


class Provenance(Part):
    """Where the batch came from.

    Fields of the search are null where no search of the campaign ended in the function, but it was given. ``recipe`` lies in
    the evidence; ``hardware``: hours on each processor; ``date``: of the last line.
    """

    recipe: Text
    recipe_sha256: Sha256
    model: Text
    data: Text
    search_seed: Count | None
    epochs: Count | None
    steps_per_epoch: Count | None
    seconds: Annotated[float, Field(ge=0)] | None
    versions: dict[str, str]
    hardware: Text
    commit: Text
    date: Text
    budget: Text


class Difference(Part):
    """How much better ours is than theirs: percentage points of accuracy, or nats by which the loss is lower.

    Over the ``n`` training seeds that both have, with the t interval of ``level`` and its p value; ``low``, ``high`` and ``p``
    are null where nothing tells the spread.
    """

    to: Text
    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: Count
    level: float = 0.95


class Metric(Part):
    """Results of one activation on one model and data set, over training seeds.

    ``sd`` is null for one seed. ``each``: by training seed. ``retired``: after how many seeds the campaign's rule gave it no
    further ones; null where it did not. ``repeated``: how many of its trainings were repeated.
    """

    model: Text
    data: Text
    activation: Text
    kind: Kind
    search_seed: Count | None
    n: Count
    mean: float
    sd: float | None
    each: dict[str, float]
    retired: Count | None
    repeated: Count
    difference: Difference | None


class Spread(Part):
    """All searches of the batch, or all random cells, on one model and data set.

    ``sd`` is over their means, ``seed_sd`` over training seeds within one, pooled. Searches that ended in one function count
    each.
    """

    model: Text
    data: Text
    kind: Literal["found", "random"]
    members: Count
    mean: float
    sd: float | None
    seed_sd: float | None
    difference: Difference | None


class Search(Part):
    """One search of the batch, selected or not.

    ``label``: the function's label in the evidence. ``same_as``: the default activation, or the label of the earlier search,
    that it equals up to scales. ``held_out``: the result of the discretised function with the search's own weights. ``near``:
    the nearest of the published functions, and ``apart``, its distance (L2 under N(0, 1), relative, up to both
    scales).
    """

    seed: Count
    label: Text
    formula: Text
    sha256: Sha256
    genotype: dict[str, Any]
    same_as: Text | None
    held_out: float
    seconds: Annotated[float, Field(ge=0)]
    chosen: bool
    near: Text | None
    apart: float | None


class Choice(Part):
    """How the entry was selected among the searches, on held-out training images.

    ``why`` in words, the cost of all of it in full trainings with the default activation, and how searched functions compare
    with random cells.
    """

    why: Text
    full_trainings: float | None
    searched_against_random: Text


class Verified(Part):
    """A training that was repeated: what the entry reports for its seed, and what came out again."""

    model: Text
    data: Text
    activation: Text
    seed: Count
    reported: float
    again: float
    versions: dict[str, str]
    hardware: Text
    date: Text


class Evidence(Part):
    """The evidence that a batch was computed from.

    ``folder`` below ``zoo/<family>/evidence/``, the sha256 of the files beside the ledger, and the ids of the ledger's lines,
    which may have grown since.
    """

    folder: FileName
    files: dict[Annotated[str, Field(pattern=r"^(recipes/)?[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")], Sha256]
    lines: Annotated[tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...], Listed]


class Batch(Part):
    """One campaign that ended in this function, or measured it.

    ``label``: its label in the evidence. ``usual``: the family's default activation. ``measure``: "accuracy" or "loss".
    ``train_images`` (null: the whole split) and ``epochs`` of each training of the matrix. ``cost`` is null where nothing was
    timed, ``steps_per_epoch`` where an epoch is a pass over the data.
    """

    label: Text
    usual: Text
    budget: Literal["reduced", "standard", "full"]
    measure: Literal["accuracy", "loss"]
    train_images: Count | None
    epochs: Count
    steps_per_epoch: Count | None
    provenance: Provenance
    choice: Choice
    cost: Cost | None
    searches: Annotated[tuple[Search, ...], Listed, Field(min_length=1)]
    metrics: Annotated[tuple[Metric, ...], Listed, Field(min_length=1)]
    spreads: Annotated[tuple[Spread, ...], Listed]
    evidence: Evidence

    def metric(self, model: str, data: str, activation: str) -> Metric | None:
        """None where it was not trained there."""
        for row in self.metrics:
            if (row.model, row.data, row.activation) == (model, data, activation):
                return row
        return None

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """(model, data) of every place, the search's own first, in the order of the metrics."""
        home = (self.provenance.model, self.provenance.data)
        return tuple(sorted(dict.fromkeys((row.model, row.data) for row in self.metrics), key=lambda place: place != home))


class Contents(Part):
    """Everything that an entry's file holds; ``batches[0]`` found the function, later ones found it again or measured it.

    ``alias``: ``grafs_<family>`` loads it, one a family. ``recommended``: it is shown to be better than the default activation
    on the model and data set of its search, at the highest budget that it has. ``sha256``: of the canonical form of all other
    fields.

    >>> from grafs_timm.zoo import get_activation
    >>> contents = get_activation("grafs_resnet").contents
    >>> contents.family, contents.batches[0].usual
    ('resnet', 'relu')
    """

    format: Literal["grafs-zoo/2"]
    name: Annotated[str, Field(pattern=r"^grafs_[a-z0-9_]{1,80}$")]
    family: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
    alias: bool
    recommended: bool
    licence: Text
    genotype: dict[str, Any]
    facts: Facts
    batches: Annotated[tuple[Batch, ...], Listed, Field(min_length=1)]
    verified: Annotated[tuple[Verified, ...], Listed]
    sha256: Sha256

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def sealed(self) -> Contents:
        """The same with the sha256 that its fields have."""
        return self.model_copy(update={"sha256": canonical_sha256(self.to_dict())})


def canonical_sha256(data: dict[str, Any]) -> str:
    """Of all fields but ``sha256``: keys sorted, no spaces, numbers in decimals that round-trip."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
