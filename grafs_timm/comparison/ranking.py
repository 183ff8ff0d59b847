"""Rank trained activations and recommend one, in words that say no more than the intervals show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import scipy  # loads its parts when they are used

from ..activations.named import Kind
from ..errors import RunError
from .results import Place, Result
from .statistics import (
    LEVEL,
    Contrast,
    activations,
    by_seed,
    check,
    difference,
    gains,
    holm,
    places,
    searched_against_random,
)  # fmt: skip
from .verdict import ACCURACY, Difference, Measure, Side, Verdict

NOT_COMPARED = "not compared: the field was small enough for the last trainings"


@dataclass(frozen=True)
class Ranked:
    """One activation beside the default one.

    Args:
        activation: its label.
        kind: "found", "random" or "baseline".
        verdict: what the paired differences show.
        p: of the difference, Holm-adjusted over the ranking.
        lost: trainings of the default activation that it has no counterpart to.
        gains: its paired differences, of which the verdict is made.
    """

    activation: str
    kind: Kind
    verdict: Verdict
    p: float | None
    lost: int
    gains: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """All activations but the default one, the highest mean difference first.

    Args:
        usual: the default activation.
        rows: in order.
        fresh: whether no seed here was used to select the activations.
        left_out: the seeds that were, and are not counted.
        measure: what counts.
        level: of the intervals; the adjusted p is held against the rest to 1.
    """

    usual: str
    rows: tuple[Ranked, ...]
    fresh: bool
    left_out: tuple[int, ...]
    measure: Measure = ACCURACY
    level: float = LEVEL


def rank(
    results: Sequence[Result], usual: Mapping[str, str], chosen_on: Iterable[int] = (), level: float = LEVEL
) -> Ranking:  # fmt: skip
    """Rank by the mean paired difference to the default activation of each model, with its interval over training seeds.

    With several models or data sets a seed's difference is the mean over them; a seed counts where all of them have a figure.

    Args:
        results: of trainings.
        usual: {model: its default activation}.
        chosen_on: the training seeds by which the activations were selected from more. They are left out, because their
            differences are biased upwards.
        level: of the intervals, higher where the results are looked at several times (`look_level`).

    Raises:
        RunError: for rows that can't be compared, for a model without a default activation, and where that was not trained.
    """
    check(results)
    _all_known(results, usual)
    choosers = set(chosen_on)
    left_out = tuple(sorted({row.seed for row in results} & choosers))
    rows = [row for row in results if row.seed not in left_out]
    table, where, known = by_seed(rows), places(results), activations(results)
    measure = results[0].measure
    reference = _over_places(table, {place: usual[place.model] for place in where})
    found: dict[str, Difference] = {}
    gained: dict[str, tuple[float, ...]] = {}
    for label in known:
        if any(label != usual[place.model] for place in where):
            ours = _over_places(table, dict.fromkeys(where, label))
            found[label] = difference(ours, reference, measure, level)
            gained[label] = tuple(gains(ours, reference, measure))
    adjusted = holm({label: own.p for label, own in found.items()})
    names = {usual[place.model] for place in where}
    name = names.pop() if len(names) == 1 else "the default activation"
    ranked = []
    for label, own in found.items():
        lost = sum(len(_lacking(table, label, usual[place.model], place)) for place in where)
        ranked.append(Ranked(label, known[label].kind, Verdict(own, name, measure), adjusted[label], lost, gained[label]))
    ranked.sort(key=lambda row: (row.verdict.difference.mean is None, -(row.verdict.difference.mean or 0.0)))
    return Ranking(name, tuple(ranked), bool(choosers), left_out, measure, level)


def recommend(ranking: Ranking) -> tuple[str, str]:
    """Recommend an activation: the default one unless another's interval is above 0 and its adjusted p below 1 − level.

    An activation that lost a training is not recommended: it may have been its worst.

    Returns:
        The activation and the reason. Zoo entries record the words, and their hash covers them.
    """
    usual, rows = ranking.usual, ranking.rows
    looked_at = sum(row.p is not None for row in rows)
    better = [row for row in rows if row.verdict.side is Side.BETTER]
    for row in better:
        if row.p is not None and row.p < 1 - ranking.level and not row.lost:
            return row.activation, f"{_named(row)} is {row.verdict.sentence()}{_adjusted(row, looked_at)}. {_leaning(ranking)}"
    if better:
        row = better[0]
        lost = f"; it has no figure for {row.lost} of the trainings of {usual}" if row.lost else ""
        reason = f"{_named(row)} is {row.verdict.sentence()}{_adjusted(row, looked_at)}{lost}: too little for a change"
        return usual, f"Keep {usual}. {reason}. More training seeds would tell."
    if not rows or rows[0].verdict.difference.mean is None:
        return usual, f"Keep {usual}: nothing was compared with it."
    first = f"The {ranking.measure.best}, {_named(rows[0])}, is {rows[0].verdict.sentence()}"
    others = "the other activation is not" if len(rows) == 1 else f"none of the {len(rows)} others is"
    return usual, f"Keep {usual}: {others} shown to be better. {first}."


def look_level(pairs: int, most: int) -> float:
    """Return the level of the intervals where the trainings are looked at after 2, 3, … and ``most`` seeds.

    All looks may err in 5 % together, of which 5 % · (pairs ÷ most)⁶ are spent up to the look after ``pairs`` seeds: little
    early, most of it at the end. Each look gets what was not spent before (Bonferroni), so the intervals of all of them hold
    together with 95 %, whichever is the last. Alpha spending: Lan & DeMets 1983; power family: Kim & DeMets 1987.

    Args:
        pairs: paired seeds at this look.
        most: at the last one.

    >>> [round(look_level(pairs, 4), 4) for pairs in (2, 3, 4)]
    [0.9992, 0.9919, 0.9589]
    >>> look_level(2, 2)
    0.95
    """
    before = (pairs - 1) / most if pairs > 2 else 0.0
    return 1 - (1 - LEVEL) * ((pairs / most) ** _SPENDING - before**_SPENDING)


_SPENDING = 6  # 0.8 of the error is left for the last of three looks


def can_be_shown(pairs: Sequence[float], further: int, most: int) -> bool:
    """Return whether ``further`` pairs can still lift the interval of `look_level` above 0 at a later look, whatever they give.

    Stopping where they can't changes no recommendation (curtailment: Lan, Simon & Halperin 1982). Over all values that r
    further pairs can have, the largest t of n is √((n − 1)·m ÷ (n − m)), where m = r + max(sum, 0)² ÷ (sum of squares).

    Args:
        pairs: paired differences so far.
        further: pairs that may follow.
        most: pairs at the last look.

    >>> can_be_shown([0.5, -0.6], further=2, most=4), can_be_shown([0.5, 0.6], further=2, most=4)
    (False, True)
    """
    total, squares = math.fsum(pairs), math.fsum(value**2 for value in pairs)
    share = max(total, 0.0) ** 2 / squares if squares else 0.0
    for more in range(1, further + 1):
        n, reached = len(pairs) + more, more + share
        if n < 2:
            continue
        needed = float(scipy.stats.t.ppf((1 + look_level(most - further + more, most)) / 2, n - 1))
        if reached >= n * (1 - 1e-12) or (n - 1) * reached / (n - reached) > needed**2:
            return True
    return False


def is_settled(ranking: Ranking, further: int, most: int) -> bool:
    """Return whether trainings with further seeds are of no use: one is recommended already, or none can be any more.

    Args:
        ranking: at the `look_level` of this look.
        further: seeds that may follow.
        most: seeds at the last look.
    """
    if recommend(ranking)[0] != ranking.usual:
        return True
    return not any(can_be_shown(row.gains, further, most) for row in ranking.rows if not row.lost)


def looks_sentence(ranking: Ranking, further: int, most: int) -> str:
    """Write when the trainings ended, why, and how wide that makes the intervals; nothing where there is one look only.

    Args:
        ranking: at the last look.
        further: seeds that were not trained.
        most: seeds at the last possible look.
    """
    if most < 3:
        return ""
    level = f"{100 * ranking.level:.1f} %"
    widened = f"The interval is of {level}, as the results are looked at after each seed from the second on."
    if not further:
        return widened
    shown = recommend(ranking)[0] != ranking.usual
    reason = "the verdict is clear" if shown else "no result of the others could have shown it to be better"
    return f"Ended after {most - further} of {most} seeds: {reason}. {widened}"


def contrast(rows: Sequence[Result], searches: Mapping[str, int]) -> Contrast | None:
    """Compare searched with random activations; None where one of them is missing.

    Args:
        rows: trainings.
        searches: {label: how many searches ended in its function}; each of them counts.
    """
    kinds = {row.activation: row.kind for row in rows}
    searched, random = list[Mapping[int, float]](), list[Mapping[int, float]]()
    for (label, _), seeds in by_seed(rows).items():
        if kinds[label] == "random":
            random.append(seeds)
        searched += [seeds] * searches.get(label, 0)
    return searched_against_random(searched, random)


def contrast_sentence(own: Contrast, measure: Measure = ACCURACY) -> str:
    """Write what the medians of searched and random activations show. Zoo entries record the words.

    Args:
        own: the contrast.
        measure: what counts.
    """
    sizes = f"{own.searches} searched and {own.cells} random activations"
    searched, random = (measure.text(value) + measure.suffix for value in (own.searched, own.random))
    medians = f"median {measure.name} {searched} and {random}, rank-sum p = {p_value(own.p)}"
    if own.p >= 1 - LEVEL:
        return f"{sizes}: {medians}, not distinguishable"
    return f"{sizes}: {medians}, the {'searched' if measure.gain(own.searched, own.random) > 0 else 'random'} ones are better"


def p_value(p: float | None) -> str:
    """Write a p value; "–" for None.

    >>> p_value(0.0004), p_value(0.25)
    ('< 0.001', '0.250')
    """
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _all_known(results: Sequence[Result], usual: Mapping[str, str]) -> None:
    if not results:
        raise RunError("no training to rank")
    for place in places(results):
        if place.model not in usual:
            raise RunError(f"{place.model} has no default activation to compare with; usual names {', '.join(usual) or 'none'}")
        if not any(row.place == place and row.activation == usual[place.model] for row in results):
            raise RunError(f"{place}: {usual[place.model]} was not trained there, so nothing can be compared with it")


def _over_places(table: Mapping[tuple[str, Place], Mapping[int, float]], chosen: Mapping[Place, str]) -> dict[int, float]:
    """{seed: value averaged over the places}, NaN where one of them has none, of the activation chosen at each."""
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
