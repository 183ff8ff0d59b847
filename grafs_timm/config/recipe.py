"""Read recipes: YAML that is checked against the schema in `schema` before anything runs.

Errors name the file, the whole path of the key and the nearest right name; all problems of a recipe are listed at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError

from ..errors import RecipeError, shortened
from ..utils.resources import folder
from ..utils.schema import explain, fields_at
from ..utils.suggest import nearest
from . import strict_yaml
from .schema import Recipe


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None
) -> Recipe:  # fmt: skip
    """Load a recipe.

    Args:
        name_or_path: A file, or the name of one in recipes/.
        overrides: ``key=value``, such as ``search.epochs=3``. A value is YAML, except that for a key that takes text it is
            taken literally (``data.name=2024``, ``data.name=set #2``). A section (``data=digits``) is replaced as a whole.
        given: Further values by the path of their key, put in after the overrides.

    Raises:
        RecipeError: The recipe does not exist or does not fit the schema, or an override names no key of it.

    >>> load_recipe("resnet_digits", ["search.epochs=3", "search.warm_start=0", "search.shrink_start=1"]).search.epochs
    3
    """
    path = _find(name_or_path)
    settings = strict_yaml.read(path)
    overridden = {_override(settings, text) for text in overrides}
    for name, value in (given or {}).items():
        _put(settings, name.split("."), value, name)
    return parse_recipe(settings, str(path), overridden)


def parse_recipe(settings: Any, source: str = "recipe", overridden: set[str] | frozenset[str] = frozenset()) -> Recipe:
    """Check a parsed mapping against the schema.

    Args:
        settings: The mapping.
        source: Begins every line of an error.
        overridden: Keys that were set by ``--set``, which errors mention.

    Raises:
        RecipeError: Lists every problem, one per line.

    >>> parse_recipe({"model": "resnet18", "data": "digits", "serach": {}})
    Traceback (most recent call last):
    grafs_timm.errors.RecipeError: recipe: serach: unknown key; nearest: search, search_within, select
    """
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        lines = []
        for path, what in explain(error, Recipe):
            key = ".".join(shortened(str(part)) for part in path)
            note = " (set by --set)" if any(f"{key}.".startswith(f"{name}.") for name in overridden) else ""
            lines.append(f"{source}: {key}: {what}{note}" if key else f"{source}: {what}{note}")
        raise RecipeError("\n".join(lines)) from None
    except RecursionError:
        raise RecipeError(f"{source}: nested too deeply") from None


def of_length(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with an evaluation of other length; its warm-up and learning-rate drops move in proportion.

    Args:
        recipe: of the training.
        epochs: how many.

    >>> of_length(parse_recipe({"model": "resnet18", "data": "digits"}), 50).evaluate.weights.decay_epochs
    (25, 38)
    """
    old, share = recipe.evaluate, epochs / recipe.evaluate.epochs
    decay = tuple(dict.fromkeys(max(round(epoch * share), 1) for epoch in old.weights.decay_epochs))
    warmup = min(round(old.weights.warmup_epochs * share), epochs - 1)
    weights = old.weights.model_copy(update={"decay_epochs": decay, "warmup_epochs": warmup})
    return recipe.model_copy(update={"evaluate": old.model_copy(update={"epochs": epochs, "weights": weights})})


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    recipes = folder("recipes")
    if path.name == str(path):
        for name in (path.name, f"{path.name}.yaml"):
            if name.endswith(".yaml") and (recipes / name).is_file():
                return recipes / name
    if path.is_dir():
        raise RecipeError(f"{path} is a folder; a recipe is a file")
    names = sorted(file.stem for file in recipes.glob("*.yaml"))
    raise RecipeError(f"no recipe {str(path)!r}: not a file and not a name in recipes/{nearest(path.stem, names)}")


def _override(settings: dict[Any, Any], text: str) -> str:
    """Put one ``key=value`` into ``schema``; returns the key."""
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {text}: expected key=value, for example search.epochs=3")
    _put(settings, keys, _value(keys, value, f"--set {text}"), f"--set {text}")
    return ".".join(keys)


def _value(keys: Sequence[str], text: str, source: str) -> Any:
    """Return the value that ``text`` means for the key at this path."""
    field = (fields_at(Recipe, keys[:-1]) or {}).get(keys[-1])
    either = _either(field.annotation if field else None)
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in either]
    plain = text.strip()
    quoted = len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "'\""
    mapping = plain.startswith("{") and plain.endswith("}")
    as_typed = not mapping if keys == ["data"] else str in kinds and not (type(None) in kinds and plain in ("null", "~", ""))
    return text if as_typed and not quoted else strict_yaml.parse(text, source)


def _either(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _put(settings: dict[Any, Any], keys: Sequence[str], value: Any, source: str) -> None:
    """Put a value at the path ``keys``. Raises RecipeError, beginning with ``source``, for a path that no recipe has."""
    at: Any = settings
    for depth, key in enumerate(keys):
        fields = fields_at(Recipe, keys[:depth])
        if fields is not None and key not in fields:
            unknown = ".".join(keys[: depth + 1])
            source, unknown = shortened(source), shortened(unknown)
            raise RecipeError(f"{source}: {unknown}: unknown key{nearest(key, fields)}")
        if fields is None and keys[0] != "model_kwargs":
            raise RecipeError(f"{source}: {'.'.join(keys[:depth])} is one value and has no key {key!r}")
        if depth == len(keys) - 1:
            at[key] = value
            return
        inner = at.get(key)
        if keys[: depth + 1] == ["data"] and isinstance(inner, str):
            inner = {"name": inner}
        # anything but a mapping is wrong here, and the override replaces it
        at[key] = inner if isinstance(inner, dict) else {}
        at = at[key]
