"""The command that examines the installation."""

from __future__ import annotations

import json

import click

from . import options


@click.command(cls=options.Command)
@click.option("--data", help="Data to look up too, as the other commands take it.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def doctor(data: str | None, as_json: bool) -> None:
    """Examine the installation: versions, processor, compiler, GPU, folders, W&B, data and zoo.

    Each problem comes with its cure, a command or a setting. Takes seconds; compiles, downloads and sends nothing. The exit
    code is 1 only if the package cannot be used.

    \b
    Examples:
      grafs-timm doctor
      # does a name lead to data, and where
      grafs-timm doctor --data cifar10
      # for a program, or a report of a problem
      grafs-timm doctor --json > doctor.json
    """
    from ..runs.doctor import diagnose

    found = diagnose(data)
    click.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if as_json else "\n".join(found.lines()))
    if not found.works:
        raise click.exceptions.Exit(1)
