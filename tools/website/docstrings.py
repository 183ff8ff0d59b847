"""Docstrings as mkdocstrings reads them: examples in fences, and one argument a line."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_TOGETHER = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes docstrings for mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change an object's docstring."""
        if not obj.docstring or obj.is_alias:
            return
        text = separated(fenced(obj.docstring.value))
        if obj.is_class and "__init__" not in obj.all_members and "dataclass" not in obj.labels:
            text = text.replace("\nArgs:\n", "\nAttributes:\n")  # pydantic's classes: types stand at the attributes
        obj.docstring.value = text


def fenced(text: str) -> str:
    """Return a docstring with each example in a fence; adjoining examples share one.

    >>> fenced(">>> 1 + 1\\n2")
    '```pycon\\n>>> 1 + 1\\n2\\n```'
    """
    return _EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", text)


def separated(text: str) -> str:
    """Return a docstring with arguments that share a description one by one, so that each gets its type and default.

    >>> print(separated("    low, high: The ends."))
        low: The ends.
        high: The ends.
    """
    return _TOGETHER.sub(lambda match: "\n".join(f"{match[1]}{name}: {match[3]}" for name in match[2].split(", ")), text)
