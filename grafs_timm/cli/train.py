"""The command that trains a model with one activation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..runs.tracking import Mode


@click.command(cls=options.Command)
@click.argument("recipe", default="resnet_digits")
@options.section(
    "Activation",
    click.option("--activation", required=True, help="A zoo or timm name (grafs_resnet, relu), or a genotype.json."),
)
@options.recipe_options
@options.run_options
@options.logging_options
def train(recipe: str, activation: str, seed: int, out: Path | None, resume: bool, device: str, wandb: Mode,
          group: str | None, quiet: bool, **changes: Any) -> None:  # fmt: skip
    """Train the recipe's model with one activation and test it.

    RECIPE is a file or the name of a recipe of the package. Training starts from scratch, or from evaluate.start_from.

    \b
    Examples:
      # the same budget for a found function and for ReLU
      grafs-timm train resnet_digits --activation runs/search_resnet_digits_s0/genotype.json
      grafs-timm train resnet_digits --activation relu
      # fine-tune weights that were trained with ReLU
      grafs-timm train resnet_digits --activation grafs_resnet --set evaluate.epochs=5 \\
        --set evaluate.start_from=runs/train_resnet_digits_relu_s0/weights --out runs/finetuned
    """
    from ..runs.run_training import run_training
    from ..runs.tracking import Wandb
    from ..zoo.lookup import resolve

    chosen, device = options.prepare(recipe, device, **changes)
    found = resolve(activation)
    label = f"{found.name}_{found.sha256[:8]}" if found.sha256 else found.name
    out = out or Path("runs") / f"train_{Path(recipe).stem}_{label}_s{seed}"
    finished = (out / "summary.json").exists()
    tracked = Wandb(wandb, group)
    summary = run_training(chosen, found, out, seed=seed, device=device, resume=resume, wandb=tracked, quiet=quiet)
    options.say_if(finished, out)
    click.echo(f"f(x) = {summary['formula']}: {summary['report']}")
    split = summary.get("measured_on", "test")
    measure = "token accuracy" if f"{split}_tokens" in summary else "accuracy"
    result = f"{split} {measure} {summary[f'{split}_accuracy']:.2f} %, loss {float(summary[f'{split}_loss']):.4f}"
    click.echo(f"{result} after {summary['epochs']} epochs  ({out})")
