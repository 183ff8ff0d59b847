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
    click.option("--activation", help="A zoo or timm name (grafs_resnet, relu), or a genotype.json."),
    click.option("--search", is_flag=True, help="Search one in the first epochs, and train on with it."),
)
@options.recipe_options
@options.run_options
@options.logging_options
def train(recipe: str, activation: str | None, search: bool, seed: int, out: Path | None, resume: bool, device: str,
          wandb: Mode, group: str | None, quiet: bool, **changes: Any) -> None:  # fmt: skip
    """Train the recipe's model with one activation and test it.

    RECIPE is a file or the name of a recipe of the package. Training starts from scratch, or from evaluate.start_from. With
    --search the activation is searched in the first part of the training (search_within), whose weights stay.

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
    from ..runs.run_within import run_within
    from ..runs.tracking import Wandb
    from ..zoo.lookup import resolve

    if search == (activation is not None):
        raise click.UsageError("give --activation NAME to train with one, or --search to find one in the training, not both")
    chosen, device = options.prepare(recipe, device, **changes)
    found = None if activation is None else resolve(activation)
    label = "search" if found is None else f"{found.name}_{found.sha256[:8]}" if found.sha256 else found.name
    out = out or Path("runs") / f"train_{Path(recipe).stem}_{label}_s{seed}"
    finished = (out / "summary.json").exists()
    how: dict[str, Any] = {"seed": seed, "device": device, "resume": resume, "wandb": Wandb(wandb, group), "quiet": quiet}
    summary = run_within(chosen, out, **how) if found is None else run_training(chosen, found, out, **how)
    options.say_if(finished, out)
    click.echo(f"f(x) = {summary['formula']}: {summary['report']}")
    split = summary.get("measured_on", "test")
    measure = "token accuracy" if f"{split}_tokens" in summary else "accuracy"
    result = f"{split} {measure} {summary[f'{split}_accuracy']:.2f} %, loss {float(summary[f'{split}_loss']):.4f}"
    click.echo(f"{result} after {summary['epochs']} epochs  ({out})")
    if search:
        click.echo(f"report    {out / 'report.html'}")
        arguments = ("--activation", out / "genotype.json", "--seed", seed)
        click.echo(f"next      {options.next_command('train', recipe, *arguments, **changes)}")
