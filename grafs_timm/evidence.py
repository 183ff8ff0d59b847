"""The evidence of a zoo entry: the logs of one campaign, small enough to lie in the repository beside the entry.

matrix.json, recipe.yaml   labels, functions and settings of the matrix, as in its own folder (`matrix`)
trainings.jsonl            a line for each training of the matrix: its cell and the lines of its log
selection.yaml             the settings of the searches and of the choice among them
searches.jsonl             a line for each search: what it found, and the lines of its log
choice.jsonl               a line for each training of the choice
about.json                 what no log says: hardware, commit
cost.csv                   timings beside GELU, as tools/bench_activation.py writes them; may be missing
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from . import strict_yaml
from .candidates import Candidate
from .errors import GrafsError, RunError
from .formula import Genotype
from .matrix import Matrix
from .recipe import parse_recipe
from .results import compared_by
from .settings import Recipe
from .statistics import Kind, Result

FORMAT = "grafs-evidence/1"
MATRIX, RECIPE, SELECTION, ABOUT, COST = "matrix.json", "recipe.yaml", "selection.yaml", "about.json", "cost.csv"
TRAININGS, SEARCHES, CHOICE = "trainings.jsonl", "searches.jsonl", "choice.jsonl"
REQUIRED = (MATRIX, RECIPE, TRAININGS, SELECTION, SEARCHES, CHOICE, ABOUT)
_MOST_BYTES = 16 * 2**20
_T = TypeVar("_T")


@dataclass(frozen=True)
class SearchRecord:
    """One search. ``held_out``: accuracy in per cent, of text loss in nats per token, of the discretised function."""

    seed: int
    genotype: Genotype
    held_out: float
    versions: Mapping[str, str]
    seconds: float
    epochs: int


@dataclass(frozen=True)
class Records:
    """All that the files of one batch say. ``cost``: rows of cost.csv by column, empty where there is no such file."""

    folder: Path
    matrix: Matrix
    choosing: Recipe
    searches: tuple[SearchRecord, ...]
    trainings: tuple[Result, ...]
    choice: tuple[Result, ...]
    about: Mapping[str, str]
    cost: tuple[Mapping[str, str], ...]

    @property
    def recipe(self) -> Recipe:
        return self.matrix.recipe

    @classmethod
    def read(cls, folder: str | Path, files: Mapping[str, str] | None = None) -> Records:
        """What the files in ``folder`` say; ``files`` are the names and sha256 that it must have.

        RunError naming the file, and the line in it, for one that is missing, is not the one that ``files`` means, or can't be
        read.
        """
        folder = Path(folder)
        check_files(folder, files if files is not None else dict.fromkeys(REQUIRED, ""))
        recipe = _recipe(folder / RECIPE)
        matrix = Matrix.read(folder, recipe)
        known, text = matrix.activations, bool(recipe.data.text)
        choosing = _recipe(folder / SELECTION)
        return cls(
            folder, matrix, choosing,
            tuple(_lines(folder / SEARCHES, partial(_search, text=text))),
            tuple(_lines(folder / TRAININGS, lambda line: _training(line, known, text))),
            tuple(_lines(folder / CHOICE, lambda line: _training(line, None, text))),
            _about(folder / ABOUT),
            _cost(folder / COST),
        )  # fmt: skip


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """RunError for a file that is missing or has another sha256 than the one named; '' takes any."""
    for name in dict.fromkeys((*REQUIRED, *files)):
        path = folder / name
        if name not in files:
            raise RunError(f"{path}: the entry names no such evidence, and without it nothing can be recomputed")
        if not path.is_file():
            raise RunError(f"{path}: the evidence is missing")
        if files[name] and (there := file_sha256(path)) != files[name]:
            raise RunError(f"{path}: the evidence was changed: its sha256 is {there}, the entry says {files[name]}")


def file_sha256(path: Path) -> str:
    return hashlib.sha256(_bytes(path)).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RunError(f"{path} is larger than {_MOST_BYTES // 2**20} MB: no evidence")
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode()
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _recipe(path: Path) -> Recipe:
    try:
        return parse_recipe(strict_yaml.read(path), str(path))
    except GrafsError as error:
        raise RunError(f"{path} is no recipe: {error}") from error


def _lines(path: Path, parse: Callable[[dict[str, Any]], _T]) -> Iterator[_T]:
    for number, text in enumerate(_text(path).splitlines(), 1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("expected an object")
            yield parse(line)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, GrafsError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) and not isinstance(error, GrafsError) else error
            raise RunError(f"{path}, line {number}: {what}") from error


def _search(line: dict[str, Any], text: bool) -> SearchRecord:
    log, held_out = line["log"], line["held_out_loss" if text else "held_out_accuracy"]
    return SearchRecord(
        int(line["seed"]), Genotype.from_dict(line["genotype"], "genotype"), float(held_out),
        {str(key): str(value) for key, value in line["versions"].items()}, float(log[-1]["seconds"]), int(log[-1]["epoch"]),
    )  # fmt: skip


def _training(line: dict[str, Any], known: Mapping[str, Candidate] | None, text: bool) -> Result:
    label, split, last = str(line["activation"]), line["split"], line["log"][-1]
    origin: tuple[str | None, int | None]
    if split not in ("test", "validation"):
        raise ValueError(f"split is test or validation, got {split!r}")
    if known is None:
        kind, sha256, origin = line["kind"], line["sha256"], (None, line["search_seed"])
    elif label not in known:
        raise ValueError(f"{label!r} is none of the matrix's activations: {', '.join(known)}")
    else:
        each = known[label]
        kind, sha256, origin = each.kind, each.sha256, (each.batch, each.search_seed)
        if sha256 != line["sha256"]:
            raise ValueError(
                f"{label} was trained with the function {line['sha256']}, the matrix has {sha256} under that label"
            )
    return Result(
        label, _kind(kind), *origin, sha256, str(line["model"]), str(line["data"]), int(line["seed"]),
        float(last[f"{split}_accuracy"]), float(last[f"{split}_loss"]), split, len(line["log"]),
        sum(float(each["seconds"]) for each in line["log"]), compared_by(text),
    )  # fmt: skip


def _kind(text: Any) -> Kind:
    if text not in ("found", "random", "baseline"):
        raise ValueError(f"kind is found, random or baseline, got {text!r}")
    kind: Kind = text
    return kind


def _about(path: Path) -> dict[str, str]:
    try:
        about = json.loads(_text(path))
        if about["format"] != FORMAT:
            raise ValueError(f"format is {about['format']!r}, this version reads {FORMAT!r}")
        return {key: str(about[key]) for key in ("hardware", "commit", "date")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {f'has no {error}' if isinstance(error, KeyError) else error}") from error


def _cost(path: Path) -> tuple[Mapping[str, str], ...]:
    if not path.exists():
        return ()
    try:
        rows = list(csv.DictReader(io.StringIO(_text(path), newline=""), strict=True))
        for row in rows:
            float(row["median_ms"])
            if None in row or not all(row[key] for key in ("subject", "what", "device", "dtype")):
                raise ValueError("a row of other length than the header, or one without subject, what, device or dtype")
    except (csv.Error, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no table of timings: {error!r}") from error
    return tuple(rows)
