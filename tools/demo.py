"""The whole story on one machine in minutes: search an activation on real images, train with it, use it in timm.

    make demo        or        python tools/demo.py [--out runs/demo]

The images are the embedded UCI digits, the model is a ResNet-8 in timm's registry. The found function is then trained from
scratch beside ReLU, GELU and SiLU on the same budget, three seeds each, and put into a timm model in one line.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from grafs_timm.config.schema import Recipe

SEEDS = (0, 1, 2)
MODEL, EPOCHS, WARMUP_EPOCHS = "cifar_resnet8", 12, 2  # smaller and shorter than the recipe, for a first look
ONE_LINER = 'grafs_timm.create_model("resnet18", activation={path!r}, num_classes=10)'


@click.command()
@click.option("--recipe", default="resnet_digits", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--seed", default=0, show_default=True, help="Seed of the search.")
def main(recipe: str, out: Path, seed: int) -> None:
    """Search on the embedded digits, compare on equal budgets, use the result."""
    begin = time.perf_counter()
    click.echo("Loading torch and timm ...")
    from grafs_timm.config.recipe import load_recipe

    chosen = shortened(load_recipe(recipe))
    path = search(chosen, out / f"search_s{seed}", seed)
    compare(chosen, path, out)
    use(path)
    click.echo(f"   picture: {out / f'search_s{seed}' / 'plots' / 'function.png'}")
    click.echo(f"   all of it took {time.perf_counter() - begin:.0f} s")


def shortened(recipe: Recipe) -> Recipe:
    """Return the recipe with the demo's model and length."""
    weights = recipe.evaluate.weights.model_copy(update={"warmup_epochs": WARMUP_EPOCHS})
    evaluate = recipe.evaluate.model_copy(update={"epochs": EPOCHS, "weights": weights})
    return recipe.model_copy(update={"model": MODEL, "evaluate": evaluate})


def search(recipe: Recipe, folder: Path, seed: int) -> str:
    """Search, and return the file of the genotype."""
    from grafs_timm.runs.run_search import run_search
    from grafs_timm.zoo.nearest import Nearest

    click.secho(f"\n1. Search an activation: {recipe.model} on {recipe.data.name}, {recipe.search.epochs} epochs", bold=True)
    found = run_search(recipe, folder, seed=seed, resume=True)
    path = str(folder / "genotype.json")
    click.echo(f"   found f(x) = {found['formula']}   in {found['seconds']:.0f} s   ({path})")
    click.echo(f"   {Nearest(**found['nearest'])}, up to scales that neighbouring layers absorb")
    return path


def compare(recipe: Recipe, path: str, out: Path) -> None:
    """Train with the found function and with default activations, and print a table."""
    from grafs_timm.activations import genotype
    from grafs_timm.runs.run_training import run_training

    what = f"{recipe.evaluate.epochs} epochs, {len(SEEDS)} seeds each"
    click.secho(f"\n2. Train from scratch with it and with default activations: {what}", bold=True)
    found = genotype.load(path).sha256[:8]
    todo = [
        ("found", path, f"found_{found}"),
        *((name, name, name) for name in ("relu", "gelu", "silu")),
    ]
    results: dict[str, list[float]] = {}
    with tqdm(total=len(todo) * len(SEEDS), desc="trainings", unit="training") as bar:
        for name, activation, folder in todo:
            for seed in SEEDS:
                bar.set_postfix_str(f"{name}, seed {seed}")
                summary = run_training(recipe, activation, out / f"{folder}_s{seed}", seed=seed, resume=True, quiet=True)
                results.setdefault(name, []).append(summary["test_accuracy"])
                bar.update()
    click.echo("\n   activation   test accuracy: mean ± sd over training seeds")
    for name, values in results.items():
        each = "  ".join(f"{v:.2f}" for v in values)
        click.echo(f"   {name:10s}   {statistics.mean(values):5.2f} ± {statistics.stdev(values):.2f} %      ({each})")
    click.echo("   One search and three seeds on a toy task: a demonstration, not evidence for one function over another.")


def use(path: str) -> None:
    """Build a timm model with the found function."""
    import torch

    import grafs_timm

    click.secho("\n3. Use it in timm, in one line", bold=True)
    click.echo(f"   >>> model = {ONE_LINER.format(path=path)}")
    model = grafs_timm.create_model("resnet18", activation=path, num_classes=10)  # what the line above says
    logits = model(torch.randn(2, 3, 64, 64))
    click.echo(f"   {model.activation_report}; logits {tuple(logits.shape)}, finite: {bool(logits.isfinite().all())}")


if __name__ == "__main__":
    from grafs_timm.cli import screen

    screen.never_die()
    with screen.plain_notes():
        main()
