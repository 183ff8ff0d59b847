"""Commands that run something: search, evaluate, transfer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..errors import GrafsError

if TYPE_CHECKING:
    from ..runs.tracking import Mode


def _run_options(command: Any) -> Any:
    """The options that every run shares."""
    for option in reversed(
        [
            click.option("--model", help="Another timm model than the recipe's."),
            click.option(
                "--data",
                help="Other data: digits, a folder of shards or its name in $GRAFS_TIMM_DATA, a URL, a torchvision set.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**32 - 1),
                default=0,
                show_default=True,
                help="Seed of initialisation, order, augmentation and draws.",
            ),
            click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/<what is run>]"),
            click.option("--resume", is_flag=True, help="Go on where a stopped run left off."),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help="Change a key of the recipe, such as search.epochs=20.",
            ),
            click.option("--on-bad-shard", type=click.Choice(["raise", "skip"]), help="What a missing or damaged shard does."),
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ..., or auto."),
            click.option(
                "--wandb",
                type=click.Choice(["auto", "disabled", "offline", "online"]),
                default="auto",
                show_default=True,
                help="Mirror the log in Weights & Biases; auto: online with a key, else offline.",
            ),
            click.option("--wandb-group", "group", metavar="NAME", help="The group of runs that W&B shows this one in."),
            click.option("--quiet", is_flag=True, help="No progress bar."),
        ]
    ):
        command = option(command)
    return command


def _prepare(
    recipe: str, model: str | None, data: str | None, settings: tuple[str, ...], on_bad_shard: str | None, device: str
) -> tuple[Any, str]:
    """The recipe with the command line's changes, and the device."""
    import torch

    from ..utils.parallel import own_device

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = own_device(device)
    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise GrafsError(f"device {device!r} can't be used: {str(error).splitlines()[0]}") from error
    return _recipe(recipe, model, data, settings, on_bad_shard), device


def _recipe(
    recipe: str, model: str | None, data: str | None, settings: tuple[str, ...], on_bad_shard: str | None
) -> Any:  # fmt: skip
    from ..config.recipe import load_recipe

    given = {"model": model, "data.name": data, "data.on_bad_shard": on_bad_shard}
    return load_recipe(recipe, settings, {key: value for key, value in given.items() if value is not None})


def _say_failed(outcomes: Any) -> None:
    for outcome in outcomes:
        click.echo(f"failed: {outcome.job.name} ({outcome.job.output})\n  " + outcome.message.replace("\n", "\n  "), err=True)


def _say_if(finished: bool, out: Path) -> None:
    if finished:
        click.echo(f"already finished, nothing was run: {out}")


def _where_options(command: Any) -> Any:
    """Where many jobs run; the names are those of ``launch.run_jobs``."""
    for option in reversed(
        [
            click.option("--workers", type=click.IntRange(1), help="Jobs at once on each device.  [default: 1]"),
            click.option(
                "--launcher", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where jobs run."
            ),
            click.option("--address", help="Address of the Ray cluster.  [default: the one this machine is part of]"),
            click.option(
                "--gpus-per-job",
                type=click.FloatRange(0),
                help="Of a Ray job, such as 0.25.  [default: 1; 0 with --device cpu]",
            ),
            click.option(
                "--retries",
                type=click.IntRange(0),
                default=1,
                show_default=True,
                help="Goes on so often after a crash or kill.",
            ),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.argument("recipe", default="resnet_digits")
@_run_options
@click.option("--seeds", type=click.IntRange(1), help="So many searches, seeds 0 to N-1, each in a folder of its own.")
@click.option("--select", is_flag=True, help="Then choose among them by short trainings beside the usual activation.")
@_where_options
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
    from ..utils.parallel import is_main

    if select and not seeds:
        raise click.UsageError("--select chooses among several searches: give --seeds N")
    if seeds:
        chosen = _recipe(recipe, model, data, settings, on_bad_shard)
        _searches(recipe, chosen, out, device, (wandb, group), quiet, seeds, select, where)
        return
    chosen, device = _prepare(recipe, model, data, settings, on_bad_shard, device)
    out = out or Path("runs") / f"search_{Path(recipe).stem}_s{seed}"
    finished = (out / "summary.json").exists()
    summary = run_search(chosen, out, seed=seed, device=device, resume=resume, wandb=wandb, group=group, quiet=quiet)
    if not is_main():
        return
    _say_if(finished, out)
    click.echo(f"found     f(x) = {summary['formula']}")
    if summary["known_as"]:
        click.echo(f"          up to scales that neighbouring layers absorb, this is {summary['known_as']}")
    if summary["keeps_bound"]:
        click.echo("          its shape leans on the limits of the search (saturation at ±10), which stay a part of it")
    of_text = f"loss      {summary['held_out_loss']:.4f} nats per token"
    reached = of_text if chosen.data.text else f"accuracy  {summary['held_out_accuracy']:.2f} %"
    click.echo(f"{reached} on the architecture split, by the network of the search itself")
    skipped = f"{summary['skipped_inner']} weights, {summary['skipped_outer']} architecture"
    click.echo(f"time      {summary['seconds']:.0f} s    skipped steps: {skipped}")
    click.echo(f"files     {out}/genotype.json, {out}/plots/function.png, {out}/plots/shrinking.png")
    click.echo(f"next      grafs-timm evaluate {recipe} --activation {out}/genotype.json")


def _usual_group(mode: Mode, name: str) -> str:
    """W&B's group of many runs where no option names one. RunError where W&B's variables are wrong: before the first starts."""
    from ..runs.wandb_mirror import check_mode, told

    check_mode(mode)
    return told("WANDB_RUN_GROUP", name)


def _searches(recipe: str, chosen: Any, out: Path | None, device: str, wandb: tuple[Mode, str | None], quiet: bool, seeds: int,
              select: bool, where: dict[str, Any]) -> None:  # fmt: skip
    """Several searches, and with ``select`` a choice among them."""
    from ..comparison import selection
    from ..jobs import launch

    out = out or Path("runs") / f"{'choice' if select else 'searches'}_{Path(recipe).stem}"
    devices = launch.devices(device) if where["launcher"] == "local" else (device,)
    mode, group = wandb
    group = group or _usual_group(mode, out.name)
    options = ["--device", devices[0].partition(":")[0], "--wandb", mode, "--wandb-group", group]
    where = {**where, "devices": devices, "quiet": quiet}
    if not select:
        failed = selection.run_searches(chosen, out, seeds, options=options, **where)
        _say_failed(failed)
        click.echo(f"next      grafs-timm transfer {recipe} --activation {out}")
        sys.exit(1 if failed else 0)
    summary = selection.run_selection(chosen, out, seeds, options=options, **where)
    for row in summary["ranking"]:
        click.echo(f"{row['activation']:16s} {row['verdict']}    {row['formula']}")
    click.echo(f"in round 1, {summary['searched_against_random']}")
    click.echo(f"cost      {summary['cost']['full_trainings']} full trainings of {summary['usual']}")
    click.echo(f"choice    {summary['why']}")
    click.echo(f"files     {out}/report.md, {out}/final/report.md")
    for line in summary["failed"]:
        click.echo(f"failed: {line}", err=True)


@click.command()
@click.argument("recipe", default="resnet_digits")
@click.option("--activation", required=True, help="A zoo or timm name (grafs_resnet, relu), or a genotype.json.")
@_run_options
def evaluate(recipe: str, activation: str, model: str | None, data: str | None, seed: int, out: Path | None, resume: bool,
             settings: tuple[str, ...], on_bad_shard: str | None, device: str, wandb: Mode, group: str | None,
             quiet: bool) -> None:  # fmt: skip
    """Train the recipe's model with one activation, from scratch or evaluate.start_from, and test it.

    \b
    Example: the same budget for a found function and for ReLU
      grafs-timm evaluate resnet_digits --activation runs/search_resnet_digits_s0/genotype.json
      grafs-timm evaluate resnet_digits --activation relu
    Fine-tuning: the weights that ReLU was trained with, trained again with a found function
      grafs-timm evaluate resnet_digits --activation grafs_resnet --set evaluate.epochs=5
        --set evaluate.start_from=runs/evaluate_resnet_digits_relu_s0/weights --out runs/finetuned
    """
    from ..runs.run_training import run_evaluate
    from ..zoo.lookup import resolve

    chosen, device = _prepare(recipe, model, data, settings, on_bad_shard, device)
    found = resolve(activation)
    label = f"{found.name}_{found.sha256[:8]}" if found.sha256 else found.name
    out = out or Path("runs") / f"evaluate_{Path(recipe).stem}_{label}_s{seed}"
    finished = (out / "summary.json").exists()
    summary = run_evaluate(chosen, found, out, seed=seed, device=device, resume=resume, wandb=wandb, group=group, quiet=quiet)
    _say_if(finished, out)
    click.echo(f"f(x) = {summary['formula']}: {summary['report']}")
    split = summary.get("measured_on", "test")
    rightly = "tokens told rightly" if f"{split}_tokens" in summary else "accuracy"
    result = f"{split} {rightly} {summary[f'{split}_accuracy']:.2f} %, loss {float(summary[f'{split}_loss']):.4f}"
    click.echo(f"{result} after {summary['epochs']} epochs  ({out})")


@click.command()
@click.argument("recipe")
@click.option("--activation", "activations", multiple=True, help="Zoo or timm name, genotype.json, or folder of searches.")
@click.option("--baseline", "baselines", multiple=True, help="Usual activation to compare with.")
@click.option("--random", type=click.IntRange(0), help="So many random cells of the searched space, the control.")
@click.option("--model", "models", multiple=True, help="timm model.")
@click.option(
    "--data", "datasets", multiple=True, help="Data, as evaluate takes it; the rest as the recipe's data section says."
)
@click.option("--seeds", type=click.IntRange(1), help="Training seeds: 0 to N-1.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the matrix.  [default: runs/transfer_<recipe>]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe.")
@click.option("--on-bad-shard", type=click.Choice(["raise", "skip"]), help="What a missing or damaged shard does to a job.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda (each GPU), cuda:0,cuda:2, or auto.")
@_where_options
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True,
              help="Processes of each job, started by torchrun: GPUs of a job that trains on several.")  # fmt: skip
@click.option("--print-jobs", is_flag=True, help="Print one command a line for what is left, and run none.")
@click.option("--dry-run", is_flag=True, help="Show the jobs and an estimate of the time, and write nothing.")
@click.option("--wandb", type=click.Choice(["auto", "disabled", "offline", "online"]), default="auto", show_default=True,
              help="Mirror each job's log in Weights & Biases, in one group.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bar.")
def transfer(recipe: str, activations: tuple[str, ...], baselines: tuple[str, ...], random: int | None, models: tuple[str, ...],
             datasets: tuple[str, ...], seeds: int | None, out: Path | None, settings: tuple[str, ...], device: str,
             on_bad_shard: str | None, workers: int | None, launcher: Literal["local", "ray"], address: str | None,
             gpus_per_job: float | None, retries: int, processes: int, print_jobs: bool, dry_run: bool, wandb: Mode,
             quiet: bool) -> None:  # fmt: skip
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
        devices = launch.devices(device if launcher == "local" else "auto")
        places = (workers or 1) * len(launch.groups(devices, processes))
        click.echo(matrix.dry_run(chosen, out, workers=places, device=devices[0], processes=processes))
        return
    elsewhere = print_jobs or launcher == "ray"
    devices = (device,) if elsewhere else launch.devices(device)
    if not elsewhere:
        launch.groups(devices, processes)
    where = device if elsewhere else devices[0].partition(":")[0]  # a job sees no GPU but its own
    group = _usual_group(wandb, out.resolve().name)
    options = ["--device", where, "--wandb", wandb, "--wandb-group", group]
    if print_jobs:
        for line in matrix.print_jobs(chosen, out, options, processes):
            click.echo(line)
        return
    try:
        result = matrix.run_transfer(
            chosen, out, options=options, launcher=launcher, workers=workers, devices=devices, address=address,
            gpus_per_job=gpus_per_job, retries=retries, processes=processes, wandb=wandb, group=group,
            quiet=quiet,
        )  # fmt: skip
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        raise
    _say_failed(result.failed)
    counts = ", ".join(f"{result.count(state)} {state}" for state in ("done", "skipped", "failed"))
    click.echo(f"{counts}    report: {out / result.report.name if result.report else 'none, as no job is done'}")
    if result.failed:
        sys.exit(1)
