"""What the trainings of a matrix show: means, paired differences with their intervals, spread over searches apart.

Pure functions. A `Result` is one training; `by_seed` sorts them into {seed: value} for every activation at every `Place`, and
the other functions take such mappings. NaN is a training without a figure (it failed, or has not run): it enters no mean and no
difference, and is counted wherever it is left out. A figure at chance level is a figure: it enters as it was measured.

What each number means stands in docs/statistics.md.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import scipy  # loads its parts when they are used

from ..errors import RunError
from .measure import ACCURACY, MEASURES, Measure

Kind = Literal["found", "random", "baseline"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Seeds = Mapping[int, float]  # training seed -> value as measured
LEVEL = 0.95  # of intervals
STOPPED_LEVEL = 0.975  # of an activation that was stopped early: looked at twice, so each look has half the 5 % (Bonferroni)


class Place(NamedTuple):
    """Where activations are compared with one another: one model on one data set."""

    model: str
    data: str

    def __str__(self) -> str:
        return f"{self.model} on {self.data}"


@dataclass(frozen=True)
class Result:
    """One training from scratch: ``accuracy`` (per cent) and ``loss`` (nats a sample or token) on ``split``, after ``epochs``.

    ``activation`` is its label, one function each. ``batch`` and ``search_seed`` say which search found it, ``sha256`` is its
    genotype's; None where there is none. ``seed`` is the training's. ``seconds`` is what it took, None where unknown.
    ``compared_by``: which of the two counts.
    """

    activation: str
    kind: Kind
    batch: str | None
    search_seed: int | None
    sha256: str | None
    model: str
    data: str
    seed: int
    accuracy: float
    loss: float
    split: Literal["test", "validation"]
    epochs: int
    seconds: float | None = None
    compared_by: Literal["accuracy", "loss"] = "accuracy"

    @property
    def measure(self) -> Measure:
        return MEASURES[self.compared_by]

    @property
    def value(self) -> float:
        """What counts, as measured."""
        return self.accuracy if self.compared_by == "accuracy" else self.loss

    @property
    def place(self) -> Place:
        return Place(self.model, self.data)

    @property
    def cell(self) -> tuple[str, Place, int]:
        return self.activation, self.place, self.seed

    @property
    def has_figure(self) -> bool:
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Mean:
    """Over ``n`` figures; ``sd`` (n − 1 in the denominator) is None below two. ``lost``: those that had no figure."""

    mean: float | None
    sd: float | None
    n: int
    lost: int = 0


@dataclass(frozen=True)
class Difference:
    """By how much ours is better, over ``n`` training seeds that both have; ``unpaired`` seeds lack a figure on one side.

    ``low``, ``high``: the 95 % interval, ``p`` two-sided of the same t test. All three are None where nothing tells the
    spread: below two pairs, or where all pairs differ by the same number. ``members``: how many activations of a group were
    averaged; None for one activation.
    """

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    unpaired: int
    members: int | None = None


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
    """``mean`` and ``sd`` over the members' own means; ``seed_sd``: over training seeds within a member, pooled.

    ``sd`` holds the luck of the training seeds too: members that are all the same function still have one of about
    seed_sd/√(seeds). None where there is nothing to take it from.
    """

    mean: float | None
    sd: float | None
    seed_sd: float | None
    members: int
    lost: int = 0


@dataclass(frozen=True)
class Contrast:
    """Medians, over members, of the searched and the random activations' means; ``p``: rank-sum test, two-sided."""

    searched: float
    random: float
    searches: int
    cells: int
    p: float


def check(results: Sequence[Result]) -> None:
    """RunError for rows that can't be compared: a cell twice, two splits, unequal lengths, a label of two kinds."""
    cells: set[Any] = set()
    kinds: dict[str, Any] = {}
    epochs: dict[Place, int] = {}
    for row in results:
        if row.kind not in KINDS:
            raise RunError(f"{row.activation}: a kind is one of {', '.join(KINDS)}, got {row.kind!r}")
        if row.cell in cells:
            raise RunError(f"{row.activation}, {row.place}, seed {row.seed} stands there twice: one row is one training")
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
    """{(activation, place): {seed: value}}; a value that isn't finite is NaN."""
    table: dict[tuple[str, Place], dict[int, float]] = {}
    for row in results:
        table.setdefault((row.activation, row.place), {})[row.seed] = row.value if row.has_figure else math.nan
    return table


def places(results: Iterable[Result]) -> list[Place]:
    return sorted({row.place for row in results}, key=lambda place: (natural(place.model), natural(place.data)))


def activations(results: Iterable[Result]) -> dict[str, Result]:
    """The activations in the order reports show them, found, random, baselines, each with one of its rows."""
    first: dict[str, Result] = {}
    for row in results:
        first.setdefault(row.activation, row)

    def order(row: Result) -> Any:
        # the label decides where two searches of a batch have no seed
        seed = math.inf if row.search_seed is None else row.search_seed
        return KINDS.index(row.kind), natural(row.batch or ""), seed, natural(row.activation)

    return {row.activation: row for row in sorted(first.values(), key=order)}


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sorting key by which seed_10 comes after seed_9."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def mean(seeds: Seeds) -> Mean:
    values = _figures(seeds)
    return Mean(_mean(values), _sd(values), len(values), len(seeds) - len(values))


def difference(ours: Seeds, theirs: Seeds, measure: Measure = ACCURACY, level: float = LEVEL) -> Difference:
    """By how much ours is better, over pairs of the same training seed, with the t interval of n − 1 degrees of freedom.

    ``level``: of the interval; p is as it is for any.
    """
    pairs = sorted(_with_figures(ours) & _with_figures(theirs))
    values = [measure.gain(ours[seed], theirs[seed]) for seed in pairs]
    unpaired = len(set(ours) | set(theirs)) - len(pairs)
    sd = _sd(values)
    error = 0.0 if sd is None else sd / math.sqrt(len(values))
    return Difference(*_interval(_mean(values), error, len(values) - 1, level), len(pairs), unpaired)


def groups(results: Iterable[Result]) -> list[Group]:
    """The batches of searches and the random cells, in the order of `activations`; baselines are no group."""
    found: dict[tuple[Kind, str | None], list[str]] = {}
    for label, row in activations(results).items():
        if row.kind == "random" or (row.kind == "found" and row.batch is not None):
            found.setdefault((row.kind, row.batch), []).append(label)
    return [Group(kind, batch, tuple(members)) for (kind, batch), members in found.items()]


def group_mean(members: Sequence[Seeds]) -> GroupMean:
    """Every member counts once, however many seeds it has. ``lost``: members without any figure."""
    figures = [values for values in map(_figures, members) if values]
    means = [sum(values) / len(values) for values in figures]
    freedom = sum(len(values) - 1 for values in figures)
    squares = sum((value - own) ** 2 for values, own in zip(figures, means, strict=True) for value in values)
    pooled = math.sqrt(squares / freedom) if freedom else None
    return GroupMean(_mean(means), _sd(means), pooled, len(means), len(members) - len(means))


def group_difference(members: Sequence[Seeds], theirs: Seeds, measure: Measure = ACCURACY) -> Difference:
    """By how much the group's members are better on average than one activation, over the seeds that all of them and it have.

    Both samples count: another draw of members, and other training seeds. All members meet the same trainings of ``theirs``,
    so the spread over members alone leaves its luck out. With s_u the sd of the members' mean differences, s_s that of the
    seeds', U members and S seeds: SE² = s_u²/U + s_s²/S, and Welch–Satterthwaite's degrees of freedom. The trainings' own noise
    is in both terms, so the interval is too wide rather than too narrow. None below two members or two seeds.
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
    """1 for the best; equal ones share their mean rank. Those without a figure have none."""
    known = {name: value for name, value in values.items() if value is not None}
    better = scipy.stats.rankdata([measure.gain(0.0, value) for value in known.values()])
    return dict(zip(known, map(float, better), strict=True))


def holm(p: Mapping[str, float | None]) -> dict[str, float | None]:
    """p values adjusted for how many there are (Holm 1979): below 0.05 one holds beside all the others."""
    known = sorted((value, name) for name, value in p.items() if value is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p)
    highest = 0.0
    for i, (value, name) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - i)))
        adjusted[name] = highest
    return adjusted


def searched_against_random(searched: Sequence[Seeds], cells: Sequence[Seeds]) -> Contrast | None:
    """The medians of both groups' means, and their rank-sum test (exact without ties); None for an empty group."""
    ours, theirs = ([m.mean for m in map(mean, group) if m.mean is not None] for group in (searched, cells))
    if not ours or not theirs:
        return None
    p = float(scipy.stats.mannwhitneyu(ours, theirs, alternative="two-sided").pvalue)
    return Contrast(statistics.median(ours), statistics.median(theirs), len(ours), len(theirs), p)


def expected_maximum(n: int) -> float:
    """By how many sd the largest of n draws from one normal distribution is expected above their mean."""
    if n < 2:
        return 0.0
    normal = scipy.stats.norm
    # outside ±9 sd the integrand is below 1e-15
    return float(scipy.integrate.quad(lambda x: x * n * normal.pdf(x) * normal.cdf(x) ** (n - 1), -9, 9)[0])


def at_chance(accuracy: float, classes: int) -> bool:
    """Whether an accuracy (per cent) is hardly above guessing: by half of chance, or a twentieth of the way to 100, at most."""
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
