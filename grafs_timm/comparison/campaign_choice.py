"""Decide on held-out figures which activations of a campaign get further seeds: which are retired, which are kept."""

from __future__ import annotations

import statistics as means
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..config.schema import Campaign as Settings
from .statistics import difference
from .verdict import Measure, Verdict

Table = Mapping[str, Mapping[int, float]]  # label -> training seed -> held-out figure


@dataclass(frozen=True)
class Retired:
    """An activation that gets no further seeds.

    Args:
        label: of the activation.
        after: how many seeds it was trained with.
        verdict: how much better it is than the default on held-out data after that many seeds.
    """

    label: str
    after: int
    verdict: Verdict


def retired(table: Table, settings: Settings, default: str, measure: Measure) -> dict[str, Retired]:
    """Return the activations whose whole interval lies below the default's by ``retire_below``, after ``retire_after`` seeds.

    Args:
        table: of the model and data of the searches.
        settings: of the campaign.
        default: activation to compare with; it is never retired.
        measure: says which way is better.

    >>> from grafs_timm.comparison.verdict import ACCURACY
    >>> table = {"relu": {0: 90.0, 1: 90.2, 2: 89.9}, "silu": {0: 85.1, 1: 85.2, 2: 85.0}, "gelu": {0: 90.5, 1: 89.0, 2: 90.0}}
    >>> list(retired(table, Settings(), "relu", ACCURACY))
    ['silu']
    """
    if settings.retire_after > settings.seeds:
        return {}

    def early(label: str) -> dict[int, float]:
        return {seed: value for seed, value in table.get(label, {}).items() if seed < settings.retire_after}

    found, theirs = dict[str, Retired](), early(default)
    for label in table:
        ours = early(label)
        if label == default or min(len(ours), len(theirs)) < settings.retire_after:
            continue
        apart = difference(ours, theirs, measure)
        if apart.high is not None and apart.high < -settings.retire_below:
            found[label] = Retired(label, settings.retire_after, Verdict(apart, default, measure))
    return found


def kept(table: Table, settings: Settings, default: str, found: Collection[str], measure: Measure) -> list[str]:
    """Return which activations train on: the default, the best found one, then the best others.

    Args:
        table: of the activations that are not retired.
        settings: of the campaign.
        default: activation that is always kept.
        found: labels of what the searches found.
        measure: says which way is better.

    >>> from grafs_timm.comparison.verdict import ACCURACY
    >>> table = {"relu": {0: 90.0}, "gelu": {0: 92.0}, "silu": {0: 91.0}, "searches_s0": {0: 88.0}}
    >>> kept(table, Settings(seeds=1, keep=3), "relu", ["searches_s0"], ACCURACY)
    ['relu', 'searches_s0', 'gelu']
    """
    mean = {
        label: means.fmean(values)
        for label, seeds in table.items()
        if len(values := [seeds[seed] for seed in range(settings.seeds) if seed in seeds]) == settings.seeds
    }
    order = measure.best_first(mean)
    best = [label for label in order if label in found]
    return list(dict.fromkeys([default, *best[:1], *order]))[: settings.keep]
