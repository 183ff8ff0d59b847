"""Select among several searches, because one search is one draw: short trainings tell which of them is worth having.

The field is what the searches found, equal functions once, and a random cell of the same space for each search. Each round
trains it with the same seeds as the default activation and drops the worse half; what is left trains once more, with seeds that
were not used to select it. Accuracy is measured on images held out of the training split: neither searches nor trainings see
them, and the test split is never used. If nothing is shown to beat the default activation, that is selected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..activations import genotype as genotypes
from ..activations.named import Activation
from ..config import strict_yaml
from ..config.recipe import parse_recipe
from ..config.schema import Recipe, TextData
from ..data.images import open_dataset
from ..errors import RecipeError, RunError
from ..jobs.job import Job, Outcome
from ..jobs.launch import run_jobs
from ..jobs.options import HERE, Launch
from ..runs import folder as runs
from ..runs.training import dataset_of
from ..utils.files import locked, write_json, write_whole
from ..zoo import lookup as zoo
from ..zoo.nearest import nearest_known
from . import contenders, estimate, ranking, report
from .contenders import Contender
from .results import Place, Result, parse, read_epochs, read_result, run_seconds
from .statistics import Contrast, by_seed, mean
from .verdict import Measure

FORMAT = "grafs-selection/1"
_MOST_HELD_OUT = 10_000  # images; a standard error of half a point, and hardly less with more


def held_out(recipe: Recipe) -> Recipe:
    """Return the recipe with data held out to select by, where it names none.

    Of text this is the validation part; of images a tenth of the training split, or as many as are trained on of those that
    ``train_images`` leaves unused.

    Raises:
        RecipeError: where the split has too few.
    """
    evaluate = recipe.evaluate.model_copy(update={"measure_both": False})
    recipe, data = recipe.model_copy(update={"evaluate": evaluate}), recipe.data
    if isinstance(data, TextData):
        return recipe.model_copy(update={"data": data.to_choose_by()})
    if data.validation_images:
        return recipe
    info = open_dataset(data.name).splits.get(data.train_split)
    there = info.num_samples if info else 0
    count = there // 10 if data.train_images is None else min(data.train_images, there - data.train_images)
    count = min(count, _MOST_HELD_OUT)
    if count < 1:
        raise RecipeError(
            f"data.validation_images: {data.name} has {there} training images and train_images takes all; selecting needs some "
            "that are held out: lower data.train_images"
        )
    return recipe.model_copy(update={"data": data.model_copy(update={"validation_images": count})})


def of_length(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with an evaluation of other length; its warm-up and learning-rate drops move in proportion.

    Args:
        recipe: of the training.
        epochs: how many.
    """
    old, share = recipe.evaluate, epochs / recipe.evaluate.epochs
    decay = tuple(dict.fromkeys(max(round(epoch * share), 1) for epoch in old.weights.decay_epochs))
    warmup = min(round(old.weights.warmup_epochs * share), epochs - 1)
    weights = old.weights.model_copy(update={"decay_epochs": decay, "warmup_epochs": warmup})
    return recipe.model_copy(update={"evaluate": old.model_copy(update={"epochs": epochs, "weights": weights})})


def search_jobs(recipe: Path, folder: Path, searches: int, options: Sequence[str] = ()) -> list[Job]:
    """Return a search for each seed from 0 on, in ``folder``/s<seed>.

    Args:
        recipe: its file.
        folder: of the batch.
        searches: how many.
        options: further arguments of each command.
    """
    jobs = []
    for seed in range(searches):
        own = folder / f"s{seed}"
        arguments = ("search", str(recipe), "--seed", str(seed), "--out", str(own), "--resume", "--quiet", *options)
        jobs.append(Job(f"search s{seed}", arguments, own))
    return jobs


@dataclass
class Selection:
    """A selection under way.

    Args:
        recipe: with held-out data.
        folder: of the selection.
        searches: how many.
        options: further arguments of each job's command.
        launch: where jobs run.
        failed: jobs so far.
        trained: every training, of all rounds.
        rounds: lines of the report.
    """

    recipe: Recipe
    folder: Path
    searches: int
    options: Sequence[str] = ()
    launch: Launch = HERE
    failed: list[Outcome] = field(default_factory=list)
    trained: list[Result] = field(default_factory=list)  # every training, of all rounds
    rounds: list[str] = field(default_factory=list)  # lines of the report

    def __post_init__(self) -> None:
        usual = contenders.default_activation(self.recipe.model)
        if usual is None:
            raise RecipeError(
                f"model: {self.recipe.model} is of an unknown family, so there is no default activation to compare with"
            )
        self.usual = Contender(Activation(usual))

    def search(self) -> list[Contender]:
        """Run the searches; returns what they found, equal functions once. RunError where none ended."""
        jobs = search_jobs(self.folder / "recipe.yaml", self.folder / "searches", self.searches, self.options)
        self._run(jobs)
        if not any(job.done for job in jobs):
            raise RunError(f"none of the {len(jobs)} searches ended: {self.failed[0].message}")
        return contenders.merged(contenders.given(str(self.folder / "searches")))

    def train(self, field: Sequence[Contender], epochs: int, seeds: Sequence[int]) -> list[Result]:
        """Train each contender with each seed; a training that fails is a row without a figure.

        Args:
            field: what to train.
            epochs: of each training.
            seeds: of the trainings.
        """
        recipe = of_length(self.recipe, epochs)
        file = self.folder / "recipes" / f"{epochs}_epochs.yaml"
        _write_once(file, recipe.to_yaml())
        jobs = {}
        for candidate in field:
            name = candidate.label
            if candidate.genotype:
                name = str(self.folder / "activations" / f"{candidate.label}.json")
                _write_once(Path(name), candidate.genotype)
            for seed in seeds:
                folder = self.folder / "trainings" / f"{epochs}_epochs" / candidate.label / f"s{seed}"
                arguments = ("train", str(file), "--activation", name, "--seed", str(seed), "--out", str(folder))
                job = Job(f"{candidate.label} s{seed}", (*arguments, "--resume", "--quiet", *self.options), folder)
                jobs[job] = (candidate, seed)
        self._run(list(jobs))
        place, figure = Place(recipe.model, recipe.data.name), recipe.data.figure
        rows = [
            read_result(job.folder, *what) if job.done else parse([], *what, "validation", figure, epochs)
            for job, (candidate, seed) in jobs.items()
            for what in [(candidate, place, seed)]
        ]
        self.trained += rows
        return rows

    def _run(self, jobs: Sequence[Job]) -> None:
        outcomes = run_jobs(jobs, self.launch)
        self.failed += [outcome for outcome in outcomes if outcome.state == "failed"]

    def halve(self, field: list[Contender], rows: list[Result]) -> list[Contender]:
        """Return the better half of ``field`` by its mean; one that lost a training is last.

        Args:
            field: contenders.
            rows: their trainings of this round, and those of the default activation.
        """
        measure, known = rows[0].measure, {each.label: each for each in field}
        own = {label: _sortable(seeds, measure) for (label, _), seeds in by_seed(rows).items()}
        ordered = [known[label] for label in measure.best_first({label: own[label] for label in known})]
        left = ordered[: max(len(ordered) // 2, self.recipe.select.keep)]
        shown = ", ".join(f"{each.label} {measure.text(own[each.label])}" for each in ordered)
        usual = f"{self.usual.label} {measure.text(own[self.usual.label])}"
        self.rounds.append(f"round {len(self.rounds) + 1}: {shown} beside {usual} (mean {measure.noun}); {len(left)} remain")
        return left


def run_searches(
    recipe: Recipe, out: str | Path, searches: int, *, options: Sequence[str] = (), launch: Launch = HERE
) -> list[Outcome]:  # fmt: skip
    """Search with each seed from 0 on, each in ``out``/s<seed>: a batch of searches, as ``transfer`` takes it.

    Args:
        recipe: of the searches.
        out: the folder.
        searches: how many.
        options: further arguments of each command.
        launch: where jobs run.

    Returns:
        The searches that failed.

    Raises:
        RunError: where the folder is in use, or holds searches of another recipe.
    """
    folder = Path(out).absolute()
    with locked(folder):
        _check_recipe(folder, recipe, {}, {})
        _write_once(folder / "recipe.yaml", recipe.to_yaml())
        outcomes = run_jobs(search_jobs(folder / "recipe.yaml", folder, searches, options), launch)
        return [outcome for outcome in outcomes if outcome.state == "failed"]


def run_selection(
    recipe: Recipe, out: str | Path, searches: int, *, options: Sequence[str] = (), launch: Launch = HERE
) -> dict[str, Any]:
    """Search several times and select; a finished selection is only read, a half-done one resumes.

    Args:
        recipe: with a ``select`` section.
        out: gets recipe.yaml, searches/s<seed>, trainings/, report.md, final/ (the report of the final trainings), and
            genotype.json where a found function is recommended.
        searches: how many.
        options: further arguments of each job's command.
        launch: where jobs run.

    Returns:
        The summary, which is in ``out``/summary.json too.

    Raises:
        RunError: where the folder is in use or another selection's.
    """
    folder, recipe = Path(out).absolute(), held_out(recipe)
    _check_folder(folder, recipe, searches)
    with locked(folder):
        if (folder / "summary.json").exists():
            return runs.read_json(folder / "summary.json")
        write_json(folder / "selection.json", {"format": FORMAT, "searches": searches, "recipe_sha256": recipe.sha256})
        _write_once(folder / "recipe.yaml", recipe.to_yaml())
        selection = Selection(recipe, folder, searches, options, launch)
        return _choose(selection)


def _choose(selection: Selection) -> dict[str, Any]:
    settings, epochs = selection.recipe.select, selection.recipe.evaluate.epochs
    found = selection.search()
    ended = sum(1 + len(each.also) for each in found)
    cells = contenders.random_cells(ended, selection.recipe.transfer.random_seed)
    random = [Contender(Activation(f"random{number}", cell, kind="random")) for number, cell in enumerate(cells)]
    field, rows, first = [*found, *random], [], None
    while len(field) > settings.keep:
        number = len(selection.rounds)
        seeds = range(number * settings.seeds, (number + 1) * settings.seeds)
        rows += selection.train([*field, selection.usual], settings.epochs or max(epochs // 4, 1), seeds)
        first = first or ranking.contrast(rows, {each.label: 1 + len(each.also) for each in found})
        field = selection.halve(field, [row for row in rows if row.activation in {*_labels(field), selection.usual.label}])
    used = len(selection.rounds) * settings.seeds
    fresh = range(used, used + settings.final_seeds)
    final = selection.train([*field, selection.usual], settings.final_epochs or epochs, fresh)
    ranked = ranking.rank(final, {selection.recipe.model: selection.usual.label}, chosen_on=range(used))
    chosen, why = ranking.recommend(ranked)
    return _finish(selection, found, {each.label: each for each in field}, final, ranked, first, chosen, why)


def _finish(
    selection: Selection, found: Sequence[Contender], field: Mapping[str, Contender], final: list[Result],
    ranked: ranking.Ranking, first: Contrast | None, chosen: str, why: str,
) -> dict[str, Any]:  # fmt: skip
    folder, recipe = selection.folder, selection.recipe
    usual = [row for row in final if row.activation == selection.usual.label]
    cost = estimate.costs(_searching(selection), selection.trained, usual, recipe.evaluate.epochs)
    genotype = field[chosen].genotype if chosen in field else None
    table = [
        {
            "activation": row.activation, "kind": row.kind, "formula": field[row.activation].activation.formula,
            "verdict": row.verdict.sentence(), "mean": own.mean, "low": own.low, "high": own.high, "n": own.n,
            "p_adjusted": row.p,
        }
        for row in ranked.rows
        for own in [row.verdict.difference]
    ]  # fmt: skip
    compared = ranking.contrast_sentence(first, ranked.measure) if first else ranking.NOT_COMPARED
    summary = {
        "kind": "selection", "model": recipe.model, "data": recipe.data.name, "measured_on": "validation",
        **({"validation_images": count} if (count := recipe.data.validation_images) else {}),
        "searches": selection.searches, "distinct": len(found),
        "usual": ranked.usual, "recommended": chosen, "why": why, "ranking": table, "rounds": selection.rounds,
        "searched_against_random": compared, "cost": cost,
        "failed": [f"{outcome.job.name}: {outcome.message}" for outcome in selection.failed],
    }  # fmt: skip
    info = dataset_of(recipe.data)
    classes = info.classes if info else None
    report.write_report(
        # what was picked from a batch doesn't stand for it
        [replace(row, batch=None) for row in final], folder / "final",
        classes={recipe.data.name: len(classes)} if classes else None,
        usual={recipe.model: ranked.usual}, title=f"The final trainings of the selection in {folder.name}",
        failed=[(outcome.job.name, outcome.message) for outcome in selection.failed],
        formulas={label: each.activation.formula for label, each in field.items()},
        notes=["The test split: everything is measured on held-out training data, to select by; claims need the test split."],
    )  # fmt: skip
    report.write_results(selection.trained, folder / "trainings.csv")
    write_whole(folder / "report.md", _text(selection, found, summary))
    if genotype:
        genotypes.save(genotype, folder / "genotype.json")
    write_json(folder / "summary.json", summary)
    return summary


def _searching(selection: Selection) -> float:
    """Seconds of all searches."""
    seconds = 0.0
    for seed in range(selection.searches):
        seconds += run_seconds(read_epochs(selection.folder / "searches" / f"s{seed}"), search=True)
    return seconds


def _sortable(seeds: Mapping[int, float], measure: Measure) -> float:
    own, worst = mean(seeds), math.inf if measure.lower_is_better else -math.inf
    return worst if own.lost or own.mean is None else own.mean


def _labels(field: Sequence[Contender]) -> list[str]:
    return [each.label for each in field]


def _text(selection: Selection, found: Sequence[Contender], summary: Mapping[str, Any]) -> str:
    cost, recipe = summary["cost"], selection.recipe
    lines = [
        f"# Selection among {selection.searches} searches: {recipe.model} on {recipe.data.name}", "",
        f"**{summary['why']}**", "",
        f"Measured on {recipe.data.held_out} held out of the training split; the test split was not used. "
        f"The total cost was {cost['full_trainings']} full trainings ({recipe.evaluate.epochs} epochs): the searches "
        f"{cost['search_seconds']:.0f} s, the trainings {cost['training_seconds']:.0f} s, one full training "
        f"{cost['full_training_seconds'] or math.nan:.0f} s.", "",
        "## Ranking", "", f"| | formula | compared with {summary['usual']} |", "|---|---|---|",
        *(f"| {row['activation']} | `{row['formula'].replace('|', '¦')}` | {row['verdict']} |" for row in summary["ranking"]),
        "", "Figures and pictures of these trainings: [final/report.md](final/report.md).", "",
        "## Rounds", "", *(f"- {line}" for line in summary["rounds"]), "",
        f"In round 1, {summary['searched_against_random']}.", "",
        "## Searches", "", "| | ended in | the same as | nearest known | search seeds |", "|---|---|---|---|---|",
        *(_search_row(each) for each in found),
        "", *(f"- failed: {line}" for line in summary["failed"]),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _search_row(found: Contender) -> str:
    assert found.genotype
    same, seeds = zoo.known_as(found.genotype) or "", ", ".join(map(str, (found.search_seed, *found.also)))
    formula = found.activation.formula.replace("|", "¦")
    return f"| {found.label} | `{formula}` | {same} | {nearest_known(found.genotype)} | {seeds} |"


def _check_folder(folder: Path, recipe: Recipe, searches: int) -> None:
    """RunError where ``folder`` holds something else than this choice."""
    inside = [item.name for item in folder.iterdir() if not item.name.startswith(".")] if folder.is_dir() else []
    if inside and "selection.json" not in inside:
        raise RunError(f"{folder} is not empty and is no selection; name an empty or a new folder with --out")
    if inside:
        there = runs.read_json(folder / "selection.json").get("searches")
        _check_recipe(folder, recipe, {"searches": there}, {"searches": searches})


def _check_recipe(folder: Path, recipe: Recipe, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """RunError, naming the keys, where the recipe in ``folder`` or another fact differs."""
    file = folder / "recipe.yaml"
    if file.exists():
        there = {**there, "recipe": parse_recipe(strict_yaml.read(file), str(file)).model_dump(mode="json")}
        here = {**here, "recipe": recipe.model_dump(mode="json")}
    if differing := runs.differences(dict(there), dict(here)):
        raise RunError(f"{folder} belongs to another recipe or number; name another --out\n  " + "\n  ".join(differing[:5]))


def _write_once(path: Path, content: Any) -> None:
    if not path.exists():
        genotypes.save(content, path) if isinstance(content, genotypes.Genotype) else write_whole(path, content)
