"""The command that trains a model with one activation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import prepare, run_options, say_if

if TYPE_CHECKING:
    from ..runs.tracking import Mode


@click.command()
@click.argument("recipe", default="resnet_digits")
@click.option("--activation", required=True, help="A zoo or timm name (grafs_resnet, relu), or a genotype.json.")
@run_options
def train(recipe: str, activation: str, model: str | None, data: str | None, seed: int, out: Path | None, resume: bool,
          settings: tuple[str, ...], on_bad_shard: str | None, device: str, wandb: Mode, group: str | None,
          quiet: bool) -> None:  # fmt: skip
    """Train the recipe's model with one activation, from scratch or evaluate.start_from, and test it.

    \b
    Example: the same budget for a found function and for ReLU
      grafs-timm train resnet_digits --activation runs/search_resnet_digits_s0/genotype.json
      grafs-timm train resnet_digits --activation relu
    Fine-tuning: the weights that ReLU was trained with, trained again with a found function
      grafs-timm train resnet_digits --activation grafs_resnet --set evaluate.epochs=5
        --set evaluate.start_from=runs/train_resnet_digits_relu_s0/weights --out runs/finetuned
    """
    from ..runs.run_training import run_training
    from ..runs.tracking import Wandb
    from ..zoo.lookup import resolve

    chosen, device = prepare(recipe, model, data, settings, on_bad_shard, device)
    found = resolve(activation)
    label = f"{found.name}_{found.sha256[:8]}" if found.sha256 else found.name
    out = out or Path("runs") / f"train_{Path(recipe).stem}_{label}_s{seed}"
    finished = (out / "summary.json").exists()
    summary = run_training(chosen, found, out, seed=seed, device=device, resume=resume, wandb=Wandb(wandb, group), quiet=quiet)
    say_if(finished, out)
    click.echo(f"f(x) = {summary['formula']}: {summary['report']}")
    split = summary.get("measured_on", "test")
    rightly = "tokens told rightly" if f"{split}_tokens" in summary else "accuracy"
    result = f"{split} {rightly} {summary[f'{split}_accuracy']:.2f} %, loss {float(summary[f'{split}_loss']):.4f}"
    click.echo(f"{result} after {summary['epochs']} epochs  ({out})")
