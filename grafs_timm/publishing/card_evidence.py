"""Write the tables of a card: what was measured by model and data set, what was measured again, and every search."""

from __future__ import annotations

from ..comparison.ranking import p_value
from ..comparison.verdict import Measure
from ..utils.markdown import code, duration, length, plain, table
from ..zoo.entry import Batch, Contents, Metric, Search, Spread, Verified
from . import claims

HOW_TO_READ = (
    "{noun} on the test split. **mean ± sd**: over training seeds. **difference**: to the default activation in {unit}, above "
    "0 where it is better: the mean over pairs of trainings with the same seed, with its 95 % t interval in brackets. The "
    "interval covers other training seeds, not other models or data. **p**: of that difference, not adjusted for the number of "
    "comparisons."
)
_ORDER = {"found": 0, "baseline": 1, "random": 2}


def evidence(batch: Batch) -> list[str]:
    """Write a table for each model and data set, the search's own first, and how many intervals they have."""
    everything = "the training text" if batch.measure == "loss" else "all training images"
    images = everything if batch.train_images is None else f"{batch.train_images:,} training images"
    images = f"{images} ({batch.provenance.budget})"
    lasted, measure = length(batch.epochs, batch.steps_per_epoch), claims.of(batch)
    how = HOW_TO_READ.replace("{noun}", measure.noun.capitalize()).replace("{unit}", measure.unit)
    lines = [f"Every activation was trained from scratch for {lasted} on {images}. {how}", ""]
    lines += [multiplicity(claims.intervals(batch)), ""]
    lines += _stopped(batch)
    for place in batch.places:
        home = place == (batch.provenance.model, batch.provenance.data)
        lines += [f"**{plain(f'{place[0]} on {place[1]}')}**" + (", where the searches ran" if home else ""), ""]
        lines += [*_place(batch, place), ""]
    return lines[:-1]


def _stopped(batch: Batch) -> list[str]:
    """Which activations got no further seeds, by the rule that was fixed before."""
    stopped = [row for row in batch.metrics if row.retired]
    if not stopped:
        return []
    named = ", ".join(f"{code(row.activation)} after {row.retired} seeds" for row in stopped)
    return [
        "Stopped early by the rule in the campaign's recipe (the whole 95 % interval on held-out data was below the margin): "
        f"{named}. Their intervals are 97.5 % intervals, because they were tested twice; stopping narrows none of them.",
        "",
    ]


def multiplicity(count: int) -> str:
    """Write what a reader of so many 95 % intervals must keep in mind."""
    if not count:
        return "Too little was trained for any 95 % interval."
    shown = "One interval of 95 % is" if count == 1 else f"{count} intervals of 95 % are"
    return f"{shown} shown here. One in twenty such intervals misses the true difference: on average {count / 20:.1f} of these."


def _place(batch: Batch, place: tuple[str, str]) -> list[str]:
    rows = [row for row in batch.metrics if (row.model, row.data) == place]
    rows.sort(key=lambda row: (row.activation != batch.label, _ORDER[row.kind]))  # stable: the batch's own order within
    lines = table(["activation", "mean ± sd", "n", "difference [95 %]", "p"], [_row(batch, row) for row in rows])
    spreads = [_spread(batch, each) for each in batch.spreads if (each.model, each.data) == place]
    if spreads:
        heads = ["of all", "members", "mean", "sd over members", "sd over training seeds", "difference [95 %]"]
        lines += ["", *table(heads, spreads)]
    return lines


def _row(batch: Batch, row: Metric) -> list[str]:
    name = code(row.activation)
    if row.activation == batch.label:
        name = f"**{name}, this one**"
    elif row.kind == "found":
        name += ", a search"
    elif row.kind == "random":
        name += ", a random cell"
    elif row.difference is None:
        name += ", the default"
    if row.repeated:
        name += f" ({row.repeated} run again)"
    p = "–" if row.difference is None else p_value(row.difference.p)
    return [name, claims.of(batch).text(row.mean, row.sd), str(row.n), claims.verdict(batch, row).interval, p]


def _spread(batch: Batch, each: Spread) -> list[str]:
    name = {"found": "searches", "random": "random cells"}[each.kind]
    figures = map(claims.of(batch).text, (each.mean, each.sd, each.seed_sd))
    return [name, str(each.members), *figures, claims.verdict(batch, each).interval]


def _near(each: Search) -> str:
    return "–" if each.near is None or each.apart is None else f"{code(each.near)}, {each.apart:.3f}"


def verified(contents: Contents) -> list[str]:
    """Write what was reported beside what came out again, a line for each training that was repeated."""
    if not contents.verified:
        return ["No training has been repeated yet; run `--retrain` below."]
    heads = ["training", "seed", "reported", "re-verified", "repeated with"]
    measure = claims.of(contents.batches[0])
    return table(heads, [_verified(each, measure) for each in contents.verified])


def _verified(each: Verified, measure: Measure) -> list[str]:
    torch = f"torch {each.versions['torch']}, " if "torch" in each.versions else ""
    where = plain(f"{torch}{each.hardware}, {each.date}")
    training = f"{code(each.activation)}, {plain(f'{each.model} on {each.data}')}"
    return [training, str(each.seed), measure.text(each.reported), measure.text(each.again), where]


def searches(batch: Batch) -> list[str]:
    """Write every search of the batch, selected or not, and how one was selected."""
    measure = claims.of(batch)
    heads = ["seed", "called", "f(x)", "same as", "nearest published", f"held-out {measure.name}", "time", "selected"]
    rows = [
        [
            str(each.seed), code(each.label), code(each.formula), plain(each.same_as or "–"), _near(each),
            measure.text(each.held_out), duration(each.seconds), "**yes**" if each.chosen else "no",
        ]
        for each in batch.searches
    ]  # fmt: skip
    choice = batch.choice
    spent = "not known" if choice.full_trainings is None else f"{choice.full_trainings:g} full trainings with {batch.usual}"
    return [
        f"Held-out {measure.noun}: of the discretised function with the search's own weights, on data held out of the "
        'training split. "Same as": the baseline or the earlier search that is the same function up to scales. "Nearest '
        'published": the closest published function, with the relative L2 distance under N(0, 1) up to both scales.',
        "",
        *table(heads, rows),
        "",
        f"- Selection: {plain(choice.why)}",
        f"- Cost of the searches and the selection: {plain(spent)}.",
        f"- Searched against random, in the selection: {plain(choice.searched_against_random)}.",
    ]
