"""The command line: arguments and calls, nothing more."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from . import __version__
from .errors import GrafsError

if TYPE_CHECKING:
    from .tracking import Mode

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Group(click.Group):
    """Prints the errors that are the input's fault as one message, exit code 1, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except GrafsError as error:
            text = f"error: {error}"
            _say_once(lambda: click.secho(text, fg="red", err=True))
            sys.exit(1)
        except click.ClickException as error:
            _say_once(error.show)
            sys.exit(error.exit_code)


def _say_once(say: Callable[[], None]) -> None:
    """However many processes torchrun started, and all have met the same error."""
    from . import parallel

    parallel.first_to_say(say)


@click.group(cls=_Group, context_settings=_CONTEXT)
@click.version_option(__version__)
def main() -> None:
    """Search activation functions by gradient descent, and load found ones by name in timm.

    \b
    grafs-timm search                     a search on the embedded digits, seconds on two cores
    grafs-timm evaluate resnet_digits --activation runs/search/genotype.json
    grafs-timm zoo list
    grafs-timm exec train.py ...          timm's own scripts with the zoo's names
    """
    from .launch import end_with_stdin

    end_with_stdin()


def _run_options(command: Any) -> Any:
    """The options that every run shares."""
    for option in reversed(
        [
            click.option("--model", help="Another timm model than the recipe's."),
            click.option(
                "--data", help="Other data: digits, a folder of shards with _info.json, or a name in $GRAFS_TIMM_DATA."
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
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ..., or auto."),
            click.option(
                "--wandb",
                type=click.Choice(["disabled", "offline", "online"]),
                default="disabled",
                show_default=True,
                help="Mirror the log in Weights & Biases.",
            ),
            click.option("--quiet", is_flag=True, help="No progress bar."),
        ]
    ):
        command = option(command)
    return command


def _prepare(recipe: str, model: str | None, data: str | None, settings: tuple[str, ...], device: str) -> tuple[Any, str]:
    """The recipe with the command line's changes, and the device."""
    import torch

    from .parallel import own_device
    from .recipe import load_recipe

    changes = [*settings, *([f"model={model}"] if model else []), *([f"data.name={data}"] if data else [])]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = own_device(device)
    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        raise GrafsError(f"device {device!r} can't be used: {str(error).splitlines()[0]}") from error
    return load_recipe(recipe, changes), device


def _say_if(finished: bool, out: Path) -> None:
    if finished:
        click.echo(f"already finished, nothing was run: {out}")


@main.command()
@click.argument("recipe", default="resnet_digits")
@_run_options
def search(recipe: str, model: str | None, data: str | None, seed: int, out: Path | None, resume: bool,
           settings: tuple[str, ...], device: str, wandb: Mode, quiet: bool) -> None:  # fmt: skip
    """Search an activation. RECIPE is a file or the name of one that ships (default: resnet_digits, embedded data).

    \b
    Example: CIFAR-10 shards, the paper's settings, the third search seed
      grafs-timm search resnet_cifar10 --data path/to/cifar10 --seed 2 --out runs/c10_s2
    The same on the four GPUs of a machine, together
      torchrun --nproc_per_node 4 -m grafs_timm search resnet_cifar10 --data path/to/cifar10 --seed 2 --out runs/c10_s2
    """
    from .parallel import is_main
    from .run_search import run_search

    chosen, device = _prepare(recipe, model, data, settings, device)
    out = out or Path("runs") / f"search_{Path(recipe).stem}_s{seed}"
    finished = (out / "summary.json").exists()
    summary = run_search(chosen, out, seed=seed, device=device, resume=resume, wandb=wandb, quiet=quiet)
    if not is_main():
        return
    _say_if(finished, out)
    click.echo(f"found     f(x) = {summary['formula']}")
    if summary["known_as"]:
        click.echo(f"          up to scales that neighbouring layers absorb, this is {summary['known_as']}")
    if summary["keeps_bound"]:
        click.echo("          its shape leans on the limits of the search (saturation at ±10), which stay a part of it")
    click.echo(f"accuracy  {summary['held_out_accuracy']:.2f} % on the architecture split, by the network of the search itself")
    skipped = f"{summary['skipped_inner']} weights, {summary['skipped_outer']} architecture"
    click.echo(f"time      {summary['seconds']:.0f} s    skipped steps: {skipped}")
    click.echo(f"files     {out}/genotype.json, {out}/plots/function.png, {out}/plots/shrinking.png")
    click.echo(f"next      grafs-timm evaluate {recipe} --activation {out}/genotype.json")


@main.command()
@click.argument("recipe", default="resnet_digits")
@click.option("--activation", required=True, help="A zoo or timm name (grafs_resnet, relu), or a genotype.json.")
@_run_options
def evaluate(recipe: str, activation: str, model: str | None, data: str | None, seed: int, out: Path | None, resume: bool,
             settings: tuple[str, ...], device: str, wandb: Mode, quiet: bool) -> None:  # fmt: skip
    """Train the recipe's model with one activation, from scratch or evaluate.start_from, and test it.

    \b
    Example: the same budget for a found function and for ReLU
      grafs-timm evaluate resnet_digits --activation runs/search_resnet_digits_s0/genotype.json
      grafs-timm evaluate resnet_digits --activation relu
    Fine-tuning: the weights that ReLU was trained with, trained again with a found function
      grafs-timm evaluate resnet_digits --activation grafs_resnet --set evaluate.epochs=5
        --set evaluate.start_from=runs/evaluate_resnet_digits_relu_s0/weights --out runs/finetuned
    """
    from .training import run_evaluate
    from .zoo import resolve

    chosen, device = _prepare(recipe, model, data, settings, device)
    found = resolve(activation)
    label = f"{found.name}_{found.sha256[:8]}" if found.sha256 else found.name
    out = out or Path("runs") / f"evaluate_{Path(recipe).stem}_{label}_s{seed}"
    finished = (out / "summary.json").exists()
    summary = run_evaluate(chosen, found, out, seed=seed, device=device, resume=resume, wandb=wandb, quiet=quiet)
    _say_if(finished, out)
    click.echo(f"f(x) = {summary['formula']}: {summary['report']}")
    split = summary.get("measured_on", "test")
    result = f"{split} accuracy {summary[f'{split}_accuracy']:.2f} %, loss {float(summary[f'{split}_loss']):.4f}"
    click.echo(f"{result} after {summary['epochs']} epochs  ({out})")


@main.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", metavar="ARGS...", nargs=-1, type=click.UNPROCESSED)
def execute(script: Path, arguments: tuple[str, ...]) -> None:
    """Run a Python script, such as timm's train.py, that may then name the zoo's activations. ARGS are the script's own.

    \b
    Example: timm's scripts, from its repository
      grafs-timm exec train.py --data-dir path/to/images --model resnet50 --model-kwargs act_layer=grafs_resnet
      torchrun --nproc_per_node 4 -m grafs_timm exec train.py ...
    """
    from .run_script import run_script

    run_script(script, arguments)


@main.group()
def zoo() -> None:
    """Look at the activations that load by name.

    \b
    Example: grafs-timm zoo list
    """


@zoo.command("list")
@click.argument("pattern", default="*")
def zoo_list(pattern: str) -> None:
    """Names, formulas and what was measured. PATTERN as in a shell: 'grafs_vit*'.

    \b
    Example: grafs-timm zoo list 'grafs_resnet*'
    """
    from . import zoo as shelf

    for name in shelf.list_activations(pattern):
        entry = shelf.get_activation(name)
        alias = f"-> {entry.name}" if name != entry.name else ""
        click.echo(f"{name:28s} {alias or entry.formula}")


@zoo.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The entry's genotype with all derived fields, as JSON.")
def zoo_show(name: str, as_json: bool) -> None:
    """An activation's formula and evidence. NAME: a zoo name or a genotype.json.

    \b
    Example: grafs-timm zoo show grafs_resnet
    """
    from . import zoo as shelf

    found = shelf.resolve(name)
    if found.genotype is None:
        raise GrafsError(f"{name} is timm's own activation, not one of the zoo")
    if as_json:
        click.echo(json.dumps(found.genotype.to_dict(derived=True), indent=1, ensure_ascii=False))
        return
    click.echo(f"{found.name}\n  f(x)    {found.genotype.text}\n  LaTeX   {found.genotype.latex}\n  sha256  {found.sha256}")
    if found.genotype.bound is not None:
        click.echo(f"  bound   growing operations saturate at ±{found.genotype.bound:g}")
    if found.name in shelf.names():
        entry = shelf.get_activation(found.name)
        for key, value in entry.provenance.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            click.echo(f"  {key.replace('_', ' ')}: {shown}")
        for row in entry.metrics:
            spread = f" ± {row['sd']:.2f}" if row["n"] > 1 else ""  # one run has no spread
            result = f"{row['mean']:.2f}{spread} % (n = {row['n']})"
            click.echo(f"  {row['model']} on {row['data']}, {row['activation']}: {result}")
        click.echo(f'  use     timm.create_model(..., act_layer="{found.name}")   after   import grafs_timm')


@zoo.command("plot")
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("activations.png"),
    show_default=True,
    help="PNG, PDF or SVG file.",
)
def zoo_plot(names: tuple[str, ...], out: Path) -> None:
    """Draw activations and their slopes beside ReLU, GELU and SiLU.

    \b
    Example: grafs-timm zoo plot grafs_resnet runs/c10_s2/genotype.json --out mine.png
    """
    from . import plots
    from . import zoo as shelf

    drawn = {}
    for name in names:
        found = shelf.resolve(name)
        drawn[name] = found.genotype or found.layer()
    click.echo(f"drawn: {plots.plot_functions(drawn, out)}")


@main.command()
@click.argument("pattern", default="*")
@click.option("--measure", is_flag=True, help="Examine the installed timm instead of reading the table that ships.")
def models(pattern: str, measure: bool) -> None:
    """How each timm architecture takes an activation. PATTERN as in a shell: 'convnext*'.

    \b
    act_layer    what timm's own act_layer= reaches, given a class: all, more, part, ignored, refused
    by_name      the same, given a zoo name
    replaced     places that grafs_timm.create_model fills
    main_left    a block's own activations that stay;  others_left: gates and side networks, which stay by rule

    \b
    Example: grafs-timm models 'swin*'
    """
    import timm

    from . import support

    if measure:
        names = timm.list_models(pattern)
        if not names:
            raise GrafsError(f"timm has no architecture {pattern!r}")
        rows = [support.examine(name) for name in names]
    else:
        rows = support.table(pattern)
        if support.timm_version() != timm.__version__:
            click.echo(
                f"the table is of timm {support.timm_version()}, here is {timm.__version__}: --measure looks again", err=True
            )
    click.echo(support.as_text(rows))


@main.command()
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
@click.option("--workers", type=click.IntRange(1), help="Jobs at once on each device.  [default: 1]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda (each GPU), cuda:0,cuda:2, or auto.")
@click.option("--launcher", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where jobs run.")
@click.option("--address", help="Address of the Ray cluster.  [default: the one this machine is part of]")
@click.option("--gpus-per-job", type=click.FloatRange(0), help="Of a Ray job, such as 0.25.  [default: 1; 0 with --device cpu]")
@click.option("--retries", type=click.IntRange(0), default=1, show_default=True, help="Goes on so often after a crash or kill.")
@click.option("--print-jobs", is_flag=True, help="Print one command a line for what is left, and run none.")
@click.option("--dry-run", is_flag=True, help="Show the jobs and an estimate of the time, and write nothing.")
@click.option("--wandb", type=click.Choice(["disabled", "offline", "online"]), default="disabled", show_default=True,
              help="Mirror each job's log in Weights & Biases, in one group.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress bar.")
def transfer(recipe: str, activations: tuple[str, ...], baselines: tuple[str, ...], random: int | None, models: tuple[str, ...],
             datasets: tuple[str, ...], seeds: int | None, out: Path | None, settings: tuple[str, ...], device: str,
             on_bad_shard: str | None, workers: int | None, launcher: Literal["local", "ray"], address: str | None,
             gpus_per_job: float | None, retries: int, print_jobs: bool, dry_run: bool, wandb: Mode,
             quiet: bool) -> None:  # fmt: skip
    """Train every activation on every model and data set with every seed, and report on all. Options replace RECIPE's lists.

    Stop it and call it again: what is done is kept, what is half done goes on. More of anything extends the matrix.

    \b
    Example: a batch of searches beside the usual activations and five random cells, two jobs at once
      grafs-timm transfer resnet_cifar10 --activation runs/batch --random 5 --model cifar_resnet20 --model cifar_resnet32
        --data cifar10 --data fashion-mnist --seeds 3 --workers 2 --out runs/matrix
    """
    from . import launch
    from . import transfer as matrix
    from .recipe import load_recipe

    lists = {"activations": activations, "baselines": baselines, "models": models, "data": datasets}
    changes = [*settings, *(f"transfer.{key}={json.dumps(value)}" for key, value in lists.items() if value)]
    changes += [f"transfer.{key}={value}" for key, value in (("random", random), ("seeds", seeds)) if value is not None]
    chosen = load_recipe(recipe, changes)
    chosen = matrix.with_bad_shards(chosen, on_bad_shard) if on_bad_shard else chosen
    out = out or Path("runs") / f"transfer_{Path(recipe).stem}"
    if dry_run:
        devices = launch.devices(device if launcher == "local" else "auto")
        click.echo(matrix.dry_run(chosen, out, workers=(workers or 1) * len(devices), device=devices[0]))
        return
    elsewhere = print_jobs or launcher == "ray"
    devices = (device,) if elsewhere else launch.devices(device)
    options = ["--device", device if elsewhere else devices[0].partition(":")[0]]  # a job sees no GPU but its own
    if wandb != "disabled":
        grouped = any("--wandb-group" in option.opts for option in evaluate.params)
        options += ["--wandb", wandb, *(["--wandb-group", out.resolve().name] if grouped else [])]
    if print_jobs:
        for line in matrix.print_jobs(chosen, out, options):
            click.echo(line)
        return
    try:
        result = matrix.run_transfer(
            chosen, out, options=options, launcher=launcher, workers=workers, devices=devices, address=address,
            gpus_per_job=gpus_per_job, retries=retries, quiet=quiet,
        )  # fmt: skip
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        raise
    for outcome in result.failed:
        click.echo(f"failed: {outcome.job.name} ({outcome.job.output})\n  " + outcome.message.replace("\n", "\n  "), err=True)
    counts = ", ".join(f"{result.count(state)} {state}" for state in ("done", "skipped", "failed"))
    click.echo(f"{counts}    report: {out / result.report.name if result.report else 'none, as no job is done'}")
    if result.failed:
        sys.exit(1)
