"""Replay the selection among searches on recorded trainings, and compare what it recommends with the full comparison.

    python tools/replay_selection.py [--zoo zoo] [--csv OUT.csv]

The ledgers hold four selections of an earlier kind, which trained the whole field, and matrices of trainings. Nothing is
trained: a short training of the selection is taken from the first epochs of a longer one. **That is a stand-in**: a real short
training lowers its learning rate to the end, and the first epochs of a longer one do not. The trainings have four epochs, so an
eighth of the length does not exist and both rounds take a quarter.

choice    The searches of a family. Rounds: held-out figures after one epoch. Final trainings: the recorded ones on held-out
          data with seeds of their own, in every order; for a finalist without them those of the test split. Compared with the
          recommendation that the recorded selection gave.
matrix    All that was trained at a place beside the default activation, as if searches had found it. The three recorded seeds
          serve both the rounds, in every order, and the end, so this asks what the shorter trainings lose. Compared with
          the recommendation of `ranking.recommend` among all of them, and with the best mean of full trainings.

Columns: replays, and in how many the recommendation is the same; the full comparison's recommendation, and what else the
replays recommended; the mean cost in full trainings of the selection, and of the searches before it; in how many replays the
rounds kept the activation with the best mean, and by how much what they kept is worse than it, in percentage points or nats.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from grafs_timm.comparison import contenders, ranking
from grafs_timm.comparison.campaign import Campaign, function_of
from grafs_timm.comparison.campaign_run import line_seconds
from grafs_timm.comparison.contenders import Contender
from grafs_timm.comparison.ledger import Line
from grafs_timm.comparison.results import Place, Result, parse
from grafs_timm.comparison.selection import Selection
from grafs_timm.comparison.statistics import by_seed, mean
from grafs_timm.config.schema import Select
from grafs_timm.utils.files import write_csv

Logs = Mapping[tuple[str, int], Line]  # by label and seed
COLUMNS = (
    "what",
    "place",
    "field",
    "replays",
    "same",
    "full_comparison",
    "others",
    "trainings",
    "searches",
    "best_kept",
    "regret",
)


@dataclass
class Recorded(Selection):
    """A selection whose trainings are looked up.

    Args:
        place: of the trainings.
        short, full: logs that rounds and final trainings are taken from.
        orders: the recorded seeds that stand for the seeds of both, in order.
        split: what is measured in both.
        spent: full trainings so far, each training counted once by its length.
    """

    place: Place = field(default_factory=lambda: Place("", ""))
    short: Logs = field(default_factory=dict)
    full: Logs = field(default_factory=dict)
    orders: tuple[Sequence[int], Sequence[int]] = ((), ())
    split: tuple[str, str] = ("validation", "validation")

    def train(self, field: Sequence[Contender], epochs: int, seeds: Sequence[int]) -> list[Result]:
        """Look up what `Selection.train` would train."""
        last = epochs == self.recipe.evaluate.epochs
        logs, order, split = (self.full, self.orders[1], self.split[1]) if last else (self.short, self.orders[0], self.split[0])
        rows = {}
        for each in field:
            for seed in seeds:
                log = logs[each.label, order[seed]].log[:epochs]
                rows[each.label, epochs, seed] = parse(log, each, self.place, seed, split, self.recipe.data.figure)
        self.trained |= rows
        return list(rows.values())

    def replay(self, contending: Sequence[Contender]) -> tuple[str, list[Contender]]:
        """Select among the contenders; returns what is recommended, and what the rounds left."""
        left = list(contending)
        while len(left) > self.recipe.select.keep and len(self.rounds) < len(self.schedule):
            left = self.halve(left)
        _, ranked, _ = self.decide(left, 0)
        return ranking.recommend(ranked)[0], left

    @property
    def spent(self) -> float:
        """Return what the trainings cost in full ones."""
        return sum(epochs / self.recipe.evaluate.epochs for _, epochs, _ in self.trained)


def logs(campaign: Campaign, place: Place, split: str, epochs: int) -> Logs:
    """The trainings of that length at a place that measured a split."""
    labels = {function_of(each): label for label, each in campaign.activations.items()}
    return {
        (labels[line.function], line.seed): line
        for line in campaign.ledger.first().values()
        if line.kind == "training" and Place(line.model, line.data) == place and line.function in labels
        if len(line.log) == epochs and f"{split}_loss" in line.log[-1]
    }


def seeds_of(recorded: Logs, labels: Sequence[str]) -> list[int]:
    """The seeds that all the labels have."""
    return sorted(set.intersection(*({seed for own, seed in recorded if own == label} for label in labels)))


def choice(campaign: Campaign) -> dict[str, Any]:
    """Replay the selection among a family's searches with each order of the recorded seeds."""
    usual, place, full = campaign.default, campaign.home, 4
    rows = [row for row in campaign.results("validation") if row.place == place]
    last = [row for row in rows if row.epochs == full]
    before = {row.seed for row in rows} - {row.seed for row in last}
    expected, _ = ranking.recommend(ranking.rank(last, {place.model: usual}, chosen_on=before))
    found = [each for each in campaign.activations.values() if each.search_seed is not None]
    worth, _ = contenders.screened(found, usual)
    short, final, tested = (
        logs(campaign, place, split, epochs) for split, epochs in (("validation", 2), ("validation", full), ("test", full))
    )
    results = []
    for first in itertools.permutations(seeds_of(short, [usual, *(each.label for each in worth)])):
        probe = _recorded(campaign, place, short, {}, (first, ()), full)
        left = worth
        while len(left) > probe.recipe.select.keep and len(probe.rounds) < len(probe.schedule):
            left = probe.halve(left)
        there = seeds_of(final, [usual, *(each.label for each in left)])
        ends, split = (final, "validation") if len(there) > 1 else (tested, "test")
        for order in itertools.permutations(seeds_of(ends, [usual, *(each.label for each in left)])):
            replayed = _recorded(campaign, place, short, ends, (first, order), full, split)
            results.append((*replayed.replay(worth), replayed.spent))
    means = _means(last)
    seconds = sum(map(line_seconds, campaign.searches.values()))
    full_seconds = [line_seconds(final[usual, seed]) for seed in seeds_of(final, [usual])]
    return _row("choice", str(place), len(worth), expected, results, means, usual, last) | {
        "searches": round(seconds / (sum(full_seconds) / len(full_seconds)), 1)
    }


def matrix(campaign: Campaign, place: Place) -> dict[str, Any] | None:
    """Replay a selection among all that was trained at a place; None where that is little."""
    full, usual = 4, contenders.default_activation(place.model) or campaign.default
    recorded = logs(campaign, place, "test", full)
    labels = sorted({label for label, _ in recorded} - {usual})
    seeds = seeds_of(recorded, [usual, *labels])
    if len(labels) < 3 or len(seeds) < 3:
        return None
    contending = [campaign.activations[label] for label in labels]
    rows = [row for row in campaign.results("test") if row.place == place and row.epochs == full]
    expected, _ = ranking.recommend(ranking.rank(rows, {place.model: usual}))
    results = []
    for order in itertools.permutations(seeds):
        replayed = _recorded(campaign, place, recorded, recorded, (order, order), full, "test", "test")
        results.append((*replayed.replay(contending), replayed.spent))
    return _row("matrix", str(place), len(labels), expected, results, _means(rows), usual, rows)


def _recorded(
    campaign: Campaign, place: Place, short: Logs, ends: Logs, orders: tuple[Sequence[int], Sequence[int]], full: int,
    split: str = "validation", first: str = "validation",
) -> Recorded:  # fmt: skip
    select = Select(final_seeds=max(len(orders[1]), 2))
    evaluate = campaign.recipe.evaluate.model_copy(update={"epochs": full})
    recipe = campaign.recipe.model_copy(update={"select": select, "model": place.model, "evaluate": evaluate})
    return Recorded(recipe, Path(), 5, place=place, short=short, full=ends, orders=orders, split=(first, split))


def _means(rows: Sequence[Result]) -> dict[str, float]:
    return {label: own.mean for (label, _), seeds in by_seed(rows).items() if (own := mean(seeds)).mean is not None}


def _row(
    what: str, place: str, size: int, expected: str, results: Sequence[tuple[str, list[Contender], float]],
    means: Mapping[str, float], usual: str, rows: Sequence[Result],
) -> dict[str, Any]:  # fmt: skip
    measure, others = rows[0].measure, sorted({name for name, _, _ in results} - {expected})
    best = measure.best_first({label: value for label, value in means.items() if label != usual})[0]
    kept = [left[0].label for _, left, _ in results]
    lost = [measure.gain(means[best], means[label]) for label in kept if label in means]
    return {
        "what": what, "place": place, "field": size, "replays": len(results),
        "same": sum(name == expected for name, _, _ in results), "full_comparison": expected, "others": " ".join(others),
        "trainings": round(sum(spent for _, _, spent in results) / len(results), 1), "searches": "",
        "best_kept": sum(label == best for label in kept), "regret": round(sum(lost) / len(lost), 3) if lost else "",
    }  # fmt: skip


def campaigns(zoo: Path) -> Iterator[Campaign]:
    """The closed campaigns, whose selections were made in full."""
    for folder in sorted(zoo.glob("*/evidence/*")):
        if (folder / "ledger.jsonl").exists():
            yield Campaign.read(folder)


@click.command()
@click.option("--zoo", type=click.Path(path_type=Path, exists=True), default=Path("zoo"), show_default=True)
@click.option("--csv", "out", type=click.Path(path_type=Path), help="Write the rows to a file too.")
def main(zoo: Path, out: Path | None) -> None:
    """Replay selections on the ledgers in ZOO and print how often they recommend the same."""
    rows = []
    for campaign in campaigns(zoo):
        rows.append(choice(campaign))
        places = dict.fromkeys(Place(line.model, line.data) for line in campaign.ledger.lines if line.kind == "training")
        rows += [row for place in places if (row := matrix(campaign, place))]
    rows.sort(key=lambda row: (row["what"], row["place"]))
    click.echo(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        click.echo(f"| {' | '.join(str(row[name]) for name in COLUMNS)} |")
    for what in ("choice", "matrix"):
        own = [row for row in rows if row["what"] == what]
        same, replays = (sum(row[name] for row in own) for name in ("same", "replays"))
        click.echo(f"{what}: the same recommendation in {same} of {replays} replays at {len(own)} places")
    if out:
        write_csv(out, COLUMNS, ([row[name] for name in COLUMNS] for row in rows))


if __name__ == "__main__":
    main()
