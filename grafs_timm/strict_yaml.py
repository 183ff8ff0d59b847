"""YAML read as strictly as a recipe needs: one mapping, no key twice, no aliases, and 6e-4 is a number.

Plain PyYAML keeps the last of two equal keys in silence, reads `6e-4` as text, and lets a short file of aliases unfold
into gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import RecipeError

MAX_BYTES = 1_000_000
_EXPONENT = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Makes text, numbers, truth values, dates, lists and mappings alone: a tag that names anything of Python's is refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not taken here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                mark = key_node.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands here a second time", mark)
            seen.add(key if isinstance(key, Hashable) else id(key_node))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    pass


for _kind in (_Loader, _Dumper):  # the dumper too: it must quote the text "1e3"
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def parse(text: str, source: str) -> Any:
    """The value ``text`` stands for. RecipeError, beginning with ``source``, where it is not such YAML."""
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
    except ValueError as error:  # a date that is none, a number of thousands of digits
        raise RecipeError(f"{source}: not valid YAML: {error}") from error


def read(path: Path) -> dict[Any, Any]:
    """The mapping in the file ``path``. RecipeError where it can't be read, is no UTF-8, no YAML or no mapping."""
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
    """``value`` as YAML that ``parse`` reads back equal; short lists and mappings on one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def describe(value: Any) -> str:
    """A value as an error message names it: the value itself, cut short, and its kind where that isn't plain."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping of keys"
    if isinstance(value, list | tuple):
        return "a list"
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"the text {shown}" if isinstance(value, str) else shown
