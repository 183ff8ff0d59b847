"""Select among several searches, because one search is one draw: short trainings tell which of them is worth having.

The field is what the searches found: equal functions once, without those that the formula rules out, and with random cells
where they are asked for. Two rounds of short trainings with the same seeds reduce it, beside the default activation, and what
is left trains in full with seeds that were not used to select it, one more at a time, until the verdict is clear. Accuracy is
measured on images held out of the training split: neither searches nor trainings see them, and the test split is never used.
If nothing is shown to beat the default activation, that is selected.
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
from ..config.recipe import of_length, parse_recipe
from ..config.schema import Recipe
from ..errors import RecipeError, RunError
from ..jobs.job import Job, Outcome
from ..jobs.launch import run_jobs
from ..jobs.options import HERE, Launch
from ..runs import folder as runs
from ..runs.training import dataset_of, held_out
from ..utils.files import locked, write_json, write_whole
from ..zoo import lookup as zoo
from ..zoo.nearest import nearest_known
from . import contenders, estimate, ranking, report, report_html, report_text
from .contenders import Contender
from .results import Place, Result, parse, read_epochs, read_result, run_seconds
from .statistics import by_seed, mean
from .verdict import Measure

FORMAT = "grafs-selection/2"


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
        trained: every training by label, epochs and seed; one that several rounds need is there once.
        rounds: lines of the report.
    """

    recipe: Recipe
    folder: Path
    searches: int
    options: Sequence[str] = ()
    launch: Launch = HERE
    failed: list[Outcome] = field(default_factory=list)
    trained: dict[tuple[str, int, int], Result] = field(default_factory=dict)
    rounds: list[str] = field(default_factory=list)

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
        """Train each contender with each seed, unless an earlier round did; a training that fails is a row without a figure.

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
                folder = self._training_folder(candidate.label, epochs, seed)
                arguments = ("train", str(file), "--activation", name, "--seed", str(seed), "--out", str(folder))
                job = Job(f"{candidate.label} s{seed}", (*arguments, "--resume", "--quiet", *self.options), folder)
                jobs[job] = (candidate, seed)
        self._run(list(jobs))
        place, figure = Place(recipe.model, recipe.data.name), recipe.data.figure
        rows = {
            (candidate.label, epochs, seed): (
                read_result(job.folder, candidate, place, seed)
                if job.done
                else parse([], candidate, place, seed, "validation", figure, epochs)
            )
            for job, (candidate, seed) in jobs.items()
        }
        self.trained |= rows
        return list(rows.values())

    def training_folder(self, row: Result) -> Path:
        """Return the folder of a training of this selection."""
        return self._training_folder(row.activation, row.epochs, row.seed)

    def _training_folder(self, label: str, epochs: int, seed: int) -> Path:
        return self.folder / "trainings" / f"{epochs}_epochs" / label / f"s{seed}"

    def _run(self, jobs: Sequence[Job]) -> None:
        outcomes = run_jobs(jobs, self.launch)
        self.failed += [outcome for outcome in outcomes if outcome.state == "failed"]

    @property
    def schedule(self) -> list[tuple[int, range]]:
        """The epochs and the seeds of each round; where both are equally long, the second adds seeds to those of the first."""
        settings, full = self.recipe.select, self.recipe.evaluate.epochs
        last = settings.epochs or max(full // 4, 1)
        first = max(last // 2, 1)
        return [(first, range(settings.seeds)), (last, range(settings.seeds * (2 if first == last else 1)))]

    def halve(self, field: list[Contender]) -> list[Contender]:
        """Train ``field`` and the default activation; returns the better part by the mean. One that lost a training is last.

        Args:
            field: contenders, more than ``select.keep``.
        """
        epochs, seeds = self.schedule[len(self.rounds)]
        rows = self.train([*field, self.usual], epochs, seeds)
        measure, known = rows[0].measure, {each.label: each for each in field}
        own = {label: _sortable(values, measure) for (label, _), values in by_seed(rows).items()}
        ordered = [known[label] for label in measure.best_first({label: own[label] for label in known})]
        half = 0 if self.rounds else math.ceil(len(ordered) / 2)
        left = ordered[: max(half, self.recipe.select.keep)]
        shown = ", ".join(f"{each.label} {measure.text(own[each.label])}" for each in ordered)
        usual = f"{self.usual.label} {measure.text(own[self.usual.label])}"
        length = f"{epochs} epoch{'s' * (epochs > 1)}, {len(seeds)} seed{'s' * (len(seeds) > 1)}"
        self.rounds.append(
            f"round {len(self.rounds) + 1} ({length}): {shown} beside {usual} (mean {measure.noun}); {len(left)} "
            f"remain{'s' * (len(left) == 1)}"
        )
        return left

    def decide(self, field: Sequence[Contender], first: int) -> tuple[list[Result], ranking.Ranking, str]:
        """Train what is left in full with fresh seeds, until one is shown to be better than the default or none can be.

        Args:
            field: what is left.
            first: the first of the fresh seeds.

        Returns:
            The trainings, their ranking, and a sentence on when they ended.
        """
        most, epochs = self.recipe.select.final_seeds, self.recipe.select.final_epochs or self.recipe.evaluate.epochs
        usual = {self.recipe.model: self.usual.label}
        for count in range(2, most + 1):
            rows = self.train([*field, self.usual], epochs, range(first, first + count))
            ranked = replace(ranking.rank(rows, usual, level=ranking.look_level(count, most)), fresh=True)
            if ranking.is_settled(ranked, most - count, most):
                break
        return rows, ranked, ranking.looks_sentence(ranked, most - count, most)


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
        out: gets recipe.yaml, searches/s<seed>, trainings/, report.md, report.html, final/ (the report of the final trainings),
            and
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
    settings, usual = selection.recipe.select, selection.usual
    found = selection.search()
    worth, screened = contenders.screened(found, usual.label)
    if not worth:
        reason = f"Keep {usual.label}: none of the {len(found)} functions that the searches ended in is worth a training."
        return _finish(selection, found, screened, why=reason)
    cells = contenders.random_cells(settings.controls, selection.recipe.transfer.random_seed)
    field = [*worth, *(Contender(Activation(f"random{n}", cell, kind="random")) for n, cell in enumerate(cells))]
    while len(field) > settings.keep and len(selection.rounds) < len(selection.schedule):
        field = selection.halve(field)
    first = list(selection.trained.values())
    used = max((row.seed + 1 for row in first), default=0)
    final, ranked, ended = selection.decide(field, used)
    chosen, why = ranking.recommend(ranked)
    own = {each.label: each for each in field}
    return _finish(selection, found, screened, own, final, ranked, chosen, f"{why} {ended}".strip())


def _contrast(selection: Selection, found: Sequence[Contender], screened: Mapping[str, str]) -> str | None:
    """What the first round says of searched and random activations; None without random cells."""
    if not selection.recipe.select.controls:
        return None
    epochs, seeds = selection.schedule[0]
    first = [row for (_, length, seed), row in selection.trained.items() if length == epochs and seed in seeds]
    rows = first if selection.rounds else []
    counts = {each.label: 1 + len(each.also) for each in found}
    # what is the default activation was trained as such
    counts[selection.usual.label] = sum(counts[label] for label, why in screened.items() if why.startswith("the same function"))
    own = ranking.contrast(rows, counts)
    return ranking.contrast_sentence(own, first[0].measure) if own else ranking.NOT_COMPARED


def _finish(
    selection: Selection, found: Sequence[Contender], screened: Mapping[str, str], field: Mapping[str, Contender] | None = None,
    final: Sequence[Result] = (), ranked: ranking.Ranking | None = None, chosen: str | None = None, why: str = "",
) -> dict[str, Any]:  # fmt: skip
    folder, recipe, field, chosen = selection.folder, selection.recipe, field or {}, chosen or selection.usual.label
    usual = [row for row in final if row.activation == selection.usual.label]
    trained = list(selection.trained.values())
    cost = estimate.costs(_searching(selection), trained, usual, recipe.evaluate.epochs)
    genotype = field[chosen].genotype if chosen in field else None
    table = [
        {
            "activation": row.activation, "kind": row.kind, "formula": field[row.activation].activation.formula,
            "verdict": row.verdict.sentence(), "mean": own.mean, "low": own.low, "high": own.high, "n": own.n,
            "p_adjusted": row.p,
        }
        for row in (ranked.rows if ranked else ())
        for own in [row.verdict.difference]
    ]  # fmt: skip
    contrast = _contrast(selection, found, screened) if trained else None
    summary = {
        "kind": "selection", "model": recipe.model, "data": recipe.data.name, "measured_on": "validation",
        **({"validation_images": count} if (count := recipe.data.validation_images) else {}),
        "searches": selection.searches, "distinct": len(found), "searched": [_searched(each, screened) for each in found],
        "usual": selection.usual.label, "recommended": chosen, "why": why, "ranking": table, "rounds": selection.rounds,
        **({"level": ranked.level} if ranked else {}),
        **({"searched_against_random": contrast} if contrast else {}), "cost": cost,
        "failed": list(dict.fromkeys(f"{outcome.job.name}: {outcome.message}" for outcome in selection.failed)),
    }  # fmt: skip
    if final:
        _write_final(selection, field, final)
    report.write_results(trained, folder / "trainings.csv")
    write_whole(folder / "report.md", report_text.selection(summary, recipe.data.held_out, recipe.evaluate.epochs))
    report.write_selection(folder, summary)
    if genotype:
        genotypes.save(genotype, folder / "genotype.json")
    write_json(folder / "summary.json", summary)
    return summary


def _write_final(selection: Selection, field: Mapping[str, Contender], final: Sequence[Result]) -> None:
    """Write the report of the final trainings."""
    info = dataset_of(selection.recipe.data)
    classes = info.classes if info else None
    functions = {label: each.genotype for label, each in field.items() if each.genotype}
    report.write_report(
        # what was picked from a batch doesn't stand for it
        [replace(row, batch=None) for row in final], selection.folder / "final",
        details=report_html.Details(
            selection.recipe.to_yaml(), functions, report_html.curves_of(final, selection.training_folder)
        ),
        classes={selection.recipe.data.name: len(classes)} if classes else None,
        usual={selection.recipe.model: selection.usual.label},
        title=f"The final trainings of the selection in {selection.folder.name}",
        failed=[(outcome.job.name, outcome.message) for outcome in selection.failed],
        formulas={label: each.activation.formula for label, each in field.items()},
        notes=[
            "The test split: everything is measured on held-out training data, to select by; claims need the test split.",
            "Intervals widened for looking at the trainings after each seed: those are in the report of the selection.",
        ],
    )  # fmt: skip


def _searching(selection: Selection) -> float:
    """Seconds of all searches."""
    seconds = 0.0
    for seed in range(selection.searches):
        seconds += run_seconds(read_epochs(selection.folder / "searches" / f"s{seed}"), search=True)
    return seconds


def _sortable(seeds: Mapping[int, float], measure: Measure) -> float:
    own, worst = mean(seeds), math.inf if measure.lower_is_better else -math.inf
    return worst if own.lost or own.mean is None else own.mean


def _searched(found: Contender, screened: Mapping[str, str]) -> dict[str, Any]:
    assert found.genotype
    return {
        "activation": found.label, "formula": found.activation.formula, "seeds": [found.search_seed, *found.also],
        "same_as": zoo.known_as(found.genotype), "nearest": str(nearest_known(found.genotype)),
        "not_trained": screened.get(found.label),
    }  # fmt: skip


def _check_folder(folder: Path, recipe: Recipe, searches: int) -> None:
    """RunError where ``folder`` holds something else than this choice, or half of one that was made in another way."""
    inside = [item.name for item in folder.iterdir() if not item.name.startswith(".")] if folder.is_dir() else []
    if inside and "selection.json" not in inside:
        raise RunError(f"{folder} is not empty and is no selection; name an empty or a new folder with --out")
    if not inside:
        return
    about = runs.read_json(folder / "selection.json")
    if (form := about.get("format")) != FORMAT:
        if "summary.json" not in inside:
            raise RunError(
                f"{folder}/selection.json: a half-done selection of the format {form}, and this version selects otherwise, "
                f"{FORMAT}: finish it with the version that began it, or name a new folder with --out; to compare what its "
                f"searches found: grafs-timm transfer RECIPE --activation {folder}/searches"
            )
        there = parse_recipe(strict_yaml.read(folder / "recipe.yaml"), str(folder / "recipe.yaml"))
        recipe = recipe.model_copy(update={"select": there.select})  # finished: only read, however it was selected
    _check_recipe(folder, recipe, {"searches": about.get("searches")}, {"searches": searches})


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
