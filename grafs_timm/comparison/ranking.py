"""From trainings to a choice, and the words for it: none of them says more than its interval shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import RunError
from .statistics import (
    ACCURACY,
    Contrast,
    Difference,
    Kind,
    Measure,
    Place,
    Result,
    activations,
    check,
    difference,
    holm,
    places,
    scores,
)

LEVEL = 0.05  # of the adjusted p below which a change from the usual activation is recommended


@dataclass(frozen=True)
class Ranked:
    """One activation beside the usual one.

    ``p``: Holm-adjusted over the ranking; ``lost``: trainings of the usual one that it has no counterpart to.
    """

    activation: str
    kind: Kind
    difference: Difference
    p: float | None
    lost: int


@dataclass(frozen=True)
class Ranking:
    """All activations but the usual one, the highest mean difference first.

    ``fresh``: no seed here had a part in choosing them; ``left_out``: the seeds that had, and are not counted.
    """

    usual: str
    rows: tuple[Ranked, ...]
    fresh: bool
    left_out: tuple[int, ...]
    measure: Measure = ACCURACY


def rank(results: Sequence[Result], usual: Mapping[str, str], chosen_on: Iterable[int] = ()) -> Ranking:
    """Rank by the mean paired difference to the usual activation of each model, with its interval over training seeds.

    ``usual``: {model: activation}. ``chosen_on``: the training seeds by which these were picked from a larger field; they are
    left out, because what was picked by a seed was lucky on it. With several models or data sets a seed's difference is the
    mean over them, and a seed counts where all of them have a figure. RunError for rows that can't be compared, for a model
    without a usual activation, and where that one was never trained.
    """
    check(results)
    _all_known(results, usual)
    choosers = set(chosen_on)
    left_out = tuple(sorted({row.seed for row in results} & choosers))
    rows = [row for row in results if row.seed not in left_out]
    table, where, known = scores(rows), places(results), activations(results)
    reference = _over_places(table, {place: usual[place.model] for place in where})
    found: dict[str, Difference] = {}
    for label in known:
        if any(label != usual[place.model] for place in where):
            found[label] = difference(_over_places(table, dict.fromkeys(where, label)), reference)
    adjusted = holm({label: own.p for label, own in found.items()})
    ranked = []
    for label, own in found.items():
        lost = sum(len(_lacking(table, label, usual[place.model], place)) for place in where)
        ranked.append(Ranked(label, known[label].kind, own, adjusted[label], lost))
    ranked.sort(key=lambda row: (row.difference.mean is None, -(row.difference.mean or 0.0)))
    names = {usual[place.model] for place in where}
    name = names.pop() if len(names) == 1 else "the usual activation"
    return Ranking(name, tuple(ranked), bool(choosers), left_out, results[0].measure)


def verdict(own: Difference, usual: str, noun: str = "activations", measure: Measure = ACCURACY) -> str:
    """What one difference shows, as a sentence's middle: «better than relu by 1.20 [0.30, 2.10] points over 4 paired seeds».

    «Better» and «worse» only where the whole interval lies on that side of 0. ``noun``: what the members of a group are.
    """
    if own.mean is None:
        return f"not compared with {usual}: no seed was trained with both"
    over = f"{own.n} paired seed" + ("s" if own.n > 1 else "")
    if own.members is not None:
        over = f"{own.members} {noun} with {over} each"
    if own.low is None or own.high is None:
        return _without_interval(own, usual, over, noun, measure)
    mean, low, high = (points(abs(value), digits=measure.digits) for value in (own.mean, own.low, own.high))
    if own.low > 0:
        return f"better than {usual} by {mean} [{low}, {high}] {measure.unit} over {over}"
    if own.high < 0:
        return f"worse than {usual} by {mean} [{high}, {low}] {measure.unit} over {over}"
    return f"not distinguishable from {usual}: {signed(own, measure)} {measure.unit} over {over}"


def recommend(ranking: Ranking) -> tuple[str, str]:
    """The activation to take, and why. The usual one, unless another's interval lies above 0 and holds beside all the others.

    An activation that lost a training is not recommended: it may have been its worst.
    """
    usual, rows = ranking.usual, ranking.rows
    looked_at = sum(row.p is not None for row in rows)
    for row in rows:
        own = row.difference
        if own.low is not None and own.low > 0 and row.p is not None and row.p < LEVEL and not row.lost:
            text = f"{_named(row)} is {_verdict(ranking, own)}{_adjusted(row, looked_at)}. {_leaning(ranking)}"
            return row.activation, text.strip()
    above = [row for row in rows if row.difference.low is not None and row.difference.low > 0]
    if above:
        row = above[0]
        lost = f"; it has no figure for {row.lost} of the trainings of {usual}" if row.lost else ""
        reason = (
            f"{_named(row)} is {_verdict(ranking, row.difference)}{_adjusted(row, looked_at)}{lost}: too little for a change"
        )
        return usual, f"Keep {usual}. {reason}. More training seeds would tell."
    if not rows or rows[0].difference.mean is None:
        return usual, f"Keep {usual}: nothing was compared with it."
    best = "highest" if ranking.measure.sign > 0 else "lowest"
    first = f"The {best}, {_named(rows[0])}, is {_verdict(ranking, rows[0].difference)}"
    others = "the other activation is not" if len(rows) == 1 else f"none of the {len(rows)} others is"
    return usual, f"Keep {usual}: {others} shown to be better. {first}."


def _verdict(ranking: Ranking, own: Difference) -> str:
    return verdict(own, ranking.usual, measure=ranking.measure)


def contrast_verdict(own: Contrast, measure: Measure = ACCURACY) -> str:
    """What the medians of searched and random activations show, as a sentence."""
    sizes = f"{own.searches} searched and {own.cells} random activations"
    searched, random = (measure.value(score) + measure.suffix for score in (own.searched, own.random))
    medians = f"median {measure.name} {searched} and {random}, rank-sum p = {p_value(own.p)}"
    if own.p >= LEVEL:
        return f"{sizes}: {medians}, not distinguishable"
    return f"{sizes}: {medians}, the {'searched' if own.searched > own.random else 'random'} ones are better"


def points(value: float, sign: bool = False, digits: int = 2) -> str:
    """So many decimals, with more where they would hide on which side of 0 it lies; a true minus."""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if float(text) == 0:
        text = f"{value:{'+' if sign else ''}.1g}" if value else f"{0:.{digits}f}"
    return text.replace("-", "−")


def signed(own: Difference, measure: Measure = ACCURACY) -> str:
    """«+0.30 [−0.90, +1.50]», without brackets where there is no interval, «–» where there is no difference."""
    if own.mean is None:
        return "–"
    if own.low is None or own.high is None:
        return points(own.mean, sign=True, digits=measure.digits)
    mean, low, high = (points(value, sign=True, digits=measure.digits) for value in (own.mean, own.low, own.high))
    return f"{mean} [{low}, {high}]"


def p_value(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _without_interval(own: Difference, usual: str, over: str, noun: str, measure: Measure) -> str:
    assert own.mean is not None
    beside = f"{points(own.mean, sign=True, digits=measure.digits)} {measure.unit} beside {usual} over {over}"
    if own.n < 2:
        return f"{beside}: one pair shows no spread, so nothing is claimed"
    if own.members == 1:
        return f"{beside}: one of the {noun} shows no spread over them, so nothing is claimed"
    if own.mean == 0:
        return f"equal to {usual} in each pair over {over}"
    return f"{beside}, the same in each pair: that shows no spread, so nothing is claimed"


def _all_known(results: Sequence[Result], usual: Mapping[str, str]) -> None:
    if not results:
        raise RunError("no training to rank")
    for place in places(results):
        if place.model not in usual:
            raise RunError(f"{place.model} has no usual activation to compare with; usual names {', '.join(usual) or 'none'}")
        if not any(row.place == place and row.activation == usual[place.model] for row in results):
            raise RunError(f"{place}: {usual[place.model]} was not trained there, so nothing can be compared with it")


def _over_places(table: Mapping[tuple[str, Place], Mapping[int, float]], chosen: Mapping[Place, str]) -> dict[int, float]:
    """{seed: score averaged over the places}, NaN where one of them has none, of the activation chosen at each."""
    columns = [table.get((label, place), {}) for place, label in chosen.items()]
    seeds = sorted(set().union(*columns))
    return {seed: sum(column.get(seed, math.nan) for column in columns) / len(columns) for seed in seeds}


def _lacking(table: Mapping[tuple[str, Place], Mapping[int, float]], label: str, usual: str, place: Place) -> list[int]:
    own, theirs = table.get((label, place), {}), table.get((usual, place), {})
    return [seed for seed, value in theirs.items() if math.isfinite(value) and not math.isfinite(own.get(seed, math.nan))]


def _named(row: Ranked) -> str:
    return f"{row.activation} (a random cell)" if row.kind == "random" else row.activation


def _adjusted(row: Ranked, looked_at: int) -> str:
    return f" (p = {p_value(row.p)}, adjusted for {looked_at} comparisons)" if looked_at > 1 else ""


def _leaning(ranking: Ranking) -> str:
    if not ranking.fresh:
        return "If these seeds also had a part in choosing it, the difference leans upwards: train it on fresh seeds to tell."
    if len(ranking.rows) > 1:
        return (
            "Its seeds had no part in the choice of the field; as the highest of several, its difference still leans upwards."
        )
    return "Its seeds had no part in its choice."
