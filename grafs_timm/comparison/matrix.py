"""Keep the matrix activations × models × data × seeds as a folder, which later calls resume and may extend.

matrix.json   every label and what it stands for        recipes/<model>__<data>.yaml   what a cell trains by
recipe.yaml   the recipe it came from, resolved         activations/<label>.json       genotypes
jobs/<activation>/<model>/<data>/s<seed>                one run folder a cell, beside it what it printed
report.md, results.csv, plots/                          written at the end of each call
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..activations import genotype as genotypes
from ..activations.genotype import Genotype
from ..activations.named import Activation
from ..config import strict_yaml
from ..config.recipe import parse_recipe
from ..config.schema import Data, Recipe, Transfer, read_data
from ..errors import GrafsError, RunError
from ..runs.folder import differences
from ..runs.training import dataset_of
from ..utils.files import write_changed, write_json
from . import contenders
from .contenders import Contender

FORMAT = "grafs-matrix/1"
_GROWS = {"activations", "baselines", "random", "models", "data", "seeds"}  # keys of `transfer` that a later call may change


class Cell(NamedTuple):
    """One training of the matrix, by its labels."""

    activation: str
    model: str
    data: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.activation}/{self.model}/{self.data}/s{self.seed}"


@dataclass(frozen=True)
class Matrix:
    """Everything that ``folder`` stands for, by label.

    Args:
        folder: of the matrix.
        recipe: resolved.
        activations: contenders by label.
        models: timm's names by label.
        data: data sections by label.
        seeds: how many training seeds there are.
        wanted: the cells that this call is to have trained.
    """

    folder: Path
    recipe: Recipe
    activations: Mapping[str, Contender]
    models: Mapping[str, str]
    data: Mapping[str, Data]
    seeds: int
    wanted: tuple[Cell, ...] = field(default=())

    @classmethod
    def plan(cls, recipe: Recipe, folder: str | Path) -> Matrix:
        """Plan the matrix that the recipe's ``transfer`` asks for, with what ``folder`` has of one; nothing is written.

        Args:
            recipe: with a ``transfer`` section.
            folder: of the matrix; it may be missing.

        Raises:
            UnknownNameError, GenotypeError, DataError: for an activation, model or data set that isn't one.
            RunError: where the folder holds something else, or a matrix of another recipe (the keys that differ are named).
        """
        folder, asked = Path(folder).absolute(), recipe.transfer
        before = cls.read(folder, recipe)
        model_names, sections = asked.models or (recipe.model,), _sections(recipe)
        given = contenders.gather(asked.activations, asked.baselines, model_names, asked.random, asked.random_seed)
        for section in sections:
            dataset_of(section)
        activations, chosen_activations = contenders.labelled(given, before.activations)
        models, data = dict(before.models), dict(before.data)
        for name in model_names:
            models = models if name in models.values() else models | {contenders.safe(name, models): name}
        for section in sections:
            label = contenders.safe(Path(section.name).name or section.name, data)
            data = data if section in data.values() else data | {label: section}
        chosen = (
            range(asked.seeds),
            [label for label, section in data.items() if section in sections],
            [label for label, name in models.items() if name in model_names],
            chosen_activations,
        )
        planned = cls(folder, recipe, activations, models, data, max(asked.seeds, before.seeds))
        cells = (Cell(activation, model, of, seed) for seed, of, model, activation in itertools.product(*chosen))
        return replace(planned, wanted=tuple(cell for cell in cells if (cell.model, cell.data) in planned.places))

    @classmethod
    def read(cls, folder: Path, recipe: Recipe) -> Matrix:
        """Read what the folder has; an empty matrix where it is missing.

        Args:
            folder: of the matrix.
            recipe: that it must have been made by.

        Raises:
            RunError: as `plan`.
        """
        path = folder / "matrix.json"
        if not path.exists():
            inside = [item.name for item in folder.iterdir() if not item.name.startswith(".")] if folder.is_dir() else []
            # killed between its first files, a matrix has a recipe and no matrix.json yet
            if folder.is_file() or not set(inside) <= {"recipe.yaml", "recipes", "activations"}:
                raise RunError(f"{folder} is not empty and not a matrix; name an empty or a new folder with --out")
            return cls(folder, recipe, {}, {}, {}, 0)
        try:
            about = json.loads(path.read_bytes())
            if about["format"] != FORMAT:
                raise ValueError(f"format is {about['format']!r}, this version reads {FORMAT!r}")
            own = parse_recipe(strict_yaml.read(folder / "recipe.yaml"), str(folder / "recipe.yaml"))
            activations = {label: _candidate(label, each) for label, each in about["activations"].items()}
            data = {_label(label): read_data(each) for label, each in about["data"].items()}
            models = {_label(label): str(name) for label, name in about["models"].items()}
            there = cls(folder, recipe, activations, models, data, int(about["seeds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) and not isinstance(error, GrafsError) else error
            raise RunError(f"{path} is damaged: {what}") from error
        changed = differences(_settled(own), _settled(recipe))
        if changed:
            raise RunError(f"{folder} is the matrix of another recipe; name another --out\n  " + "\n  ".join(changed[:5]))
        return there

    def write(self) -> None:
        """Write what the jobs need, and matrix.json last; equal files stay as they are."""
        write_changed(self.folder / "recipe.yaml", self.recipe.to_yaml())
        for model, data in self.places:
            write_changed(self.recipe_file(model, data), self.cell_recipe(model, data).to_yaml())
        for label, candidate in self.activations.items():
            if candidate.genotype and not self._genotype_file(label).exists():
                genotypes.save(candidate.genotype, self._genotype_file(label))
        about = {
            "format": FORMAT, "recipe_sha256": self.recipe.sha256, "seeds": self.seeds, "models": dict(self.models),
            "usual": self.usual(), "data": {label: data.model_dump(mode="json") for label, data in self.data.items()},
            "activations": {label: _described(each) for label, each in self.activations.items()},
        }  # fmt: skip
        write_json(self.folder / "matrix.json", about)

    def cells(self) -> Iterator[Cell]:
        """Yield all cells, those of earlier calls too."""
        product = itertools.product(range(self.seeds), self.places, self.activations)
        return (Cell(activation, model, data, seed) for seed, (model, data), activation in product)

    @cached_property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Return the (model, data) labels that belong together: all, or those that the recipe pairs."""
        asked = self.recipe.transfer
        if not asked.paired:
            return tuple((model, data) for data in self.data for model in self.models)
        names = {name: label for label, name in self.models.items()}
        labels = [next(label for label, own in self.data.items() if own == section) for section in _sections(self.recipe)]
        return tuple((names[model], label) for model, label in zip(asked.models, labels, strict=True))

    def usual(self) -> dict[str, str]:
        """Return {model's label: its default activation}, where its family is known."""
        return {label: usual for label, name in self.models.items() if (usual := contenders.default_activation(name))}

    def job_folder(self, cell: Cell) -> Path:
        return self.folder / "jobs" / cell.activation / cell.model / cell.data / f"s{cell.seed}"

    def recipe_file(self, model: str, data: str) -> Path:
        return self.folder / "recipes" / f"{model}__{data}.yaml"

    def cell_recipe(self, model: str, data: str) -> Recipe:
        changes = {"model": self.models[model], "data": self.data[data], "transfer": Transfer()}
        return self.recipe.model_copy(update=changes)

    def activation_argument(self, label: str) -> str:
        """Return the activation as ``grafs-timm train --activation`` takes it."""
        return str(self._genotype_file(label)) if self.activations[label].genotype else label

    def _genotype_file(self, label: str) -> Path:
        return self.folder / "activations" / f"{label}.json"


def _sections(recipe: Recipe) -> list[Data]:
    """The data sections asked for: a bare name takes all other settings from the recipe's own section."""
    return [
        recipe.data.model_copy(update={"name": section.name}) if section.model_fields_set == {"name"} else section
        for section in recipe.transfer.data or (recipe.data,)
    ]


def _settled(recipe: Recipe) -> dict[str, Any]:
    """The settings that all calls on one folder must share."""
    settings = recipe.model_dump(mode="json")
    settings["transfer"] = {key: value for key, value in settings["transfer"].items() if key not in _GROWS}
    return settings


def _described(candidate: Contender) -> dict[str, Any]:
    return {
        "kind": candidate.kind, "formula": candidate.activation.formula, "sha256": candidate.sha256, "batch": candidate.batch,
        "search_seed": candidate.search_seed, "also": list(candidate.also),
        "genotype": candidate.genotype.to_dict() if candidate.genotype else None,
    }  # fmt: skip


def _candidate(label: str, about: Mapping[str, Any]) -> Contender:
    genotype = Genotype.from_dict(about["genotype"], f"activations.{label}") if about["genotype"] is not None else None
    activation = Activation(_label(label), genotype, kind=about["kind"])
    return Contender(activation, about["batch"], about["search_seed"], tuple(about["also"]))


def _label(text: str) -> str:
    if text != contenders.safe(text):
        raise ValueError(f"{text!r} is no name for a folder")
    return text
