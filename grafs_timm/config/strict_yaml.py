"""Read YAML strictly: one mapping, no duplicate keys, no aliases, and 6e-4 is a number.

Plain PyYAML silently keeps the last of two equal keys, reads `6e-4` as text, `010` as 8 and `1:30` as 90, and lets a short
file of aliases expand to gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError
from ..utils.schema import describe

MAX_BYTES = 1_000_000
_EXPONENT = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
# Numbers that YAML 1.1 and 1.2 read alike, and those with an exponent.
_NUMBER = re.compile(
    r"^[-+]?((0|[1-9][0-9]*)|0x[0-9a-fA-F]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$"
    r"|^\.(nan|NaN|NAN)$"
)
_LIKE_A_NUMBER = re.compile(r"^[-+]?(0[0-9_]+|0[obxOBX][0-9a-fA-F_]+|[0-9][0-9_]*)$")  # to YAML 1.2, or to a reader
_TAG = "tag:yaml.org,2002:"
_OTHERS = {f"{_TAG}timestamp": "a date", f"{_TAG}value": "a default value"}


class _Loader(yaml.SafeLoader):
    """Construct only text, numbers, booleans, lists and mappings; tags that name Python objects are errors."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported here", event.start_mark)
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        """Refuse a scalar that YAML readers disagree about."""
        plain = self.peek_event().implicit[0]
        node = super().compose_scalar_node(anchor)
        number = node.tag in (f"{_TAG}int", f"{_TAG}float") or (plain and _LIKE_A_NUMBER.match(node.value))
        if number and not _NUMBER.match(node.value):
            digits = node.value.replace("_", "").lstrip("+0")
            meant = digits if digits.isdecimal() else "it in decimal digits"
            what = f"{node.value} is read differently by YAML 1.1 and 1.2; write {meant}, or in quotes if it is text"
            raise yaml.composer.ComposerError(None, None, what, node.start_mark)
        if plain and (kind := _OTHERS.get(node.tag)):
            raise yaml.composer.ComposerError(None, None, _is_to_some(node, kind), node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_TAG}merge":
                what = _is_to_some(key_node, "a merge of mappings")
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                mark = key_node.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", mark)
            seen.add(key if isinstance(key, Hashable) else id(key_node))
        return super().construct_mapping(node, deep)


def _is_to_some(node: yaml.ScalarNode, kind: str) -> str:
    return f"{node.value} is {kind} to some readers of YAML; write it in quotes if it is text"


class _Dumper(yaml.SafeDumper):
    pass


for _kind in (_Loader, _Dumper):  # the dumper too: it must quote the text "1e3"
    _kind.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(f"{_TAG}int", _LIKE_A_NUMBER, list("-+0123456789"))  # refused above where it isn't quoted


def parse(text: str, source: str) -> Any:
    """Parse a value. Raises RecipeError, beginning with ``source``, where it is not valid YAML of this kind."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{source}: not valid YAML{place}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise RecipeError(f"{source}: nested too deeply") from None
    except ValueError as error:  # an invalid date, a number with thousands of digits
        raise RecipeError(f"{source}: not valid YAML: {error}") from error


def read(path: Path) -> dict[Any, Any]:
    """Read a file that holds a mapping. Raises RecipeError where it cannot be read, or is not UTF-8, YAML or a mapping."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{path}: larger than {MAX_BYTES:,} bytes, too large for a recipe")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from error
    value = parse(text, str(path))
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: expected a mapping of keys at the top, got {describe(value)}")
    return value


def dump(value: Any) -> str:
    """Write a value as YAML that `parse` reads back equal, with short lists and mappings on one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
