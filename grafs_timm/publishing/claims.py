"""Say what may be said of an entry: its effect at home, its effect elsewhere, its cost, and when not to use it.

Nothing here says more than a 95 % interval shows: see `Verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..comparison import statistics
from ..comparison.verdict import MEASURES, Difference, Measure, Side, Verdict
from ..utils.markdown import listed, many
from ..zoo.entry import Batch, Contents, Cost, Metric, Spread

BUDGETS = {"reduced": 0, "standard": 1, "full": 2}  # in rising order
MIN_PAIRS = 3  # training seeds that both have, below which a budget makes no headline
SLOW = 1.5  # times the cost of GELU from which a card warns
STEEP = 2.0  # the largest |f′| from which a card warns; GELU's is 1.13, SiLU's 1.10
_UNKNOWN = Difference(None, None, None, None, 0, 0)


def of(batch: Batch) -> Measure:
    """Return what the batch is measured by."""
    return MEASURES[batch.measure]


def headline(contents: Contents) -> Batch:
    """Return the batch with the highest budget that has enough seeds paired with the default activation."""
    paired = [batch for batch in contents.batches if (row := home(batch)) and row.difference and row.difference.n >= MIN_PAIRS]
    return max(paired or contents.batches[:1], key=lambda batch: BUDGETS[batch.budget])  # of equals the first


def recommended(contents: Contents) -> bool:
    """Return whether the headline shows it to be better than the default activation where it was searched."""
    return at_home(headline(contents)).side is Side.BETTER


def not_shown(contents: Contents) -> str | None:
    """Write "not shown to be better than relu (...)"; None where it is shown."""
    batch = headline(contents)
    own = at_home(batch)
    if own.side is Side.BETTER:
        return None
    measured = "not measured" if own.difference.mean is None else own.measured
    return f"not shown to be better than {batch.usual} ({measured} at the {batch.budget} budget)"


def verdict(batch: Batch, row: Metric | Spread | None) -> Verdict:
    """Return what the figures of ``row`` show beside the default activation; without a difference where none was measured.

    Args:
        batch: of the entry.
        row: of its metrics or spreads.
    """
    own = row.difference if row else None
    if own is None:
        return Verdict(_UNKNOWN, batch.usual, of(batch))
    return Verdict(Difference(own.mean, own.low, own.high, own.p, own.n, 0), own.to, of(batch))


def found_at(batch: Batch, place: tuple[str, str]) -> Metric | None:
    """Return the found function's own row; None where it was not trained there.

    Args:
        batch: of the entry.
        place: (model, data).
    """
    return batch.metric(*place, batch.label)


@dataclass(frozen=True)
class Elsewhere:
    """For how many other pairs of model and data set the found function is better, worse, or no difference is shown."""

    better: int
    worse: int
    not_shown: int

    @property
    def places(self) -> int:
        return self.better + self.worse + self.not_shown

    def __str__(self) -> str:
        if not self.places:
            return "not measured elsewhere"
        return (
            f"elsewhere: better for {self.better}, worse for {self.worse}, no difference shown for {self.not_shown} "
            f"of {many(self.places, 'pair')} of model and data set"
        )


def home(batch: Batch) -> Metric | None:
    """Return the row of the found function where it was searched."""
    return found_at(batch, (batch.provenance.model, batch.provenance.data))


def at_home(batch: Batch) -> Verdict:
    """Return what is shown of the found function where it was searched."""
    return verdict(batch, home(batch))


def elsewhere(batch: Batch) -> Elsewhere:
    """Count what is shown of the found function elsewhere."""
    own = (batch.provenance.model, batch.provenance.data)
    rows = [row for place in batch.places if place != own and (row := found_at(batch, place)) is not None]
    sides = [verdict(batch, row).side for row in rows]
    return Elsewhere(sides.count(Side.BETTER), sides.count(Side.WORSE), sides.count(Side.NOT_SHOWN))


def effect(batch: Batch) -> str:
    """Write the effect where it was searched."""
    own, where = at_home(batch), f"{batch.provenance.model} on {batch.provenance.data}"
    if own.difference.mean is None:
        return f"its effect against {batch.usual} was not measured where it was searched, {where}"
    shown = f"no difference from {own.to} shown" if own.side is Side.NOT_SHOWN else f"{own.side} than {own.to}"
    measured = f"{own.measured} over {many(own.difference.n, 'training seed')}"
    measured += "" if own.has_interval else ", too few for an interval"
    return f"{shown} where it was searched, {where} ({measured})"


def timed(contents: Contents) -> Cost | None:
    """Return the timing of the first batch that has one; it is the function's, whatever it was trained on."""
    return next((batch.cost for batch in contents.batches if batch.cost), None)


def cost(contents: Contents) -> str:
    """Write the cost beside GELU."""
    own = timed(contents)
    return "cost not timed" if own is None else f"{own.ratio:.2f} times the cost of GELU"


def is_reduced(batch: Batch) -> bool:
    """Return whether trainings were shortened, or on fewer or smaller images than a user's would be."""
    return batch.budget != "full"


def intervals(batch: Batch) -> int:
    """Count the 95 % intervals in a batch's tables."""
    rows: list[Metric | Spread] = [*batch.metrics, *batch.spreads]
    return sum(verdict(batch, row).has_interval for row in rows)


def warnings(contents: Contents) -> list[str]:
    """Write when not to use it, each in a sentence, from the entry's fields alone."""
    said = _measured(headline(contents))
    own = timed(contents)
    if own is None:
        said.append("Where time matters: its cost was not timed.")
    elif own.ratio > SLOW:
        said.append(f"Where time matters: forward and backward take {own.ratio:.2f} times as long as GELU's.")
    return [*said, *_facts(contents)]


def _measured(batch: Batch) -> list[str]:
    rows = [row for place in batch.places if (row := found_at(batch, place)) is not None]
    by_side: dict[Side, list[str]] = {side: [] for side in Side}
    for row in rows:
        own = verdict(batch, row)
        by_side[own.side].append(f"{row.model} on {row.data} ({own.interval})")
    said, not_shown = [], by_side[Side.NOT_SHOWN]
    if by_side[Side.WORSE]:
        said.append(f"It is worse than the default activation for {listed(by_side[Side.WORSE])}.")
    if rows and len(not_shown) == len(rows):
        every = f"any of {many(len(rows), 'pair')} of model and data set"
        said.append(f"No difference from {batch.usual} is shown for {every}: use {batch.usual}.")
    elif not_shown:
        said.append(f"No difference from the default activation is shown for {listed(not_shown)}.")
    said += _behind(batch)
    if is_reduced(batch):
        said.append(f"Its effect in a training of full length is unknown; the budget was {batch.provenance.budget}.")
    return said


def _behind(batch: Batch) -> list[str]:
    """Where another baseline than the model's default activation is better than the function, by paired training seeds."""
    found: dict[str, list[str]] = {}
    for place in batch.places:
        ours = found_at(batch, place)
        for row in batch.metrics:
            if ours is None or row.kind != "baseline" or (row.model, row.data) != place or row.difference is None:
                continue
            own = Verdict(statistics.difference(_each(ours), _each(row), of(batch)), row.activation, of(batch))
            if own.side is Side.WORSE:
                found.setdefault(row.activation, []).append(f"{row.model} on {row.data} ({own.interval})")
    return [f"{name} is better than it for {listed(places)}." for name, places in found.items()]


def _each(row: Metric) -> dict[int, float]:
    return {int(seed): value for seed, value in row.each.items()}


def _facts(contents: Contents) -> list[str]:
    facts, said = contents.facts, []
    for finite, kind in ((facts.fp16, "float16"), (facts.bf16, "bfloat16")):
        if not finite:
            said.append(f"In {kind}: the function or its gradient is not finite for every finite input.")
    if facts.monotone == "no":
        said.append("Where a monotone function is needed: it is not monotone on [−10, 10].")
    if facts.lipschitz > STEEP:
        said.append(f"Where gradients must stay small: |f′| reaches {facts.lipschitz:.4g} on [−10, 10] (GELU: 1.13).")
    if facts.kinks:
        said.append(f"Where a smooth derivative is needed: f′ jumps at x = {listed([f'{x:.4g}' for x in facts.kinks])}.")
    return said
