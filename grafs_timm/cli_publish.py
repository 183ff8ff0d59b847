"""The command that makes zoo entries of campaigns, and folders for the hub of entries."""

from __future__ import annotations

from pathlib import Path

import click

from .cli_hub import hub_options, write

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("what", metavar="CAMPAIGN|NAME|FILE")
@click.option("--hardware", help="What the campaign ran on, such as 'one NVIDIA H100'.")
@click.option("--commit", help="The commit of the code that ran it.")
@click.option("--name", help="Of a new entry.  [default: grafs_<family>_<data>_s<seed>]")
@click.option("--search", "label", help="The search to publish, such as searches_s3.  [default: the best of the choice]")
@click.option("--recommend", is_flag=True, help="Make it the family's recommended one, grafs_<family>.")
@click.option("--zoo", type=_FOLDER, help="The zoo's folder.  [default: that of this checkout]")
@hub_options
def publish(
    what: str, hardware: str | None, commit: str | None, name: str | None, label: str | None, recommend: bool, zoo: Path | None,
    hub_dir: Path | None, model: str | None, weights: Path | None, model_args: tuple[str, ...],
) -> None:  # fmt: skip
    """Make a zoo entry of CAMPAIGN, a family's folder that tools/fill_zoo.py has filled.

    Writes the entry, its card, plots and evidence, the leaderboard and the gallery. Refused where searches, baselines, random
    cells or seeds are missing. With --hub-dir a zoo NAME, or the FILE of an entry, becomes a folder in the layout of the
    Hugging Face hub, which timm loads as local-dir:DIR.

    \b
    Example: grafs-timm publish runs/zoo/resnet --hardware 'one NVIDIA H100' --commit 1a2b3c4
             grafs-timm publish grafs_resnet --hub-dir mine --weights runs/mine/weights
    """
    of_campaigns = {"hardware": hardware, "commit": commit, "name": name, "search": label, "zoo": zoo}
    of_the_hub = {"model": model, "weights": weights, "model-arg": model_args}
    odd = [key for key, value in (of_campaigns if hub_dir else of_the_hub).items() if value]
    if odd:
        raise click.UsageError(f"--{odd[0]} goes {'without' if hub_dir else 'with'} --hub-dir")
    if hub_dir:
        write(what, hub_dir, model=model, weights=weights, model_args=model_args)
        return
    if not (hardware and commit):
        raise click.UsageError(f"--{'commit' if hardware else 'hardware'} is needed: no log of the campaign tells it")
    from . import publish as publishing
    from . import resources

    done = publishing.publish(
        what, zoo or resources.folder("zoo"), hardware=hardware, commit=commit, name=name, label=label, recommend=recommend
    )
    for line in done.said:
        click.echo(line)
    click.echo(f"{done.path}: f(x) = {done.entry.genotype['formula']}")
