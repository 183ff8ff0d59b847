"""Write the report of a matrix: report.md for readers, results.csv and summary.csv for programs, two pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from ..utils.files import write_csv, write_whole
from . import report_plots, report_text
from .report_table import Table
from .results import Result
from .statistics import check

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
) -> Path:
    """Write report.md, results.csv, summary.csv and plots/. The order of the rows doesn't matter.

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
    text = report_text.markdown(
        table,
        title=title,
        failed=list(failed),
        notes=list(notes),
        formulas=formulas or {},
        nearest=nearest or {},
        pictures=[path.relative_to(folder).as_posix() for path in pictures],
    )
    return write_whole(folder / "report.md", text)


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
