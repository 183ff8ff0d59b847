"""What makes a search end well at a small budget: one setting of a recipe changed at a time, each found function trained.

    python tools/study_search.py OUT --data path/to/cifar10 [--seeds 3] [--set KEY=VALUE ...]

Every search and training is a run folder below OUT, so that a stopped study goes on where it was. Figures are of held-out data
that neither the searches nor the trainings see: accuracy of images, loss of text. OUT/study.csv has what is finished, with the
paired difference to the default activation and its 95 % interval (Student's t), positive where the found function is better.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from grafs_timm.activations import genotype as genotypes
from grafs_timm.activations.genotype import Genotype
from grafs_timm.comparison.statistics import difference
from grafs_timm.comparison.verdict import MEASURES
from grafs_timm.config.recipe import load_recipe
from grafs_timm.config.schema import Recipe, TextData
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
    } | ({} if isinstance(recipe.data, TextData) or not recipe.data.train_images else more_images(recipe))


def more_images(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return searches of as many steps on eight times the images."""
    assert not isinstance(recipe.data, TextData)
    lengths = {key: max(1, round(getattr(recipe.search, key) / 8)) for key in ("epochs", "warm_start", "shrink_start")}
    own = (f"data.train_images={8 * (recipe.data.train_images or 0)}", *(f"search.{key}={n}" for key, n in lengths.items()))
    return {"8 × the images": own, "8 × the images, guard": (*own, "search.guard=true")}


USUAL = ("relu", "gelu", "silu")
COLUMNS = (
    "setting", "changes", "search_seed", "formula", "known_as", "keeps_bound", "steepest", "measure", "mean", "n",
    "difference", "low", "high",
)  # fmt: skip


def steepest(genotype: Genotype) -> float:
    """Return the largest |f′| on [−5, 5]."""
    x = torch.linspace(-5, 5, 20001, dtype=torch.float64, device="cpu")
    return float(genotype(x).diff().abs().max() / (x[1] - x[0]))


def train(recipe: Recipe, activation: Any, folder: Path, trainings: int) -> dict[int, float]:
    """Return the held-out figure of each training seed."""
    key = f"validation_{recipe.data.figure}"
    return {
        seed: float(run_training(recipe, activation, folder / f"t{seed}", seed=seed, resume=True, quiet=True)[key])
        for seed in range(trainings)
    }


class Table:
    """The rows of a study, written anew with each.

    Args:
        path: Of the CSV file.
        measure: "accuracy" or "loss".
        usual: Figures of the default activation by training seed.
    """

    def __init__(self, path: Path, measure: str, usual: dict[int, float]) -> None:
        self.path, self.measure, self.usual, self.rows = path, MEASURES[measure], usual, list[dict[str, Any]]()

    def add(self, setting: str, changes: str, seed: Any, text: str, figures: dict[int, float], **more: Any) -> str:
        """Add a row and return what to print of it."""
        apart = difference(figures, self.usual, self.measure)
        mean = float(np.mean(list(figures.values())))
        values = {"mean": mean, "difference": apart.mean, "low": apart.low, "high": apart.high}
        shown = {name: "" if value is None else round(value, 4) for name, value in values.items()}
        own = {"setting": setting, "changes": changes, "search_seed": seed, "formula": text, "measure": self.measure.name}
        self.rows.append(dict.fromkeys(COLUMNS, "") | own | {"n": len(figures)} | shown | more)
        write_csv(self.path, COLUMNS, ([row[name] for name in COLUMNS] for row in self.rows))
        return f"{setting:20s} {seed!s:2s} {self.measure.text(mean)}  {shown['low']} to {shown['high']}  {text}"


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipe", default="resnet_cifar10_small", show_default=True)
@click.option("--data", help="Shards of the recipe's data set.")
@click.option("--seeds", default=3, show_default=True, help="Search seeds of each setting.")
@click.option("--trainings", default=3, show_default=True, help="Training seeds of each function.")
@click.option("--random", "count", default=4, show_default=True, help="Random cells beside them.")
@click.option("--only", multiple=True, help="These settings alone.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe for all of them.")
def main(out: Path, recipe: str, data: str | None, seeds: int, trainings: int, count: int, only: tuple[str, ...],
         changes: tuple[str, ...]) -> None:  # fmt: skip
    """Run what is missing, seed by seed, and write the table anew after each function."""
    text = isinstance(load_recipe(recipe).data, TextData)
    held_out = "data.text.measure=validation" if text else "data.validation_images=5000"
    common = [held_out, *([f"data.name={data}"] if data else []), *changes]
    plain = load_recipe(recipe, common)
    changed, default = settings(plain), plain.search.usual or "relu"
    if unknown := sorted(set(only) - changed.keys()):
        raise click.BadParameter(f"{unknown[0]!r}: expected one of {', '.join(changed)}", param_hint="--only")
    usual = {name: train(plain, name, out / "usual" / name, trainings) for name in dict.fromkeys([default, *USUAL])}
    table = Table(out / "study.csv", plain.data.figure, usual[default])
    for name, figures in usual.items():
        click.echo(table.add("usual", "", "", name, figures))
    rng = np.random.default_rng(0)
    for number in range(count):
        cell = genotypes.random_genotype(rng)
        click.echo(table.add("random", "", number, cell.text, train(plain, cell, out / "random" / str(number), trainings)))
    for seed in range(seeds):  # outermost, so that a study stopped early has seen every setting as often as any
        for name in only or changed:
            folder = out / name.replace(" ", "_") / f"s{seed}"
            found = run_search(load_recipe(recipe, [*common, *changed[name]]), folder, seed=seed, resume=True, quiet=True)
            genotype = genotypes.load(folder / "genotype.json")
            figures = train(plain, genotype, folder.parent / f"s{seed}_trained", trainings)
            facts = {"known_as": known_as(genotype) or "", "keeps_bound": found["keeps_bound"]}
            more = facts | {"steepest": round(steepest(genotype), 3)}
            click.echo(table.add(name, " ".join(changed[name]), seed, found["formula"], figures, **more))


if __name__ == "__main__":
    main()
