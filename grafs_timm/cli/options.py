"""Options that several commands share, in sections of ``--help``, and what the commands do with them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import GrafsError

if TYPE_CHECKING:
    from ..jobs.options import Launch
    from ..runs.tracking import Mode, Wandb


class Command(click.Command):
    """A command whose ``--help`` lists options under the titles of their `section`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list of options for each section, in the order of the code, then those without a section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                sections.setdefault(getattr(option, "section", "Options"), []).append(record)
        for title in sorted(sections, key="Options".__eq__):
            with formatter.section(title):
                formatter.write_dl(sections[title])


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def section(title: str, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Decorate a command with several of ``click.option``, under one title of its ``--help``.

    Args:
        title: Heading of the section, without a colon.
        options: What ``click.option`` returned, in the order of the help.

    Returns:
        A decorator for the command's function.
    """

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
            command.__click_params__[-1].section = title
        return command

    return add


_OF_SEARCHES = ("search.", "search_within.", "select.")  # sections that a training does not read
FOLDER = click.Path(path_type=Path, file_okay=False)
PATH = click.Path(path_type=Path)
BAD_SHARD = click.option("--on-bad-shard", type=click.Choice(["raise", "skip"]), help="Stop at a bad shard, or ignore it.")
SET = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key: search.epochs=20. Repeatable.")
DEVICES = click.option("--device", default="auto", show_default=True, help="cpu, cuda (all GPUs), cuda:0,cuda:2, or auto.")
_MODES = click.Choice(["auto", "disabled", "offline", "online"])
WANDB = click.option("--wandb", type=_MODES, default="auto", show_default=True, help="W&B; auto: online with a key.")
QUIET = click.option("--quiet", is_flag=True, help="Show no progress bar.")
WORKERS = click.option("--workers", type=click.IntRange(1), help="Jobs at once on each device.  [default: 1]")
_LAUNCHERS = click.Choice(["local", "ray"])
LAUNCHER = click.option("--launcher", type=_LAUNCHERS, default="local", show_default=True, help="Run here or on a Ray cluster.")
ADDRESS = click.option("--address", help="Address of the Ray cluster.  [default: the cluster of this machine]")

recipe_options = section(
    "Recipe",
    click.option("--model", help="timm model to use instead of the recipe's."),
    click.option("--data", help="Data instead of the recipe's: a name, URL, or folder of images, shards or tables."),
    SET,
    BAD_SHARD,
)
run_options = section(
    "Run",
    click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of every random draw."),
    click.option("--out", type=PATH, help="Run folder.  [default: runs/NAME, named after what is run]"),
    click.option("--resume", is_flag=True, help="Resume a stopped run."),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ..., or auto."),
)
_GROUP = click.option("--wandb-group", "group", metavar="NAME", help="Group of the run in W&B.")
logging_options = section("Logging", WANDB, _GROUP, QUIET)
# the names are those of `jobs.options.Launch`
job_options = (
    WORKERS,
    LAUNCHER,
    ADDRESS,
    click.option("--gpus-per-job", type=click.FloatRange(0), help="GPUs of a Ray job.  [default: 1; 0 with --device cpu]"),
    click.option("--retries", type=click.IntRange(0), default=1, show_default=True, help="Resumes after a crash or kill."),
)


def prepare(recipe: str, device: str, **changes: Any) -> tuple[Any, str]:
    """Load a recipe with the command line's changes, and check the device.

    Args:
        recipe: File or name of a recipe.
        device: cpu, cuda, cuda:1 or auto.
        changes: As in `changed_recipe`.

    Returns:
        The recipe and the device of this process.

    Raises:
        GrafsError: The recipe is invalid, or the device does not work.
    """
    import torch

    from ..utils.parallel import own_device

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = own_device(device)
    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise GrafsError(f"device {device!r} can't be used: {str(error).splitlines()[0]}") from error
    return changed_recipe(recipe, **changes), device


def changed_recipe(recipe: str, settings: tuple[str, ...], model: str | None, data: str | None, on_bad_shard: Any) -> Any:
    """Load a recipe with the command line's changes."""
    from ..config.recipe import load_recipe

    given = {"model": model, "data.name": data, "data.on_bad_shard": on_bad_shard}
    return load_recipe(recipe, settings, {key: value for key, value in given.items() if value is not None})


def next_command(
    command: str, recipe: str, *arguments: object, settings: tuple[str, ...] = (), model: str | None = None,
    data: str | None = None, on_bad_shard: str | None = None,
) -> str:  # fmt: skip
    """Return a command to type next, for the same recipe with the command line's changes; those of searches alone are left out.

    Args:
        command: Of this program.
        recipe: As it was given.
        *arguments: Further ones.
        settings, model, data, on_bad_shard: As in `changed_recipe`.

    >>> next_command("train", "my recipe.yaml", "--seed", 1, settings=("search.epochs=3", "amp=off"), data="cifar10")
    "grafs-timm train 'my recipe.yaml' --data cifar10 --set amp=off --seed 1"
    """
    given = {"--model": model, "--data": data, "--on-bad-shard": on_bad_shard}
    words = [word for flag, value in given.items() if value is not None for word in (flag, value)]
    kept = [each for each in settings if not each.startswith(_OF_SEARCHES)]
    words += [word for each in kept for word in ("--set", each)]
    return shlex.join(["grafs-timm", command, recipe, *words, *map(str, arguments)])


def say_failed(outcomes: Any) -> None:
    """Print each failed job with the end of its output."""
    for outcome in outcomes:
        click.echo(f"failed: {outcome.job.name} ({outcome.job.output})\n  " + outcome.message.replace("\n", "\n  "), err=True)


def say_if(finished: bool, out: Path) -> None:
    """Say that nothing was run because the run was finished already."""
    if finished:
        click.echo(f"already finished, nothing was run: {out}")


def chosen_launch(device: str, **where: Any) -> Launch:
    """Return the `Launch` of the options, its devices found on this machine unless jobs run elsewhere.

    Raises:
        RunError: A device isn't there.
    """
    from ..jobs.launch import devices
    from ..jobs.options import Launch

    here = where.get("launcher", "local") == "local"
    return Launch(devices=devices(device) if here else (device,), **where)


def chosen_wandb(mode: Mode, group: str | None, name: str) -> Wandb:
    """Return the W&B options of many runs, in the group ``name`` if no option or variable names one.

    Raises:
        RunError: W&B's variables are wrong; no run has started then.
    """
    from ..runs.tracking import Wandb
    from ..runs.wandb_mirror import check_mode, told

    check_mode(mode)
    return Wandb(mode, group or told("WANDB_RUN_GROUP", name))
