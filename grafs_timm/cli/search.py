"""The command that searches an activation, once or several times with a choice at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..jobs.options import Launch
    from ..runs.tracking import Mode, Wandb


@click.command(cls=options.Command)
@click.argument("recipe", default="resnet_digits")
@options.recipe_options
@options.run_options
@options.section(
    "Several searches",
    click.option("--seeds", type=click.IntRange(1), help="Run N searches, seeds 0 to N-1, each in its own folder."),
    click.option("--select", is_flag=True, help="Then select among them by trainings that grow."),
    click.option("--controls", type=click.IntRange(0), metavar="K", help="With --select: train K random cells too."),
    *options.job_options,
)
@options.logging_options
def search(recipe: str, seed: int, out: Path | None, resume: bool, device: str, wandb: Mode, group: str | None, quiet: bool,
           seeds: int | None, select: bool, controls: int | None, workers: int | None, launcher: str, address: str | None,
           gpus_per_job: float | None, retries: int, **changes: Any) -> None:  # fmt: skip
    """Search an activation.

    RECIPE is a file or the name of a recipe of the package (default: resnet_digits, with embedded data).

    One search is one draw: --seeds 5 --select runs five searches and selects among what they found. Equal functions count once,
    and those that the formula rules out are not trained. Trainings of an eighth and a quarter of the length leave one, and full
    ones compare it with the family's default activation, all on images held out of the training split. The result is a
    verdict with its interval; if nothing is shown to be better, the advice is to keep the default activation.

    \b
    Examples:
      # CIFAR-10 shards, the paper's settings, search seed 2
      grafs-timm search resnet_cifar10 --data path/to/cifar10 --seed 2 --out runs/c10_s2
      # five searches and a selection among what they found, two jobs at once
      grafs-timm search resnet_cifar10_small --data path/to/cifar10 --seeds 5 --select --workers 2 --out runs/choice
      # the same beside three random cells, to see what searching adds
      grafs-timm search resnet_cifar10_small --data path/to/cifar10 --seeds 5 --select --controls 3 --out runs/controlled
      # a folder of images, train/CLASS/IMAGE.jpg and val/CLASS/IMAGE.jpg, packed once
      grafs-timm search resnet_cifar10_small --data photos --set data.image_size=32 --out runs/photos
      # one search on four GPUs of a machine, together
      torchrun --nproc_per_node 4 -m grafs_timm search resnet_cifar10 --data path/to/cifar10 --seed 2 --out runs/c10_s2
    """
    from ..runs.run_search import run_search
    from ..runs.tracking import Wandb
    from ..utils.parallel import is_main
    from ..zoo.nearest import Nearest

    if select and not seeds:
        raise click.UsageError("--select selects among several searches: give --seeds N")
    if controls is not None:
        if not select:
            raise click.UsageError("--controls trains random cells in a selection: give --seeds N --select too")
        changes["settings"] = (*changes["settings"], f"select.controls={controls}")
    if seeds:
        chosen = options.changed_recipe(recipe, **changes)
        launch = options.chosen_launch(
            device, workers=workers, launcher=launcher, address=address, gpus_per_job=gpus_per_job, retries=retries, quiet=quiet
        )  # fmt: skip
        out = out or Path("runs") / f"{'choice' if select else 'searches'}_{Path(recipe).stem}"
        _searches(recipe, chosen, changes, out, seeds, select, launch, options.chosen_wandb(wandb, group, out.name))
        return
    chosen, device = options.prepare(recipe, device, **changes)
    out = out or Path("runs") / f"search_{Path(recipe).stem}_s{seed}"
    finished = (out / "summary.json").exists()
    summary = run_search(chosen, out, seed=seed, device=device, resume=resume, wandb=Wandb(wandb, group), quiet=quiet)
    if not is_main():
        return
    options.say_if(finished, out)
    click.echo(f"found     f(x) = {summary['formula']}")
    if near := summary.get("nearest"):  # a folder of an earlier version has none
        click.echo(f"          {Nearest(**near)}, up to scales that neighbouring layers absorb")
    if summary["known_as"] and summary["known_as"] != (near or {}).get("name"):
        click.echo(f"          the same function as {summary['known_as']}")
    if summary["keeps_bound"]:
        click.echo("          its shape depends on the bound of the search (saturation at ±10), which stays a part of it")
    reached = chosen.data.reached.format(summary[f"held_out_{chosen.data.figure}"])
    split = summary.get("measured_on", "architecture split")
    click.echo(f"{reached} on the {split}, by the network of the search itself")
    skipped = f"{summary['skipped_inner']} weights, {summary['skipped_outer']} architecture"
    click.echo(f"time      {summary['seconds']:.0f} s    skipped steps: {skipped}")
    click.echo(f"files     {out}/report.html, {out}/genotype.json, {out}/plots/function.png, {out}/plots/shrinking.png")
    click.echo(f"next      {options.next_command('train', recipe, '--activation', out / 'genotype.json', **changes)}")


def _searches(recipe: str, chosen: Any, changes: dict[str, Any], out: Path, seeds: int, select: bool, launch: Launch,
              wandb: Wandb) -> None:  # fmt: skip
    """Run several searches, and with ``select`` select among them."""
    from ..comparison import selection

    arguments = ["--device", launch.device, *wandb.arguments]
    if not select:
        failed = selection.run_searches(chosen, out, seeds, options=arguments, launch=launch)
        options.say_failed(failed)
        click.echo(f"next      {options.next_command('transfer', recipe, '--activation', out, **changes)}")
        sys.exit(1 if failed else 0)
    summary = selection.run_selection(chosen, out, seeds, options=arguments, launch=launch)
    for row in summary["ranking"]:
        click.echo(f"{row['activation']:16s} {row['verdict']}    {row['formula']}")
    for row in summary.get("searched", ()):  # a folder of an earlier version has none
        if row["not_trained"]:
            click.echo(f"{row['activation']:16s} not trained: {row['not_trained']}    {row['formula']}")
    if contrast := summary.get("searched_against_random"):
        click.echo(f"in round 1, {contrast}")
    cost = summary["cost"]
    trained = cost["full_trainings"] is not None
    spent = f"{cost['full_trainings']} full trainings of {summary['usual']}"
    click.echo(f"cost      {spent if trained else str(round(cost['search_seconds'])) + ' s of searches, no training'}")
    click.echo(f"advice    {summary['why']}")
    click.echo(f"files     {out}/report.html, {out}/report.md" + (f", {out}/final/report.md" if trained else ""))
    activation = found if (found := out / "genotype.json").exists() else summary["usual"]
    click.echo(f"next      {options.next_command('train', recipe, '--activation', activation, **changes)}")
    for line in summary["failed"]:
        click.echo(f"failed: {line}", err=True)
