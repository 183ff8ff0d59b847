"""The command line: a group, its errors and its commands, each of which imports what it needs when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from ..errors import GrafsError
from ..utils import version
from . import screen
from .campaign import campaign
from .data import data
from .doctor import doctor
from .matrix import transfer
from .open import open_report
from .options import Group
from .publish import publish
from .search import search
from .train import train
from .zoo import execute, models, zoo

_ALIASES = {"evaluate": "train"}
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Given(click.ParamType):
    """Text or a path that is not empty: an unset shell variable is, and must not silently select the default."""

    def __init__(self, kind: click.ParamType) -> None:
        self.kind, self.name = kind, kind.name

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty: give a value, or omit it. Is a variable unset?", parameter, context)
        return self.kind.convert(value, parameter, context)


def _refuse_empty(command: click.Command) -> None:
    """Refuse empty text and empty paths in every parameter of ``command`` and of its subcommands."""
    for parameter in command.params:
        if isinstance(parameter.type, click.types.StringParamType | click.Path):
            parameter.type = _Given(parameter.type)
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _refuse_empty(below)


class _Main(Group):
    """Prints errors of the input as one message without a traceback, exit code 1, and warnings as notes."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        screen.never_die()
        with screen.plain_notes():
            return super().main(*arguments, **settings)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, _ALIASES.get(name, name))

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except GrafsError as error:
            text = f"error: {error}"
            _say_once(lambda: click.secho(text, fg="red", err=True))
            sys.exit(1)
        except UnicodeEncodeError as error:
            if (advice := screen.unnameable(error)) is None:
                raise
            _say_once(lambda: click.secho(f"error: {advice}", fg="red", err=True))
            sys.exit(1)
        except click.ClickException as error:
            _say_once(error.show)
            sys.exit(error.exit_code)


def _say_once(say: Callable[[], None]) -> None:
    """Print once, however many processes of torchrun have met the same error."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        say()  # no process group, and so no need of torch
        return
    from ..utils import parallel

    parallel.first_to_say(say)


@click.group(cls=_Main, context_settings=_CONTEXT)
@click.version_option(version.own())
def main() -> None:
    """Search activation functions by gradient descent and use them in any timm model by name.

    \b
    Examples:
      # search on the embedded digits, seconds on two cores; train with what was found
      grafs-timm search
      grafs-timm train resnet_digits --activation runs/search_resnet_digits_s0/genotype.json
      # show what the zoo has, and compare with it on CIFAR-10
      grafs-timm zoo list
      grafs-timm transfer resnet_cifar10 --activation grafs_resnet --data path/to/cifar10 --dry-run
    """
    from ..jobs.job import end_with_stdin

    end_with_stdin()


for command in (search, train, transfer, open_report, campaign, publish, zoo, models, execute, data, doctor):
    main.add_command(command)
_refuse_empty(main)
