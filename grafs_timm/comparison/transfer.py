"""Train the matrix: which cells are left, how long they will take, run them, and report on all."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..config import strict_yaml
from ..config.recipe import parse_recipe
from ..config.schema import Recipe
from ..errors import RunError
from ..jobs.job import Job, Outcome
from ..jobs.launch import run_jobs
from ..jobs.options import HERE, Launch
from ..runs.folder import CHECKPOINT, SUMMARY
from ..runs.tracking import DISABLED, RunLog, Wandb
from ..runs.training import dataset_of, measured_on
from ..utils import parallel
from ..utils.files import locked
from ..utils.markdown import duration
from ..zoo.nearest import nearest_known
from . import contenders, estimate, report, report_html
from .matrix import Cell, Matrix
from .results import Place, Result, parse, read_result


@dataclass(frozen=True)
class Transferred:
    """What a call did.

    Args:
        outcomes: of the cells that it was to have trained.
        report: of all cells; None without a result.
        further: what more training seeds would narrow; None where that is nothing.
    """

    outcomes: tuple[Outcome, ...]
    report: Path | None
    further: str | None = None

    def count(self, state: str) -> int:
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state == "failed"]


def run_transfer(
    recipe: Recipe, out: str | Path, *, options: Sequence[str] = (), launch: Launch = HERE, processes: int = 1,
    wandb: Wandb = DISABLED,
) -> Transferred:  # fmt: skip
    """Train every cell of the recipe's ``transfer`` that isn't trained yet, then report on all of them.

    Args:
        recipe: with a ``transfer`` section.
        out: the folder; it is held meanwhile.
        options: further arguments of each ``grafs-timm train``.
        launch: where the trainings run.
        processes: of each training; torchrun starts several.
        wandb: makes the report a W&B run of its own: results as a table, plots, files as artifacts.

    Raises:
        RunError: where another process has the folder, or torchrun started several of this one; as ``Matrix.plan`` before
            anything is written.
    """
    if parallel.launched() > 1:
        raise RunError("transfer starts processes of its own; call it without torchrun")
    with locked(out):
        matrix = Matrix.plan(recipe, out)
        matrix.write()
        outcomes = run_jobs(jobs(matrix, options, processes), launch)
        path = write_report(matrix, outcomes)
        if path and wandb.mode != "disabled":
            _show_report(matrix, path, wandb)
        further = report.further_seeds(results(matrix), matrix.usual()) if path else None
        return Transferred(tuple(outcomes), path, further)


def with_bad_shards(recipe: Recipe, choice: str) -> Recipe:
    """Set ``on_bad_shard`` in every data section; sections that are only a name follow the recipe's own.

    Args:
        recipe: of the matrix.
        choice: the value.
    """
    changed = {"on_bad_shard": choice}
    sections = [each if each.model_fields_set == {"name"} else each.model_copy(update=changed) for each in recipe.transfer.data]
    transfer = recipe.transfer.model_copy(update={"data": tuple(sections)})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changed), "transfer": transfer})


def print_jobs(recipe: Recipe, out: str | Path, options: Sequence[str] = (), processes: int = 1) -> list[str]:
    """Write what the cells need, and return a shell command for each cell that isn't trained. Raises as `run_transfer`.

    Args:
        recipe: with a ``transfer`` section.
        out: the folder.
        options: further arguments of each command.
        processes: of each training.
    """
    with locked(out):
        matrix = Matrix.plan(recipe, out)
        matrix.write()
    return [shlex.join(job.command) for job in jobs(matrix, options, processes) if not job.done]


def jobs(matrix: Matrix, options: Sequence[str] = (), processes: int = 1) -> list[Job]:
    """Return a job for each cell of this call; its cost grows with the model and its data.

    Args:
        matrix: planned.
        options: further arguments of each command.
        processes: of each training.
    """
    costs = {(model, data): _relative_cost(matrix, model, data) for model, data in matrix.places}
    return [
        Job(
            cell.name,
            (
                "train", str(matrix.recipe_file(cell.model, cell.data)),
                "--activation", matrix.activation_argument(cell.activation), "--seed", str(cell.seed),
                "--out", str(matrix.job_folder(cell)), "--resume", "--quiet", *options,
            ),
            matrix.job_folder(cell),
            costs[cell.model, cell.data],
            processes,
        )
        for cell in matrix.wanted
    ]  # fmt: skip


def _relative_cost(matrix: Matrix, model: str, data: str) -> float:
    section = matrix.data[data]
    info = dataset_of(section)
    split = info.splits.get(section.train_split) if info else None
    images = section.train_images or (split.num_samples if split else 1)
    return float(images * estimate.parameters(matrix.cell_recipe(model, data)))


# --------------------------------------------------------------------------------------------------- before it runs


def dry_run(recipe: Recipe, out: str | Path, *, workers: int, device: str, processes: int = 1) -> str:
    """List the cells and estimate their time; nothing is written.

    Args:
        recipe: with a ``transfer`` section.
        out: the folder.
        workers: how many run at once.
        device: of each.
        processes: of each training.
    """
    matrix = Matrix.plan(recipe, out)
    states = {cell: _state(matrix, cell) for cell in matrix.wanted}
    lines = [f"{'activation':24s} {'model':28s} {'data':20s} seed  state"]
    lines += [f"{c.activation:24s} {c.model:28s} {c.data:20s} {c.seed:4d}  {state}" for c, (state, _) in states.items()]
    counts = Counter(state.split()[0] for state, _ in states.values())
    lines += ["", f"{len(states)} jobs: {counts['done']} done, {counts['half']} half done, {counts['to']} to do"]
    total, unknown = 0.0, []
    for model, data in dict.fromkeys((cell.model, cell.data) for cell in states):
        left = sum(epochs for cell, (_, epochs) in states.items() if (cell.model, cell.data) == (model, data))
        if not left:
            continue
        per_epoch, source = _epoch_seconds(matrix, model, data, device, processes)
        if per_epoch is None:
            unknown.append(f"{model} on {data}")
            continue
        total += left * per_epoch
        lines.append(f"{model} on {data}: {left} epochs of {per_epoch:.2g} s ({source})")
    without = f", without {', '.join(unknown)}, which could not be timed" if unknown else ""
    share = f"; ÷ {workers} workers: {duration(total / workers)}" if workers > 1 else ""
    if counts["done"] < len(states):
        lines.append(f"estimate, beside the start of each process and its data: {duration(total)} in all{share}{without}")
    return "\n".join(lines)


def _state(matrix: Matrix, cell: Cell) -> tuple[str, int]:
    """(as shown, epochs that are left)."""
    folder, epochs = matrix.job_folder(cell), matrix.recipe.evaluate.epochs
    if (folder / SUMMARY).exists():
        return "done", 0
    done = estimate.epochs_done(folder) if (folder / CHECKPOINT).exists() else 0
    return (f"half done ({done} of {epochs} epochs)" if done else "to do"), epochs - done


def _epoch_seconds(matrix: Matrix, model: str, data: str, device: str, processes: int) -> tuple[float | None, str]:
    folders = [matrix.job_folder(cell) for cell in matrix.cells() if (cell.model, cell.data) == (model, data)]
    measured = estimate.epoch_seconds(folders)
    if measured is not None:
        return measured, "measured, in this matrix"
    of = f" of one of {processes} processes" if processes > 1 else ""
    seconds = estimate.timed_epoch(matrix.cell_recipe(model, data), device, processes)
    return seconds, f"from 3 training steps{of} on {device} here"


# --------------------------------------------------------------------------------------------------- after it ran


def results(matrix: Matrix, failed: Collection[Path] = ()) -> list[Result]:
    """Return a row for each finished cell, and one without a figure for each failed one.

    A search that ended in the function of another has rows of its own, so that the spread over searches is theirs.

    Args:
        matrix: whose cells they are.
        failed: folders.

    Raises:
        RunError: for a summary or log that can't be read.
    """
    found = []
    for cell in matrix.cells():
        folder, candidate = matrix.job_folder(cell), matrix.activations[cell.activation]
        if (folder / SUMMARY).exists():
            row = read_result(folder, candidate, Place(cell.model, cell.data), cell.seed)
        elif folder in failed:
            recipe = matrix.cell_recipe(cell.model, cell.data)
            how = measured_on(recipe), recipe.data.figure, recipe.evaluate.epochs
            row = parse([], candidate, Place(cell.model, cell.data), cell.seed, *how)
        else:
            continue
        found.append(row)
        found += [replace(row, activation=label, search_seed=seed) for label, seed in candidate.duplicates().items()]
    return found


def notes(matrix: Matrix) -> list[str]:
    """Return what a reader of the report must know of the activations."""
    said = [
        f"{each.label}: searches {', '.join(map(str, (each.search_seed, *each.also)))} of {each.batch} ended in this function "
        "up to scales; it is trained once and listed for each of them."
        for each in matrix.activations.values()
        if each.also
    ]
    if any(each.kind == "random" for each in matrix.activations.values()):
        said.append("Random cells that are constant or not finite on [−5, 5]: they are not drawn.")
    return said


def write_report(matrix: Matrix, outcomes: Sequence[Outcome]) -> Path | None:
    """Report on every finished cell, those of earlier calls too.

    Args:
        matrix: whose cells they are.
        outcomes: of this call.

    Returns:
        The path; None without a result.
    """
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    found = results(matrix, {outcome.job.folder for outcome in failed})
    if not any(row.has_figure for row in found):
        return None
    reported = [(outcome.job.name, outcome.message) for outcome in failed]
    return report.write_report(found, matrix.folder, failed=reported, **_said(matrix, found))


def write_page(folder: str | Path) -> Path:
    """Write the report.html of a matrix anew, of what is trained of it; nothing else is written.

    Args:
        folder: of the matrix.

    Raises:
        RunError: the folder holds no matrix, its files are damaged, or no training of it has finished.
    """
    folder = Path(folder).absolute()
    recipe = parse_recipe(strict_yaml.read(folder / "recipe.yaml"), str(folder / "recipe.yaml"))
    matrix = Matrix.read(folder, recipe)
    found = results(matrix)
    if not any(row.has_figure for row in found):
        planned = sum(1 for _ in matrix.cells())
        raise RunError(f"{folder} holds a matrix of {planned} trainings, and none of them has finished; the command resumes it")
    return report.write_page(found, folder, failed=(), **_said(matrix, found))


def _said(matrix: Matrix, found: Sequence[Result]) -> dict[str, Any]:
    """What a report says besides the results."""
    formulas = {label: each.activation.formula for label, each in matrix.activations.items() if each.genotype}
    for each in matrix.activations.values():
        formulas |= dict.fromkeys(each.duplicates(), each.activation.formula)
    known = {label: each.genotype for label, each in matrix.activations.items() if each.genotype}
    curves = report_html.curves_of(found, lambda row: matrix.job_folder(Cell(row.activation, *row.place, row.seed)))
    return {
        "usual": matrix.usual(), "title": f"Transfer of activations: {matrix.folder.name}", "notes": notes(matrix),
        "formulas": formulas, "nearest": {label: str(nearest_known(each)) for label, each in known.items()},
        "classes": _classes(matrix), "details": report_html.Details(matrix.recipe.to_yaml(), known, curves),
    }  # fmt: skip


def _show_report(matrix: Matrix, path: Path, wandb: Wandb) -> None:
    found, name = results(matrix), matrix.folder.name
    columns = [field.name for field in fields(Result)]
    config = matrix.recipe.model_dump(mode="json")
    with RunLog(matrix.folder, wandb.mode, config, name=f"report of {name}", group=wandb.group, job_type="report") as log:
        log.log("report", trainings=len(found))
        log.table("results", columns, [list(astuple(row)) for row in found])
        for picture in sorted((matrix.folder / "plots").glob("*.png")):
            log.image(picture.stem, picture)
        for file in (path, matrix.folder / "results.csv", matrix.folder / "summary.csv"):
            log.artifact(f"{contenders.safe(name)}-{file.stem}", "report", file)


def _classes(matrix: Matrix) -> dict[str, int]:
    infos = {label: dataset_of(section) for label, section in matrix.data.items()}
    return {label: len(info.classes) for label, info in infos.items() if info and info.classes}
