"""Parse JSON from elsewhere within limits, with an error message for everything that can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST = 4 << 20  # bytes
DEEPEST = 40  # nested brackets
_LONGEST_INT = 300  # digits; Python does not print integers of several thousand


def read(path: Path) -> Any:
    """Parse a file's content. Raises OSError, and ValueError as `parse`."""
    with path.open("rb") as file:
        return parse(file.read(LARGEST + 1))


def parse(content: bytes, largest: int = LARGEST) -> Any:
    """Parse JSON.

    Args:
        content: The text in UTF-8.
        largest: The largest size that is accepted, in bytes.

    Raises:
        ValueError: Names what is wrong and where: no JSON, too large, nested too deeply, not UTF-8, a duplicate key, NaN or
            an infinity, an integer of more than 300 digits.

    >>> parse(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: duplicate key 'a' in one object
    """
    if len(content) > largest:
        raise ValueError(f"too large, at most {largest:,} bytes are read")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON: byte {error.start} is not UTF-8") from None
    _check_depth(text)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_int=_int, parse_float=_float)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None


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
            raise ValueError(f"duplicate key {key[:60]!r} in one object")
        found[key] = value
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _int(text: str) -> int:
    if len(text) > _LONGEST_INT:
        raise ValueError(f"an integer of {len(text)} digits, at most {_LONGEST_INT} are read")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value
