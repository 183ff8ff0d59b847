"""What the trainings of a matrix show: means, paired differences with their intervals, spread over searches apart.

Pure functions. A `Result` is one training; `by_seed` sorts them into {seed: value} for every activation at every `Place`, and
the other functions take such mappings. NaN is a training without a figure (it failed, or has not run): it enters no mean and no
difference, and is counted wherever it is left out. A figure at chance level is a figure: it enters as it was measured.

docs/statistics.md says what each number means.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import scipy  # loads its parts when they are used

from ..activations.named import Kind
from ..errors import RunError
from .results import Place, Result
from .verdict import ACCURACY, Difference, Measure

KINDS: tuple[Kind, ...] = get_args(Kind)
Seeds = Mapping[int, float]  # training seed -> value as measured
LEVEL = 0.95  # of intervals
STOPPED_LEVEL = 0.975  # of an activation that was stopped early: looked at twice, so each look has half the 5 % (Bonferroni)


@dataclass(frozen=True)
class Mean:
    """Over ``n`` figures.

    Args:
        mean: None without figures.
        sd: with n − 1 in the denominator; None below two.
        n: how many figures.
        lost: how many trainings have none.
    """

    mean: float | None
    sd: float | None
    n: int
    lost: int = 0


@dataclass(frozen=True)
class Group:
    """Activations drawn in the same way: the searches of one ``batch``, or random cells."""

    kind: Kind
    batch: str | None
    members: tuple[str, ...]

    @property
    def noun(self) -> str:
        return "searches" if self.kind == "found" else "random cells"

    @property
    def label(self) -> str:
        return f"{self.noun} of {self.batch}" if self.batch else self.noun

    @property
    def several(self) -> bool:
        return len(self.members) > 1


@dataclass(frozen=True)
class GroupMean:
    """Over the means of a group's members.

    Args:
        mean: of them.
        sd: of them. It includes the noise of the training seeds: members that are all the same function have about
            seed_sd/√(seeds).
        seed_sd: over training seeds within a member, pooled; None where there is nothing to take it from.
        members: how many have figures.
        lost: how many have none.
    """

    mean: float | None
    sd: float | None
    seed_sd: float | None
    members: int
    lost: int = 0


@dataclass(frozen=True)
class Contrast:
    """Searched beside random activations.

    Args:
        searched: median of the searched members' means.
        random: the same of the random ones.
        searches: how many members.
        cells: how many random ones.
        p: of the rank-sum test, two-sided.
    """

    searched: float
    random: float
    searches: int
    cells: int
    p: float


def check(results: Sequence[Result]) -> None:
    """Check that rows can be compared. RunError for a cell twice, two splits, unequal lengths, a label of two kinds."""
    cells: set[Any] = set()
    kinds: dict[str, Any] = {}
    epochs: dict[Place, int] = {}
    for row in results:
        if row.kind not in KINDS:
            raise RunError(f"{row.activation}: a kind is one of {', '.join(KINDS)}, got {row.kind!r}")
        if row.cell in cells:
            raise RunError(f"{row.activation}, {row.place}, seed {row.seed} is a duplicate: each training has one row")
        cells.add(row.cell)
        origin = (row.kind, row.batch, row.search_seed)
        if kinds.setdefault(row.activation, origin) != origin:
            raise RunError(
                f"{row.activation} names two activations, {kinds[row.activation]} and {origin}: give each its own label"
            )
        if row.split != results[0].split:
            raise RunError(f"results on {results[0].split} and on {row.split} can't be compared: report them apart")
        if row.compared_by != results[0].compared_by:
            raise RunError(f"{row.place}: some trainings are compared by accuracy and some by loss: report them apart")
        if epochs.setdefault(row.place, row.epochs) != row.epochs:
            raise RunError(f"{row.place}: trainings of {epochs[row.place]} and of {row.epochs} epochs can't be compared")


def by_seed(results: Iterable[Result]) -> dict[tuple[str, Place], dict[int, float]]:
    """Return {(activation, place): {seed: value}}; a value that isn't finite is NaN."""
    table: dict[tuple[str, Place], dict[int, float]] = {}
    for row in results:
        table.setdefault((row.activation, row.place), {})[row.seed] = row.value if row.has_figure else math.nan
    return table


def places(results: Iterable[Result]) -> list[Place]:
    """Return every model and data set of the rows, ordered by name."""
    return sorted({row.place for row in results}, key=lambda place: (natural(place.model), natural(place.data)))


def activations(results: Iterable[Result]) -> dict[str, Result]:
    """Return the activations with one of their rows in the order of reports: found, random, baselines."""
    first: dict[str, Result] = {}
    for row in results:
        first.setdefault(row.activation, row)

    def order(row: Result) -> Any:
        # the label decides where two searches of a batch have no seed
        seed = math.inf if row.search_seed is None else row.search_seed
        return KINDS.index(row.kind), natural(row.batch or ""), seed, natural(row.activation)

    return {row.activation: row for row in sorted(first.values(), key=order)}


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sorting key by which seed_10 comes after seed_9.

    >>> sorted(["s10", "s9"], key=natural)
    ['s9', 's10']
    """
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def mean(seeds: Seeds) -> Mean:
    """Return the mean over training seeds.

    >>> mean({0: 70.0, 1: 72.0})
    Mean(mean=71.0, sd=1.4142135623730951, n=2, lost=0)
    """
    values = _figures(seeds)
    return Mean(_mean(values), _sd(values), len(values), len(seeds) - len(values))


def difference(ours: Seeds, theirs: Seeds, measure: Measure = ACCURACY, level: float = LEVEL) -> Difference:
    """Compare pairs of trainings with the same seed by the paired t test (n − 1 degrees of freedom).

    Args:
        ours: {training seed: value}.
        theirs: the same of the other activation.
        measure: says which way is better.
        level: of the interval.

    >>> own = difference({0: 71.0, 1: 72.0, 2: 73.0}, {0: 70.0, 1: 70.0, 2: 70.0})
    >>> own.mean, round(own.low, 2), round(own.high, 2), own.n
    (2.0, -0.48, 4.48, 3)
    """
    values = gains(ours, theirs, measure)
    unpaired = len(set(ours) | set(theirs)) - len(values)
    sd = _sd(values)
    error = 0.0 if sd is None else sd / math.sqrt(len(values))
    return Difference(*_interval(_mean(values), error, len(values) - 1, level), len(values), unpaired)


def seeds_to_halve(n: int, level: float = LEVEL) -> int:
    """Return how many paired seeds make a t interval half as wide as ``n`` do, if further pairs spread like those.

    An interval narrows like 1/√n, which takes four times the seeds; from few seeds it takes less, as t falls too.

    Args:
        n: At least two.
        level: Of the interval.

    >>> seeds_to_halve(3), seeds_to_halve(30)
    (5, 113)
    """

    def reach(seeds: int) -> float:
        return float(scipy.stats.t.ppf((1 + level) / 2, seeds - 1)) / math.sqrt(seeds)

    wanted = reach(n) / 2
    return next(seeds for seeds in itertools.count(n + 1) if reach(seeds) <= wanted)


def gains(ours: Seeds, theirs: Seeds, measure: Measure = ACCURACY) -> list[float]:
    """Return by how much ours is better with each seed that both have a figure of.

    >>> gains({0: 71.0, 1: 72.0, 2: 73.0}, {0: 70.0, 1: 70.0})
    [1.0, 2.0]
    """
    return [measure.gain(ours[seed], theirs[seed]) for seed in sorted(_with_figures(ours) & _with_figures(theirs))]


def groups(results: Iterable[Result]) -> list[Group]:
    """Return the batches of searches and the random cells, in the order of `activations`; baselines are no group."""
    found: dict[tuple[Kind, str | None], list[str]] = {}
    for label, row in activations(results).items():
        if row.kind == "random" or (row.kind == "found" and row.batch is not None):
            found.setdefault((row.kind, row.batch), []).append(label)
    return [Group(kind, batch, tuple(members)) for (kind, batch), members in found.items()]


def group_mean(members: Sequence[Seeds]) -> GroupMean:
    """Return the mean over members, each of which counts once however many seeds it has."""
    figures = [values for values in map(_figures, members) if values]
    means = [sum(values) / len(values) for values in figures]
    freedom = sum(len(values) - 1 for values in figures)
    squares = sum((value - own) ** 2 for values, own in zip(figures, means, strict=True) for value in values)
    pooled = math.sqrt(squares / freedom) if freedom else None
    return GroupMean(_mean(means), _sd(means), pooled, len(means), len(members) - len(means))


def group_difference(members: Sequence[Seeds], theirs: Seeds, measure: Measure = ACCURACY) -> Difference:
    """Compare the members of a group, on average, with one activation, over the seeds that all of them and it have.

    Both samples count: another draw of members, and other training seeds. All members meet the same trainings of ``theirs``,
    so the spread over members alone leaves out its noise. With s_u the sd of the members' mean differences, s_s that of the
    seeds', U members and S seeds: SE² = s_u²/U + s_s²/S, and Welch–Satterthwaite's degrees of freedom. The trainings' own noise
    is in both terms, so the interval is too wide rather than too narrow. There is none below two members or two seeds.

    Args:
        members: {training seed: value} of each.
        theirs: the same of the other activation.
        measure: says which way is better.
    """
    kept = [seeds for seeds in members if _with_figures(seeds)]
    every = set(theirs).union(*kept) if kept else set(theirs)
    pairs = sorted(_with_figures(theirs).intersection(*map(_with_figures, kept))) if kept else []
    table = [[measure.gain(seeds[seed], theirs[seed]) for seed in pairs] for seeds in kept]
    by_member = [sum(row) / len(row) for row in table] if pairs else []
    by_seed = [sum(column) / len(column) for column in zip(*table, strict=True)]
    error, freedom = 0.0, 0.0
    if len(by_member) > 1 and len(by_seed) > 1:
        parts = [((_sd(values) or 0.0) ** 2 / len(values), len(values) - 1) for values in (by_member, by_seed)]
        error = math.sqrt(sum(part for part, _ in parts))
        if error:
            freedom = error**4 / sum(part**2 / own for part, own in parts)
    return Difference(*_interval(_mean(by_member), error, freedom), len(pairs), len(every) - len(pairs), len(kept))


def ranks(values: Mapping[str, float | None], measure: Measure = ACCURACY) -> dict[str, float]:
    """Rank values; equal ones share their mean rank, missing ones have none.

    Args:
        values: by name.
        measure: says which way is better.

    >>> ranks({"relu": 91.0, "gelu": 92.0, "silu": None})
    {'relu': 2.0, 'gelu': 1.0}
    """
    known = {name: value for name, value in values.items() if value is not None}
    better = scipy.stats.rankdata([measure.gain(0.0, value) for value in known.values()])
    return dict(zip(known, map(float, better), strict=True))


def holm(p: Mapping[str, float | None]) -> dict[str, float | None]:
    """Adjust p values for how many there are (Holm 1979): below 0.05 one holds beside all the others.

    >>> holm({"a": 0.01, "b": 0.04, "c": None})
    {'a': 0.02, 'b': 0.04, 'c': None}
    """
    known = sorted((value, name) for name, value in p.items() if value is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p)
    highest = 0.0
    for i, (value, name) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - i)))
        adjusted[name] = highest
    return adjusted


def searched_against_random(searched: Sequence[Seeds], cells: Sequence[Seeds]) -> Contrast | None:
    """Compare the medians of both groups' means by the rank-sum test, exact without ties.

    Args:
        searched: {training seed: value} of each searched activation.
        cells: the same of the random ones.

    Returns:
        None for an empty group.
    """
    ours, theirs = ([m.mean for m in map(mean, group) if m.mean is not None] for group in (searched, cells))
    if not ours or not theirs:
        return None
    p = float(scipy.stats.mannwhitneyu(ours, theirs, alternative="two-sided").pvalue)
    return Contrast(statistics.median(ours), statistics.median(theirs), len(ours), len(theirs), p)


def expected_maximum(n: int) -> float:
    """Return by how many sd the largest of n draws from one normal distribution is expected above their mean.

    >>> round(expected_maximum(5), 2)
    1.16
    """
    if n < 2:
        return 0.0
    normal = scipy.stats.norm
    # outside ±9 sd the integrand is below 1e-15
    return float(scipy.integrate.quad(lambda x: x * n * normal.pdf(x) * normal.cdf(x) ** (n - 1), -9, 9)[0])


def at_chance(accuracy: float, classes: int) -> bool:
    """Return whether an accuracy is hardly above guessing: by at most half of chance, and a twentieth of the way to 100.

    Args:
        accuracy: in per cent.
        classes: how many there are.

    >>> at_chance(12.0, classes=10), at_chance(20.0, classes=10)
    (True, False)
    """
    chance = 100 / classes
    return accuracy <= min(1.5 * chance, chance + 0.05 * (100 - chance))


def _with_figures(seeds: Seeds) -> set[int]:
    return {seed for seed, value in seeds.items() if math.isfinite(value)}


def _figures(seeds: Seeds) -> list[float]:
    return [seeds[seed] for seed in sorted(_with_figures(seeds))]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _sd(values: Sequence[float]) -> float | None:
    centre = _mean(values)
    if centre is None or len(values) < 2:
        return None
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def _interval(
    centre: float | None, error: float, freedom: float, level: float = LEVEL
) -> tuple[float | None, float | None, float | None, float | None]:
    """Mean, both ends of its t interval, and p against 0."""
    # accuracies are counts of few images: equal differences mean too coarse a measure, and not certainty
    if centre is None or error <= 1e-9 * max(1.0, abs(centre)):
        return centre, None, None, None
    reach = error * float(scipy.stats.t.ppf((1 + level) / 2, freedom))
    return centre, centre - reach, centre + reach, float(2 * scipy.stats.t.sf(abs(centre) / error, freedom))
