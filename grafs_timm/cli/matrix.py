"""The command that trains every activation on every model and data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import chosen_launch, chosen_wandb, say_failed, where_options

if TYPE_CHECKING:
    from ..runs.tracking import Mode


@click.command()
@click.argument("recipe")
@click.option("--activation", "activations", multiple=True, help="Zoo or timm name, genotype.json, or folder of searches.")
@click.option("--baseline", "baselines", multiple=True, help="Usual activation to compare with.")
@click.option("--random", type=click.IntRange(0), help="So many random cells of the searched space, the control.")
@click.option("--model", "models", multiple=True, help="timm model.")
@click.option("--data", "datasets", multiple=True, help="Data, as train takes it; the rest as the recipe's data section says.")
@click.option("--seeds", type=click.IntRange(1), help="Training seeds: 0 to N-1.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the matrix.  [default: runs/transfer_<recipe>]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe.")
@click.option("--on-bad-shard", type=click.Choice(["raise", "skip"]), help="What a missing or damaged shard does to a job.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda (each GPU), cuda:0,cuda:2, or auto.")
@where_options
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True,
              help="Processes of each job, started by torchrun: GPUs of a job that trains on several.")  # fmt: skip
@click.option("--print-jobs", is_flag=True, help="Print one command a line for what is left, and run none.")
@click.option("--dry-run", is_flag=True, help="Show the jobs and an estimate of the time, and write nothing.")
@click.option("--wandb", type=click.Choice(["auto", "disabled", "offline", "online"]), default="auto", show_default=True,
              help="Mirror each job's log in Weights & Biases, in one group.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bar.")
def transfer(recipe: str, activations: tuple[str, ...], baselines: tuple[str, ...], random: int | None, models: tuple[str, ...],
             datasets: tuple[str, ...], seeds: int | None, out: Path | None, settings: tuple[str, ...], device: str,
             on_bad_shard: str | None, processes: int, print_jobs: bool, dry_run: bool, wandb: Mode, quiet: bool,
             **where: Any) -> None:  # fmt: skip
    """Train every activation on every model and data set with every seed, and report on all. Options replace RECIPE's lists.

    Stop it and call it again: what is done is kept, what is half done goes on. More of anything extends the matrix.

    \b
    Example: a batch of searches beside the usual activations and five random cells, two jobs at once
      grafs-timm transfer resnet_cifar10 --activation runs/batch --random 5 --model cifar_resnet20 --model cifar_resnet32
        --data cifar10 --data fashion-mnist --seeds 3 --workers 2 --out runs/matrix
    """
    from ..comparison import transfer as matrix
    from ..config.recipe import load_recipe
    from ..jobs import launch

    lists = {"activations": activations, "baselines": baselines, "models": models, "data": datasets}
    given: dict[str, Any] = {f"transfer.{key}": list(value) for key, value in lists.items() if value}
    given |= {f"transfer.{key}": value for key, value in (("random", random), ("seeds", seeds)) if value is not None}
    chosen = load_recipe(recipe, settings, given)
    chosen = matrix.with_bad_shards(chosen, on_bad_shard) if on_bad_shard else chosen
    out = out or Path("runs") / f"transfer_{Path(recipe).stem}"
    if dry_run:
        devices = launch.devices(device if where["launcher"] == "local" else "auto")
        places = (where["workers"] or 1) * len(launch.groups(devices, processes))
        click.echo(matrix.dry_run(chosen, out, workers=places, device=devices[0], processes=processes))
        return
    tracked = chosen_wandb(wandb, None, out.resolve().name)
    if print_jobs:
        options = ["--device", device, *tracked.arguments]
        for line in matrix.print_jobs(chosen, out, options, processes):
            click.echo(line)
        return
    own = chosen_launch(device, quiet=quiet, **where)
    if own.launcher == "local":
        launch.groups(own.devices, processes)
    options = ["--device", own.device, *tracked.arguments]
    try:
        result = matrix.run_transfer(chosen, out, options=options, launch=own, processes=processes, wandb=tracked)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        raise
    say_failed(result.failed)
    counts = ", ".join(f"{result.count(state)} {state}" for state in ("done", "skipped", "failed"))
    click.echo(f"{counts}    report: {out / result.report.name if result.report else 'none, as no job is done'}")
    if result.failed:
        sys.exit(1)
