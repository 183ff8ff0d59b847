"""Compute every number of a `Batch` from the ledger of a campaign, and check what a campaign needs to be published."""

from __future__ import annotations

import statistics as medians
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..activations.genotype import Genotype
from ..comparison import campaign_run, contenders, estimate, ranking, statistics, verdict
from ..comparison.campaign import SEARCHES, Campaign
from ..comparison.campaign_files import RECIPE
from ..comparison.ledger import Line
from ..comparison.results import Place, Result
from ..errors import RunError
from ..utils.markdown import length
from ..zoo import lookup as zoo
from ..zoo.entry import Batch, Choice, Cost, Difference, Evidence, Metric, Provenance, Search, Spread
from ..zoo.nearest import nearest_known
from . import evidence

MIN_SEARCHES, MIN_SEEDS, MIN_RANDOM = 5, 3, 1  # below these nothing is published
_DIGITS = 6  # decimals of what is computed: far below what any count of images can tell


def batch(campaign: Campaign, named: Evidence, label: str | None = None) -> Batch:
    """Compute what the ledger gives for a function.

    Args:
        campaign: with its ledger.
        named: its evidence.
        label: of the function, by default the `best` of the searches.

    Raises:
        RunError: where there is nothing to publish.
    """
    label = label or best(campaign)
    recipe, rows = campaign.recipe, with_duplicates(campaign)
    if not rows:
        raise RunError(f"{campaign.folder}: no training is finished, so there is nothing to publish")
    return Batch(
        label=label, usual=campaign.default, budget=campaign.settings.budget, measure=campaign.measure.name,
        train_images=recipe.data.train_images, epochs=recipe.evaluate.epochs, steps_per_epoch=recipe.evaluate.steps_per_epoch,
        provenance=_provenance(campaign, label), choice=choice(campaign), cost=cost(campaign, label),
        searches=tuple(_search(campaign, each, label) for each in campaign.searches.values()),
        metrics=metrics(campaign, rows), spreads=spreads(campaign, rows), evidence=named,
    )  # fmt: skip


def label_of(campaign: Campaign, seed: int) -> str:
    """Return what the function of a search is called: as it is trained where that search was the first to find it.

    Args:
        campaign: with its searches.
        seed: of the search.
    """
    own, trained = f"{SEARCHES}_s{seed}", campaign.found_as.get(seed)
    first = trained is not None and campaign.activations[trained].search_seed == seed
    return trained if first and trained else own


def genotype_of(campaign: Campaign, label: str) -> Genotype:
    """Return the function called ``label``: of a search, or one that the campaign was given.

    Args:
        campaign: with its searches.
        label: of the function.

    Raises:
        RunError: where there is none, with the labels that there are.
    """
    for seed, line in campaign.searches.items():
        if label_of(campaign, seed) == label:
            return Genotype.from_dict(line.genotype, derived=False)
    each = campaign.given.get(label)
    if each is None or each.genotype is None:
        searched = [label_of(campaign, seed) for seed in campaign.searches]
        known = ", ".join([*searched, *(name for name, each in campaign.given.items() if each.genotype)])
        raise RunError(f"{campaign.folder}: no function is called {label!r}; there are: {known}")
    return each.genotype


def best(campaign: Campaign) -> str:
    """Return the label of the search whose function is best on held-out data, of those that are no baseline.

    The longest trained ones are compared, on the seeds that all of them have. RunError where there is none.
    """
    labels = [label_of(campaign, seed) for seed in campaign.searches]
    new = {label for label in labels if zoo.known_as(genotype_of(campaign, label), zoo.USUAL) is None}
    held_out = [row for row in campaign.results("validation") if row.has_figure and row.place == campaign.home]
    rows = [row for row in held_out if row.activation in new]
    if not rows:
        raise RunError(f"{campaign.folder}: every search ended in a baseline or was not trained: there is nothing to publish")
    longest = [row for row in rows if row.epochs == max(each.epochs for each in rows)]
    table = {
        label: {row.seed: row.value for row in longest if row.activation == label} for label in {r.activation for r in longest}
    }
    common = set.intersection(*(set(seeds) for seeds in table.values()))
    mean = {label: medians.fmean(seeds[s] for s in (common or seeds)) for label, seeds in table.items()}
    return campaign.measure.best_first(dict(sorted(mean.items())))[0]


def lacking(campaign: Campaign) -> list[str]:
    """Return what keeps a new entry from being published, a sentence each; [] where nothing does."""
    said = []
    if len(campaign.searches) < MIN_SEARCHES:
        said.append(f"{len(campaign.searches)} searches; at least {MIN_SEARCHES} are published, selected or not")
    missing = [name for name in zoo.USUAL if name not in campaign.given]
    if missing:
        said.append(f"the campaign has no {', '.join(missing)}: all baselines are trained beside a found one")
    random = sum(each.kind == "random" for each in campaign.given.values())
    if random < MIN_RANDOM:
        said.append(f"{random} random cells in the campaign; at least {MIN_RANDOM} is the control")
    table = statistics.by_seed(campaign.results("test"))
    for label in campaign.activations:
        there = sum(value == value for value in table.get((label, campaign.home), {}).values())
        if there < MIN_SEEDS and label not in campaign.same_as:
            said.append(f"{label}, {campaign.home}: {there} of {MIN_SEEDS} trainings")
    try:
        best(campaign)
    except RunError as error:
        said.append(str(error))
    return said


# --- the trainings ---


def with_duplicates(campaign: Campaign) -> list[Result]:
    """Return the trainings on the test split, again for each search that ended in the function of another or in a baseline.

    The spread counts each search.
    """
    rows = _with_baselines(campaign, campaign.results("test"))
    return rows + [
        replace(row, activation=label, search_seed=seed)
        for row in rows if row.activation in campaign.activations
        for label, seed in campaign.activations[row.activation].duplicates().items()
    ]  # fmt: skip


def _with_baselines(campaign: Campaign, rows: list[Result]) -> list[Result]:
    """Where the searches ran: a baseline's rows once more for each search that ended in it and was not trained for that."""
    trained, more = {row.activation for row in rows}, list[Result]()
    for label, name in campaign.same_as.items():
        each = campaign.activations[label]
        for row in rows:
            if row.activation == name and label not in trained and row.place == campaign.home:
                more.append(replace(row, activation=label, kind="found", batch=each.batch, search_seed=each.search_seed))
    return rows + more


def metrics(campaign: Campaign, rows: Sequence[Result]) -> tuple[Metric, ...]:
    """Compute a row for each activation with each model and data set, with its difference to the model's default activation.

    Args:
        campaign: with its ledger.
        rows: its trainings.
    """
    statistics.check(rows)
    table, known, found = statistics.by_seed(rows), statistics.activations(rows), []
    retired, repeated = campaign.retired(), _repeated(campaign)
    for place in statistics.places(rows):
        apart = contenders.default_activation(place.model)
        theirs = table.get((apart or "", place), {})
        for label, first in known.items():
            own = table.get((label, place))
            mean = statistics.mean(own) if own else None
            if not own or mean is None or mean.mean is None:
                continue
            stopped = retired.get(label) if place == campaign.home else None
            level = statistics.STOPPED_LEVEL if stopped else statistics.LEVEL
            beside = None
            if apart and label != apart:
                beside = _difference(apart, statistics.difference(own, theirs, campaign.measure, level), level)
            found.append(
                Metric(
                    model=place.model, data=place.data, activation=label, kind=first.kind, search_seed=first.search_seed,
                    n=mean.n, mean=_round(mean.mean), sd=_rounded(mean.sd),
                    each={str(seed): value for seed, value in sorted(own.items()) if value == value},
                    retired=stopped.after if stopped else None, repeated=repeated[first.sha256 or label, place],
                    difference=beside,
                )
            )  # fmt: skip
    return tuple(found)


def _repeated(campaign: Campaign) -> Counter[tuple[str, Place]]:
    """{(function, place): how many of its trainings were run again}."""
    lines = (line for again in campaign.ledger.repetitions().values() for line in again if line.kind == "training")
    return Counter((line.function, Place(line.model, line.data)) for line in lines)


def spreads(campaign: Campaign, rows: Sequence[Result]) -> tuple[Spread, ...]:
    """Compute a row for all searches and one for all random cells, by model and data set, where there are several of them.

    Args:
        campaign: with its ledger.
        rows: its trainings.
    """
    table, found = statistics.by_seed(rows), []
    for place in statistics.places(rows):
        apart = contenders.default_activation(place.model)
        theirs = table.get((apart or "", place), {})
        for group in statistics.groups(rows):
            members = [table[label, place] for label in group.members if (label, place) in table]
            own = statistics.group_mean(members)
            if own.members < 2 or own.mean is None or group.kind == "baseline":
                continue
            beside = _difference(apart, statistics.group_difference(members, theirs, campaign.measure)) if apart else None
            found.append(
                Spread(
                    model=place.model, data=place.data, kind=group.kind, members=own.members,
                    mean=_round(own.mean), sd=_rounded(own.sd), seed_sd=_rounded(own.seed_sd),
                    difference=beside,
                )
            )  # fmt: skip
    return tuple(found)


def _difference(to: str, own: verdict.Difference, level: float = statistics.LEVEL) -> Difference | None:
    if own.mean is None:
        return None
    return Difference(
        to=to, mean=_round(own.mean), low=_rounded(own.low), high=_rounded(own.high), p=_rounded(own.p), n=own.n, level=level
    )  # fmt: skip


def _round(value: float) -> float:
    return round(value, _DIGITS)


def _rounded(value: float | None) -> float | None:
    return None if value is None else _round(value)


# --- searches and choice ---


def choice(campaign: Campaign) -> Choice:
    """Describe the selection, from the trainings measured on held-out data where the searches ran.

    The longest of them rank the field; the seeds that everything in the field has compare searched and random functions.
    """
    rows = [row for row in campaign.results("validation") if row.place == campaign.home]
    usual, epochs = campaign.default, campaign.recipe.evaluate.epochs
    last = [row for row in rows if row.epochs == max(each.epochs for each in rows)]
    seeds = {row.seed for row in last}
    why = f"Nothing is compared with {usual} yet."
    if any(row.activation == usual for row in last):
        before = {row.seed for row in rows} - seeds
        _, why = ranking.recommend(ranking.rank(last, {campaign.recipe.model: usual}, chosen_on=before))
    contrast = ranking.contrast(_first(_with_baselines(campaign, rows)), _counts(campaign)) if rows else None
    words = ranking.contrast_sentence(contrast, campaign.measure) if contrast else ranking.NOT_COMPARED
    own = [row for row in (last if campaign.closed else campaign.results("test")) if row.activation == usual]
    spent = estimate.costs(
        sum(map(campaign_run.line_seconds, campaign.searches.values())), rows if campaign.closed else [], own, epochs
    )  # fmt: skip
    why = why.replace("percentage points", "points")  # as entries recorded it so far: their hash covers the words
    return Choice(why=why, full_trainings=spent["full_trainings"], searched_against_random=words)


def _first(rows: Sequence[Result]) -> list[Result]:
    """Of the shortest trainings those with the seeds that every searched and random function has."""
    shortest = [row for row in rows if row.epochs == min(each.epochs for each in rows)]
    seeds: dict[str, set[int]] = {}
    for row in shortest:
        if row.kind == "random" or row.batch is not None:
            seeds.setdefault(row.activation, set()).add(row.seed)
    common = set.intersection(*seeds.values()) if seeds else set()
    return [row for row in shortest if row.seed in common]


def _counts(campaign: Campaign) -> dict[str, int]:
    """{label: how many searches ended in that function}."""
    found = campaign.activations.items()
    return {label: 1 + len(each.also) for label, each in found if each.search_seed is not None}


def _search(campaign: Campaign, line: Line, chosen: str) -> Search:
    label, genotype = label_of(campaign, line.seed), Genotype.from_dict(line.genotype, derived=False)
    first = campaign.found_as.get(line.seed, label)
    near = nearest_known(genotype)
    return Search(
        seed=line.seed, label=label, formula=genotype.text, sha256=genotype.sha256,
        genotype=genotype.to_dict(), same_as=zoo.known_as(genotype, zoo.USUAL) or (None if first == label else first),
        held_out=float(line.held_out[campaign.measure.name]),
        seconds=_round(campaign_run.line_seconds(line)), chosen=label == chosen,
        near=near.name or None, apart=None if near.distance is None else _round(near.distance),
    )  # fmt: skip


def _provenance(campaign: Campaign, label: str) -> Provenance:
    line = next((each for seed, each in campaign.searches.items() if label_of(campaign, seed) == label), None)
    lines = campaign.ledger.lines
    spent = "; ".join(f"{hours:.1f} h on {name}" for name, hours in sorted(campaign_run.hours(campaign).items()))
    commits = list(dict.fromkeys(each.commit for each in sorted(lines, key=lambda each: each.date)))
    return Provenance(
        recipe=RECIPE, recipe_sha256=evidence.file_sha256(campaign.folder / RECIPE), model=campaign.home.model,
        data=campaign.home.data, search_seed=line.seed if line else None, epochs=int(line.log[-1]["epoch"]) if line else None,
        steps_per_epoch=campaign.recipe.search.steps_per_epoch,
        seconds=_round(campaign_run.line_seconds(line)) if line else None,
        versions=dict((line or lines[0]).versions), hardware=spent, commit=", ".join(commits[-3:]),
        date=max(each.date for each in lines)[:10], budget=budget(campaign),
    )  # fmt: skip


def budget(campaign: Campaign) -> str:
    """Describe what a reader must know before comparing.

    That is how much data of what size, how long searches and trainings are, and how models are built that differ from their
    name's. Entries record the words.
    """
    recipe = campaign.recipe
    material = recipe.data.described(recipe.evaluate.batch_size, recipe.search.image_size)
    spent = (
        f"{len(campaign.searches)} searches of {length(recipe.search.epochs, recipe.search.steps_per_epoch)}, trainings of "
        f"{length(recipe.evaluate.epochs, recipe.evaluate.steps_per_epoch)}"
    )
    kwargs = ", ".join(f"{key}={value}" for key, value in recipe.model_kwargs.items())
    built = f"; every model built with {kwargs}" if kwargs else ""
    return f"{campaign.settings.budget}: {material}{built}; {spent}"


def cost(campaign: Campaign, label: str) -> Cost | None:
    """Return forward and backward beside GELU in float32; None where that function was not timed.

    Args:
        campaign: whose cost.csv has the timings.
        label: of the function.
    """
    rows: Mapping[str, Mapping[str, str]] = {
        row["subject"]: row for row in evidence.timings(campaign.folder) if (row["what"], row["dtype"]) == ("full", "float32")
    }
    own, gelu = rows.get(label), rows.get("gelu")
    if own is None or gelu is None:
        return None
    threads = f", {own['threads']} thread" + ("" if own.get("threads") == "1" else "s") if own.get("threads") else ""
    return Cost(
        ratio=_round(float(own["median_ms"]) / float(gelu["median_ms"])),
        device=f"{own['device']} ({own.get('hardware') or 'unknown'}{threads}), float32, {own.get('shape')} elements",
    )
