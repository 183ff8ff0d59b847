"""The whole story on one machine in minutes: search an activation on real images, train with it, use it in timm.

    make demo        or        python tools/demo.py [--out runs/demo]

The images are the embedded UCI digits, the model a small ResNet of timm's registry. The found function is then trained from
scratch beside ReLU, GELU and SiLU on the same budget, three seeds each, and put into a timm model in one line.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click

from grafs_timm.cli import screen
from grafs_timm.config.recipe import load_recipe
from grafs_timm.runs.run_search import run_search
from grafs_timm.runs.run_training import run_training
from grafs_timm.zoo.nearest import Nearest

SEEDS = (0, 1, 2)
ONE_LINER = 'grafs_timm.create_model("resnet18", activation={path!r}, num_classes=10)'


@click.command()
@click.option("--recipe", default="resnet_digits", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--seed", default=0, show_default=True, help="Seed of the search.")
def main(recipe: str, out: Path, seed: int) -> None:
    """Search on the embedded digits, compare on equal budgets, use the result."""
    begin, chosen = time.perf_counter(), load_recipe(recipe)
    click.secho(f"1. Search an activation: {chosen.model} on {chosen.data.name}, {chosen.search.epochs} epochs", bold=True)
    found = run_search(chosen, out / f"search_s{seed}", seed=seed, resume=True)
    path = str(out / f"search_s{seed}" / "genotype.json")
    click.echo(f"   found f(x) = {found['formula']}   in {found['seconds']:.0f} s   ({path})")
    click.echo(f"   {Nearest(**found['nearest'])}, up to scales that neighbouring layers absorb")

    click.echo()
    click.secho(
        f"2. Train from scratch with it and with default activations: {chosen.evaluate.epochs} epochs, 3 seeds each", bold=True
    )
    results: dict[str, list[float]] = {}
    for activation in (path, "relu", "gelu", "silu"):
        name = "found" if activation == path else activation
        for run_seed in SEEDS:
            folder = out / f"{name}_{found['sha256'][:8]}_s{run_seed}" if name == "found" else out / f"{name}_s{run_seed}"
            summary = run_training(chosen, activation, folder, seed=run_seed, resume=True)
            results.setdefault(name, []).append(summary["test_accuracy"])
    click.echo("\n   activation   test accuracy: mean ± sd over training seeds")
    for name, values in results.items():
        each = "  ".join(f"{v:.2f}" for v in values)
        click.echo(f"   {name:10s}   {statistics.mean(values):5.2f} ± {statistics.stdev(values):.2f} %      ({each})")
    click.echo("   One search and three seeds on a toy task: a demonstration, not evidence for one function over another.\n")

    click.secho("3. Use it in timm, in one line", bold=True)
    line = ONE_LINER.format(path=path)
    click.echo(f"   >>> model = {line}")
    import torch

    import grafs_timm

    model = grafs_timm.create_model("resnet18", activation=path, num_classes=10)  # what the line above says
    logits = model(torch.randn(2, 3, 64, 64))
    click.echo(f"   {model.activation_report}; logits {tuple(logits.shape)}, finite: {bool(logits.isfinite().all())}")
    click.echo(f"   picture: {out / f'search_s{seed}' / 'plots' / 'function.png'}")
    click.echo(f"   all of it took {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    screen.never_die()
    with screen.plain_notes():
        main()
