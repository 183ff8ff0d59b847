"""Run the searches, the choice and the transfer matrix that zoo entries are published from, a slice of time at a time.

    python tools/fill_zoo.py runs/zoo --minutes 9             the next nine minutes of it
    python tools/fill_zoo.py runs/zoo --plan                  what is left, and an estimate; nothing runs

Each family has OUT/<family>/selection (five searches and a choice among them, on images held out of the training split) and
OUT/<family>/matrix: baselines, random cells and the chosen function on two models and three data sets (of text: two models and
two texts, with a GPU three and one), all other searches at the search's own place. With a GPU the recipes run in full, else
reduced to what a CPU can do. OUT holds all state: copied to another machine the next slice goes on there. At the end of a slice
it is brought below --megabytes: weights and checkpoints of finished runs go, then those of the unfinished runs that would lose
least.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from grafs_timm import estimate, formula, launch, publishable, selection, transfer
from grafs_timm.errors import GrafsError
from grafs_timm.files import locked
from grafs_timm.matrix import Cell, Matrix
from grafs_timm.recipe import load_recipe
from grafs_timm.report import read_results
from grafs_timm.selection import run_selection
from grafs_timm.settings import Recipe

SEARCHES = 5
_EVERYWHERE = "transfer.data=[cifar10, cifar100, fashion-mnist]"
FULL = {
    "resnet": ("resnet_cifar10", ["transfer.models=[cifar_resnet20, cifar_resnet32]"]),
    "vit": ("vit_cifar10", ["transfer.models=[cifar_vit_tiny, cifar_vit_small]"]),
    "mlp_mixer": ("mlp_mixer_cifar10", []),
    "gpt": ("gpt_tinystories", []),
}
REDUCED = {family: f"{stem}_reduced" for family, (stem, _) in FULL.items()}
_HELD_OUT = {"full": 5000, "reduced": 2500}  # images of the training split to choose by


class SliceOver(BaseException):
    """The slice's time is spent; raised wherever the program is."""


@dataclass(frozen=True)
class Family:
    name: str
    folder: Path
    recipe: Recipe
    held_out: int
    seeds: int | None = None  # training seeds of the matrix, where not the recipe's

    @property
    def selection(self) -> Path:
        return self.folder / "selection"

    @property
    def matrix(self) -> Path:
        return self.folder / "matrix"

    @property
    def done(self) -> bool:
        if not (self.selection / "summary.json").exists():
            return False
        matrix = self.planned()
        return (self.matrix / "results.csv").exists() and all(
            (matrix.job_folder(cell) / "summary.json").exists() for cell in matrix.wanted
        )

    def choosing(self) -> Recipe:
        """The recipe of searches and choice: some training images are held out for it, on top of those trained on."""
        data, held = self.recipe.data, self.held_out
        if data.text:
            return selection.held_out(self.recipe)
        return self.recipe.model_copy(update={"data": data.model_copy(update={"validation_images": held})})

    def planned(self) -> Matrix:
        """The matrix once the choice is made: all searches at their own place, the chosen one everywhere."""
        changes = {"activations": (str(self.selection / "searches"),), "seeds": self.seeds or self.recipe.transfer.seeds}
        asked = self.recipe.transfer.model_copy(update=changes)
        matrix = Matrix.plan(self.recipe.model_copy(update={"transfer": asked}), self.matrix)
        best = chosen(self)

        def wanted(cell: Cell) -> bool:
            home = matrix.models[cell.model] == self.recipe.model and matrix.data[cell.data].name == self.recipe.data.name
            return home or matrix.activations[cell.activation].kind != "found" or cell.activation == best

        return replace(matrix, wanted=tuple(filter(wanted, matrix.wanted)))


def chosen(family: Family) -> str:
    """The label of the search that goes everywhere. RunError where every search ended in a usual activation."""
    folder = family.selection
    files = sorted(folder.glob("searches/s*/genotype.json"))
    searches = {publishable.label_of(int(file.parent.name[1:])): formula.load(file) for file in files}
    return publishable.best_of(searches, read_results(folder / "trainings.csv"), family.recipe)


def families(out: Path, names: Sequence[str], budget: str, seeds: int | None = None) -> list[Family]:
    known, found = FULL if budget == "full" else REDUCED, []
    for name in names or known:
        if name not in known:
            raise GrafsError(f"no {budget} recipe for family {name!r}; there are: {', '.join(known)}")
        if budget == "full":
            stem, changes = FULL[name]
            of_images = [] if name == "gpt" else [_EVERYWHERE, "channels_last=true"]
            recipe = load_recipe(stem, [*changes, *of_images, "amp=bf16"])
        else:
            recipe = load_recipe(REDUCED[name])
        found.append(Family(name, out / name, recipe, _HELD_OUT[budget], seeds))
    return found


def work(family: Family, options: Sequence[str], where: dict[str, Any]) -> None:
    """All that is left of one family; done parts are only read."""
    click.echo(f"{family.name}: {family.recipe.model}, {SEARCHES} searches and a choice among them")
    summary = run_selection(family.choosing(), family.selection, SEARCHES, options=options, **where)
    click.echo(f"{family.name}: {summary['why']}\n{family.name}: {chosen(family)} goes into the matrix")
    with locked(family.matrix):
        matrix = family.planned()
        matrix.write()
        outcomes = launch.run_jobs(transfer.jobs(matrix, options), **where)
        transfer.write_report(matrix, outcomes)
    for outcome in outcomes:
        if outcome.state == "failed":
            click.echo(f"failed: {outcome.job.name}: {outcome.message}", err=True)


def left(family: Family) -> tuple[str, float | None]:
    """What is left of a family in words, and an estimate of its seconds on one worker; None where nothing was timed yet."""
    searches = [family.selection / "searches" / f"s{seed}" for seed in range(SEARCHES)]
    trainings = [log.parent for log in family.folder.glob("**/log.jsonl") if "searches" not in log.parts]
    parts = {
        "searches": (searches, SEARCHES * family.recipe.search.epochs),
        "trainings": (
            trainings,
            0 if family.done else _choice_epochs(family.recipe) + _matrix_epochs(family.recipe, family.seeds),
        ),
    }
    words, seconds = [], 0.0
    for what, (folders, of_all) in parts.items():
        epochs = of_all - sum(map(estimate.epochs_done, folders))
        if epochs > 0:
            words.append(f"{epochs} epochs of {what}")
            seconds += epochs * (estimate.epoch_seconds(folders) or math.nan)
    return ", at most ".join(words) or ("nothing" if family.done else "the report"), None if math.isnan(seconds) else seconds


def _choice_epochs(recipe: Recipe) -> int:
    """Of the trainings of a choice among as many functions as there are searches; same functions make it shorter."""
    select, of_all, epochs, field = recipe.select, recipe.evaluate.epochs, 0, 2 * SEARCHES
    while field > select.keep:
        epochs += (field + 1) * select.seeds * (select.epochs or max(of_all // 4, 1))
        field = max(field // 2, select.keep)
    return epochs + (field + 1) * select.final_seeds * (select.final_epochs or of_all)


def _matrix_epochs(recipe: Recipe, seeds: int | None) -> int:
    asked = recipe.transfer
    everywhere = (len(asked.baselines) + asked.random + 1) * len(asked.models) * len(asked.data)
    return (everywhere + SEARCHES - 1) * (seeds or asked.seeds) * recipe.evaluate.epochs


def tidy(out: Path, megabytes: float) -> list[str]:
    """Remove what no later slice needs, then checkpoints until ``out`` is below the limit; returns what was lost."""
    for summary in out.glob("**/summary.json"):
        if (summary.parent / "run.json").exists():
            (summary.parent / "checkpoint.pt").unlink(missing_ok=True)
            shutil.rmtree(summary.parent / "weights", ignore_errors=True)
            shutil.rmtree(summary.parent / "plots", ignore_errors=True)
    lost = []
    halves = sorted(out.glob("**/checkpoint.pt"), key=lambda file: estimate.epochs_done(file.parent))
    for file in halves:
        if size(out) <= megabytes:
            break
        lost.append(f"{file.parent.relative_to(out)} begins anew: {estimate.epochs_done(file.parent)} epochs lost")
        shutil.rmtree(file.parent)
    return lost


def size(out: Path) -> float:
    """Megabytes of all files."""
    return sum(file.stat().st_size for file in out.glob("**/*") if file.is_file()) / 2**20


@contextlib.contextmanager
def slice_of(minutes: float | None) -> Iterator[None]:
    """SliceOver in the block when the time is spent; SIGTERM and Ctrl-C end it as well, all running jobs with it."""

    def over(*_: Any) -> None:
        raise SliceOver

    before = {number: signal.signal(number, over) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)}
    if minutes:
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    except SliceOver:
        click.echo("the slice is over; what was running goes on from its last checkpoint")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--family", "names", multiple=True, help="Only these, in this order.")
@click.option("--budget", type=click.Choice(["auto", "full", "reduced"]), default="auto", help="auto: full with a GPU.")
@click.option("--seeds", type=click.IntRange(1), help="Training seeds of each cell.  [default: the recipe's]")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Stop after so long.  [default: when all is done]")
@click.option("--workers", type=click.IntRange(1), help="Jobs at once on each device.  [default: 2 on CPU, 6 on a GPU]")
@click.option("--device", default="auto", help="As the commands of grafs-timm take it.")
@click.option("--megabytes", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True, help="Limit of OUT.")
@click.option("--plan", is_flag=True, help="Say what is left and run nothing.")
def main(
    out: Path, names: tuple[str, ...], budget: str, seeds: int | None, minutes: float | None, workers: int | None,
    device: str, megabytes: float, plan: bool,
) -> None:  # fmt: skip
    """Fill OUT with the runs that zoo entries are published from."""
    try:
        devices = launch.devices(device)
        cuda = devices[0] != "cpu"
        budget = budget if budget != "auto" else "full" if cuda else "reduced"
        found, workers = families(out.absolute(), names, budget, seeds), workers or (6 if cuda else 2)
        options = ("--device", "cuda" if cuda else "cpu", "--wandb", "disabled")
        where = {"workers": workers, "devices": devices, "warm": True}
        if not plan:
            with slice_of(minutes):
                for family in found:
                    work(family, options, where)
            for line in tidy(out, megabytes):
                click.echo(line)
        for family in found:
            what, seconds = left(family)
            time = "not timed yet" if seconds is None else transfer.duration(seconds / workers)
            click.echo(json.dumps({"family": family.name, "budget": budget, "left": what, "about": time}, ensure_ascii=False))
        click.echo(f"{out}: {size(out):.1f} MB" if out.exists() else f"{out} is not there yet")
    except GrafsError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
