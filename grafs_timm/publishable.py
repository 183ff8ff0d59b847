"""From the evidence of a campaign to what an entry says of it: every number of a `Batch`, computed anew each time."""

from __future__ import annotations

import statistics as medians
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from . import candidates, evidence, formula, ranking, selection, statistics, zoo
from .entry import Batch, Choice, Cost, Difference, Evidence, Metric, Provenance, Search, Spread
from .errors import GrafsError, RunError
from .evidence import Records, SearchRecord
from .formula import Genotype
from .markdown import length
from .settings import Recipe
from .statistics import Place, Result

_PAPERS_WINDOW, _PAPERS_STEPS = 256, 10_000  # of a GPT's training (arXiv 2408.06820)
MIN_SEARCHES, MIN_SEEDS, MIN_RANDOM = 5, 3, 3  # below these nothing is published
_DIGITS = 6  # decimals of what is computed: far below what any count of images can tell


def batch(records: Records, named: Evidence, label: str | None = None) -> Batch:
    """What ``records`` give for the function called ``label``, by default the `best` of the searches.

    RunError where there is nothing to publish, or the records disagree with one another.
    """
    label = label or best(records)
    usual, rows = _usual(records), with_twins(checked(records))
    recipe = records.recipe
    return Batch(
        label=label, usual=usual, measure=rows[0].compared_by,
        train_images=recipe.data.train_images, epochs=recipe.evaluate.epochs,
        steps_per_epoch=recipe.evaluate.steps_per_epoch,
        provenance=_provenance(records, search_of(records, label)), choice=choice(records), cost=cost(records, label),
        searches=tuple(_search(records, each, label) for each in records.searches),
        metrics=metrics(rows, records.matrix.usual()), spreads=spreads(rows, records.matrix.usual()), evidence=named,
    )  # fmt: skip


def search_of(records: Records, label: str) -> SearchRecord:
    """The search called ``label``. RunError where there is none."""
    for each in records.searches:
        if label_of(each.seed) == label:
            return each
    known = ", ".join(label_of(each.seed) for each in records.searches)
    raise RunError(f"{records.folder}: no search is called {label!r}; there are: {known}")


def label_of(seed: int) -> str:
    """What the search of that seed is called in a campaign's matrix."""
    return f"searches_s{seed}"


def best(records: Records) -> str:
    """The label of the search to publish, as `best_of` its choice."""
    try:
        return best_of({label_of(each.seed): each.genotype for each in records.searches}, records.choice, records.choosing)
    except RunError as error:
        raise RunError(f"{records.folder}: {error}") from error


def best_of(searches: Mapping[str, Genotype], trainings: Sequence[Result], choosing: Recipe) -> str:
    """The label of the search that the choice ranks best, of those whose function is no usual activation.

    ``trainings`` are those of the choice. Where none came to the last of them, the one that was best in the longest it had.
    RunError where every search ended in a usual activation.
    """
    new = [label for label, genotype in searches.items() if usual_as(genotype) is None]
    rows = [row for row in trainings if row.activation in new and row.has_figure]
    if not rows:
        raise RunError("every search ended in a usual activation or failed: there is nothing to publish")
    final = _final_seeds(trainings, choosing)
    scores: dict[tuple[bool, int, str], list[float]] = {}
    for row in rows:
        scores.setdefault((row.seed in final, row.epochs, row.activation), []).append(row.score)
    return max(scores, key=lambda key: (*key[:2], medians.fmean(scores[key])))[2]


def usual_as(genotype: Genotype) -> str | None:
    """The usual activation that is the same function up to an outer and an inner scale, if there is one."""
    for name in zoo.USUAL:
        if formula.same_function(genotype, zoo.resolve(name).layer()):
            return name
    return None


def lacking(records: Records) -> list[str]:
    """What keeps a batch from being published, each in a sentence; [] where nothing does."""
    asked, said = records.recipe.transfer, []
    if len(records.searches) < MIN_SEARCHES:
        said.append(f"{len(records.searches)} searches; at least {MIN_SEARCHES} are published, losers too")
    missing = [name for name in zoo.USUAL if name not in records.matrix.activations]
    if missing:
        said.append(f"the matrix has no {', '.join(missing)}: every usual activation stands beside a found one")
    random = sum(each.kind == "random" for each in records.matrix.activations.values())
    if random < MIN_RANDOM:
        said.append(f"{random} random cells in the matrix; at least {MIN_RANDOM} are the control")
    if asked.seeds < MIN_SEEDS:
        said.append(f"{asked.seeds} training seeds a cell; at least {MIN_SEEDS} tell a spread")
    table = statistics.scores(records.trainings)
    home = _home(records)
    try:
        label: str | None = _first_label(records, best(records))
    except RunError as error:
        said, label = [*said, str(error)], None
    for place in [Place(model, data) for model in records.matrix.models for data in records.matrix.data]:
        for name, each in records.matrix.activations.items():
            if each.kind == "found" and name != label and place != home:
                continue  # losers are measured where they were searched
            there = sum(value == value for value in table.get((name, place), {}).values())
            if there < records.matrix.seeds:
                said.append(f"{name}, {place}: {there} of {records.matrix.seeds} trainings")
    return said


# --- the trainings ---


def with_twins(records: Records) -> list[Result]:
    """The trainings, and once more for every further search that ended in the same function: the spread counts each search."""
    rows = []
    for row in records.trainings:
        rows.append(row)
        twins = records.matrix.activations[row.activation].twins()
        rows += [replace(row, activation=label, search_seed=seed) for label, seed in twins.items()]
    return rows


def metrics(rows: Sequence[Result], usual: Mapping[str, str]) -> tuple[Metric, ...]:
    """One for each activation at each place, the difference to the model's usual activation in each."""
    statistics.check(rows)
    table, known, found = statistics.scores(rows), statistics.activations(rows), []
    for place in statistics.places(rows):
        theirs = table.get((usual.get(place.model, ""), place), {})
        for label, first in known.items():
            own = table.get((label, place))
            mean = statistics.mean(own) if own else None
            if not own or mean is None or mean.mean is None:
                continue
            apart = usual.get(place.model)
            found.append(
                Metric(
                    model=place.model, data=place.data, activation=label, kind=first.kind, search_seed=first.search_seed,
                    n=mean.n, mean=_round(first.measure.sign * mean.mean), sd=_rounded(mean.sd),
                    each={str(seed): first.measure.sign * value for seed, value in sorted(own.items()) if value == value},
                    difference=_difference(apart, statistics.difference(own, theirs)) if apart and label != apart else None,
                )
            )  # fmt: skip
    return tuple(found)


def spreads(rows: Sequence[Result], usual: Mapping[str, str]) -> tuple[Spread, ...]:
    """One for all searches and one for all random cells of each place that has several of them."""
    table, found = statistics.scores(rows), []
    for place in statistics.places(rows):
        theirs = table.get((usual.get(place.model, ""), place), {})
        for group in statistics.groups(rows):
            members = [table[label, place] for label in group.members if (label, place) in table]
            own = statistics.group_mean(members)
            if own.members < 2 or own.mean is None or group.kind == "baseline":
                continue
            apart = usual.get(place.model)
            found.append(
                Spread(
                    model=place.model, data=place.data, kind=group.kind, members=own.members,
                    mean=_round(rows[0].measure.sign * own.mean),
                    sd=_rounded(own.sd), seed_sd=_rounded(own.seed_sd),
                    difference=_difference(apart, statistics.group_difference(members, theirs)) if apart else None,
                )
            )  # fmt: skip
    return tuple(found)


def _difference(to: str, own: statistics.Difference) -> Difference | None:
    if own.mean is None:
        return None
    return Difference(
        to=to, mean=_round(own.mean), low=_rounded(own.low), high=_rounded(own.high), p=_rounded(own.p), n=own.n
    )  # fmt: skip


def _round(value: float) -> float:
    return round(value, _DIGITS)


def _rounded(value: float | None) -> float | None:
    return None if value is None else _round(value)


# --- searches and choice ---


def choice(records: Records) -> Choice:
    """The words of the choice: the trainings of the first seeds halved the field, those of the last ones rank it."""
    recipe, final = records.choosing, _final_seeds(records.choice, records.choosing)
    usual = _usual(records)
    last = [row for row in records.choice if row.seed in final]
    first = [row for row in records.choice if row.seed < recipe.select.seeds and row.seed not in final]
    before = {row.seed for row in records.choice} - final
    _, why = ranking.recommend(ranking.rank(last, {recipe.model: usual}, chosen_on=before))
    contrast = selection.contrast(first, _counts(records)) if first else None
    words = ranking.contrast_verdict(contrast, first[0].measure) if contrast else selection.NOT_COMPARED
    spent = selection.costs(
        sum(each.seconds for each in records.searches), records.choice, [row for row in last if row.activation == usual],
        recipe.evaluate.epochs,
    )  # fmt: skip
    return Choice(why=why, full_trainings=spent["full_trainings"], searched_against_random=words)


def _counts(records: Records) -> dict[str, int]:
    """{label: how many searches ended in that function}."""
    return {label: 1 + len(each.also) for label, each in records.matrix.activations.items() if each.kind == "found"}


def _final_seeds(trainings: Sequence[Result], choosing: Recipe) -> set[int]:
    return set(sorted({row.seed for row in trainings})[-choosing.select.final_seeds :])


def _search(records: Records, record: SearchRecord, chosen: str) -> Search:
    label = label_of(record.seed)
    first = _first_label(records, label)
    return Search(
        seed=record.seed, label=label, formula=record.genotype.text, sha256=record.genotype.sha256,
        genotype=record.genotype.to_dict(), same_as=usual_as(record.genotype) or (None if first == label else first),
        held_out=record.held_out, seconds=_round(record.seconds), chosen=label == chosen,
    )  # fmt: skip


def _provenance(records: Records, search: SearchRecord) -> Provenance:
    recipe, home = records.choosing, _home(records)
    return Provenance(
        recipe=evidence.SELECTION, recipe_sha256=evidence.file_sha256(records.folder / evidence.SELECTION),
        model=home.model,
        data=home.data, search_seed=search.seed, epochs=search.epochs,
        steps_per_epoch=records.choosing.search.steps_per_epoch, seconds=_round(search.seconds),
        versions=dict(search.versions), hardware=records.about["hardware"], commit=records.about["commit"],
        date=records.about["date"], budget=budget(records.recipe, len(records.searches), recipe.search.epochs),
    )  # fmt: skip


def budget(recipe: Recipe, searches: int, search_epochs: int) -> str:
    """What a reader must know before comparing: «reduced: ...» where not all images are used, or not at their size; of text,
    where windows or trainings are shorter than the paper's. Also what models are built with that differs from their name's.
    """
    data, seeds = recipe.data, recipe.transfer.seeds
    spent = (
        f"{searches} searches of {length(search_epochs, recipe.search.steps_per_epoch)}, trainings of "
        f"{length(recipe.evaluate.epochs, recipe.evaluate.steps_per_epoch)} with {seeds} seeds each"
    )
    kwargs = ", ".join(f"{key}={value}" for key, value in recipe.model_kwargs.items())
    built = f"; every model built with {kwargs}" if kwargs else ""
    if data.text:
        steps = recipe.evaluate.epochs * (recipe.evaluate.steps_per_epoch or _PAPERS_STEPS)
        reduced = data.text.context < _PAPERS_WINDOW or steps < _PAPERS_STEPS
        text = f"{PurePath(data.name).name} in windows of {data.text.context} tokens, {recipe.evaluate.batch_size} a step"
        return f"{'reduced' if reduced else 'full'}: {text}{built}; {spent}"
    reduced = data.train_images is not None or data.image_size is not None
    images = f"{data.train_images:,} training images" if data.train_images else "all training images"
    size = f" at {data.image_size}×{data.image_size} pixels" if data.image_size else ""
    return f"{'reduced' if reduced else 'full'}: {images}{size}{built}; {spent}"


def cost(records: Records, label: str) -> Cost | None:
    """Forward and backward beside GELU in float32; None where nothing was timed. RunError where the label was not timed."""
    if not records.cost:
        return None
    rows = {row["subject"]: row for row in records.cost if row["what"] == "full" and row["dtype"] == "float32"}
    try:
        own, gelu = rows[label], rows["gelu"]
    except KeyError as error:
        raise RunError(f"{records.folder / evidence.COST} has no timing of {error}; it has {', '.join(rows)}") from error
    threads = f", {own['threads']} thread" + ("" if own.get("threads") == "1" else "s") if own.get("threads") else ""
    return Cost(
        ratio=_round(float(own["median_ms"]) / float(gelu["median_ms"])),
        device=f"{own['device']} ({own.get('hardware') or 'unknown'}{threads}), float32, {own.get('shape')} elements",
    )


# --- what the records agree on ---


def _home(records: Records) -> Place:
    """The labels of the place where the searches ran."""
    model = _label(records.matrix.models, records.recipe.model, "model")
    data = _label(records.matrix.data, records.recipe.data, "data section")
    return Place(model, data)


def _label(labels: Mapping[str, Any], wanted: Any, what: str) -> str:
    for label, each in labels.items():
        if each == wanted:
            return label
    raise RunError(f"the matrix does not hold the {what} that the searches ran with, {getattr(wanted, 'name', wanted)}")


def _usual(records: Records) -> str:
    usual = candidates.usual(records.recipe.model)
    if usual is None:
        raise RunError(f"{records.recipe.model} is of no known family, so there is no usual activation to compare with")
    return usual


def _first_label(records: Records, label: str) -> str:
    """The label under which the matrix trains the function of the search ``label``: its own, or its twin's."""
    for name, each in records.matrix.activations.items():
        if label == name or label in each.twins():
            return name
    raise RunError(f"{records.folder}: the matrix does not hold {label}")


def checked(records: Records) -> Records:
    """RunError where the files tell of different searches, or of trainings that the matrix does not mean."""
    found = {each.search_seed: each.sha256 for each in records.matrix.activations.values() if each.kind == "found"}
    twins = {seed for each in records.matrix.activations.values() for seed in each.also}
    own = {each.seed: each.genotype.sha256 for each in records.searches}
    if set(found) | twins != set(own) or any(own[seed] != sha for seed, sha in found.items() if seed is not None):
        raise RunError(f"{records.folder}: searches.jsonl and matrix.json tell of different searches")
    for row in records.trainings:
        if row.model not in records.matrix.models or row.data not in records.matrix.data:
            raise RunError(f"{records.folder}: trainings.jsonl has a training on {row.place}, which the matrix does not hold")
        if row.epochs != records.recipe.evaluate.epochs:
            what = f"{row.activation}, {row.place}, seed {row.seed}: {row.epochs} epochs in its log"
            raise RunError(f"{records.folder}: {what}, {records.recipe.evaluate.epochs} in the recipe")
    return records


def same_function(a: Genotype, b: Genotype) -> bool:
    """Up to an outer and an inner scale; where one isn't finite everywhere, the same genotype only."""
    try:
        return a.sha256 == b.sha256 or formula.same_function(a, b)
    except (ValueError, GrafsError):
        return False
