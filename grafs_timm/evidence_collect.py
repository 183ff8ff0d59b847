"""The evidence of a campaign from its run folders: what tools/fill_zoo.py leaves of a family, made small."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import candidates, runs, strict_yaml
from .candidates import Candidate
from .errors import RunError
from .evidence import ABOUT, CHOICE, COST, FORMAT, MATRIX, RECIPE, SEARCHES, SELECTION, TRAININGS
from .files import write_whole
from .matrix import Matrix
from .recipe import parse_recipe
from .settings import Recipe
from .tracking import read_log

# What is kept of a log's epoch line; the rest (times of day, survivors) is the run's own business.
_OF_A_SEARCH = ("epoch", "inner_loss", "outer_loss", "alive", "held_out_accuracy", "seconds")
_OF_A_TRAINING = (
    "epoch", "train_loss", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss", "skipped", "seconds",
)  # fmt: skip


def collect(campaign: str | Path, about: Mapping[str, str]) -> dict[str, bytes]:
    """{file name: content} of the evidence of ``campaign``, a folder with ``selection`` and ``matrix``, both finished.

    ``about``: hardware, commit and date. ``campaign``/cost.csv comes along where it is there. RunError naming what is missing,
    unfinished or damaged.
    """
    campaign = Path(campaign)
    selection, matrix = campaign / "selection", campaign / "matrix"
    for folder, what, file in ((selection, "choice", "summary.json"), (matrix, "matrix", "matrix.json")):
        if not (folder / file).is_file():
            raise RunError(f"{folder / file} is missing: a finished {what} is what an entry is published from")
    recipe = parse_recipe(strict_yaml.read(matrix / "recipe.yaml"), str(matrix / "recipe.yaml"))
    table, text = Matrix.read(matrix, recipe), bool(recipe.data.text)
    files = {
        MATRIX: (matrix / "matrix.json").read_bytes(), RECIPE: (matrix / "recipe.yaml").read_bytes(),
        SELECTION: (selection / "recipe.yaml").read_bytes(), SEARCHES: _jsonl(_searches(selection / "searches", text)),
        CHOICE: _jsonl(_choice(selection)), TRAININGS: _jsonl(_trainings(table)),
        ABOUT: (json.dumps({"format": FORMAT, **about}, indent=1, ensure_ascii=False) + "\n").encode(),
    }  # fmt: skip
    if (campaign / COST).is_file():
        files[COST] = (campaign / COST).read_bytes()
    return {name: _without_place(content, campaign, recipe) for name, content in files.items()}


def _without_place(content: bytes, campaign: Path, recipe: Recipe) -> bytes:
    """Paths relative to the campaign's folder, which lay somewhere on its machine, here or before it was copied."""
    places = {str(campaign.absolute())}
    places |= {
        path.removesuffix("/selection/searches") for path in recipe.transfer.activations if "/selection/searches" in path
    }
    for place in places - {""}:
        content = content.replace(f"{place}/".encode(), b"")
    return content


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Every file whole; one that is there with the same content stays as it is."""
    for name, content in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            write_whole(path, content)


def _jsonl(lines: Iterator[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines).encode()


def _searches(folder: Path, text: bool) -> Iterator[dict[str, Any]]:
    for own in sorted(folder.glob("s*/"), key=lambda path: _number(path.name)):
        summary = _finished(own, "search")
        yield {
            "seed": summary["seed"], "genotype": summary["genotype"], "held_out_accuracy": summary["held_out_accuracy"],
            **({"held_out_loss": summary["held_out_loss"]} if text else {}),
            "versions": runs.read_json(own / "run.json")["versions"], "log": _epochs(own, _OF_A_SEARCH),
        }  # fmt: skip


def _number(name: str) -> Any:
    """Search seeds as numbers: s10 comes after s9."""
    return (0, int(name[1:])) if name[1:].isdecimal() else (1, name)


def _choice(selection: Path) -> Iterator[dict[str, Any]]:
    found = {each.label: each for each in candidates.merged(candidates.given(str(selection / "searches")))}
    for own in sorted((selection / "trainings").glob("*_epochs/*/s*/")):
        summary, label = _finished(own, "evaluate"), own.parent.name
        known = found.get(label) or Candidate(label, "random" if summary["activation_sha256"] else "baseline")
        yield _training(own, summary, label, Path(summary["data"]).name, summary["model"]) | {
            "kind": known.kind, "search_seed": known.search_seed,
        }  # fmt: skip


def _trainings(matrix: Matrix) -> Iterator[dict[str, Any]]:
    for cell in matrix.cells():
        own = matrix.job_folder(cell)
        if (own / "summary.json").exists():
            yield _training(own, _finished(own, "evaluate"), cell.activation, cell.data, cell.model)


def _training(folder: Path, summary: Mapping[str, Any], label: str, data: str, model: str) -> dict[str, Any]:
    return {
        "activation": label, "sha256": summary["activation_sha256"], "model": model, "data": data, "seed": summary["seed"],
        "split": summary["measured_on"], "log": _epochs(folder, _OF_A_TRAINING),
    }  # fmt: skip


def _finished(folder: Path, kind: str) -> dict[str, Any]:
    if not (folder / "summary.json").is_file():
        raise RunError(f"{folder} is not finished; go on with the campaign first")
    summary = runs.read_json(folder / "summary.json")
    if summary.get("kind") != kind:
        raise RunError(f"{folder} holds a run of kind {summary.get('kind')!r} where one of kind {kind!r} is meant")
    return summary


def _epochs(folder: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The epoch lines of a run's log."""
    lines = [line for line in read_log(folder) if line["kind"] == "epoch"]
    if not lines:
        raise RunError(f"{folder}: its log has no epoch")
    return [{key: line[key] for key in keys if key in line} for line in lines]
