"""Plan a campaign: the searches and trainings that a zoo entry is based on, which of them the ledger has, and which come next.

The plan follows from the recipe and the ledger alone, so any machine can resume where another stopped. Trainings run in blocks:
every activation with one seed before any activation with the next, so that each prefix is a fair paired comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ..activations.genotype import Genotype
from ..activations.named import Activation
from ..config.recipe import load_recipe
from ..config.schema import Campaign as Settings
from ..config.schema import Recipe
from ..errors import RunError, UnknownNameError
from ..runs.folder import differences
from ..runs.training import measured_on
from ..utils.suggest import nearest
from ..zoo import lookup
from . import campaign_choice, campaign_files, contenders, ledger
from .campaign_choice import Retired
from .campaign_files import ACTIVATIONS, FURTHER, RECIPE, data_label, read_activations, read_recipe, resolved
from .contenders import Contender
from .ledger import Job, Ledger, Line
from .results import Place, Result, parse
from .verdict import MEASURES, Measure

BUDGETS = ("reduced", "standard", "full")
SEARCHES = "searches"  # what the batch of searches is called in labels: searches_s0 ...

# family: its recipe by budget
RECIPES: dict[str, dict[str, str]] = {
    family: {"reduced": f"{stem}_reduced", "standard": f"{stem}_standard", "full": stem}
    for family, stem in (
        ("resnet", "resnet_cifar10"),
        ("gpt", "gpt_tinystories"),
        ("vit", "vit_cifar10"),
        ("mlp_mixer", "mlp_mixer_cifar10"),
    )
}


def function_of(candidate: Contender) -> str:
    """Return what the ledger calls the function: its sha256, or timm's name."""
    return candidate.sha256 or candidate.label


def search_label(batch: str, seed: int) -> str:
    """Return what a search is called: by its seed, and the variant that it is of."""
    return f"s{seed}" if batch == SEARCHES else f"{batch}_s{seed}"


@dataclass(frozen=True)
class Campaign:
    """The campaign whose ledger is ``folder``.

    Args:
        family: of models, as in `families`.
        folder: the ledger, ``zoo/<family>/evidence/<campaign>``.
        recipe: resolved.
        given: the activations that it was told to train, by label.
        ledger: the lines so far.
        closed: whether it is only read: its searches ran by ``recipe``, its trainings by those in recipes/, and nothing more
            is wanted.
    """

    family: str
    folder: Path
    recipe: Recipe
    given: Mapping[str, Contender]
    ledger: Ledger
    closed: bool = False

    # ------------------------------------------------------------------------------------------------- reading, writing

    @classmethod
    def open(cls, family: str, budget: str, zoo: Path) -> Campaign:
        """Open the family's campaign of a budget by the recipe that ships; its ledger may be empty. Nothing is written.

        Args:
            family: such as "resnet".
            budget: "reduced", "standard" or "full".
            zoo: the zoo folder.

        Raises:
            UnknownNameError: for an unknown family or budget.
            RunError: where the folder holds records of another recipe, with the keys that differ.
        """
        if family not in RECIPES:
            raise UnknownNameError(f"no campaign for the family {family!r}{nearest(family, RECIPES)}")
        if budget not in BUDGETS:
            raise UnknownNameError(f"no budget {budget!r}{nearest(budget, BUDGETS)}")
        stem = RECIPES[family][budget]
        folder = zoo / family / "evidence" / f"{stem.removeprefix(f'{family}_').split('_')[0]}_{budget}"
        return cls.plan(family, load_recipe(stem), folder)

    @classmethod
    def plan(cls, family: str, recipe: Recipe, folder: Path) -> Campaign:
        """Plan a campaign by ``recipe`` with what ``folder`` has of it; nothing is written.

        Args:
            family: of models.
            recipe: with a ``campaign`` section.
            folder: the ledger; it may be missing.

        Raises:
            RunError: as `open`, and for a closed campaign.
        """
        recipe = resolved(recipe)
        asked, models = recipe.transfer, [recipe.model]
        found = contenders.gather(asked.activations, asked.baselines, models, asked.random, asked.random_seed)
        given, _ = contenders.labelled(found, {})
        if (folder / ACTIVATIONS).exists():  # the last that a campaign begins with
            there = cls.read(folder)
            if there.closed:
                raise RunError(f"{folder} is closed: its recipe is of an older version, and nothing can be added to it")
            _same_recipes(there, recipe)
            given = {**there.given, **given}
        return cls(family, folder, recipe, given, Ledger.read(folder))._checked()

    @classmethod
    def read(cls, folder: str | Path, lines: tuple[str, ...] | None = None) -> Campaign:
        """Read the campaign in ``folder``.

        Args:
            folder: the ledger.
            lines: ids of `Ledger.ids`; the campaign is then as it was when its ledger held these alone.

        Raises:
            RunError: naming the file and the line in it, for what is missing, damaged, or made by another recipe.
        """
        folder = Path(folder)
        if not (folder / RECIPE).is_file() or not (folder / ACTIVATIONS).is_file():
            raise RunError(f"{folder} is not a ledger: it has no {RECIPE} and {ACTIVATIONS}")
        recipe, known = read_recipe(folder / RECIPE), Ledger.read(folder)
        own, (given, closed) = known if lines is None else known.only(lines), read_activations(folder / ACTIVATIONS)
        return cls(folder.absolute().parent.parent.name, folder, recipe, given, own, closed)._checked()

    def write(self) -> None:
        """Write the files that the folder needs beside its lines; equal files stay as they are."""
        campaign_files.write(self.folder, self.recipe, self.given, self.closed)

    def merge(self, other: str | Path) -> list[Path]:
        """Add the lines of another ledger that are missing here.

        Args:
            other: the folder of a ledger of the same campaign.

        Returns:
            The files written.

        Raises:
            RunError: as `read`, or where it is the ledger of another recipe. Nothing was written then.
        """
        theirs = Campaign.read(other)
        _same_recipes(self, theirs.recipe)
        known = {line.sha256 for line in self.ledger.lines}
        new = [line for line in theirs.ledger.lines if line.sha256 not in known]
        for line in new:
            self.check(line, theirs.ledger.where(line))
        return ledger.add(self.folder, new)

    def _checked(self) -> Campaign:
        for line in self.ledger.lines:
            self.check(line, self.ledger.where(line))
        return self

    def check(self, line: Line, where: str) -> None:
        """Check that a line was made by one of this campaign's recipes.

        Args:
            line: of a ledger or a run.
            where: its file and line, for the message of the RunError.
        """
        if line.recipe in self._recipes:
            return
        raise RunError(
            f"{where}: made by the recipe {line.recipe[:12]}…, which is none of this campaign's "
            f"({', '.join(sorted(each[:12] for each in self._recipes))}): its key does not fit"
        )

    @cached_property
    def _recipes(self) -> set[str]:
        own = (*self.searched_by.values(), *self.trainings_by.values(), *self._further)
        return {each.sha256 for each in own}

    @cached_property
    def _further(self) -> list[Recipe]:
        return [read_recipe(path) for path in sorted((self.folder / FURTHER).glob("*.yaml"))]

    # ---------------------------------------------------------------------------------------------------- what there is

    @property
    def settings(self) -> Settings:
        assert self.recipe.campaign
        return self.recipe.campaign

    @property
    def measure(self) -> Measure:
        return MEASURES[self.recipe.data.figure]

    @property
    def home(self) -> Place:
        return Place(self.recipe.model, data_label(self.recipe.data))

    @cached_property
    def trainings_by(self) -> dict[Place, Recipe]:
        """Return the recipe of trainings by model and data set, the one of the searches first."""
        if self.closed:
            there = {Place(each.model, data_label(each.data)): each for each in self._further if measured_on(each) == "test"}
            return dict(sorted(there.items(), key=lambda item: item[0] != self.home))
        places = {self.home: self.recipe.for_training()}
        for each in self.settings.places:
            places[Place(each.model, data_label(each.data))] = self.recipe.for_training(each.model, each.data)
        return places

    @cached_property
    def default(self) -> str:
        """Return the default activation of the family. RunError where it is unknown."""
        usual = contenders.default_activation(self.recipe.model)
        if usual is None:
            raise RunError(f"{self.recipe.model} is of an unknown family, so there is no default activation to compare with")
        return usual

    @cached_property
    def searched_by(self) -> dict[str, Recipe]:
        """Return {batch: the recipe of its searches}: the campaign's own, then the variants."""
        variants = {name: self.recipe.model_copy(update={"search": each}) for name, each in self.settings.variants.items()}
        return {name: each.for_searching() for name, each in ({SEARCHES: self.recipe} | variants).items()}

    @cached_property
    def searched(self) -> dict[str, dict[int, Line]]:
        """Return the search that counts of each batch and seed: {batch: {seed: line}}."""
        lines = sorted((each for each in self.ledger.first().values() if each.kind == "search"), key=lambda line: line.seed)
        return {
            name: {line.seed: line for line in lines if line.recipe == recipe.sha256}
            for name, recipe in self.searched_by.items()
        }

    @property
    def searches(self) -> dict[int, Line]:
        """Return the campaign's own searches: {seed: line}."""
        return self.searched[SEARCHES]

    @cached_property
    def activations(self) -> dict[str, Contender]:
        """Return all that is compared by label: what was given, then what the searches found, equal functions once."""
        found = [
            Contender(Activation(f"{batch}_s{seed}", Genotype.from_dict(line.genotype, derived=False)), batch, seed)
            for batch, lines in self.searched.items()
            for seed, line in lines.items()
        ]
        first = {each.sha256: each for each in reversed(found)}
        given = {  # what a search found again is one of its functions, under the label that it has
            label: first[each.sha256].called(label) if each.sha256 in first else each for label, each in self.given.items()
        }
        return contenders.labelled([each for each in found if first[each.sha256].batch == each.batch], given)[0]

    @cached_property
    def found_as(self) -> dict[int, str]:
        """Return {seed of the campaign's own searches: the label under which its function is trained}."""
        return {seed: label for seed in self.searches if (label := self.label_of(SEARCHES, seed)) is not None}

    def label_of(self, batch: str, seed: int) -> str | None:
        """Return the label under which the function of a search is trained; None where the search has no line."""
        if (line := self.searched[batch].get(seed)) is None:
            return None
        sha256 = Genotype.from_dict(line.genotype, derived=False).sha256
        return next(
            label
            for label, each in self.activations.items()
            if each.sha256 == sha256 or (each.batch == batch and seed in (each.search_seed, *each.also))
        )

    @cached_property
    def same_as(self) -> dict[str, str]:
        """Return {label of a search's function: the baseline that it equals up to scales}; these are not trained again."""
        baselines = tuple(label for label, each in self.given.items() if each.kind == "baseline")
        found = {}
        for label, each in self.activations.items():
            if each.search_seed is not None and each.genotype and (name := lookup.known_as(each.genotype, baselines)):
                found[label] = name
        return found

    def results(self, split: Literal["test", "validation"]) -> list[Result]:
        """Return the trainings as rows, ordered by seed and then as `activations`.

        Args:
            split: whose figures are wanted; trainings without them are left out.
        """
        labels = {function_of(each): label for label, each in self.activations.items()}
        own, rows = {each.sha256 for each in self.trainings_by.values()}, []
        for line in self.ledger.first().values():
            if line.kind != "training" or not (self.closed or line.recipe in own) or f"{split}_loss" not in line.log[-1]:
                continue
            known = self.activations.get(labels.get(line.function, "")) or _unknown(line)
            rows.append(parse(line.log, known, Place(line.model, line.data), line.seed, split, self.recipe.data.figure))
        order = {label: number for number, label in enumerate(self.activations)}
        return sorted(rows, key=lambda row: (row.seed, order.get(row.activation, len(order)), row.activation))

    # ---------------------------------------------------------------------------------------------------- what comes next

    def stages(self) -> Iterator[list[Job]]:
        """Yield all that is wanted as far as it is known, in order; a stage may depend on the results of those before it.

        The last stage yielded is the first one that is not done, if any: what follows is not known yet.
        """
        if self.closed:
            return
        own, given = self.settings, list(self.given)
        first = [self._training(label, self.home, 0) for label in given]
        first += [self._search(batch, seed) for batch in self.searched_by for seed in range(own.searches)]
        yield first
        if self.left(first):
            return
        early = min(own.seeds, own.retire_after)
        block = [self._training(label, self.home, seed) for seed in range(early) for label in self._trained]
        yield block
        if self.left(block):
            return
        going = [label for label in self._trained if label not in self.retired()]
        block = [self._training(label, self.home, seed) for seed in range(early, own.seeds) for label in going]
        yield block
        if self.left(block):
            return
        kept = self.kept()
        yield [self._training(label, self.home, seed) for seed in range(own.seeds, own.keep_seeds) for label in kept]
        for place in list(self.trainings_by)[1:]:
            yield [self._training(label, place, seed) for seed in range(own.place_seeds) for label in kept]

    def jobs(self) -> list[Job]:
        """Return all jobs that are known to be wanted, done or not, in order."""
        return [job for stage in self.stages() for job in stage]

    def left(self, jobs: list[Job]) -> list[Job]:
        """Return those of ``jobs`` that the ledger has no line of."""
        known = self.ledger.first()
        return [job for job in jobs if job.key not in known]

    def retired(self) -> dict[str, Retired]:
        """Return the activations that get no further seeds by the recipe's rule, tested once after ``retire_after`` seeds."""
        return {} if self.closed else campaign_choice.retired(self._held_out(), self.settings, self.default, self.measure)

    def kept(self) -> list[str]:
        """Return which activations train on: the default, the best found one, then the best others on held-out data."""
        found = [label for label, each in self.activations.items() if each.search_seed is not None]
        retired = self.retired()
        table = {label: seeds for label, seeds in self._held_out().items() if label not in retired}
        return campaign_choice.kept(table, self.settings, self.default, found, self.measure)

    @property
    def _trained(self) -> list[str]:
        return [label for label in self.activations if label not in self.same_as]

    def _held_out(self) -> dict[str, dict[int, float]]:
        """{label: {seed: held-out value}} where the searches ran, of what is compared: a ledger may know more functions."""
        table: dict[str, dict[int, float]] = {}
        for row in self.results("validation"):
            if row.place == self.home and row.has_figure and row.activation in self.activations:
                table.setdefault(row.activation, {})[row.seed] = row.value
        return table

    def _search(self, batch: str, seed: int) -> Job:
        label = search_label(batch, seed)
        return Job("search", label, None, "search", *self.home, seed, self.searched_by[batch], "architecture")

    def _training(self, label: str, place: Place, seed: int) -> Job:
        each, recipe = self.activations[label], self.trainings_by[place]
        return Job("training", label, each.genotype, function_of(each), *place, seed, recipe, "both")


def _unknown(line: Line) -> Contender:
    """What a line trained that the campaign no longer compares."""
    sha256 = line.function if line.genotype else None
    return Contender(Activation(f"other_{line.function[:8]}", sha256=sha256, kind="found"))


def _same_recipes(there: Campaign, recipe: Recipe) -> None:
    """RunError, with the keys that differ, where searches or trainings of the two recipes are not the same."""
    pairs = ((there.recipe.for_searching(), recipe.for_searching()), (there.recipe.for_training(), recipe.for_training()))
    for own, other in pairs:
        if own.sha256 != other.sha256:
            changed = differences(own.model_dump(mode="json"), other.model_dump(mode="json"))
            raise RunError(f"{there.folder} holds records of another recipe\n  " + "\n  ".join(changed[:5]))
