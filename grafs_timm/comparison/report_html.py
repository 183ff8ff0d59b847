"""Make the page of a matrix: what its Markdown says, with tables that sort, learning curves, functions and costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..errors import GrafsError, shortened
from ..runs.report_parts import functions_section, recipe_section
from ..runs.tracking import read_log
from ..utils import charts, html
from ..utils.charts import Line, axis_of, finite, interval, line_chart
from ..utils.html import (
    Cell,
    Fact,
    Facts,
    Figure,
    Figures,
    Head,
    Items,
    Paragraph,
    Row,
    Section,
    breakable,
    inline,
    number,
    word,
)
from ..utils.markdown import duration, many
from . import report_text
from .ranking import p_value
from .report_plots import limits as ends_of
from .report_plots import reach
from .report_table import GroupRow, Table
from .report_table import Row as Measured
from .results import Place, Result
from .statistics import mean
from .verdict import Measure, Verdict

MOST_PLACES, MOST_ROWS, MOST_LINES = 12, 60, 6  # tables and charts; rows of a table; activations in a chart of curves
_TONE = {"found": "found", "random": "c1", "baseline": "default"}
Curves = Mapping[tuple[str, Place, int], Sequence[float | None]]  # activation, place, seed -> figure after each epoch


@dataclass(frozen=True)
class Details:
    """What a page shows beyond the numbers of a table.

    Args:
        recipe: of the matrix, in YAML.
        functions: activations by label, as functions of tensors; found ones of the matrix are drawn.
        curves: what is compared, epoch by epoch.
    """

    recipe: str = ""
    functions: Mapping[str, Any] = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)


def read_curve(folder: Path, key: str) -> list[float | None]:
    """Return a figure after each epoch from the log in ``folder``; [] where there is no log."""
    return [finite(line.get(key)) for line in read_log(folder) if line.get("kind") == "epoch"]


def curves_of(rows: Iterable[Result], folder: Callable[[Result], Path]) -> Curves:
    """Read what is compared after each epoch of the trainings from their logs.

    Args:
        rows: results of the trainings.
        folder: of the run of a row; it may be missing.
    """
    read = ((row, read_curve(folder(row), f"{row.split}_{row.compared_by}")) for row in rows)
    return {row.cell: curve for row, curve in read if curve}


def page(
    table: Table, *, title: str, failed: Sequence[tuple[str, str]], notes: Sequence[str],
    formulas: Mapping[str, str], nearest: Mapping[str, str], details: Details,
) -> str:  # fmt: skip
    """Write the whole report.html of a matrix; the arguments are those of `report_text.markdown`.

    Args:
        details: what only the page has.
    """
    places = table.places[:MOST_PLACES]
    lines = report_text.claims(table)
    claims = [inline(line) for line in lines[:MOST_PLACES]]
    claims += [inline(f"{len(lines) - MOST_PLACES} more are in report.md.")] if len(lines) > MOST_PLACES else []
    remarks = [inline(line) for line in report_text.evidence(table, failed)]
    compared = [part for place in places for part in _place(table, place)] if table.with_figure else []
    if len(places) < len(table.places):
        compared.append(Paragraph(f"{_few(table)} summary.csv has the numbers of the others."))
    found = {label for label, row in table.activations.items() if row.kind == "found"}
    functions = {label: f for label, f in details.functions.items() if label in found}
    usual = _defaults(table)
    sections = [
        Section("Differences to the default activation", compared),
        _heat(table),
        functions_section("The functions", functions, usual, _coloured(table)) if functions else Section("", []),
        _learning(table, details.curves, places),
        _costs(table),
        _formulas(table, formulas, nearest),
        _failures(table, failed),
        Section("How to read this", [Items(_bullets(report_text.how_to_read(table.measure)))]),
        Section("What was not measured", [Items([inline(line) for line in report_text.not_measured(table, notes)])]),
    ]  # fmt: skip
    if details.recipe:
        sections.append(recipe_section(details.recipe))
    return html.render(html.Report(title, "", claims, remarks, sections))


def _defaults(table: Table) -> dict[str, Any]:
    """Return the default activations of the table's models by name, as functions."""
    from ..zoo.lookup import resolve

    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for place in table.places if (name := table.usual.get(place.model))):
        try:
            found[name] = resolve(name).layer()
        except GrafsError:
            continue
    return found


def _coloured(table: Table) -> list[str]:
    """The labels in the order of their colours: all but default activations."""
    usual = {table.default_at(place) for place in table.places}
    return [label for label in table.activations if label not in usual]


def _few(table: Table) -> str:
    return f"{MOST_PLACES} of {len(table.places)} pairs of model and data are shown."


def _bullets(text: str) -> list[Markup]:
    return [inline(" ".join(each.split())) for each in ("\n" + text).split("\n- ")[1:]]


# ------------------------------------------------------------------------------------------------- one place after another


def _place(table: Table, place: Place) -> list[Any]:
    usual = table.default_at(place)
    groups = [group for group in table.groups if group.several]
    singles = _best_first(table, place)
    rows: list[Measured | GroupRow] = [table.group_rows[group, place] for group in groups]
    rows += [table.rows[label, place] for label in singles[:MOST_ROWS]]
    ends = ends_of(row.to_default for row in rows if row.to_default)
    head = Markup("difference to {}, {}{}").format(usual or "the default", table.measure.unit, axis_of(ends))
    heads = [
        Head("activation"), Head(head, "plot"), Head("[95 %]", "n"), Head(f"mean ± sd,{table.measure.suffix}", "n"),
        Head("rank", "n"), Head("n", "n"), Head("pairs", "n"), Head("p (Holm)", "n"), Head("kind"),
    ]  # fmt: skip
    left = len(singles) - MOST_ROWS
    left_out = f"The {left} lowest of {len(singles)} activations are left out; summary.csv has all." if left > 0 else ""
    label = f"results of {place}, with their differences to {usual or 'the default activation'}"
    made = [_group(row, table.measure, ends) if isinstance(row, GroupRow) else _single(row, table, ends) for row in rows]
    return [html.Heading(str(place)), html.Table(label, heads, made, left_out)]


def _best_first(table: Table, place: Place) -> list[str]:
    """Labels by rank, the default activation first, those without a figure last."""
    usual = table.default_at(place)

    def order(label: str) -> tuple[bool, float]:
        return label != usual, table.rows[label, place].rank or math.inf

    return sorted(table.activations, key=order)


def _single(row: Measured, table: Table, ends: tuple[float, float]) -> Row:
    own, measure = row.mean, table.measure
    count = str(own.n) if own.n == row.planned else f"{own.n} of {row.planned}"
    count += f" ({row.collapsed} collapsed)" if row.collapsed else ""
    is_usual = row.activation == row.usual
    name = Markup("{} <small>default</small>").format(shortened(row.activation)) if is_usual else shortened(row.activation)
    cells = [
        Cell(name, row.activation), *beside(row.to_default, row.kind, ends), number(measure.text(own.mean, own.sd), own.mean),
        number("–" if row.rank is None else f"{row.rank:g}", row.rank), number(count, own.n),
        number(report_text.pairs(row.to_default), row.to_default.difference.n if row.to_default else None),
        number(p_value(row.p), row.p), _kind(row.kind),
    ]  # fmt: skip
    return Row(cells, usual=is_usual)


def _group(row: GroupRow, measure: Measure, ends: tuple[float, float]) -> Row:
    own = row.mean
    cells = [
        Cell(Markup("<strong>{}</strong>").format(row.group.label), row.group.label), *beside(row.to_default, row.kind, ends),
        number(measure.text(own.mean, own.sd), own.mean), number("–", None), number("–", None),
        number(report_text.pairs(row.to_default), row.to_default.difference.n if row.to_default else None), number("–", None),
        Cell(f"mean of {own.members}", row.kind),
    ]  # fmt: skip
    return Row(cells)


def beside(verdict: Verdict | None, kind: str, ends: tuple[float, float]) -> list[Cell]:
    """Return two cells of a difference: drawn and written.

    Args:
        verdict: the difference, or None.
        kind: of the activation, which gives the colour.
        ends: of the drawing, from `report_plots.limits`.
    """
    if verdict is None or verdict.difference.mean is None:
        return [Cell("", "", "plot"), number("–", None)]
    own = verdict.difference
    assert own.mean is not None
    drawn = interval(own.mean, own.low, own.high, ends, _TONE[kind])
    return [Cell(drawn, own.mean, "plot"), number(verdict.interval, own.mean)]


def _kind(kind: str) -> Cell:
    return Cell(Markup('<span class="kind {}">{}</span>').format(_TONE[kind], kind), kind)


# --------------------------------------------------------------------------------------------------------- all places at once


def _heat(table: Table) -> Section:
    if len(table.places) < 2 or not table.with_figure:
        return Section("", [])
    places, labels = table.places[:MOST_PLACES], list(table.activations)[:MOST_ROWS]
    sizes = [
        abs(row.to_default.difference.mean)
        for (label, place), row in table.rows.items()
        if row.to_default and row.to_default.difference.mean is not None
    ]
    most = reach(sizes, floor=10.0 ** (1 - table.measure.digits))
    heads = [
        Head("activation"),
        *(Head(Markup("{}<br>{}").format(breakable(place.model), breakable(place.data)), "n") for place in places),
    ]
    rows = [Row([word(label), *(_shade(table.rows[label, place], table, most) for place in places)]) for label in labels]
    left = [] if len(places) == len(table.places) else [_few(table)]
    left += [] if len(labels) == len(table.activations) else [f"{MOST_ROWS} of {len(table.activations)} activations are shown."]
    left_out = " ".join([*left, "All are in summary.csv."]) if left else ""
    what = (
        f"Mean {table.measure.noun}, and below it the difference to the default activation in {table.measure.unit}: teal where "
        f"it is better, orange where it is worse, strongest from {table.measure.apart(most, sign=False)} on."
    )
    parts = [Paragraph(what), html.Table("means of every activation by model and data", heads, rows, left_out)]
    return Section("Every activation with every model and data set", parts)


def _shade(row: Measured, table: Table, most: float) -> Cell:
    if row.mean.mean is None:
        return Cell("no figure", "", "heat")
    text, own = table.measure.text(row.mean.mean), row.to_default.difference.mean if row.to_default else None
    if own is None:
        below = "default" if row.activation == row.usual else "not compared"
        return Cell(Markup("{}<small>{}</small>").format(text, below), row.mean.mean, "heat")
    share = min(abs(own) / most, 1.0)
    css = f"--h: var(--{'better' if own > 0 else 'worse'}); --a: {0.5 * share:.3f}"
    return Cell(Markup("{}<small>{}</small>").format(text, table.measure.apart(own)), row.mean.mean, "heat", css)


def _learning(table: Table, curves: Curves, places: Sequence[Place]) -> Section:
    figures = []
    for place in places:
        own = {
            label: [curves[key] for seed in table.seeds if (key := (label, place, seed)) in curves]
            for label in table.activations
        }
        labels = [label for label in _best_first(table, place) if own[label]]
        if labels:
            chosen = labels[: MOST_LINES + 1]
            usual = table.default_at(place)
            note = f"the best {len(chosen)} of {len(labels)}" if len(chosen) < len(labels) else ""
            drawn = {label: own[label] for label in chosen}
            figures.append(learning_curves(drawn, usual, str(place), note, _coloured(table)))
    noun = f"Mean {table.measure.noun} over training seeds, with a band of one standard deviation on both sides."
    return Section("Learning curves", [Paragraph(noun), Figures(figures)] if figures else [])


def learning_curves(
    curves: Mapping[str, Sequence[Sequence[float | None]]], usual: str | None, title: str, note: str, among: Sequence[str]
) -> Figure:
    """Draw means over seeds with bands of one standard deviation, for each activation.

    Args:
        curves: {activation: a curve for each seed}.
        usual: the default activation, which is dashed.
        title: of the figure.
        note: behind it.
        among: names that have colours on the page.
    """
    tones = charts.tones(list(curves), [*among, *(label for label in curves if label not in among)], usual)
    lines = [_line(label, own, tones[label], "dashed" if label == usual else "") for label, own in curves.items()]
    ends = ", ".join(f"{line.name} {line.y[-1]:.4g}" for line in lines if line.y and line.y[-1] is not None)
    limits, above = charts.without_outliers(value for line in lines for value in line.y)
    note = "; ".join(filter(None, [note, f"{many(above, 'value')} above the frame" if above else ""]))
    svg = line_chart(lines[::-1], f"learning curves of {title}; at the end: {ends}", "epoch", y_limits=limits)
    return Figure(title, svg, note, [html.Entry(shortened(line.name, 40), line.tone, bool(line.style)) for line in lines])


def _line(name: str, seeds: Sequence[Sequence[float | None]], tone: str, style: str) -> Line:
    x = list(range(1, max(map(len, seeds), default=0) + 1))
    columns = [dict(enumerate(value for each in seeds if len(each) >= i and (value := each[i - 1]) is not None)) for i in x]
    means = [mean(column) for column in columns]
    low = [own.mean - own.sd if own.mean is not None and own.sd is not None else None for own in means]
    high = [own.mean + own.sd if own.mean is not None and own.sd is not None else None for own in means]
    return Line(name, x, [own.mean for own in means], tone, style, low, high)


def _costs(table: Table) -> Section:
    seconds: dict[tuple[str, Place], list[float]] = defaultdict(list)
    for row in table.results:
        if row.seconds is not None and row.epochs:
            seconds[row.activation, row.place].append(row.seconds)
    if not seconds:
        return Section("", [])
    total = math.fsum(value for own in seconds.values() for value in own)
    facts = [
        Fact("time of all trainings", duration(total), clock=True),
        Fact("full trainings", f"{sum(map(len, seconds.values()))}, of {', '.join(_epochs(table))}"),
    ]
    heads = [
        Head("activation"),
        Head("model and data"),
        Head("trainings", "n"),
        Head("s a training", "n"),
        Head("× default", "n"),
    ]
    rows = []
    for (label, place), own in list(seconds.items())[: MOST_ROWS * 4]:
        each, usual = sum(own) / len(own), seconds.get((table.default_at(place) or "", place))
        times = each / (sum(usual) / len(usual)) if usual and sum(usual) else None
        rows.append(Row([
            word(label), word(str(place)), number(str(len(own)), len(own)),
            number(f"{each:.1f}", each, "n clock"), number("–" if times is None else f"{times:.2f}", times, "n clock"),
        ]))  # fmt: skip
    left = len(seconds) - len(rows)
    left_out = f"{left} rows are left out; results.csv has every training." if left > 0 else ""
    said = Paragraph("Times are those of the machine while other jobs ran: they compare activations only roughly.")
    shown = html.Folded("by activation", [said, html.Table("time of a training by activation", heads, rows, left_out)])
    return Section("Costs", [Facts(facts), shown])


def _epochs(table: Table) -> Iterable[str]:
    return (many(epochs, "epoch") for epochs in sorted({row.epochs for row in table.results}))


def _formulas(table: Table, formulas: Mapping[str, str], nearest: Mapping[str, str]) -> Section:
    known = [label for label in table.activations if label in formulas]
    heads = [Head("activation"), Head("f(x)"), Head("nearest known function, up to scales")]
    rows = [
        Row([word(label), word(formulas[label], "formula", 400), word(nearest.get(label, ""))])
        for label in known[:MOST_ROWS]
    ]  # fmt: skip
    left_out = f"{MOST_ROWS} of {len(known)} are shown; report.md has all." if len(known) > MOST_ROWS else ""
    return Section("Formulas", [html.Table("formulas", heads, rows, left_out)] if rows else [])


def _failures(table: Table, failed: Sequence[tuple[str, str]]) -> Section:
    parts: list[Any] = []
    if failed:
        rows = [Row([word(job), word(reason, most=300)]) for job, reason in failed[:MOST_ROWS]]
        left_out = f"{MOST_ROWS} of {len(failed)} are shown; report.md has all." if len(failed) > MOST_ROWS else ""
        parts.append(html.Table("failed jobs", [Head("failed job"), Head("reason")], rows, left_out))
    gaps = [
        (label, place, lost) for place in table.places for label in table.activations if (lost := table.missing(label, place))
    ]
    if gaps:
        rows = [
            Row([word(label), word(str(place)), number(f"{len(lost)} of {len(table.seeds)}", len(lost))])
            for label, place, lost in gaps[:MOST_ROWS]
        ]
        left_out = f"{MOST_ROWS} of {len(gaps)} are shown; report.md has more." if len(gaps) > MOST_ROWS else ""
        parts.append(
            html.Table(
                "missing trainings", [Head("activation"), Head("model and data"), Head("without a figure", "n")], rows, left_out
            )
        )
    return Section("Missing trainings", parts)
