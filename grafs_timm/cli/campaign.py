"""The commands of campaigns: plan, run, status, merge, collect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import chosen_launch

if TYPE_CHECKING:
    from ..comparison.campaign import Campaign

_FOLDER = click.Path(path_type=Path, file_okay=False)
_BUDGET = click.option(
    "--budget", type=click.Choice(["reduced", "standard", "full"]), default="standard", show_default=True, help="Which recipe."
)
_ZOO = click.option("--zoo", type=_FOLDER, help="The zoo's folder.  [default: that of this checkout]")
_RUNS = click.option("--runs", "root", type=_FOLDER, help="Its run folders.  [default: runs/campaign/FAMILY_...]")


@click.group()
def campaign() -> None:
    """Fill the ledgers that zoo entries rest on: searches and trainings that any machine can add to.

    \b
    Example: grafs-timm campaign status
    """


def _open(family: str, budget: str, zoo: Path | None) -> Campaign:
    from ..comparison.campaign import Campaign
    from ..utils import resources

    return Campaign.open(family, budget, zoo or resources.folder("zoo"))


@campaign.command()
@click.argument("family")
@_BUDGET
@_ZOO
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="To estimate the time with.")
@click.option("--device", default="cpu", show_default=True, help="To time steps on where nothing was timed yet.")
def plan(family: str, budget: str, zoo: Path | None, workers: int, device: str) -> None:
    """Show what is left of FAMILY's campaign, by model and data set, with an estimate of the time. Nothing runs.

    \b
    Example: grafs-timm campaign plan resnet --budget standard
    """
    from ..comparison.campaign_text import plan_text

    click.echo(plan_text(_open(family, budget, zoo), workers, device))


@campaign.command("run")
@click.argument("family")
@_BUDGET
@_ZOO
@_RUNS
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Stop after so long.  [default: when all is done]")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Jobs at once on each device.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda (each GPU), cuda:0,cuda:2, or auto.")
@click.option("--launcher", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where jobs run.")
@click.option("--address", help="Address of the Ray cluster.  [default: the one this machine is part of]")
@click.option("--print-jobs", is_flag=True, help="Print one command a line for the next block, as for SLURM, and run none.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def run_command(family: str, budget: str, zoo: Path | None, root: Path | None, minutes: float | None, workers: int,
                device: str, launcher: str, address: str | None, print_jobs: bool, quiet: bool) -> None:  # fmt: skip
    """Run what FAMILY's campaign lacks, in blocks: every activation with seed 0, then seed 1, and so on.

    Stop it whenever you like; the same command resumes. What the ledger has is not run again, whichever machine made it.

    \b
    Example: grafs-timm campaign run resnet --budget standard --minutes 60 --workers 2
    On SLURM: grafs-timm campaign run resnet --print-jobs > jobs.txt   then, when they ended,   campaign collect resnet
    """
    from ..comparison import campaign_run

    own = _open(family, budget, zoo)
    root = root or campaign_run.default_runs(own)
    if print_jobs:
        options = ("--device", device, "--wandb", "disabled")
        import shlex

        waiting = next((left for stage in own.stages() if (left := own.left(stage))), [])
        for job in campaign_run.launch_jobs(root, waiting, options):
            if not job.done:
                click.echo(shlex.join(job.command))
        return
    launch = chosen_launch(
        device, launcher=launcher, address=address, workers=workers, quiet=quiet, warm=launcher == "local"
    )  # fmt: skip
    options = ("--device", launch.device, "--wandb", "disabled")
    failed = campaign_run.run(own, root, minutes=minutes, options=options, say=click.echo, launch=launch)
    if failed:
        sys.exit(1)


@campaign.command()
@click.argument("families", metavar="[FAMILY]...", nargs=-1)
@_ZOO
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each line.")
def status(families: tuple[str, ...], zoo: Path | None, as_json: bool) -> None:
    """Show what the ledgers hold: figures and number of seeds of every activation, searches, hours by processor.

    \b
    Example: grafs-timm campaign status resnet
             grafs-timm campaign status --json
    """
    from ..comparison.campaign_text import all_campaigns, rows, status_text
    from ..errors import GrafsError
    from ..runs.tracking import without_nan
    from ..utils import resources

    own = all_campaigns(zoo or resources.folder("zoo"), families)
    if as_json:
        for each in own:
            for row in rows(each):
                click.echo(json.dumps(without_nan(row)))
        return
    if not own:
        raise GrafsError("no ledger yet; grafs-timm campaign run FAMILY begins one")
    for each in own:
        click.echo(status_text(each) + "\n")


@campaign.command()
@click.argument("folder", type=_FOLDER)
@click.argument("family")
@_BUDGET
@_ZOO
def merge(folder: Path, family: str, budget: str, zoo: Path | None) -> None:
    """Take the lines of another machine's ledger, FOLDER, into FAMILY's. They are checked first.

    \b
    Example: grafs-timm campaign merge other/zoo/resnet/evidence/cifar10_standard resnet --budget standard
    """
    own = _open(family, budget, zoo)
    written = own.merge(folder)
    own.write()
    click.echo(f"{len(written)} lines taken into {own.folder}")


@campaign.command()
@click.argument("family")
@_BUDGET
@_ZOO
@_RUNS
def collect(family: str, budget: str, zoo: Path | None, root: Path | None) -> None:
    """Write a line into FAMILY's ledger for each finished run folder that it lacks.

    \b
    Example: grafs-timm campaign collect resnet --runs runs/campaign/resnet_cifar10_standard
    """
    from ..comparison import campaign_run

    own = _open(family, budget, zoo)
    found = campaign_run.collect(own, root or campaign_run.default_runs(own))
    click.echo(f"{len(found)} lines added to {own.folder}")
