"""What trainings are compared by, accuracy or loss: which way is better, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

        >>> ACCURACY.apart(-1.234), ACCURACY.apart(0.0004, sign=False)
        ('−1.23', '0.0004')
        """
        plus = "+" if sign else ""
        text = f"{difference:{plus}.{self.digits}f}"
        if float(text) == 0:
            text = f"{difference:{plus}.1g}" if difference else f"{0:.{self.digits}f}"
        return text.replace("-", "−")


ACCURACY = Measure("accuracy", "accuracy in per cent", False, "percentage points", 2, " %")
LOSS = Measure("loss", "loss in nats per token", True, "nats", 4, " nats")
MEASURES: Mapping[str, Measure] = {measure.name: measure for measure in (ACCURACY, LOSS)}
