"""The page of a matrix: the numbers of its Markdown, sorted by a click, bounded in size, with names as text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from browser import as_it_is, in_browser, needs_chromium
from test_report import NAN, USUAL, matrix

from grafs_timm.activations.published import get_published
from grafs_timm.comparison import report_html
from grafs_timm.comparison.report import write_page, write_report
from grafs_timm.comparison.report_html import Details

SAID = {"title": "A matrix", "failed": [], "notes": [], "formulas": {}, "nearest": {}, "classes": {}, "details": Details()}


def details(results):
    curves = {row.cell: [row.accuracy * (1 - 0.5**epoch) for epoch in range(1, row.epochs + 1)] for row in results}
    found = [label for label in dict.fromkeys(row.activation for row in results) if label.startswith("c10")]
    return Details("model: resnet20\n", {label: get_published("mish") for label in found}, curves)


def page_of(results, folder, **settings):
    return write_page(results, folder, **({"usual": USUAL} | SAID | settings)).read_text(encoding="utf-8")


def sections(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_the_page_stands_beside_the_markdown_and_has_its_numbers(tmp_path):
    results = matrix(searches=3, cells=2, better=2.0)
    text = write_report(results, tmp_path, usual=USUAL, title="A matrix", details=details(results)).read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sections(page) == [
        "Differences to the default activation", "Every activation with every model and data set", "The functions",
        "Learning curves", "Costs", "How to read this", "What was not measured", "Settings",
    ]  # fmt: skip
    intervals = re.findall(r"[+−][\d.]+ \[[+−][\d.]+, [+−][\d.]+\]", text.split("Differences to the other baselines")[0])
    assert len(intervals) > 6
    assert all(interval in page for interval in intervals)
    assert page.count('<polygon class="band') > 10
    assert "<strong>searches of c10 against <code>relu</code>" in page


def test_the_same_rows_in_any_order_give_the_same_page(tmp_path):
    results = matrix(searches=2)
    pages = {page_of(rows, tmp_path, details=details(results)) for rows in (results, results[::-1])}
    assert len(pages) == 1


def test_names_are_text(tmp_path):
    hostile = '<script>alert(1)</script>"'
    results = [replace(row, activation=hostile) if row.kind == "random" else row for row in matrix()]
    results = [replace(row, data=hostile) if row.data == "cifar10" else row for row in results]
    said = {"title": hostile, "failed": [(hostile, hostile)], "notes": [hostile], "formulas": {hostile: hostile}}
    page = page_of(results, tmp_path, details=Details(hostile), nearest={hostile: hostile}, **said)
    assert page.count("<script>") == 1
    assert page.count("&lt;script&gt;alert(1)") > 10


def test_a_large_matrix_is_bounded_and_says_what_is_left_out(tmp_path):
    models = tuple(f"model{i}" for i in range(10))
    results = matrix(searches=40, cells=40, seeds=2, models=models)
    page = page_of(results, tmp_path, usual=dict.fromkeys(models, "relu"), details=details(results))
    assert "12 of 20 pairs of model and data are shown." in page
    assert "The 22 lowest of 82 activations are left out; summary.csv has all." in page
    assert "60 of 82 activations are shown." in page
    assert "The first 8 of 40." in page
    assert len(page) < 3_000_000


@pytest.mark.parametrize("seeds", [1, 2])
def test_trainings_without_a_figure_and_pairs_without_a_default_are_told_of(tmp_path, seeds):
    results = [replace(row, accuracy=NAN) if row.kind == "random" and row.seed == 0 else row for row in matrix(seeds=seeds)]
    page = page_of(results, tmp_path, usual={}, details=details(results))
    assert f'<td class="n" data-key="1">1 of {seeds}</td>' in page
    assert "difference to the default" in page
    assert not re.search(r"\bnan\b", page)


def test_functions_of_what_is_not_trained_yet_are_left_out(tmp_path):
    results = matrix(searches=2)
    later = replace(details(results), functions={"c10_s0": get_published("mish"), "c10_s9": get_published("gcu")})
    page = page_of(results, tmp_path, details=later)
    assert "The functions" in sections(page)
    assert "c10_s9" not in page


def test_nothing_measured_gives_a_page_that_says_so(tmp_path):
    page = page_of([replace(row, accuracy=NAN, loss=NAN, seconds=None) for row in matrix()], tmp_path)
    assert "This matrix is incomplete." in page
    assert "Missing trainings" in sections(page)


def test_curves_over_seeds_have_their_mean_and_one_standard_deviation_around_it():
    line = report_html._line("a", [[1.0, 2.0], [3.0, None], [5.0]], "c1", "")
    assert (list(line.x), list(line.y)) == ([1, 2], [3.0, 2.0])
    assert (line.low[0], line.high[0]) == (1.0, 5.0)
    assert (line.low[1], line.high[1]) == (None, None)


@needs_chromium
def test_a_click_sorts_the_forest_plot_and_the_heat_map(tmp_path):
    results = matrix(searches=3, cells=2, better=2.0)
    script = """
      const tables = [...document.querySelectorAll("table")], seen = [];
      for (const [table, column] of [[0, 3], [2 * 2, 1]]) {
        tables[table].tHead.rows[0].cells[column].querySelector("button").click();
        seen.push([...tables[table].tBodies[0].rows].map(row => Number(row.cells[column].dataset.key)));
      }
      return seen;"""
    for values in in_browser(page_of(results, tmp_path, details=details(results)), tmp_path, script):
        assert len(values) > 5
        assert values == sorted(values)
        assert len(set(values)) > 5


@needs_chromium
def test_it_opens_without_a_word_on_the_console(tmp_path):
    results = matrix(searches=2)
    page_of(results, tmp_path, details=details(results))
    _, said = as_it_is(tmp_path / "report.html", tmp_path)
    assert said == []
