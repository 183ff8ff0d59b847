"""Commands that show activations and architectures, and run scripts with the zoo's names: zoo, models, exec."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

import click

from ..errors import GrafsError
from .options import FOLDER, PATH, Command, Group, section


@click.group(cls=Group)
def zoo() -> None:
    """List, show, plot and verify the activations that load by name.

    \b
    Example:
      grafs-timm zoo list
    """


@zoo.command("list")
@click.argument("pattern", default="*")
@click.option("--published", is_flag=True, help="List published functions instead.")
def zoo_list(pattern: str, published: bool) -> None:
    """List names and formulas.

    PATTERN is a shell pattern.

    \b
    Examples:
      grafs-timm zoo list 'grafs_resnet*'
      grafs-timm zoo list --published '*elu*'
    """
    if published:
        _list_published(pattern)
        return
    from ..zoo import lookup as shelf

    for name in shelf.list_activations(pattern):
        entry = shelf.get_activation(name)
        what = f"-> {entry.name}" if name != entry.name else entry.formula
        click.echo(f"{name:28s} {what}" + (f"   ({entry.notice})" if entry.notice else ""))


def _list_published(pattern: str) -> None:
    from ..activations import published
    from ..zoo.lookup import is_stock

    for name in fnmatch.filter(published.list_published(), pattern.lower()):
        theirs = "   (timm's own is used)" if is_stock(name) else ""
        click.echo(f"{name:28s} {published.get_published(name).text}   {published.source(name)}{theirs}")


@zoo.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the genotype with all derived fields as JSON.")
def zoo_show(name: str, as_json: bool) -> None:
    """Show the formula and the evidence of an activation.

    NAME is a zoo name, a published function's or a genotype.json.

    \b
    Example:
      grafs-timm zoo show grafs_resnet
    """
    from ..activations.published import is_known
    from ..zoo import lookup as shelf

    found = shelf.resolve(name)
    if is_known(name):
        from .show import published_lines

        for line in published_lines(name):
            click.echo(line)
        return
    if found.genotype is None:
        raise GrafsError(f"{name} is timm's own activation, neither one of the zoo nor a published one")
    if as_json:
        click.echo(json.dumps(found.genotype.to_dict(derived=True), indent=1))
        return
    more: list[str] = []
    if found.name in shelf.names():
        from .show import lines

        use = f'use     timm.create_model(..., act_layer="{found.name}")   after   import grafs_timm'
        more = [*lines(shelf.get_activation(found.name).contents), use]
    click.echo(f"{found.name}\n  f(x)    {found.genotype.text}\n  LaTeX   {found.genotype.latex}\n  sha256  {found.sha256}")
    if found.genotype.bound is not None:
        click.echo(f"  bound   growing operations saturate at ±{found.genotype.bound:g}")
    for line in more:
        click.echo(f"  {line}".rstrip())


@zoo.command("plot")
@click.argument("names", nargs=-1, required=True)
@click.option("--out", type=PATH, default=Path("activations.png"), show_default=True, help="PNG, PDF or SVG file.")
def zoo_plot(names: tuple[str, ...], out: Path) -> None:
    """Plot activations and their slopes beside ReLU, GELU and SiLU.

    NAMES are names of activations or genotype.json files.

    \b
    Example:
      grafs-timm zoo plot grafs_resnet runs/c10_s2/genotype.json --out mine.png
    """
    from ..activations import plots
    from ..zoo import lookup as shelf

    drawn = {}
    for name in names:
        found = shelf.resolve(name)
        drawn[name] = found.genotype or getattr(found.module, "function", None) or found.layer()
    click.echo(f"drawn: {plots.plot_functions(drawn, out)}")


@zoo.command("verify")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--zoo", "folder", type=FOLDER, help="Folder of the zoo.  [default: the one in use]")
@section(
    "Repeat a training",
    click.option("--retrain", is_flag=True, help="Repeat one training of each NAME, and compare."),
    click.option("--record", is_flag=True, help="Write the result into the entry."),
    click.option("--seed", type=click.IntRange(0), help="Training seed.  [default: the lowest]"),
    click.option("--data", help="Data, as the other commands take it."),
    click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ..., or auto."),
)
def zoo_verify(
    names: tuple[str, ...], folder: Path | None, retrain: bool, record: bool, seed: int | None, data: str | None, device: str
) -> None:
    """Recompute every number of the zoo's entries from their evidence, and compare.

    \b
    Examples:
      grafs-timm zoo verify grafs_resnet
      grafs-timm zoo verify grafs_resnet --retrain --data path/to/cifar10
    """
    from ..utils import resources
    from ..zoo import lookup as shelf

    place = folder or resources.folder("zoo")
    if folder is None:
        names = tuple(shelf.get_activation(name).name for name in names)
    if retrain:
        _retrain(place, names, record, seed, data, device)
        return
    if record or data or seed is not None:
        raise click.UsageError("--record, --seed and --data go with --retrain")
    from ..publishing.verify import verify

    checked = verify(place, names)
    for each in checked:
        click.echo(str(each))
    if not all(each.ok for each in checked):
        raise click.exceptions.Exit(1)


def _retrain(folder: Path, names: tuple[str, ...], record: bool, seed: int | None, data: str | None, device: str) -> None:
    from ..jobs import launch
    from ..publishing.retrain import retrain

    if not names:
        raise click.UsageError("--retrain needs the NAME of an entry: it trains as long as the entry's recipe says")
    for name in names:
        again = retrain(folder, name, seed=seed, data=data, device=launch.devices(device)[0], record=record)
        click.echo(str(again))


@click.command(cls=Command)
@click.argument("pattern", default="*")
@click.option("--measure", is_flag=True, help="Examine the installed timm instead of reading the package's table.")
def models(pattern: str, measure: bool) -> None:
    """Show how each timm architecture takes an activation.

    PATTERN is a shell pattern. The columns:

    \b
    act_layer    what timm's own act_layer= reaches, given a class: all, more, part, ignored, refused
    by_name      the same, given a zoo name
    replaced     number of activations that grafs_timm.create_model replaces
    main_left    a block's own activations that are not replaced
    others_left  gates and activations of side networks, which are not replaced by default

    \b
    Example:
      grafs-timm models 'swin*'
    """
    import timm

    from ..models import support

    if measure:
        names = timm.list_models(pattern)
        if not names:
            raise GrafsError(f"timm has no architecture {pattern!r}")
        rows = [support.examine(name) for name in names]
    else:
        rows = support.table(pattern)
        if support.timm_version() != timm.__version__:
            own = f"the table is for timm {support.timm_version()}, installed is {timm.__version__}"
            click.echo(f"{own}: --measure examines the installed one", err=True)
    click.echo(support.as_text(rows))


@click.command("exec", cls=Command, context_settings={"allow_interspersed_args": False})
@click.argument("script", type=PATH)
@click.argument("arguments", metavar="ARGS...", nargs=-1, type=click.UNPROCESSED)
def execute(script: Path, arguments: tuple[str, ...]) -> None:
    """Run a Python script, such as timm's train.py, with the zoo's names known to timm.

    ARGS are the script's own.

    \b
    Examples:
      grafs-timm exec train.py --data-dir path/to/images --model resnet50 --model-kwargs act_layer=grafs_resnet
      torchrun --nproc_per_node 4 -m grafs_timm exec train.py --data-dir path/to/images --model resnet50
    """
    from .script import run_script

    run_script(script, arguments)
