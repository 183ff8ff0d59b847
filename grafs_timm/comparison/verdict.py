"""What a paired difference shows: better, worse, or no difference. Reports, cards and leaderboards are templates over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """Accuracy in per cent or loss in nats. Values are kept as measured; `gain` alone knows which way is better.

    Args:
        name: as results and entries record it.
        noun: with its unit, for sentences.
        lower_is_better: whether the smaller of two values is the better one.
        unit: of differences.
        digits: decimals of values and differences.
        suffix: follows a value.

    >>> LOSS.gain(1.25, 1.5), LOSS.best_first({"relu": 1.5, "gelu": 1.25})
    (0.25, ['gelu', 'relu'])
    """

    name: Literal["accuracy", "loss"]
    noun: str
    lower_is_better: bool
    unit: str
    digits: int
    suffix: str

    @property
    def best(self) -> str:
        """Return which value is the best one: "highest" or "lowest"."""
        return "lowest" if self.lower_is_better else "highest"

    def gain(self, ours: float, theirs: float) -> float:
        """Return by how much ``ours`` is better than ``theirs``; below 0 where it is worse."""
        return theirs - ours if self.lower_is_better else ours - theirs

    def best_first(self, values: Mapping[str, float]) -> list[str]:
        """Return the names by their values, the best first; equal ones stay in order."""
        return sorted(values, key=lambda name: values[name], reverse=not self.lower_is_better)

    def text(self, value: float | None, sd: float | None = None) -> str:
        """Write a value with its spread where there is one; "–" for None.

        >>> ACCURACY.text(62.314, 0.5), LOSS.text(1.25)
        ('62.31 ± 0.50', '1.2500')
        """
        if value is None:
            return "–"
        return f"{value:.{self.digits}f}" + ("" if sd is None else f" ± {sd:.{self.digits}f}")

    def apart(self, difference: float, sign: bool = True) -> str:
        """Write a difference, with more decimals where rounding would hide on which side of 0 it lies, and a true minus.

        >>> ACCURACY.apart(-1.234), ACCURACY.apart(0.0004, sign=False), ACCURACY.apart(1e-15)
        ('−1.23', '0.0004', '0.00')
        """
        plus = "+" if sign else ""
        text = f"{difference:{plus}.{self.digits}f}"
        if float(text) == 0:  # below 1e-9 it is what rounding left of 0
            text = f"{difference:{plus}.1g}" if abs(difference) > 1e-9 else f"{0:.{self.digits}f}"
        return text.replace("-", "−")


ACCURACY = Measure("accuracy", "accuracy in per cent", False, "percentage points", 2, " %")
LOSS = Measure("loss", "loss in nats per token", True, "nats", 4, " nats")
MEASURES: Mapping[str, Measure] = {measure.name: measure for measure in (ACCURACY, LOSS)}


@dataclass(frozen=True)
class Difference:
    """By how much ours is better, in the measure's unit.

    Args:
        mean: over the pairs; None without any.
        low: of the interval; None, as ``high`` and ``p``, where nothing tells the spread: below two pairs, or where all pairs
            differ by the same number.
        high: of the interval.
        p: two-sided, of the same t test.
        n: training seeds that both have.
        unpaired: seeds that lack a figure on one side.
        members: how many activations of a group were averaged; None for one activation.
    """

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    unpaired: int
    members: int | None = None


class Side(StrEnum):
    """The three things that an interval can show."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"


@dataclass(frozen=True)
class Verdict:
    """One activation beside another by paired training seeds.

    Args:
        difference: by how much it is better, in the measure's unit, with its interval.
        to: the activation that it is compared with.
        measure: what both are measured by, and so which way is better.

    >>> own = Verdict(Difference(1.2, 0.3, 2.1, 0.02, 4, 0), "relu")
    >>> print(own.side, own.interval)
    better +1.20 [+0.30, +2.10]
    >>> own.sentence()
    'better than relu by 1.20 [0.30, 2.10] percentage points over 4 paired seeds'
    """

    difference: Difference
    to: str
    measure: Measure = ACCURACY

    @property
    def side(self) -> Side:
        """Return better or worse only where the whole interval lies on that side of 0."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return Side.NOT_SHOWN
        return Side.BETTER if low > 0 else Side.WORSE if high < 0 else Side.NOT_SHOWN

    @property
    def has_interval(self) -> bool:
        return self.difference.low is not None

    @property
    def half_width(self) -> float | None:
        """Return half the width of the interval, in the measure's unit; None without one."""
        low, high = self.difference.low, self.difference.high
        return None if low is None or high is None else (high - low) / 2

    @property
    def interval(self) -> str:
        """Write the difference with its interval: "+0.30 [−0.90, +1.50]", "+0.30" without one, "–" without a difference."""
        mean, low, high = self.difference.mean, self.difference.low, self.difference.high
        if mean is None:
            return "–"
        if low is None or high is None:
            return self.measure.apart(mean)
        return f"{self.measure.apart(mean)} [{self.measure.apart(low)}, {self.measure.apart(high)}]"

    @property
    def measured(self) -> str:
        """Write the difference with its interval and unit."""
        return f"{self.interval} {self.measure.unit}"

    def sentence(self, noun: str = "activations", mark: Callable[[str], str] = str) -> str:
        """Write what the difference shows as the middle of a sentence.

        Args:
            noun: what the members of a group are.
            mark: how the other activation's name is written, such as `markdown.code`.
        """
        own, measure, to = self.difference, self.measure, mark(self.to)
        if own.mean is None:
            return f"not compared with {to}: no seed was trained with both"
        over = f"{own.n} paired seed" + ("s" if own.n > 1 else "")
        if own.members is not None:
            over = f"{own.members} {noun} with {over} each"
        if own.low is None or own.high is None:
            return self._without_interval(to, over, noun)
        if self.side is Side.NOT_SHOWN:
            return f"not distinguishable from {to}: {self.measured} over {over}"
        low, mean, high = (measure.apart(value, sign=False) for value in sorted(map(abs, (own.low, own.mean, own.high))))
        return f"{self.side} than {to} by {mean} [{low}, {high}] {measure.unit} over {over}"

    def _without_interval(self, to: str, over: str, noun: str) -> str:
        own = self.difference
        beside = f"{self.measured} beside {to} over {over}"
        if own.n < 2:
            return f"{beside}: one pair shows no spread, so nothing is claimed"
        if own.members == 1:
            return f"{beside}: one of the {noun} shows no spread over them, so nothing is claimed"
        if own.mean == 0:
            return f"equal to {to} in each pair over {over}"
        return f"{beside}, the same in each pair: that shows no spread, so nothing is claimed"
