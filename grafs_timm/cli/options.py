"""Options and messages that the commands which run something share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import GrafsError

if TYPE_CHECKING:
    from ..jobs.options import Launch
    from ..runs.tracking import Mode, Wandb


def run_options(command: Any) -> Any:
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


def prepare(
    recipe: str, model: str | None, data: str | None, settings: tuple[str, ...], on_bad_shard: str | None, device: str
) -> tuple[Any, str]:
    """Load the recipe with the command line's changes, and check the device."""
    import torch

    from ..utils.parallel import own_device

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = own_device(device)
    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise GrafsError(f"device {device!r} can't be used: {str(error).splitlines()[0]}") from error
    return changed_recipe(recipe, model, data, settings, on_bad_shard), device


def changed_recipe(
    recipe: str, model: str | None, data: str | None, settings: tuple[str, ...], on_bad_shard: str | None
) -> Any:  # fmt: skip
    """Load the recipe with the command line's changes."""
    from ..config.recipe import load_recipe

    given = {"model": model, "data.name": data, "data.on_bad_shard": on_bad_shard}
    return load_recipe(recipe, settings, {key: value for key, value in given.items() if value is not None})


def say_failed(outcomes: Any) -> None:
    """Print each failed job with the end of its output."""
    for outcome in outcomes:
        click.echo(f"failed: {outcome.job.name} ({outcome.job.output})\n  " + outcome.message.replace("\n", "\n  "), err=True)


def say_if(finished: bool, out: Path) -> None:
    """Say that nothing was run where the run was finished already."""
    if finished:
        click.echo(f"already finished, nothing was run: {out}")


def where_options(command: Any) -> Any:
    """Where many jobs run; the names are those of `jobs.launch.Launch`."""
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


def chosen_launch(device: str, **where: Any) -> Launch:
    """The `Launch` of the options, its devices found on this machine where jobs run here."""
    from ..jobs.launch import devices
    from ..jobs.options import Launch

    here = where.get("launcher", "local") == "local"
    return Launch(devices=devices(device) if here else (device,), **where)


def chosen_wandb(mode: Mode, group: str | None, name: str) -> Wandb:
    """W&B's options of many runs, in the group ``name`` where none is named.

    RunError where W&B's variables are wrong: before the first run starts.
    """
    from ..runs.tracking import Wandb
    from ..runs.wandb_mirror import check_mode, told

    check_mode(mode)
    return Wandb(mode, group or told("WANDB_RUN_GROUP", name))
