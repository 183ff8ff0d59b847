"""What makes a search end well at a small budget: one setting of a recipe changed at a time, each found function trained.

    python tools/study_search.py OUT --data path/to/cifar10 [--seeds 3] [--set KEY=VALUE ...]

Every search and training is a run folder below OUT, so that a stopped study goes on where it was. Accuracy is of images of the
training split that neither the searches nor the trainings see. What has been finished is written to OUT/study.csv.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from grafs_timm.activations import genotype as genotypes
from grafs_timm.config.recipe import load_recipe
from grafs_timm.config.schema import Recipe
from grafs_timm.runs.run_search import run_search
from grafs_timm.runs.run_training import run_training
from grafs_timm.utils.files import write_csv
from grafs_timm.zoo.lookup import known_as


def settings(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return name -> what it changes of the recipe, in shares of the search's length."""
    search, rate = recipe.search, recipe.search.architecture.lr
    epochs = search.epochs

    def share(part: float) -> int:
        return max(1, round(part * epochs))

    def alpha(factor: float) -> str:
        return f"search.architecture.lr={rate * factor:g}"

    squeezed = ("search.warm_start=1", "search.shrink_start=2")  # the paper's schedule in this length
    half = ("search.warm_start=" + str(share(1 / 6)), "search.shrink_start=" + str(share(1 / 8)))
    return {
        "recipe": (),
        "guard": ("search.guard=true",),
        "α lr ÷ 3": (alpha(1 / 3),),
        "α lr × 3": (alpha(3),),
        "α lr × 10": (alpha(10),),
        "squeezed": squeezed,
        "squeezed, α lr × 3": (*squeezed, alpha(3)),
        "half warm": (f"search.warm_start={share(1 / 2)}", f"search.shrink_start={share(5 / 12)}"),
        "faded": (f"search.fade={share(1 / 4)}",),
        "even split": ("search.architecture_fraction=0.5",),
        "same batches": ("search.architecture_fraction=0",),
        "same batches, guard": ("search.architecture_fraction=0", "search.guard=true"),
        "constant weight lr": ("search.weights.sched=none",),
        "half as long": (f"search.epochs={epochs // 2}", *half, alpha(2)),  # α lr × steps is kept
    }


USUAL = ("relu", "gelu", "silu")
COLUMNS = ("setting", "changes", "search_seed", "formula", "known_as", "keeps_bound", "accuracy", "n")


def train(recipe: Recipe, activation: Any, folder: Path, trainings: int) -> list[float]:
    """Validation accuracies in per cent of ``trainings`` seeds."""
    runs = [
        run_training(recipe, activation, folder / f"t{seed}", seed=seed, resume=True, quiet=True) for seed in range(trainings)
    ]
    return [float(run["validation_accuracy"]) for run in runs]


def row(setting: str, changes: str, seed: Any, text: str, accuracies: list[float], **more: Any) -> dict[str, Any]:
    mean = round(float(np.mean(accuracies)), 3)
    own = {"setting": setting, "changes": changes, "search_seed": seed, "formula": text, "accuracy": mean, "n": len(accuracies)}
    return dict.fromkeys(COLUMNS, "") | own | more


def write(rows: list[dict[str, Any]], path: Path) -> None:
    write_csv(path, COLUMNS, ([row[name] for name in COLUMNS] for row in rows))


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipe", default="resnet_cifar10_small", show_default=True)
@click.option("--data", help="Shards of CIFAR-10.")
@click.option("--seeds", default=3, show_default=True, help="Search seeds of each setting.")
@click.option("--trainings", default=1, show_default=True, help="Training seeds of each found function.")
@click.option("--random", "count", default=4, show_default=True, help="Random cells beside them.")
@click.option("--only", multiple=True, help="These settings alone.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe for all of them.")
def main(out: Path, recipe: str, data: str | None, seeds: int, trainings: int, count: int, only: tuple[str, ...],
         changes: tuple[str, ...]) -> None:  # fmt: skip
    common = ["data.validation_images=5000", *([f"data.name={data}"] if data else []), *changes]
    plain = load_recipe(recipe, common)
    changed, rows = settings(plain), []
    if unknown := sorted(set(only) - changed.keys()):
        raise click.BadParameter(f"{unknown[0]!r}: expected one of {', '.join(changed)}", param_hint="--only")
    for name in USUAL:
        rows.append(row("usual", "", "", name, train(plain, name, out / "usual" / name, trainings)))
    rng = np.random.default_rng(0)
    for number in range(count):
        cell = genotypes.random_genotype(rng)
        rows.append(row("random", "", number, cell.text, train(plain, cell, out / "random" / str(number), trainings)))
        write(rows, out / "study.csv")
    for seed in range(seeds):  # outermost, so that a study stopped early has seen every setting as often as any
        for name in only or changed:
            folder = out / name.replace(" ", "_") / f"s{seed}"
            found = run_search(load_recipe(recipe, [*common, *changed[name]]), folder, seed=seed, resume=True, quiet=True)
            genotype = genotypes.load(folder / "genotype.json")
            accuracies = train(plain, genotype, folder.parent / f"s{seed}_trained", trainings)
            more = {"known_as": known_as(genotype) or "", "keeps_bound": found["keeps_bound"]}
            rows.append(row(name, " ".join(changed[name]), seed, found["formula"], accuracies, **more))
            write(rows, out / "study.csv")
            click.echo(f"{name:28s} seed {seed}: {rows[-1]['accuracy']:.2f} %  {found['formula']}")


if __name__ == "__main__":
    main()
