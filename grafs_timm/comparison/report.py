"""Write the reports of a matrix and of a selection: report.md and report.html for readers, CSV files for programs, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..activations.genotype import Genotype
from ..config import strict_yaml
from ..config.recipe import parse_recipe
from ..errors import GrafsError, RunError
from ..runs import folder as runs
from ..runs.report import REPORT
from ..runs.report_parts import default_of, functions_section, recipe_section
from ..utils import html
from ..utils.charts import TONES, axis_of
from ..utils.files import write_csv, write_whole
from ..utils.html import Cell, Fact, Facts, Figures, Head, Items, Paragraph, Row, Section, number, word
from ..utils.markdown import duration, many
from . import report_html, report_plots, report_text
from .ranking import p_value
from .report_table import Table
from .results import Result
from .statistics import LEVEL, check, seeds_to_halve
from .verdict import MEASURES, Difference, Measure, Side, Verdict

SUMMARY = (
    "activation", "kind", "batch", "search_seed", "model", "data", "mean", "sd", "n", "planned", "collapsed", "rank",
    "usual", "difference", "low", "high", "p", "p_holm", "pairs", "unpaired",
)  # fmt: skip


def write_report(
    results: Sequence[Result],
    folder: str | Path,
    *,
    usual: Mapping[str, str],
    title: str,
    failed: Iterable[tuple[str, str]] = (),
    notes: Iterable[str] = (),
    formulas: Mapping[str, str] | None = None,
    nearest: Mapping[str, str] | None = None,
    classes: Mapping[str, int] | None = None,
    details: report_html.Details | None = None,
) -> Path:
    """Write report.md, report.html, results.csv, summary.csv and plots/. The order of the rows doesn't matter.

    Every cell of the matrix without a row, or with one whose figure is NaN, counts as missing.

    Args:
        results: a row for each training.
        folder: to write into.
        usual: {model: its default activation}, which everything is compared with.
        title: of the report.
        failed: (job, reason) of jobs that ended without a result.
        notes: further sentences on what was not measured.
        formulas: {activation: its formula}.
        nearest: {activation: the known functions that it is nearest to}.
        classes: {data: number of classes}, by which trainings at chance are counted.
        details: what report.html shows besides.

    Returns:
        The path of report.md.

    Raises:
        RunError: where rows can't be compared (`statistics.check`), or the files can't be written; nothing was written for the
            former.
    """
    check(results)
    folder = Path(folder)
    ordered = _ordered(results)
    table = Table(ordered, usual, classes or {})
    write_results(ordered, folder / "results.csv")
    write_csv(folder / "summary.csv", SUMMARY, _summary(table))
    pictures = []
    if table.with_figure:
        pictures = [report_plots.heatmap(table, folder / "plots" / "heatmap.png")]
        if any(row.to_default and row.to_default.difference.mean is not None for row in table.rows.values()):
            pictures.insert(0, report_plots.forest(table, folder / "plots" / "forest.png"))
    said: dict[str, Any] = {
        "title": title, "failed": list(failed), "notes": list(notes), "formulas": formulas or {}, "nearest": nearest or {}
    }  # fmt: skip
    links = [path.relative_to(folder).as_posix() for path in pictures]
    write_whole(folder / REPORT, report_html.page(table, details=details or report_html.Details(), **said))
    return write_whole(folder / "report.md", report_text.markdown(table, pictures=links, **said))


def write_page(
    results: Sequence[Result], folder: Path, *, usual: Mapping[str, str], classes: Mapping[str, int], **said: Any
) -> Path:  # fmt: skip
    """Write report.html alone.

    Args:
        results: a row for each training.
        folder: to write into.
        usual, classes: as in `write_report`.
        said: the other arguments of `report_html.page`.
    """
    check(results)
    return write_whole(folder / REPORT, report_html.page(Table(_ordered(results), usual, classes), **said))


def further_seeds(results: Sequence[Result], usual: Mapping[str, str]) -> str | None:
    """Return what more training seeds would narrow: the widest interval beside the default activation, and how many halve it.

    Args:
        results: a row for each training.
        usual: {model: its default activation}.

    Returns:
        The middle of a sentence, of found activations where there are any. None where there is nothing to narrow: no training
        has a partner, or the pairs differ by the same number.
    """
    table = Table(results, usual, {})
    compared = [(row, row.to_default) for row in table.rows.values() if row.to_default and row.to_default.difference.n]
    compared = [each for each in compared if each[0].kind == "found"] or compared
    if compared and len(table.seeds) == 1:
        return "one training seed gives no interval: the same command with --seeds 3 adds two"
    widths = [(verdict.half_width, row, verdict) for row, verdict in compared if verdict.half_width is not None]
    if not widths:
        return None
    width, row, verdict = max(widths, key=lambda each: each[0])
    pairs, measure = verdict.difference.n, table.measure
    seeds = seeds_to_halve(pairs) + len(table.seeds) - pairs  # some have no figure on one side
    return (
        f"the widest interval, {row.activation} beside {verdict.to} with {row.place}, is ±{measure.apart(width, sign=False)} "
        f"{measure.unit} over {pairs} paired seeds: the same command with --seeds {seeds} at least halves it if further seeds "
        "spread alike"
    )


def write_results(results: Iterable[Result], path: str | Path) -> Path:
    """Write a row for each training with every digit, with the columns of `statistics.Result`; an empty field is None.

    Args:
        results: the trainings.
        path: of the CSV file.
    """
    return write_csv(path, [field.name for field in fields(Result)], map(astuple, results))


def _ordered(results: Sequence[Result]) -> list[Result]:
    table = Table(results, {}, {})
    order = {label: i for i, label in enumerate(table.activations)}
    where = {place: i for i, place in enumerate(table.places)}
    return sorted(results, key=lambda row: (where[row.place], order[row.activation], row.seed))


def _summary(table: Table) -> Iterable[list[Any]]:
    for (label, place), row in table.rows.items():
        first, own = table.activations[label], row.to_default.difference if row.to_default else None
        shown: list[Any] = [None] * 7
        if own is not None:
            shown = [own.mean, own.low, own.high, own.p, row.p, own.n, own.unpaired]
        yield [
            label, row.kind, first.batch, first.search_seed, place.model, place.data, row.mean.mean, row.mean.sd, row.mean.n,
            row.planned, row.collapsed, row.rank, row.usual, *shown,
        ]  # fmt: skip


def write_selection(folder: Path, summary: Mapping[str, Any] | None = None) -> Path:
    """Write ``report.html`` of a finished selection, from the files in its folder.

    Args:
        folder: of the selection.
        summary: its result, where summary.json is not written yet.

    Raises:
        RunError: for a file that can't be read.
    """
    summary = runs.read_json(folder / runs.SUMMARY) if summary is None else summary
    recipe = parse_recipe(strict_yaml.read(folder / runs.RECIPE), str(folder / runs.RECIPE))
    try:
        measure, usual, cost = MEASURES[recipe.data.figure], str(summary["usual"]), summary["cost"]
        title = f"Selection among {summary['searches']} searches: {summary['model']} on {Path(str(summary['data'])).name}"
        subtitle = f"Measured on {recipe.data.held_out} held out of the training split; the test split was not used."
        rounds = [*summary["rounds"], *([f"In round 1, {each}."] if (each := summary.get("searched_against_random")) else [])]
        final = [
            Paragraph(
                Markup('Figures of these trainings: <a href="final/{}">the report of the final trainings</a>.').format(REPORT)
            )
        ]
        sections = [
            Section("Ranking", [*_ranking(summary, usual, measure), *(final if (folder / "final" / REPORT).exists() else [])]),
            Section("Rounds", [Items(rounds)] if rounds else []),
            _found(folder, summary, recipe.model),
            _selection_curves(folder, summary, measure),
            _searches(folder, summary),
            Section("Costs", [Facts(_spent(cost, recipe.evaluate.epochs, usual))]),
            Section("Failed jobs", [Items(summary["failed"][: report_html.MOST_ROWS])] if summary["failed"] else []),
            recipe_section(recipe.to_yaml()),
        ]
        page = html.render(html.Report(title, subtitle, [Markup("<strong>{}</strong>").format(summary["why"])], [], sections))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, GrafsError):
            raise
        raise RunError(
            f"{folder / runs.SUMMARY} is not that of a selection of this version: {error!r}; see {folder}/report.md"
        ) from error
    return write_whole(folder / REPORT, page)


def _ranking(summary: Mapping[str, Any], usual: str, measure: Measure) -> list[Any]:
    ranked = summary["ranking"]
    if not ranked:
        return []
    verdicts = [
        Verdict(Difference(row["mean"], row["low"], row["high"], row["p_adjusted"], row["n"], 0), usual, measure)
        for row in ranked
    ]
    ends = report_plots.limits(verdicts)
    head = Markup("difference to {}, {}{}").format(usual, measure.unit, axis_of(ends))
    level = f"[{100 * summary.get('level', LEVEL):.1f} %]"
    heads = [
        Head("activation"), Head(head, "plot"), Head(level, "n"), Head("pairs", "n"), Head("p (Holm)", "n"), Head("shown"),
        Head("f(x)"),
    ]  # fmt: skip
    rows = [
        Row([
            word(row["activation"]), *report_html.beside(verdict, row["kind"], ends), number(str(row["n"]), row["n"]),
            number(p_value(row["p_adjusted"]), row["p_adjusted"]), word(_shown(verdict)), word(row["formula"], "formula", 400),
        ])
        for row, verdict in zip(ranked, verdicts, strict=True)
    ]  # fmt: skip
    return [
        html.Table(f"ranking beside {usual}", heads, rows),
        Items([f"{row['activation']}: {row['verdict']}" for row in ranked]),
    ]


def _shown(verdict: Verdict) -> str:
    return verdict.side if verdict.has_interval or verdict.side is not Side.NOT_SHOWN else "no interval"


def _found(folder: Path, summary: Mapping[str, Any], model: str) -> Section:
    functions = {}
    for row in summary["searched"]:
        file = folder / "activations" / f"{row['activation']}.json"
        if file.exists():
            functions[row["activation"]] = Genotype.from_dict(runs.read_json(file), str(file), derived=True)
    if not functions:
        return Section("", [])
    among = [row["activation"] for row in summary["searched"]]
    return functions_section("The functions that were found", functions, default_of(model), among)


def _selection_curves(folder: Path, summary: Mapping[str, Any], measure: Measure) -> Section:
    """A chart for each length of training, with those of all seeds."""
    usual, figures = str(summary["usual"]), []
    among = [row["activation"] for row in summary["searched"]]
    lengths = {int(n): each for each in (folder / "trainings").glob("*_epochs") if (n := each.name.split("_")[0]).isdigit()}
    for length, trained in sorted(lengths.items()):
        labels = sorted((each.name for each in trained.iterdir() if each.is_dir()), key=lambda name: (name != usual, name))
        own = {label: _of_seeds(trained / label, f"validation_{measure.name}") for label in labels}
        known = {label: curves for label, curves in own.items() if curves}
        if known:
            chosen = dict(list(known.items())[: len(TONES) + 1])
            note = f"{len(chosen)} of {len(known)} activations" if len(chosen) < len(known) else ""
            title = f"trainings of {many(length, 'epoch')}"
            figures.append(report_html.learning_curves(chosen, usual, title, note, among))
    said = f"{measure.noun.capitalize()}: means over training seeds, with a band of one standard deviation on both sides."
    return Section("Learning curves", [Paragraph(said), Figures(figures)] if figures else [])


def _of_seeds(folder: Path, key: str) -> list[list[float | None]]:
    curves = (report_html.read_curve(seed, key) for seed in sorted(folder.glob("s*")) if seed.is_dir())
    return [curve for curve in curves if any(value is not None for value in curve)]


def _searches(folder: Path, summary: Mapping[str, Any]) -> Section:
    heads = [
        Head("search"),
        Head("ended in"),
        Head("the same as"),
        Head("nearest known"),
        Head("pages", sort=False),
        Head("not trained, because"),
    ]
    rows = []
    for row in summary["searched"][: report_html.MOST_ROWS]:
        links = [
            Markup('<a href="searches/s{0}/{1}">seed {0}</a>').format(int(seed), REPORT)
            if (folder / "searches" / f"s{int(seed)}" / REPORT).exists() else f"seed {seed}"
            for seed in row["seeds"]
        ]  # fmt: skip
        rows.append(Row([
            word(row["activation"]), word(row["formula"], "formula", 400), word(row["same_as"] or ""), word(row["nearest"]),
            Cell(Markup(", ").join(links)), word(row["not_trained"] or ""),
        ]))  # fmt: skip
    return Section("Searches", [html.Table("what the searches ended in", heads, rows)] if rows else [])


def _spent(cost: Mapping[str, Any], epochs: int, usual: str) -> list[Fact]:
    facts = [
        Fact("searches", duration(cost["search_seconds"]), clock=True),
        Fact("trainings", duration(cost["training_seconds"]), clock=True),
    ]
    if (full := cost["full_training_seconds"]) is not None:
        what = f"{cost['full_trainings']} of {many(epochs, 'epoch')} with {usual}, {duration(full)} each"
        facts.append(Fact("all together, in full trainings", what, clock=True))
    return facts
