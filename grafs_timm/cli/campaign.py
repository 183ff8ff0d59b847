"""The commands of campaigns: plan, run, status, merge, collect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import ADDRESS, DEVICES, FOLDER, LAUNCHER, QUIET, Group, chosen_launch, section

if TYPE_CHECKING:
    from ..comparison.campaign import Campaign

_BUDGETS = click.Choice(["reduced", "standard", "full"])
_BUDGET = click.option("--budget", type=_BUDGETS, default="standard", show_default=True, help="Budget of the recipe.")
_ZOO = click.option("--zoo", type=FOLDER, help="Folder of the zoo.  [default: that of this checkout]")
_RUNS = click.option("--runs", "root", type=FOLDER, help="Folder of the runs.  [default: runs/campaign/FAMILY_...]")


@click.group(cls=Group)
def campaign() -> None:
    """Fill the ledgers that zoo entries are computed from: searches and trainings of any machine.

    \b
    Example:
      grafs-timm campaign status
    """


def _open(family: str, budget: str, zoo: Path | None) -> Campaign:
    from ..comparison.campaign import Campaign
    from ..utils import resources

    return Campaign.open(family, budget, zoo or resources.folder("zoo"))


@campaign.command()
@click.argument("family")
@_BUDGET
@_ZOO
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Jobs at once, for the estimate.")
@click.option("--device", default="cpu", show_default=True, help="Device to time training steps on.")
def plan(family: str, budget: str, zoo: Path | None, workers: int, device: str) -> None:
    """Show what is left of FAMILY's campaign, by model and data set, with an estimate of the time.

    \b
    Example:
      grafs-timm campaign plan resnet --budget standard
    """
    from ..comparison.campaign_text import plan_text

    click.echo(plan_text(_open(family, budget, zoo), workers, device))


@campaign.command("run")
@click.argument("family")
@section("Campaign", _BUDGET, _ZOO, _RUNS)
@section(
    "Jobs",
    click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Stop after this time.  [default: at the end]"),
    click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Jobs at once on each device."),
    DEVICES,
    LAUNCHER,
    ADDRESS,
    click.option("--print-jobs", is_flag=True, help="Print one command per line for the next block, and run none."),
    QUIET,
)
def run_command(family: str, budget: str, zoo: Path | None, root: Path | None, minutes: float | None, workers: int,
                device: str, launcher: str, address: str | None, print_jobs: bool, quiet: bool) -> None:  # fmt: skip
    """Run what FAMILY's campaign lacks, in blocks: every activation with seed 0, then seed 1, and so on.

    It can be stopped at any time; the same command resumes. Runs in the ledger, of any machine, are not repeated.

    \b
    Examples:
      grafs-timm campaign run resnet --budget standard --minutes 60 --workers 2
      # on SLURM: print the commands of a block; when they have finished, collect their results
      grafs-timm campaign run resnet --print-jobs > jobs.txt
      grafs-timm campaign collect resnet
    """
    from ..comparison import campaign_run

    own = _open(family, budget, zoo)
    root = root or campaign_run.default_runs(own)
    if print_jobs:
        import shlex

        waiting = next((left for stage in own.stages() if (left := own.left(stage))), [])
        for job in campaign_run.launch_jobs(root, waiting, ("--device", device, "--wandb", "disabled")):
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def status(families: tuple[str, ...], zoo: Path | None, as_json: bool) -> None:
    """Show the ledgers: results and number of seeds of every activation, searches, hours by processor.

    \b
    Examples:
      grafs-timm campaign status resnet
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
@click.argument("folder", type=FOLDER)
@click.argument("family")
@_BUDGET
@_ZOO
def merge(folder: Path, family: str, budget: str, zoo: Path | None) -> None:
    """Check the lines of another machine's ledger, FOLDER, and add them to FAMILY's.

    \b
    Example:
      grafs-timm campaign merge other/zoo/resnet/evidence/cifar10_standard resnet --budget standard
    """
    own = _open(family, budget, zoo)
    written = own.merge(folder)
    own.write()
    click.echo(f"{len(written)} lines added to {own.folder}")


@campaign.command()
@click.argument("family")
@_BUDGET
@_ZOO
@_RUNS
def collect(family: str, budget: str, zoo: Path | None, root: Path | None) -> None:
    """Add finished run folders to FAMILY's ledger.

    \b
    Example:
      grafs-timm campaign collect resnet --runs runs/campaign/resnet_cifar10_standard
    """
    from ..comparison import campaign_run

    own = _open(family, budget, zoo)
    found = campaign_run.collect(own, root or campaign_run.default_runs(own))
    click.echo(f"{len(found)} lines added to {own.folder}")
