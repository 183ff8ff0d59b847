"""JSON that somebody else wrote: parsed with limits, so that a file can be wrong only in ways that have a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST = 4 << 20  # bytes
DEEPEST = 40  # brackets within one another
_LONGEST_INT = 300  # digits; Python refuses to print integers of some thousand


def read(path: Path) -> Any:
    """The value in a file, of which no more than ``LARGEST`` bytes are read. OSError, and ValueError as `parse`."""
    with path.open("rb") as file:
        return parse(file.read(LARGEST + 1))


def parse(content: bytes) -> Any:
    """The value in ``content``. ValueError, telling what and where, for whatever JSON of this project never holds: too large
    or too deep, no UTF-8, a key twice in an object, NaN or an infinity, integers without end.
    """
    if len(content) > LARGEST:
        raise ValueError(f"too large, at most {LARGEST} bytes are read")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    _check_depth(text)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_int=_int, parse_float=_float)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None


def _check_depth(text: str) -> None:
    depth, inside, escaped = 0, False, False
    for character in text:
        if inside:
            escaped, inside = character == "\\" and not escaped, escaped or character != '"'
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            if depth > DEEPEST:
                raise ValueError(f"nested more than {DEEPEST} deep")
        elif character in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} stands twice in one object")
        found[key] = value
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _int(text: str) -> int:
    if len(text) > _LONGEST_INT:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value
