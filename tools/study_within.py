"""Compare a training with the search in its first part with plain trainings of the same length and of the same cost.

    python tools/study_within.py OUT --data path/to/cifar10 [--seeds 5] [--set KEY=VALUE ...]

For each seed: one run with the search inside; its function trained from scratch for the same length; the default activation
for the same length; and the default activation for the same cost, as many more epochs as the search cost by the measured
ratio. Every run is a folder below OUT, so that a stopped study goes on where it was. OUT/within.csv has the figures,
OUT/summary.txt the mean paired differences to the run with the search, with 95 % intervals (Student's t).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from grafs_timm.comparison.statistics import difference
from grafs_timm.config.recipe import load_recipe
from grafs_timm.runs.run_training import run_training
from grafs_timm.runs.run_within import run_within
from grafs_timm.utils.files import write_csv

COLUMNS = ("seed", "arm", "epochs", "accuracy", "loss", "formula", "nearest", "distance")


def row(seed: int, arm: str, summary: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    near = summary.get("nearest", {})
    return {
        "seed": seed, "arm": arm, "epochs": summary["epochs"], "accuracy": round(summary["test_accuracy"], 3),
        "loss": round(summary["test_loss"], 5), "formula": summary["formula"], "nearest": near.get("name", ""),
        "distance": round(near["distance"], 4) if near.get("distance") is not None else "",
    }  # fmt: skip


def paired(rows: list[dict[str, Any]]) -> str:
    """The mean difference of the run with the search to each other arm, with its 95 % interval."""
    arms: dict[str, dict[int, float]] = {}
    for each in rows:
        arms.setdefault(each["arm"], {})[each["seed"]] = each["accuracy"]
    own = arms.pop("within")
    lines = []
    for arm, theirs in arms.items():
        found = difference(own, theirs)
        interval = "" if found.low is None or found.high is None else f" ({found.low:+.2f} to {found.high:+.2f})"
        lines.append(f"within − {arm}: {found.mean:+.2f}{interval}, {found.n} pairs")
    return "\n".join(lines)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipe", "name", default="resnet_cifar10_reduced", show_default=True)
@click.option("--data", help="Shards of CIFAR-10.")
@click.option("--seeds", default=5, show_default=True)
@click.option("--cost", default=1.35, show_default=True, help="Cost of the run with the search over the plain training.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe.")
def main(out: Path, name: str, data: str | None, seeds: int, cost: float, changes: tuple[str, ...]) -> None:
    """Run what is missing, seed by seed, and write the tables anew after each run."""
    own = ([f"data.name={data}"] if data else []) + list(changes)
    recipe = load_recipe(name, own)
    usual, epochs = recipe.search.usual or "relu", recipe.evaluate.epochs
    longer = load_recipe(name, [*own, f"evaluate.epochs={round(epochs * cost)}"])
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        how: dict[str, Any] = {"seed": seed, "resume": True, "quiet": True}
        arms = {
            "within": lambda s=seed, h=how: run_within(recipe, out / f"within_s{s}", **h),
            "from scratch": lambda s=seed, h=how: run_training(
                recipe, out / f"within_s{s}" / "genotype.json", out / f"scratch_s{s}", **h
            ),
            f"{usual}, same length": lambda s=seed, h=how: run_training(recipe, usual, out / f"{usual}_s{s}", **h),
            f"{usual}, same cost": lambda s=seed, h=how: run_training(longer, usual, out / f"{usual}_longer_s{s}", **h),
        }
        for arm, run in arms.items():
            rows.append(row(seed, arm, run()))
            write_csv(out / "within.csv", COLUMNS, ([each[column] for column in COLUMNS] for each in rows))
            click.echo(f"seed {seed} {arm:20s} {rows[-1]['accuracy']:6.2f} %  {rows[-1]['formula']}")
        (out / "summary.txt").write_text(paired(rows) + "\n", encoding="utf-8")
    click.echo(paired(rows))


if __name__ == "__main__":
    main()
