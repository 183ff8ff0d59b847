"""The command that makes zoo entries of ledgers, and folders for the hub of entries."""

from __future__ import annotations

from pathlib import Path

import click

from .hub import hub_options, write


@click.command()
@click.argument("what", metavar="LEDGER|NAME|FILE")
@click.option("--name", help="Of a new entry.  [default: grafs_<family>_<data>_<budget>_s<seed>]")
@click.option("--search", "label", help="The search to publish, such as searches_s3.  [default: the best on held-out data]")
@click.option("--alias", is_flag=True, help="Make it what grafs_<family> loads.")
@hub_options
def publish(
    what: str, name: str | None, label: str | None, alias: bool,
    hub_dir: Path | None, model: str | None, weights: Path | None, model_args: tuple[str, ...],
) -> None:  # fmt: skip
    """Bring the zoo up to LEDGER, a campaign's folder zoo/<family>/evidence/<campaign>.

    Writes entries, cards, plots, the leaderboard and the gallery. Entries whose functions were trained there get the figures; a
    new entry is refused where searches, baselines, random cells or seeds are missing. With --hub-dir a zoo NAME, or the FILE of
    an entry, becomes a folder in the layout of the Hugging Face hub, which timm loads as local-dir:DIR.

    \b
    Example: grafs-timm publish zoo/resnet/evidence/cifar10_standard
             grafs-timm publish grafs_resnet --hub-dir mine --weights runs/mine/weights
    """
    of_campaigns = {"name": name, "search": label, "alias": alias}
    of_the_hub = {"model": model, "weights": weights, "model-arg": model_args}
    odd = [key for key, value in (of_campaigns if hub_dir else of_the_hub).items() if value]
    if odd:
        raise click.UsageError(f"--{odd[0]} goes {'without' if hub_dir else 'with'} --hub-dir")
    if hub_dir:
        write(what, hub_dir, model=model, weights=weights, model_args=model_args)
        return
    from ..publishing import publish as publishing

    done = publishing.publish(what, name=name, label=label, alias=alias)
    for line in done.said:
        click.echo(line)
    for entry in done.entries:
        click.echo(f"{entry.name}: f(x) = {entry.genotype['formula']}")
