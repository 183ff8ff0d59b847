"""Compute the numbers of a matrix's report once, for its text, its CSV files and its pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..activations.named import Kind
from . import statistics
from .results import Place, Result
from .statistics import Group, GroupMean, Mean
from .verdict import ACCURACY, Difference, Measure, Verdict


class _Compared:
    """What is compared with each baseline, one of which is the default activation, for one model and data set."""

    verdicts: dict[str, Verdict]
    usual: str | None

    @property
    def to_default(self) -> Verdict | None:
        return self.verdicts.get(self.usual) if self.usual else None


@dataclass(frozen=True)
class Row(_Compared):
    """One activation with one model and data set.

    Args:
        activation: its label.
        kind: "found", "random" or "baseline".
        place: the model and data set.
        mean: over training seeds.
        planned: how many trainings the matrix has for it.
        collapsed: how many ended at chance or with a loss that isn't finite; they have a figure and count in the mean.
        verdicts: beside each baseline.
        usual: the default activation there; None where none is given or trained.
        p: of the difference to the default activation, Holm-adjusted over the table.
        rank: by the mean.
    """

    activation: str
    kind: Kind
    place: Place
    mean: Mean
    planned: int
    collapsed: int
    verdicts: dict[str, Verdict]
    usual: str | None
    p: float | None
    rank: float | None


@dataclass(frozen=True)
class GroupRow(_Compared):
    """One batch of searches, or the random cells, with one model and data set."""

    group: Group
    place: Place
    mean: GroupMean
    verdicts: dict[str, Verdict]
    usual: str | None

    @property
    def kind(self) -> Kind:
        return self.group.kind


@dataclass(frozen=True)
class Table:
    """All rows of a matrix: every activation with every model and data set and every seed that any training has.

    Args:
        results: a row for each training.
        usual: {model: its default activation}.
        classes: {data: number of classes}.
    """

    results: Sequence[Result]
    usual: Mapping[str, str]
    classes: Mapping[str, int]

    @property
    def measure(self) -> Measure:
        return self.results[0].measure if self.results else ACCURACY

    @cached_property
    def places(self) -> list[Place]:
        return statistics.places(self.results)

    @cached_property
    def activations(self) -> dict[str, Result]:
        return statistics.activations(self.results)

    @cached_property
    def groups(self) -> list[Group]:
        return statistics.groups(self.results)

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({row.seed for row in self.results})

    @cached_property
    def baselines(self) -> list[str]:
        return [label for label, row in self.activations.items() if row.kind == "baseline"]

    @property
    def planned(self) -> int:
        return len(self.activations) * len(self.places) * len(self.seeds)

    @property
    def with_figure(self) -> int:
        return sum(row.has_figure for row in self.results)

    def default_at(self, place: Place) -> str | None:
        name = self.usual.get(place.model)
        return name if name in self.activations else None

    @cached_property
    def rows(self) -> dict[tuple[str, Place], Row]:
        return {(row.activation, row.place): row for place in self.places for row in self._rows_at(place)}

    @cached_property
    def group_rows(self) -> dict[tuple[Group, Place], GroupRow]:
        rows = {}
        for place in self.places:
            for group in self.groups:
                members = [self._values.get((label, place), {}) for label in group.members]
                against = {
                    name: self._verdict(
                        statistics.group_difference(members, self._values.get((name, place), {}), self.measure), name
                    )
                    for name in self._references(place)
                }
                rows[group, place] = GroupRow(group, place, statistics.group_mean(members), against, self.default_at(place))
        return rows

    def _verdict(self, own: Difference, to: str) -> Verdict:
        return Verdict(own, to, self.measure)

    def missing(self, label: str, place: Place) -> list[int]:
        """Return the seeds whose training has no figure."""
        own = self._values.get((label, place), {})
        return [seed for seed in self.seeds if not math.isfinite(own.get(seed, math.nan))]

    def collapsed(self, row: Result) -> bool:
        """Return whether a training with a figure ended at chance, where classes are known, or with a loss not finite."""
        guessing = row.data in self.classes and statistics.at_chance(row.accuracy, self.classes[row.data])
        return row.has_figure and (guessing or not math.isfinite(row.loss))

    @property
    def intervals(self) -> int:
        """Return how many intervals the report shows."""
        every = [row.verdicts for row in self.rows.values()]
        every += [row.verdicts for row in self.group_rows.values() if row.group.several]
        return sum(own.has_interval for verdicts in every for own in verdicts.values())

    @cached_property
    def _values(self) -> dict[tuple[str, Place], dict[int, float]]:
        return statistics.by_seed(self.results)

    def _references(self, place: Place) -> list[str]:
        """What is compared with: the default activation first, then the other baselines."""
        usual = self.default_at(place)
        return ([usual] if usual else []) + [name for name in self.baselines if name != usual]

    def _compared(self, label: str, place: Place) -> list[str]:
        """Baselines are compared with the default one only."""
        only_default = label in self.baselines
        usual = self.default_at(place)
        return [name for name in self._references(place) if name != label and (name == usual or not only_default)]

    def _rows_at(self, place: Place) -> list[Row]:
        own = {label: self._values.get((label, place), {}) for label in self.activations}
        means = {label: statistics.mean(seeds) for label, seeds in own.items()}
        rank = statistics.ranks({label: value.mean for label, value in means.items()}, self.measure)
        usual = self.default_at(place)
        against = {
            label: {
                name: self._verdict(statistics.difference(own[label], own[name], self.measure), name)
                for name in self._compared(label, place)
            }
            for label in own
        }
        p = statistics.holm({label: against[label][usual].difference.p for label in own if usual and label != usual})
        return [
            Row(
                activation=label,
                kind=self.activations[label].kind,
                place=place,
                mean=means[label],
                planned=len(self.seeds),
                collapsed=sum(self.collapsed(row) for row in self.results if (row.activation, row.place) == (label, place)),
                verdicts=against[label],
                usual=usual,
                p=p.get(label),
                rank=rank.get(label),
            )
            for label in own
        ]
