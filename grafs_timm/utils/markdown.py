"""Write GitHub's Markdown with text escaped: tables, code, plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """Put text in backticks, also if it has backticks or bars inside, in a table or outside.

    >>> code("a`b")
    '``a`b``'
    """
    text = one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def plain(text: str) -> str:
    """Escape Markdown's marks in text."""
    return re.sub(r"([\\`*_{}\[\]<>#~])", r"\\\1", one_line(text))


def one_line(text: str) -> str:
    """Replace every run of white space by one space."""
    return " ".join(text.split())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table. Bars are escaped; apply `code` or `plain` to the cells for the rest."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(heads), "|" + "---|" * len(heads), *map(line, rows)]


def fenced(text: str, language: str = "") -> list[str]:
    """Return the lines of a block of code."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return [fence + language, *text.splitlines(), fence]


def many(count: int, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun.

    >>> many(1, "seed"), many(3, "seed"), many(2, "entry", "entries")
    ('1 seed', '3 seeds', '2 entries')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def length(epochs: int, steps_per_epoch: int | None) -> str:
    """Write "4 epochs", or "200 steps" where an epoch is a number of steps."""
    return many(epochs * steps_per_epoch, "step") if steps_per_epoch else many(epochs, "epoch")


def listed(words: Sequence[str]) -> str:
    """Join words.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def duration(seconds: float) -> str:
    """Write seconds in a fitting unit.

    >>> duration(40), duration(192), duration(5400)
    ('40 s', '3.2 min', '1.5 h')
    """
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
