"""Pieces of GitHub's Markdown that keep text what it is: tables, code, plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """Text in backticks that stays itself, also with backticks or bars inside, in a table or outside one."""
    text = one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def plain(text: str) -> str:
    """Text whose marks Markdown doesn't take for its own."""
    return re.sub(r"([\\`*_{}\[\]<>#~])", r"\\\1", one_line(text))


def one_line(text: str) -> str:
    return " ".join(text.split())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; the bars of its cells are escaped here, everything else by `code` or `plain` before."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(heads), "|" + "---|" * len(heads), *map(line, rows)]


def fenced(text: str, language: str = "") -> list[str]:
    """The lines of a block of code."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return [fence + language, *text.splitlines(), fence]


def many(count: int, noun: str, plural: str | None = None) -> str:
    """«1 place», «3 places»."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def length(epochs: int, steps_per_epoch: int | None) -> str:
    """«4 epochs», or «200 steps» where an epoch is a number of steps."""
    return many(epochs * steps_per_epoch, "step") if steps_per_epoch else many(epochs, "epoch")


def listed(words: Sequence[str]) -> str:
    """«a», «a and b», «a, b and c»."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def duration(seconds: float) -> str:
    """«40 s», «3.2 min», «1.5 h»."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
