"""A recipe: every setting of a search and of a training from scratch, as YAML that is checked before anything runs.

Unknown keys, wrong types and impossible values are errors that name the file, the whole path of the key and the nearest
right name; all of them are listed at once. ``load_recipe`` reads a file or a name from recipes/; ``Recipe`` is the
schema, and its defaults are the paper's settings for ResNet-20 on CIFAR-10 (arXiv 2408.06820).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from . import strict_yaml
from .errors import RecipeError
from .ops import nearest
from .resources import folder
from .strict_yaml import describe


class _Impossible(ValueError):
    """Values that fit the schema but not one another: (key, what is wrong) of each."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {what}" for key, what in problems))
        self.problems = problems


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _switched_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML 1.1 reads a bare `off` as false


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _checked(section: Any, problems: list[tuple[str, str]]) -> Any:
    if problems:
        raise _Impossible(problems)
    return section


def _warmup(weights: Weights, epochs: int) -> list[tuple[str, str]]:
    if weights.warmup_epochs and weights.warmup_epochs >= epochs:
        return [("weights.warmup_epochs", f"must be below epochs ({epochs}), got {weights.warmup_epochs}")]
    return []


Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Epochs = Annotated[tuple[Count, ...], BeforeValidator(_listed)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Augmentation = Literal["crop", "flip", "trivial_augment"]


class _Section(BaseModel):
    # strict: `epochs: "50"`, `epochs: 50.0` and `lr: true` are slips, not settings
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(_Section):
    """Which images. ``name`` is whatever `--data` takes; null for a count means all there are."""

    name: Name
    train_images: Count | None = None
    test_images: Count | None = None
    augment: Annotated[tuple[Augmentation, ...], BeforeValidator(_listed)] = ()
    crop_padding: Annotated[int, Field(ge=0)] = 4

    @field_validator("augment")
    @classmethod
    def _each_once(cls, value: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"each augmentation once, got {', '.join(value)}")
        return value


class Weights(_Section):
    """How the weights train: ``opt`` is one of timm's; each of ``decay_epochs`` multiplies lr by ``decay_rate``."""

    opt: Name = "momentum"  # plain momentum as in the paper; timm's "sgd" is Nesterov's
    lr: Positive = 0.1
    momentum: Beta = 0.9
    weight_decay: NotNegative = 1e-4
    sched: Literal["none", "cosine", "multistep"] = "none"
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    decay_epochs: Epochs = ()
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    clip_grad: Positive | None = None

    @field_validator("opt")
    @classmethod
    def _known_to_timm(cls, value: str) -> str:
        from timm.optim import list_optimizers  # here: timm takes seconds to import, most of this module's users none

        known = list_optimizers()
        if value not in known:
            raise ValueError(f"timm has no optimiser {value!r}{nearest(value, known)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Weights:
        problems = []
        if self.sched == "multistep" and not self.decay_epochs:
            problems.append(("decay_epochs", "sched: multistep needs at least one epoch here"))
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            problems.append(("decay_epochs", f"epochs must rise, got {list(self.decay_epochs)}"))
        return _checked(self, problems)


class Architecture(_Section):
    """Adam on the architecture parameters α and the constants γ."""

    lr: Positive = 6e-4
    betas: Annotated[tuple[Beta, Beta], BeforeValidator(_listed)] = (0.5, 0.999)
    weight_decay: NotNegative = 1e-3


class Grid(_Section):
    """The knots a relaxed cell is tabulated on: ``intervals`` equal steps from ``low`` to ``high``."""

    low: float = -16.0
    high: float = 16.0
    intervals: Annotated[int, Field(ge=1, le=8192)] = 4096

    @model_validator(mode="after")
    def _knot_at_zero(self) -> Grid:
        if not self.low < 0 < self.high:
            return _checked(self, [("low", f"0 must lie between low ({self.low:g}) and high ({self.high:g})")])
        before_zero = -self.low / (self.high - self.low) * self.intervals
        if abs(before_zero - round(before_zero)) > 1e-9 * self.intervals or round(before_zero) in (0, self.intervals):
            # most candidates have their kink at 0; between two knots it would be rounded off
            what = f"no knot at 0: {before_zero:g} of {self.intervals} steps lie below 0"
            return _checked(self, [("intervals", f"{what}; low and high must be whole multiples of a step")])
        return self


class Search(_Section):
    """A search: ``warm_start`` epochs train the weights with ``usual``; drops begin in epoch ``shrink_start``.

    ``batch_size`` is that of a step, over all processes; each takes its part in ``accumulate`` micro-batches, for less memory.
    """

    epochs: Count = 50
    batch_size: Count = 128
    accumulate: Count = 1
    architecture_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    warm_start: Annotated[int, Field(ge=0)] = 1
    shrink_start: Count = 2
    usual: Name | None = "relu"
    wide: bool = False
    weights: Weights = Weights()
    architecture: Architecture = Architecture()
    grid: Grid = Grid()

    @model_validator(mode="after")
    def _fits_its_length(self) -> Search:
        problems = []
        if self.warm_start >= self.epochs:
            problems.append(("warm_start", f"must be below epochs ({self.epochs}), got {self.warm_start}"))
        if self.shrink_start > self.epochs - 2:
            what = f"must be at most epochs − 2 ({self.epochs - 2}), so that the drops have epochs to fall on"
            problems.append(("shrink_start", f"{what}, got {self.shrink_start}"))
        if self.batch_size % self.accumulate:
            fits = next(n for n in range(min(self.accumulate, self.batch_size), 0, -1) if self.batch_size % n == 0)
            what = f"must divide batch_size ({self.batch_size}) into equal parts"
            problems.append(("accumulate", f"{what}, got {self.accumulate}; the next smaller that does is {fits}"))
        return _checked(self, problems + _warmup(self.weights, self.epochs))


class Evaluate(_Section):
    """A training with one activation, from scratch or fine-tuning.

    ``start_from``: a folder of weights (grafs_timm.save_pretrained, or another evaluation's ``weights``) or ``pretrained``,
    timm's own for the model; whichever activation those were trained with. A head of other classes is begun anew.
    """

    epochs: Count = 200
    batch_size: Count = 128
    start_from: Name | None = None
    weights: Weights = Weights(sched="multistep", decay_epochs=(100, 150))

    @model_validator(mode="after")
    def _fits_its_length(self) -> Evaluate:
        return _checked(self, _warmup(self.weights, self.epochs))


class Recipe(_Section):
    """All settings, resolved. ``data: digits`` is short for ``data: {name: digits}``.

    ``compile``: what ``torch.compile`` is used for: the making of the search's tables where that pays (auto), nothing (off), or
    the tables and the model, in the search and in the training from scratch (model).
    """

    model: Name
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    data: Data
    search: Search = Search()
    evaluate: Evaluate = Evaluate()
    amp: Annotated[Literal["off", "bf16", "fp16"], BeforeValidator(_switched_off)] = "off"
    channels_last: bool = False
    compile: Annotated[Literal["auto", "off", "model"], BeforeValidator(_switched_off)] = "auto"

    @field_validator("data", mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("model_kwargs")
    @classmethod
    def _plain_values(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not _plain(value):
            raise ValueError("takes text, finite numbers, true, false, null, lists and mappings of them")
        return value

    def to_yaml(self) -> str:
        """Every setting, defaults written out; reading it back gives an equal recipe."""
        return strict_yaml.dump(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        """Of the resolved settings: comments, the order of keys and defaults left out don't change it."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or of that name in recipes/, with ``key=value`` overrides such as ``search.epochs=3``.

    A value is read as YAML; a section (``data=digits``) is replaced as a whole. RecipeError where the recipe doesn't
    exist, is no recipe, or an override names no key of it.
    """
    path = _find(name_or_path)
    settings = strict_yaml.read(path)
    overridden = {_override(settings, text) for text in overrides}
    return parse_recipe(settings, str(path), overridden)


def parse_recipe(settings: Any, source: str = "recipe", overridden: set[str] | frozenset[str] = frozenset()) -> Recipe:
    """A parsed mapping as a Recipe. RecipeError lists every problem, one a line, each beginning with ``source``."""
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            for key, what in _explain(problem):
                note = " (set by --set)" if any(f"{key}.".startswith(f"{name}.") for name in overridden) else ""
                lines.append(f"{source}: {key}: {what}{note}" if key else f"{source}: {what}{note}")
        raise RecipeError("\n".join(lines)) from None
    except RecursionError:
        raise RecipeError(f"{source}: nested too deeply") from None


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
    raise RecipeError(f"no recipe {str(path)!r}: neither a file nor a name in recipes/{nearest(path.stem, names)}")


def _section_at(keys: Sequence[Any]) -> type[BaseModel] | None:
    """The schema of the section at this path; None inside model_kwargs, a list or a plain value."""
    section: type[BaseModel] = Recipe
    for key in keys:
        field = section.model_fields.get(key) if isinstance(key, str) else None
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        section = kind
    return section


def _override(settings: dict[Any, Any], text: str) -> str:
    """Put one ``key=value`` into ``settings``; returns the key."""
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {text}: expected key=value, for example search.epochs=3")
    at: Any = settings
    for depth, key in enumerate(keys):
        section = _section_at(keys[:depth])
        if section is not None and key not in section.model_fields:
            unknown = ".".join(keys[: depth + 1])
            raise RecipeError(f"--set {text}: {unknown}: unknown key{nearest(key, section.model_fields)}")
        if section is None and keys[0] != "model_kwargs":
            raise RecipeError(f"--set {text}: {'.'.join(keys[:depth])} is one value and has no key {key!r}")
        if depth == len(keys) - 1:
            at[key] = strict_yaml.parse(value, f"--set {text}")
            return ".".join(keys)
        inner = at.get(key)
        if keys[: depth + 1] == ["data"] and isinstance(inner, str):
            inner = {"name": inner}
        # what is not a mapping here is wrong in the file already, and gives way to the override
        at[key] = inner if isinstance(inner, dict) else {}
        at = at[key]
    raise AssertionError("unreachable: a split has at least one part")


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


def _explain(problem: Any) -> list[tuple[str, str]]:
    """One of pydantic's errors as (path of the key, what is wrong), several where it gathers several."""
    kind, place, got = problem["type"], problem["loc"], problem["input"]
    context = problem.get("ctx", {})
    path = ".".join(str(key) for key in place)
    if kind == "value_error":
        error = context["error"]
        if isinstance(error, _Impossible):
            return [(f"{path}.{key}" if path else key, what) for key, what in error.problems]
        return [(path, str(error))]
    if kind == "extra_forbidden":
        section = _section_at(place[:-1])
        return [(path, f"unknown key{nearest(place[-1], section.model_fields if section else ())}")]
    if kind == "invalid_key":
        return [(path, f"keys are text, got {describe(place[-1])}")]
    if kind == "missing":
        return [(path, "missing")]
    if kind == "literal_error":
        allowed = [str(value) for value in _choices(place)]
        expected = f"one of {', '.join(allowed)}" if allowed else context["expected"]
    elif kind in _BOUNDS:
        bound, sign = _BOUNDS[kind]
        expected = f"a number {sign} {context[bound]:g}"
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
    else:
        return [(path, f"{problem['msg']}, got {describe(got)}")]
    return [(path, f"expected {expected}, got {describe(got)}")]


def _choices(place: Sequence[Any]) -> tuple[Any, ...]:
    """The values that the Literal at this path takes."""
    keys = [key for key in place if isinstance(key, str)]
    section = _section_at(keys[:-1])
    field = section.model_fields.get(keys[-1]) if section and keys else None
    if field is None:
        return ()
    kinds = (field.annotation, *get_args(field.annotation))
    return next((get_args(kind) for kind in kinds if all(isinstance(value, str) for value in get_args(kind) or (0,))), ())
