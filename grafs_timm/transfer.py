"""The matrix of trainings: which are left, how long they will take, have them run, and what came of all."""

from __future__ import annotations

import importlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import estimate, parallel
from .data import open_dataset
from .errors import RunError
from .files import locked, write_whole
from .launch import Job, Outcome, run_jobs
from .matrix import Cell, Matrix
from .settings import Recipe
from .tracking import read_log


@dataclass(frozen=True)
class Transferred:
    """What a call came to: the outcomes of the cells it was to have done, and the report of all (None without a result)."""

    outcomes: tuple[Outcome, ...]
    report: Path | None

    def count(self, state: str) -> int:
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state == "failed"]


def run_transfer(
    recipe: Recipe, out: str | Path, *, options: Sequence[str] = (), launcher: Literal["local", "ray"] = "local",
    workers: int | None = None, devices: Sequence[str] = ("cpu",), address: str | None = None,
    gpus_per_job: float | None = None, retries: int = 1, on_outcome: Callable[[Outcome], None] | None = None,
    quiet: bool = False,
) -> Transferred:  # fmt: skip
    """Have every cell of the recipe's ``transfer`` trained that isn't yet, then write the report of all in ``out``.

    ``options`` are further arguments of each ``grafs-timm evaluate``; the rest as ``launch.run_jobs`` takes it. The folder is
    held meanwhile: RunError where another process has it, or torchrun started several of this one. Errors of ``Matrix.plan``
    before anything is written.
    """
    if parallel.launched() > 1:
        raise RunError("transfer starts processes of its own; call it without torchrun")
    with locked(out):
        matrix = Matrix.plan(recipe, out)
        matrix.write()
        outcomes = run_jobs(
            jobs(matrix, options), launcher=launcher, workers=workers, devices=devices, address=address,
            gpus_per_job=gpus_per_job, retries=retries, on_outcome=on_outcome, quiet=quiet,
        )  # fmt: skip
        return Transferred(tuple(outcomes), write_report(matrix, outcomes))


def with_bad_shards(recipe: Recipe, choice: str) -> Recipe:
    """The recipe with ``on_bad_shard`` in every data section; those that are only a name follow the recipe's own."""
    changed = {"on_bad_shard": choice}
    sections = [each if each.model_fields_set == {"name"} else each.model_copy(update=changed) for each in recipe.transfer.data]
    transfer = recipe.transfer.model_copy(update={"data": tuple(sections)})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changed), "transfer": transfer})


def print_jobs(recipe: Recipe, out: str | Path, options: Sequence[str] = ()) -> list[str]:
    """One shell command for each cell that isn't done, once what they need stands in ``out``. Errors as ``run_transfer``."""
    with locked(out):
        matrix = Matrix.plan(recipe, out)
        matrix.write()
    return [shlex.join(job.command) for job in jobs(matrix, options) if not job.done]


def jobs(matrix: Matrix, options: Sequence[str] = ()) -> list[Job]:
    """One for each cell of this call; the larger the model and its data, the higher its cost."""
    costs = {(model, data): _relative_cost(matrix, model, data) for model in matrix.models for data in matrix.data}
    return [
        Job(
            cell.name,
            (
                "evaluate", str(matrix.recipe_file(cell.model, cell.data)),
                "--activation", matrix.activation_argument(cell.activation), "--seed", str(cell.seed),
                "--out", str(matrix.job_folder(cell)), "--resume", "--quiet", *options,
            ),
            matrix.job_folder(cell),
            costs[cell.model, cell.data],
        )
        for cell in matrix.wanted
    ]  # fmt: skip


def _relative_cost(matrix: Matrix, model: str, data: str) -> float:
    section = matrix.data[data]
    info = open_dataset(section.name).splits.get(section.train_split)
    images = section.train_images or (info.num_samples if info else 1)
    return float(images * estimate.parameters(matrix.cell_recipe(model, data)))


# --------------------------------------------------------------------------------------------------- before it runs


def dry_run(recipe: Recipe, out: str | Path, *, workers: int, device: str) -> str:
    """The cells and an estimate of their time as text; nothing is written. ``workers`` run at once, on such a ``device``."""
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
        per_epoch, source = _epoch_seconds(matrix, model, data, device)
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
    if (folder / "summary.json").exists():
        return "done", 0
    done = estimate.epochs_done(folder) if (folder / "checkpoint.pt").exists() else 0
    return (f"half done ({done} of {epochs} epochs)" if done else "to do"), epochs - done


def _epoch_seconds(matrix: Matrix, model: str, data: str, device: str) -> tuple[float | None, str]:
    folders = [matrix.job_folder(cell) for cell in matrix.cells() if (cell.model, cell.data) == (model, data)]
    measured = estimate.epoch_seconds(folders)
    if measured is not None:
        return measured, "measured, in this matrix"
    return estimate.timed_epoch(matrix.cell_recipe(model, data), device), f"from 3 training steps on {device} here"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# --------------------------------------------------------------------------------------------------- after it ran


def rows(matrix: Matrix) -> list[dict[str, Any]]:
    """The fields of ``statistics.Result`` for each finished cell. RunError for a summary that can't be read."""
    found = []
    for cell in matrix.cells():
        path = matrix.job_folder(cell) / "summary.json"
        if not path.exists():
            continue
        try:
            summary = json.loads(path.read_bytes())
            split, candidate = summary["measured_on"], matrix.activations[cell.activation]
            seconds = sum(float(line["seconds"]) for line in read_log(path.parent) if line["kind"] == "epoch")
            found.append(
                {
                    "activation": cell.activation, "kind": candidate.kind, "batch": candidate.batch,
                    "search_seed": candidate.search_seed, "sha256": candidate.sha256, "model": cell.model,
                    "data": cell.data, "seed": cell.seed, "accuracy": float(summary[f"{split}_accuracy"]),
                    "loss": float(summary[f"{split}_loss"]), "split": split, "epochs": summary["epochs"], "seconds": seconds,
                }
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} is no summary of an evaluation: {error!r}; remove it and that cell is trained again"
            ) from error
    return found


def notes(matrix: Matrix) -> list[str]:
    """What a reader of the report must know of the activations."""
    said = [
        f"{each.label}: searches {', '.join(map(str, (each.search_seed, *each.also)))} of {each.batch} ended in this function, "
        "up to scales; it is trained once and counts once among the searches."
        for each in matrix.activations.values()
        if each.also
    ]
    if any(each.kind == "random" for each in matrix.activations.values()):
        said.append("Random cells that are constant or not finite on [−5, 5]: they are left out of the draw.")
    return said


def write_report(matrix: Matrix, outcomes: Sequence[Outcome]) -> Path | None:
    """The report of every finished cell, those of earlier calls too; None where there is none."""
    found = rows(matrix)
    if not found:
        return None
    try:
        report, statistics = (importlib.import_module(f"grafs_timm.{name}") for name in ("report", "statistics"))
    except ImportError:
        lines = [",".join(found[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in found)]
        return write_whole(matrix.folder / "results.csv", "\n".join(lines) + "\n")
    path: Path = report.write_report(
        [statistics.Result(**row) for row in found],
        matrix.folder,
        usual=matrix.usual(),
        title=f"Transfer of activations: {matrix.folder.name}",
        failed=[(outcome.job.name, outcome.message) for outcome in outcomes if outcome.state == "failed"],
        notes=notes(matrix),
        formulas={label: each.formula for label, each in matrix.activations.items() if each.genotype},
        classes=_classes(matrix),
    )
    return path


def _classes(matrix: Matrix) -> dict[str, int]:
    infos = {label: open_dataset(section.name) for label, section in matrix.data.items()}
    return {label: len(info.classes) for label, info in infos.items() if info.classes}
