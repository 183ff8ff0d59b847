"""Check data from files with pydantic, and explain what is wrong in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from .suggest import nearest

Path = tuple[str | int, ...]  # of a field: keys, and numbers in lists


class Part(BaseModel):
    """Base of frozen data: unknown keys, conversions between types, infinities and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Impossible(ValueError):
    """Values that fit the schema but not each other: (key, what is wrong) of each."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {what}" for key, what in problems))
        self.problems = problems


def listed(value: Any) -> Any:
    """Return a list as a tuple, anything else unchanged."""
    return tuple(value) if isinstance(value, list) else value


Listed = BeforeValidator(listed)  # JSON and YAML have lists where a field is a tuple


_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "tuple_type": "a list",
    "finite_number": "a finite number",
    "string_too_short": "text that is not empty",
}
_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", "≥"),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "≤"),
}


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Path, str]]:
    """Explain pydantic's errors.

    Args:
        error: Raised for ``model``.
        model: The schema, for the nearest names of unknown keys.

    Yields:
        (path of the field, what is wrong with it).

    >>> class Point(Part):
    ...     x: float
    >>> try:
    ...     Point.model_validate({"x": "1", "z": 2})
    ... except ValidationError as error:
    ...     list(explain(error, Point))
    [(('x',), "expected a number, got the text '1'"), (('z',), 'unknown key; known: x')]
    """
    for problem in error.errors(include_url=False):
        kind, path, got = problem["type"], problem["loc"], problem["input"]
        context: dict[str, Any] = problem.get("ctx", {})
        if kind == "value_error":
            cause = context["error"]
            if isinstance(cause, Impossible):
                yield from (((*path, *key.split(".")), what) for key, what in cause.problems)
            else:
                yield path, str(cause)
        elif kind == "extra_forbidden":
            yield path, f"unknown key{nearest(path[-1], fields_at(model, path[:-1]) or ())}"
        elif kind == "invalid_key":
            yield path, f"keys are text, got {describe(path[-1])}"
        elif kind == "missing":
            yield path, "missing"
        elif expected := _expected(kind, context):
            yield path, f"expected {expected}, got {describe(got)}"
        else:
            yield path, f"{problem['msg']}, got {describe(got)}"


def _expected(kind: str, context: dict[str, Any]) -> str | None:
    if kind == "literal_error":
        texts = re.findall(r"'([^']*)'", context["expected"])
        return f"one of {', '.join(texts)}" if texts else context["expected"]
    if kind in _BOUNDS:
        bound, sign = _BOUNDS[kind]
        return f"a number {sign} {context[bound]:g}"
    return _EXPECTED.get(kind)


def fields_at(model: type[BaseModel], path: Sequence[Any]) -> dict[str, FieldInfo] | None:
    """Return the fields of the section at a path of ``model``, of each kind it may be; None where there is a plain value."""
    fields, of_any_name = dict(model.model_fields), False
    for key in path:
        if isinstance(key, int) or of_any_name:  # the items of a list have the list's schema, the values of a dict the dict's
            of_any_name = False
            continue
        sections = _sections_in(fields[key].annotation) if key in fields else []
        if not sections:
            return None
        of_any_name = get_origin(fields[key].annotation) is dict
        fields = {name: field for section in reversed(sections) for name, field in section.model_fields.items()}
    return fields


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections X in X, X | None or tuple[X, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for each in get_args(annotation) for section in _sections_in(each)]


def describe(value: Any) -> str:
    """Return a value for an error message, shortened, with its type where that is not obvious.

    >>> describe("50"), describe(50), describe(None), describe([1])
    ("the text '50'", '50', 'nothing', 'a list')
    """
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
