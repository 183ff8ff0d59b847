"""Writing a folder for the hub from the command line: the options, and what they do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import GrafsError

F = TypeVar("F", bound=Callable[..., Any])


def hub_options(command: F) -> F:
    """``--hub-dir``, ``--model``, ``--weights`` and ``--model-arg``, which `write` takes by the same names."""
    for option in (
        click.option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", help="Of timm's model. Repeatable."),
        click.option("--weights", type=click.Path(path_type=Path), help="A folder of save_pretrained, or a .safetensors file."),
        click.option("--model", help="A timm architecture (default: the one that the function was searched on)."),
        click.option("--hub-dir", type=click.Path(path_type=Path, file_okay=False), help="A new folder, in the hub's layout."),
    ):
        command = option(command)
    return command


def write(
    activation: str, hub_dir: Path, model: str | None = None, weights: Path | None = None, model_args: tuple[str, ...] = ()
) -> None:
    """Write the folder and say what it is for."""
    from ..publishing import hub

    folder = hub.publish(activation, hub_dir, model=model, weights=weights, model_args=parsed(model_args))
    click.echo(
        f"written: {folder} ({', '.join(sorted(path.name for path in folder.iterdir()))}); its README.md says how to load it"
    )


def parsed(pairs: tuple[str, ...]) -> Mapping[str, Any]:
    """``key=value`` -> a number, true, false, null or list where the value is one in JSON, else its text."""
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
