"""Make a report as one HTML file: parts, each a small value, that a template of ``grafs_timm/templates`` writes.

Jinja escapes every text that is not `Markup`, and only drawings (`charts`) and `inline` make that. Style and script are inside
the file. Its policy forbids every request and every other script.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from markupsafe import Markup, escape

from ..errors import shortened
from . import resources, version

if TYPE_CHECKING:
    from jinja2 import Environment

Text = str | Markup  # a str is escaped


@dataclass(frozen=True)
class Paragraph:
    """One paragraph."""

    kind: ClassVar[str] = "text"
    text: Text


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: Text


@dataclass(frozen=True)
class Items:
    """A list with bullets."""

    kind: ClassVar[str] = "items"
    items: Sequence[Text]


@dataclass(frozen=True)
class Fact:
    """A name with its value; ``clock`` where the value is a time that was measured, which differs from run to run."""

    name: str
    show: Text
    clock: bool = False


@dataclass(frozen=True)
class Facts:
    """A list of names with values."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Entry:
    """One line of a figure's legend."""

    name: str
    tone: str
    dashed: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing with its title and its legend."""

    title: Text
    svg: Markup
    note: Text = ""
    legend: Sequence[Entry] = ()


@dataclass(frozen=True)
class Figures:
    """Figures beside one another, as many as the window is wide; ``small`` ones more."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]
    small: bool = False


@dataclass(frozen=True)
class Head:
    """The head of a column; a click on it sorts unless ``sort`` is false. ``style`` "n" is a column of numbers."""

    show: Text
    style: str = ""
    sort: bool = True


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        show: what is read.
        key: what it is sorted by, a number or text; "" comes last.
        style: classes: "n" a number, "clock" a measured time, "plot", "heat", "formula".
        css: declarations of its own.
    """

    show: Text
    key: float | str = ""
    style: str = ""
    css: str = ""


def word(text: str, style: str = "", most: int = 100) -> Cell:
    """Make a cell of text, shortened to ``most`` characters and sorted by all of it."""
    return Cell(shortened(text, most), text, style)


def number(shown: str, value: float | None, style: str = "n") -> Cell:
    """Make a cell of a number; None and what is not finite come last.

    >>> number("–", None).key, number("1.50", 1.5).key
    ('', 1.5)
    """
    return Cell(shown, "" if value is None or not math.isfinite(value) else value, style)


@dataclass(frozen=True)
class Row:
    """A row of a table, whose first cell is its name."""

    cells: Sequence[Cell]
    usual: bool = False


@dataclass(frozen=True)
class Table:
    """A table that scrolls by itself where the window is narrow.

    Args:
        label: for readers who do not see it.
        left_out: what the rows do not show, and where that is.
    """

    kind: ClassVar[str] = "table"
    label: str
    heads: Sequence[Head]
    rows: Sequence[Row]
    left_out: str = ""

    @property
    def shown(self) -> list[int]:
        """Return the columns that have anything in any row."""
        return [i for i in range(len(self.heads)) if any(row.cells[i].show for row in self.rows)]


@dataclass(frozen=True)
class Source:
    """Text with its line breaks, such as a recipe."""

    kind: ClassVar[str] = "source"
    text: str


@dataclass(frozen=True)
class Folded:
    """Parts that a click unfolds."""

    kind: ClassVar[str] = "folded"
    title: str
    parts: Sequence[Any]


@dataclass(frozen=True)
class Section:
    """A heading with what is below it."""

    title: Text
    parts: Sequence[Any]


@dataclass(frozen=True)
class Report:
    """A whole page.

    Args:
        title: in the window's title and on top.
        subtitle: one line below.
        headlines: the result.
        remarks: what to know of it.
        sections: the rest, in order; those without parts are left out.
    """

    title: str
    subtitle: Text = ""
    headlines: Sequence[Text] = ()
    remarks: Sequence[Text] = ()
    sections: Sequence[Section] = field(default=())


def render(report: Report) -> str:
    """Write the page of a report; the same report gives the same text.

    >>> page = render(Report("a <b> c", sections=[Section("Facts", [Paragraph("x < 1")])]))
    >>> "<h1>a &lt;b&gt; c</h1>" in page, "<p>x &lt; 1</p>" in page
    (True, True)
    """
    sections = [section for section in report.sections if section.parts]
    return _environment().get_template("report.html").render(
        title=report.title, subtitle=report.subtitle, headlines=report.headlines, remarks=report.remarks, sections=sections
    )  # fmt: skip


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment as Made
    from jinja2 import FileSystemLoader, StrictUndefined

    made = Made(
        loader=FileSystemLoader(resources.TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    script = resources.page("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made.globals |= {
        "style": Markup(resources.page("page.css") + resources.page("report.css")),
        "script": Markup(script),
        "script_hash": Markup(f"sha256-{digest}"),
        "version": version.own(),
    }
    return made


_INLINE = re.compile(r"\\([\\`*_{}\[\]<>#~])|(?<!`)(`+)(?!`)(.+?)(?<!`)\2(?!`)|(\*\*)")


def inline(text: str) -> Markup:
    r"""Turn one line of this project's own Markdown into HTML: bold, code and escaped marks. All else is text.

    >>> inline(r"**better** than ``a`b`` by 1 \* <b>")
    Markup('<strong>better</strong> than <code>a`b</code> by 1 * &lt;b&gt;')
    """
    made, at, bold = [], 0, False
    for found in _INLINE.finditer(text):
        made.append(escape(text[at : found.start()]))
        at = found.end()
        if found[1]:
            made.append(escape(found[1]))
        elif found[3]:
            padded = found[3].startswith(" ") and found[3].endswith(" ") and found[3].strip()
            made.append(code(found[3][1:-1] if padded else found[3]))
        else:
            made.append(Markup("</strong>" if bold else "<strong>"))
            bold = not bold
    return Markup("").join([*made, escape(text[at:]), Markup("</strong>" if bold else "")])


def code(text: str) -> Markup:
    """Return text as code.

    >>> code("x<1")
    Markup('<code>x&lt;1</code>')
    """
    return Markup("<code>{}</code>").format(text)


def breakable(text: str) -> Markup:
    """Let a long name break after its underscores.

    >>> breakable("a_b<")
    Markup('a_<wbr>b&lt;')
    """
    return Markup("_<wbr>").join(text.split("_"))


def bounded(rows: Sequence[Any], most: int, noun: str, where: str) -> tuple[Sequence[Any], str]:
    """Return at most ``most`` of the rows, evenly chosen with the first and the last, and a sentence on the others.

    >>> bounded(range(5), 3, "epochs", "log.jsonl")
    ([0, 2, 4], '3 of 5 epochs are shown; all are in log.jsonl.')
    """
    if len(rows) <= most:
        return rows, ""
    chosen = [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]
    return chosen, f"{most} of {len(rows)} {noun} are shown; all are in {where}."
