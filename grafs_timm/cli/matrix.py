"""The command that trains every activation on every model and data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..runs.tracking import Mode


@click.command(cls=options.Command)
@click.argument("recipe")
@options.section(
    "Matrix (repeat an option to give several)",
    click.option("--activation", "activations", multiple=True, help="Zoo or timm name, genotype.json, or folder of searches."),
    click.option("--baseline", "baselines", multiple=True, help="timm activation to compare with."),
    click.option("--random", type=click.IntRange(0), help="Number of random cells of the search space, as a control."),
    click.option("--model", "models", multiple=True, help="timm model."),
    click.option("--data", "datasets", multiple=True, help="Data, as train takes it; the recipe's data section sets the rest."),
    click.option("--seeds", type=click.IntRange(1), help="Number of training seeds, 0 to N-1."),
)
@options.section("Recipe", options.SET, options.BAD_SHARD)
@options.section(
    "Jobs",
    click.option("--out", type=options.PATH, help="Folder of the matrix.  [default: runs/transfer_RECIPE]"),
    click.option("--dry-run", is_flag=True, help="Show the jobs and an estimate of the time, and write nothing."),
    click.option("--print-jobs", is_flag=True, help="Print one command per line for what is left, and run none."),
    options.DEVICES,
    *options.job_options,
    click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes per job, one GPU each."),
)
@options.section("Logging", options.WANDB, options.QUIET)
def transfer(recipe: str, activations: tuple[str, ...], baselines: tuple[str, ...], random: int | None, models: tuple[str, ...],
             datasets: tuple[str, ...], seeds: int | None, out: Path | None, settings: tuple[str, ...], device: str,
             on_bad_shard: str | None, processes: int, print_jobs: bool, dry_run: bool, wandb: Mode, quiet: bool,
             **where: Any) -> None:  # fmt: skip
    """Train every activation on every model and data set with every seed, and write a report.

    Options replace the lists of RECIPE. If it was stopped, the same command resumes; finished trainings are kept. Add seeds,
    models or data sets to extend the matrix.

    \b
    Examples:
      # a folder of searches beside the default activations and five random cells, two jobs at once
      grafs-timm transfer resnet_cifar10 --activation runs/batch --random 5 --model cifar_resnet20 --model cifar_resnet32 \\
        --data cifar10 --data fashion-mnist --seeds 3 --workers 2 --out runs/matrix
      # the same on SLURM: one command per line
      grafs-timm transfer resnet_cifar10 --activation runs/batch --out runs/matrix --print-jobs
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
    tracked = options.chosen_wandb(wandb, None, out.resolve().name)
    if print_jobs:
        for line in matrix.print_jobs(chosen, out, ["--device", device, *tracked.arguments], processes):
            click.echo(line)
        return
    own = options.chosen_launch(device, quiet=quiet, **where)
    if own.launcher == "local":
        launch.groups(own.devices, processes)
    arguments = ["--device", own.device, *tracked.arguments]
    try:
        result = matrix.run_transfer(chosen, out, options=arguments, launch=own, processes=processes, wandb=tracked)
    except KeyboardInterrupt:
        click.echo("stopped; the same command resumes", err=True)
        raise
    options.say_failed(result.failed)
    counts = ", ".join(f"{result.count(state)} {state}" for state in ("done", "skipped", "failed"))
    click.echo(f"{counts}    report: {out / result.report.name if result.report else 'none, as no job is done'}")
    if result.further:
        click.echo(f"next      {result.further}")
    if result.failed:
        sys.exit(1)
