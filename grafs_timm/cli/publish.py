"""The command that makes zoo entries from ledgers, and folders for the Hugging Face hub from entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import GrafsError
from .options import FOLDER, PATH, Command, section


@click.command(cls=Command)
@click.argument("what", metavar="LEDGER|NAME|FILE")
@section(
    "Zoo entry",
    click.option("--name", help="Name of a new entry.  [default: grafs_FAMILY_DATA_BUDGET_sSEED]"),
    click.option("--search", "label", help="Search to publish: searches_s3.  [default: the best on held-out data]"),
    click.option("--alias", is_flag=True, help="Make it the entry that grafs_FAMILY loads."),
)
@section(
    "Folder for the hub",
    click.option("--hub-dir", type=FOLDER, help="New folder to write, in the hub's layout."),
    click.option("--model", help="timm architecture.  [default: the one of the search]"),
    click.option("--weights", type=PATH, help="A folder of save_pretrained, or a .safetensors file."),
    click.option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", help="Argument of timm's model. Repeatable."),
)
def publish(
    what: str, name: str | None, label: str | None, alias: bool,
    hub_dir: Path | None, model: str | None, weights: Path | None, model_args: tuple[str, ...],
) -> None:  # fmt: skip
    """Make zoo entries from LEDGER, or a folder for the Hugging Face hub from an entry.

    LEDGER is a campaign's folder, zoo/FAMILY/evidence/CAMPAIGN. Entries, cards, plots, the leaderboard and the gallery are
    written. Existing entries get the results of their functions; a new entry is refused if searches, baselines, random cells or
    seeds are missing. With --hub-dir, a zoo NAME or the FILE of an entry becomes a folder that timm loads as local-dir:DIR.

    \b
    Examples:
      grafs-timm publish zoo/resnet/evidence/cifar10_standard
      grafs-timm publish grafs_resnet --hub-dir mine --weights runs/mine/weights
    """
    of_campaigns = {"name": name, "search": label, "alias": alias}
    of_the_hub = {"model": model, "weights": weights, "model-arg": model_args}
    odd = [key for key, value in (of_campaigns if hub_dir else of_the_hub).items() if value]
    if odd:
        raise click.UsageError(f"--{odd[0]} goes {'without' if hub_dir else 'with'} --hub-dir")
    if hub_dir:
        from ..publishing import hub

        folder = hub.publish(what, hub_dir, model=model, weights=weights, model_args=parsed(model_args))
        files = ", ".join(sorted(path.name for path in folder.iterdir()))
        click.echo(f"written: {folder} ({files}); its README.md says how to load it")
        return
    from ..publishing import publish as publishing

    done = publishing.publish(what, name=name, label=label, alias=alias)
    for line in done.said:
        click.echo(line)
    for entry in done.entries:
        click.echo(f"{entry.name}: f(x) = {entry.genotype['formula']}")


def parsed(pairs: tuple[str, ...]) -> Mapping[str, Any]:
    """Read ``key=value`` pairs; a value is JSON (a number, true, false, null, a list) or else text.

    Raises:
        GrafsError: A pair has no value, its key is no identifier, or a key is given twice.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, found, value = pair.partition("=")
        if not found or not key.isidentifier():
            raise GrafsError(f"--model-arg {pair!r}: expected key=value, as num_classes=10")
        if key in arguments:
            raise GrafsError(f"--model-arg {key} is given twice")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments
