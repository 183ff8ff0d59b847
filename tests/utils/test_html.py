"""Pages of reports: text stays text, tables sort and figures slide in a real browser, nothing is asked of a network."""

from __future__ import annotations

import re

import pytest
from browser import as_it_is, in_browser, needs_chromium
from markupsafe import Markup

from grafs_timm.utils import charts, html
from grafs_timm.utils.charts import Line, line_chart
from grafs_timm.utils.html import Cell, Fact, Facts, Figure, Figures, Head, Items, Paragraph, Row, Section, number, word

HOSTILE = """</script><script>document.title = "taken"</script><img src=x onerror="document.title = 'taken'"><!--"""


def everything(text: str = "name") -> html.Report:
    """A page with every part, ``text`` wherever text can be."""
    frames = [Line(text, [0, 1, 2], [0, 1, i], "found", "frame", frame=f"epoch {i}", text=text) for i in range(3)]
    figure = Figure(text, line_chart(frames, text, text, marks=[(1, text)]), text, [html.Entry(text, "found")])
    bars = Figure(text, charts.bar_chart([(text, 2.0, "found"), (text, 1.0, "out")], 2.0, text, text))
    rows = [
        Row([word("b"), number("10.00", 10.0), Cell(text, "y")]),
        Row([word("c"), number("–", None), Cell("", "")]),
        Row([word("a"), number("9.50", 9.5), Cell(text, "x")], usual=True),
    ]
    table = html.Table(text, [Head(text), Head(text, "n"), Head(text)], rows, text)
    parts = [
        Paragraph(text), html.Heading(text), Items([text]), Facts([Fact(text, text, clock=True)]), Figures([figure, bars]),
        table, html.Source(text), html.Folded(text, [Paragraph(text)]),
    ]  # fmt: skip
    return html.Report(text, text, [text], [text], [Section(text, parts), Section("empty", [])])


def test_text_of_any_kind_is_escaped_everywhere():
    page, plain = html.render(everything(HOSTILE)), html.render(everything())
    for mark in ("<script", "</script", "<img", "<!--", 'onerror="'):
        assert page.count(mark) == plain.count(mark), mark
    assert page.count("&lt;/script&gt;") > 20


def test_the_same_report_gives_the_same_page_and_empty_sections_none():
    assert html.render(everything()) == html.render(everything())
    assert ">empty<" not in html.render(everything())


def test_a_page_asks_no_server_and_has_one_script_of_its_own():
    page = html.render(everything())
    assert not re.findall(r"https?:|src=|@import|url\(", page)
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/]+='", page)
    assert page.count("<script>") == 1


def test_a_column_without_anything_is_left_out():
    table = html.Table("t", [Head("a"), Head("nothing"), Head("c")], [Row([word("x"), word(""), number("0", 0.0)])])
    page = html.render(html.Report("t", sections=[Section("s", [table])]))
    assert ">nothing<" not in page
    assert 'data-key="0.0">0<' in page


@needs_chromium
def test_a_click_sorts_by_value_then_in_reverse_with_missing_values_last(tmp_path):
    script = """
      const names = () => [...document.querySelectorAll("tbody th")].map(each => each.textContent);
      const heads = [...document.querySelectorAll("thead th")], seen = [names()];
      for (const column of [0, 1, 1, 2, 0]) { heads[column].querySelector("button").click(); seen.push(names()); }
      return [seen, heads.map(each => each.getAttribute("aria-sort"))];"""
    seen, sorts = in_browser(html.render(everything()), tmp_path, script)
    assert seen == [list("bca"), list("abc"), list("abc"), list("bac"), list("abc"), list("abc")]
    assert sorts == ["ascending", None, None]


@needs_chromium
def test_the_slider_shows_one_function_after_another(tmp_path):
    script = """
      const range = document.querySelector("input[type=range]"), paths = [...document.querySelectorAll("[data-frame]")];
      const state = each => ["now", "later"].filter(name => each.classList.contains(name)).join();
      const text = what => document.querySelector(what).textContent;
      const shown = () => [paths.map(state), text(".frames label"), text("output")];
      const seen = [shown()];
      range.value = 1; range.dispatchEvent(new Event("input")); seen.push(shown());
      return seen;"""
    last, second = in_browser(html.render(everything("<b>")), tmp_path, script)
    assert last == [["", "", "now"], "epoch 2", "<b>"]
    assert second == [["", "now", "later"], "epoch 1", "<b>"]


@needs_chromium
def test_under_its_own_policy_a_hostile_page_runs_its_own_script_alone(tmp_path):
    file = tmp_path / "report.html"
    file.write_text(html.render(everything(HOSTILE)), encoding="utf-8")
    document, said = as_it_is(file, tmp_path)
    assert said == []
    assert document.count('<button type="button">') == 3
    assert "<title>taken" not in document


@needs_chromium
def test_it_fits_a_phone_and_follows_the_dark_mode(tmp_path):
    script = """
      const frame = document.createElement("iframe");
      frame.style.cssText = "width: 360px; height: 640px";
      frame.srcdoc = document.documentElement.outerHTML.replace(/<script>[^]*/, "");
      document.body.append(frame);
      await new Promise(done => frame.addEventListener("load", done));
      const root = frame.contentDocument.documentElement;
      return [root.scrollWidth <= root.clientWidth, root.clientWidth, matchMedia("(prefers-color-scheme: dark)").matches,
              getComputedStyle(document.body).backgroundColor, performance.getEntriesByType("resource").length];"""
    long = "a_very_long_name_without_a_single_space_" * 5
    fits, width, dark, colour, asked = in_browser(
        html.render(everything(long)), tmp_path, script, "--blink-settings=preferredColorScheme=0"
    )
    assert (fits, width <= 360, asked) == (True, True, 0)
    assert dark
    assert colour == "rgb(20, 23, 26)"


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("plain", "plain"), ("**a** b", "<strong>a</strong> b"), (r"\*\*a \<b\>", "**a &lt;b&gt;"),
        ("`x<1`", "<code>x&lt;1</code>"),
        ("``a`b``", "<code>a`b</code>"), ("`` ` ``", "<code>`</code>"), ("**open", "<strong>open</strong>"), ("`open", "`open"),
        (HOSTILE, str(Markup.escape(HOSTILE))),
    ],
)  # fmt: skip
def test_markdown_of_this_projects_own_becomes_html(text, made):
    assert html.inline(text) == made


def test_a_line_with_gaps_a_band_and_too_many_points():
    x = list(range(1000))
    y = [None if i == 500 else float(i) for i in x]
    svg = line_chart([Line("a", x, y, low=x, high=[i + 1.0 for i in x])], "alt", "x")
    path = re.search(r' d="([^"]*)"', svg)[1]
    assert path.count("M") <= 2
    assert len(re.findall(r"[ML]", path)) <= charts.MOST_POINTS
    assert svg.count("<polygon") == 1
    assert not re.search("nan|inf|None", svg)


@pytest.mark.parametrize(
    "values", [[], [None], [float("nan"), float("inf")], [3.0], [5.0, 5.0], [1e300, -1e300], [0.0, 1e-300]]
)
def test_a_chart_of_anything_is_drawn(values):
    svg = line_chart([Line("a", list(range(len(values))), values)], "alt", "x")
    assert svg.startswith("<svg")
    assert not re.search("nan|inf|None", svg)


def test_an_interval_ends_in_arrows_where_it_leaves_its_cell():
    inside, left, both, out = (
        charts.interval(*own, (-1.0, 1.0), "found") for own in ((0, -0.5, 0.5), (-0.5, -3, 0), (0, -3, 3), (5, None, None))
    )
    assert [svg.count("<polygon") for svg in (inside, left, both, out)] == [0, 1, 2, 1]
    assert [svg.count("<circle") for svg in (inside, left, both, out)] == [1, 1, 1, 0]


def test_colours_are_the_same_on_a_page_and_apart_in_a_chart():
    names = [f"a{i}" for i in range(30)]
    assert charts.tones(["a1", "relu"], [*names[:3], "relu"], "relu") == {"a1": "c1", "relu": "default"}
    own = charts.tones(names[20:27], names, "relu")
    assert len(set(own.values())) == 7
