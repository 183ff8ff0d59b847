"""Write the text of reports in GitHub's Markdown: of a matrix claims and evidence, then the tables, then how to read them.

The report of a selection is shorter; the trainings at its end have one of their own, as a matrix of one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from ..utils.markdown import code, duration, many, plain
from ..utils.markdown import table as grid
from .ranking import contrast_sentence, p_value
from .report_table import GroupRow, Row, Table
from .results import Place
from .statistics import LEVEL, Group, by_seed, expected_maximum, searched_against_random
from .verdict import ACCURACY, Measure, Side, Verdict

MOST_LINES = 40  # of a list of what is missing

HOW_TO_READ = """\
- **mean ± sd**: over training seeds; no sd for one training.
- **n**: trainings with a figure. "4 of 5": one training has none, so the mean is too good for an activation that lost it.
  Collapsed trainings ended at chance or with a loss that isn't finite; they count in the mean as measured.
- **difference**: {of};
  the mean over pairs of trainings with the same seed, with its 95 % t interval in brackets. The interval covers other
  training seeds, not other models or data. No brackets: too few pairs for an interval. "2 of 3" pairs: the third seed has no
  figure on one side and is left out.
- **p (Holm)**: of the difference to the default activation, adjusted for all activations compared with it in that table.
- **groups**: the mean over searches, or over random cells, of their own means. The sd over searches is apart from the sd over
  training seeds; the interval covers both. The best of several searches is partly luck.
- Training seeds that were used to select an activation bias its difference upwards."""


_OF = {
    "accuracy": "in percentage points of accuracy, above 0 where it is higher",
    "loss": "in nats of loss per token, above 0 where the loss is lower",
}


def how_to_read(measure: Measure) -> str:
    """Explain the columns of a report as a list in Markdown."""
    return HOW_TO_READ.replace("{of}", _OF[measure.name])


def markdown(
    table: Table,
    *,
    title: str,
    failed: Sequence[tuple[str, str]],
    notes: Sequence[str],
    formulas: Mapping[str, str],
    nearest: Mapping[str, str],
    pictures: Sequence[str],
) -> str:
    """Write the whole report.md.

    Args:
        table: of the matrix.
        title: of the report.
        failed: (job, reason).
        notes: on what was not measured.
        formulas, nearest: by activation.
        pictures: links relative to the report.
    """
    open_points = not_measured(table, notes)
    parts = [[f"# {plain(title)}"], ["\n\n".join(claims(table))], evidence(table, failed)]
    parts += [[f"![{_ALT[link.rsplit('/', 1)[-1]]}]({link})"] for link in pictures]
    parts += [_default_rank(table), *(_place(table, place) for place in table.places), _formulas(table, formulas, nearest)]
    parts += [
        _failures(table, failed),
        ["## How to read this", "", how_to_read(table.measure)],
        ["## What was not measured", "", *(f"- {line}" for line in open_points)] if open_points else [],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


_WORDS = {Side.BETTER: "better", Side.NOT_SHOWN: "no difference shown", Side.WORSE: "worse", None: "no interval"}
_ALT = {
    "forest.png": "Paired differences to the default activation with their 95 % intervals",
    "heatmap.png": "Mean result of every activation, coloured by its difference to the default one",
}


def selection(summary: Mapping[str, Any], held_out: str, epochs: int) -> str:
    """Write the report of a selection among searches.

    Args:
        summary: as in summary.json.
        held_out: what was measured.
        epochs: of a full training.
    """
    usual, cost, full = summary["usual"], summary["cost"], summary["cost"]["full_training_seconds"]
    spent = f"the searches {cost['search_seconds']:.0f} s, the trainings {cost['training_seconds']:.0f} s"
    total = f"Nothing was trained: {spent}."
    if full is not None:
        total = f"The total cost was {cost['full_trainings']} full trainings ({epochs} epochs, {full:.0f} s each): {spent}."
    ranked = [
        "## Ranking", "", f"| | formula | compared with {usual} |", "|---|---|---|",
        *(f"| {row['activation']} | `{_cell(row['formula'])}` | {row['verdict']} |" for row in summary["ranking"]), "",
        f"The intervals are of {100 * summary.get('level', LEVEL):.1f} %.", "",
        "Figures and pictures of these trainings: [final/report.md](final/report.md).", "",
    ]  # fmt: skip
    rounds = ["## Rounds", "", *(f"- {line}" for line in summary["rounds"]), ""]
    contrast = summary.get("searched_against_random")
    lines = [
        f"# Selection among {summary['searches']} searches: {summary['model']} on {summary['data']}", "",
        f"**{summary['why']}**", "",
        f"Measured on {held_out} held out of the training split; the test split was not used. {total}", "",
        *(ranked if summary["ranking"] else []), *(rounds if summary["rounds"] else []),
        *([f"In round 1, {contrast}.", ""] if contrast else []),
        "## Searches", "", "| | ended in | the same as | nearest known | search seeds | not trained, because |",
        "|---|---|---|---|---|---|", *map(_searched, summary["searched"]), "",
        *(f"- failed: {line}" for line in summary["failed"]),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _searched(row: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, row["seeds"]))
    cells = [
        row["activation"],
        f"`{_cell(row['formula'])}`",
        row["same_as"] or "",
        row["nearest"],
        seeds,
        row["not_trained"] or "",
    ]
    return f"| {' | '.join(cells)} |"


def _cell(formula: str) -> str:
    return formula.replace("|", "¦")


def claims(table: Table) -> list[str]:
    """Write a line for every batch of searches and for every found activation of no batch, over all places.

    Args:
        table: of the matrix.
    """
    lines: list[str] = []
    told: set[str] = set()
    for group in table.groups:
        if group.kind == "found" and group.several:
            told.update(group.members)
            own = [row for (other, _), row in table.group_rows.items() if other == group]
            lines.append(f"**{_claim(plain(group.label), own, group.noun)}**" + _weak(table, group.members))
    for label, first in table.activations.items():
        if first.kind == "found" and label not in told:
            rows = [row for (other, _), row in table.rows.items() if other == label]
            one = " It is one search: the spread over searches is unknown." if first.batch is not None else ""
            lines.append(f"**{_claim(code(label), rows, 'activations')}**{one}" + _weak(table, [label]))
    return lines or ["**No found activation is in this matrix.**"]


def _claim(subject: str, rows: Sequence[Row | GroupRow], noun: str) -> str:
    if len(rows) == 1:
        (row,) = rows
        shown = row.to_default.sentence(noun, code) if row.to_default else "no default activation to compare with"
        return f"{subject}, {plain(str(row.place))}: {shown}."
    found = Counter(row.to_default.side if row.to_default and row.to_default.has_interval else None for row in rows)
    counts = [f"{word} in {found[side]}" for side, word in _WORDS.items() if found[side]]
    names = {row.usual for row in rows if row.usual}
    usual = code(names.pop()) if len(names) == 1 else "the model's default activation"
    return f"{subject} against {usual}, over {len(rows)} pairs of model and data: {', '.join(counts)}."


def _weak(table: Table, labels: Sequence[str]) -> str:
    """What the claim leaves out, or holds that is hardly a training."""
    lost = sum(len(table.missing(label, place)) for label in labels for place in table.places)
    collapsed = sum(table.rows[label, place].collapsed for label in labels for place in table.places)
    text = f" {lost} of its trainings have no figure and are left out." if lost else ""
    return text + (f" {collapsed} of its trainings collapsed and count as measured." if collapsed else "")


def evidence(table: Table, failed: Sequence[tuple[str, str]]) -> list[str]:
    """Write one line on what was trained, and how much of it has a figure.

    Args:
        table: of the matrix.
        failed: (job, reason).
    """
    if not table.results:
        return ["**Nothing was measured:** no training of this matrix has finished." + _counted_failures(failed)]
    split, epochs = table.results[0].split, sorted({row.epochs for row in table.results})
    size = f"{many(len(table.activations), 'activation')} × {many(len(table.places), 'pair')} of model and data"
    lines = [
        f"{table.with_figure} of {table.planned} trainings have a figure: {size} × {many(len(table.seeds), 'training seed')}.",
        f"{table.measure.noun.capitalize()} on the {split} split after {', '.join(map(str, epochs))} epochs.",
    ]
    if table.with_figure < table.planned:
        lines.insert(0, "**This matrix is incomplete.**")
    collapsed = sum(row.collapsed for row in table.rows.values())
    if collapsed:
        lines.append(f"{many(collapsed, 'training')} collapsed (at chance or with a loss that isn't finite).")
    if not table.classes and table.measure is ACCURACY:
        lines.append("Trainings at chance are not counted: the number of classes is unknown.")
    lines.append(_intervals(table.intervals))
    seconds = [row.seconds for row in table.results if row.seconds is not None]
    if seconds:
        every = "" if len(seconds) == len(table.results) else f" ({len(seconds)} of {len(table.results)} trainings timed)"
        lines.append(f"Training took {duration(sum(seconds))} in all{every}.")
    return [" ".join(lines) + _counted_failures(failed)]


def _intervals(count: int) -> str:
    if not count:
        return "Too little was trained for any 95 % interval."
    if count == 1:
        return "One 95 % interval is shown below. Without any difference, it would exclude 0 in 5 % of such matrices."
    return f"{count} intervals of 95 % are shown below. Without any difference, about {count / 20:.1f} of them would exclude 0."


def _counted_failures(failed: Sequence[tuple[str, str]]) -> str:
    return f" {many(len(failed), 'job')} failed." if failed else ""


def _default_rank(table: Table) -> list[str]:
    rows = [table.rows[label, place] for place in table.places if (label := table.default_at(place))]
    ranked = [(row, row.rank) for row in rows if row.rank is not None]
    if not ranked:
        return []
    counts = {place: sum(table.rows[label, place].rank is not None for label in table.activations) for place in table.places}
    lines = ["## Rank of the default activation", ""]
    cells = [[plain(str(row.place)), code(row.activation), f"{rank:g} of {counts[row.place]}"] for row, rank in ranked]
    lines += grid(["model and data", "default activation", f"rank by mean {table.measure.name}"], cells)
    lines += [
        "",
        f"1 is the {table.measure.best} mean; equal means share a rank. Close means swap ranks with other seeds.",
    ]
    if len(ranked) > 1:
        mean = sum(rank for _, rank in ranked) / len(ranked)
        lines[-1] += f" Mean rank {mean:.1f} over {len(ranked)} pairs of model and data."
    return lines


def _place(table: Table, place: Place) -> list[str]:
    usual = table.default_at(place)
    beside = f"difference to {code(usual)} [95 %]" if usual else "difference to the default"
    rows = [table.rows[label, place] for label in table.activations]
    lines = [f"## {plain(str(place))}", ""]
    if not usual:
        named = table.usual.get(place.model)
        why = f"{code(named)} was not trained" if named else f"none is given for {plain(place.model)}"
        lines += [f"No default activation to compare with: {why}.", ""]
    heads = ["activation", "kind", "mean ± sd", "n", beside, "pairs", "p (Holm)", "rank"]
    lines += grid(heads, [_row(row, table.measure) for row in rows])
    lines += _groups(table, place)
    others = [name for name in table.baselines if name != usual]
    compared = [row for row in rows if row.kind != "baseline"]
    if others and compared:
        lines += ["", "Differences to the other baselines:", ""]
        cells = [[code(row.activation), *(_shown(row.verdicts.get(name)) for name in others)] for row in compared]
        cells += [
            [
                plain(group.label),
                *(_shown(table.group_rows[group, place].verdicts.get(name)) for name in others),
            ]
            for group in table.groups
            if group.several
        ]
        lines += grid(["", *map(code, others)], cells)
    return lines


def _row(row: Row, measure: Measure) -> list[str]:
    own = row.to_default
    count = str(row.mean.n) if row.mean.n == row.planned else f"{row.mean.n} of {row.planned}"
    count += f" ({row.collapsed} collapsed)" if row.collapsed else ""
    label = code(row.activation) + (" (default)" if row.activation == row.usual else "")
    figures = [measure.text(row.mean.mean, row.mean.sd), count, _shown(own), pairs(own), p_value(row.p)]
    return [label, row.kind, *figures, "–" if row.rank is None else f"{row.rank:g}"]


def _groups(table: Table, place: Place) -> list[str]:
    rows = [row for (group, where), row in table.group_rows.items() if where == place and group.several]
    if not rows:
        return []
    usual, measure = table.default_at(place), table.measure
    heads = ["group", "members", "mean", "sd over members", "sd over training seeds"]
    heads += [f"difference to {code(usual)} [95 %]" if usual else "difference to the default", "pairs"]
    cells = []
    for row in rows:
        own, lost = row.mean, f" of {len(row.group.members)}" if row.mean.lost else ""
        between = _shown(row.to_default), pairs(row.to_default)
        figures = map(measure.text, (own.mean, own.sd, own.seed_sd))
        cells.append([plain(row.group.label), f"{own.members}{lost}", *figures, *between])
    lines = ["", "Groups, each member counted once:", "", *grid(heads, cells)]
    for row in rows:
        if row.group.kind == "found":
            lines += ["", *_best(table, row), *_contrast(table, row.group, place)]
    return lines


def _best(table: Table, row: GroupRow) -> list[str]:
    means = {label: table.rows[label, row.place].mean.mean for label in row.group.members}
    known = {label: value for label, value in means.items() if value is not None}
    if len(known) < 2:
        return []
    best = table.measure.best_first(known)[0]
    return [
        f"The best of the {len(known)} {row.group.noun}, {code(best)}, has {table.measure.text(known[best])}"
        f"{table.measure.suffix}. That does not estimate what a",
        f"search gives: the largest of {len(known)} draws from one normal distribution is expected "
        f"{expected_maximum(len(known)):.2f} sd above their mean.",
    ]


def _contrast(table: Table, group: Group, place: Place) -> list[str]:
    cells = [label for label, row in table.activations.items() if row.kind == "random"]
    values = by_seed(table.results)
    ours, theirs = ([values.get((label, place), {}) for label in labels] for labels in (group.members, cells))
    own = searched_against_random(ours, theirs)
    return ["", f"Searched against random: {contrast_sentence(own, table.measure)}."] if own else []


def _formulas(table: Table, formulas: Mapping[str, str], nearest: Mapping[str, str]) -> list[str]:
    known = [label for label in table.activations if label in formulas]
    rows = [[code(label), code(formulas[label]), plain(nearest.get(label, ""))] for label in known]
    return ["## Formulas", "", *grid(["activation", "f(x)", "nearest known function, up to scales"], rows)] if known else []


def _failures(table: Table, failed: Sequence[tuple[str, str]]) -> list[str]:
    lines = []
    if failed:
        lines += [
            "## Failed jobs",
            "",
            *grid(["job", "reason"], [[code(job), plain(_cut(reason))] for job, reason in failed]),
        ]
    gaps = [
        (label, place, seeds) for label in table.activations for place in table.places if (seeds := table.missing(label, place))
    ]
    if gaps:
        cells = [
            [code(label), plain(str(place)), f"{len(seeds)} of {len(table.seeds)}", _runs(seeds)]
            for label, place, seeds in gaps
        ]
        lines += ["", "Trainings without a figure:", ""] if failed else ["## Missing trainings", ""]
        lines += grid(["activation", "model and data", "without a figure", "seeds"], cells[:MOST_LINES])
        if len(cells) > MOST_LINES:
            lines += ["", f"And {len(cells) - MOST_LINES} more; see summary.csv."]
    return lines


def not_measured(table: Table, notes: Iterable[str]) -> list[str]:
    """Write sentences on what the matrix leaves open.

    Args:
        table: of the matrix.
        notes: further ones.
    """
    kinds = Counter(row.kind for row in table.activations.values())
    lines = [plain(note) for note in notes]
    if len(table.seeds) == 1:
        lines.append("The spread over training seeds: there is one seed.")
    if kinds["found"] and not any(group.kind == "found" and group.several for group in table.groups):
        lines.append("The spread over searches: no batch has more than one search here.")
    if kinds["found"] and not kinds["random"]:
        lines.append("Random cells of the same space, the control of the search.")
    if not kinds["baseline"]:
        lines.append("Baselines.")
    if table.results and table.results[0].split == "validation":
        lines.append("The test split: everything is measured on data held out from the training split.")
    return lines


def _cut(text: str, longest: int = 300) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _shown(own: Verdict | None) -> str:
    return own.interval if own else "–"


def pairs(verdict: Verdict | None) -> str:
    """Write how many seeds a difference is over: "3", or "2 of 3" where one lacks a figure on one side."""
    if verdict is None:
        return "–"
    own = verdict.difference
    return f"{own.n} of {own.n + own.unpaired}" if own.unpaired else str(own.n)


def _runs(seeds: Sequence[int]) -> str:
    """Write seeds with neighbours joined: "0–3, 7"."""
    spans = [[seed for _, seed in span] for _, span in groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(span[0]) if len(span) == 1 else f"{span[0]}–{span[-1]}" for span in spans)
