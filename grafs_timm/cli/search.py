"""The command that searches an activation, once or several times with a choice at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import changed_recipe, chosen_launch, chosen_wandb, prepare, run_options, say_failed, say_if, where_options

if TYPE_CHECKING:
    from ..runs.tracking import Mode


@click.command()
@click.argument("recipe", default="resnet_digits")
@run_options
@click.option("--seeds", type=click.IntRange(1), help="So many searches, seeds 0 to N-1, each in a folder of its own.")
@click.option("--select", is_flag=True, help="Then choose among them by short trainings beside the usual activation.")
@where_options
def search(recipe: str, model: str | None, data: str | None, seed: int, out: Path | None, resume: bool,
           settings: tuple[str, ...], on_bad_shard: str | None, device: str, wandb: Mode, group: str | None, quiet: bool,
           seeds: int | None, select: bool, **where: Any) -> None:  # fmt: skip
    """Search an activation. RECIPE is a file or the name of one that ships (default: resnet_digits, embedded data).

    One search is one draw: --seeds 8 --select runs eight and trains what they found, and random cells, beside the family's
    usual activation, on images held out of the training split. It ends with a ranking, or the advice to keep the usual one.

    \b
    Example: CIFAR-10 shards, the paper's settings, the third search seed
      grafs-timm search resnet_cifar10 --data path/to/cifar10 --seed 2 --out runs/c10_s2
    Eight searches and a choice among what they found, two jobs at a time
      grafs-timm search resnet_cifar10_small --data path/to/cifar10 --seeds 8 --select --workers 2 --out runs/choice
    One search on the four GPUs of a machine, together
      torchrun --nproc_per_node 4 -m grafs_timm search resnet_cifar10 --data path/to/cifar10 --seed 2 --out runs/c10_s2
    """
    from ..runs.run_search import run_search
    from ..runs.tracking import Wandb
    from ..utils.parallel import is_main

    if select and not seeds:
        raise click.UsageError("--select chooses among several searches: give --seeds N")
    if seeds:
        chosen = changed_recipe(recipe, model, data, settings, on_bad_shard)
        _searches(recipe, chosen, out, device, (wandb, group), quiet, seeds, select, where)
        return
    chosen, device = prepare(recipe, model, data, settings, on_bad_shard, device)
    out = out or Path("runs") / f"search_{Path(recipe).stem}_s{seed}"
    finished = (out / "summary.json").exists()
    summary = run_search(chosen, out, seed=seed, device=device, resume=resume, wandb=Wandb(wandb, group), quiet=quiet)
    if not is_main():
        return
    say_if(finished, out)
    click.echo(f"found     f(x) = {summary['formula']}")
    if summary["known_as"]:
        click.echo(f"          up to scales that neighbouring layers absorb, this is {summary['known_as']}")
    if summary["keeps_bound"]:
        click.echo("          its shape leans on the limits of the search (saturation at ±10), which stay a part of it")
    reached = chosen.data.reached.format(summary[f"held_out_{chosen.data.figure}"])
    click.echo(f"{reached} on the architecture split, by the network of the search itself")
    skipped = f"{summary['skipped_inner']} weights, {summary['skipped_outer']} architecture"
    click.echo(f"time      {summary['seconds']:.0f} s    skipped steps: {skipped}")
    click.echo(f"files     {out}/genotype.json, {out}/plots/function.png, {out}/plots/shrinking.png")
    click.echo(f"next      grafs-timm train {recipe} --activation {out}/genotype.json")


def _searches(recipe: str, chosen: Any, out: Path | None, device: str, wandb: tuple[Mode, str | None], quiet: bool, seeds: int,
              select: bool, where: dict[str, Any]) -> None:  # fmt: skip
    """Several searches, and with ``select`` a choice among them."""
    from ..comparison import selection

    out = out or Path("runs") / f"{'choice' if select else 'searches'}_{Path(recipe).stem}"
    launch = chosen_launch(device, quiet=quiet, **where)
    options = ["--device", launch.device, *chosen_wandb(*wandb, out.name).arguments]
    if not select:
        failed = selection.run_searches(chosen, out, seeds, options=options, launch=launch)
        say_failed(failed)
        click.echo(f"next      grafs-timm transfer {recipe} --activation {out}")
        sys.exit(1 if failed else 0)
    summary = selection.run_selection(chosen, out, seeds, options=options, launch=launch)
    for row in summary["ranking"]:
        click.echo(f"{row['activation']:16s} {row['verdict']}    {row['formula']}")
    click.echo(f"in round 1, {summary['searched_against_random']}")
    click.echo(f"cost      {summary['cost']['full_trainings']} full trainings of {summary['usual']}")
    click.echo(f"choice    {summary['why']}")
    click.echo(f"files     {out}/report.md, {out}/final/report.md")
    for line in summary["failed"]:
        click.echo(f"failed: {line}", err=True)
